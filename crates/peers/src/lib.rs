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
mod post;
mod wire;

pub use directory::{DOOR, PeerDirectory};
pub use identity::{Address, Identity};
pub use peer::{HttpPeer, HttpRules};
pub use post::Postman;
pub use wire::{MAX_ENVELOPE_BYTES, MAX_LIFE, MAX_SKEW, PeerRefusal, SignedEnvelope};
