//! How do the sessions of one process write to each other?
//!
//! A [`LocalNetwork`] knows its members by name. Each has a bounded inbox; a sender hears at once if its envelope has no
//! place there. Every request gets exactly one terminal response: the receiver's, or, if that refuses it, goes away or
//! stays silent, the network's.

use super::{
    bridge::InteractionEvent,
    candidate::{Ingress, PlainEvent},
    command::CommsCommand,
    counters::{PeerCounters, PeerCounts},
    envelope::{Envelope, EnvelopeId, PeerName},
    inbox::{Claim, Inbox, InboxRoom, Receipt},
    network::{Member, MemberState, Network, end_overdue, lock},
    outbox::{Arrival, KeptEnvelope, Outbox},
    seam::{CommsError, CommsRuntime, PeerEntry, Refusal, SendError, SendReceipt, TrustedPeer},
};
use async_trait::async_trait;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use windlass_core::Delivery;

/// Bounds of a network.
#[derive(Clone, Copy, Debug)]
pub struct NetworkRules {
    /// How long a request waits for its terminal response.
    pub request_deadline: Duration,
    /// Requests of one member that wait for an answer.
    pub requests: usize,
    /// How much each inbox holds.
    pub room: InboxRoom,
    /// Members.
    pub members: usize,
}

impl Default for NetworkRules {
    fn default() -> Self {
        NetworkRules {
            request_deadline: Duration::from_secs(300),
            requests: 256,
            room: InboxRoom::default(),
            members: 100_000,
        }
    }
}

/// Rules of one member.
#[derive(Clone, Debug, Default)]
pub struct PeerRules {
    /// Whom it hears, and what it wants silent.
    pub ingress: Ingress,
    /// The runtime it lives in: its session's id as text.
    pub runtime_id: Option<String>,
}

/// Why a member could not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Somebody has the name already, and keeps it.
    #[error("already_attached: somebody is called {0} already; choose another name, or let the other one leave")]
    NameTaken(PeerName),
    /// There are too many.
    #[error("quota_exceeded: the network has {limit} members, and room for no more")]
    Full {
        /// The most allowed.
        limit: usize,
    },
}

/// The sessions of one process that may write to each other. Cheap to clone.
#[derive(Clone)]
pub struct LocalNetwork {
    network: Arc<Network>,
}

/// One member of a network: the comms of one session. When the last copy is dropped, it leaves.
pub struct LocalPeer {
    network: Arc<Network>,
    member: Arc<Member>,
}

/// An interaction that was injected here, to wait for.
#[derive(Debug)]
pub struct Interaction {
    /// Names it.
    pub id: EnvelopeId,
    ended: oneshot::Receiver<InteractionEvent>,
}

impl Interaction {
    /// How it ended. Cancel-safe only in that it gives the wait up.
    pub async fn ended(self) -> InteractionEvent {
        let gone = || InteractionEvent::InteractionFailed { error: "the interaction was dropped".into() };
        self.ended.await.unwrap_or_else(|_| gone())
    }
}

impl LocalNetwork {
    /// A network without members. Call it within a tokio runtime: one task is spawned, which ends overdue requests.
    pub fn new(rules: NetworkRules) -> LocalNetwork {
        let network = Arc::new(Network {
            rules,
            members: Mutex::default(),
            deadlines: Mutex::default(),
            earlier: Arc::new(Notify::new()),
            counts: PeerCounts::default(),
        });
        tokio::spawn(end_overdue(Arc::downgrade(&network), Arc::clone(&network.earlier)));
        LocalNetwork { network }
    }

    /// Adds a member.
    ///
    /// # Errors
    /// [`JoinError`]; whoever has the name keeps it.
    pub fn join(&self, name: PeerName, rules: PeerRules) -> Result<Arc<LocalPeer>, JoinError> {
        let limit = self.network.rules.members;
        let mut members = lock(&self.network.members);
        if members.contains_key(&name) {
            return Err(JoinError::NameTaken(name));
        }
        if members.len() >= limit {
            return Err(JoinError::Full { limit });
        }
        let member = Arc::new(Member {
            name: name.clone(),
            runtime_id: rules.runtime_id,
            inbox: Inbox::new(self.network.rules.room),
            state: Mutex::new(MemberState { ingress: rules.ingress, ..MemberState::default() }),
            subscribers: Mutex::default(),
        });
        members.insert(name, Arc::clone(&member));
        Ok(Arc::new(LocalPeer { network: Arc::clone(&self.network), member }))
    }

    /// What was let in, turned away and ended so far.
    pub fn counters(&self) -> PeerCounters {
        self.network.counts.read()
    }
}

impl LocalPeer {
    /// Its name.
    pub fn name(&self) -> &PeerName {
        &self.member.name
    }

    /// How many entries its inbox holds.
    pub fn waiting(&self) -> usize {
        self.member.inbox.len()
    }

    /// From now on requests with these intents start no runs. What waits keeps its class.
    pub fn set_silent_intents(&self, intents: impl IntoIterator<Item = String>) {
        self.member.state().ingress.silent_intents = intents.into_iter().collect();
    }

    /// Puts a plain event into its own inbox.
    ///
    /// # Errors
    /// [`SendError::InboxFull`], [`SendError::InputClosed`]: it is not there.
    pub fn inject(&self, event: PlainEvent) -> Result<EnvelopeId, SendError> {
        let id = event.id;
        self.member.inbox.offer(event.candidate()).map_err(|error| self.network.no_room(error, &self.member.name))?;
        Ok(id)
    }

    /// As [`LocalPeer::inject`], to wait for its end.
    ///
    /// # Errors
    /// As there.
    pub fn inject_and_subscribe(&self, event: PlainEvent) -> Result<Interaction, SendError> {
        let id = event.id;
        let (subscriber, ended) = oneshot::channel();
        lock(&self.member.subscribers).insert(id, subscriber);
        match self.inject(event) {
            Ok(_) => Ok(Interaction { id, ended }),
            Err(error) => {
                lock(&self.member.subscribers).remove(&id);
                Err(error)
            }
        }
    }

    /// Leaves the network: what waits is refused, and whoever waits for its answers hears that none comes.
    pub fn leave(&self) {
        let mut members = lock(&self.network.members);
        if members.get(&self.member.name).is_some_and(|member| Arc::ptr_eq(member, &self.member)) {
            members.remove(&self.member.name);
        }
        drop(members);
        let refusal = Refusal { code: "peer_offline".into(), reason: "the peer has left".into() };
        self.network.shut(&self.member, &refusal);
    }
}

impl LocalPeer {
    /// Carries an envelope as often as it is called. When it is admitted, the receiver's comms say so.
    fn carrier(
        &self,
        envelope: Envelope,
        within: Duration,
    ) -> impl Fn() -> std::future::Ready<Result<Arrival, SendError>> + Send + Sync + 'static {
        let (network, member, until) = (Arc::clone(&self.network), Arc::clone(&self.member), Instant::now() + within);
        move || std::future::ready(network.carry(&member, &envelope, until).map(|()| Arrival::Waiting))
    }
}

impl Drop for LocalPeer {
    fn drop(&mut self) {
        self.leave();
    }
}

#[async_trait]
impl CommsRuntime for LocalPeer {
    async fn add_trusted_peer(&self, peer: TrustedPeer) -> Result<(), SendError> {
        self.member.state().trusted.insert(peer.key, peer.name);
        Ok(())
    }

    async fn remove_trusted_peer(&self, key: &PeerName) -> Result<bool, SendError> {
        Ok(self.member.state().trusted.remove(key).is_some())
    }

    async fn peers(&self) -> Vec<PeerEntry> {
        let present: Vec<PeerName> = lock(&self.network.members).keys().cloned().collect();
        let state = self.member.state();
        let entry = |key: PeerName| {
            let trusted = state.trusted.get(&key);
            PeerEntry { name: trusted.unwrap_or(&key).clone(), trusted: trusted.is_some(), key }
        };
        let others = present.into_iter().filter(|key| *key != self.member.name).map(entry);
        others.filter(|entry| entry.trusted || !state.ingress.auth_required).collect()
    }

    async fn send(&self, command: CommsCommand) -> Result<SendReceipt, SendError> {
        match command {
            CommsCommand::Input { source, content, handling_mode } => {
                let event = PlainEvent { content, handling_mode, ..PlainEvent::new(source, "") };
                Ok(SendReceipt::InputAccepted { interaction_id: self.inject(event)? })
            }
            CommsCommand::Peer { to, body, causes, id } => {
                let envelope = self.network.envelope(&self.member, &to, body, &causes, id)?;
                let receipt = SendReceipt::of(&envelope, false);
                let within = self.network.rules.request_deadline;
                let outbox = self.member.state().outbox.clone();
                match outbox.and_then(|outbox| Some((outbox.now()?, outbox))) {
                    Some((now, outbox)) => {
                        let kept = KeptEnvelope::new(envelope.clone(), to, now, within).repeated(id.is_some());
                        outbox.send(kept, self.carrier(envelope, within)).await?;
                    }
                    None => self.network.carry(&self.member, &envelope, Instant::now() + within)?,
                }
                Ok(receipt)
            }
        }
    }

    fn bound(&self, outbox: Outbox, kept: Vec<KeptEnvelope>) {
        self.member.state().outbox = Some(outbox.clone());
        let Some(now) = outbox.now() else { return };
        for kept in kept {
            let within = kept.until.since(now);
            if !kept.delivered {
                outbox.carry_on(&kept, self.carrier(kept.envelope.clone(), within));
            } else if let Err(error) = self.network.expect_answer(&self.member, &kept.envelope, Instant::now() + within)
            {
                // Its session ends it when its time is up.
                tracing::warn!(peer = %self.member.name, %error, "the answer to a request will not be let in");
            }
        }
    }

    async fn claim(&self, most: usize) -> Result<Vec<Claim>, CommsError> {
        Ok(self.member.inbox.claim(most))
    }

    async fn acknowledge(&self, receipts: &[Receipt]) -> Result<(), CommsError> {
        for claim in self.member.inbox.acknowledge(receipts) {
            self.network.report(&claim, &Delivery::Delivered);
        }
        Ok(())
    }

    async fn refuse(&self, claim: &Claim, refusal: &Refusal) -> Result<(), CommsError> {
        self.member.inbox.acknowledge(&[claim.receipt]);
        self.network.tell_refused(&self.member, claim, refusal);
        Ok(())
    }

    async fn notified(&self) {
        self.member.inbox.notified().await;
    }

    async fn close(&self, refusal: &Refusal) {
        self.network.shut(&self.member, refusal);
    }

    fn is_subscribed(&self, interaction: EnvelopeId) -> bool {
        lock(&self.member.subscribers).contains_key(&interaction)
    }

    async fn tell(&self, interaction: EnvelopeId, event: InteractionEvent) {
        if let Some(subscriber) = lock(&self.member.subscribers).remove(&interaction) {
            // An error says that nobody waits any more.
            drop(subscriber.send(event));
        }
    }

    fn mark_interaction_complete(&self, interaction: EnvelopeId) {
        lock(&self.member.subscribers).remove(&interaction);
    }
}
