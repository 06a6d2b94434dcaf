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
use windlass_core::{AcceptOutcome, InputId, RejectReason, SessionId};
use windlass_runtime::{
    Clock as _, SessionError, SystemClock,
    comms::{
        Arrival, Chains, CommsCommand, Envelope, EnvelopeBody, Ingress, KeptEnvelope, MAX_HOPS, PeerName, Refusal,
        SendError, SendReceipt, SenderNames, input_of,
    },
    store::ListQuery,
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
    let receiver = receiver(state, sender, &to).await?;
    let (chain, hops) = state.api().incoming.chains().after(&body, &causes);
    // An answer ends something; only what asks for more can go round for ever.
    if hops > MAX_HOPS && !matches!(body, EnvelopeBody::Response { .. }) {
        return Err(SendError::LoopDetected { hops, limit: MAX_HOPS });
    }
    let envelope = Envelope { id: id.unwrap_or_default(), from: key(sender), to: receiver, chain, hops, body };
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

/// The key of whom a session means.
async fn receiver(state: &AppState, sender: SessionId, to: &PeerName) -> Result<PeerName, SendError> {
    let unknown = || SendError::PeerNotFound(to.clone());
    let tenant = owner(state, sender, to).await?.ok_or_else(unknown)?.tenant().clone();
    let (session, _) =
        windlass_api::parse_session(tenant.in_profile().as_deref(), to.as_str()).map_err(|_| unknown())?;
    let found = owner(state, session, to).await?.filter(|owner| *owner.tenant() == tenant);
    found.map(|_| key(session)).ok_or_else(unknown)
}

/// Brings an envelope into its receiver's journal.
async fn deliver(state: &AppState, kept: &KeptEnvelope) -> Result<(), SendError> {
    let KeptEnvelope { envelope, peer, .. } = kept;
    let unknown = || SendError::PeerNotFound(peer.clone());
    let session = |key: &PeerName| key.as_str().parse::<SessionId>().map_err(|_| unknown());
    let (from, to) = (session(&envelope.from)?, session(&envelope.to)?);
    let sender = owner(state, from, peer).await?.ok_or_else(unknown)?;
    let receiver = owner(state, to, peer).await?.filter(|receiver| receiver.tenant() == sender.tenant());
    let tenant = receiver.ok_or_else(unknown)?.tenant().clone();
    let (name, runtime_id) = (sender.called(from), from.to_string());
    let names = SenderNames { trusted: Some(&name), registered: None, runtime_id: Some(&runtime_id) };
    admit(state, &tenant, to, envelope, names, |asked| asked == &envelope.from).await
}

/// Admits an envelope into its receiver's session. `may_answer` says whether its sender speaks for whom a request was
/// sent to.
///
/// # Errors
/// [`SendError`]: it is not admitted, or that cannot be told.
pub(super) async fn admit(
    state: &AppState,
    tenant: &Tenant,
    receiver: SessionId,
    envelope: &Envelope,
    names: SenderNames<'_>,
    may_answer: impl Fn(&PeerName) -> bool,
) -> Result<(), SendError> {
    let to = &envelope.to;
    let session = state.adapter().session(receiver).await.map_err(|error| undone(error, to))?;
    if let EnvelopeBody::Response { in_reply_to, .. } = &envelope.body {
        let asked = state.adapter().outbox(receiver).kept().await.map_err(|error| undone(error, to))?;
        let is_asked = |kept: &KeptEnvelope| {
            let is_request = matches!(kept.envelope.body, EnvelopeBody::Request { .. });
            kept.envelope.id == *in_reply_to && is_request && may_answer(&kept.envelope.to)
        };
        if !asked.iter().any(is_asked) {
            return Err(SendError::RequestClosed(*in_reply_to));
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
    match session.accept(input).await.map_err(|error| undone(error, to))? {
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

impl From<SendError> for Problem {
    fn from(error: SendError) -> Problem {
        let code = match &error {
            SendError::PeerOffline(_) | SendError::Undecided(_) => Code::PeerUnreachable,
            SendError::Internal(cause) => return Problem::internal(cause),
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
