//! How does what a session says get to its peer?
//!
//! Through the sender's journal into the receiver's: what is said is kept before it leaves, and carried until it has
//! arrived. A session that is stored here can always be asked, so there is no inbox in between that a crash could empty.

use crate::{
    api::reach::{self, Owner},
    auth::Tenant,
    problem::{Code, Problem},
    state::{AppState, WeakState},
};
use async_trait::async_trait;
use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use uuid::Uuid;
use windlass_agent::tools::Peers;
use windlass_core::{AcceptOutcome, CorrelationId, InputId, RejectReason, SessionId, answer_key};
use windlass_runtime::{
    Clock as _, SessionError, SystemClock,
    comms::{
        Arrival, Chains, CommsCommand, Envelope, EnvelopeBody, Ingress, KeptEnvelope, MAX_HOPS, PeerName, Refusal,
        SendError, SendReceipt, SenderNames, input_of,
    },
    store::{InputRef, ListQuery},
};

/// How long a request waits for its terminal response, and anything else for its arrival.
const WITHIN: Duration = Duration::from_secs(300);
/// Envelopes of all sessions whose chain is remembered, so that a loop is noticed.
const CHAINS: usize = 100_000;
/// Peers that a model is told of.
const NAMED: u32 = 20;

/// The chains of what came in to the sessions of this server.
pub(crate) struct Incoming(Mutex<Chains>);

impl Default for Incoming {
    fn default() -> Self {
        Incoming(Mutex::new(Chains::of_the_last(CHAINS)))
    }
}

impl Incoming {
    fn chains(&self) -> std::sync::MutexGuard<'_, Chains> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends in the name of a session. When it answers, the envelope is in the sender's journal; the receipt says whether it
/// is in the receiver's.
///
/// # Errors
/// [`SendError`]: nothing is sent.
pub(super) async fn send(state: &AppState, sender: SessionId, command: CommsCommand) -> Result<SendReceipt, SendError> {
    let CommsCommand::Peer { to, body, causes, id } = command else { return Err(SendError::Unsupported) };
    body.validate().map_err(|error| SendError::Validation(error.to_string()))?;
    let (from, receiver) = addresses(state, sender, &to).await?;
    let (chain, hops) = state.api().incoming.chains().after(&body, &causes);
    // An answer ends something; only what asks for more can go round for ever.
    if hops > MAX_HOPS && !matches!(body, EnvelopeBody::Response { .. }) {
        return Err(SendError::LoopDetected { hops, limit: MAX_HOPS });
    }
    let envelope = Envelope { id: id.unwrap_or_default(), from, to: receiver, chain, hops, body };
    let outbox = state.adapter().outbox(sender);
    let kept = KeptEnvelope::new(envelope.clone(), to, SystemClock.now(), WITHIN).repeated(id.is_some());
    let arrival = outbox.send(kept.clone(), carrier(state, kept)).await?;
    Ok(SendReceipt::of(&envelope, arrival == Arrival::Admitted))
}

/// Carries on what the sessions of this server have sent in its earlier lives.
pub(crate) async fn resume(state: &AppState) -> Result<(), SessionError> {
    let mut after = None;
    loop {
        let query = ListQuery { pending: true, after, limit: 1_000, ..ListQuery::default() };
        let rows = state.store().list(query).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some(last.session);
        // What is sent has a time until which it is carried, so its session has something to do then.
        for row in rows.iter().filter(|row| row.status.due_at.is_some()) {
            let outbox = state.adapter().outbox(row.session);
            match outbox.kept().await {
                Ok(kept) => {
                    for kept in kept.into_iter().filter(|kept| !kept.delivered) {
                        outbox.carry_on(&kept, carrier(state, kept.clone()));
                    }
                }
                Err(error) => tracing::error!(session = %row.session, %error, "what it has sent could not be read"),
            }
        }
    }
}

/// Carries an envelope as often as it is called.
fn carrier(
    state: &AppState,
    kept: KeptEnvelope,
) -> impl Fn() -> futures_util::future::BoxFuture<'static, Result<Arrival, SendError>> + Send + Sync + 'static {
    let (state, kept) = (state.downgrade(), Arc::new(kept));
    move || {
        let (state, kept) = (state.clone(), Arc::clone(&kept));
        Box::pin(async move {
            let state = state.upgrade().ok_or_else(|| SendError::Undecided(kept.peer.clone()))?;
            deliver(&state, &kept).await.map(|()| Arrival::Admitted)
        })
    }
}

/// Under which keys the sender and whom it means know each other.
async fn addresses(state: &AppState, sender: SessionId, to: &PeerName) -> Result<(PeerName, PeerName), SendError> {
    let unknown = || SendError::PeerNotFound(to.clone());
    let from = owner(state, sender, to).await?.ok_or_else(unknown)?;
    if to.as_str().contains('@') {
        return state.api().remotes.addresses(from.tenant(), &from.called(sender), to).ok_or_else(unknown);
    }
    let tenant = from.tenant().in_profile();
    let (session, _) = windlass_api::parse_session(tenant.as_deref(), to.as_str()).map_err(|_| unknown())?;
    let found = owner(state, session, to).await?.filter(|owner| owner.tenant() == from.tenant());
    found.map(|_| (key(sender), key(session))).ok_or_else(unknown)
}

/// Brings an envelope into its receiver's journal, here or there.
async fn deliver(state: &AppState, kept: &KeptEnvelope) -> Result<(), SendError> {
    let KeptEnvelope { envelope, peer, .. } = kept;
    let unknown = || SendError::PeerNotFound(peer.clone());
    let here = |key: &PeerName| key.as_str().parse::<SessionId>().ok();
    let (Some(from), Some(session)) = (here(&envelope.from), here(&envelope.to)) else {
        return state.api().remotes.post(envelope, peer).await;
    };
    let sender = owner(state, from, peer).await?.ok_or_else(unknown)?;
    let (name, runtime_id) = (sender.called(from), from.to_string());
    let received = Received {
        envelope,
        names: SenderNames { trusted: Some(&name), registered: None, runtime_id: Some(&runtime_id) },
        tenant: sender.tenant(),
        session,
        may_answer: &|asked| *asked == envelope.from,
    };
    admit(state, received).await
}

/// An envelope for a session of this server.
pub(super) struct Received<'a> {
    pub(super) envelope: &'a Envelope,
    /// What its sender is called here.
    pub(super) names: SenderNames<'a>,
    /// Whose session it is for.
    pub(super) tenant: &'a Tenant,
    pub(super) session: SessionId,
    /// Whether its sender speaks for whom a request was sent to.
    pub(super) may_answer: &'a (dyn Fn(&PeerName) -> bool + Sync),
}

/// Admits an envelope into its receiver's session.
///
/// # Errors
/// [`SendError`]: it is not admitted, or that cannot be told.
pub(super) async fn admit(state: &AppState, received: Received<'_>) -> Result<(), SendError> {
    let Received { envelope, names, tenant, session, may_answer } = received;
    let to = &envelope.to;
    let unknown = || SendError::PeerNotFound(to.clone());
    owner(state, session, to).await?.filter(|owner| owner.tenant() == tenant).ok_or_else(unknown)?;
    let handle = state.adapter().session(session).await.map_err(|error| undone(error, to))?;
    if let EnvelopeBody::Response { in_reply_to, .. } = &envelope.body {
        let asked = state.adapter().outbox(session).kept().await.map_err(|error| undone(error, to))?;
        let is_asked = |kept: &KeptEnvelope| {
            let is_request = matches!(kept.envelope.body, EnvelopeBody::Request { .. });
            kept.envelope.id == *in_reply_to && is_request && may_answer(&kept.envelope.to)
        };
        if !asked.iter().any(is_asked) {
            // What closed it may be this very answer, whose sender did not hear that it had arrived.
            let answer = InputRef::Key(answer_key(CorrelationId::from_uuid(in_reply_to.0)));
            let answer = handle.input(&answer).await.map_err(|error| undone(error, to))?;
            let this = Some(CorrelationId::from_uuid(envelope.id.0));
            let is_this = answer.is_some_and(|answer| answer.input.header.correlation_id == this);
            return if is_this { Ok(()) } else { Err(SendError::RequestClosed(*in_reply_to)) };
        }
    }
    let candidate =
        Ingress::default().classify(envelope, names).map_err(|error| SendError::Internal(error.to_string()))?;
    let input = input_of(&candidate, InputId::from_uuid(Uuid::now_v7()), SystemClock.now());
    let dismissal = || SendError::Validation("this word alone dismisses a session; stop it instead".to_owned());
    let input = input.ok_or_else(dismissal)?;
    if let Err(full) = state.api().quota.input(state, tenant).await {
        return Err(match full.code() {
            Code::QuotaExceeded => refused(Code::QuotaExceeded.as_str(), full.text()),
            _ => SendError::Undecided(to.clone()),
        });
    }
    match handle.accept(input).await.map_err(|error| undone(error, to))? {
        AcceptOutcome::Accepted { .. } | AcceptOutcome::Deduplicated { .. } => {}
        AcceptOutcome::Rejected { reason: RejectReason::IdempotencyConflict { .. } } => match &envelope.body {
            EnvelopeBody::Response { in_reply_to, .. } => return Err(SendError::RequestClosed(*in_reply_to)),
            // The same sender and envelope, shown differently by now: the first copy stands.
            EnvelopeBody::Message { .. } | EnvelopeBody::Request { .. } => {}
        },
        AcceptOutcome::Rejected { reason } => return Err(SendError::Refused(Refusal::from(&reason))),
    }
    state.api().incoming.chains().remember(envelope);
    Ok(())
}

/// What a session is known by to those of this server.
fn key(session: SessionId) -> PeerName {
    PeerName::new(session.to_string()).expect("a UUID is a name")
}

async fn owner(state: &AppState, session: SessionId, to: &PeerName) -> Result<Option<Owner>, SendError> {
    reach::owner(state, session).await.map_err(|_| SendError::Undecided(to.clone()))
}

fn refused(code: &'static str, reason: &str) -> SendError {
    SendError::Refused(Refusal { code: code.into(), reason: reason.to_owned() })
}

fn undone(error: SessionError, to: &PeerName) -> SendError {
    match error {
        SessionError::NotFound(_) => SendError::PeerNotFound(to.clone()),
        error => {
            tracing::debug!(%to, %error, "an envelope waits for its receiver");
            SendError::Undecided(to.clone())
        }
    }
}

/// Why a session does not take what is sent to it.
const OF_RECEIVERS: [Code; 8] = [
    Code::QueueFull,
    Code::QuotaExceeded,
    Code::RateLimited,
    Code::PayloadTooLarge,
    Code::SessionStateConflict,
    Code::RejectedByPolicy,
    Code::IdempotencyKeyReused,
    Code::SchemaViolation,
];

impl From<SendError> for Problem {
    fn from(error: SendError) -> Problem {
        let code = match &error {
            SendError::PeerOffline(_) | SendError::Undecided(_) => Code::PeerUnreachable,
            SendError::Internal(cause) => return Problem::internal(cause),
            // What a server says of itself or of us is not what this one says of its caller.
            SendError::Refused(refusal) if !OF_RECEIVERS.iter().any(|code| code.as_str() == refusal.code) => {
                Code::PeerUnreachable
            }
            error => Code::parse(error.code()).unwrap_or(Code::SessionStateConflict),
        };
        Problem::of_text(code, &error.to_string())
    }
}

/// The way to peers for the agents of a server, which are there before it is.
#[derive(Clone, Default)]
pub(crate) struct PeersOfAgents(Arc<OnceLock<WeakState>>);

impl PeersOfAgents {
    /// From now on there is a way.
    pub(crate) fn open(&self, state: &AppState) {
        // Opened once, by the server that it was made for.
        drop(self.0.set(state.downgrade()));
    }

    fn state(&self) -> Option<AppState> {
        self.0.get()?.upgrade()
    }
}

#[async_trait]
impl Peers for PeersOfAgents {
    async fn send(&self, session: SessionId, command: CommsCommand) -> Result<SendReceipt, SendError> {
        send(&self.state().ok_or(SendError::Unsupported)?, session, command).await
    }

    async fn names(&self, session: SessionId) -> Vec<PeerName> {
        let Some(state) = self.state() else { return Vec::new() };
        let Ok(Some(owner)) = reach::owner(&state, session).await else { return Vec::new() };
        let query = ListQuery { tenant: Some(owner.tenant().in_profile()), limit: NAMED, ..ListQuery::default() };
        let rows = state.store().list(query).await.unwrap_or_default();
        let others = rows.into_iter().filter(|row| row.session != session);
        others.map(|row| Owner::of(&row.status.profile).called(row.session)).collect()
    }
}
