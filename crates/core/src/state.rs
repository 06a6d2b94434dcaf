//! What can callers see of a session and its inputs, and how can an input end?
//!
//! [`RuntimeState`] and [`InputState`] are derived from gate, attachment, run and lanes; they are stored nowhere.

use crate::{InputId, RunId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Whether a session takes inputs, and whether it ever will again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Takes inputs and runs them.
    #[default]
    Open,
    /// Runs what it has, takes nothing new.
    Retired,
    /// Does nothing until it is registered again.
    Stopped,
    /// Does nothing ever again.
    Destroyed,
}

/// What a session is doing, in the reference's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeState {
    /// Being opened for the first time.
    Initializing,
    /// Open, nothing running, no executor.
    Idle,
    /// Open, nothing running, an executor at hand.
    Attached,
    /// A run is on.
    Running,
    /// Being reopened.
    Recovering,
    /// Runs what it has, takes nothing new.
    Retired,
    /// Does nothing until it is registered again.
    Stopped,
    /// Does nothing ever again.
    Destroyed,
}

impl RuntimeState {
    /// Its name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            RuntimeState::Initializing => "initializing",
            RuntimeState::Idle => "idle",
            RuntimeState::Attached => "attached",
            RuntimeState::Running => "running",
            RuntimeState::Recovering => "recovering",
            RuntimeState::Retired => "retired",
            RuntimeState::Stopped => "stopped",
            RuntimeState::Destroyed => "destroyed",
        }
    }

    /// Whether the session never leaves this state by itself.
    pub const fn is_terminal(self) -> bool {
        matches!(self, RuntimeState::Stopped | RuntimeState::Destroyed)
    }

    /// Whether inputs are admitted.
    pub const fn accepts_input(self) -> bool {
        matches!(self, RuntimeState::Idle | RuntimeState::Attached | RuntimeState::Running)
    }

    /// Whether a run may begin.
    pub const fn can_process_queue(self) -> bool {
        matches!(self, RuntimeState::Idle | RuntimeState::Attached | RuntimeState::Retired)
    }
}

/// Where an input is in its life, in the reference's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputState {
    /// Admitted, waiting to be appended as context.
    Accepted,
    /// In a lane or aside.
    Queued,
    /// In the current run, in none of its receipts yet.
    Staged,
    /// In a receipt of a run that is not over.
    AppliedPendingConsumption,
    /// Over: a committed run (or a context append) took it.
    Consumed,
    /// Over: a newer input replaced it.
    Superseded,
    /// Over: it became part of a newer input.
    Coalesced,
    /// Over: it will not run.
    Abandoned,
}

impl InputState {
    /// Whether the input is over.
    pub const fn is_terminal(self) -> bool {
        matches!(self, InputState::Consumed | InputState::Superseded | InputState::Coalesced | InputState::Abandoned)
    }
}

/// How an input ended. One per input, for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A committed run took it and ended with a result.
    Completed {
        /// The run.
        run: RunId,
        /// What it said.
        result: Arc<RunResult>,
    },
    /// A committed run took it and ended without a result.
    CompletedWithoutResult {
        /// The run.
        run: RunId,
    },
    /// A committed run took it and waits for an outside tool.
    CallbackPending {
        /// The run.
        run: RunId,
        /// The tool.
        tool: Arc<PendingTool>,
    },
    /// It was appended as context, or its kind is recorded and consumed at once.
    Recorded,
    /// A run committed it, then failed for good.
    Failed {
        /// The run.
        run: RunId,
        /// The last boundary that stands.
        after: u64,
        /// Why it failed.
        error: Arc<str>,
    },
    /// A run committed it, then was cancelled.
    Cancelled {
        /// The run.
        run: RunId,
        /// The last boundary that stands.
        after: u64,
    },
    /// A newer input replaced it.
    Superseded {
        /// The newer one.
        by: InputId,
    },
    /// It became part of a newer input, whose outcome is its own.
    Coalesced {
        /// The newer one.
        into: InputId,
    },
    /// It will not run.
    Abandoned {
        /// Why not.
        reason: AbandonReason,
    },
}

impl Outcome {
    /// The state of an input that ended so.
    pub const fn state(&self) -> InputState {
        match self {
            Outcome::Completed { .. }
            | Outcome::CompletedWithoutResult { .. }
            | Outcome::CallbackPending { .. }
            | Outcome::Recorded
            | Outcome::Failed { .. }
            | Outcome::Cancelled { .. } => InputState::Consumed,
            Outcome::Superseded { .. } => InputState::Superseded,
            Outcome::Coalesced { .. } => InputState::Coalesced,
            Outcome::Abandoned { .. } => InputState::Abandoned,
        }
    }

    /// Whether it is a dead letter: something went wrong and `redrive` may try again.
    pub const fn is_dead_letter(&self) -> bool {
        matches!(
            self,
            Outcome::Failed { .. }
                | Outcome::Abandoned {
                    reason: AbandonReason::MaxAttemptsExhausted { .. } | AbandonReason::Failed { .. }
                }
        )
    }
}

/// Why an input will not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbandonReason {
    /// The session was retired with nobody to drain it.
    Retired,
    /// The session was reset.
    Reset,
    /// The session was stopped.
    Stopped,
    /// The session was destroyed.
    Destroyed,
    /// Its run was cancelled.
    Cancelled,
    /// It was withdrawn.
    Withdrawn,
    /// It waited aside for too long.
    Expired,
    /// It was ephemeral, and the process that had it is gone.
    EphemeralLost,
    /// The caller that ran it itself is gone.
    CallerGone,
    /// It failed and may not be tried again.
    Failed {
        /// What went wrong.
        error: Arc<str>,
    },
    /// It failed too often.
    MaxAttemptsExhausted {
        /// How often it was tried.
        attempts: u32,
        /// What went wrong the last time.
        error: Arc<str>,
    },
}

impl AbandonReason {
    /// Its stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            AbandonReason::Retired => "retired",
            AbandonReason::Reset => "reset",
            AbandonReason::Stopped => "stopped",
            AbandonReason::Destroyed => "destroyed",
            AbandonReason::Cancelled => "cancelled",
            AbandonReason::Withdrawn => "withdrawn",
            AbandonReason::Expired => "expired",
            AbandonReason::EphemeralLost => "ephemeral_lost",
            AbandonReason::CallerGone => "caller_gone",
            AbandonReason::Failed { .. } => "failed",
            AbandonReason::MaxAttemptsExhausted { .. } => "max_attempts_exhausted",
        }
    }
}

/// What a run said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// In words.
    pub text: String,
    /// In a shape the caller asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured: Option<Value>,
}

impl RunResult {
    /// A result in words.
    pub fn text(text: impl Into<String>) -> RunResult {
        RunResult { text: text.into(), structured: None }
    }
}

/// The outside tool that a run waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingTool {
    /// Its name.
    pub tool_name: String,
    /// What it was asked.
    pub args: Value,
}
