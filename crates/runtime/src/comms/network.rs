//! How does an envelope find its way within one process, and how does every request end once?

use super::{
    bridge::InteractionEvent,
    candidate::{Ingress, InteractionContent, PeerInputCandidate, PeerInputClass, SenderNames, Untrusted},
    chain::Chains,
    counters::PeerCounts,
    envelope::{ChainId, Envelope, EnvelopeBody, EnvelopeId, MAX_HOPS, PeerName, ResponseStatus},
    inbox::{Claim, Inbox, InboxError},
    local::NetworkRules,
    outbox::Outbox,
    seam::{Refusal, SendError},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use windlass_core::{DEADLINE_EXCEEDED, Delivery};

pub(super) struct Network {
    pub(super) rules: NetworkRules,
    pub(super) members: Mutex<BTreeMap<PeerName, Arc<Member>>>,
    pub(super) deadlines: Mutex<BTreeSet<(Instant, PeerName, EnvelopeId)>>,
    pub(super) earlier: Arc<Notify>,
    pub(super) counts: PeerCounts,
}

pub(super) struct Member {
    pub(super) name: PeerName,
    pub(super) runtime_id: Option<String>,
    pub(super) inbox: Inbox,
    /// Never held while another member's is taken.
    pub(super) state: Mutex<MemberState>,
    pub(super) subscribers: Mutex<HashMap<EnvelopeId, oneshot::Sender<InteractionEvent>>>,
}

#[derive(Default)]
pub(super) struct MemberState {
    /// Where its session keeps what it sends, once it has one.
    pub(super) outbox: Option<Outbox>,
    pub(super) ingress: Ingress,
    /// By key; here a key is the name of a member.
    pub(super) trusted: BTreeMap<PeerName, PeerName>,
    /// Its requests that have no terminal response yet.
    pub(super) asked: HashMap<EnvelopeId, Asked>,
    /// Requests to it that have none, and who asked.
    pub(super) owed: HashSet<(PeerName, EnvelopeId)>,
    pub(super) chains: Chains,
}

pub(super) struct Asked {
    pub(super) of: PeerName,
    pub(super) deadline: Instant,
    pub(super) chain: ChainId,
    pub(super) hops: u32,
}

impl Network {
    /// The envelope that a command becomes, and its receiver as the sender calls it.
    pub(super) fn envelope(
        &self,
        sender: &Member,
        to: &PeerName,
        body: EnvelopeBody,
        causes: &[EnvelopeId],
        id: Option<EnvelopeId>,
    ) -> Result<Envelope, SendError> {
        body.validate().map_err(|error| SendError::Validation(error.to_string()))?;
        let receiver = self.receiver(sender, to)?;
        let (chain, hops) = sender.state().chains.after(&body, causes);
        // An answer ends something; only what asks for more can go round for ever.
        if hops > MAX_HOPS && !matches!(body, EnvelopeBody::Response { .. }) {
            return Err(self.turned_away(SendError::LoopDetected { hops, limit: MAX_HOPS }));
        }
        let (from, to) = (sender.name.clone(), receiver.name.clone());
        Ok(Envelope { id: id.unwrap_or_default(), from, to, chain, hops, body })
    }

    /// Puts an envelope into its receiver's inbox. Carried twice, it is there twice, and its session takes it once.
    pub(super) fn carry(&self, sender: &Member, envelope: &Envelope, until: Instant) -> Result<(), SendError> {
        let receiver = lock(&self.members).get(&envelope.to).cloned();
        let receiver = receiver.ok_or_else(|| SendError::PeerOffline(envelope.to.clone()))?;
        match envelope.body {
            EnvelopeBody::Message { .. } => self.deliver(sender, &receiver, envelope),
            EnvelopeBody::Request { .. } => self.ask(sender, &receiver, envelope, until),
            EnvelopeBody::Response { in_reply_to, status, .. } => {
                self.answer(sender, &receiver, envelope, in_reply_to, status)
            }
        }
    }

    /// Whom a sender means: by the name that came with its trust, else by the name of the member.
    fn receiver(&self, sender: &Member, to: &PeerName) -> Result<Arc<Member>, SendError> {
        let key = sender.state().trusted.iter().find(|(_, name)| *name == to).map(|(key, _)| key.clone());
        let found = lock(&self.members).get(key.as_ref().unwrap_or(to)).cloned();
        found.ok_or_else(|| match key {
            Some(_) => SendError::PeerOffline(to.clone()),
            None => SendError::PeerNotFound(to.clone()),
        })
    }

    fn ask(&self, sender: &Member, receiver: &Member, envelope: &Envelope, deadline: Instant) -> Result<(), SendError> {
        self.expect_answer(sender, envelope, deadline)?;
        let owed = (sender.name.clone(), envelope.id);
        receiver.state().owed.insert(owed.clone());
        if let Err(error) = self.deliver(sender, receiver, envelope) {
            receiver.state().owed.remove(&owed);
            lock(&self.deadlines).remove(&(deadline, sender.name.clone(), envelope.id));
            // If the receiver went away meanwhile, the answer to that is on its way, and it is one answer only.
            return if sender.state().asked.remove(&envelope.id).is_some() { Err(error) } else { Ok(()) };
        }
        self.earlier.notify_one();
        Ok(())
    }

    /// From now on a request waits for its answer.
    pub(super) fn expect_answer(
        &self,
        sender: &Member,
        envelope: &Envelope,
        deadline: Instant,
    ) -> Result<(), SendError> {
        let mut state = sender.state();
        if state.asked.len() >= self.rules.requests {
            return Err(SendError::TooManyRequests { limit: self.rules.requests });
        }
        let Envelope { chain, hops, .. } = *envelope;
        state.asked.insert(envelope.id, Asked { of: envelope.to.clone(), deadline, chain, hops });
        drop(state);
        lock(&self.deadlines).insert((deadline, sender.name.clone(), envelope.id));
        self.earlier.notify_one();
        Ok(())
    }

    fn answer(
        &self,
        sender: &Member,
        receiver: &Member,
        envelope: &Envelope,
        request: EnvelopeId,
        status: ResponseStatus,
    ) -> Result<(), SendError> {
        let asked = {
            let mut state = receiver.state();
            if state.asked.get(&request).is_none_or(|asked| asked.of != sender.name) {
                // What a session has asked in an earlier life is known once it is bound.
                let is_bound = state.outbox.is_some();
                drop(state);
                let closed = SendError::RequestClosed(request);
                return Err(if is_bound {
                    self.turned_away(closed)
                } else {
                    SendError::PeerOffline(receiver.name.clone())
                });
            }
            if !status.is_terminal() {
                drop(state);
                return self.deliver(sender, receiver, envelope);
            }
            let candidate = state.classify(envelope, sender).map_err(|_| self.untrusted(receiver))?;
            // Its place in the inbox is kept since it was asked, so it cannot be turned away for want of room.
            receiver.inbox.offer_awaited(candidate).map_err(|error| self.no_room(error, &receiver.name))?;
            state.chains.remember(envelope);
            state.asked.remove(&request)
        };
        self.counts.take();
        sender.state().owed.remove(&(receiver.name.clone(), request));
        if let Some(asked) = asked {
            lock(&self.deadlines).remove(&(asked.deadline, receiver.name.clone(), request));
        }
        Ok(())
    }

    fn deliver(&self, sender: &Member, receiver: &Member, envelope: &Envelope) -> Result<(), SendError> {
        let mut state = receiver.state();
        let candidate = state.classify(envelope, sender).map_err(|_| self.untrusted(receiver))?;
        receiver.inbox.offer(candidate).map_err(|error| self.no_room(error, &receiver.name))?;
        state.chains.remember(envelope);
        self.counts.take();
        Ok(())
    }

    /// Ends a request in place of the member that was asked. Does nothing if it is over.
    fn end_request(&self, whose: &PeerName, request: EnvelopeId, refusal: &Refusal) {
        let Some(member) = lock(&self.members).get(whose).cloned() else { return };
        let (asked, offered) = {
            let mut state = member.state();
            let Some(asked) = state.asked.remove(&request) else { return };
            let envelope = Envelope {
                id: EnvelopeId::new(),
                from: asked.of.clone(),
                to: whose.clone(),
                chain: asked.chain,
                hops: asked.hops + 1,
                body: failure(request, refusal),
            };
            let name = state.trusted.get(&asked.of).cloned();
            let names = SenderNames { trusted: Some(name.as_ref().unwrap_or(&asked.of)), ..SenderNames::default() };
            // The network speaks for the one that was asked, so trust is not in question.
            let candidate = state.ingress.classify(&envelope, names);
            state.chains.remember(&envelope);
            (asked, candidate.ok().map(|candidate| member.inbox.offer_awaited(candidate)))
        };
        self.counts.end_for();
        lock(&self.deadlines).remove(&(asked.deadline, whose.clone(), request));
        if let Some(receiver) = lock(&self.members).get(&asked.of).cloned() {
            receiver.state().owed.remove(&(whose.clone(), request));
        }
        if let Some(Err(InboxError::Closed)) = offered {
            tracing::debug!(peer = %whose, %request, "whoever asked takes nothing any more");
        }
    }

    /// Tells the sender of an envelope that a session did not take it.
    pub(super) fn tell_refused(&self, member: &Member, claim: &Claim, refusal: &Refusal) {
        self.counts.refuse(refusal.code.clone());
        let interaction = &claim.candidate.interaction;
        match (&interaction.content, claim.candidate.class) {
            (_, PeerInputClass::PlainEvent) => {}
            (InteractionContent::Response { .. }, _) => self.report(claim, &Delivery::Withdrawn),
            (InteractionContent::Request { .. }, _) => self.end_request(&interaction.from_key, interaction.id, refusal),
            (InteractionContent::Message { .. }, _) => {
                let Some(sender) = lock(&self.members).get(&interaction.from_key).cloned() else { return };
                let (chain, hops) = member.state().chains.after(&failure(interaction.id, refusal), &[]);
                let (from, to) = (member.name.clone(), sender.name.clone());
                let body = failure(interaction.id, refusal);
                let envelope = Envelope { id: EnvelopeId::new(), from, to, chain, hops, body };
                if let Err(error) = self.deliver(member, &sender, &envelope) {
                    tracing::warn!(peer = %sender.name, %error, "a sender could not be told of a refusal");
                }
            }
        }
    }

    /// Tells whoever sent what was claimed, and keeps it, what became of it.
    pub(super) fn report(&self, claim: &Claim, delivery: &Delivery) {
        if claim.candidate.class == PeerInputClass::PlainEvent {
            return;
        }
        let interaction = &claim.candidate.interaction;
        let sender = lock(&self.members).get(&interaction.from_key).cloned();
        if let Some(outbox) = sender.and_then(|sender| sender.state().outbox.clone()) {
            outbox.report_soon(interaction.id, delivery.clone());
        }
    }

    /// Closes an inbox: what waits in it, and what its member owes, is refused.
    pub(super) fn shut(&self, member: &Member, refusal: &Refusal) {
        for claim in member.inbox.close() {
            self.tell_refused(member, &claim, refusal);
        }
        let owed: Vec<_> = member.state().owed.drain().collect();
        for (whose, request) in owed {
            self.end_request(&whose, request, refusal);
        }
        let asked: Vec<_> = member.state().asked.drain().collect();
        let mut deadlines = lock(&self.deadlines);
        for (request, asked) in asked {
            deadlines.remove(&(asked.deadline, member.name.clone(), request));
        }
    }

    /// The requests that are overdue, and when the next one will be.
    fn overdue(&self, now: Instant) -> (Vec<(PeerName, EnvelopeId)>, Option<Instant>) {
        let mut deadlines = lock(&self.deadlines);
        let mut overdue = Vec::new();
        while let Some((at, _, _)) = deadlines.first()
            && *at <= now
            && let Some((_, whose, request)) = deadlines.pop_first()
        {
            overdue.push((whose, request));
        }
        (overdue, deadlines.first().map(|(at, _, _)| *at))
    }

    fn untrusted(&self, receiver: &Member) -> SendError {
        self.turned_away(SendError::PeerNotSendable(receiver.name.clone()))
    }

    pub(super) fn no_room(&self, error: InboxError, of: &PeerName) -> SendError {
        self.turned_away(match error {
            InboxError::Full => SendError::InboxFull(of.clone()),
            InboxError::Closed => SendError::InputClosed(of.clone()),
        })
    }

    /// Counts what is not let in.
    fn turned_away(&self, error: SendError) -> SendError {
        self.counts.refuse(error.code().to_owned().into());
        error
    }
}

impl Member {
    pub(super) fn state(&self) -> MutexGuard<'_, MemberState> {
        lock(&self.state)
    }
}

impl MemberState {
    fn classify(&self, envelope: &Envelope, sender: &Member) -> Result<PeerInputCandidate, Untrusted> {
        let names = SenderNames {
            trusted: self.trusted.get(&envelope.from),
            registered: Some(&sender.name),
            runtime_id: sender.runtime_id.as_deref(),
        };
        self.ingress.classify(envelope, names)
    }
}

fn failure(in_reply_to: EnvelopeId, refusal: &Refusal) -> EnvelopeBody {
    let result = json!({ "code": refusal.code, "reason": refusal.reason });
    EnvelopeBody::Response { in_reply_to, status: ResponseStatus::Failed, result, handling_mode: None }
}

/// Ends requests whose time is up. Ends with the network.
pub(super) async fn end_overdue(network: Weak<Network>, earlier: Arc<Notify>) {
    let refusal = Refusal { code: DEADLINE_EXCEEDED.0.into(), reason: DEADLINE_EXCEEDED.1.into() };
    loop {
        let next = {
            let Some(network) = network.upgrade() else { return };
            let (overdue, next) = network.overdue(Instant::now());
            for (whose, request) in overdue {
                network.end_request(&whose, request, &refusal);
            }
            next
        };
        // Looks up now and then: a network that is gone tells nobody.
        let at = next.unwrap_or_else(|| Instant::now() + MOST_PATIENT).min(Instant::now() + MOST_PATIENT);
        drop(tokio::time::timeout_at(at, earlier.notified()).await);
    }
}

const MOST_PATIENT: Duration = Duration::from_secs(60);

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
