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
    /// A message, or a request that is to be answered. Absent: a message.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub kind: PeerMessageKind,
    /// A message's words, or the intent of a request.
    #[cfg_attr(feature = "openapi", schema(min_length = 1))]
    pub body: String,
    /// The details of a request. Only with one.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object, required = false))]
    pub params: Value,
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
}

/// It is in the peer's inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerMessageSent {
    /// Names it; the answer to a request names it too.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Uuid))]
    pub id: Uuid,
    /// What it was.
    pub kind: PeerMessageKind,
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
