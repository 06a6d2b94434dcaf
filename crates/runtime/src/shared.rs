//! What do all sessions of one adapter share?

use crate::{
    actor::clean_up,
    blob::BlobStore,
    clock::Clock,
    creation::Policies,
    executor::ExecutorFactory,
    observer::{Counted, Observer},
    owner::Slot,
    store::Store,
    trace::Tracer,
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicBool},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use windlass_core::{Incarnation, Limits, PolicyTable, SessionId, Timestamp};

pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) blobs: Option<Arc<dyn BlobStore>>,
    pub(crate) factory: Option<Arc<dyn ExecutorFactory>>,
    pub(crate) policy: Arc<PolicyTable>,
    pub(crate) policies: Option<Arc<dyn Policies>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) tracer: Option<Arc<dyn Tracer>>,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Options,
    pub(crate) incarnation: Incarnation,
    pub(crate) sessions: Mutex<HashMap<SessionId, Arc<Slot>>>,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) unattended: Unattended,
    /// Which sessions hear their peers.
    pub(crate) drains: crate::comms::Drains,
    /// Which blobs must not be forgotten just now.
    pub(crate) naming: crate::sweep::Naming,
    /// Whether no run is to begin any more.
    pub(crate) finishing: AtomicBool,
    /// Every task of this adapter; closed at shutdown.
    pub(crate) tasks: TaskTracker,
}

/// Times and bounds of the runtime, as the builder sets them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How long a session is idle before it is put away.
    pub(crate) idle_after: Duration,
    /// How long a cancelled executor may take to return.
    pub(crate) cancel_grace: Duration,
    /// How long an executor may show no progress.
    pub(crate) stall_after: Duration,
    /// How long an executor may take to be made, or to clean up.
    pub(crate) stop_limit: Duration,
    /// Entries that are kept of each journal behind its snapshot.
    pub(crate) entries_kept: u64,
    /// Sessions opened at once at start.
    pub(crate) resume_parallelism: usize,
    /// Whether an input opens a session that is only stored.
    pub(crate) open_on_demand: bool,
}

impl Shared {
    pub(crate) fn slot(&self, session: SessionId) -> Option<Arc<Slot>> {
        self.slots().get(&session).cloned()
    }

    /// The slot of this session, made if there is none.
    pub(crate) fn slot_or_new(&self, session: SessionId) -> Arc<Slot> {
        let mut slots = self.slots();
        Arc::clone(slots.entry(session).or_insert_with(|| Arc::new(Slot::new(session))))
    }

    /// Forgets a slot that nothing depends on: its executor comes from a factory, and nobody holds or follows it. Such
    /// a session costs nothing while it is put away.
    pub(crate) fn put_away(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots();
        // Held by the map, its owner and its actor, who asks. New holders come from the map only, which is locked.
        if Arc::strong_count(slot) <= 3 && self.may_forget(slot) {
            slots.remove(&slot.id);
        }
    }

    /// The same, when a handle on it is dropped: that may have been all that was ever done with it.
    pub(crate) fn put_down(&self, slot: &Arc<Slot>) {
        // Held by the map and that handle: otherwise it has an owner, or another handle comes by here.
        if Arc::strong_count(slot) > 2 || !self.may_forget(slot) {
            return;
        }
        let mut slots = self.slots();
        let known = slots.get(&slot.id).is_some_and(|known| Arc::ptr_eq(known, slot));
        if known && Arc::strong_count(slot) <= 2 && self.may_forget(slot) {
            slots.remove(&slot.id);
        }
    }

    /// Whether the store and the factory know all that is to be known of this session.
    fn may_forget(&self, slot: &Slot) -> bool {
        self.factory.is_some() && self.options.open_on_demand && slot.is_plain()
    }

    /// Lets go of a slot for good: nobody opens its session through it again, whatever handle or alarm is left.
    pub(crate) fn let_go(&self, slot: &Arc<Slot>, reason: &'static str) {
        let mut slots = self.slots();
        slot.let_go();
        if let Some(hub) = slot.hub() {
            hub.let_go();
        }
        if slots.get(&slot.id).is_some_and(|known| Arc::ptr_eq(known, slot)) {
            slots.remove(&slot.id);
        }
        drop(slots);
        self.alarms.clear(slot.id);
        self.unattended.clear(slot.id);
        if let Some(executor) = slot.set_executor(None) {
            self.tasks.spawn(clean_up(executor, slot.id, reason, self.options.stop_limit));
        }
    }

    pub(crate) fn slots(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Slot>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When which session that is put away has something to do. One task rings for all.
#[derive(Default)]
pub(crate) struct Alarms {
    set: Mutex<Set>,
    changed: Notify,
}

#[derive(Default)]
struct Set {
    by_time: BTreeSet<(Timestamp, SessionId)>,
    by_session: HashMap<SessionId, Timestamp>,
}

impl Alarms {
    /// Sets the alarm of a session. It has one: who let go last knows best.
    pub(crate) fn set(&self, session: SessionId, at: Timestamp) {
        let mut set = self.locked();
        set.clear(session);
        set.by_session.insert(session, at);
        set.by_time.insert((at, session));
        drop(set);
        self.changed.notify_one();
    }

    pub(crate) fn clear(&self, session: SessionId) {
        self.locked().clear(session);
    }

    fn first(&self) -> Option<Timestamp> {
        self.locked().by_time.first().map(|(at, _)| *at)
    }

    fn take_due(&self, now: Timestamp) -> Vec<SessionId> {
        let mut set = self.locked();
        let mut due = Vec::new();
        while let Some((at, session)) = set.by_time.first().copied()
            && at <= now
        {
            set.clear(session);
            due.push(session);
        }
        due
    }

    fn locked(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    fn clear(&mut self, session: SessionId) {
        if let Some(at) = self.by_session.remove(&session) {
            self.by_time.remove(&(at, session));
        }
    }
}

/// Why which session has no executor, although somebody makes them: while it is open, and while something waits in it.
#[derive(Default)]
pub(crate) struct Unattended(Mutex<HashMap<SessionId, (Arc<str>, Counted)>>);

impl Unattended {
    pub(crate) fn set(&self, session: SessionId, why: Arc<str>, observer: Option<&Arc<dyn Observer>>) {
        self.locked().insert(session, (why, Counted::unattended(observer)));
    }

    pub(crate) fn clear(&self, session: SessionId) {
        self.locked().remove(&session);
    }

    pub(crate) fn why(&self, session: SessionId) -> Option<Arc<str>> {
        self.locked().get(&session).map(|(why, _)| Arc::clone(why))
    }

    pub(crate) fn count(&self) -> usize {
        self.locked().len()
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<SessionId, (Arc<str>, Counted)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens sessions whose time has come. Ends with the adapter.
pub(crate) async fn ring(shared: Weak<Shared>, alarms: Arc<Alarms>) {
    loop {
        let first = {
            let Some(shared) = shared.upgrade().filter(|shared| !shared.tasks.is_closed()) else { return };
            let now = shared.clock.now();
            for session in alarms.take_due(now) {
                // Opening is all that is wanted; one that is open needs no alarm, and a failure sets the next.
                if let Err(error) = shared.slot_or_new(session).mailbox(&shared) {
                    tracing::debug!(%session, %error, "not opened");
                }
            }
            alarms.first().map(|at| at.since(now))
        };
        // The adapter is not kept alive by its alarm clock: it rings in vain once, and ends.
        let changed = alarms.changed.notified();
        drop(tokio::time::timeout(first.unwrap_or(MOST_PATIENT).min(MOST_PATIENT), changed).await);
    }
}

const MOST_PATIENT: Duration = Duration::from_secs(60);
