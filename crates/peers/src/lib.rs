//! Sessions of different processes that write to each other: HTTP, with signed envelopes.
//!
//! Every session that takes part has an Ed25519 key and pins the keys of those it hears; nothing else makes it hear
//! anybody. [`HttpPeer`] is the session's comms, [`PeerDirectory`] the door of a process, [`PeerDirectory::router`]
//! what an HTTP server mounts. What an envelope must be is one page, [`wire`](crate::SignedEnvelope).
#![forbid(unsafe_code)]

mod directory;
mod door;
mod identity;
mod peer;
mod wire;

pub use directory::PeerDirectory;
pub use identity::Identity;
pub use peer::{HttpPeer, HttpRules};
pub use wire::{MAX_ENVELOPE_BYTES, MAX_LIFE, MAX_SKEW, PeerRefusal, SignedEnvelope};
