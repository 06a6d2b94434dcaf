//! How do sessions hear from their peers?
//!
//! ```text
//! sender ─► classify (the receiver's rules, at once) ─► inbox ─► drain: claim, admit, acknowledge ─► session
//! ```
//!
//! [`CommsRuntime`] is the seam: an inbox and a way to send. What waits in an inbox stays there until a session has it
//! on disk; a drain that dies in between finds it again, and the session tells the second copy by its idempotency key.
//! What is sent is in the sender's journal before it leaves ([`Outbox`]), so inboxes may be memory. [`LocalNetwork`] joins the sessions of one process.

mod bridge;
mod candidate;
mod chain;
mod command;
mod counters;
mod drain;
mod drains;
mod envelope;
mod inbox;
mod local;
mod network;
mod outbox;
mod seam;

pub use bridge::{InteractionEvent, event_of, input_of};
pub use candidate::{
    InboxInteraction, Ingress, InteractionContent, PeerInputCandidate, PeerInputClass, PlainEvent, SenderNames,
    Untrusted,
};
pub use chain::{Chains, causes_of};
pub use command::{CommandError, CommsCommand, CommsCommandRequest};
pub use counters::{PeerCounters, PeerCounts};
pub use envelope::{ChainId, Envelope, EnvelopeBody, EnvelopeId, InvalidPeerName, MAX_HOPS, PeerName, ResponseStatus};
pub use inbox::{Claim, Inbox, InboxError, InboxRoom, Receipt};
pub use local::{Interaction, JoinError, LocalNetwork, LocalPeer, NetworkRules, PeerRules};
pub use outbox::{Arrival, KeptEnvelope, Outbox};
pub use seam::{CommsError, CommsRuntime, PeerEntry, Refusal, SendError, SendReceipt, TrustedPeer};

pub(crate) use drains::Drains;
