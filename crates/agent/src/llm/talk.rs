//! How does a run go: model, tools, model, until there is an answer?
//!
//! What is new since the last boundary is one [`Delta`]. [`Talk::commit`] makes it durable and only then applies it to
//! the conversation, as recovery does.

mod asking;
mod calls;

use super::{
    agent::Parts,
    conversation::{Conversation, heard},
    dialect::{Answer, NO_RESULT, Piece, Stop},
    message::{Asked, Delta, Message, Settings, Spent, ToolCall, Verbatim, Waiting},
    questions::{self, Decision, decided},
};
use crate::transcript::{notices, said};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::time::Instant;
use windlass_core::{
    Accepted, BlobId, BoundaryOutput, CompletionSeq, InputBody, JsonText, PendingTool, RunResult, Terminal,
};
use windlass_runtime::{CoreApplyOutput, CoreExecutorError, Turn, comms::causes_of};

type Ended = Result<CoreApplyOutput, CoreExecutorError>;

/// Why an answer cannot be the last one.
enum Unfit {
    /// The provider lets the model say nothing.
    Filtered,
    /// It is not what the schema asks for; this is wrong with it.
    Shapeless(String),
}

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
    /// Whether steering may have come. A run that has done nothing yet was started with all that there was.
    may_be_steered: bool,
}

impl<'a> Talk<'a> {
    pub(super) fn new(parts: &'a Parts, turn: &'a Turn, conversation: Conversation) -> Talk<'a> {
        // An attempt that was lost may have committed them, and not said so.
        let may_be_steered = turn.resumes_after().is_some();
        let told = if may_be_steered { conversation.told } else { CompletionSeq::default() };
        let (fresh, approved, pictures) = (Delta::default(), HashSet::new(), HashMap::new());
        Talk { parts, turn, conversation, fresh, told, approved, pictures, may_be_steered }
    }

    /// Comes to an end, and returns what is known by then.
    pub(super) async fn run(mut self) -> Result<(CoreApplyOutput, Conversation), CoreExecutorError> {
        let output = self.steps().await?;
        // What was told stands in the conversation, and every later question holds it. If this attempt does not get to
        // its end, its inputs tell it again.
        if self.told > CompletionSeq::default() {
            self.turn.applied(self.told).await?;
        }
        if let Some(written) = &output.boundary.delta {
            self.conversation.expect(self.turn.run(), written.clone(), self.fresh);
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
                let last = self.conversation.last_answer().filter(|_| resumes);
                let judged = last.map_or(Ok(Terminal::NoResult), |last| self.judge(last));
                return judged.map(|terminal| self.end(terminal)).map_err(|unfit| self.failed(unfit));
            }
            if std::mem::replace(&mut self.may_be_steered, true) {
                let steering = self.turn.checkpoint().await?;
                self.hear(&steering);
            }
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
        // What was said before the question was asked does not answer it.
        let answers = |accepted: &Arc<Accepted>| {
            let is_said = matches!(accepted.input.body, InputBody::Prompt(_));
            is_said && self.conversation.since_asked.contains(&accepted.input.id())
        };
        let Some(at) = inputs.iter().position(answers) else {
            self.hear(inputs);
            return Some(self.end(Terminal::CallbackPending(Arc::new(asked.tool))));
        };
        // The answer first: the model reads it as the result of what it did last.
        let stopped = self.decide(&asked, &inputs[at]);
        self.hear(&inputs[..at]);
        self.hear(&inputs[at + 1..]);
        stopped.map(|terminal| self.end(terminal))
    }

    /// What a person's answer decides; some if it is to stop. It is committed with the next boundary, and counts as given
    /// only then.
    fn decide(&mut self, asked: &Asked, answer: &Accepted) -> Option<Terminal> {
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
                    return Some(Terminal::Result(Arc::new(result)));
                }
                Decision::Words => self.fresh.messages.extend(heard(answer)),
            },
        }
        // A result is words; what else the answer holds follows it.
        let is_more = answer.input.blocks().is_some_and(|blocks| blocks.iter().any(|block| block.as_text().is_none()));
        if is_more && asked.about != Waiting::Budget {
            self.fresh.messages.extend(heard(answer));
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

    /// Takes in an answer. Some: the run is over.
    async fn take(&mut self, answer: Answer) -> Result<Option<CoreApplyOutput>, CoreExecutorError> {
        let Answer { text, calls, verbatim, stop, .. } = answer;
        let is_last = calls.is_empty() && stop != Stop::Paused;
        // Ids are unique within an answer only: what was approved of the last one says nothing of this one.
        self.approved.clear();
        let uncalled = self.too_many(&calls);
        let said = Message {
            calls,
            verbatim: Some(Verbatim { dialect: self.parts.model.dialect.name(), value: verbatim }),
            stop: (stop != Stop::Done).then(|| stop.word().to_owned()),
            ..Message::assistant(text)
        };
        let judged = is_last.then(|| self.judge(&said));
        self.fresh.messages.push(said);
        self.fresh.messages.extend(uncalled);
        let Some(judged) = judged else {
            self.commit().await?;
            return Ok(None);
        };
        let terminal = match judged {
            Ok(terminal) => terminal,
            Err(Unfit::Shapeless(problem)) if self.repairs() < self.parts.config.schema_repairs => {
                let words = format!("Your answer does not obey the schema: {problem}. Answer again, with JSON alone.");
                self.fresh.messages.push(Message::user(words));
                self.fresh.repairs = self.repairs() + 1;
                self.commit().await?;
                return Ok(None);
            }
            Err(unfit) => {
                self.commit().await?;
                return Err(self.failed(unfit));
            }
        };
        let steering = self.turn.checkpoint().await?;
        let told = self.fresh.messages.len();
        self.hear(&steering);
        if self.fresh.messages.len() > told {
            self.commit().await?;
            return Ok(None);
        }
        Ok(Some(self.end(terminal)))
    }

    /// What an answer without calls comes to.
    fn judge(&self, said: &Message) -> Result<Terminal, Unfit> {
        let text = said.content.clone();
        if text.is_empty() && said.stop.as_deref() == Some(Stop::Filtered.word()) {
            return Err(Unfit::Filtered);
        }
        let structured = self.parts.shape.as_ref().map(|shape| shape.read(&text)).transpose();
        let structured = structured.map_err(Unfit::Shapeless)?;
        let is_nothing = text.is_empty() && structured.is_none();
        Ok(if is_nothing { Terminal::NoResult } else { Terminal::Result(Arc::new(RunResult { text, structured })) })
    }

    /// Why the run fails for good with its last answer.
    fn failed(&self, unfit: Unfit) -> CoreExecutorError {
        CoreExecutorError::fatal(match unfit {
            Unfit::Filtered => "answer_filtered: the provider lets the model say nothing to this".into(),
            Unfit::Shapeless(problem) => {
                format!("structured_output_invalid: after {} repairs, still: {problem}", self.repairs())
            }
        })
    }

    fn repairs(&self) -> u32 {
        self.conversation.repairs(self.turn.run())
    }

    /// The results of the calls beyond what one answer may make.
    fn too_many(&self, calls: &[ToolCall]) -> Vec<Message> {
        let most = self.parts.config.tools.calls_per_answer;
        let (made, rest) = calls.split_at(most.min(calls.len()));
        // A repetition of one that is made shares its result.
        let refused = rest.iter().filter(|call| !made.iter().any(|made| made.id == call.id));
        let words = format!(
            "too_many_calls: an answer may call {most} tools; this one was not called: call it in another answer"
        );
        refused.map(|call| Message::tool(&call.id, &words, true)).collect()
    }

    async fn commit(&mut self) -> Result<(), CoreExecutorError> {
        let delta = std::mem::take(&mut self.fresh);
        let receipt = self.turn.commit(self.boundary(&delta)).await?;
        self.conversation.commit(delta, &receipt);
        self.may_be_steered = true;
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
    turn.progress_with(|| JsonText::encode(live).expect("words are always JSON"));
}

fn millis(began: Instant) -> u64 {
    began.elapsed().as_millis() as u64
}
