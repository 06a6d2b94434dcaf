//! Why is an input not running?

use crate::{Completion, Time};
use serde::{Deserialize, Serialize};
use windlass_core::{Decision, InputId, InputState, RunId};

/// Why an input is not running: exactly one cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explanation {
    /// The input.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputId))]
    pub id: InputId,
    /// Where it is.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputState))]
    pub state: InputState,
    /// The one cause: `settled`, `running`, `suspended`, `gate_closed`, `held`, `no_executor`, `run_on`,
    /// `executor_leaving`, `backing_off`, `debounced`, `waits_for_company`, `waits_for_wake`, `behind_backoff`,
    /// `behind`, `waits_for_boundary`, `next`.
    pub cause: String,
    /// The cause in a sentence.
    pub sentence: String,
    /// The run that the cause speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::RunId>))]
    pub run: Option<RunId>,
    /// How many wait in its lane before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// When it may run at the earliest, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_eligible: Option<Time>,
    /// Times it has been tried since the last boundary.
    pub tries: u32,
    /// What the policy decided when it was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Decision>))]
    pub decision: Option<Decision>,
    /// The row of the policy that decided, from 0; absent: no row matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_row: Option<u32>,
    /// How it ended, if it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Completion>,
}
