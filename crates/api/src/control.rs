//! What can be done to a session as a whole?

use serde::{Deserialize, Serialize};
use windlass_core::{Disposition, RunId, RuntimeState};

/// The control verbs that take nothing but the session; the last part of their path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Do nothing until revived.
    Stop,
    /// Keep inputs, do not run them.
    Hold,
    /// Run them again.
    Release,
    /// Take nothing new, run what is there.
    Retire,
    /// Keep everything, make it due.
    Recycle,
    /// Read the journal again and compare.
    Recover,
    /// Do nothing ever again.
    Destroy,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Verb; 7] =
        [Verb::Stop, Verb::Hold, Verb::Release, Verb::Retire, Verb::Recycle, Verb::Recover, Verb::Destroy];

    /// Its name, as in the path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Stop => "stop",
            Verb::Hold => "hold",
            Verb::Release => "release",
            Verb::Retire => "retire",
            Verb::Recycle => "recycle",
            Verb::Recover => "recover",
            Verb::Destroy => "destroy",
        }
    }
}

/// What a control verb did; counts are of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ControlReport {
    /// What the session is doing now.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RuntimeState))]
    pub state: RuntimeState,
    /// Ended without running.
    pub inputs_abandoned: u32,
    /// Left to be run.
    pub inputs_pending_drain: u32,
    /// Kept.
    pub inputs_transferred: u32,
}

/// Which run to cancel, and what becomes of its inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Interrupt {
    /// The run. Absent: the one that is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::RunId>))]
    pub run: Option<RunId>,
    /// Why, in words; at most 1,024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_length = 256))]
    pub reason: Option<String>,
    /// What becomes of inputs that no boundary covers: `drop` (the default) abandons them, `requeue` runs them again.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Disposition, required = false))]
    pub disposition: Disposition,
}

/// What an interrupt did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Interrupted {
    /// What became of it.
    pub outcome: InterruptOutcome,
    /// The run, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::RunId>))]
    pub run: Option<RunId>,
    /// The last boundary of it that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_committed: Option<u64>,
}

/// What became of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum InterruptOutcome {
    /// The run is cancelled: no further boundary of it commits.
    Cancelled,
    /// It was over before.
    TooLate,
    /// No run is on, or none of that id is known.
    NoSuchRun,
}

/// How to empty a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// Cancel a run that is on, instead of refusing.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub force: bool,
}
