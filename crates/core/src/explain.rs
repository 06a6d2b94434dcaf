//! Why is this input not running? Exactly one cause, and what will end it.

use crate::{Decision, Gate, InputId, InputState, Lane, Place, RunId, RuntimeState, Session, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The answer to "why is it not running?".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The input.
    pub input: InputId,
    /// Where it is; none if the session does not know it (any more).
    pub state: Option<InputState>,
    /// The one cause.
    pub cause: Cause,
    /// The cause in a sentence.
    pub sentence: String,
    /// How many wait in its lane before it.
    pub position: Option<u32>,
    /// When it may run at the earliest, if that is known.
    pub next_eligible: Option<Timestamp>,
    /// Times it has been tried since the last boundary.
    pub tries: u32,
    /// What the policy decided when it was admitted.
    pub decision: Option<Decision>,
    /// The row of the policy that decided; none: no row matched.
    pub policy_row: Option<u32>,
}

/// Why an input is not running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The session never had it, or has forgotten it.
    Unknown,
    /// It is over.
    Settled,
    /// It is running.
    Running {
        /// In this run.
        run: RunId,
    },
    /// Its run has boundaries that stand and goes on later.
    Suspended {
        /// The run.
        run: RunId,
    },
    /// The session does nothing.
    GateClosed {
        /// What it is.
        state: RuntimeState,
    },
    /// Inputs are kept, not run.
    Held,
    /// No executor is attached.
    NoExecutor,
    /// Whoever makes the session's executor could not; he is asked again. Only the process that owns the session knows.
    ExecutorUnavailable {
        /// Why, in the words of whoever could not.
        why: Arc<str>,
    },
    /// A run is on.
    RunOn {
        /// This one.
        run: RunId,
    },
    /// A cancelled executor has not returned yet.
    ExecutorLeaving {
        /// The run that was cancelled.
        run: RunId,
    },
    /// It failed and backs off.
    BackingOff,
    /// It waits for quiet.
    Debounced,
    /// It goes with the next run and starts none.
    WaitsForCompany,
    /// Nothing in the lanes may start a run.
    WaitsForWake,
    /// Another input backs off, and may not be passed.
    BehindBackoff,
    /// Others are before it.
    Behind,
    /// It will be appended at the run's next boundary.
    WaitsForBoundary,
    /// Nothing is in its way; it starts with the next step.
    Next,
}

impl Session {
    /// Why this input is not running. Linear in what is open; for people, not for the hot path.
    pub fn explain(&self, input: InputId, now: Timestamp) -> Explanation {
        let now = now.max(self.last_at);
        let Some(open) = self.open.get(&input) else {
            let state = self.input_state(input);
            let cause = if state.is_some() { Cause::Settled } else { Cause::Unknown };
            return Explanation {
                input,
                state,
                sentence: cause.sentence(),
                cause,
                position: None,
                next_eligible: None,
                tries: 0,
                decision: None,
                policy_row: None,
            };
        };
        let position = match open.place {
            Place::Waiting(lane) => {
                let before = |other: &&crate::Open| other.place == Place::Waiting(lane) && other.order < open.order;
                Some(self.open.values().filter(before).count() as u32)
            }
            Place::Context | Place::Run => None,
        };
        let next_eligible = match open.place {
            Place::Waiting(Lane::Aside) => Some(open.at + self.limits.aside_ttl),
            Place::Waiting(_) => open.not_before.filter(|at| *at > now),
            Place::Run => self.run.as_ref().and_then(|run| run.suspended_until()),
            Place::Context => None,
        };
        let cause = self.cause(open, position, now);
        Explanation {
            input,
            state: self.input_state(input),
            sentence: cause.sentence(),
            cause,
            position,
            next_eligible,
            tries: open.tries,
            decision: Some(open.accepted.decision.clone()),
            policy_row: open.accepted.policy_row,
        }
    }

    fn cause(&self, open: &crate::Open, position: Option<u32>, now: Timestamp) -> Cause {
        let lane = match (open.place, &self.run) {
            (Place::Run, Some(run)) if run.is_running() => return Cause::Running { run: run.id },
            (Place::Run, Some(run)) => return Cause::Suspended { run: run.id },
            (Place::Run, None) => unreachable!("an input of a run has a run (invariant I1)"),
            (Place::Context, _) => return Cause::WaitsForBoundary,
            (Place::Waiting(lane), _) => lane,
        };
        let failed = open.tries > 0;
        if !matches!(self.gate, Gate::Open | Gate::Retired) {
            Cause::GateClosed { state: self.state() }
        } else if self.held {
            Cause::Held
        } else if open.not_before.is_some_and(|at| at > now) {
            if failed { Cause::BackingOff } else { Cause::Debounced }
        } else if let Some(run) = &self.run {
            Cause::RunOn { run: run.id }
        } else if let Some(leaving) = self.leaving {
            Cause::ExecutorLeaving { run: leaving.run }
        } else if lane == Lane::Aside {
            Cause::WaitsForCompany
        } else if !self.attached {
            Cause::NoExecutor
        } else if !self.lanes.steer.has_waking() && !self.lanes.queue.has_waking() {
            Cause::WaitsForWake
        } else if self.lanes.steer.is_walled()
            || (lane == Lane::Queue && self.lanes.queue.is_walled())
            || self.is_behind_own_source(open, lane)
        {
            Cause::BehindBackoff
        } else if position.unwrap_or(0) > 0 || (lane == Lane::Queue && self.lanes.steer.has_ripe()) {
            Cause::Behind
        } else {
            Cause::Next
        }
    }

    fn is_behind_own_source(&self, open: &crate::Open, lane: Lane) -> bool {
        let lane = if lane == Lane::Steer { &self.lanes.steer } else { &self.lanes.queue };
        lane.is_blocked(&open.accepted.input.header.source)
    }
}

impl Explanation {
    /// The same; if nothing but an executor is missing, this is why there is none.
    #[must_use]
    pub fn without_executor(mut self, why: Arc<str>) -> Explanation {
        if self.cause == Cause::NoExecutor {
            self.cause = Cause::ExecutorUnavailable { why };
            self.sentence = self.cause.sentence();
        }
        self
    }
}

impl Cause {
    fn sentence(&self) -> String {
        match self {
            Cause::Unknown => "the session never had this input, or has forgotten it".into(),
            Cause::Settled => "it is over".into(),
            Cause::Running { run } => format!("it is running in {run}"),
            Cause::Suspended { run } => format!("{run} has committed boundaries and goes on from the last one"),
            Cause::GateClosed { state } => format!("the session is {}", state.as_str()),
            Cause::Held => "the session is held; release it".into(),
            Cause::NoExecutor => "no executor is attached to the session".into(),
            Cause::ExecutorUnavailable { why } => format!("its agent cannot work, and is tried again: {why}"),
            Cause::RunOn { run } => format!("{run} is on; it runs after it, or joins at its next checkpoint"),
            Cause::ExecutorLeaving { run } => format!("the executor of {run} was cancelled and has not returned yet"),
            Cause::BackingOff => "it failed and backs off".into(),
            Cause::Debounced => "it waits for quiet in its scope".into(),
            Cause::WaitsForCompany => "it goes with the next run and starts none by itself".into(),
            Cause::WaitsForWake => "it was accepted without a wake; the next waking input takes it along".into(),
            Cause::BehindBackoff => "an input before it failed and backs off, and may not be passed".into(),
            Cause::Behind => "others are before it".into(),
            Cause::WaitsForBoundary => "it is appended at the run's next boundary".into(),
            Cause::Next => "nothing is in its way".into(),
        }
    }
}
