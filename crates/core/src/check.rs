//! What must hold after every step, whatever happened?
//!
//! The invariants of the ingress specification, section 18, as far as one session can see them. I5 over processes
//! (the store's fence), I6, I10 and I13 (records before effects, in the runtime's actor), I11 (waiters), I16 (the store
//! suite) and I18 (surfaces assign origins) are shown by the tests of those layers.

use crate::{Deliver, Gate, InputId, Lane, Place, Session};

/// Beyond this many open inputs a check on every step would make the tests quadratic; every 64th step is checked then.
const ALWAYS_UP_TO: usize = 64;

impl Session {
    /// Asserts every invariant. Called after each step in debug builds.
    ///
    /// # Panics
    /// If an invariant does not hold; the message names it. That is a bug in this crate.
    pub fn check(&self) {
        if self.open.len() > ALWAYS_UP_TO && !self.head.0.is_multiple_of(64) {
            return;
        }
        self.check_places();
        self.check_run();
        self.check_order();
        self.check_rest();
    }

    fn check_places(&self) {
        let mut waiting = [0u32; 3];
        let mut context = 0;
        for (id, open) in &self.open {
            assert_eq!(*id, open.accepted.input.id(), "I3: an input is found under its own id");
            assert!(self.settled.by_id(*id).is_none(), "I1, I2: an open input is not settled: {id}");
            match open.place {
                Place::Waiting(lane) => {
                    assert_eq!(open.home(), Some(lane), "I1: an input waits in its own lane: {id}");
                    waiting[lane as usize] += 1;
                }
                Place::Context => {
                    assert_eq!(open.accepted.decision.deliver, Deliver::Context, "I1: context waits as context: {id}");
                    context += 1;
                }
                Place::Run => {
                    let run = self.run.as_ref().expect("I1: an input of a run has a run");
                    assert!(run.members.iter().any(|member| member.id == *id), "I1: the run knows its input: {id}");
                }
            }
            if let Some(key) = &open.accepted.input.header.idempotency_key {
                assert_eq!(self.input_by_key(key), Some(*id), "I1: an open input holds its key");
            }
        }
        for lane in [Lane::Steer, Lane::Queue, Lane::Aside] {
            assert_eq!(self.lanes.len(lane), waiting[lane as usize], "I1, I3: the {lane} holds what waits there");
        }
        assert_eq!(self.context_waits, context, "I1: waiting context is counted");
        assert!(self.keys.values().all(|id| self.open.contains_key(id)), "I1: a key in use is held by an open input");
        for ((_, key, lane), inputs) in &self.scopes {
            assert!(!inputs.is_empty(), "a scope without inputs is removed");
            for (order, id) in inputs {
                let open = self.open.get(id).expect("I1: a scope is held by open inputs");
                assert_eq!(
                    (open.place, open.order, open.starts),
                    (Place::Waiting(*lane), *order, 0),
                    "I1: {key} waits"
                );
            }
        }
    }

    fn check_run(&self) {
        let Some(run) = &self.run else { return };
        for member in &run.members {
            let open = self.open.get(&member.id).expect("I2: what runs is open");
            assert_eq!(open.place, Place::Run, "I1: what runs waits nowhere");
            assert!(open.starts > 0 && open.starts <= run.attempt, "I8: a start is counted before it happens");
            assert!(!member.covered || run.next_sequence > 0, "I9: a covered input has a receipt");
        }
        assert!(run.attempt > 0, "I8: a run has started");
        assert!(run.is_running() || run.next_sequence > 0, "I9: only a run with boundaries is suspended");
        assert!(run.tries <= self.limits.attempts, "I8: tries stay within the limit");
        assert!(
            self.leaving.is_none() || !run.is_running(),
            "I5: nothing runs while a cancelled executor is still there"
        );
    }

    fn check_order(&self) {
        for lane in [Lane::Steer, Lane::Queue] {
            let one = if lane == Lane::Steer { &self.lanes.steer } else { &self.lanes.queue };
            let chosen: Vec<InputId> = one.in_order(self.latest, &self.limits, |id| self.open[&id].at).collect();
            let same_class = |a: &InputId, b: &InputId| {
                self.open[a].accepted.decision.priority == self.open[b].accepted.decision.priority
            };
            for pair in chosen.windows(2).filter(|pair| same_class(&pair[0], &pair[1])) {
                assert!(self.open[&pair[0]].order < self.open[&pair[1]].order, "I4: equals run in admission order");
            }
        }
    }

    fn check_rest(&self) {
        let open = self.open.len();
        assert!(self.settled.len() <= self.limits.settled_kept as usize, "I15: what is remembered is bounded");
        assert!(self.silent_intents.is_sorted(), "silent intents are looked up by bisection");
        if matches!(self.gate, Gate::Stopped | Gate::Destroyed) {
            assert_eq!(open, 0, "I2: a stopped session has no open inputs");
        }
        if self.may_run() && self.leaving.is_none() && self.run.is_none() {
            assert!(!self.is_selectable(), "I7: a session sleeps only if there is nothing to run");
        }
        if let Some(due) = self.next_due() {
            assert!(due.at > self.latest, "I17: a timer lies ahead, so nothing spins");
        }
    }
}
