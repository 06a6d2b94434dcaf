//! How is an executor called, told to stop, and seen to end?
//!
//! A turn always reports back: by itself, or through a supervisor that gives it the grace time, drops it, and reports in
//! its place. It runs in a task of its own, unless the one before was over as soon as it was called.

use super::Actor;
use crate::{
    executor::{CoreExecutor, CoreExecutorError},
    handle::SessionHandle,
    mailbox::Message,
    turn::Turn,
};
use futures_util::FutureExt;
use std::{
    future::{Future as _, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use windlass_core::{AttemptId, Event, RunReport, RunStart};

pub(super) struct RunningTurn {
    pub(super) turn: Turn,
    pub(super) task: JoinHandle<()>,
}

impl Actor {
    /// Calls the executor: in a task of its own, or here if its last run was over at once (see ADR 0017). If this one
    /// is not, it goes on in a task of its own, and so does the next.
    pub(super) fn start_run(&mut self, start: RunStart) {
        let attempt = start.attempt;
        if self.session.current_attempt() != Some(attempt) {
            // Cut off in the same append: nobody is called, so nobody has to return first.
            let error = "executor_cancelled: the run was over before it was called".into();
            let report = RunReport::Failed { error, retryable: true, retry_after: None };
            return self.take_step(Event::RunEnded { attempt, report });
        }
        let executor = self.executor.clone().expect("the core starts runs only while an executor is attached");
        let session = SessionHandle::new(Arc::clone(&self.shared), Arc::clone(&self.slot));
        let turn = Turn::new(session, start, self.mailbox.clone());
        turn.set_steered(self.session.may_steer());
        let mut run = Box::pin(run_turn(executor, turn.clone()).instrument(log_span(&turn)));
        if std::mem::take(&mut self.at_once)
            && let Some((report, at_once)) = run.as_mut().now_or_never()
        {
            self.at_once = at_once;
            return self.take_step(Event::RunEnded { attempt, report });
        }
        let mailbox = self.mailbox.clone();
        let task = self.shared.tasks.spawn(async move {
            let (report, at_once) = run.await;
            // An error says that the owner has let go: recovery accounts for the run.
            drop(mailbox.send(Message::Report { attempt, report, at_once, reply: None }).await);
        });
        self.turn = Some(RunningTurn { turn, task });
    }

    pub(super) fn stop_turn(&mut self, attempt: AttemptId, reason: &str) {
        if self.turn.as_ref().is_some_and(|turn| turn.turn.attempt_id() == attempt) {
            tracing::debug!(session = %self.slot.id, run = %attempt.run, reason, "run told to stop");
            let turn = self.turn.take().expect("looked at above");
            self.supervise(turn, "it was cancelled");
        }
        if self.pinned_cut.as_ref().is_some_and(|(pinned, _)| *pinned == attempt) {
            self.pinned_cut = None;
        }
    }

    /// Sees to it that a turn ends within the grace time, and reports for it if it cannot.
    pub(super) fn supervise(&mut self, turn: RunningTurn, why: &'static str) {
        // Whatever it asks for from now on, it hears that it is closed.
        turn.turn.set_steered(true);
        let (mailbox, grace) = (self.mailbox.clone(), self.shared.options.cancel_grace);
        let stopping = CancellationToken::new();
        self.stopping = Some(stopping.clone());
        let gone = stopping.drop_guard();
        self.shared.tasks.spawn(async move {
            let RunningTurn { turn, mut task } = turn;
            let attempt = turn.attempt_id();
            turn.cancel();
            if tokio::time::timeout(grace, &mut task).await.is_err() {
                // Dropped at its next await. One that never awaits keeps its thread, but not its session.
                task.abort();
                drop(tokio::time::timeout(grace, &mut task).await);
            }
            // Before the report, which may have to wait for room in the mailbox of an owner who waits for this.
            drop(gone);
            let error = format!("executor_stalled: {why} and did not return within {grace:?}");
            let report = RunReport::Failed { error: error.into(), retryable: true, retry_after: None };
            // If the turn has reported itself, this is late news. If the owner is gone, so is the need.
            drop(mailbox.send(Message::Report { attempt, report, at_once: false, reply: None }).await);
        });
    }

    pub(super) fn stop_current_turn(&mut self) -> Option<CancellationToken> {
        self.pinned_cut = None;
        if let Some(turn) = self.turn.take() {
            self.supervise(turn, "the session was shut");
        }
        self.stopping.clone()
    }

    /// Ends a turn that has shown no progress for the stall time. Progress, not a wall clock: a long run that commits
    /// or shows deltas lives as long as it likes.
    pub(super) fn end_stalled_turn(&mut self) {
        let stalled = self
            .turn
            .as_ref()
            .is_some_and(|turn| turn.turn.last_sign_of_life() + self.shared.options.stall_after <= Instant::now());
        if stalled {
            let turn = self.turn.take().expect("looked at above");
            tracing::warn!(session = %self.slot.id, run = %turn.turn.run(), "run stalled");
            self.supervise(turn, "it made no progress");
        }
    }
}

/// What an executor that is done at once may take: enough to look something up, too little to wait for another thread.
const AT_ONCE: Duration = Duration::from_micros(10);

/// What an executor logs names its trace, where there is one.
fn log_span(turn: &Turn) -> tracing::Span {
    match turn.trace() {
        Some(trace) => tracing::info_span!(
            "run", session = %turn.session(), run = %turn.run(), attempt = turn.attempt(), trace_id = %trace.trace_id_hex()
        ),
        None => tracing::Span::none(),
    }
}

/// What a run came to, and whether it was over at its first poll, within [`AT_ONCE`].
async fn run_turn(executor: Arc<dyn CoreExecutor>, turn: Turn) -> (RunReport, bool) {
    let begun = Instant::now();
    let ends = turn.clone();
    let mut polls = 0;
    let mut applied = pin!(AssertUnwindSafe(async { executor.apply(turn).await }).catch_unwind());
    let applied = poll_fn(|context| {
        polls += 1;
        applied.as_mut().poll(context)
    });
    let applied = applied.await;
    // What the executor has left behind hears from now on that the run is closed.
    ends.set_steered(true);
    let at_once = polls == 1 && begun.elapsed() <= AT_ONCE;
    let failed =
        |error: String, retryable, retry_after| RunReport::Failed { error: error.into(), retryable, retry_after };
    let report = match applied {
        Ok(Ok(output)) => RunReport::Done { output: output.boundary, terminal: output.terminal },
        Ok(Err(CoreExecutorError::Retryable { error, retry_after })) => failed(error, true, retry_after),
        Ok(Err(CoreExecutorError::Final { error })) => failed(error, false, None),
        Err(panic) => failed(format!("executor_panic: {}", panic_text(&*panic)), true, None),
    };
    (report, at_once)
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Waits until an executor that was told to stop is gone, or given up.
pub(super) async fn gone(stopping: Option<CancellationToken>) {
    if let Some(stopping) = stopping {
        stopping.cancelled().await;
    }
}

/// Tells an executor that its session is over, within a limit, whatever it does.
pub(crate) async fn clean_up(
    executor: Arc<dyn CoreExecutor>,
    session: windlass_core::SessionId,
    reason: &str,
    limit: Duration,
) {
    let stopped = AssertUnwindSafe(async { executor.stopped(session, reason).await }).catch_unwind();
    match tokio::time::timeout(limit, stopped).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => tracing::error!(%session, panic = panic_text(&*panic), "executor panicked in its clean-up"),
        Err(_) => tracing::error!(%session, ?limit, "executor did not finish its clean-up"),
    }
}
