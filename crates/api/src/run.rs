//! What is told of runs, receipts and the transcript?

use crate::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_core::{InputId, RunApplyBoundary, RunId};

/// One attempt at a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// The run; the same over all attempts.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RunId))]
    pub run: RunId,
    /// Counts the starts of this work, from 1.
    pub attempt: u32,
    /// The inputs it ran, in order.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::schema::InputId>))]
    pub inputs: Vec<InputId>,
    /// The passive inputs that went with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::schema::InputId>))]
    pub asides: Vec<InputId>,
    /// The steering that it was handed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::schema::InputId>))]
    pub steered: Vec<InputId>,
    /// The boundary that it resumed after, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes_after: Option<u64>,
    /// The last boundary that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_committed: Option<u64>,
    /// The entry of the journal that started it.
    pub seq: u64,
    /// When it started.
    pub started_at: Time,
    /// When it ended. Absent: it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// How it ended. Absent: it is on, or its process died and nothing was recorded of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AttemptEnd>,
    /// What went wrong, or why it was cancelled or let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it is tried again, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// What it said, if it ended with words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// How an attempt at a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// It committed its final boundary.
    Completed,
    /// It failed; `retry_at` says whether it is tried again.
    Failed,
    /// It was cancelled for good.
    Cancelled,
    /// It was let go in good order, and goes on later.
    Released,
}

/// A run, with what is kept of its attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunView {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RunId))]
    pub id: RunId,
    /// Its attempts, in order.
    pub attempts: Vec<Attempt>,
    /// The receipts of its boundaries, in order.
    pub receipts: Vec<Receipt>,
    /// False if it goes on after what could be read in one request: then look into the journal after `read_to`.
    pub complete: bool,
    /// The position up to which the journal was read.
    pub read_to: u64,
}

/// Proof that a boundary was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Receipt {
    /// The run.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RunId))]
    pub run: RunId,
    /// Its position in the run: dense, from 0.
    pub sequence: u64,
    /// What kind of boundary: `immediate`, `run_start`, `run_checkpoint`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub boundary: RunApplyBoundary,
    /// The inputs that it is the first to cover, in order.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::schema::InputId>))]
    pub inputs: Vec<InputId>,
    /// The hash of the conversation after it, as the executor reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_digest: Option<String>,
    /// The messages in the conversation after it, as the executor reported them.
    pub message_count: u64,
    /// Hash of this receipt and of the one before it in the session, in hex.
    pub chain: String,
}

/// One message of a session's conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Message {
    /// The entry of the journal that committed it.
    pub seq: u64,
    /// When it was committed.
    pub at: Time,
    /// The run that said it.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RunId))]
    pub run: RunId,
    /// Who said it: `user`, `assistant`, `system` or `tool`.
    pub role: String,
    /// What was said: text, or whatever the executor commits.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::AnyJson))]
    pub content: Value,
    /// Whatever else the executor committed with it, for example tool calls.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub more: serde_json::Map<String, Value>,
}
