//! How does one session write to peers in other processes, and take in what they write?

use crate::{
    directory::{Door, lock},
    door::{LetIn, Verdict},
    identity::Identity,
    post::Postman,
    wire::PeerRefusal,
};
use async_trait::async_trait;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::task::AbortHandle;
use windlass_core::DEADLINE_EXCEEDED;
use windlass_runtime::comms::{
    Arrival, Chains, Claim, CommsCommand, CommsError, CommsRuntime, Envelope, EnvelopeBody, EnvelopeId, Inbox,
    InboxError, InboxRoom, Ingress, KeptEnvelope, MAX_HOPS, Outbox, PeerEntry, PeerInputCandidate, PeerName,
    PlainEvent, Receipt, Refusal, ResponseStatus, SendError, SendReceipt, SenderNames, TrustedPeer,
};

/// Bounds of one session's comms over HTTP.
#[derive(Clone, Debug)]
pub struct HttpRules {
    /// Requests with these intents start no runs.
    pub silent_intents: BTreeSet<String>,
    /// How long a request waits for its terminal response, and anything else for its arrival.
    pub request_deadline: Duration,
    /// Requests that wait for an answer.
    pub requests: usize,
    /// How much the inbox holds.
    pub room: InboxRoom,
    /// How long one attempt to send may take; more than the eight seconds that a door may take to answer.
    pub send_limit: Duration,
    /// Envelopes of one peer that are remembered while they are still good, so that none is let in twice.
    pub replay_window: usize,
}

impl Default for HttpRules {
    fn default() -> Self {
        HttpRules {
            silent_intents: BTreeSet::new(),
            request_deadline: Duration::from_secs(300),
            requests: 256,
            room: InboxRoom::default(),
            send_limit: Duration::from_secs(10),
            // Five minutes at the rate at which a token may call, and then some.
            replay_window: 65_536,
        }
    }
}

/// The comms of one session over HTTP. When it is dropped, its door is shut.
pub struct HttpPeer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    identity: Identity,
    rules: HttpRules,
    ingress: Ingress,
    door: Weak<Door>,
    inbox: Inbox,
    postman: Postman,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whom it hears, by key.
    pinned: BTreeMap<PeerName, TrustedPeer>,
    let_in: LetIn,
    /// Where its session keeps what it sends, once it has one.
    outbox: Option<Outbox>,
    asked: HashMap<EnvelopeId, Asked>,
    /// Requests that were let in and have had no terminal response, by who asked.
    owed: HashMap<PeerName, BTreeSet<EnvelopeId>>,
    chains: Chains,
}

/// A request without a terminal response.
struct Asked {
    of: PeerName,
    /// Ends it when its time is up.
    timer: AbortHandle,
}

impl State {
    /// Whoever asked this has heard how it ended.
    fn settle(&mut self, from: &PeerName, request: EnvelopeId) {
        if let Some(owed) = self.owed.get_mut(from) {
            owed.remove(&request);
            if owed.is_empty() {
                self.owed.remove(from);
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl Inner {
    pub(crate) fn new(identity: Identity, rules: HttpRules, door: Weak<Door>) -> Inner {
        let ingress = Ingress { auth_required: true, silent_intents: rules.silent_intents.clone() };
        let inbox = Inbox::new(rules.room);
        let postman = Postman::new(rules.send_limit);
        Inner { identity, rules, ingress, door, inbox, postman, state: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &PeerName {
        self.identity.name()
    }

    /// Lets a checked envelope in: replay, then authority, then what it says. Remembered only if it is let in, so that
    /// one that found no room may come again. Answers with what is to become of it.
    pub(crate) fn take(&self, envelope: &Envelope, good_until: u64, now: u64) -> Result<Verdict, PeerRefusal> {
        let mut state = lock(&self.state);
        state.let_in.forget_until(now);
        let known = (envelope.from.clone(), envelope.id);
        if let Some(verdict) = state.let_in.get(&known) {
            return Ok(verdict.clone());
        }
        let pin = state.pinned.get(&envelope.from).ok_or(PeerRefusal::Forbidden)?;
        let names = SenderNames { trusted: Some(&pin.name), ..SenderNames::default() };
        let candidate = self.ingress.classify(envelope, names).map_err(|_| PeerRefusal::Forbidden)?;
        if state.let_in.of(&envelope.from) >= self.rules.replay_window {
            // Forgetting one that is still good would let it in again.
            return Err(PeerRefusal::Full);
        }
        let receipt = match &envelope.body {
            EnvelopeBody::Response { in_reply_to, status, .. } => {
                if state.asked.get(in_reply_to).is_none_or(|asked| asked.of != envelope.from) {
                    // What a session has asked in an earlier life is known once it is bound.
                    let is_bound = state.outbox.is_some();
                    return Err(if is_bound { PeerRefusal::RequestClosed } else { PeerRefusal::Undecided });
                }
                if status.is_terminal() {
                    let receipt = self.inbox.offer_awaited(candidate).map_err(no_room)?;
                    state.asked.remove(in_reply_to);
                    receipt
                } else {
                    self.inbox.offer(candidate).map_err(no_room)?
                }
            }
            EnvelopeBody::Message { .. } | EnvelopeBody::Request { .. } if envelope.hops > MAX_HOPS => {
                return Err(PeerRefusal::Loop(envelope.hops));
            }
            EnvelopeBody::Message { .. } => self.inbox.offer(candidate).map_err(no_room)?,
            EnvelopeBody::Request { .. } => {
                let receipt = self.inbox.offer(candidate).map_err(no_room)?;
                let owed = state.owed.entry(envelope.from.clone()).or_default();
                owed.insert(envelope.id);
                if owed.len() > OWED_KEPT {
                    // Ids sort by creation: it has given the oldest one up long since.
                    owed.pop_first();
                }
                receipt
            }
        };
        state.chains.remember(envelope);
        Ok(state.let_in.insert(known, good_until, receipt))
    }

    async fn send(
        self: &Arc<Self>,
        to: &PeerName,
        body: EnvelopeBody,
        causes: &[EnvelopeId],
        id: Option<EnvelopeId>,
    ) -> Result<SendReceipt, SendError> {
        body.validate().map_err(|error| SendError::Validation(error.to_string()))?;
        let (envelope, outbox) = self.envelope(to, body, causes, id)?;
        let within = self.rules.request_deadline;
        let is_request = matches!(envelope.body, EnvelopeBody::Request { .. });
        let is_new = is_request && self.expect_answer(&envelope, within)?;
        let sent = match outbox.and_then(|outbox| Some((outbox.now()?, outbox))) {
            Some((now, outbox)) => {
                let kept = KeptEnvelope::new(envelope.clone(), to.clone(), now, within).repeated(id.is_some());
                outbox.send(kept, self.carrier(envelope.clone())).await
            }
            None => self.post(&envelope).await.map(|()| Arrival::Admitted),
        };
        match sent {
            Ok(arrival) => Ok(SendReceipt::of(&envelope, arrival == Arrival::Admitted)),
            Err(error) => {
                if is_new {
                    lock(&self.state).asked.remove(&envelope.id);
                }
                Err(error)
            }
        }
    }

    /// Carries an envelope as often as it is called.
    fn carrier(
        self: &Arc<Self>,
        envelope: Envelope,
    ) -> impl Fn() -> BoxFuture<Result<Arrival, SendError>> + Send + Sync + 'static {
        let (me, envelope) = (Arc::downgrade(self), Arc::new(envelope));
        move || {
            let (me, envelope) = (me.clone(), Arc::clone(&envelope));
            Box::pin(async move {
                let me = me.upgrade().ok_or(SendError::Unsupported)?;
                me.post(&envelope).await.map(|()| Arrival::Admitted)
            })
        }
    }

    fn envelope(
        &self,
        to: &PeerName,
        body: EnvelopeBody,
        causes: &[EnvelopeId],
        id: Option<EnvelopeId>,
    ) -> Result<(Envelope, Option<Outbox>), SendError> {
        let state = lock(&self.state);
        let pin = state.pinned.values().find(|pin| pin.name == *to || pin.key == *to);
        let pin = pin.ok_or_else(|| SendError::PeerNotFound(to.clone()))?;
        let (chain, hops) = state.chains.after(&body, causes);
        if hops > MAX_HOPS && !matches!(body, EnvelopeBody::Response { .. }) {
            return Err(SendError::LoopDetected { hops, limit: MAX_HOPS });
        }
        let (from, to) = (self.name().clone(), pin.key.clone());
        Ok((Envelope { id: id.unwrap_or_default(), from, to, chain, hops, body }, state.outbox.clone()))
    }

    /// From now on a request waits for its answer. Tells whether it did not before.
    fn expect_answer(self: &Arc<Self>, envelope: &Envelope, deadline: Duration) -> Result<bool, SendError> {
        let mut state = lock(&self.state);
        if state.asked.contains_key(&envelope.id) {
            return Ok(false);
        }
        if state.asked.len() >= self.rules.requests {
            return Err(SendError::TooManyRequests { limit: self.rules.requests });
        }
        let (me, request) = (Arc::downgrade(self), envelope.id);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(deadline).await;
            if let Some(me) = me.upgrade() {
                me.end_request(request);
            }
        });
        state.asked.insert(request, Asked { of: envelope.to.clone(), timer: timer.abort_handle() });
        Ok(true)
    }

    /// Ends a request whose receiver did not answer in time.
    fn end_request(&self, request: EnvelopeId) {
        let mut state = lock(&self.state);
        let Some(asked) = state.asked.remove(&request) else { return };
        let body = failure(request, &Refusal { code: DEADLINE_EXCEEDED.0.into(), reason: DEADLINE_EXCEEDED.1.into() });
        let (chain, hops) = state.chains.after(&body, &[]);
        let (from, to) = (asked.of.clone(), self.name().clone());
        let name = state.pinned.get(&from).map_or(&from, |pin| &pin.name);
        let names = SenderNames { trusted: Some(name), ..SenderNames::default() };
        let envelope = Envelope { id: EnvelopeId::new(), from: from.clone(), to, chain, hops, body };
        let candidate = self.ingress.classify(&envelope, names);
        if let Some(InboxError::Closed) = candidate.ok().and_then(|answer| self.inbox.offer_awaited(answer).err()) {
            tracing::debug!(peer = %self.name(), %request, "whoever asked takes nothing any more");
        }
    }

    /// Posts an envelope once. Answers when the receiver's session has it on disk, now or before.
    async fn post(&self, envelope: &Envelope) -> Result<(), SendError> {
        let now = self.door.upgrade().ok_or(SendError::Unsupported)?.clock.now();
        // Looked up each time: who was away may be back elsewhere.
        let pin = lock(&self.state).pinned.get(&envelope.to).cloned();
        let pin = pin.ok_or_else(|| SendError::PeerNotFound(envelope.to.clone()))?;
        self.postman.post(envelope, &self.identity, &pin.name, &pin.address, now).await
    }

    /// A terminal response is on its way, or has arrived: nobody needs to be told when this session goes away.
    fn answered(&self, to: &PeerName, body: &EnvelopeBody) {
        if let EnvelopeBody::Response { in_reply_to, status, .. } = body
            && status.is_terminal()
        {
            let mut state = lock(&self.state);
            let pinned = state.pinned.values().find(|pin| pin.name == *to || pin.key == *to);
            if let Some(key) = pinned.map(|pin| pin.key.clone()) {
                state.settle(&key, *in_reply_to);
            }
        }
    }

    fn inject(&self, event: PlainEvent) -> Result<EnvelopeId, SendError> {
        let id = event.id;
        self.offer(event.candidate())?;
        Ok(id)
    }

    fn offer(&self, candidate: PeerInputCandidate) -> Result<(), SendError> {
        self.inbox.offer(candidate).map(|_| ()).map_err(|error| match error {
            InboxError::Full => SendError::InboxFull(self.name().clone()),
            InboxError::Closed => SendError::InputClosed(self.name().clone()),
        })
    }

    /// Shuts the door behind the session: what waits is refused, and whoever waits for an answer hears that none comes,
    /// in a task of its own. The asker's deadline stands behind that.
    fn shut(self: &Arc<Self>, refusal: &Refusal) {
        let claims = self.inbox.close();
        let owed = {
            let mut state = lock(&self.state);
            for claim in claims {
                state.let_in.settle(claim.receipt, Err(refusal.clone()));
                // Hears it as the answer to its post.
                let interaction = &claim.candidate.interaction;
                state.settle(&interaction.from_key, interaction.id);
            }
            std::mem::take(&mut state.owed)
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let owed = owed.into_iter().flat_map(|(to, ids)| ids.into_iter().map(move |id| (id, to.clone())));
        for (request, to) in owed {
            let (me, body) = (Arc::clone(self), failure(request, refusal));
            runtime.spawn(async move {
                let told = match me.envelope(&to, body, &[], None) {
                    Ok((envelope, _)) => me.post(&envelope).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = told {
                    tracing::warn!(%to, %request, %error, "whoever asked could not be told that no answer comes");
                }
            });
        }
    }
}

impl Drop for HttpPeer {
    fn drop(&mut self) {
        self.inner.shut(&Refusal { code: "peer_offline".into(), reason: "the peer has left".into() });
        if let Some(door) = self.inner.door.upgrade() {
            // They stay pinned here, for those who are still to be told.
            for key in lock(&self.inner.state).pinned.keys() {
                door.unpin(key);
            }
            door.leave(self.inner.name());
        }
    }
}

#[async_trait]
impl CommsRuntime for HttpPeer {
    fn public_key(&self) -> Option<String> {
        Some(self.inner.name().as_str().to_owned())
    }

    async fn add_trusted_peer(&self, peer: TrustedPeer) -> Result<(), SendError> {
        if crate::identity::verifying_key(&peer.key).is_none() {
            return Err(SendError::Validation("key: not an Ed25519 key, write ed25519: and 32 bytes in base64".into()));
        }
        let door = self.inner.door.upgrade().ok_or(SendError::Unsupported)?;
        let key = peer.key.clone();
        if lock(&self.inner.state).pinned.insert(key.clone(), peer).is_none() {
            door.pin(&key);
        }
        Ok(())
    }

    async fn remove_trusted_peer(&self, key: &PeerName) -> Result<bool, SendError> {
        let removed = lock(&self.inner.state).pinned.remove(key).is_some();
        if let (true, Some(door)) = (removed, self.inner.door.upgrade()) {
            door.unpin(key);
        }
        Ok(removed)
    }

    async fn peers(&self) -> Vec<PeerEntry> {
        let entry = |pin: &TrustedPeer| PeerEntry { name: pin.name.clone(), key: pin.key.clone(), trusted: true };
        lock(&self.inner.state).pinned.values().map(entry).collect()
    }

    async fn send(&self, command: CommsCommand) -> Result<SendReceipt, SendError> {
        match command {
            CommsCommand::Input { source, content, handling_mode } => {
                let event = PlainEvent { content, handling_mode, ..PlainEvent::new(source, "") };
                Ok(SendReceipt::InputAccepted { interaction_id: self.inner.inject(event)? })
            }
            CommsCommand::Peer { to, body, causes, id } => {
                let answer = matches!(body, EnvelopeBody::Response { .. }).then(|| body.clone());
                let receipt = self.inner.send(&to, body, &causes, id).await?;
                if let Some(answer) = answer {
                    self.inner.answered(&to, &answer);
                }
                Ok(receipt)
            }
        }
    }

    fn bound(&self, outbox: Outbox, kept: Vec<KeptEnvelope>) {
        let Some(now) = outbox.now() else { return };
        lock(&self.inner.state).outbox = Some(outbox.clone());
        for kept in kept {
            if let EnvelopeBody::Request { .. } = kept.envelope.body
                && let Err(error) = self.inner.expect_answer(&kept.envelope, kept.until.since(now))
            {
                // Its session ends it when its time is up.
                tracing::warn!(peer = %self.inner.name(), %error, "the answer to a request will not be let in");
            }
            if !kept.delivered {
                outbox.carry_on(&kept, self.inner.carrier(kept.envelope.clone()));
            }
        }
    }

    async fn claim(&self, most: usize) -> Result<Vec<Claim>, CommsError> {
        Ok(self.inner.inbox.claim(most))
    }

    async fn acknowledge(&self, receipts: &[Receipt]) -> Result<(), CommsError> {
        self.inner.inbox.acknowledge(receipts);
        let mut state = lock(&self.inner.state);
        for receipt in receipts {
            state.let_in.settle(*receipt, Ok(()));
        }
        Ok(())
    }

    async fn refuse(&self, claim: &Claim, refusal: &Refusal) -> Result<(), CommsError> {
        self.inner.inbox.acknowledge(&[claim.receipt]);
        let mut state = lock(&self.inner.state);
        state.let_in.settle(claim.receipt, Err(refusal.clone()));
        state.settle(&claim.candidate.interaction.from_key, claim.candidate.interaction.id);
        Ok(())
    }

    async fn notified(&self) {
        self.inner.inbox.notified().await;
    }

    async fn close(&self, refusal: &Refusal) {
        self.inner.shut(refusal);
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Requests of one peer without an answer that are remembered: more than a session works on at a time.
const OWED_KEPT: usize = 4096;

fn no_room(error: InboxError) -> PeerRefusal {
    match error {
        InboxError::Full => PeerRefusal::Full,
        InboxError::Closed => PeerRefusal::Closed,
    }
}

fn failure(in_reply_to: EnvelopeId, refusal: &Refusal) -> EnvelopeBody {
    let result = json!({ "code": refusal.code, "reason": refusal.reason });
    EnvelopeBody::Response { in_reply_to, status: ResponseStatus::Failed, result, handling_mode: None }
}
