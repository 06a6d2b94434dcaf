//! What does an executor hold while it runs a run?

use crate::{
    error::SessionError,
    handle::SessionHandle,
    mailbox::{Mailbox, Message},
    operations::OpsLifecycleRegistry,
    store::StoreError,
    trace::attempt_trace,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;
use windlass_core::{
    Accepted, AttemptId, BoundaryOutput, CompletionSeq, EffectKey, Entry, ExecutionKind, JsonText, RunBoundaryReceipt,
    RunClosed, RunId, RunStart, Seq, SessionId, TraceContext, render::RunPrimitive,
};

/// One attempt at a run, in the hands of its executor. Cheap to clone; every clone is the same attempt.
///
/// All methods are cancel-safe. After the run is cancelled, or taken over by another attempt, checkpoints and commits
/// answer [`TurnError::Closed`]: stop then, nothing you report is taken.
#[derive(Clone)]
pub struct Turn {
    inner: Arc<Inner>,
}

struct Inner {
    session: SessionHandle,
    start: RunStart,
    /// Of the owner that started the run: a later one refuses what it reports.
    mailbox: Mailbox,
    cancel: CancellationToken,
    pulse: Pulse,
    /// Whether the owner has to be asked at a checkpoint. He says so before he answers for what he would hand over.
    steered: AtomicBool,
    boundary: AtomicU64,
    ordinal: AtomicU32,
}

/// When the executor last showed that it is alive.
#[derive(Debug)]
struct Pulse {
    epoch: Instant,
    last_micros: AtomicU64,
}

impl Pulse {
    fn new() -> Pulse {
        Pulse { epoch: Instant::now(), last_micros: AtomicU64::new(0) }
    }

    fn beat(&self) {
        let passed = Instant::now().duration_since(self.epoch).as_micros();
        self.last_micros.store(passed as u64, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.epoch + Duration::from_micros(self.last_micros.load(Ordering::Relaxed))
    }
}

/// Why a checkpoint or a commit was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TurnError {
    /// The attempt is over: stop.
    #[error(transparent)]
    Closed(#[from] RunClosed),
    /// The session could not make it durable: stop, the run is tried again.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<TurnError> for crate::CoreExecutorError {
    fn from(error: TurnError) -> Self {
        crate::CoreExecutorError::retryable(error.to_string())
    }
}

impl Turn {
    pub(crate) fn new(session: SessionHandle, start: RunStart, mailbox: Mailbox) -> Turn {
        let boundary = AtomicU64::new(start.effect_key.boundary);
        let (cancel, pulse) = (CancellationToken::new(), Pulse::new());
        let (steered, ordinal) = (AtomicBool::new(true), AtomicU32::new(0));
        Turn { inner: Arc::new(Inner { session, start, mailbox, cancel, pulse, steered, boundary, ordinal }) }
    }

    /// Whether its next checkpoint has to ask, as far as its owner knows now.
    pub(crate) fn set_steered(&self, steered: bool) {
        self.inner.steered.store(steered, Ordering::Release);
    }

    /// Tells the executor to stop.
    pub(crate) fn cancel(&self) {
        self.inner.cancel.cancel();
    }

    /// When the executor last showed that it is alive.
    pub(crate) fn last_sign_of_life(&self) -> Instant {
        self.inner.pulse.last()
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.inner.session.id()
    }

    /// The run; the same for every attempt.
    pub fn run(&self) -> RunId {
        self.inner.start.attempt.run
    }

    /// The number of this start; rises with each.
    pub fn attempt(&self) -> u32 {
        self.inner.start.attempt.attempt
    }

    /// Whether there is something new to say, or only something to resume.
    pub fn kind(&self) -> ExecutionKind {
        self.inner.start.kind
    }

    /// The inputs, in order. On a resume: only the steering that no boundary covers yet.
    pub fn inputs(&self) -> &[Arc<Accepted>] {
        &self.inner.start.inputs
    }

    /// Passive inputs and appended context that go with them.
    pub fn context(&self) -> &[Arc<Accepted>] {
        &self.inner.start.context
    }

    /// The last boundary that stands, if this attempt resumes after one.
    pub fn resumes_after(&self) -> Option<u64> {
        self.inner.start.resumes_after
    }

    /// This attempt as a part of the trace of its first traced input: what it calls continues it as `traceparent`.
    /// None if no input came with one. The same for every clone, another one for another attempt.
    pub fn trace(&self) -> Option<TraceContext> {
        attempt_trace(&self.inner.start)
    }

    /// What the run adds to the conversation: appends, context appends, merged settings. Rendered at each call.
    pub fn primitive(&self) -> RunPrimitive {
        RunPrimitive::of(&self.inner.start)
    }

    /// A key for the next external effect: the same when another attempt comes to this point, different for every
    /// other effect. Counts up with each call, and begins anew at each boundary.
    pub fn effect_key(&self) -> EffectKey {
        let ordinal = self.inner.ordinal.fetch_add(1, Ordering::Relaxed);
        let boundary = self.inner.boundary.load(Ordering::Relaxed);
        EffectKey { boundary, ordinal, ..self.inner.start.effect_key.clone() }
    }

    /// Takes the steering that has arrived. It is durable before it is handed over, and is handed over again if the
    /// run has to resume before its next boundary. Where nothing has arrived it costs nothing.
    ///
    /// # Errors
    /// [`TurnError`]: stop.
    pub async fn checkpoint(&self) -> Result<Vec<Arc<Accepted>>, TurnError> {
        self.inner.pulse.beat();
        if !self.inner.steered.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        let attempt = self.attempt_id();
        let steering = self.ask(|reply| Message::Checkpoint { attempt, reply }).await??;
        Ok(steering)
    }

    /// Commits a boundary: what has been done up to here is never done again.
    ///
    /// # Errors
    /// [`TurnError`]: stop.
    pub async fn commit(&self, output: BoundaryOutput) -> Result<Arc<RunBoundaryReceipt>, TurnError> {
        self.inner.pulse.beat();
        let attempt = self.attempt_id();
        let receipt = self.ask(|reply| Message::Boundary { attempt, output, reply }).await??;
        self.inner.boundary.store(receipt.sequence + 1, Ordering::Relaxed);
        self.inner.ordinal.store(0, Ordering::Relaxed);
        self.inner.pulse.beat();
        Ok(receipt)
    }

    /// Shows something to those who watch now. Not recorded; dropped where nobody keeps up; never blocks.
    pub fn progress(&self, delta: JsonText) {
        self.progress_with(|| delta);
    }

    /// The same; what is shown is made only if somebody watches.
    pub fn progress_with(&self, delta: impl FnOnce() -> JsonText) {
        self.inner.pulse.beat();
        if let Some(hub) = self.inner.session.followed() {
            hub.progress(self.run(), delta);
        }
    }

    /// Resolves when the run is cancelled. Executors that never look are dropped after a grace time.
    pub async fn cancelled(&self) {
        self.inner.cancel.cancelled().await;
    }

    /// Whether the run is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancel.is_cancelled()
    }

    /// The next committed entries of the session after a position: the conversation so far, in its boundaries' deltas.
    /// A page may have fewer than `limit`; an empty one is the end.
    ///
    /// # Errors
    /// [`StoreError`], as for [`Store::read`](crate::store::Store::read).
    pub async fn history(&self, after: Seq, limit: u32) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.inner.session.entries(after, limit).await
    }

    /// The session's background operations. What is registered here is refused once the run is over.
    pub fn operations(&self) -> OpsLifecycleRegistry {
        OpsLifecycleRegistry::new(self.inner.session.clone(), Some(self.attempt_id()))
    }

    /// The model has seen completions up to here: they are not shown again. Say it when the request that held them was
    /// answered; until then they are shown again after a failure.
    ///
    /// # Errors
    /// [`SessionError`]: they may be shown again.
    pub async fn applied(&self, seq: CompletionSeq) -> Result<(), TurnError> {
        Ok(self.inner.session.advance_applied(seq).await?)
    }

    pub(crate) fn attempt_id(&self) -> AttemptId {
        self.inner.start.attempt
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T, SessionError>>) -> Message,
    ) -> Result<T, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.inner.mailbox.send(message(reply)).await.map_err(|_| SessionError::Draining)?;
        answer.await.map_err(|_| SessionError::Draining)?
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn")
            .field("session", &self.session())
            .field("start", &self.inner.start)
            .finish_non_exhaustive()
    }
}
