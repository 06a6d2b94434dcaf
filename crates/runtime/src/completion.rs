//! How does somebody wait for the end of an input?

use crate::error::SessionError;
use std::sync::Arc;
use tokio::sync::oneshot;
use windlass_core::{AbandonReason, InputId, InputState, Outcome, PendingTool, RunId, RunResult};

/// What a waiter hears. Final: nothing that may still be retried is reported.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CompletionOutcome {
    /// A run ended with a result.
    Completed(Arc<RunResult>),
    /// A run committed the input and ended without a result, or the input needed none.
    CompletedWithoutResult,
    /// The run waits for an outside tool; its answer will be an input.
    CallbackPending(Arc<PendingTool>),
    /// The input will not run.
    Abandoned(AbandonReason),
    /// A run committed the input, then failed for good.
    Failed {
        /// The last boundary that stands.
        after: u64,
        /// What went wrong.
        error: Arc<str>,
    },
    /// A run committed the input, then was cancelled.
    Cancelled {
        /// The last boundary that stands.
        after: u64,
    },
    /// A newer input replaced it.
    Superseded {
        /// The newer one.
        by: InputId,
    },
    /// The session ended under it: stopped, reset, destroyed, retired or unregistered. The text is one of the fixed
    /// reasons of the operations specification, section 4.1.
    RuntimeTerminated(String),
    /// It is over in this state; what it came to is no longer kept.
    Forgotten(InputState),
}

/// What a waiter hears, and through which input.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// What.
    pub outcome: CompletionOutcome,
    /// The newer input whose outcome it is, if the one waited for became part of it.
    pub via: Option<InputId>,
    /// The run that it ended in, if one.
    pub run: Option<RunId>,
}

impl Completion {
    pub(crate) fn of(outcome: CompletionOutcome) -> Completion {
        Completion { outcome, via: None, run: None }
    }

    /// What the waiters of an input hear that ended so.
    pub(crate) fn told(outcome: &Outcome) -> Completion {
        let run = match outcome {
            Outcome::Completed { run, .. }
            | Outcome::CompletedWithoutResult { run }
            | Outcome::CallbackPending { run, .. }
            | Outcome::Failed { run, .. }
            | Outcome::Cancelled { run, .. } => Some(*run),
            _ => None,
        };
        Completion { run, ..Completion::of(completion_of(outcome)) }
    }
}

/// Resolves once, when the input's outcome is durable. Any number may wait for one input; dropping a handle cancels
/// nothing, and [`SessionHandle::completion`](crate::SessionHandle::completion) makes another, also after a restart.
#[derive(Debug)]
pub struct CompletionHandle {
    input: InputId,
    state: Waiting,
}

#[derive(Debug)]
enum Waiting {
    Resolved(Completion),
    Open(oneshot::Receiver<Completion>),
}

impl CompletionHandle {
    pub(crate) fn open(input: InputId) -> (oneshot::Sender<Completion>, CompletionHandle) {
        let (sender, receiver) = oneshot::channel();
        (sender, CompletionHandle { input, state: Waiting::Open(receiver) })
    }

    pub(crate) fn resolved(input: InputId, completion: Completion) -> CompletionHandle {
        CompletionHandle { input, state: Waiting::Resolved(completion) }
    }

    /// A handle that is resolved already.
    pub fn already_resolved(input: InputId, outcome: CompletionOutcome) -> CompletionHandle {
        CompletionHandle::resolved(input, Completion::of(outcome))
    }

    /// The same wait, for an input that became part of the one waited for.
    pub(crate) fn absorbed(self, input: InputId, into: InputId) -> CompletionHandle {
        let state = match self.state {
            Waiting::Resolved(completion) => Waiting::Resolved(Completion { via: Some(into), ..completion }),
            open @ Waiting::Open(_) => open,
        };
        CompletionHandle { input, state }
    }

    /// The input that is waited for.
    pub fn input(&self) -> InputId {
        self.input
    }

    /// Waits for the outcome. If the process lets go of the session first, it is
    /// [`CompletionOutcome::RuntimeTerminated`]; the input itself is accounted for in the journal.
    ///
    /// Cancel-safe: dropping the future gives up this handle only.
    pub async fn wait(self) -> CompletionOutcome {
        self.wait_full().await.outcome
    }

    /// As [`CompletionHandle::wait`], and through which input.
    pub async fn wait_full(self) -> Completion {
        match self.state {
            Waiting::Resolved(completion) => completion,
            Waiting::Open(receiver) => receiver.await.unwrap_or_else(|_| {
                let reason = "completion channel closed without result";
                Completion::of(CompletionOutcome::RuntimeTerminated(reason.into()))
            }),
        }
    }
}

/// What a waiter hears of this outcome; an absorbed input's waiters hear the newer one's instead.
fn completion_of(outcome: &Outcome) -> CompletionOutcome {
    let terminated = |reason: &str| CompletionOutcome::RuntimeTerminated(reason.to_owned());
    match outcome {
        Outcome::Completed { result, .. } => CompletionOutcome::Completed(Arc::clone(result)),
        Outcome::CompletedWithoutResult { .. } | Outcome::Recorded => CompletionOutcome::CompletedWithoutResult,
        Outcome::CallbackPending { tool, .. } => CompletionOutcome::CallbackPending(Arc::clone(tool)),
        Outcome::Failed { after, error, .. } => CompletionOutcome::Failed { after: *after, error: Arc::clone(error) },
        Outcome::Cancelled { after, .. } => CompletionOutcome::Cancelled { after: *after },
        Outcome::Superseded { by } => CompletionOutcome::Superseded { by: *by },
        Outcome::Coalesced { .. } => CompletionOutcome::Forgotten(InputState::Coalesced),
        Outcome::Abandoned { reason } => match reason {
            AbandonReason::Stopped => terminated("runtime stopped"),
            AbandonReason::Reset => terminated("runtime reset"),
            AbandonReason::Destroyed => terminated("runtime destroyed"),
            AbandonReason::Retired => terminated("retired without runtime loop"),
            reason => CompletionOutcome::Abandoned(reason.clone()),
        },
    }
}

/// Why a wait could not begin.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WaitError {
    /// The session never had such an input, or has forgotten it.
    #[error("not_found: the session has no such input")]
    NoSuchInput,
    /// The session could not be asked.
    #[error(transparent)]
    Session(#[from] SessionError),
}
