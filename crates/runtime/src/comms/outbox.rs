//! How does what a session sends outlive its process, and who sees to it that it arrives?
//!
//! The session's journal keeps an envelope before it leaves. Whoever carries it reports what became of it; what could
//! not be told arrived or refused is carried again, with back-off, in this life of the process and in the next ones,
//! until its time is up and the session tells itself. The receiver knows a copy by sender and envelope id.

use super::{
    drain::Backoff,
    envelope::{Envelope, EnvelopeBody, EnvelopeId, PeerName},
    seam::{Refusal, SendError},
};
use crate::{RuntimeSessionAdapter, error::SessionError, handle::SessionHandle, mailbox::Message, shared::Shared};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use windlass_core::{
    CorrelationId, Delivery, Fingerprint, JsonText, Kept, Outgoing, OutgoingKind, SendRefused, SessionId, Timestamp,
};

/// Where a session's comms keep what they send. Cheap to clone; keeps nothing open.
#[derive(Clone)]
pub struct Outbox {
    shared: Weak<Shared>,
    session: SessionId,
}

/// An envelope that its session keeps: to be carried until it has arrived or its time is up.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptEnvelope {
    /// The envelope.
    pub envelope: Envelope,
    /// The receiver, as the session calls it.
    pub peer: PeerName,
    /// Until when it is carried and, of a request, answered.
    pub until: Timestamp,
    /// Whether it has arrived: it is a request then, and waits for its answer.
    pub delivered: bool,
    /// Whether it may be sent again under its id: its session remembers it then, as it remembers inputs by their keys.
    pub repeated: bool,
}

/// How far an envelope got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Its receiver has it on disk.
    Admitted,
    /// It is in its receiver's inbox; whoever carries it says so when it is admitted.
    Waiting,
}

impl Outbox {
    pub(super) fn new(shared: &Arc<Shared>, session: SessionId) -> Outbox {
        Outbox { shared: Arc::downgrade(shared), session }
    }

    /// Keeps an envelope in the journal, then has it carried. If the receiver is away, or it cannot be told whether it
    /// has arrived, carrying goes on in a task of its own, and the answer is [`Arrival::Waiting`]. What was sent before
    /// under its id is not carried again: the answer is how far it got.
    ///
    /// Cancel-safe: dropped after its first poll, it happens all the same.
    ///
    /// # Errors
    /// [`SendError`]: it is not kept, and not sent, unless it is [`SendError::Internal`].
    pub async fn send<C, F>(&self, kept: KeptEnvelope, carry: C) -> Result<Arrival, SendError>
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Arrival, SendError>> + Send,
    {
        let (me, shared) = (self.clone(), self.shared.upgrade().ok_or_else(ended)?);
        let over = shared.drains.over();
        let sending = async move {
            match me.keep(&kept).await {
                Ok(()) => {}
                Err(SendError::NotKept(SendRefused::Sent { arrived: true })) => return Ok(Arrival::Admitted),
                Err(SendError::NotKept(SendRefused::Sent { arrived: false })) => return Ok(Arrival::Waiting),
                Err(error) => return Err(error),
            }
            let id = kept.envelope.id;
            let carried = tokio::select! {
                biased;
                // It is kept, and the next life carries it.
                () = over.cancelled() => return Ok(Arrival::Waiting),
                carried = carry() => carried,
            };
            match carried {
                Ok(Arrival::Waiting) => Ok(Arrival::Waiting),
                Ok(Arrival::Admitted) => {
                    me.report_soon(id, Delivery::Delivered);
                    Ok(Arrival::Admitted)
                }
                // Who is away may be back in time.
                Err(SendError::Undecided(_) | SendError::PeerOffline(_)) => {
                    me.carry_on(&kept, carry);
                    Ok(Arrival::Waiting)
                }
                Err(error) => {
                    me.report(id, Delivery::Withdrawn).await;
                    Err(error)
                }
            }
        };
        shared.tasks.spawn(sending).await.map_err(|_| ended())?
    }

    /// Carries an envelope in a task of its own until it has arrived, is refused for good, or its time is up.
    pub fn carry_on<C, F>(&self, kept: &KeptEnvelope, carry: C)
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<Arrival, SendError>> + Send,
    {
        let (me, id, until) = (self.clone(), kept.envelope.id, kept.until);
        self.spawn(async move {
            let mut retry = Backoff::default();
            loop {
                match carry().await {
                    Ok(Arrival::Waiting) => return,
                    Ok(Arrival::Admitted) => return me.report(id, Delivery::Delivered).await,
                    Err(error) if error.is_final() => {
                        let delivery = Delivery::Failed { code: error.code().to_owned(), reason: error.to_string() };
                        return me.report(id, delivery).await;
                    }
                    Err(error) => tracing::debug!(%id, %error, "an envelope waits for its receiver"),
                }
                retry.wait().await;
                // The session has told itself by then.
                if me.now().is_none_or(|now| now >= until) {
                    return;
                }
            }
        });
    }

    /// Says what became of an envelope, in a task of its own.
    pub fn report_soon(&self, id: EnvelopeId, delivery: Delivery) {
        let me = self.clone();
        self.spawn(async move { me.report(id, delivery).await });
    }

    /// What the session has sent that is not over.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn kept(&self) -> Result<Vec<KeptEnvelope>, SessionError> {
        self.handle().await?.look(|session| session.outgoing().filter_map(KeptEnvelope::read).collect()).await
    }

    /// What time it is; none when the runtime has ended.
    pub fn now(&self) -> Option<Timestamp> {
        self.shared.upgrade().map(|shared| shared.clock.now())
    }

    async fn keep(&self, kept: &KeptEnvelope) -> Result<(), SendError> {
        let KeptEnvelope { envelope, peer, until, delivered: _, repeated } = kept;
        let internal = |error: &dyn std::fmt::Display| SendError::Internal(error.to_string());
        let outgoing = Outgoing {
            id: CorrelationId::from_uuid(envelope.id.0),
            kind: match envelope.body {
                EnvelopeBody::Message { .. } => OutgoingKind::Message,
                EnvelopeBody::Request { .. } => OutgoingKind::Request,
                EnvelopeBody::Response { .. } => OutgoingKind::Response,
            },
            peer: peer.as_str().to_owned(),
            until: *until,
            envelope: JsonText::encode(envelope).map_err(|error| SendError::Validation(error.to_string()))?,
            says: repeated.then(|| says(envelope)).transpose()?,
        };
        let outgoing = Arc::new(outgoing);
        let handle = self.handle().await.map_err(|error| internal(&error))?;
        let kept = handle.ask(|reply| Message::Send { outgoing, reply }).await.map_err(|error| internal(&error))?;
        kept.map_err(SendError::NotKept)
    }

    /// Until it stands, or the session is no longer known here: the next life carries the envelope again then, and the
    /// receiver knows the copy.
    async fn report(&self, id: EnvelopeId, delivery: Delivery) {
        let id = CorrelationId::from_uuid(id.0);
        let mut retry = Backoff::default();
        loop {
            let Ok(handle) = self.handle().await else { return };
            let delivery = delivery.clone();
            match handle.ask(|reply| Message::Delivery { id, delivery, reply }).await {
                Ok(_) | Err(SessionError::NotFound(_) | SessionError::Draining) => return,
                Err(error) => tracing::debug!(session = %self.session, %error, "a delivery is not recorded yet"),
            }
            drop(handle);
            retry.wait().await;
        }
    }

    async fn handle(&self) -> Result<SessionHandle, SessionError> {
        let shared = self.shared.upgrade().ok_or(SessionError::Draining)?;
        let adapter = RuntimeSessionAdapter { shared };
        adapter.find(self.session).await?.ok_or(SessionError::NotFound(self.session))
    }

    /// The task ends with the runtime, which waits for it.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(shared) = self.shared.upgrade() {
            let over = shared.drains.over();
            shared.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = over.cancelled() => {}
                    () = task => {}
                }
            });
        }
    }
}

impl KeptEnvelope {
    /// One that is to be sent now, for the first and only time.
    pub fn new(envelope: Envelope, peer: PeerName, now: Timestamp, within: Duration) -> KeptEnvelope {
        KeptEnvelope { envelope, peer, until: now + within, delivered: false, repeated: false }
    }

    /// The same, where it may be sent again under its id.
    pub fn repeated(mut self, repeated: bool) -> KeptEnvelope {
        self.repeated = repeated;
        self
    }

    /// As the journal has it; none if it was written by somebody who knows more than this version.
    pub(super) fn read(kept: &Kept) -> Option<KeptEnvelope> {
        let envelope = serde_json::from_str(kept.outgoing.envelope.get());
        let envelope = envelope.inspect_err(|error| {
            tracing::error!(id = %kept.outgoing.id, %error, "an envelope cannot be read; it ends when its time is up");
        });
        let peer = PeerName::new(kept.outgoing.peer.as_str()).ok()?;
        let (until, repeated) = (kept.outgoing.until, kept.outgoing.says.is_some());
        Some(KeptEnvelope { envelope: envelope.ok()?, peer, until, delivered: kept.delivered, repeated })
    }
}

impl Refusal {
    /// What a responder hears whose answer comes after the request's end.
    pub(super) fn request_over() -> Refusal {
        Refusal { code: "session_state_conflict".into(), reason: "the request is over".into() }
    }
}

/// To whom, and what: two that agree in it are one.
fn says(envelope: &Envelope) -> Result<Fingerprint, SendError> {
    let said = serde_json::to_vec(&(&envelope.to, &envelope.body));
    Ok(Fingerprint::of(&said.map_err(|error| SendError::Validation(error.to_string()))?))
}

/// What sessions have sent.
impl RuntimeSessionAdapter {
    /// Where a session's comms keep what they send, for comms without an inbox of their own. Those that are given to
    /// [`RuntimeSessionAdapter::update_peer_ingress_context`] are handed it there.
    pub fn outbox(&self, session: SessionId) -> Outbox {
        Outbox::new(&self.shared, session)
    }
}

fn ended() -> SendError {
    SendError::Internal("the runtime has ended".into())
}
