//! How is the model asked, and what is done where the conversation is too long for it?

use super::{Live, Talk, millis, show};
use crate::{
    alive::alive,
    llm::{
        agent::Parts,
        dialect::{Answer, Piece, Question},
        failure::{Class, ModelError},
        message::{Compacted, Message, Role, Spent, Usage},
    },
    tools::shown,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    sync::Arc,
};
use tokio::time::Instant;
use windlass_core::{BlobId, ContentBlock, MediaSource};
use windlass_runtime::{CoreExecutorError, blob::BlobError};

/// The most of one message, in bytes, that a summary is made from.
const SUMMARISED: usize = 4_000;
/// Of less than this, in bytes, nothing is cut out: a model that does not take it takes nothing.
const SUMMARISED_AT_LEAST: usize = 1_000;
/// Bytes of a token, where nobody has counted.
const TOKEN: usize = 4;
/// Messages that stay where the configuration does not say.
const KEPT: usize = 8;
const SUMMARISE: &str = "You summarise a conversation between a user and an agent with tools, so that the agent can go on \
    without it. Keep what was asked, decided, found out and left to do, with names, numbers and paths. Answer with the \
    summary alone.";

impl Talk<'_> {
    /// Asks the model. If the conversation is too long for it, a summary makes room, once.
    pub(super) async fn ask(&mut self) -> Result<Answer, CoreExecutorError> {
        let began = Instant::now();
        let asked = match self.ask_all().await {
            Err(error) if error.class == Class::Overflow && self.compact().await? => self.ask_all().await,
            asked => asked,
        };
        let answer = asked.map_err(|error| failed(&error))?;
        let usage = answer.usage.unwrap_or_else(|| Usage {
            input: self.tokens(),
            output: estimate(answer.text.len() + answer.calls.iter().map(|call| call.arguments.len()).sum::<usize>()),
            estimated: true,
        });
        self.fresh.usage = Some(usage);
        self.fresh.spent.add(self.cost(usage, began));
        Ok(answer)
    }

    async fn ask_all(&mut self) -> Result<Answer, ModelError> {
        self.load_pictures().await?;
        let Parts { config, model, toolbox, .. } = self.parts;
        let settings = self.fresh.settings.as_ref().unwrap_or(&self.conversation.settings);
        let system: Vec<&str> =
            config.system.iter().chain(&settings.instructions).map(String::as_str).filter(|s| !s.is_empty()).collect();
        let system = system.join("\n\n");
        let fresh = self.fresh.messages.iter().map(|message| Arc::new(message.clone()));
        let question = Question {
            model: settings.model.as_deref().unwrap_or(&config.model),
            system: (!system.is_empty()).then_some(&system),
            messages: self.conversation.messages.iter().cloned().chain(fresh).collect(),
            tools: &toolbox.specs,
            max_tokens: config.max_tokens,
            temperature: config.temperature,
            schema: config.schema.as_ref(),
            params: &config.params,
            pictures: &self.pictures,
        };
        let turn = self.turn;
        let mut live = |piece: Piece<'_>| show(turn, &Live::of(piece));
        alive(self.turn, model.ask(&question, turn.trace(), &mut live)).await
    }

    /// Replaces all but the last messages by a summary. False if there is nothing to replace, or no summary.
    pub(super) async fn compact(&mut self) -> Result<bool, CoreExecutorError> {
        let most = self.parts.config.compaction.map_or(KEPT, |compaction| compaction.keep_messages);
        let messages = &self.conversation.messages;
        let mut cut = messages.len().saturating_sub(most);
        // A call stays with its result, also with one that is not committed yet or comes after news.
        let stays = messages[cut..].iter().map(|message| &**message).chain(&self.fresh.messages);
        if stays.take_while(|said| said.role != Role::Assistant).any(|said| said.role == Role::Tool)
            && let Some(answer) = messages[..cut].iter().rposition(|message| message.role == Role::Assistant)
        {
            cut = answer;
        }
        if cut < 2 {
            return Ok(false);
        }
        let kept = messages.len() - cut;
        let began = Instant::now();
        let answer = self.summarise(&transcript(&messages[..cut])).await.map_err(|error| failed(&error))?;
        let usage = answer.usage.unwrap_or_default();
        self.fresh.spent.add(self.cost(usage, began));
        // Nothing gives way to nothing.
        if answer.text.trim().is_empty() {
            return Ok(false);
        }
        self.fresh.compacted = Some(Compacted { kept, summary: answer.text });
        self.commit().await?;
        Ok(true)
    }

    /// A summary of a text, of which the middle is cut out where it is more than a conversation may be, or than the
    /// model takes.
    async fn summarise(&self, text: &str) -> Result<Answer, ModelError> {
        let Parts { config, model, .. } = self.parts;
        let most = config.compaction.map_or(usize::MAX, |compaction| bytes(compaction.at_tokens));
        let mut limit = text.len().min(most);
        loop {
            let question = Question {
                model: &config.model,
                system: Some(SUMMARISE),
                messages: vec![Arc::new(Message::user(shown(text.as_bytes(), limit)))],
                tools: &[],
                max_tokens: config.max_tokens,
                temperature: config.temperature,
                schema: None,
                params: &config.params,
                pictures: &HashMap::new(),
            };
            match alive(self.turn, model.ask(&question, self.turn.trace(), &mut |_| ())).await {
                Err(error) if error.class == Class::Overflow && limit > SUMMARISED_AT_LEAST => limit /= 2,
                answer => return answer,
            }
        }
    }

    fn cost(&self, usage: Usage, began: Instant) -> Spent {
        // Dollars for a million tokens are thousands of nanodollars for one.
        let price = |usd: f64, tokens: u64| (usd * 1_000.0 * tokens as f64) as u64;
        let nanodollars = self.parts.config.price.map_or(0, |per_million| {
            price(per_million.input, usage.input).saturating_add(price(per_million.output, usage.output))
        });
        let tokens = usage.input.saturating_add(usage.output);
        Spent { steps: 1, tokens, nanodollars, millis: millis(began) }
    }

    /// The length of the conversation: what the provider counted last, and an estimate of what came since.
    pub(super) fn tokens(&self) -> u64 {
        let length = |message: &Message| {
            message.content.len() + message.calls.iter().map(|call| call.arguments.len()).sum::<usize>()
        };
        let fresh: usize = self.fresh.messages.iter().map(length).sum();
        let messages = &self.conversation.messages;
        match self.conversation.usage {
            Some(usage) => {
                let since = messages.iter().rev().take_while(|message| message.role != Role::Assistant);
                let uncounted = estimate(fresh + since.map(|message| length(message)).sum::<usize>());
                // A provider may count what it likes.
                usage.input.saturating_add(usage.output).saturating_add(uncounted)
            }
            None => estimate(fresh + messages.iter().map(|message| length(message)).sum::<usize>()),
        }
    }

    /// Reads the pictures that messages refer to.
    async fn load_pictures(&mut self) -> Result<(), ModelError> {
        let Some(blobs) = &self.parts.blobs else { return Ok(()) };
        let messages = self.conversation.messages.iter().map(|message| &**message).chain(&self.fresh.messages);
        let named = messages.flat_map(|message| &message.blocks).filter_map(|block| match block {
            ContentBlock::Image { source: MediaSource::Blob { blob, .. }, .. } => Some(blob),
            _ => None,
        });
        let wanted: HashSet<BlobId> = named.filter(|blob| !self.pictures.contains_key(blob)).cloned().collect();
        for blob in wanted {
            match blobs.get(&blob).await {
                Ok(bytes) => drop(self.pictures.insert(blob, STANDARD.encode(&bytes))),
                // The model is told that it is not there.
                Err(BlobError::Missing(_) | BlobError::Corrupt(_)) => {}
                Err(error @ BlobError::Unavailable(_)) => {
                    return Err(ModelError::retryable("blob_store_unavailable", error.to_string()));
                }
            }
        }
        Ok(())
    }
}

fn failed(error: &ModelError) -> CoreExecutorError {
    match error.class {
        Class::Retryable(retry_after) => CoreExecutorError::Retryable { error: error.to_string(), retry_after },
        Class::Final | Class::Overflow => CoreExecutorError::fatal(error.to_string()),
    }
}

/// Tokens in a text of so many bytes.
fn estimate(bytes: usize) -> u64 {
    bytes.div_ceil(TOKEN) as u64
}

/// Bytes of a text of so many tokens.
fn bytes(tokens: u64) -> usize {
    usize::try_from(tokens).unwrap_or(usize::MAX).saturating_mul(TOKEN)
}

/// Messages as one text, long ones cut.
fn transcript(messages: &[Arc<Message>]) -> String {
    let mut text = String::new();
    for message in messages {
        let role = match message.role {
            Role::User => "User",
            Role::Assistant => "Agent",
            Role::Tool => "Tool",
            Role::System => "News",
        };
        let _ = writeln!(text, "{role}: {}", shown(message.content.as_bytes(), SUMMARISED));
        for call in &message.calls {
            let arguments = shown(call.arguments.as_bytes(), SUMMARISED);
            let _ = writeln!(text, "Agent calls {}: {arguments}", call.name);
        }
    }
    text
}
