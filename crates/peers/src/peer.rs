//! How does one session write to peers in other processes, and take in what they write?

use crate::{
    directory::{Door, PATH, lock},
    identity::Identity,
    wire::{PeerRefusal, SignedEnvelope},
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::task::AbortHandle;
use windlass_runtime::comms::{
    Chains, Claim, CommsCommand, CommsError, CommsRuntime, Envelope, EnvelopeBody, EnvelopeId, Inbox, InboxError,
    InboxRoom, Ingress, InteractionContent, MAX_HOPS, PeerEntry, PeerInputCandidate, PeerName, PlainEvent, Receipt,
    Refusal, ResponseStatus, SendError, SendReceipt, SenderNames, TrustedPeer,
};

/// Bounds of one session's comms over HTTP.
#[derive(Clone, Debug)]
pub struct HttpRules {
    /// Requests with these intents start no runs.
    pub silent_intents: BTreeSet<String>,
    /// How long a request waits for its terminal response.
    pub request_deadline: Duration,
    /// Requests that wait for an answer.
    pub requests: usize,
    /// How much the inbox holds.
    pub room: InboxRoom,
    /// How long one attempt to send may take.
    pub send_limit: Duration,
    /// Envelopes that are remembered while they are still good, so that none is let in twice.
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
    client: reqwest::Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whom it hears, by key.
    pinned: BTreeMap<PeerName, TrustedPeer>,
    /// What was let in and is still good, with the moment until which it is; and in the order of those moments.
    let_in: HashMap<(PeerName, EnvelopeId), u64>,
    by_end: BTreeSet<(u64, PeerName, EnvelopeId)>,
    asked: HashMap<EnvelopeId, Asked>,
    chains: Chains,
}

/// A request without a terminal response.
struct Asked {
    of: PeerName,
    /// Ends it when its time is up.
    timer: AbortHandle,
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
        Inner { identity, rules, ingress, door, inbox, client: reqwest::Client::new(), state: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &PeerName {
        self.identity.name()
    }

    /// Lets a checked envelope in: replay, then authority, then what it says. Remembered only if it is let in, so that
    /// one that found no room may come again.
    pub(crate) fn take(&self, envelope: &Envelope, good_until: u64, now: u64) -> Result<(), PeerRefusal> {
        let mut state = lock(&self.state);
        state.forget_until(now);
        let known = (envelope.from.clone(), envelope.id);
        if state.let_in.contains_key(&known) {
            return Err(PeerRefusal::Replay);
        }
        let pin = state.pinned.get(&envelope.from).ok_or(PeerRefusal::Forbidden)?;
        let names = SenderNames { trusted: Some(&pin.name), ..SenderNames::default() };
        let candidate = self.ingress.classify(envelope, names).map_err(|_| PeerRefusal::Forbidden)?;
        if state.let_in.len() >= self.rules.replay_window {
            // Forgetting one that is still good would let it in again.
            return Err(PeerRefusal::Full);
        }
        match &envelope.body {
            EnvelopeBody::Response { in_reply_to, status, .. } => {
                if state.asked.get(in_reply_to).is_none_or(|asked| asked.of != envelope.from) {
                    return Err(PeerRefusal::RequestClosed);
                }
                if status.is_terminal() {
                    self.inbox.offer_awaited(candidate).map_err(no_room)?;
                    state.asked.remove(in_reply_to);
                } else {
                    self.inbox.offer(candidate).map_err(no_room)?;
                }
            }
            EnvelopeBody::Message { .. } | EnvelopeBody::Request { .. } if envelope.hops > MAX_HOPS => {
                return Err(PeerRefusal::Loop(envelope.hops));
            }
            EnvelopeBody::Message { .. } | EnvelopeBody::Request { .. } => {
                self.inbox.offer(candidate).map_err(no_room)?;
            }
        }
        state.chains.remember(envelope);
        state.by_end.insert((good_until, envelope.from.clone(), envelope.id));
        state.let_in.insert(known, good_until);
        Ok(())
    }

    async fn send(
        self: &Arc<Self>,
        to: &PeerName,
        body: EnvelopeBody,
        causes: &[EnvelopeId],
    ) -> Result<SendReceipt, SendError> {
        body.validate().map_err(|error| SendError::Validation(error.to_string()))?;
        let (envelope, address) = self.envelope(to, body, causes)?;
        let id = envelope.id;
        let asks = matches!(envelope.body, EnvelopeBody::Request { .. });
        if asks {
            self.ask(&envelope)?;
        }
        if let Err(error) = self.post(to, &address, &envelope).await {
            lock(&self.state).asked.remove(&id);
            return Err(error);
        }
        Ok(match envelope.body {
            EnvelopeBody::Message { .. } => SendReceipt::PeerMessageSent { envelope_id: id },
            EnvelopeBody::Request { .. } => SendReceipt::PeerRequestSent { request_id: id },
            EnvelopeBody::Response { in_reply_to, .. } => {
                SendReceipt::PeerResponseSent { envelope_id: id, in_reply_to }
            }
        })
    }

    fn envelope(
        &self,
        to: &PeerName,
        body: EnvelopeBody,
        causes: &[EnvelopeId],
    ) -> Result<(Envelope, String), SendError> {
        let state = lock(&self.state);
        let pin = state.pinned.values().find(|pin| pin.name == *to || pin.key == *to);
        let pin = pin.ok_or_else(|| SendError::PeerNotFound(to.clone()))?;
        let (chain, hops) = state.chains.after(&body, causes);
        if hops > MAX_HOPS && !matches!(body, EnvelopeBody::Response { .. }) {
            return Err(SendError::LoopDetected { hops, limit: MAX_HOPS });
        }
        let (from, to) = (self.name().clone(), pin.key.clone());
        Ok((Envelope { id: EnvelopeId::new(), from, to, chain, hops, body }, pin.address.clone()))
    }

    fn ask(self: &Arc<Self>, envelope: &Envelope) -> Result<(), SendError> {
        let mut state = lock(&self.state);
        if state.asked.len() >= self.rules.requests {
            return Err(SendError::TooManyRequests { limit: self.rules.requests });
        }
        let (me, request, deadline) = (Arc::downgrade(self), envelope.id, self.rules.request_deadline);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(deadline).await;
            if let Some(me) = me.upgrade() {
                me.end_request(request);
            }
        });
        state.asked.insert(request, Asked { of: envelope.to.clone(), timer: timer.abort_handle() });
        Ok(())
    }

    /// Ends a request whose receiver did not answer in time.
    fn end_request(&self, request: EnvelopeId) {
        let mut state = lock(&self.state);
        let Some(asked) = state.asked.remove(&request) else { return };
        let body = failure(request, "deadline_exceeded", "the peer did not answer in time; it may be busy or gone");
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

    /// Posts an envelope, twice if the first answer is lost: the receiver tells the second copy by its id.
    async fn post(&self, to: &PeerName, address: &str, envelope: &Envelope) -> Result<(), SendError> {
        let now = self.door.upgrade().ok_or(SendError::Unsupported)?.clock.now();
        let bytes = SignedEnvelope::sign(envelope, &self.identity, now)
            .map_err(|refusal| SendError::Validation(format!("{}: {refusal}", refusal.code())))?;
        let url = format!("{}{PATH}", address.trim_end_matches('/'));
        for again in [false, true] {
            let request = self.client.post(&url).timeout(self.rules.send_limit).body(bytes.clone());
            let Ok(response) = request.send().await else { continue };
            let status = response.status().as_u16();
            let code = response.bytes().await.ok().and_then(|body| {
                let problem: Value = serde_json::from_slice(&body).ok()?;
                Some(problem.get("code")?.as_str()?.to_owned())
            });
            return match (status, code.as_deref().unwrap_or_default()) {
                (202, _) => Ok(()),
                (_, "peer_replay") if again => Ok(()),
                (_, "queue_full") => Err(SendError::InboxFull(to.clone())),
                (_, "gone") => Err(SendError::InputClosed(to.clone())),
                (_, "peer_unknown" | "forbidden_scope") => Err(SendError::PeerNotSendable(to.clone())),
                (_, "peer_audience") => Err(SendError::PeerNotFound(to.clone())),
                (_, "loop_detected") => Err(SendError::LoopDetected { hops: envelope.hops, limit: MAX_HOPS }),
                (_, "session_state_conflict") => match envelope.body {
                    EnvelopeBody::Response { in_reply_to, .. } => Err(SendError::RequestClosed(in_reply_to)),
                    _ => Err(SendError::Internal("the peer refused it".into())),
                },
                (status, code) => Err(SendError::Validation(format!("the peer answered {status} {code}"))),
            };
        }
        Err(SendError::PeerOffline(to.clone()))
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

    /// Tells whoever asked that the session did not take the request, in a task of its own. The sender of a message
    /// heard that it came in; that is all a message is promised between processes.
    fn tell_refused(self: &Arc<Self>, claim: &Claim, refusal: &Refusal) {
        let interaction = &claim.candidate.interaction;
        if !matches!(interaction.content, InteractionContent::Request { .. }) {
            return tracing::warn!(from = %interaction.from, code = refusal.code, "an envelope was not taken");
        }
        let body = failure(interaction.id, &refusal.code, &refusal.reason);
        let (me, to) = (Arc::clone(self), interaction.from_key.clone());
        tokio::spawn(async move {
            // The asker's deadline stands behind this.
            if let Err(error) = me.send(&to, body, &[]).await {
                tracing::warn!(%to, %error, "a refusal could not be told");
            }
        });
    }
}

impl State {
    /// Forgets envelopes that are no longer good, which the door refuses by their time.
    fn forget_until(&mut self, now: u64) {
        while let Some((end, _, _)) = self.by_end.first()
            && *end <= now
            && let Some((_, from, id)) = self.by_end.pop_first()
        {
            self.let_in.remove(&(from, id));
        }
    }
}

impl Drop for HttpPeer {
    fn drop(&mut self) {
        self.inner.inbox.close();
        let pinned: Vec<_> = std::mem::take(&mut lock(&self.inner.state).pinned).into_keys().collect();
        if let Some(door) = self.inner.door.upgrade() {
            for key in &pinned {
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
            CommsCommand::Peer { to, body, causes } => self.inner.send(&to, body, &causes).await,
        }
    }

    async fn claim(&self, most: usize) -> Result<Vec<Claim>, CommsError> {
        Ok(self.inner.inbox.claim(most))
    }

    async fn acknowledge(&self, receipts: &[Receipt]) -> Result<(), CommsError> {
        self.inner.inbox.acknowledge(receipts);
        Ok(())
    }

    async fn refuse(&self, claim: &Claim, refusal: &Refusal) -> Result<(), CommsError> {
        self.inner.inbox.acknowledge(&[claim.receipt]);
        self.inner.tell_refused(claim, refusal);
        Ok(())
    }

    async fn notified(&self) {
        self.inner.inbox.notified().await;
    }

    async fn close(&self, refusal: &Refusal) {
        for claim in self.inner.inbox.close() {
            self.inner.tell_refused(&claim, refusal);
        }
    }
}

fn no_room(error: InboxError) -> PeerRefusal {
    match error {
        InboxError::Full => PeerRefusal::Full,
        InboxError::Closed => PeerRefusal::Closed,
    }
}

fn failure(in_reply_to: EnvelopeId, code: &str, reason: &str) -> EnvelopeBody {
    let result = json!({ "code": code, "reason": reason });
    EnvelopeBody::Response { in_reply_to, status: ResponseStatus::Failed, result, handling_mode: None }
}
