//! What is an agent outside of this process told of a run, and what may it answer?
//!
//! The same for a program per run, a worker and an endpoint; how it is carried is theirs.

use crate::transcript::{Message, notices, said};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json, value::RawValue};
use std::sync::Arc;
use windlass_core::{
    Accepted, BoundaryOutput, CompletionSeq, Entry, JsonText, PendingTool, Record, RunEnd, RunId, RunResult, Seq,
    Terminal,
};
use windlass_runtime::{CoreApplyOutput, CoreExecutorError, Turn, TurnError};

/// How much of what was not understood an error shows, in characters.
const EXCERPT: usize = 1024;

/// What it is told of a run.
pub(crate) fn told(turn: &Turn) -> Value {
    let mut told = json!({
        "session": turn.session(),
        "run": turn.run(),
        "attempt": turn.attempt(),
        "effect_key": turn.effect_key().to_string(),
        "kind": turn.kind(),
        "text": turn.primitive().text(),
        "inputs": listed(turn.inputs()),
        "context": listed(turn.context()),
        "resumes_after": turn.resumes_after(),
    });
    if let Some(trace) = turn.trace() {
        told["traceparent"] = trace.to_string().into();
    }
    told
}

/// Inputs, as it is told of them.
pub(crate) fn listed(inputs: &[Arc<Accepted>]) -> Vec<Value> {
    let one = |accepted: &Arc<Accepted>| {
        let input = &accepted.input;
        json!({ "id": input.id(), "kind": input.kind(), "text": said(input) })
    };
    inputs.iter().map(one).collect()
}

/// A boundary of before.
#[derive(Serialize)]
pub(crate) struct Past {
    pub(crate) seq: Seq,
    run: RunId,
    sequence: u64,
    pub(crate) delta: Box<RawValue>,
}

impl Past {
    /// The boundary in an entry, if it holds one with something to tell.
    pub(crate) fn of(entry: &Entry) -> Option<Past> {
        let (receipt, delta) = match &entry.record {
            Record::BoundaryCommitted(boundary) => (&boundary.receipt, boundary.delta.as_ref()?),
            Record::RunEnded(ended) => match &ended.end {
                RunEnd::Completed { receipt, delta, .. } => (receipt, delta.as_ref()?),
                RunEnd::Failed { .. } | RunEnd::Cancelled { .. } | RunEnd::Released { .. } => return None,
            },
            _ => return None,
        };
        let delta = RawValue::from_string(delta.get().to_owned()).ok()?;
        Some(Past { seq: entry.seq, run: receipt.run_id, sequence: receipt.sequence, delta })
    }
}

/// What it answers: at the end of a run, or for a boundary on the way. Other members are not looked at.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Answer {
    #[serde(default)]
    pub(crate) text: Option<String>,
    #[serde(default)]
    pub(crate) structured: Option<Value>,
    #[serde(default)]
    pub(crate) message_count: Option<u64>,
    /// Kept byte for byte.
    #[serde(default)]
    pub(crate) delta: Option<Box<RawValue>>,
    /// The outside tool that it waits for.
    #[serde(default)]
    pub(crate) pending: Option<PendingTool>,
}

impl Answer {
    /// The members that make an object an answer.
    const MEMBERS: [&str; 5] = ["text", "structured", "message_count", "delta", "pending"];

    /// Whether an object of these members is one.
    pub(crate) fn has<'m>(mut members: impl Iterator<Item = &'m String>) -> bool {
        members.any(|member| Answer::MEMBERS.contains(&member.as_str()))
    }

    /// Reads one, in an object that may say more. An object that says something, and nothing of an answer, is a mistake.
    ///
    /// # Errors
    /// What about it is not understood, with the beginning of it.
    pub(crate) fn read(text: &str, envelope: &[&str]) -> Result<Answer, String> {
        let members: Map<String, Value> = part(text)?;
        if Answer::has(members.keys()) || members.keys().all(|member| envelope.contains(&member.as_str())) {
            return part(text);
        }
        Err(format!("none of {} is in: {}", Answer::MEMBERS.join(", "), excerpt(text)))
    }
}

/// How it says that a run did not end well.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
    #[serde(default)]
    retryable: bool,
    #[serde(default)]
    retry_after_ms: Option<u64>,
}

impl From<Refusal> for CoreExecutorError {
    fn from(refusal: Refusal) -> CoreExecutorError {
        let error = excerpt(&refusal.error);
        if refusal.retryable {
            let retry_after = refusal.retry_after_ms.map(std::time::Duration::from_millis);
            CoreExecutorError::Retryable { error: format!("executor_failed: {error}"), retry_after }
        } else {
            CoreExecutorError::fatal(format!("executor_refused: {error}"))
        }
    }
}

/// What was said in a run and is not committed yet. Boundaries hold it, unless the agent has a delta of its own.
#[derive(Debug, Default)]
pub(crate) struct Minutes {
    new: Vec<Message>,
    count: u64,
    /// The last completion of background work that the agent was told of.
    news: Option<CompletionSeq>,
}

impl Minutes {
    /// Takes down what the run began with.
    pub(crate) fn of(turn: &Turn) -> Minutes {
        let mut minutes = Minutes::default();
        minutes.hear(turn.context());
        minutes.hear(turn.inputs());
        minutes
    }

    /// Takes down what came in.
    pub(crate) fn hear(&mut self, inputs: &[Arc<Accepted>]) {
        for accepted in inputs {
            self.new.push(Message::heard(&accepted.input));
            self.news = notices(&accepted.input).last().map(|entry| entry.seq).or(self.news);
        }
    }

    /// The boundary of an answer.
    pub(crate) fn boundary(&mut self, answer: &Answer) -> BoundaryOutput {
        self.new.extend(answer.text.as_ref().map(Message::assistant));
        self.count += self.new.len() as u64;
        let messages = std::mem::take(&mut self.new);
        let delta = match &answer.delta {
            Some(delta) => JsonText::encode(delta),
            None => JsonText::encode(&json!({ "messages": messages })),
        };
        let delta = delta.expect("it was JSON before, or is made of text");
        BoundaryOutput {
            message_count: answer.message_count.unwrap_or(self.count),
            conversation_digest: None,
            delta: Some(delta),
        }
    }

    /// Confirms the news that the agent was told of: it has answered.
    pub(crate) async fn confirm(&mut self, turn: &Turn) -> Result<(), TurnError> {
        match self.news.take() {
            Some(news) => turn.applied(news).await,
            None => Ok(()),
        }
    }

    /// The end of the run.
    pub(crate) async fn end(mut self, turn: &Turn, answer: Answer) -> Result<CoreApplyOutput, CoreExecutorError> {
        self.confirm(turn).await?;
        Ok(CoreApplyOutput { boundary: self.boundary(&answer), terminal: terminal(answer) })
    }
}

/// What an answer comes to.
pub(crate) fn terminal(answer: Answer) -> Terminal {
    match answer {
        Answer { pending: Some(tool), .. } => Terminal::CallbackPending(Arc::new(tool)),
        Answer { text, structured, .. } if text.is_some() || structured.is_some() => {
            Terminal::Result(Arc::new(RunResult { text: text.unwrap_or_default(), structured }))
        }
        Answer { .. } => Terminal::NoResult,
    }
}

/// What it said is not what was agreed. Another try would hear the same.
pub(crate) fn protocol_error(detail: impl std::fmt::Display) -> CoreExecutorError {
    CoreExecutorError::fatal(format!("executor_protocol_error: {detail}"))
}

/// A part of a JSON object, in a form that keeps deltas byte for byte: a tagged enum would not.
///
/// # Errors
/// What about it is not understood, with the beginning of it.
pub(crate) fn part<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if !text.trim_start().starts_with('{') {
        return Err(format!("expected a JSON object, not: {}", excerpt(text)));
    }
    serde_json::from_str(text).map_err(|error| format!("{error} in: {}", excerpt(text)))
}

/// The beginning of what was said, for errors.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
