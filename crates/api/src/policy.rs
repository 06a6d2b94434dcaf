//! How are policies kept, asked and tried out?

use crate::Time;
use serde::{Deserialize, Serialize};
use windlass_core::{Decision, HandlingMode, InputId, InputKind, PolicyTable, SessionId, SourceKind};

/// A policy was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicySaved {
    /// Its name.
    pub name: String,
    /// Its version: counts from 1, and is recorded in each decision.
    pub version: u64,
    /// Whether it says something new; the same table again keeps its version.
    pub changed: bool,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyView {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// When this version was kept.
    pub updated_at: Time,
    /// Its rows. Left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub table: Option<PolicyTable>,
}

/// A question to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExplainPolicy {
    /// The kind of input.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputKind))]
    pub kind: InputKind,
    /// The handling mode that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::HandlingMode>))]
    pub handling_mode: Option<HandlingMode>,
    /// Where it comes from. Absent: `operator`.
    #[serde(default = "operator")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SourceKind, required = false))]
    pub source: SourceKind,
    /// Whether a run is on.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub busy: bool,
}

fn operator() -> SourceKind {
    SourceKind::Operator
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyExplained {
    /// The policy.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// The row that says it, from 0; absent: no row matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u32>,
    /// What is to be done.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Decision))]
    pub decision: Decision,
}

/// A recorded span to try a policy on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplayPolicy {
    /// The session whose journal it is: its id or name.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionName))]
    pub session: String,
    /// From the entry after this position. Absent: from the oldest that is kept.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false, maximum = 9_007_199_254_740_991_u64))]
    pub after: u64,
    /// At most so many entries.
    #[serde(default = "replayed")]
    #[cfg_attr(feature = "openapi", schema(required = false, minimum = 1, maximum = 10_000))]
    pub limit: u32,
}

const fn replayed() -> u32 {
    1_000
}

/// What a policy would have decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyReplayed {
    /// The policy.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// The session.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// Entries that were read.
    pub entries: u32,
    /// Decisions that were compared.
    pub decisions: u32,
    /// Those that would differ.
    pub differences: Vec<PolicyDifference>,
    /// The position to go on after. Absent: the journal ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}

/// One decision that would differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyDifference {
    /// The input.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputId))]
    pub input: InputId,
    /// The entry that admitted it.
    pub seq: u64,
    /// Whether a run was on.
    pub busy: bool,
    /// What was decided.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Decision))]
    pub recorded: Decision,
    /// The row that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_row: Option<u32>,
    /// What would have been.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Decision))]
    pub replayed: Decision,
    /// The row that would have decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_row: Option<u32>,
}
