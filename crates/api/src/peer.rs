//! How does a session write to its peers?

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use windlass_core::HandlingMode;

/// Something to say to another session, in the name of the session in the path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPeerMessage {
    /// The peer, as the list of peers calls it.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Name))]
    pub to: String,
    /// A message, a request that is to be answered, or the answer to one. Absent: a message.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub kind: PeerMessageKind,
    /// A message's words, the intent of a request, or what is answered.
    #[cfg_attr(feature = "openapi", schema(min_length = 1))]
    pub body: String,
    /// The details of a request. Only with one.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object, required = false))]
    pub params: Value,
    /// The request that a response answers. Only with one, and always with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Uuid>))]
    pub in_reply_to: Option<Uuid>,
    /// How far the request is. Only with a response. Absent: it is completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PeerResponseStatus>,
    /// Where it asks to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::HandlingMode>))]
    pub handling_mode: Option<HandlingMode>,
}

/// What is said to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PeerMessageKind {
    /// Words.
    #[default]
    Message,
    /// Something that is to be answered.
    Request,
    /// How far a request is, or what it came to.
    Response,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PeerResponseStatus {
    /// Taken; how it ends is still to come.
    Accepted,
    /// Ended with an answer.
    Completed,
    /// Ended without one; the body says why.
    Failed,
}

/// It is kept, and on its way until it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerMessageSent {
    /// Names it; the answer to a request names it too.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Uuid))]
    pub id: Uuid,
    /// What it was.
    pub kind: PeerMessageKind,
    /// Whether the peer has it on disk already. If it never arrives, a failed response to its id tells the sender.
    pub delivered: bool,
}

/// A peer that a session may write to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerView {
    /// What to call it.
    pub name: String,
    /// Whether it can be reached now.
    pub reachable: bool,
}

/// One page of the peers of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerPage {
    /// The other sessions of this server.
    pub items: Vec<PeerView>,
    /// Where the next page begins: pass it as `cursor`. Absent: this was the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Other servers whose sessions may be written to, too. Which there are is theirs to say; one is called
    /// `SESSION@SERVER`. The same on every page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub servers: Vec<String>,
}
