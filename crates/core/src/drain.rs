//! Should a session's peer inbox be drained, and in which phase is the task that does it?
//!
//! The machine of one drain task: [`Drain::step`] moves it and says what is to be done. Which mode is wanted is a
//! function of three facts, [`DrainMode::desired`]. Nothing here is recorded: a drain lives as long as its process.

use crate::RuntimeState;
use serde::{Deserialize, Serialize};

/// Why a session's inbox is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainMode {
    /// An executor is there to handle what comes.
    AttachedSession,
    /// None is, but the session is kept alive for whoever writes to it.
    PersistentHost,
}

impl DrainMode {
    /// The mode that is wanted; none: the inbox is left alone.
    pub const fn desired(state: RuntimeState, comms: bool, keep_alive: bool) -> Option<DrainMode> {
        match state {
            _ if !comms => None,
            RuntimeState::Attached | RuntimeState::Running | RuntimeState::Recovering => {
                Some(DrainMode::AttachedSession)
            }
            RuntimeState::Idle if keep_alive => Some(DrainMode::PersistentHost),
            RuntimeState::Idle
            | RuntimeState::Initializing
            | RuntimeState::Retired
            | RuntimeState::Stopped
            | RuntimeState::Destroyed => None,
        }
    }
}

/// Where a drain task is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainPhase {
    /// There never was one.
    #[default]
    Inactive,
    /// One is being spawned.
    Starting,
    /// One is on.
    Running,
    /// One failed that is to come back.
    ExitedRespawnable,
    /// There is none, and none comes back by itself.
    Stopped,
}

/// Why a drain task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainExit {
    /// A peer sent DISMISS.
    Dismissed,
    /// It panicked.
    Failed,
    /// It was told to.
    Aborted,
    /// The session, or the runtime, is gone.
    SessionShutdown,
}

/// What can happen to a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DrainInput {
    /// One is wanted.
    EnsureRunning(DrainMode),
    /// The task is there.
    TaskSpawned,
    /// The task ended.
    TaskExited(DrainExit),
    /// None is wanted.
    StopRequested,
    /// The task was aborted by somebody else.
    AbortObserved,
}

/// What is to be done after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DrainEffect {
    /// Spawn a task.
    Spawn(DrainMode),
    /// End the task.
    Abort,
}

/// The phase does not allow this; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session_state_conflict: a drain that is {from:?} does not take {input:?}; look at its phase first")]
pub struct DrainRefused {
    /// The phase.
    pub from: DrainPhase,
    /// What it does not take.
    pub input: DrainInput,
}

/// The lifecycle of one session's drain task.
///
/// ```
/// use windlass_core::{Drain, DrainEffect, DrainInput, DrainMode, DrainPhase};
/// let mut drain = Drain::default();
/// let effect = drain.step(DrainInput::EnsureRunning(DrainMode::PersistentHost)).unwrap();
/// assert_eq!(effect, Some(DrainEffect::Spawn(DrainMode::PersistentHost)));
/// drain.step(DrainInput::TaskSpawned).unwrap();
/// assert_eq!(drain.phase(), DrainPhase::Running);
/// assert!(drain.step(DrainInput::TaskSpawned).is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    phase: DrainPhase,
    mode: Option<DrainMode>,
}

impl Drain {
    /// Where the task is in its life.
    pub const fn phase(&self) -> DrainPhase {
        self.phase
    }

    /// The mode it was last wanted in.
    pub const fn mode(&self) -> Option<DrainMode> {
        self.mode
    }

    /// Whether there is a task, or about to be one.
    pub const fn is_on(&self) -> bool {
        matches!(self.phase, DrainPhase::Starting | DrainPhase::Running)
    }

    /// Moves it, and says what is to be done.
    ///
    /// # Errors
    /// [`DrainRefused`] where the phase does not allow the input; nothing is changed then.
    pub fn step(&mut self, input: DrainInput) -> Result<Option<DrainEffect>, DrainRefused> {
        use DrainPhase as P;
        let (phase, effect) = match (self.phase, input) {
            (P::Inactive | P::ExitedRespawnable | P::Stopped, DrainInput::EnsureRunning(mode)) => {
                self.mode = Some(mode);
                (P::Starting, Some(DrainEffect::Spawn(mode)))
            }
            (P::Starting, DrainInput::TaskSpawned) => (P::Running, None),
            (P::Starting | P::Running, DrainInput::TaskExited(DrainExit::Failed))
                if self.mode == Some(DrainMode::PersistentHost) =>
            {
                (P::ExitedRespawnable, None)
            }
            (P::Starting | P::Running, DrainInput::TaskExited(_) | DrainInput::AbortObserved)
            | (P::ExitedRespawnable, DrainInput::StopRequested) => (P::Stopped, None),
            (P::Starting | P::Running, DrainInput::StopRequested) => (P::Stopped, Some(DrainEffect::Abort)),
            (from, input) => return Err(DrainRefused { from, input }),
        };
        self.phase = phase;
        Ok(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DrainExit::{Aborted, Dismissed, Failed, SessionShutdown};
    use DrainMode::{AttachedSession, PersistentHost};
    use DrainPhase::{ExitedRespawnable, Inactive, Running, Starting, Stopped};

    /// A drain in this phase, last wanted in this mode.
    fn drain(phase: DrainPhase, mode: DrainMode) -> Drain {
        Drain { phase, mode: (phase != Inactive).then_some(mode) }
    }

    const INPUTS: [DrainInput; 9] = [
        DrainInput::EnsureRunning(AttachedSession),
        DrainInput::EnsureRunning(PersistentHost),
        DrainInput::TaskSpawned,
        DrainInput::TaskExited(Dismissed),
        DrainInput::TaskExited(Failed),
        DrainInput::TaskExited(Aborted),
        DrainInput::TaskExited(SessionShutdown),
        DrainInput::StopRequested,
        DrainInput::AbortObserved,
    ];

    // OC 70, 71: the whole table; whoever is not in it is refused.
    #[test]
    fn every_phase_takes_exactly_the_inputs_of_the_table() {
        for mode in [AttachedSession, PersistentHost] {
            let failed = if mode == PersistentHost { ExitedRespawnable } else { Stopped };
            for phase in [Inactive, Starting, Running, ExitedRespawnable, Stopped] {
                for input in INPUTS {
                    let expected = match (phase, input) {
                        (Inactive | ExitedRespawnable | Stopped, DrainInput::EnsureRunning(wanted)) => {
                            Some((Starting, Some(DrainEffect::Spawn(wanted))))
                        }
                        (Starting, DrainInput::TaskSpawned) => Some((Running, None)),
                        (Starting | Running, DrainInput::TaskExited(Failed)) => Some((failed, None)),
                        (Starting | Running, DrainInput::TaskExited(Dismissed | Aborted | SessionShutdown)) => {
                            Some((Stopped, None))
                        }
                        (Starting | Running, DrainInput::StopRequested) => Some((Stopped, Some(DrainEffect::Abort))),
                        (ExitedRespawnable, DrainInput::StopRequested)
                        | (Starting | Running, DrainInput::AbortObserved) => Some((Stopped, None)),
                        _ => None,
                    };
                    let before = drain(phase, mode);
                    let mut after = before;
                    match expected {
                        Some((to, effect)) => {
                            assert_eq!(after.step(input), Ok(effect), "{phase:?} {input:?}");
                            assert_eq!(after.phase(), to, "{phase:?} {input:?}");
                        }
                        None => {
                            assert_eq!(after.step(input), Err(DrainRefused { from: phase, input }));
                            assert_eq!(after, before, "{phase:?} refuses {input:?} and changes nothing");
                        }
                    }
                    if let (Some(_), DrainInput::EnsureRunning(wanted)) = (expected, input) {
                        assert_eq!(after.mode(), Some(wanted));
                    }
                }
            }
        }
    }

    // OC 72
    #[test]
    fn the_mode_follows_from_state_comms_and_keep_alive() {
        use RuntimeState as S;
        let states =
            [S::Initializing, S::Idle, S::Attached, S::Running, S::Recovering, S::Retired, S::Stopped, S::Destroyed];
        for state in states {
            for keep_alive in [false, true] {
                let expected = match state {
                    S::Attached | S::Running | S::Recovering => Some(AttachedSession),
                    S::Idle if keep_alive => Some(PersistentHost),
                    _ => None,
                };
                assert_eq!(DrainMode::desired(state, true, keep_alive), expected, "{state:?}");
                assert_eq!(DrainMode::desired(state, false, keep_alive), None, "{state:?} without comms");
            }
        }
    }
}
