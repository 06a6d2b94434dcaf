//! Which names does a session's world use, and how are those made that the core makes itself?

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt, num::NonZeroU64, str::FromStr, sync::Arc};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        /// The order of the bytes, compared as one number: ids made together differ late, and maps compare them often.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.as_u128().cmp(&other.0.as_u128())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// Wraps a UUID; use version 7 so that ids sort by creation.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID itself.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id! {
    /// One agent's durable conversation and queue.
    SessionId
}
uuid_id! {
    /// One input. Chosen by whoever builds it; the same id twice is a duplicate or a conflict, never a second input.
    InputId
}
uuid_id! {
    /// One execution of the executor over a batch of inputs. Its attempts are numbered, its id stays.
    RunId
}
uuid_id! {
    /// One continuous ordering of a session's background completions.
    RuntimeEpochId
}
uuid_id! {
    /// One background operation.
    OperationId
}
uuid_id! {
    /// Ties an input to something outside: an interaction, a schedule's occurrence.
    CorrelationId
}
uuid_id! {
    /// One life of a process that owns sessions. Tells an orderly reopening from the reopening after a crash.
    Incarnation
}

/// Why the core makes an id; part of what the id is hashed from, so that no two purposes ever share one.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Run = 1,
    Epoch = 2,
    RetryJitter = 3,
    Wake = 4,
    PeerFailure = 5,
}

/// 16 bytes that depend only on (session, purpose, counter): the core's stand-in for randomness.
pub(crate) fn derived_bytes(session: SessionId, purpose: Purpose, counter: u64) -> [u8; 16] {
    let mut message = [0u8; 25];
    message[..16].copy_from_slice(session.as_uuid().as_bytes());
    message[16] = purpose as u8;
    message[17..].copy_from_slice(&counter.to_le_bytes());
    let hash = blake3::hash(&message);
    hash.as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes")
}

/// A version 7 UUID (RFC 9562) whose time is `now` and whose random part is a hash, so that replay makes the same id.
pub(crate) fn derived_uuid(now: Timestamp, session: SessionId, purpose: Purpose, counter: u64) -> Uuid {
    let bytes = derived_bytes(session, purpose, counter);
    let random: [u8; 10] = bytes[..10].try_into().expect("ten of sixteen bytes");
    uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid()
}

impl InputId {
    /// The id under which a dead letter is tried anew: always the same one, so that redriving twice admits once.
    pub fn redrive_of(session: SessionId, dead: InputId) -> InputId {
        let mut message = [0u8; 32];
        message[..16].copy_from_slice(session.as_uuid().as_bytes());
        message[16..].copy_from_slice(dead.as_uuid().as_bytes());
        let hash = blake3::hash(&message);
        let bytes: [u8; 16] = hash.as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes");
        InputId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "Arc<str>", into = "Arc<str>")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest text allowed, in bytes.
            pub const MAX_BYTES: usize = $max;

            /// Parses a key: 1 to [`Self::MAX_BYTES`] visible ASCII characters.
            ///
            /// # Errors
            /// [`InvalidKey`] says which rule the text breaks.
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, InvalidKey> {
                let text = text.into();
                if text.is_empty() {
                    return Err(InvalidKey::Empty);
                }
                if text.len() > Self::MAX_BYTES {
                    return Err(InvalidKey::TooLong { bytes: text.len(), limit: Self::MAX_BYTES });
                }
                if let Some(at) = text.bytes().position(|b| !b.is_ascii_graphic()) {
                    return Err(InvalidKey::NotVisibleAscii { at });
                }
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<Arc<str>> for $name {
            type Error = InvalidKey;

            fn try_from(text: Arc<str>) -> Result<Self, InvalidKey> {
                Self::new(text)
            }
        }

        impl From<$name> for Arc<str> {
            fn from(key: $name) -> Arc<str> {
                key.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

text_id! {
    /// Makes a retry of one input recognisable. Scope: one session, all input kinds.
    IdempotencyKey, 255
}
text_id! {
    /// The scope in which newer inputs replace or join older ones: (session, kind, this key).
    SupersessionKey, 255
}

/// Why a text is no idempotency or supersession key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It has no characters.
    #[error("a key needs at least one character; leave it out to have none")]
    Empty,
    /// It is too long.
    #[error("a key has at most {limit} bytes, this one has {bytes}; hash long keys before sending them")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// It has a space, a control character or a character outside ASCII.
    #[error("a key holds visible ASCII characters only; byte {at} is something else")]
    NotVisibleAscii {
        /// The offset of the first offending byte.
        at: usize,
    },
}

/// The name of a session on the control plane: the session id as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogicalRuntimeId(pub String);

impl From<SessionId> for LogicalRuntimeId {
    fn from(session: SessionId) -> Self {
        LogicalRuntimeId(session.to_string())
    }
}

impl LogicalRuntimeId {
    /// The session this names, if it names one.
    pub fn session(&self) -> Option<SessionId> {
        self.0.parse().ok()
    }
}

/// The position of a record in its session's journal: dense, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Seq = Seq(0);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The ownership number of a session: raised at each opening, checked at each append.
///
/// A fencing token in the sense of Gray and Cheriton's leases: an append that carries an old one changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub NonZeroU64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one question to [`Session::step`](crate::Session::step); the answer carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The same for every attempt at the same piece of work, different for every other: hand it to tools that can
/// tell a repetition from something new.
///
/// Text: `session/run/boundary/ordinal`. External effects are at-least-once; this key is how a tool makes them once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EffectKey {
    /// The session.
    pub session: SessionId,
    /// The run, whose id is stable over attempts.
    pub run: RunId,
    /// The sequence that the next boundary will have.
    pub boundary: u64,
    /// Counts the effects within that boundary, from 0.
    pub ordinal: u32,
}

impl fmt::Display for EffectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.session, self.run, self.boundary, self.ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_visible_ascii_of_bounded_length() {
        assert_eq!(IdempotencyKey::new(""), Err(InvalidKey::Empty));
        assert_eq!(IdempotencyKey::new("a b"), Err(InvalidKey::NotVisibleAscii { at: 1 }));
        assert_eq!(IdempotencyKey::new("x".repeat(256)), Err(InvalidKey::TooLong { bytes: 256, limit: 255 }));
        assert!(IdempotencyKey::new("order-17").is_ok());
        assert!(serde_json::from_str::<IdempotencyKey>("\"tab\\there\"").is_err());
    }

    #[test]
    fn derived_ids_are_v7_and_depend_on_session_purpose_and_counter() {
        let session = SessionId::from_uuid(Uuid::from_u128(7));
        let at = Timestamp::from_micros(1_700_000_000_000_000);
        let id = derived_uuid(at, session, Purpose::Run, 1);
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id, derived_uuid(at, session, Purpose::Run, 1));
        assert_ne!(id, derived_uuid(at, session, Purpose::Run, 2));
        assert_ne!(id, derived_uuid(at, session, Purpose::Epoch, 1));
    }
}
