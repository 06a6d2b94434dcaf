//! Who owns a session, from its opening to its putting away?
//!
//! One task per open session. It opens the session from the store, lives (`actor.rs`) until there is nothing to do,
//! and lets go. If the store fails, it drops the session's state, never rolls it back, and opens it again: what is
//! true then is what the journal says. Whoever waits for an input keeps waiting through that.

use crate::{
    actor::{Actor, Exit, panic_text},
    creation::first_word,
    error::SessionError,
    executor::{CoreExecutor, ExecutorFactory},
    feed::FeedHub,
    mailbox::{Letter, Mailbox, Message},
    shared::Shared,
    store::{InputRef, StoreError},
    waiters::Waiters,
};
use futures_util::FutureExt;
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use windlass_core::{Event, Outcome, Seq, Session, SessionId};

/// What is known of a session in this process, open or put away.
pub(crate) struct Slot {
    pub(crate) id: SessionId,
    door: Mutex<Door>,
    /// Attached by hand; stays through putting away.
    executor: Mutex<Option<Arc<dyn CoreExecutor>>>,
    hub: OnceLock<Arc<FeedHub>>,
    /// Whether the last owner ended only because the store failed: its run was cut off, but no process died.
    lost: AtomicBool,
    /// Failures of the store, and of owners, since the last append.
    failures: AtomicU32,
}

/// Where a session's messages go.
enum Door {
    /// Nobody owns it; the next message calls an owner.
    Shut,
    /// To its owner.
    Open(Mailbox),
    /// It is let go: nobody opens it through this slot again, for there may be another one of its name.
    Gone,
}

impl Slot {
    pub(crate) fn new(id: SessionId) -> Slot {
        Slot {
            id,
            door: Mutex::new(Door::Shut),
            executor: Mutex::new(None),
            hub: OnceLock::new(),
            lost: AtomicBool::new(false),
            failures: AtomicU32::new(0),
        }
    }

    /// Puts a message into the session's mailbox, opening the session if it is not.
    pub(crate) async fn send(self: &Arc<Self>, shared: &Arc<Shared>, message: Message) -> Result<(), SessionError> {
        let mut message = Box::new(message);
        loop {
            let mailbox = match self.mailbox(shared) {
                // A handle is a name: it may name a session that was registered again.
                Err(SessionError::NotFound(id)) => match shared.slot(id).map(|slot| slot.mailbox(shared)) {
                    Some(mailbox) => mailbox?,
                    None => return Err(SessionError::NotFound(id)),
                },
                mailbox => mailbox?,
            };
            match mailbox.send_boxed(message).await {
                Ok(()) => return Ok(()),
                // The owner has just let go; the next one gets it.
                Err(back) => message = back,
            }
        }
    }

    /// The mailbox of the owner, who is called if there is none.
    pub(crate) fn mailbox(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<Mailbox, SessionError> {
        let mut door = self.door();
        match &*door {
            Door::Open(mailbox) if !mailbox.0.is_closed() => return Ok(mailbox.clone()),
            // Looked at under the lock: whoever shuts the runtime down closes this first, and finds every owner then.
            _ if shared.tasks.is_closed() => return Err(SessionError::Draining),
            Door::Gone => return Err(SessionError::NotFound(self.id)),
            Door::Shut | Door::Open(_) => {}
        }
        let (mailbox, inbox) = Mailbox::new();
        *door = Door::Open(mailbox.clone());
        shared.tasks.spawn(own(Arc::clone(shared), Arc::clone(self), mailbox.clone(), inbox));
        Ok(mailbox)
    }

    /// The mailbox of the owner, if the session is open.
    pub(crate) fn open_mailbox(&self) -> Option<Mailbox> {
        match &*self.door() {
            Door::Open(mailbox) if !mailbox.0.is_closed() => Some(mailbox.clone()),
            _ => None,
        }
    }

    /// The mailbox of the owner. If there is none, there will never be one.
    pub(crate) fn open_mailbox_or_let_go(&self) -> Option<Mailbox> {
        let mut door = self.door();
        match &*door {
            Door::Open(mailbox) if !mailbox.0.is_closed() => Some(mailbox.clone()),
            _ => {
                *door = Door::Gone;
                None
            }
        }
    }

    /// Whether it is let go of for good.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.door(), Door::Gone)
    }

    /// From now on the next message calls a new owner.
    pub(crate) fn shut(&self) {
        *self.door() = Door::Shut;
    }

    /// From now on nobody is called.
    pub(crate) fn let_go(&self) {
        *self.door() = Door::Gone;
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the session decided is durable: whatever failed is over.
    pub(crate) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Counts a failure. Returns how long to wait before the next try.
    fn failed(&self, longest: Duration) -> Duration {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        REOPEN_FIRST.saturating_mul(1 << failures.min(20)).min(longest)
    }

    pub(crate) fn executor(&self) -> Option<Arc<dyn CoreExecutor>> {
        self.executor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the one before.
    pub(crate) fn set_executor(&self, executor: Option<Arc<dyn CoreExecutor>>) -> Option<Arc<dyn CoreExecutor>> {
        std::mem::replace(&mut *self.executor.lock().unwrap_or_else(PoisonError::into_inner), executor)
    }

    /// Where the session announces commits, made for the first follower. One that is let go of announces nothing more.
    pub(crate) fn follow(&self) -> &Arc<FeedHub> {
        let hub = self.hub.get_or_init(|| Arc::new(FeedHub::new()));
        // Looked at after the hub is there: whoever lets go of the slot shuts its door first, and then tells the hub.
        if matches!(*self.door(), Door::Gone) {
            hub.let_go();
        }
        hub
    }

    /// Whether it is shut and holds nothing that another slot of its name would not.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(*self.door(), Door::Shut)
            && !self.lost.load(Ordering::Relaxed)
            && self.executor().is_none()
            && self.hub().is_none_or(|hub| hub.is_unfollowed())
    }

    pub(crate) fn hub(&self) -> Option<&Arc<FeedHub>> {
        self.hub.get()
    }
}

/// The wait before a session is opened again after a failure; doubles up to the longest.
const REOPEN_FIRST: Duration = Duration::from_millis(100);
/// Where somebody waits for its inputs, and where nobody does.
const REOPEN_LONGEST: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

async fn own(shared: Arc<Shared>, slot: Arc<Slot>, mailbox: Mailbox, mut inbox: mpsc::Receiver<Letter>) {
    let mut waiters = Waiters::new(shared.observer.clone());
    let mut first = Vec::new();
    loop {
        let error = match live(&shared, &slot, &mailbox, &mut inbox, &mut first, &mut waiters).await {
            Ok(()) => return,
            Err(error) => error,
        };
        let missing = matches!(error, SessionError::NotFound(_));
        if !missing {
            tracing::warn!(session = %slot.id, error = %error, "session lost, its journal will be read again");
        }
        let over = match &error {
            SessionError::NotFound(_) => Some("session never created"),
            SessionError::Store(StoreError::Fenced { .. }) => Some("ownership lost"),
            SessionError::Corrupt { .. }
            | SessionError::Store(StoreError::Corrupt { .. } | StoreError::Newer { .. }) => Some("store corrupt"),
            _ if shared.tasks.is_closed() => Some("runtime shut down"),
            _ => None,
        };
        let mut leaving = Vec::new();
        first.drain(..).for_each(|letter: Letter| letter.refuse_but_leave(&error, &mut leaving));
        while let Ok(letter) = inbox.try_recv() {
            letter.refuse_but_leave(&error, &mut leaving);
        }
        if let Some(reason) = leaving.first().map(|(reason, _)| *reason).or(over) {
            waiters.terminate(reason);
        }
        if waiters.is_empty() {
            if let Some((reason, _)) = leaving.first() {
                // Its last entry could not be made durable, so the next opening accounts for its run.
                shared.let_go(&slot, reason);
            } else if missing {
                shared.let_go(&slot, "session never created");
            } else {
                if over.is_none() {
                    // Nobody waits: the next message, or the alarm, opens it again.
                    shared.alarms.set(slot.id, shared.clock.now() + slot.failed(REOPEN_LONGEST[1]));
                }
                shared.unattended.clear(slot.id);
                slot.shut();
            }
            inbox.close();
            while let Some(letter) = inbox.recv().await {
                letter.refuse_but_leave(&error, &mut leaving);
            }
            for (_, reply) in leaving {
                drop(reply.send(if missing { Ok(()) } else { Err(error.clone()) }));
            }
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(slot.failed(REOPEN_LONGEST[0])) => {}
            message = inbox.recv() => first.extend(message),
        }
    }
}

/// One life of an open session: from its opening to its orderly end, or to a failure.
async fn live(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    mailbox: &Mailbox,
    inbox: &mut mpsc::Receiver<Letter>,
    first: &mut Vec<Letter>,
    waiters: &mut Waiters,
) -> Result<(), SessionError> {
    loop {
        // A panic is contained like a failure of the store: what is true stands in the journal. It counts as a death of
        // the process, so that what makes an owner panic is not tried for ever.
        let opening = Box::pin(open(shared, slot, mailbox, inbox, first, waiters));
        let opened = AssertUnwindSafe(opening).catch_unwind().await;
        let mut actor = opened.unwrap_or_else(|panic| Err(SessionError::panicked(&*panic)))?;
        slot.lost.store(false, Ordering::Relaxed);
        let error = match AssertUnwindSafe(actor.live(inbox, first, waiters)).catch_unwind().await {
            Ok(Exit::Done) => return Ok(()),
            Ok(Exit::Again) => {
                slot.lost.store(true, Ordering::Relaxed);
                continue;
            }
            Ok(Exit::Lost(error)) => {
                // Somebody else may have owned it meanwhile.
                slot.lost.store(!matches!(error, StoreError::Fenced { .. }), Ordering::Relaxed);
                SessionError::Store(error)
            }
            Err(panic) => SessionError::panicked(&*panic),
        };
        // Nobody is told what was not made durable, and the executor ends before anything else begins.
        Box::pin(actor.lose(&error)).await;
        return Err(error);
    }
}

async fn open(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    mailbox: &Mailbox,
    inbox: &mut mpsc::Receiver<Letter>,
    first: &mut Vec<Letter>,
    waiters: &mut Waiters,
) -> Result<Box<Actor>, SessionError> {
    let opened = shared.store.open(slot.id).await?;
    let (limits, policy) = (shared.limits.clone(), Arc::clone(&shared.policy));
    let snapshot = opened.snapshot.as_ref().map(|(_, snapshot)| &**snapshot);
    let mut session = Session::recover(slot.id, limits, policy, snapshot, &opened.tail)
        .map_err(|error| SessionError::Corrupt { session: slot.id, error })?;
    let new = match session.head() {
        Seq::ZERO => Some(first_word(slot.id, inbox, first).await.ok_or(SessionError::NotFound(slot.id))?),
        _ => None,
    };
    let profile = new.as_ref().map_or(&**session.profile(), |new| &new.profile);
    let policy = shared.policy_of(slot.id, profile);
    session.use_policy(policy);
    let agent = new.as_ref().map_or(session.agent(), |new| new.agent.as_ref()).cloned();
    if let Some(hub) = slot.hub() {
        // An append whose result was unknown may have been done.
        hub.committed(session.head());
        hub.completed(session.completion_watermark());
    }
    let executor = match (slot.executor(), &shared.factory) {
        (None, Some(factory)) => make_executor(shared, &**factory, slot.id, agent.as_deref()).await,
        (by_hand, _) => by_hand,
    };
    tell_what_ended(shared, &session, waiters).await?;
    let mut actor = Box::new(Actor::new(Arc::clone(shared), Arc::clone(slot), mailbox.clone(), session, &opened));
    let same_process = slot.lost.load(Ordering::Relaxed);
    actor.take_step(Event::Opened { incarnation: shared.incarnation, agent, same_process });
    if let Some(new) = new {
        actor.begin(&new);
    }
    if let Some(executor) = executor {
        actor.attach(executor, false);
    }
    Ok(actor)
}

/// Asks for an executor, within a limit, whatever it does. Without one inputs wait, `explain` says why there is none, and
/// the next opening asks again.
async fn make_executor(
    shared: &Shared,
    factory: &dyn ExecutorFactory,
    session: SessionId,
    agent: Option<&str>,
) -> Option<Arc<dyn CoreExecutor>> {
    let limit = shared.options.stop_limit;
    let made = AssertUnwindSafe(async { factory.executor(session, agent).await }).catch_unwind();
    let why = match tokio::time::timeout(limit, made).await {
        Ok(Ok(Ok(executor))) => return Some(executor),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(panic)) => format!("the factory panicked: {}", panic_text(&*panic)),
        Err(_) => format!("the factory made none within {limit:?}"),
    };
    tracing::warn!(%session, error = why, "no executor could be made");
    shared.unattended.set(session, why.into(), shared.observer.as_ref());
    None
}

/// Tells those who wait for inputs that ended while the store failed. The waiters of an absorbed input move on to the
/// newer one, which may be over as well.
async fn tell_what_ended(shared: &Shared, session: &Session, waiters: &mut Waiters) -> Result<(), StoreError> {
    loop {
        let Some(input) = waiters.inputs().find(|input| session.active_input(*input).is_none()) else { return Ok(()) };
        match stored_outcome(shared, session.id(), &InputRef::Id(input)).await? {
            Some(outcome) => waiters.settle(input, &outcome),
            None => waiters.forget(input, session.input_state(input)),
        }
    }
}

/// How an input ended, from the entry that ended it; none if it is open, unknown, or the entry is no longer kept.
pub(crate) async fn stored_outcome(
    shared: &Shared,
    session: SessionId,
    by: &InputRef,
) -> Result<Option<Outcome>, StoreError> {
    let Some(row) = shared.store.input(session, by).await? else { return Ok(None) };
    let (Some(state), Some(seq)) = (row.settled, row.settled_seq) else { return Ok(None) };
    let entries = match shared.store.read(session, windlass_core::Seq(seq.0 - 1), 1).await {
        Err(StoreError::Pruned { .. }) => return Ok(None),
        entries => entries?,
    };
    Ok(entries.first().and_then(|entry| entry.record.outcome_of(row.input, state)))
}
