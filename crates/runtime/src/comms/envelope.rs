//! What travels between peers?

use super::command::CommandError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, sync::Arc};
use uuid::Uuid;
use windlass_core::{ContentBlock, HandlingMode, SessionId};

/// The most hops from the envelope that began a chain. A conversation of agents that is longer than this without a
/// person, a schedule or a job in between is a loop.
pub const MAX_HOPS: u32 = 16;

macro_rules! uuid_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one; sorts by creation.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_name! {
    /// One envelope, chosen by its sender. With the sender's key it says which envelope comes again.
    EnvelopeId
}

impl EnvelopeId {
    /// The id of what a session sends under a key of its own: the same one whenever it is sent again.
    pub fn of_key(session: SessionId, key: &str) -> EnvelopeId {
        let mut hasher = blake3::Hasher::new_derive_key("windlass 2026 envelope id of a sender's key");
        hasher.update(session.as_uuid().as_bytes()).update(key.as_bytes());
        let bytes = *hasher.finalize().as_bytes().first_chunk().expect("sixteen of thirty-two bytes");
        EnvelopeId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

uuid_name! {
    /// All envelopes that came of one: each answer and each message sent because of another carries it on.
    ChainId
}

/// A name or a key by which a peer is known: 1 to 128 bytes, not blank, no control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Arc<str>", into = "Arc<str>")]
pub struct PeerName(Arc<str>);

/// The text names no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid_value: a peer's name has 1 to {} bytes, is not blank and holds no control characters",
    PeerName::MAX_BYTES
)]
pub struct InvalidPeerName;

impl PeerName {
    /// The longest name.
    pub const MAX_BYTES: usize = 128;

    /// Parses a name. Names reach the model in headers of their own line, hence no line may end in one.
    ///
    /// # Errors
    /// [`InvalidPeerName`].
    pub fn new(text: impl Into<Arc<str>>) -> Result<PeerName, InvalidPeerName> {
        let text = text.into();
        let fits = text.len() <= Self::MAX_BYTES && !text.trim().is_empty() && !text.chars().any(char::is_control);
        if fits { Ok(PeerName(text)) } else { Err(InvalidPeerName) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<Arc<str>> for PeerName {
    type Error = InvalidPeerName;

    fn try_from(text: Arc<str>) -> Result<Self, InvalidPeerName> {
        PeerName::new(text)
    }
}

impl From<PeerName> for Arc<str> {
    fn from(name: PeerName) -> Arc<str> {
        name.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One thing that one peer says to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Its identity.
    pub id: EnvelopeId,
    /// The sender's key.
    pub from: PeerName,
    /// The receiver's key.
    pub to: PeerName,
    /// The chain it belongs to.
    pub chain: ChainId,
    /// How many envelopes stand before it in its chain.
    pub hops: u32,
    /// What it says.
    pub body: EnvelopeBody,
}

/// What an envelope says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EnvelopeBody {
    /// Says something.
    Message {
        /// The words.
        body: String,
        /// Text, images and video.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocks: Option<Vec<ContentBlock>>,
        /// Where it asks to wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handling_mode: Option<HandlingMode>,
    },
    /// Asks for something; the envelope's id names the request.
    Request {
        /// What is asked.
        intent: String,
        /// The details.
        #[serde(default)]
        params: Value,
        /// Where it asks to wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handling_mode: Option<HandlingMode>,
    },
    /// Answers a request.
    Response {
        /// The request.
        in_reply_to: EnvelopeId,
        /// How far it is.
        status: ResponseStatus,
        /// The answer, or what went wrong.
        #[serde(default)]
        result: Value,
        /// Where it asks to wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handling_mode: Option<HandlingMode>,
    },
}

impl EnvelopeBody {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first [`CommandError`].
    pub fn validate(&self) -> Result<(), CommandError> {
        match self {
            EnvelopeBody::Response { status: ResponseStatus::Accepted, handling_mode: Some(_), .. } => {
                Err(CommandError { field: "handling_mode", code: "forbidden_for_accepted_response" })
            }
            EnvelopeBody::Request { intent, .. } if intent.trim().is_empty() => {
                Err(CommandError { field: "intent", code: "required_field" })
            }
            _ => Ok(()),
        }
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// Taken; the terminal response is still to come.
    Accepted,
    /// Ended with an answer.
    Completed,
    /// Ended with an error.
    Failed,
}

impl ResponseStatus {
    /// Whether nothing comes after it.
    pub const fn is_terminal(self) -> bool {
        matches!(self, ResponseStatus::Completed | ResponseStatus::Failed)
    }

    /// Its name on the wire and before the model.
    pub const fn as_str(self) -> &'static str {
        match self {
            ResponseStatus::Accepted => "accepted",
            ResponseStatus::Completed => "completed",
            ResponseStatus::Failed => "failed",
        }
    }
}
