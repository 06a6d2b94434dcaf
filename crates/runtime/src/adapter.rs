//! Which sessions are there, and how are they opened, resumed and let go?

use crate::{
    actor::UNREGISTERED,
    blob::BlobStore,
    clock::{Clock, SystemClock},
    creation::Policies,
    error::SessionError,
    executor::{CoreExecutor, ExecutorFactory},
    handle::SessionHandle,
    mailbox::{Attachment, Message},
    memory::MemoryStore,
    object_blobs::ObjectBlobs,
    observer::Observer,
    owner::Slot,
    shared::{Alarms, Options, Shared, Unattended, ring},
    store::{ListQuery, SessionRow, Store},
    trace::Tracer,
};
use futures_util::{StreamExt, stream};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use windlass_core::{Control, Incarnation, Limits, PolicyTable, Seq, SessionId};

/// The public face of the runtime: every session's owner lives behind it. Cheap to clone.
///
/// Must be built and used within a tokio runtime.
///
/// ```
/// use std::sync::Arc;
/// use windlass_runtime::{RuntimeSessionAdapter, executor_fn, CoreApplyOutput, CompletionOutcome};
/// use windlass_core::{Input, InputId, SessionId, Timestamp};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let adapter = RuntimeSessionAdapter::ephemeral();
/// let id = SessionId::from_uuid(uuid::Uuid::now_v7());
/// let echo = executor_fn(|turn| async move { Ok(CoreApplyOutput::text(turn.primitive().text())) });
/// adapter.ensure_session_with_executor(id, Arc::new(echo)).await?;
///
/// let hello = Input::prompt(InputId::from_uuid(uuid::Uuid::now_v7()), Timestamp::ZERO, "hello");
/// let (_, completion) = adapter.session(id).await?.accept_with_completion(hello).await?;
/// let CompletionOutcome::Completed(result) = completion.unwrap().wait().await else { panic!() };
/// assert_eq!(result.text, "hello");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RuntimeSessionAdapter {
    pub(crate) shared: Arc<Shared>,
}

/// How a runtime is put together. Everything has a default.
pub struct RuntimeBuilder {
    store: Option<Arc<dyn Store>>,
    blobs: Option<Arc<dyn BlobStore>>,
    factory: Option<Arc<dyn ExecutorFactory>>,
    policy: PolicyTable,
    policies: Option<Arc<dyn Policies>>,
    observer: Option<Arc<dyn Observer>>,
    tracer: Option<Arc<dyn Tracer>>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    options: Options,
    open_on_demand: Option<bool>,
}

impl RuntimeBuilder {
    /// Where journals are kept. Default: in memory. Say [`RuntimeBuilder::entries_kept`] after it.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self.options.entries_kept = ENTRIES_KEPT;
        self
    }

    /// Where media is kept. Default: nowhere, so that inputs with inline media are refused.
    pub fn blobs(mut self, blobs: Arc<dyn BlobStore>) -> Self {
        self.blobs = Some(blobs);
        self
    }

    /// Who makes executors for sessions that have none attached by hand.
    pub fn factory(mut self, factory: Arc<dyn ExecutorFactory>) -> Self {
        self.factory = Some(factory);
        self
    }

    /// What is done with which input. Default: [`PolicyTable::reference`].
    pub fn policy(mut self, policy: PolicyTable) -> Self {
        self.policy = policy;
        self
    }

    /// Who knows the policies that profiles name. Default: nobody, so that such a profile is refused.
    pub fn policies(mut self, policies: Arc<dyn Policies>) -> Self {
        self.policies = Some(policies);
        self
    }

    /// Who counts and times what happens. Default: nobody, which costs nothing.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Who hears of the parts of traces. Default: nobody, which costs nothing.
    pub fn tracer(mut self, tracer: Arc<dyn Tracer>) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// How much of everything there is room for.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What time it is.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How long a session is idle before it is put away. Default: one minute.
    pub fn idle_after(mut self, idle_after: Duration) -> Self {
        self.options.idle_after = idle_after;
        self
    }

    /// How long a cancelled executor may take to return before it is dropped. Default: five seconds.
    pub fn cancel_grace(mut self, cancel_grace: Duration) -> Self {
        self.options.cancel_grace = cancel_grace;
        self
    }

    /// How long an executor may show no progress before its run counts as failed. Default: five minutes.
    pub fn stall_after(mut self, stall_after: Duration) -> Self {
        self.options.stall_after = stall_after;
        self
    }

    /// How long an executor may take to be made, or to clean up after a stop. Default: ten seconds.
    pub fn stop_limit(mut self, stop_limit: Duration) -> Self {
        self.options.stop_limit = stop_limit;
        self
    }

    /// How many entries of each journal are kept behind its snapshot, for feeds and look-ups. Default: 100,000 in a
    /// store that was given, none in memory.
    pub fn entries_kept(mut self, entries: u64) -> Self {
        self.options.entries_kept = entries;
        self
    }

    /// How many sessions are opened at once by [`RuntimeSessionAdapter::resume_pending`]. Default: 16.
    pub fn resume_parallelism(mut self, sessions: usize) -> Self {
        self.options.resume_parallelism = sessions.max(1);
        self
    }

    /// Whether any call opens a session that is stored but not registered. Default: only with a factory.
    pub fn open_on_demand(mut self, on: bool) -> Self {
        self.open_on_demand = Some(on);
        self
    }

    /// The runtime. Call it within a tokio runtime: one task is spawned, the alarm clock of sessions that are put away.
    pub fn build(self) -> RuntimeSessionAdapter {
        let open_on_demand = self.open_on_demand.unwrap_or(self.factory.is_some());
        let options = Options {
            open_on_demand,
            idle_after: self.options.idle_after.clamp(SHORTEST_IDLE, LONGEST_WAIT),
            stall_after: self.options.stall_after.min(LONGEST_WAIT),
            ..self.options
        };
        let shared = Arc::new(Shared {
            store: self.store.unwrap_or_else(|| Arc::new(MemoryStore::new())),
            blobs: self.blobs,
            factory: self.factory,
            policy: Arc::new(self.policy),
            policies: self.policies,
            observer: self.observer,
            tracer: self.tracer,
            limits: self.limits,
            clock: self.clock,
            options,
            incarnation: Incarnation::from_uuid(uuid::Uuid::now_v7()),
            sessions: Mutex::new(HashMap::new()),
            alarms: Arc::new(Alarms::default()),
            unattended: Unattended::default(),
            drains: crate::comms::Drains::default(),
            naming: crate::sweep::Naming::default(),
            finishing: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        });
        tokio::spawn(ring(Arc::downgrade(&shared), Arc::clone(&shared.alarms)));
        RuntimeSessionAdapter { shared }
    }
}

impl RuntimeSessionAdapter {
    /// Everything is the builder's to say.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder {
            store: None,
            blobs: None,
            factory: None,
            policy: PolicyTable::reference(),
            policies: None,
            observer: None,
            tracer: None,
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
            options: Options {
                idle_after: Duration::from_secs(60),
                cancel_grace: Duration::from_secs(5),
                stall_after: Duration::from_secs(300),
                stop_limit: Duration::from_secs(10),
                entries_kept: 0,
                resume_parallelism: 16,
                open_on_demand: false,
            },
            open_on_demand: None,
        }
    }

    /// In memory: nothing survives the process.
    pub fn ephemeral() -> RuntimeSessionAdapter {
        Self::builder().blobs(Arc::new(ObjectBlobs::in_memory())).build()
    }

    /// On a store, with media in a blob store.
    pub fn persistent(store: Arc<dyn Store>, blobs: Arc<dyn BlobStore>) -> RuntimeSessionAdapter {
        Self::builder().store(store).blobs(blobs).build()
    }

    /// On a store, without media: an input that needs a blob store is refused.
    pub fn persistent_without_blobs(store: Arc<dyn Store>) -> RuntimeSessionAdapter {
        Self::builder().store(store).build()
    }

    /// Makes a session known here, creating it if it does not exist and reviving it if it is stopped. Idempotent; runs
    /// nothing by itself.
    ///
    /// # Errors
    /// [`SessionError`]; the session may be registered or not, and the call may be repeated.
    pub async fn register_session(&self, session: SessionId) -> Result<SessionHandle, SessionError> {
        let handle = self.create_session(session, None).await?;
        match handle.control(Control::Revive).await {
            Ok(_) | Err(SessionError::Refused(_)) => Ok(handle),
            Err(error) => Err(error),
        }
    }

    /// As [`RuntimeSessionAdapter::register_session`], with an executor, which runs what waits. The first one stays.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if the session is destroyed; otherwise as for registering. Nothing is attached then.
    pub async fn ensure_session_with_executor(
        &self,
        session: SessionId,
        executor: Arc<dyn CoreExecutor>,
    ) -> Result<Attachment, SessionError> {
        let message = |reply| Message::Attach { executor: Arc::clone(&executor), reply };
        Ok(self.make(session, message).await?.1)
    }

    /// Lets go of a session in good order: its run goes back, its waiters hear so, its executor cleans up, the store
    /// is untouched. Idempotent.
    ///
    /// # Errors
    /// [`SessionError::Store`] if the release could not be made durable; the session is let go all the same.
    pub async fn unregister_session(&self, session: SessionId) -> Result<(), SessionError> {
        let Some(slot) = self.shared.slot(session) else { return Ok(()) };
        self.shared.drains.forget(session).await;
        while let Some(mailbox) = slot.open_mailbox_or_let_go() {
            let (reply, left) = oneshot::channel();
            drop(mailbox.send(Message::Leave { reason: UNREGISTERED, reply }).await);
            // Without an answer the owner ended on its own meanwhile; there may be another one.
            if let Ok(left) = left.await {
                return left;
            }
        }
        self.shared.let_go(&slot, UNREGISTERED);
        Ok(())
    }

    /// Forgets a destroyed session wholly, its journal too. Idempotent.
    ///
    /// # Errors
    /// [`SessionError::Refused`] unless it is destroyed; otherwise as for every call.
    pub async fn delete_session(&self, session: SessionId) -> Result<(), SessionError> {
        let Some(row) = self.shared.store.session(session).await? else { return Ok(()) };
        if row.status.gate != windlass_core::Gate::Destroyed {
            let state = self.session(session).await?.state().await?;
            return Err(SessionError::Refused(windlass_core::ControlRefused::State { state }));
        }
        self.unregister_session(session).await?;
        let opened = self.shared.store.open(session).await?;
        Ok(self.shared.store.delete(session, opened.fence).await?)
    }

    /// A session that is known here or stored. Reads one row at most; opens nothing.
    ///
    /// # Errors
    /// [`SessionError::NotFound`] if it is neither; [`SessionError::Store`] if that cannot be told.
    pub async fn session(&self, session: SessionId) -> Result<SessionHandle, SessionError> {
        if let Some(slot) = self.shared.slot(session) {
            return Ok(self.handle(slot));
        }
        match self.shared.store.session(session).await? {
            Some(row) if row.head > Seq::ZERO => Ok(self.handle(self.shared.slot_or_new(session))),
            _ => Err(SessionError::NotFound(session)),
        }
    }

    /// Whether a session is registered here. With `open_on_demand`, whether it is stored: then it is as good as
    /// registered, and costs no memory until it is used.
    ///
    /// # Errors
    /// [`SessionError::Store`] if that cannot be told.
    pub async fn contains_session(&self, session: SessionId) -> Result<bool, SessionError> {
        Ok(self.find(session).await?.is_some())
    }

    /// The sessions of the store, by id.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn list_sessions(&self, query: ListQuery) -> Result<Vec<SessionRow>, SessionError> {
        Ok(self.shared.store.list(query).await?)
    }

    /// How many sessions have no executor because theirs could not be made: open ones, and those in which something
    /// waits. [`SessionHandle::explain`] says why of each.
    pub fn sessions_without_executor(&self) -> usize {
        self.shared.unattended.count()
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// The blob store below, if there is one.
    pub fn blobs(&self) -> Option<&Arc<dyn BlobStore>> {
        self.shared.blobs.as_ref()
    }

    /// Opens every stored session that has something to do, now or later, a bounded number at once. Returns how many.
    /// Call it at start, with a factory.
    ///
    /// # Errors
    /// [`SessionError::Store`] if the list cannot be read. A session that cannot be opened is reported in the log and
    /// does not keep the others from opening.
    pub async fn resume_pending(&self) -> Result<usize, SessionError> {
        let (mut after, mut resumed) = (None, 0);
        loop {
            let query = ListQuery { pending: true, after, limit: RESUME_PAGE, ..ListQuery::default() };
            let rows = self.shared.store.list(query).await?;
            let Some(last) = rows.last() else { return Ok(resumed) };
            after = Some(last.session);
            resumed += rows.len();
            let open = |row: SessionRow| async move {
                let handle = self.handle(self.shared.slot_or_new(row.session));
                if let Err(error) = handle.look(|_| ()).await {
                    tracing::error!(session = %row.session, %error, "a session with pending work could not be opened");
                }
            };
            stream::iter(rows).for_each_concurrent(self.shared.options.resume_parallelism, open).await;
        }
    }

    /// Begins no run from now on, and returns when none is on: for before [`RuntimeSessionAdapter::shutdown`], with a
    /// limit. What runs ends as always, and its waiters hear so; everything else is admitted and waits for the next
    /// runtime. Not to be taken back; a run that its caller pinned is his own and begins all the same.
    ///
    /// Cancel-safe: no run begins all the same.
    pub async fn finish_runs(&self) {
        // First, so that who is not open below will find it when he is.
        self.shared.finishing.store(true, Ordering::SeqCst);
        let slots: Vec<Arc<Slot>> = self.shared.slots().values().cloned().collect();
        let finish = |slot: Arc<Slot>| async move {
            let Some(mailbox) = slot.open_mailbox() else { return };
            let (reply, finished) = oneshot::channel();
            // Errors say that its owner is gone, and nothing runs then.
            if mailbox.send(Message::FinishRun { reply }).await.is_ok() {
                drop(finished.await);
            }
        };
        stream::iter(slots).for_each_concurrent(None, finish).await;
    }

    /// Lets go of every session in good order: runs are given until `grace` to return after they are told, nothing new
    /// is taken, waiters hear that the runtime ends. Returns when every task of this runtime has ended.
    pub async fn shutdown(&self) {
        self.shared.drains.end();
        // First, so that nobody is called any more who would not be found below.
        self.shared.tasks.close();
        let slots: Vec<Arc<Slot>> = self.shared.slots().drain().map(|(_, slot)| slot).collect();
        let leave = |slot: Arc<Slot>| async move {
            if let Some(mailbox) = slot.open_mailbox() {
                let (reply, left) = oneshot::channel();
                if mailbox.send(Message::Leave { reason: SHUT_DOWN, reply }).await.is_ok()
                    && let Ok(Err(error)) = left.await
                {
                    tracing::error!(session = %slot.id, %error, "a session could not be let go in good order");
                }
            }
            // Also one that was put away has followers and an executor who are to hear of it.
            self.shared.let_go(&slot, SHUT_DOWN);
        };
        stream::iter(slots).for_each_concurrent(LEAVE_PARALLELISM, leave).await;
        self.shared.tasks.wait().await;
    }

    /// The slot of a session that calls may reach: registered, or stored where that is enough.
    pub(crate) async fn find(&self, session: SessionId) -> Result<Option<SessionHandle>, SessionError> {
        if let Some(slot) = self.shared.slot(session) {
            return Ok(Some(self.handle(slot)));
        }
        if !self.shared.options.open_on_demand {
            return Ok(None);
        }
        let row = self.shared.store.session(session).await?.filter(|row| row.head > Seq::ZERO);
        Ok(row.map(|_| self.handle(self.shared.slot_or_new(session))))
    }

    pub(crate) fn handle(&self, slot: Arc<Slot>) -> SessionHandle {
        SessionHandle::new(Arc::clone(&self.shared), slot)
    }
}

/// Entries that a store given to a [`RuntimeBuilder`] keeps of each journal behind its snapshot, unless told otherwise.
pub const ENTRIES_KEPT: u64 = 100_000;

/// An idle time of nothing would make the timer spin; "never" must still be a moment that a clock can reach.
const SHORTEST_IDLE: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What the waiters and executors of a runtime hear at its end.
const SHUT_DOWN: &str = "runtime shut down";

const RESUME_PAGE: u32 = 1_000;
const LEAVE_PARALLELISM: usize = 64;

impl std::fmt::Debug for RuntimeSessionAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeSessionAdapter").field("sessions", &self.shared.slots().len()).finish_non_exhaustive()
    }
}
