//! In what shape do the executors of this crate commit what was said?
//!
//! A boundary's delta is `{"messages": [{"role", "content"}, …]}`, with whatever else the executor wants to find again.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use windlass_core::{CompletionEntry, Input, InputBody, OperationTerminalOutcome};

/// The most that is said of what a job came to, in characters.
const DETAIL: usize = 200;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who said it: `user`, `assistant`, or `system` for news of background work.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// Something said to the agent.
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: "user".into(), content: content.into() }
    }

    /// Something that came in: news of background work is nobody's words.
    pub fn heard(input: &Input) -> Message {
        let role = if notices(input).is_empty() { "user" } else { "system" };
        Message { role: role.into(), content: said(input) }
    }

    /// Something said by the agent.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message { role: "assistant".into(), content: content.into() }
    }
}

/// What an input says, in words: enough for a listener that reads text only.
pub fn said(input: &Input) -> String {
    match &input.body {
        InputBody::Prompt(prompt) => prompt.text.clone(),
        InputBody::Peer(peer) => peer.body.clone(),
        InputBody::FlowStep(step) => step.instructions.clone(),
        InputBody::ExternalEvent(event) => match event.payload.get("body").and_then(|body| body.as_str()) {
            Some(body) => body.to_owned(),
            None => event.event_type.clone(),
        },
        InputBody::Continuation(continuation) if continuation.notices.is_empty() => continuation.reason.clone(),
        InputBody::Continuation(news) => news.notices.iter().map(|entry| ended(entry)).collect::<Vec<_>>().join(" "),
        InputBody::Operation(news) => format!("operation {} {:?}", news.operation_id, news.event),
    }
}

/// The completions of background work that an input tells of.
pub fn notices(input: &Input) -> &[Arc<CompletionEntry>] {
    match &input.body {
        InputBody::Continuation(continuation) => &continuation.notices,
        _ => &[],
    }
}

/// How a piece of background work ended, in a sentence.
pub fn ended(entry: &CompletionEntry) -> String {
    let name = &entry.display_name;
    let detail: String = entry.terminal_outcome.detail().trim().chars().take(DETAIL).collect();
    let end = match &entry.terminal_outcome {
        OperationTerminalOutcome::Completed(result) if result.is_error => "ended with an error",
        OperationTerminalOutcome::Completed(_) => "is done",
        OperationTerminalOutcome::Failed { .. } => "failed",
        OperationTerminalOutcome::Aborted { .. } => "was called off before it began",
        OperationTerminalOutcome::Cancelled { .. } => "was called off",
        OperationTerminalOutcome::Retired => "has ended as told",
        OperationTerminalOutcome::Terminated { .. } => "was lost before it was done",
    };
    if detail.is_empty() { format!("“{name}” {end}.") } else { format!("“{name}” {end}: {detail}.") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::{
        CompletionSeq, InputId, OperationId, OperationKind, OperationResult, OperationTerminalOutcome as Outcome,
        Timestamp,
    };

    fn entry(terminal_outcome: Outcome) -> CompletionEntry {
        CompletionEntry {
            seq: CompletionSeq(1),
            operation_id: OperationId::from_uuid(uuid::Uuid::nil()),
            kind: OperationKind::BackgroundToolOp,
            display_name: "tea".into(),
            terminal_outcome,
            completed_at: Timestamp::ZERO,
        }
    }

    fn result(content: &str, is_error: bool) -> Outcome {
        Outcome::Completed(OperationResult { content: content.into(), is_error, ..OperationResult::default() })
    }

    #[test]
    fn every_end_is_called_what_it_is() {
        for (outcome, expected) in [
            (result(" 1 s of work\n", false), "“tea” is done: 1 s of work."),
            (result("", false), "“tea” is done."),
            (result("no water", true), "“tea” ended with an error: no water."),
            (Outcome::Failed { error: "spilt".into() }, "“tea” failed: spilt."),
            (Outcome::Aborted { reason: None }, "“tea” was called off before it began."),
            (Outcome::Cancelled { reason: Some("late".into()) }, "“tea” was called off: late."),
            (Outcome::Retired, "“tea” has ended as told."),
            (Outcome::Terminated { reason: "owner lost".into() }, "“tea” was lost before it was done: owner lost."),
        ] {
            assert_eq!(ended(&entry(outcome)), expected);
        }
        assert!(ended(&entry(result(&"ä".repeat(1_000), false))).chars().count() < 250);
    }

    #[test]
    fn news_are_nobodys_words() {
        let mut news = Input::detached_background_op_completed(InputId::from_uuid(uuid::Uuid::nil()), Timestamp::ZERO);
        assert_eq!(Message::heard(&news).content, "detached_background_op_completed");
        if let InputBody::Continuation(continuation) = &mut news.body {
            continuation.notices = vec![Arc::new(entry(result("", false))), Arc::new(entry(Outcome::Retired))];
        }
        let heard = Message::heard(&news);
        assert_eq!(
            (heard.role.as_str(), heard.content.as_str()),
            ("system", "“tea” is done. “tea” has ended as told.")
        );
    }
}
