//! Why is an input not running?

use crate::{Completion, Time};
use serde::{Deserialize, Serialize};
use windlass_core::{Cause, Decision, InputId, InputState, RunId};

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
    /// The one cause: `settled`, `running`, `suspended`, `gate_closed`, `held`, `no_executor`,
    /// `executor_unavailable`, `run_on`, `executor_leaving`, `backing_off`, `debounced`, `waits_for_company`, `waits_for_wake`, `behind_backoff`,
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

impl Explanation {
    /// What a session says of an input that it has open; none if it has not.
    pub fn of_open(said: windlass_core::Explanation) -> Option<Explanation> {
        let state = said.state.filter(|_| !matches!(said.cause, Cause::Settled | Cause::Unknown))?;
        let (cause, run) = cause_of(&said.cause);
        Some(Explanation {
            id: said.input,
            state,
            cause: cause.to_owned(),
            sentence: said.sentence,
            run,
            position: said.position,
            next_eligible: said.next_eligible.map(Into::into),
            tries: said.tries,
            decision: said.decision,
            policy_row: said.policy_row,
            result: None,
        })
    }

    /// Of an input that is over, with what was decided and how it ended as far as that is still kept.
    pub fn of_settled(
        id: InputId,
        state: InputState,
        decision: Option<Decision>,
        policy_row: Option<u32>,
        result: Option<Completion>,
    ) -> Explanation {
        Explanation {
            id,
            state,
            cause: "settled".to_owned(),
            sentence: "it is over".to_owned(),
            run: result.as_ref().and_then(|result| result.run),
            position: None,
            next_eligible: None,
            tries: 0,
            decision,
            policy_row,
            result,
        }
    }
}

const fn cause_of(cause: &Cause) -> (&'static str, Option<RunId>) {
    match cause {
        Cause::Unknown => ("unknown", None),
        Cause::Settled => ("settled", None),
        Cause::Running { run } => ("running", Some(*run)),
        Cause::Suspended { run } => ("suspended", Some(*run)),
        Cause::GateClosed { .. } => ("gate_closed", None),
        Cause::Held => ("held", None),
        Cause::NoExecutor => ("no_executor", None),
        Cause::ExecutorUnavailable { .. } => ("executor_unavailable", None),
        Cause::RunOn { run } => ("run_on", Some(*run)),
        Cause::ExecutorLeaving { run } => ("executor_leaving", Some(*run)),
        Cause::BackingOff => ("backing_off", None),
        Cause::Debounced => ("debounced", None),
        Cause::WaitsForCompany => ("waits_for_company", None),
        Cause::WaitsForWake => ("waits_for_wake", None),
        Cause::BehindBackoff => ("behind_backoff", None),
        Cause::Behind => ("behind", None),
        Cause::WaitsForBoundary => ("waits_for_boundary", None),
        Cause::Next => ("next", None),
    }
}
