//! Who owns a session, from its opening to its putting away?
//!
//! One task per open session. It opens the session from the store, lives (`actor.rs`) until there is nothing to do,
//! and lets go. If the store fails, it drops the session's state, never rolls it back, and opens it again: what is
//! true then is what the journal says. Whoever waits for an input keeps waiting through that.

use crate::{
    actor::{Actor, Exit},
    completion::{Completion, CompletionOutcome, completion_of},
    error::SessionError,
    executor::CoreExecutor,
    feed::FeedHub,
    mailbox::{Letter, Mailbox, Message},
    shared::Shared,
    store::{InputRef, StoreError},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use windlass_core::{Event, InputId, Outcome, Session, SessionId};

/// What is known of a session in this process, open or put away.
pub(crate) struct Slot {
    pub(crate) id: SessionId,
    /// For its creation.
    pub(crate) agent: Option<Arc<str>>,
    mailbox: Mutex<Option<Mailbox>>,
    /// Attached by hand; stays through putting away.
    executor: Mutex<Option<Arc<dyn CoreExecutor>>>,
    hub: OnceLock<Arc<FeedHub>>,
}

impl Slot {
    pub(crate) fn new(id: SessionId, agent: Option<Arc<str>>) -> Slot {
        Slot { id, agent, mailbox: Mutex::new(None), executor: Mutex::new(None), hub: OnceLock::new() }
    }

    /// Puts a message into the session's mailbox, opening the session if it is not.
    pub(crate) async fn send(self: &Arc<Self>, shared: &Arc<Shared>, message: Message) -> Result<(), SessionError> {
        let mut message = Box::new(message);
        loop {
            let Some(mailbox) = self.mailbox(shared) else { return Err(SessionError::Draining) };
            match mailbox.send_boxed(message).await {
                Ok(()) => return Ok(()),
                // The owner has just let go; the next one gets it.
                Err(back) => message = back,
            }
        }
    }

    /// The mailbox of the owner, who is called if there is none; none while the runtime shuts down.
    fn mailbox(self: &Arc<Self>, shared: &Arc<Shared>) -> Option<Mailbox> {
        let mut current = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mailbox) = current.as_ref().filter(|mailbox| !mailbox.0.is_closed()) {
            return Some(mailbox.clone());
        }
        if shared.tasks.is_closed() {
            return None;
        }
        let (mailbox, inbox) = Mailbox::new();
        *current = Some(mailbox.clone());
        shared.tasks.spawn(own(Arc::clone(shared), Arc::clone(self), mailbox.clone(), inbox));
        Some(mailbox)
    }

    /// The mailbox of the owner, if the session is open.
    pub(crate) fn open_mailbox(&self) -> Option<Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|mailbox| !mailbox.0.is_closed())
    }

    /// From now on the next message calls a new owner.
    pub(crate) fn forget_mailbox(&self) {
        *self.mailbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn executor(&self) -> Option<Arc<dyn CoreExecutor>> {
        self.executor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_executor(&self, executor: Option<Arc<dyn CoreExecutor>>) {
        *self.executor.lock().unwrap_or_else(PoisonError::into_inner) = executor;
    }

    /// Where the session announces commits, made for the first follower.
    pub(crate) fn follow(&self) -> &Arc<FeedHub> {
        self.hub.get_or_init(|| Arc::new(FeedHub::new()))
    }

    pub(crate) fn hub(&self) -> Option<&Arc<FeedHub>> {
        self.hub.get()
    }
}

/// Those who wait for the end of inputs. They outlive a failure of the store.
#[derive(Default)]
pub(crate) struct Waiters {
    by_input: HashMap<InputId, Vec<Waiter>>,
}

struct Waiter {
    sender: oneshot::Sender<Completion>,
    via: Option<InputId>,
}

impl Waiters {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_input.is_empty()
    }

    pub(crate) fn add(&mut self, input: InputId, sender: oneshot::Sender<Completion>) {
        self.by_input.entry(input).or_default().push(Waiter { sender, via: None });
    }

    /// Tells the waiters of an input how it ended. Those of an absorbed input go on waiting for the newer one.
    pub(crate) fn settle(&mut self, input: InputId, outcome: &Outcome) {
        let Some(waiters) = self.by_input.remove(&input) else { return };
        if let Outcome::Coalesced { into } = outcome {
            let moved = waiters.into_iter().map(|waiter| Waiter { via: Some(*into), ..waiter });
            self.by_input.entry(*into).or_default().extend(moved);
            return;
        }
        let outcome = completion_of(outcome);
        for Waiter { sender, via } in waiters {
            // An error says that the waiter is gone.
            drop(sender.send(Completion { outcome: outcome.clone(), via }));
        }
    }

    /// Tells everybody that the session ended under them.
    pub(crate) fn terminate(&mut self, reason: &str) {
        for Waiter { sender, via } in self.by_input.drain().flat_map(|(_, waiters)| waiters) {
            drop(sender.send(Completion { outcome: CompletionOutcome::RuntimeTerminated(reason.into()), via }));
        }
    }

    fn inputs(&self) -> Vec<InputId> {
        self.by_input.keys().copied().collect()
    }
}

/// The wait before a session is opened again after a failure; doubles up to the longest.
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_LONGEST: Duration = Duration::from_secs(5);

async fn own(shared: Arc<Shared>, slot: Arc<Slot>, mailbox: Mailbox, mut inbox: mpsc::Receiver<Letter>) {
    let mut waiters = Waiters::default();
    let mut first = Vec::new();
    let mut delay = REOPEN_FIRST;
    let mut same_process = false;
    loop {
        let error = match Box::pin(open(&shared, &slot, &mailbox, same_process, &mut waiters)).await {
            Ok(actor) => {
                delay = REOPEN_FIRST;
                match actor.live(&mut inbox, &mut first, &mut waiters).await {
                    Exit::Done => return,
                    Exit::Lost(error) => SessionError::Store(error),
                }
            }
            Err(error) => error,
        };
        same_process = true;
        tracing::warn!(session = %slot.id, error = %error, "session lost, its journal will be read again");
        let over = match &error {
            SessionError::Store(StoreError::Fenced { .. }) => Some("ownership lost"),
            SessionError::Corrupt { .. }
            | SessionError::Store(StoreError::Corrupt { .. } | StoreError::Newer { .. }) => Some("store corrupt"),
            _ => None,
        };
        if let Some(reason) = over {
            waiters.terminate(reason);
        }
        first.drain(..).for_each(|message: Letter| message.refuse(error.clone()));
        if waiters.is_empty() {
            // Nobody waits: the next message, or the next sweep, opens it again.
            slot.forget_mailbox();
            inbox.close();
            while let Some(message) = inbox.recv().await {
                message.refuse(error.clone());
            }
            if over.is_none() {
                shared.alarms.set(slot.id, shared.clock.now() + delay);
            }
            return;
        }
        while let Ok(message) = inbox.try_recv() {
            message.refuse(error.clone());
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            message = inbox.recv() => first.extend(message),
        }
        delay = (delay * 2).min(REOPEN_LONGEST);
    }
}

async fn open(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    mailbox: &Mailbox,
    same_process: bool,
    waiters: &mut Waiters,
) -> Result<Box<Actor>, SessionError> {
    let opened = shared.store.open(slot.id).await?;
    let (limits, policy) = (shared.limits.clone(), Arc::clone(&shared.policy));
    let snapshot = opened.snapshot.as_ref().map(|(_, snapshot)| &**snapshot);
    let session = Session::recover(slot.id, limits, policy, snapshot, &opened.tail)
        .map_err(|error| SessionError::Corrupt { session: slot.id, error })?;
    let executor = match (slot.executor(), &shared.factory) {
        (None, Some(factory)) => {
            let agent = session.agent().or(slot.agent.as_ref());
            match factory.executor(slot.id, agent.map(|agent| &**agent)).await {
                Ok(executor) => Some(executor),
                Err(error) => {
                    // Inputs wait, `explain` says for what, and the next opening asks again.
                    tracing::warn!(session = %slot.id, %error, "no executor could be made");
                    None
                }
            }
        }
        (by_hand, _) => by_hand,
    };
    for input in waiters.inputs() {
        if session.active_input(input).is_none()
            && let Some(outcome) = stored_outcome(shared, slot.id, &InputRef::Id(input)).await?
        {
            waiters.settle(input, &outcome);
        }
    }
    let mut actor = Box::new(Actor::new(Arc::clone(shared), Arc::clone(slot), mailbox.clone(), session, &opened));
    let agent = slot.agent.clone();
    actor.take_step(Event::Opened { incarnation: shared.incarnation, agent, same_process });
    if let Some(executor) = executor {
        actor.attach(executor, false);
    }
    Ok(actor)
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
