//! What must an inbox and its way out promise?

use super::{
    bridge::InteractionEvent,
    command::CommsCommand,
    envelope::{Envelope, EnvelopeBody, EnvelopeId, InvalidPeerName, PeerName},
    inbox::{Claim, Receipt},
    outbox::{KeptEnvelope, Outbox},
};
use async_trait::async_trait;
use std::borrow::Cow;
use windlass_core::{RejectReason, SendRefused};

/// The comms of one session: an inbox, and a way to send.
///
/// To ensure correctness: an entry stays until it is acknowledged or refused, and is claimed again after any crash of
/// whoever claimed it; entries are claimed in the order in which they came; whatever is sent and cannot be kept is an
/// error to its sender. A session has one drain at a time, so claims need no owners.
#[async_trait]
pub trait CommsRuntime: Send + Sync + 'static {
    /// The key under which peers know this session: `ed25519:` and base64, where there is one.
    fn public_key(&self) -> Option<String> {
        None
    }

    /// Hears this peer from now on.
    ///
    /// # Errors
    /// [`SendError::Unsupported`] where trust is not managed here; [`SendError::Validation`] if it cannot be trusted so.
    async fn add_trusted_peer(&self, _peer: TrustedPeer) -> Result<(), SendError> {
        Err(SendError::Unsupported)
    }

    /// Hears this peer no more; what it has sent before stays. Answers whether it was trusted.
    ///
    /// # Errors
    /// [`SendError::Unsupported`] where trust is not managed here.
    async fn remove_trusted_peer(&self, _key: &PeerName) -> Result<bool, SendError> {
        Err(SendError::Unsupported)
    }

    /// Whom this session can write to.
    async fn peers(&self) -> Vec<PeerEntry> {
        Vec::new()
    }

    /// Does what a session's tools ask for. When it answers, the other side has it; or, if the receipt says that it is
    /// not admitted yet, it is kept here or there until it is, and the session is told if it never comes to that.
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent, unless it is [`SendError::Internal`].
    async fn send(&self, _command: CommsCommand) -> Result<SendReceipt, SendError> {
        Err(SendError::Unsupported)
    }

    /// From now on this session's: where what it sends is kept, and what it has sent in earlier lives that is not over.
    /// Requests among it wait for answers again, and what has not arrived is to be carried again. Never waits.
    fn bound(&self, _outbox: Outbox, _kept: Vec<KeptEnvelope>) {}

    /// The first entries of the inbox, in order; they stay there.
    ///
    /// # Errors
    /// [`CommsError`]: it is asked again later.
    async fn claim(&self, most: usize) -> Result<Vec<Claim>, CommsError>;

    /// Removes entries that the session has on disk. Unknown ones are passed over.
    ///
    /// # Errors
    /// [`CommsError`]: they are claimed again then, and admitted once all the same.
    async fn acknowledge(&self, receipts: &[Receipt]) -> Result<(), CommsError>;

    /// Removes an entry that the session does not take, and tells its sender why, where it waits to hear.
    ///
    /// # Errors
    /// [`CommsError`]: it is claimed, and refused, again then.
    async fn refuse(&self, claim: &Claim, refusal: &Refusal) -> Result<(), CommsError>;

    /// Returns when something may have come since the last claim began; at once if it has.
    ///
    /// Cancel-safe: a future that is dropped takes no news with it.
    async fn notified(&self);

    /// The session takes nothing ever again: refuse what is there and what comes.
    async fn close(&self, _refusal: &Refusal) {}

    /// Whether somebody here waits to hear how this interaction ends.
    fn is_subscribed(&self, _interaction: EnvelopeId) -> bool {
        false
    }

    /// Tells who waits how the interaction ended. Waits until it is taken, which the caller bounds.
    async fn tell(&self, _interaction: EnvelopeId, _event: InteractionEvent) {}

    /// The interaction is over: forget who waited.
    fn mark_interaction_complete(&self, _interaction: EnvelopeId) {}
}

/// A peer that is to be heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedPeer {
    /// What it is called here.
    pub name: PeerName,
    /// Its key.
    pub key: PeerName,
    /// Where it is; empty where the key is enough to find it.
    pub address: String,
}

/// A peer that can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// What it is called here.
    pub name: PeerName,
    /// Its key.
    pub key: PeerName,
    /// Whether it is trusted.
    pub trusted: bool,
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendReceipt {
    /// A plain event is in the session's own inbox.
    InputAccepted {
        /// Names it.
        interaction_id: EnvelopeId,
    },
    /// A message is on its way.
    PeerMessageSent {
        /// Names it. If it is refused or its time runs out, a failed response to this id tells so.
        envelope_id: EnvelopeId,
        /// Whether its receiver has it on disk already.
        acked: bool,
    },
    /// A request is on its way. It gets one terminal response, whatever becomes of either side.
    PeerRequestSent {
        /// Names the request in its responses; the envelope's id.
        request_id: EnvelopeId,
        /// Whether its receiver has it on disk already.
        acked: bool,
    },
    /// A response is on its way.
    PeerResponseSent {
        /// Names it.
        envelope_id: EnvelopeId,
        /// The request.
        in_reply_to: EnvelopeId,
        /// Whether its receiver has it on disk already.
        acked: bool,
    },
}

impl SendReceipt {
    /// Of an envelope that is on its way.
    pub fn of(envelope: &Envelope, acked: bool) -> SendReceipt {
        let envelope_id = envelope.id;
        match envelope.body {
            EnvelopeBody::Message { .. } => SendReceipt::PeerMessageSent { envelope_id, acked },
            EnvelopeBody::Request { .. } => SendReceipt::PeerRequestSent { request_id: envelope_id, acked },
            EnvelopeBody::Response { in_reply_to, .. } => {
                SendReceipt::PeerResponseSent { envelope_id, in_reply_to, acked }
            }
        }
    }
}

/// Why nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Nobody here has this name.
    #[error("peer_unknown: nobody here is called {0}; ask for the list of peers")]
    PeerNotFound(PeerName),
    /// It is known and cannot be reached.
    #[error("peer_offline: {0} cannot be reached; try again later")]
    PeerOffline(PeerName),
    /// It does not hear this session.
    #[error("peer_unknown: {0} does not trust this session; have it add this session's key first")]
    PeerNotSendable(PeerName),
    /// Its inbox is full.
    #[error("queue_full: the inbox of {0} is full; try again when it has caught up")]
    InboxFull(PeerName),
    /// Its session takes nothing any more.
    #[error("session_state_conflict: the inbox of {0} is closed for ever")]
    InputClosed(PeerName),
    /// The chain of envelopes is too long to be anything but a loop.
    #[error("loop_detected: {hops} envelopes in a row came of one another, at most {limit} may; end the exchange")]
    LoopDetected {
        /// How many there would be.
        hops: u32,
        /// The most allowed.
        limit: u32,
    },
    /// The request is over, was never made, or was made to somebody else.
    #[error("session_state_conflict: request {0} does not wait for an answer of this session; it may be over")]
    RequestClosed(EnvelopeId),
    /// Too many requests wait for an answer.
    #[error("quota_exceeded: {limit} requests of this session wait for answers already")]
    TooManyRequests {
        /// The most allowed.
        limit: usize,
    },
    /// The session that sends does not keep it.
    #[error("{}: {_0}", .0.code())]
    NotKept(SendRefused),
    /// It may have arrived, or not. Sent again under the same id, it arrives once.
    #[error("peer_offline: {0} gave no answer that could be read; it may have heard all the same")]
    Undecided(PeerName),
    /// The receiver's session does not take it.
    #[error("{}: {}", .0.code, .0.reason)]
    Refused(Refusal),
    /// These comms cannot do that.
    #[error("unsupported: these comms cannot do that")]
    Unsupported,
    /// The command is not as it has to be.
    #[error("{0}")]
    Validation(String),
    /// Something outside went wrong; it may have been sent.
    #[error("internal: {0}")]
    Internal(String),
}

impl SendError {
    /// Its stable code.
    pub fn code(&self) -> &str {
        match self {
            SendError::NotKept(refused) => refused.code(),
            SendError::Refused(refusal) => &refusal.code,
            SendError::PeerNotFound(_) | SendError::PeerNotSendable(_) => "peer_unknown",
            SendError::PeerOffline(_) | SendError::Undecided(_) => "peer_offline",
            SendError::InboxFull(_) => "queue_full",
            SendError::InputClosed(_) | SendError::RequestClosed(_) => "session_state_conflict",
            SendError::LoopDetected { .. } => "loop_detected",
            SendError::TooManyRequests { .. } => "quota_exceeded",
            SendError::Unsupported => "unsupported",
            SendError::Validation(_) => "schema_violation",
            SendError::Internal(_) => "internal",
        }
    }

    /// Whether carrying the same envelope again cannot help. Who is away, full, not there yet or does not know the
    /// sender yet may be ready later.
    pub fn is_final(&self) -> bool {
        match self {
            SendError::Refused(refusal) => !refusal.is_transient(),
            SendError::InputClosed(_)
            | SendError::RequestClosed(_)
            | SendError::LoopDetected { .. }
            | SendError::Validation(_)
            | SendError::NotKept(_) => true,
            _ => false,
        }
    }
}

impl From<InvalidPeerName> for SendError {
    fn from(error: InvalidPeerName) -> Self {
        SendError::Validation(error.to_string())
    }
}

/// An inbox could not be read or written. It is tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("store_unavailable: the inbox could not be read or written: {0}")]
pub struct CommsError(pub String);

/// Why a session does not take what was sent to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Cow<'static, str>,
    /// In words.
    pub reason: String,
}

impl Refusal {
    /// Whether the same envelope may be taken later: there was no room, or not yet.
    pub fn is_transient(&self) -> bool {
        matches!(&*self.code, "queue_full" | "quota_exceeded" | "rate_limited" | "overloaded" | "rejected_by_policy")
    }
}

impl From<&RejectReason> for Refusal {
    fn from(reason: &RejectReason) -> Self {
        Refusal { code: reason.code().into(), reason: reason.to_string() }
    }
}
