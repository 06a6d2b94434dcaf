//! How does a run go: model, tools, model, until there is an answer?
//!
//! What is new since the last boundary is one [`Delta`]. [`Talk::commit`] makes it durable and only then applies it to
//! the conversation, as recovery does.

use super::{
    agent::Parts,
    config::OnAmbiguous,
    conversation::{Conversation, heard},
    dialect::{Answer, NO_RESULT, Piece, Question, Stop},
    failure::{Class, ModelError},
    message::{Asked, Compacted, Delta, Message, Role, Settings, Spent, ToolCall, Usage, Verbatim, Waiting},
    questions::{self, Decision, decided},
};
use crate::{
    ledger::Intent,
    tools::{Effect, Reply, ToolContext, toolbox::Prepared},
    transcript::{notices, said},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::{BoxFuture, try_join_all};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use windlass_core::{
    Accepted, BlobId, BoundaryOutput, CompletionSeq, ContentBlock, InputBody, JsonText, MediaSource, PendingTool,
    RunResult, Terminal,
};
use windlass_runtime::{CoreApplyOutput, CoreExecutorError, Turn, blob::BlobError, comms::causes_of};

/// Calls of read-only tools that are made side by side.
const SIDE_BY_SIDE: usize = 8;
/// How often a wait says that it is alive, well within the runtime's stall time.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// The most of one message, in bytes, that a summary is made from.
const SUMMARISED: usize = 4_000;
/// Messages that stay where the configuration does not say.
const KEPT: usize = 8;
const SUMMARISE: &str = "You summarise a conversation between a user and an agent with tools, so that the agent can go on \
    without it. Keep what was asked, decided, found out and left to do, with names, numbers and paths. Answer with the \
    summary alone.";

type Ended = Result<CoreApplyOutput, CoreExecutorError>;

/// One attempt at a run.
pub(super) struct Talk<'a> {
    parts: &'a Parts,
    turn: &'a Turn,
    conversation: Conversation,
    /// Not committed yet.
    fresh: Delta,
    /// News of background work up to here are in the conversation, because of this run.
    told: CompletionSeq,
    /// Calls that a person has approved, or told to make again.
    approved: HashSet<String>,
    pictures: HashMap<BlobId, String>,
}

impl<'a> Talk<'a> {
    pub(super) fn new(parts: &'a Parts, turn: &'a Turn, conversation: Conversation) -> Talk<'a> {
        // An attempt that was lost may have committed them, and not said so.
        let told = if turn.resumes_after().is_some() { conversation.told } else { CompletionSeq::default() };
        let (fresh, approved, pictures) = (Delta::default(), HashSet::new(), HashMap::new());
        Talk { parts, turn, conversation, fresh, told, approved, pictures }
    }

    /// Comes to an end, and returns what is known by then.
    pub(super) async fn run(mut self) -> Result<(CoreApplyOutput, Conversation), CoreExecutorError> {
        let output = self.steps().await?;
        // What was told stands in the conversation, and every later question holds it. If this attempt does not get to
        // its end, its inputs tell it again.
        if self.told > CompletionSeq::default() {
            self.turn.applied(self.told).await?;
        }
        Ok((output, self.conversation))
    }

    async fn steps(&mut self) -> Ended {
        let resumes = self.turn.resumes_after().is_some();
        if !resumes {
            self.begin();
        }
        self.hear(self.turn.context());
        if let Some(ended) = self.hear_inputs() {
            return Ok(ended);
        }
        if self.turn.inputs().is_empty() && !resumes && !self.fresh.messages.is_empty() {
            // Only context: there is nothing to answer.
            return Ok(self.end(Terminal::NoResult));
        }
        loop {
            if let Some(parked) = self.call_tools().await? {
                return Ok(parked);
            }
            if self.fresh.messages.is_empty() && self.is_answered() {
                let last = self.conversation.last_answer().filter(|_| resumes).map(|last| last.content.clone());
                return Ok(
                    self.end(last.map_or(Terminal::NoResult, |text| Terminal::Result(Arc::new(RunResult::text(text)))))
                );
            }
            let steering = self.turn.checkpoint().await?;
            self.hear(&steering);
            if let Some(tool) = questions::budget(&self.parts.config.budget, &self.spent()) {
                return Ok(self.park(Waiting::Budget, tool));
            }
            if let Some(compaction) = self.parts.config.compaction
                && self.tokens() >= compaction.at_tokens
            {
                self.compact().await?;
            }
            let answer = self.ask().await?;
            if let Some(ended) = self.take(answer).await? {
                return Ok(ended);
            }
        }
    }

    /// A new run: what the one before left open is closed.
    fn begin(&mut self) {
        let metadata = self.turn.primitive().turn_metadata;
        let settings = Settings { model: metadata.model, instructions: metadata.additional_instructions };
        if settings != self.conversation.settings {
            self.fresh.settings = Some(settings);
        }
        if self.conversation.waiting.is_some() {
            return;
        }
        for call in self.conversation.open_calls() {
            let words = match self.conversation.ledger.ambiguous(&call.id) {
                Some(_) => "ambiguous: the run ended within this call; it may or may not have taken effect",
                None => NO_RESULT,
            };
            self.fresh.messages.push(Message::tool(call.id, words, true));
        }
    }

    /// Takes in what came with the run. If a person was asked and none has answered, they are asked still.
    fn hear_inputs(&mut self) -> Option<CoreApplyOutput> {
        let inputs = self.turn.inputs();
        let Some(asked) = self.conversation.waiting.clone() else {
            self.hear(inputs);
            return None;
        };
        let answer = inputs.iter().position(|accepted| matches!(accepted.input.body, InputBody::Prompt(_)));
        let Some(at) = answer else {
            self.hear(inputs);
            return Some(self.end(Terminal::CallbackPending(Arc::new(asked.tool))));
        };
        // The answer first: the model reads it as the result of what it did last.
        let ended = self.decide(&asked, &inputs[at]);
        self.hear(&inputs[..at]);
        self.hear(&inputs[at + 1..]);
        ended
    }

    /// What a person's answer decides. It is committed with the next boundary, and counts as given only then.
    fn decide(&mut self, asked: &Asked, answer: &Accepted) -> Option<CoreApplyOutput> {
        let words = said(&answer.input);
        self.fresh.resolved = true;
        self.fresh.spoken = true;
        match &asked.about {
            Waiting::Answer { call } => self.fresh.messages.push(Message::tool(call, words, false)),
            Waiting::Approval { call } => match decided(&words) {
                Decision::Yes => drop(self.approved.insert(call.clone())),
                Decision::No => {
                    self.fresh.messages.push(Message::tool(call, "denied: the person does not allow this call", true));
                }
                Decision::Words => {
                    let words = format!("denied: instead of allowing this call, the person says: {words}");
                    self.fresh.messages.push(Message::tool(call, words, true));
                }
            },
            Waiting::Ambiguous { call } => match decided(&words) {
                Decision::Yes => drop(self.approved.insert(call.clone())),
                _ => {
                    let words =
                        format!("ambiguous: it may or may not have taken effect; asked, the person says: {words}");
                    self.fresh.messages.push(Message::tool(call, words, true));
                }
            },
            Waiting::Budget => match decided(&words) {
                Decision::Yes => {}
                Decision::No => {
                    let result = RunResult::text("I have stopped, as told.");
                    return Some(self.end(Terminal::Result(Arc::new(result))));
                }
                Decision::Words => self.fresh.messages.extend(heard(answer)),
            },
        }
        None
    }

    fn hear(&mut self, inputs: &[Arc<Accepted>]) {
        for accepted in inputs {
            self.fresh.spoken |= matches!(accepted.input.body, InputBody::Prompt(_));
            self.fresh.causes.extend(causes_of([accepted]));
            if let Some(last) = notices(&accepted.input).last() {
                self.fresh.told = self.fresh.told.max(last.seq);
                self.told = self.told.max(last.seq);
            }
            self.fresh.messages.extend(heard(accepted));
        }
    }

    /// Whether the model has had the last word, and nothing is left to do.
    fn is_answered(&self) -> bool {
        let paused = |last: &Message| last.stop.as_deref() == Some(Stop::Paused.word());
        self.conversation.messages.is_empty() || self.conversation.last_answer().is_some_and(|last| !paused(last))
    }

    fn open_calls(&self) -> Vec<ToolCall> {
        let closed: HashSet<&str> = self.fresh.messages.iter().filter_map(|message| message.call.as_deref()).collect();
        let mut open = self.conversation.open_calls();
        open.retain(|call| !closed.contains(call.id.as_str()));
        open
    }

    /// Makes the calls of the last answer that have no result, in order; read-only ones that follow each other side by
    /// side. Each result is durable before the next call.
    async fn call_tools(&mut self) -> Result<Option<CoreApplyOutput>, CoreExecutorError> {
        loop {
            let mut group: Vec<(Prepared, String)> = Vec::new();
            for call in self.open_calls() {
                let prepared = match self.parts.toolbox.prepare(&call) {
                    Ok(prepared) => prepared,
                    Err(_) if !group.is_empty() => break,
                    Err(words) => {
                        self.fresh.messages.push(Message::tool(call.id, words, true));
                        continue;
                    }
                };
                let alone = prepared.tool.effect() != Effect::ReadOnly || prepared.approve;
                if !group.is_empty() && (alone || group.len() >= SIDE_BY_SIDE) {
                    break;
                }
                match self.may_call(&prepared) {
                    Ok(Some(key)) => group.push((prepared, key)),
                    Ok(None) => continue,
                    Err(parked) => return Ok(Some(*parked)),
                }
                if alone {
                    break;
                }
            }
            if group.is_empty() {
                return Ok(None);
            }
            if let [(prepared, key)] = &group[..]
                && prepared.tool.effect() == Effect::Once
                && self.conversation.ledger.ambiguous(&prepared.call.id).is_none()
            {
                self.fresh.intended.push(Intent { call: prepared.call.id.clone(), key: key.clone() });
                self.commit().await?;
            }
            if let Some(parked) = self.call_group(&group).await? {
                return Ok(Some(parked));
            }
            self.commit().await?;
        }
    }

    /// The effect key of a call that may be made now. None: it has a result that says why not. An error: a person is
    /// asked first.
    fn may_call(&mut self, prepared: &Prepared) -> Result<Option<String>, Box<CoreApplyOutput>> {
        let call = &prepared.call;
        let approved = self.approved.contains(&call.id);
        if let Some(key) = self.conversation.ledger.ambiguous(&call.id).map(str::to_owned) {
            match self.parts.config.tools.on_ambiguous {
                _ if approved => {}
                OnAmbiguous::Retry => {}
                OnAmbiguous::Ask => {
                    let tool = questions::ambiguous(call, &key);
                    return Err(Box::new(self.park(Waiting::Ambiguous { call: call.id.clone() }, tool)));
                }
                OnAmbiguous::GiveUp => {
                    let words = "ambiguous: I was interrupted within this call; it may or may not have taken effect";
                    self.fresh.messages.push(Message::tool(&call.id, words, true));
                    return Ok(None);
                }
            }
            return Ok(Some(key));
        }
        if prepared.approve && !approved {
            let tool = questions::approval(call);
            return Err(Box::new(self.park(Waiting::Approval { call: call.id.clone() }, tool)));
        }
        Ok(Some(self.turn.effect_key().to_string()))
    }

    async fn call_group(&mut self, group: &[(Prepared, String)]) -> Result<Option<CoreApplyOutput>, CoreExecutorError> {
        let began = Instant::now();
        let (turn, toolbox) = (self.turn, &self.parts.toolbox);
        let causes = &[self.conversation.causes(turn.run()), &self.fresh.causes].concat();
        let mut calls: Vec<BoxFuture<'_, Result<Reply, CoreExecutorError>>> = Vec::with_capacity(group.len());
        for (prepared, effect_key) in group {
            calls
                .push(Box::pin(async move { toolbox.call(prepared, &ToolContext { turn, effect_key, causes }).await }));
        }
        let replies = self.alive(try_join_all(calls)).await?;
        self.fresh.spent.add(Spent { millis: millis(began), ..Spent::default() });
        for ((prepared, _), reply) in group.iter().zip(replies) {
            let call = prepared.call.id.clone();
            match reply {
                Reply::Done { content, is_error } => {
                    self.show(&Live::ToolResult { id: &call, is_error });
                    self.fresh.messages.push(Message::tool(call, content, is_error));
                }
                Reply::Ask(tool) => return Ok(Some(self.park(Waiting::Answer { call }, tool))),
            }
        }
        Ok(None)
    }

    /// Asks the model. If the conversation is too long for it, a summary makes room, once.
    async fn ask(&mut self) -> Result<Answer, CoreExecutorError> {
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
        self.alive(model.ask(&question, &mut live)).await
    }

    /// Takes in an answer. Some: the run is over.
    async fn take(&mut self, answer: Answer) -> Result<Option<CoreApplyOutput>, CoreExecutorError> {
        let Answer { text, calls, verbatim, stop, .. } = answer;
        let is_last = calls.is_empty() && stop != Stop::Paused;
        // Ids are unique within an answer only: what was approved of the last one says nothing of this one.
        self.approved.clear();
        let is_filtered = is_last && stop == Stop::Filtered && text.is_empty();
        self.fresh.messages.push(Message {
            calls,
            verbatim: Some(Verbatim { dialect: self.parts.model.dialect.name(), value: verbatim }),
            stop: (stop != Stop::Done).then(|| stop.word().to_owned()),
            ..Message::assistant(text.clone())
        });
        if !is_last {
            self.commit().await?;
            return Ok(None);
        }
        if is_filtered {
            self.commit().await?;
            return Err(CoreExecutorError::fatal("answer_filtered: the provider lets the model say nothing to this"));
        }
        let structured = match self.parts.shape.as_ref().map(|shape| shape.read(&text)).transpose() {
            Ok(structured) => structured,
            Err(problem) => {
                let repairs = self.conversation.repairs;
                if repairs >= self.parts.config.schema_repairs {
                    self.commit().await?;
                    let words = format!("structured_output_invalid: after {repairs} repairs, still: {problem}");
                    return Err(CoreExecutorError::fatal(words));
                }
                let words = format!("Your answer does not obey the schema: {problem}. Answer again, with JSON alone.");
                self.fresh.messages.push(Message::user(words));
                self.fresh.repairs = repairs + 1;
                self.commit().await?;
                return Ok(None);
            }
        };
        let steering = self.turn.checkpoint().await?;
        if !steering.is_empty() {
            self.commit_with(&steering).await?;
            return Ok(None);
        }
        let empty = text.is_empty() && structured.is_none();
        let result = RunResult { text, structured };
        Ok(Some(self.end(if empty { Terminal::NoResult } else { Terminal::Result(Arc::new(result)) })))
    }

    /// Commits what is new together with steering: the boundary covers both.
    async fn commit_with(&mut self, steering: &[Arc<Accepted>]) -> Result<(), CoreExecutorError> {
        self.hear(steering);
        self.commit().await
    }

    /// Replaces all but the last messages by a summary. False if there is nothing to replace.
    async fn compact(&mut self) -> Result<bool, CoreExecutorError> {
        let keep = self.parts.config.compaction.map_or(KEPT, |compaction| compaction.keep_messages);
        let messages = &self.conversation.messages;
        let mut cut = messages.len().saturating_sub(keep);
        // A result stays with its call.
        while cut > 0 && messages.get(cut).is_some_and(|message| message.role == Role::Tool) {
            cut -= 1;
        }
        if cut < 2 {
            return Ok(false);
        }
        let began = Instant::now();
        let text = transcript(&messages[..cut]);
        let Parts { config, model, .. } = self.parts;
        let question = Question {
            model: &config.model,
            system: Some(SUMMARISE),
            messages: vec![Arc::new(Message::user(text))],
            tools: &[],
            max_tokens: config.max_tokens,
            temperature: config.temperature,
            schema: None,
            params: &config.params,
            pictures: &HashMap::new(),
        };
        let answer = self.alive(model.ask(&question, &mut |_| ())).await.map_err(|error| failed(&error))?;
        let usage = answer.usage.unwrap_or_default();
        self.fresh.spent.add(self.cost(usage, began));
        self.fresh.compacted = Some(Compacted { messages: cut, summary: answer.text });
        self.commit().await?;
        Ok(true)
    }

    async fn commit(&mut self) -> Result<(), CoreExecutorError> {
        let delta = std::mem::take(&mut self.fresh);
        let receipt = self.turn.commit(self.boundary(&delta)).await?;
        self.conversation.commit(delta, &receipt);
        Ok(())
    }

    fn boundary(&self, delta: &Delta) -> BoundaryOutput {
        let message_count = self.conversation.count + delta.messages.len() as u64;
        BoundaryOutput { message_count, conversation_digest: None, delta: Some(delta.encode()) }
    }

    /// Ends the run: what is new is its final boundary.
    fn end(&self, terminal: Terminal) -> CoreApplyOutput {
        CoreApplyOutput { boundary: self.boundary(&self.fresh), terminal }
    }

    /// Ends the run with a question.
    fn park(&mut self, about: Waiting, tool: PendingTool) -> CoreApplyOutput {
        self.fresh.waiting = Some(Asked { about, tool: tool.clone() });
        self.end(Terminal::CallbackPending(Arc::new(tool)))
    }

    fn spent(&self) -> Spent {
        let mut spent = if self.fresh.spoken { Spent::default() } else { self.conversation.spent };
        spent.add(self.fresh.spent);
        spent
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
    fn tokens(&self) -> u64 {
        let length = |message: &Message| {
            message.content.len() + message.calls.iter().map(|call| call.arguments.len()).sum::<usize>()
        };
        let fresh: usize = self.fresh.messages.iter().map(length).sum();
        let messages = &self.conversation.messages;
        match self.conversation.usage {
            Some(usage) => {
                let since = messages.iter().rev().take_while(|message| message.role != Role::Assistant);
                usage.input + usage.output + estimate(fresh + since.map(|message| length(message)).sum::<usize>())
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

    /// Waits, and says meanwhile that it is alive. What is waited for has a time limit of its own.
    async fn alive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(SIGN_OF_LIFE) => self.show(&Live::Waiting),
            }
        }
    }

    fn show(&self, live: &Live<'_>) {
        show(self.turn, live);
    }
}

/// What those who watch are shown. Nothing of it is recorded.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Live<'a> {
    Text {
        text: &'a str,
    },
    Thinking {
        text: &'a str,
    },
    ToolCall {
        id: &'a str,
        name: &'a str,
    },
    ToolResult {
        id: &'a str,
        is_error: bool,
    },
    /// What was shown of this answer is void.
    Restart,
    Waiting,
}

impl<'a> Live<'a> {
    fn of(piece: Piece<'a>) -> Live<'a> {
        match piece {
            Piece::Text(text) => Live::Text { text },
            Piece::Thinking(text) => Live::Thinking { text },
            Piece::Call { id, name } => Live::ToolCall { id, name },
            Piece::Again => Live::Restart,
        }
    }
}

fn show(turn: &Turn, live: &Live<'_>) {
    turn.progress(JsonText::encode(live).expect("words are always JSON"));
}

fn failed(error: &ModelError) -> CoreExecutorError {
    match error.class {
        Class::Retryable(retry_after) => CoreExecutorError::Retryable { error: error.to_string(), retry_after },
        Class::Final | Class::Overflow => CoreExecutorError::fatal(error.to_string()),
    }
}

fn millis(began: Instant) -> u64 {
    began.elapsed().as_millis() as u64
}

/// Tokens in a text of so many bytes, where nobody has counted.
fn estimate(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
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
        let _ = writeln!(text, "{role}: {}", crate::tools::shown(message.content.as_bytes(), SUMMARISED));
        for call in &message.calls {
            let arguments = crate::tools::shown(call.arguments.as_bytes(), SUMMARISED);
            let _ = writeln!(text, "Agent calls {}: {arguments}", call.name);
        }
    }
    text
}
