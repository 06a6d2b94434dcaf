//! How do the sessions of one process write to each other?
//!
//! A [`LocalNetwork`] knows its members by name. Each has a bounded inbox; a sender hears at once if its envelope has no
//! place there. Every request gets exactly one terminal response: the receiver's, or, if that refuses it, goes away or
//! stays silent, the network's.

use super::{
    bridge::InteractionEvent,
    candidate::{Ingress, InteractionContent, PeerInputClass, PlainEvent, SenderNames},
    chain::Chains,
    command::CommsCommand,
    envelope::{ChainId, Envelope, EnvelopeBody, EnvelopeId, MAX_HOPS, PeerName, ResponseStatus},
    inbox::{Claim, Inbox, InboxError, InboxRoom, Receipt},
    seam::{CommsError, CommsRuntime, PeerEntry, Refusal, SendError, SendReceipt, TrustedPeer},
};
use async_trait::async_trait;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

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

/// What a network refused and ended since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Envelopes put into inboxes.
    pub delivered: u64,
    /// Envelopes of senders that are not trusted.
    pub untrusted: u64,
    /// Envelopes for inboxes without room, or closed.
    pub no_room: u64,
    /// Envelopes that would have gone on with a loop.
    pub loops: u64,
    /// Responses to requests that were over, or somebody else's.
    pub late: u64,
    /// Requests that the network ended, because their receiver did not.
    pub ended_for: u64,
    /// Envelopes that a session did not take.
    pub refused: u64,
}

#[derive(Default)]
struct Counts {
    delivered: AtomicU64,
    untrusted: AtomicU64,
    no_room: AtomicU64,
    loops: AtomicU64,
    late: AtomicU64,
    ended_for: AtomicU64,
    refused: AtomicU64,
}

/// The sessions of one process that may write to each other. Cheap to clone.
#[derive(Clone)]
pub struct LocalNetwork {
    network: Arc<Network>,
}

struct Network {
    rules: NetworkRules,
    members: Mutex<BTreeMap<PeerName, Arc<Member>>>,
    deadlines: Mutex<BTreeSet<(Instant, PeerName, EnvelopeId)>>,
    earlier: Arc<Notify>,
    counts: Counts,
}

struct Member {
    name: PeerName,
    runtime_id: Option<String>,
    inbox: Inbox,
    /// Never held while another member's is taken.
    state: Mutex<MemberState>,
    subscribers: Mutex<HashMap<EnvelopeId, oneshot::Sender<InteractionEvent>>>,
}

#[derive(Default)]
struct MemberState {
    ingress: Ingress,
    /// By key; here a key is the name of a member.
    trusted: BTreeMap<PeerName, PeerName>,
    /// Its requests that have no terminal response yet.
    asked: HashMap<EnvelopeId, Asked>,
    /// Requests to it that have none, and who asked.
    owed: HashMap<EnvelopeId, PeerName>,
    chains: Chains,
}

struct Asked {
    of: PeerName,
    deadline: Instant,
    chain: ChainId,
    hops: u32,
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
            counts: Counts::default(),
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

    /// What was refused and ended so far.
    pub fn counters(&self) -> Counters {
        let counts = &self.network.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            delivered: of(&counts.delivered),
            untrusted: of(&counts.untrusted),
            no_room: of(&counts.no_room),
            loops: of(&counts.loops),
            late: of(&counts.late),
            ended_for: of(&counts.ended_for),
            refused: of(&counts.refused),
        }
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
            CommsCommand::Peer { to, body, causes } => self.network.send(&self.member, &to, body, &causes),
        }
    }

    async fn claim(&self, most: usize) -> Result<Vec<Claim>, CommsError> {
        Ok(self.member.inbox.claim(most))
    }

    async fn acknowledge(&self, receipts: &[Receipt]) -> Result<(), CommsError> {
        self.member.inbox.acknowledge(receipts);
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

impl Network {
    fn send(
        &self,
        sender: &Arc<Member>,
        to: &PeerName,
        body: EnvelopeBody,
        causes: &[EnvelopeId],
    ) -> Result<SendReceipt, SendError> {
        body.validate().map_err(|error| SendError::Validation(error.to_string()))?;
        let receiver = self.receiver(sender, to)?;
        let (chain, hops) = sender.state().chains.after(&body, causes);
        let is_response = matches!(body, EnvelopeBody::Response { .. });
        // An answer ends something; only what asks for more can go round for ever.
        if hops > MAX_HOPS && !is_response {
            self.count(|counts| &counts.loops);
            return Err(SendError::LoopDetected { hops, limit: MAX_HOPS });
        }
        let (from, to) = (sender.name.clone(), receiver.name.clone());
        let envelope = Envelope { id: EnvelopeId::new(), from, to, chain, hops, body };
        let id = envelope.id;
        match envelope.body {
            EnvelopeBody::Message { .. } => {
                self.deliver(sender, &receiver, &envelope)?;
                Ok(SendReceipt::PeerMessageSent { envelope_id: id })
            }
            EnvelopeBody::Request { .. } => {
                self.ask(sender, &receiver, &envelope)?;
                Ok(SendReceipt::PeerRequestSent { request_id: id })
            }
            EnvelopeBody::Response { in_reply_to, status, .. } => {
                self.answer(sender, &receiver, &envelope, in_reply_to, status)?;
                Ok(SendReceipt::PeerResponseSent { envelope_id: id, in_reply_to })
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

    fn ask(&self, sender: &Arc<Member>, receiver: &Arc<Member>, envelope: &Envelope) -> Result<(), SendError> {
        let deadline = Instant::now() + self.rules.request_deadline;
        {
            let mut state = sender.state();
            if state.asked.len() >= self.rules.requests {
                return Err(SendError::TooManyRequests { limit: self.rules.requests });
            }
            let Envelope { chain, hops, .. } = *envelope;
            state.asked.insert(envelope.id, Asked { of: receiver.name.clone(), deadline, chain, hops });
        }
        lock(&self.deadlines).insert((deadline, sender.name.clone(), envelope.id));
        receiver.state().owed.insert(envelope.id, sender.name.clone());
        if let Err(error) = self.deliver(sender, receiver, envelope) {
            receiver.state().owed.remove(&envelope.id);
            lock(&self.deadlines).remove(&(deadline, sender.name.clone(), envelope.id));
            // If the receiver went away meanwhile, the answer to that is on its way, and it is one answer only.
            return if sender.state().asked.remove(&envelope.id).is_some() { Err(error) } else { Ok(()) };
        }
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
                drop(state);
                self.count(|counts| &counts.late);
                return Err(SendError::RequestClosed(request));
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
        self.count(|counts| &counts.delivered);
        sender.state().owed.remove(&request);
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
        self.count(|counts| &counts.delivered);
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
        self.count(|counts| &counts.ended_for);
        lock(&self.deadlines).remove(&(asked.deadline, whose.clone(), request));
        if let Some(receiver) = lock(&self.members).get(&asked.of).cloned() {
            receiver.state().owed.remove(&request);
        }
        if let Some(Err(InboxError::Closed)) = offered {
            tracing::debug!(peer = %whose, %request, "whoever asked takes nothing any more");
        }
    }

    /// Tells the sender of an envelope that a session did not take it.
    fn tell_refused(&self, member: &Member, claim: &Claim, refusal: &Refusal) {
        self.count(|counts| &counts.refused);
        let interaction = &claim.candidate.interaction;
        match (&interaction.content, claim.candidate.class) {
            (_, PeerInputClass::PlainEvent) | (InteractionContent::Response { .. }, _) => {}
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

    /// Closes an inbox: what waits in it, and what its member owes, is refused.
    fn shut(&self, member: &Member, refusal: &Refusal) {
        for claim in member.inbox.close() {
            self.tell_refused(member, &claim, refusal);
        }
        let owed: Vec<_> = member.state().owed.drain().collect();
        for (request, whose) in owed {
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
        self.count(|counts| &counts.untrusted);
        SendError::PeerNotSendable(receiver.name.clone())
    }

    fn no_room(&self, error: InboxError, of: &PeerName) -> SendError {
        self.count(|counts| &counts.no_room);
        match error {
            InboxError::Full => SendError::InboxFull(of.clone()),
            InboxError::Closed => SendError::InputClosed(of.clone()),
        }
    }

    fn count(&self, which: impl FnOnce(&Counts) -> &AtomicU64) {
        which(&self.counts).fetch_add(1, Ordering::Relaxed);
    }
}

impl Member {
    fn state(&self) -> MutexGuard<'_, MemberState> {
        lock(&self.state)
    }
}

impl MemberState {
    fn classify(
        &self,
        envelope: &Envelope,
        sender: &Member,
    ) -> Result<super::candidate::PeerInputCandidate, super::candidate::Untrusted> {
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
async fn end_overdue(network: Weak<Network>, earlier: Arc<Notify>) {
    let refusal = Refusal {
        code: "deadline_exceeded".into(),
        reason: "the peer did not answer in time; it may be busy or gone".into(),
    };
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
