//! How does an owner let go of its session: because it is idle, or because it is told to?

use super::{
    Actor, Exit,
    turns::{clean_up, gone},
};
use crate::{
    error::SessionError,
    mailbox::{Answer, Letter},
    waiters::Waiters,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use windlass_core::Event;

/// The reason under which a session is unregistered; its waiters and its executor hear it.
pub(crate) const UNREGISTERED: &str = "runtime session unregistered";

/// How long after a factory has failed it is asked again, if nobody uses the session before.
const ASK_FACTORY_AGAIN: Duration = Duration::from_secs(60);

impl Actor {
    pub(super) fn may_be_put_away(&self, waiters: &mut Waiters) -> bool {
        let idle_after = self.shared.options.idle_after;
        let soon = self.session.next_due().is_some_and(|due| due.at.since(self.shared.clock.now()) <= idle_after);
        self.last_active + idle_after <= Instant::now()
            && self.turn.is_none()
            && self.stopping.as_ref().is_none_or(CancellationToken::is_cancelled)
            && self.session.current_attempt().is_none()
            && self.step.entries.is_empty()
            && !soon
            && !(self.executor.is_some() && self.session.is_pending())
            && !self.session.has_ephemeral_inputs()
            && waiters.is_empty()
    }

    /// Lets go of an idle session. If a message has come meanwhile, the next owner gets it.
    pub(super) async fn put_away(&mut self, inbox: &mut mpsc::Receiver<Letter>, first: &mut Vec<Letter>) {
        self.set_alarm();
        self.slot.shut();
        inbox.close();
        while let Some(message) = inbox.recv().await {
            first.push(message);
        }
        if !first.is_empty() {
            // Handed to the next owner; a sender's order is kept, because its later messages come after these.
            let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&self.slot));
            let messages = std::mem::take(first);
            self.shared.tasks.spawn(async move {
                for message in messages {
                    if let Err(error) = slot.send(&shared, *message).await {
                        tracing::debug!(session = %slot.id, %error, "message came while the runtime shut down");
                    }
                }
            });
            return;
        }
        self.snapshot_at_leave().await;
        self.shared.put_away(&self.slot);
    }

    /// Whether something waits for an executor that could not be made; whoever makes them has to be asked again.
    pub(super) fn is_unattended(&self) -> bool {
        self.executor.is_none() && self.shared.factory.is_some() && self.session.is_pending()
    }

    pub(super) fn ask_again_after(&self) -> Duration {
        ASK_FACTORY_AGAIN.max(self.shared.options.idle_after)
    }

    /// For when there is something to do although nobody asks. Set before the next owner can be called, who knows better.
    pub(super) fn set_alarm(&self) {
        // Whoever could not make an executor is asked again for what waits, but not in haste.
        let soonest = self.shared.clock.now() + self.ask_again_after();
        let waits = self.session.is_pending().then_some(soonest);
        let waits = waits.or(self.session.pending_at().map(|at| at.max(soonest)));
        let unattended = waits.filter(|_| self.executor.is_none() && self.shared.factory.is_some());
        if unattended.is_none() {
            self.shared.unattended.clear(self.slot.id);
        }
        let due = self.session.next_due().map(|due| due.at);
        if let Some(at) = due.into_iter().chain(unattended).min() {
            self.shared.alarms.set(self.slot.id, at);
        }
    }

    /// Lets go in good order: the run is released, waiters hear why, and the last entry is durable. Until the executor is
    /// gone the session stays owned, so that no other one can begin beside it; who comes meanwhile is refused.
    pub(super) async fn leave(
        &mut self,
        (reason, reply): (&'static str, Answer<()>),
        late: Vec<Letter>,
        inbox: &mut mpsc::Receiver<Letter>,
        waiters: &mut Waiters,
    ) -> Exit {
        self.take_step(Event::Release { reason: reason.to_owned() });
        self.take_step(Event::Detach);
        let left = self.commit().await.map_err(SessionError::Store);
        match &left {
            // What was to start is cut off already.
            Ok(()) => drop(self.perform(waiters)),
            Err(error) => self.refuse_all(error),
        }
        waiters.terminate(reason);
        let mut leaving = vec![(reason, reply)];
        let mut refuse = |letter: Letter| letter.refuse_but_leave(&SessionError::Draining, &mut leaving);
        late.into_iter().for_each(&mut refuse);
        let gone = gone(self.stop_current_turn());
        tokio::pin!(gone);
        loop {
            tokio::select! {
                biased;
                () = &mut gone => break,
                letter = inbox.recv() => letter.into_iter().for_each(&mut refuse),
            }
        }
        if left.is_ok() {
            self.snapshot_at_leave().await;
        }
        // One that was attached by hand is told with the slot.
        if let (Some(executor), None) = (self.executor.take(), self.slot.executor()) {
            let (session, limit) = (self.slot.id, self.shared.options.stop_limit);
            self.shared.tasks.spawn(clean_up(executor, session, reason, limit));
        }
        self.shared.let_go(&self.slot, reason);
        inbox.close();
        while let Some(letter) = inbox.recv().await {
            refuse(letter);
        }
        for (_, reply) in leaving {
            drop(reply.send(left.clone()));
        }
        Exit::Done
    }
}
