//! How did an input end?

use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_core::{AbandonReason, InputId, Outcome, RunId};

/// How an input ended. Final: nothing that may still be retried is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Completion {
    /// How.
    pub status: CompletionStatus,
    /// What the run said, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What the run said, in a shape that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::AnyJson>))]
    pub structured: Option<Value>,
    /// The outside tool that the run waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    /// What that tool was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::AnyJson>))]
    pub tool_args: Option<Value>,
    /// Why it will not run, as a code: `cancelled`, `withdrawn`, `max_attempts_exhausted`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The run that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::RunId>))]
    pub run: Option<RunId>,
    /// The last boundary of the run that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The newer input that replaced it, or that it became part of and whose end this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::InputId>))]
    pub by: Option<InputId>,
}

/// How an input ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CompletionStatus {
    /// A run ended with a result.
    Completed,
    /// A run took it and ended without a result, or it needed none.
    CompletedWithoutResult,
    /// The run waits for an outside tool; its answer will be an input.
    CallbackPending,
    /// It will not run.
    Abandoned,
    /// A run committed it, then failed for good.
    Failed,
    /// A run committed it, then was cancelled.
    Cancelled,
    /// A newer input replaced it.
    Superseded,
    /// It became part of a newer input; ask for that one.
    Coalesced,
    /// It is over; how it ended is no longer kept.
    Forgotten,
    /// Something that this client does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl From<&Outcome> for Completion {
    fn from(outcome: &Outcome) -> Completion {
        let of = |status| Completion { status, ..Completion::default() };
        match outcome {
            Outcome::Completed { run, result } => Completion {
                text: Some(result.text.clone()),
                structured: result.structured.clone(),
                run: Some(*run),
                ..of(CompletionStatus::Completed)
            },
            Outcome::CompletedWithoutResult { run } => {
                Completion { run: Some(*run), ..of(CompletionStatus::CompletedWithoutResult) }
            }
            Outcome::CallbackPending { run, tool } => Completion {
                tool_name: Some(tool.tool_name.clone()),
                tool_args: Some(tool.args.clone()),
                run: Some(*run),
                ..of(CompletionStatus::CallbackPending)
            },
            Outcome::Recorded => of(CompletionStatus::CompletedWithoutResult),
            Outcome::Failed { run, after, error } => Completion {
                run: Some(*run),
                after: Some(*after),
                error: Some(error.to_string()),
                ..of(CompletionStatus::Failed)
            },
            Outcome::Cancelled { run, after } => {
                Completion { run: Some(*run), after: Some(*after), ..of(CompletionStatus::Cancelled) }
            }
            Outcome::Superseded { by } => Completion { by: Some(*by), ..of(CompletionStatus::Superseded) },
            Outcome::Coalesced { into } => Completion { by: Some(*into), ..of(CompletionStatus::Coalesced) },
            Outcome::Abandoned { reason } => reason.into(),
        }
    }
}

impl From<&AbandonReason> for Completion {
    fn from(reason: &AbandonReason) -> Completion {
        let error = match reason {
            AbandonReason::Failed { error } | AbandonReason::MaxAttemptsExhausted { error, .. } => {
                Some(error.to_string())
            }
            _ => None,
        };
        Completion {
            status: CompletionStatus::Abandoned,
            reason: Some(reason.code().to_owned()),
            error,
            ..Completion::default()
        }
    }
}

impl Completion {
    /// Of an input that is over, when how it ended is no longer kept.
    pub fn forgotten() -> Completion {
        Completion { status: CompletionStatus::Forgotten, ..Completion::default() }
    }
}
