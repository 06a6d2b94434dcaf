//! What runs a run, and what does it hold while it does?
//!
//! [`CoreExecutor`] is the seam: an LLM loop, a program, an HTTP endpoint, your Rust code. It is plain async code; the
//! runtime calls it with a [`Turn`], one at a time per session, and again with the same run id after a crash.

use crate::turn::Turn;
use async_trait::async_trait;
use std::{future::Future, sync::Arc, time::Duration};
use windlass_core::{BoundaryOutput, RunResult, SessionId, Terminal};

/// Runs runs.
///
/// A panic is contained and counts as a retryable failure. A future that makes no progress (no checkpoint, commit or
/// delta) for the runtime's stall time is dropped; so is one that ignores a cancel for the grace time. Whatever a
/// dropped or cancelled attempt still reports is refused.
///
/// It must not block its thread: await, or use `spawn_blocking`. A session whose last run was over as soon as it was
/// called polls the next one first in the task that also answers its callers. One that computes before its first await
/// keeps them waiting; one that blocks there until its own session answers (`block_in_place` around a commit) waits for
/// ever.
///
/// External effects are at-least-once: an attempt that dies is run again. [`Turn::effect_key`] is the same for every
/// attempt, so that a tool can recognise the repetition.
#[async_trait]
pub trait CoreExecutor: Send + Sync + 'static {
    /// Runs one run and returns its final boundary.
    ///
    /// # Errors
    /// [`CoreExecutorError`] says whether another try may help. The inputs are retried or abandoned accordingly.
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError>;

    /// Told once when the session is stopped, destroyed or unregistered, or its runtime shut down, after its run is over. May call back into the
    /// adapter, also to unregister its own session. Called in a task of its own, with a time limit.
    async fn stopped(&self, session: SessionId, reason: &str) {
        let _ = (session, reason);
    }
}

/// An executor made of a function.
pub fn executor_fn<F, R>(apply: F) -> impl CoreExecutor
where
    F: Fn(Turn) -> R + Send + Sync + 'static,
    R: Future<Output = Result<CoreApplyOutput, CoreExecutorError>> + Send + 'static,
{
    struct FnExecutor<F>(F);

    #[async_trait]
    impl<F, R> CoreExecutor for FnExecutor<F>
    where
        F: Fn(Turn) -> R + Send + Sync + 'static,
        R: Future<Output = Result<CoreApplyOutput, CoreExecutorError>> + Send + 'static,
    {
        async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
            (self.0)(turn).await
        }
    }

    FnExecutor(apply)
}

/// What a run ends with: its final boundary, and what it came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoreApplyOutput {
    /// The final boundary.
    pub boundary: BoundaryOutput,
    /// What it came to; [`Terminal::NoResult`] is a committed run without a result.
    pub terminal: Terminal,
}

impl CoreApplyOutput {
    /// A run that ends with words.
    pub fn text(text: impl Into<String>) -> CoreApplyOutput {
        CoreApplyOutput {
            boundary: BoundaryOutput::default(),
            terminal: Terminal::Result(Arc::new(RunResult::text(text))),
        }
    }
}

/// Why a run did not end well. The class decides what becomes of its inputs.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CoreExecutorError {
    /// Another try may help. The inputs wait, with back-off.
    #[error("{error}")]
    Retryable {
        /// What went wrong.
        error: String,
        /// How long to wait at least, where the executor knows.
        retry_after: Option<Duration>,
    },
    /// Another try will not help. The inputs are abandoned, waiters told.
    #[error("{error}")]
    Final {
        /// What went wrong.
        error: String,
    },
}

impl CoreExecutorError {
    /// Another try may help.
    pub fn retryable(error: impl Into<String>) -> CoreExecutorError {
        CoreExecutorError::Retryable { error: error.into(), retry_after: None }
    }

    /// Another try will not help.
    pub fn fatal(error: impl Into<String>) -> CoreExecutorError {
        CoreExecutorError::Final { error: error.into() }
    }
}

/// Makes executors by agent name, so that a restart resumes pending work with no one asking.
#[async_trait]
pub trait ExecutorFactory: Send + Sync + 'static {
    /// The executor of this session. `agent` is the name that the session was created with.
    ///
    /// # Errors
    /// [`CoreExecutorError`]; the session stays unattached, its inputs wait, and the next use tries again.
    async fn executor(
        &self,
        session: SessionId,
        agent: Option<&str>,
    ) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError>;
}
