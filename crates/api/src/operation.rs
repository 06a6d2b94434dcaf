//! How do producers outside report background work?

use crate::Time;
use serde::{Deserialize, Serialize};
use windlass_core::{OperationId, OperationKind, OperationProgressUpdate, OperationStatus, SessionId};

/// Background work to register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RegisterOperation {
    /// Its id. Absent: a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::OperationId>))]
    pub id: Option<OperationId>,
    /// Its kind: the end of a `background_tool_op` (the default) wakes a quiet session.
    #[serde(default = "tool")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OperationKind, required = false))]
    pub kind: OperationKind,
    /// What to call it.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub display_name: String,
    /// Who produces it. Absent: `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 200))]
    pub source_label: Option<String>,
    /// The child session, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SessionId>))]
    pub child_session_id: Option<SessionId>,
}

fn tool() -> OperationKind {
    OperationKind::BackgroundToolOp
}

/// It ended well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CompleteOperation {
    /// The result, in words.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub content: String,
    /// Whether the words tell of an error.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub is_error: bool,
    /// How long it took, in milliseconds.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false, maximum = 9_007_199_254_740_991_u64))]
    pub duration_ms: u64,
    /// Tokens it used.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false, maximum = 9_007_199_254_740_991_u64))]
    pub tokens_used: u64,
}

/// It ended badly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FailOperation {
    /// What went wrong.
    pub error: String,
}

/// It is so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ProgressOperation {
    /// In words.
    pub message: String,
    /// In percent, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 100))]
    pub percent: Option<f32>,
}

/// It is called off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CancelOperation {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationView {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OperationId))]
    pub id: OperationId,
    /// The session that waits to hear of it.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// Its kind.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OperationKind))]
    pub kind: OperationKind,
    /// What it is called.
    pub display_name: String,
    /// Who produces it.
    pub source_label: String,
    /// The child session, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SessionId>))]
    pub child_session_id: Option<SessionId>,
    /// Where it is in its life.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OperationStatus))]
    pub status: OperationStatus,
    /// How often its producer told how far it is.
    pub progress_count: u32,
    /// What its producer told last, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::schema::OperationProgress>))]
    pub progress: Vec<OperationProgressUpdate>,
    /// When it was registered.
    pub created_at: Time,
    /// When it began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// What it came to, in words: the result, or what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Its place among the session's completions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<u64>,
    /// Until when another producer may take it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphaned_until: Option<Time>,
}

/// What a wait for an operation came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationWaited {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OperationId))]
    pub id: OperationId,
    /// Where it is in its life.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OperationStatus))]
    pub status: OperationStatus,
    /// What it came to, in words, if it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
