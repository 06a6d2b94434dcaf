//! Which sessions have a drain, and does each have the one it should?
//!
//! Reconciled whenever a session's state says so: the actor calls [`Drains::observed`] after every durable step, so
//! attach, detach, retire, stop and destroy need no call of their own.

use super::{
    drain::{self, DrainTask},
    outbox::{KeptEnvelope, Outbox},
    seam::{CommsRuntime, Refusal},
};
use crate::{RuntimeSessionAdapter, error::SessionError, shared::Shared};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use windlass_core::{Drain, DrainEffect, DrainExit, DrainInput, DrainMode, DrainPhase, RuntimeState, SessionId};

/// The wait before a drain that panicked comes back; doubles with each failure in a row.
const RESPAWN_FIRST: Duration = Duration::from_millis(100);
const RESPAWN_LONGEST: Duration = Duration::from_secs(60);

/// The drains of one runtime.
#[derive(Default)]
pub(crate) struct Drains {
    /// Whether any session ever had comms: without, a session's steps cost nothing here.
    used: AtomicBool,
    table: Mutex<Table>,
    /// The runtime ends.
    over: CancellationToken,
}

#[derive(Default)]
struct Table {
    generations: u64,
    sessions: HashMap<SessionId, Context>,
}

/// What is known of one session's peers.
struct Context {
    keep_alive: bool,
    comms: Option<Arc<dyn CommsRuntime>>,
    state: RuntimeState,
    /// What the state last asked for. A drain that was aborted by hand stays away until this changes.
    wanted: Option<DrainMode>,
    drain: Drain,
    /// The last task; its generation tells its exit from an older one's.
    task: Option<Task>,
    failures: u32,
}

struct Task {
    generation: u64,
    /// Which comms it drains. Once it has ended it keeps them alive no longer.
    comms: Weak<dyn CommsRuntime>,
    cancel: CancellationToken,
    dismissing: CancellationToken,
    ended: CancellationToken,
}

impl Drains {
    /// A session's state after a step that is durable.
    pub(crate) fn observed(&self, shared: &Arc<Shared>, session: SessionId, state: RuntimeState) {
        if !self.used.load(Ordering::Relaxed) {
            return;
        }
        let mut table = self.table();
        let Some(context) = table.sessions.get_mut(&session).filter(|context| context.state != state) else { return };
        context.state = state;
        if context.desired() != context.wanted {
            self.reconcile(shared, &mut table, session);
        }
        if state == RuntimeState::Destroyed
            && let Some(Context { comms: Some(comms), .. }) = table.sessions.remove(&session)
        {
            let refusal = Refusal {
                code: "session_state_conflict".into(),
                reason: "the session is destroyed and takes nothing ever again".into(),
            };
            shared.tasks.spawn(async move { comms.close(&refusal).await });
        }
    }

    /// Gives a session comms, or takes them. Answers whether a drain was started.
    fn configure(
        &self,
        shared: &Arc<Shared>,
        session: SessionId,
        state: RuntimeState,
        keep_alive: bool,
        comms: Option<Arc<dyn CommsRuntime>>,
        kept: Vec<KeptEnvelope>,
    ) -> bool {
        self.used.store(true, Ordering::Relaxed);
        let mut table = self.table();
        let context = table.sessions.entry(session).or_insert_with(|| Context {
            keep_alive,
            comms: None,
            state,
            wanted: None,
            drain: Drain::default(),
            task: None,
            failures: 0,
        });
        let new = comms.as_ref().filter(|new| context.comms.as_ref().is_none_or(|known| !Arc::ptr_eq(known, new)));
        if let Some(new) = new {
            new.bound(Outbox::new(shared, session), kept);
        }
        (context.keep_alive, context.comms, context.state) = (keep_alive, comms, state);
        self.reconcile(shared, &mut table, session)
    }

    /// Lets a drain be what its session's state asks for. Answers whether one was started.
    fn reconcile(&self, shared: &Arc<Shared>, table: &mut Table, session: SessionId) -> bool {
        let Some(context) = table.sessions.get_mut(&session) else { return false };
        context.wanted = context.desired();
        let (Some(mode), Some(comms)) = (context.wanted, context.comms.clone()) else {
            context.stop();
            return false;
        };
        let same = context.task.as_ref().is_some_and(|task| task.comms.ptr_eq(&Arc::downgrade(&comms)));
        if context.drain.is_on() && context.drain.mode() == Some(mode) && same {
            return false;
        }
        if self.over.is_cancelled() {
            return false;
        }
        // Other comms or another mode: the old task ends before the new one begins.
        context.stop();
        table.generations += 1;
        context.spawn(shared, session, table.generations, mode, comms);
        true
    }

    /// A drain ended. An older one's end is no news.
    pub(super) fn exited(
        &self,
        shared: &Arc<Shared>,
        session: SessionId,
        generation: u64,
        exit: DrainExit,
        progressed: bool,
    ) {
        let mut table = self.table();
        let Some(context) = table.sessions.get_mut(&session) else { return };
        if context.task.as_ref().is_none_or(|task| task.generation != generation) {
            return;
        }
        if progressed {
            context.failures = 0;
        }
        self.settle_exit(shared, context, session, exit);
    }

    fn settle_exit(&self, shared: &Arc<Shared>, context: &mut Context, session: SessionId, exit: DrainExit) {
        // Refused if it was stopped before it ended, which is then all there is to know.
        let known = context.drain.step(DrainInput::TaskExited(exit)).is_ok();
        let (true, DrainExit::Failed, Some(task)) = (known, exit, &context.task) else { return };
        let delay = RESPAWN_FIRST.saturating_mul(1 << context.failures.min(16)).min(RESPAWN_LONGEST);
        context.failures += 1;
        let (shared, generation, over) = (Arc::downgrade(shared), task.generation, self.over.clone());
        tokio::spawn(async move {
            // Ends with the runtime; nobody waits for it.
            if tokio::time::timeout(delay, over.cancelled()).await.is_err()
                && let Some(shared) = shared.upgrade()
            {
                shared.drains.respawn(&shared, session, generation);
            }
        });
    }

    /// Brings a drain back that failed, unless something else has happened since.
    fn respawn(&self, shared: &Arc<Shared>, session: SessionId, generation: u64) {
        let mut table = self.table();
        let unchanged = table.sessions.get(&session).is_some_and(|context| {
            context.wanted.is_some() && context.task.as_ref().is_some_and(|task| task.generation == generation)
        });
        if unchanged {
            self.reconcile(shared, &mut table, session);
        }
    }

    /// Forgets a session, after its drain has ended.
    pub(crate) async fn forget(&self, session: SessionId) {
        let task = {
            let Some(mut context) = self.table().sessions.remove(&session) else { return };
            context.stop();
            context.task
        };
        if let Some(task) = task {
            // A drain that stops the session may be what lets go of it.
            tokio::select! {
                () = task.ended.cancelled() => {}
                () = task.dismissing.cancelled() => {}
            }
        }
    }

    /// Cancelled when the runtime ends.
    pub(super) fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    /// Ends every drain and begins no other.
    pub(crate) fn end(&self) {
        self.over.cancel();
        self.table().sessions.values_mut().for_each(Context::stop);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Drains {
    fn drop(&mut self) {
        self.end();
    }
}

impl Context {
    fn desired(&self) -> Option<DrainMode> {
        DrainMode::desired(self.state, self.comms.is_some(), self.keep_alive)
    }

    fn stop(&mut self) {
        // Refused where there is nothing to stop.
        if let (Ok(Some(DrainEffect::Abort)), Some(task)) = (self.drain.step(DrainInput::StopRequested), &self.task) {
            task.cancel.cancel();
        }
    }

    fn spawn(
        &mut self,
        shared: &Arc<Shared>,
        session: SessionId,
        generation: u64,
        mode: DrainMode,
        comms: Arc<dyn CommsRuntime>,
    ) {
        let spawn = self.drain.step(DrainInput::EnsureRunning(mode));
        assert_eq!(spawn, Ok(Some(DrainEffect::Spawn(mode))), "a drain that is not on may always be started");
        let previous = self.task.take().map(|task| task.ended);
        let task = Task {
            generation,
            comms: Arc::downgrade(&comms),
            cancel: CancellationToken::new(),
            dismissing: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let drain = DrainTask {
            shared: Arc::downgrade(shared),
            session,
            comms,
            generation,
            cancel: task.cancel.clone(),
            dismissing: task.dismissing.clone(),
            progressed: AtomicBool::new(false),
        };
        shared.tasks.spawn(drain::run(drain, previous, task.ended.clone().drop_guard()));
        self.task = Some(task);
        let spawned = self.drain.step(DrainInput::TaskSpawned);
        assert_eq!(spawned, Ok(None), "a drain that is starting may always have started");
    }
}

/// Peer ingress.
impl RuntimeSessionAdapter {
    /// Gives a session comms to hear its peers through, or takes them away, and says whether it is kept alive for them
    /// without an executor. Answers whether a drain was started by it; `false` for a session that is not known here.
    ///
    /// From then on the drain follows the session: it is there while an executor is attached, or while the session
    /// idles and is kept alive, and gone while it is retired, stopped or destroyed.
    ///
    /// # Errors
    /// [`SessionError`]: nothing was changed.
    pub async fn update_peer_ingress_context(
        &self,
        session: &SessionId,
        keep_alive: bool,
        comms: Option<Arc<dyn CommsRuntime>>,
    ) -> Result<bool, SessionError> {
        let session = *session;
        let Some(handle) = self.find(session).await? else { return Ok(false) };
        let shared = Arc::clone(&self.shared);
        // Within the session's own turn, so that no change of its state can fall in between.
        let configure = move |known: &windlass_core::Session| {
            let kept = known.outgoing().filter_map(KeptEnvelope::read).collect();
            shared.drains.configure(&shared, session, known.state(), keep_alive, comms, kept)
        };
        handle.look(configure).await
    }

    /// Whether a session has comms.
    pub fn session_has_comms(&self, session: &SessionId) -> bool {
        self.shared.drains.table().sessions.get(session).is_some_and(|context| context.comms.is_some())
    }

    /// In which phase a session's drain is.
    pub fn comms_drain_phase(&self, session: &SessionId) -> DrainPhase {
        let table = self.shared.drains.table();
        table.sessions.get(session).map_or(DrainPhase::Inactive, |context| context.drain.phase())
    }

    /// Counts a session's drain as ended. One that failed comes back after a while; of the others none does by itself.
    pub fn notify_comms_drain_exited(&self, session: &SessionId, reason: DrainExit) {
        let mut table = self.shared.drains.table();
        let Some(context) = table.sessions.get_mut(session) else { return };
        if let Some(task) = context.task.as_ref().filter(|_| context.drain.is_on()) {
            task.cancel.cancel();
        }
        self.shared.drains.settle_exit(&self.shared, context, *session, reason);
    }

    /// Ends a session's drain. It loses nothing, and stays away until the session's state or its comms change.
    pub fn abort_comms_drain(&self, session: &SessionId) {
        if let Some(context) = self.shared.drains.table().sessions.get_mut(session) {
            context.stop();
        }
    }

    /// As [`RuntimeSessionAdapter::abort_comms_drain`], for every session.
    pub fn abort_comms_drains(&self) {
        self.shared.drains.table().sessions.values_mut().for_each(Context::stop);
    }

    /// Waits until a session's drain, if there is one, has ended. Any number may wait; none has an effect on it.
    pub async fn wait_comms_drain(&self, session: &SessionId) {
        let ended = {
            let table = self.shared.drains.table();
            table.sessions.get(session).and_then(|context| context.task.as_ref()).map(|task| task.ended.clone())
        };
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
    }
}
