//! What do the control verbs do? Durable, idempotent, and linear with boundary commits because they are steps too.

use crate::{
    AbandonReason, Control, ControlRefused, ControlReport, Gate, InputId, Place, Purpose, Record, RunEnd,
    RuntimeEpochId, Session, Step, Timestamp, Waker, ids::derived_uuid,
};

type Answer = Result<ControlReport, ControlRefused>;

impl Session {
    pub(crate) fn on_control(&mut self, now: Timestamp, verb: Control, step: &mut Step) -> Answer {
        let refused = Err(ControlRefused::State { state: self.state() });
        if self.gate == Gate::Destroyed {
            return match verb {
                Control::Destroy => Ok(ControlReport::default()),
                _ => refused,
            };
        }
        match verb {
            Control::Retire { will_drain } => match self.gate {
                Gate::Open | Gate::Retired => Ok(self.retire(now, will_drain || self.attached, step)),
                Gate::Stopped | Gate::Destroyed => refused,
            },
            Control::Stop => Ok(self.shut(now, Gate::Stopped, &AbandonReason::Stopped, step)),
            Control::Destroy => Ok(self.shut(now, Gate::Destroyed, &AbandonReason::Destroyed, step)),
            Control::Revive => {
                if self.gate == Gate::Stopped {
                    self.set_gate(now, Gate::Open, "registered again", step);
                }
                Ok(ControlReport::default())
            }
            Control::Reset { force } => {
                let running = self.run.as_ref().is_some_and(|run| run.is_running());
                if self.gate == Gate::Stopped || (running && !force) {
                    return refused;
                }
                Ok(self.reset(now, step))
            }
            Control::Recycle => {
                if self.run.as_ref().is_some_and(|run| run.is_running()) {
                    return refused;
                }
                self.wake_all(now, Waker::Recycle, step);
                Ok(ControlReport { inputs_transferred: self.open_inputs(), ..ControlReport::default() })
            }
            Control::Hold | Control::Release => {
                let held = verb == Control::Hold;
                // What is held when the session is retired must still be able to drain.
                if self.gate != Gate::Open && (held || self.gate != Gate::Retired) {
                    return refused;
                }
                if self.held != held {
                    self.write(now, Record::HoldChanged { held }, step);
                }
                Ok(ControlReport::default())
            }
            Control::SetSilentIntents(intents) => {
                let intents = self.silent(intents)?;
                self.set_silent(now, intents, step);
                Ok(ControlReport::default())
            }
            Control::CreateWith(profile) => self.on_profile(now, profile, true, step),
            Control::SetProfile(profile) => self.on_profile(now, profile, false, step),
            Control::Change(change) => self.on_change(now, *change, step),
            Control::Note(note) => {
                self.write(now, Record::Noted { note }, step);
                Ok(ControlReport::default())
            }
        }
    }

    /// The intents as they are kept, if there are not too many.
    pub(crate) fn silent(&self, mut intents: Vec<String>) -> Result<Vec<String>, ControlRefused> {
        intents.sort_unstable();
        intents.dedup();
        let (given, limit) = (intents.len() as u32, self.limits.silent_intents);
        if given > limit { Err(ControlRefused::TooManyIntents { given, limit }) } else { Ok(intents) }
    }

    pub(crate) fn set_silent(&mut self, now: Timestamp, intents: Vec<String>, step: &mut Step) {
        if self.silent_intents != intents {
            self.write(now, Record::SilentIntentsSet { intents }, step);
        }
    }

    fn retire(&mut self, now: Timestamp, will_drain: bool, step: &mut Step) -> ControlReport {
        if self.gate == Gate::Open {
            self.set_gate(now, Gate::Retired, "retired", step);
        }
        if will_drain {
            self.wake_all(now, Waker::Retire, step);
            return ControlReport { inputs_pending_drain: self.open_inputs(), ..ControlReport::default() };
        }
        let before = self.open_inputs();
        // What runs may finish; what is suspended has nobody to resume it.
        if self.run.as_ref().is_some_and(|run| !run.is_running()) {
            let reason = AbandonReason::Retired;
            self.cut_run(now, RunEnd::Cancelled { reason: reason.code().to_owned(), inputs: reason }, "", step);
        }
        self.abandon_waiting(now, AbandonReason::Retired, step);
        let left = self.open_inputs();
        ControlReport { inputs_abandoned: before - left, inputs_pending_drain: left, ..ControlReport::default() }
    }

    /// Stops or destroys: cancels what runs, abandons what waits, moves the gate.
    fn shut(&mut self, now: Timestamp, gate: Gate, reason: &AbandonReason, step: &mut Step) -> ControlReport {
        if self.gate == gate {
            return ControlReport::default();
        }
        let inputs_abandoned = self.empty(now, reason, step);
        self.terminate_operations(now, reason.code(), step);
        self.set_gate(now, gate, reason.code(), step);
        ControlReport { inputs_abandoned, ..ControlReport::default() }
    }

    fn reset(&mut self, now: Timestamp, step: &mut Step) -> ControlReport {
        let inputs_abandoned = self.empty(now, &AbandonReason::Reset, step);
        self.terminate_operations(now, "reset", step);
        let epoch = RuntimeEpochId::from_uuid(derived_uuid(now, self.id, Purpose::Epoch, self.made));
        self.write(now, Record::SessionReset { epoch }, step);
        ControlReport { inputs_abandoned, ..ControlReport::default() }
    }

    /// Ends every open input, the run first. Returns how many.
    fn empty(&mut self, now: Timestamp, reason: &AbandonReason, step: &mut Step) -> u32 {
        let before = self.open_inputs();
        let end = RunEnd::Cancelled { reason: reason.code().to_owned(), inputs: reason.clone() };
        self.cut_run(now, end, reason.code(), step);
        self.abandon_waiting(now, reason.clone(), step);
        before
    }

    fn abandon_waiting(&mut self, now: Timestamp, reason: AbandonReason, step: &mut Step) {
        let waiting = self.open.iter().filter(|(_, open)| open.place != Place::Run);
        let waiting: Vec<InputId> = waiting.map(|(id, _)| *id).collect();
        self.abandon(now, waiting, reason, step);
    }

    fn set_gate(&mut self, now: Timestamp, gate: Gate, reason: &str, step: &mut Step) {
        self.write(now, Record::GateChanged { gate, reason: reason.to_owned() }, step);
    }
}
