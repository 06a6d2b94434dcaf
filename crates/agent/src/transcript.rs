//! In what shape do the executors of this crate commit what was said?
//!
//! A boundary's delta is `{"messages": [{"role", "content"}, …]}`, with whatever else the executor wants to find again.

use serde::{Deserialize, Serialize};
use windlass_core::{Input, InputBody};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who said it: `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// Something said to the agent.
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: "user".into(), content: content.into() }
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
        InputBody::Continuation(continuation) => continuation.reason.clone(),
        InputBody::Operation(news) => format!("operation {} {:?}", news.operation_id, news.event),
    }
}
