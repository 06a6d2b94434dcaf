//! What does each record change? The only code that changes the fold; live steps and recovery both end here.

use crate::{
    AbandonReason, Accepted, Deliver, Entry, Gate, InputBody, InputId, Lane, Open, Outcome, Place, Record, Replaced,
    Run, RunApplyBoundary, RunBoundaryReceipt, RunEnd, RunEnded, RunStarted, Seq, Session, Settlement, Timestamp,
    run::{Member, Phase},
    window::KeyHash,
};
use std::sync::Arc;

/// A journal that cannot have been written by a session: an entry is missing, altered, or says what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt journal at position {at}: {detail}")]
pub struct CorruptJournal {
    /// The first entry that does not fit.
    pub at: Seq,
    /// What does not fit.
    pub detail: String,
}

type Fold = Result<(), &'static str>;

impl Session {
    pub(crate) fn apply(&mut self, entry: &Entry, settled: &mut Vec<Settlement>) -> Fold {
        let at = entry.at;
        if at < self.last_at {
            return Err("time goes back");
        }
        if (entry.seq == Seq(1)) != matches!(entry.record, Record::SessionCreated { .. }) {
            return Err("a journal begins with session_created, once");
        }
        self.head = entry.seq;
        self.last_at = at;
        self.settled.expire(at, &self.limits);
        let mut ends = Ends { seq: entry.seq, at, settled };
        match &entry.record {
            Record::SessionCreated { epoch, agent } => {
                self.epoch = Some(*epoch);
                self.agent.clone_from(agent);
                self.created_at = at;
                self.made += 1;
                Ok(())
            }
            Record::InputAccepted(accepted) => self.apply_accepted(at, accepted, &mut ends),
            Record::InputsSettled { inputs, outcome } => {
                inputs.iter().try_for_each(|id| self.settle_waiting(*id, outcome.clone(), &mut ends))
            }
            Record::ContextAppended { receipt } => self.apply_context(receipt, &mut ends),
            Record::RunStarted(started) if self.run.is_some() => self.apply_resumed(started),
            Record::RunStarted(started) => self.apply_started(started),
            Record::RunSteered { run, inputs } => {
                self.running(*run, None)?;
                inputs.iter().try_for_each(|id| self.join_run(*id))
            }
            Record::BoundaryCommitted(boundary) => {
                self.running(boundary.receipt.run_id, None)?;
                self.apply_receipt(&boundary.receipt)
            }
            Record::RunEnded(ended) => self.apply_ended(ended, &mut ends),
            Record::GateChanged { gate, reason: _ } => {
                self.gate = *gate;
                if *gate == Gate::Destroyed {
                    self.apply_nothing_sent();
                }
                if matches!(gate, Gate::Stopped | Gate::Destroyed) && !self.open.is_empty() {
                    return Err("a stopped session has open inputs");
                }
                Ok(())
            }
            Record::HoldChanged { held } => {
                self.held = *held;
                Ok(())
            }
            Record::Woken { by: _ } => {
                self.apply_woken();
                Ok(())
            }
            Record::SessionReset { epoch } => {
                self.epoch = Some(*epoch);
                self.gate = Gate::Open;
                self.context.clear();
                self.apply_new_epoch();
                self.apply_nothing_sent();
                self.made += 1;
                Ok(())
            }
            Record::SilentIntentsSet { intents } => {
                self.silent_intents.clone_from(intents);
                Ok(())
            }
            Record::ProfileSet { profile } => self.apply_profile(profile),
            Record::PeerSent(outgoing) => self.apply_sent(outgoing),
            Record::PeerDelivered { id } => self.apply_delivered(at, *id),
            Record::PeerGivenUp { id } => self.apply_given_up(*id),
            Record::Noted { note: _ } => Ok(()),
            operation => self.apply_operation(at, operation),
        }
    }

    fn apply_accepted(&mut self, at: Timestamp, accepted: &Arc<Accepted>, ends: &mut Ends<'_>) -> Fold {
        let id = accepted.input.id();
        if self.open.contains_key(&id) || self.settled.by_id(id).is_some() {
            return Err("an input is accepted twice");
        }
        let mut first_at = at;
        let mut order = None;
        if let Some(Replaced { older, coalesced }) = accepted.replaces {
            let replaced = self.open.get(&older).ok_or("an input replaces one that is not open")?;
            if coalesced {
                (order, first_at) = (Some(replaced.order), replaced.first_at);
            }
            let outcome = if coalesced { Outcome::Coalesced { into: id } } else { Outcome::Superseded { by: id } };
            self.settle_waiting(older, outcome, ends)?;
        }
        let order = order.unwrap_or_else(|| self.orders.next(accepted.front));
        let mut open = Open {
            accepted: Arc::clone(accepted),
            place: Place::Context,
            order,
            at,
            first_at,
            wake: accepted.wake,
            alone: false,
            starts: 0,
            tries: 0,
            not_before: accepted.not_before,
            run: None,
        };
        if let Some(lane) = open.home() {
            open.place = Place::Waiting(lane);
        }
        if let InputBody::Continuation(continuation) = &accepted.input.body {
            self.apply_wake(id, continuation);
        }
        self.apply_answer(at, &accepted.input);
        self.index_open(&open);
        self.open.insert(id, open);
        if accepted.decision.deliver == Deliver::Ignore {
            return self.settle_waiting(id, Outcome::Recorded, ends);
        }
        Ok(())
    }

    /// Ends an input that waits.
    fn settle_waiting(&mut self, id: InputId, outcome: Outcome, ends: &mut Ends<'_>) -> Fold {
        let open = self.open.get(&id).ok_or("an input ends that is not open")?;
        if open.place == Place::Run {
            return Err("an input of a run ends without it");
        }
        self.unplace(id);
        self.settle(id, outcome, ends)
    }

    /// Ends an input that is in no lane.
    fn settle(&mut self, id: InputId, outcome: Outcome, ends: &mut Ends<'_>) -> Fold {
        let open = self.open.remove(&id).ok_or("an input ends that is not open")?;
        let header = &open.accepted.input.header;
        if let Some(key) = &header.idempotency_key {
            self.keys.remove(&KeyHash::of(key));
        }
        let fingerprint = open.accepted.fingerprint;
        let key = header.idempotency_key.as_ref();
        self.settled.push(id, key, fingerprint, outcome.state(), ends.at, &self.limits);
        self.apply_wake_over(id, &outcome, ends.at);
        ends.settled.push(Settlement { input: id, seq: ends.seq, admitted_at: open.at, outcome });
        Ok(())
    }

    fn apply_context(&mut self, receipt: &RunBoundaryReceipt, ends: &mut Ends<'_>) -> Fold {
        self.link(receipt)?;
        self.made += 1;
        for id in &receipt.contributing_input_ids {
            let open = self.open.get(id).filter(|open| open.place == Place::Context);
            self.context.push(Arc::clone(&open.ok_or("context is appended that does not wait")?.accepted));
            self.settle_waiting(*id, Outcome::Recorded, ends)?;
        }
        Ok(())
    }

    fn apply_started(&mut self, started: &RunStarted) -> Fold {
        let first = started.inputs.first().and_then(|id| self.open.get(id));
        let boundary = match first.map(Open::home) {
            Some(Some(Lane::Steer)) => RunApplyBoundary::RunCheckpoint,
            Some(_) => RunApplyBoundary::RunStart,
            None => RunApplyBoundary::Immediate,
        };
        if first.is_none_or(|open| open.run != Some(started.run)) {
            self.made += 1;
        }
        self.run = Some(Box::new(Run {
            id: started.run,
            first: self.head,
            attempt: started.attempt,
            pinned: started.pinned,
            phase: Phase::Running,
            members: Vec::with_capacity(started.inputs.len() + started.asides.len()),
            boundary,
            next_sequence: 0,
            tries: 0,
            context: self.context.len() as u32,
        }));
        started.inputs.iter().chain(&started.asides).try_for_each(|id| self.join_run(*id))
    }

    fn apply_resumed(&mut self, started: &RunStarted) -> Fold {
        let context = self.context.len() as u32;
        let run = self.run.as_mut().filter(|run| run.id == started.run && !run.is_running());
        let run = run.ok_or("a run starts while another is on")?;
        if started.resumes_after != run.last_committed() || started.attempt <= run.attempt {
            return Err("a run resumes from somewhere else");
        }
        run.attempt = started.attempt;
        run.phase = Phase::Running;
        run.tries += 1;
        run.context = context;
        Ok(())
    }

    /// Puts a waiting input into the run. Steering that joins counts as started with the attempt it joined.
    fn join_run(&mut self, id: InputId) -> Fold {
        let open = self.open.get(&id).ok_or("an input runs that is not open")?;
        match open.place {
            Place::Waiting(_) => self.unplace(id),
            Place::Context | Place::Run => return Err("an input runs that does not wait"),
        }
        let run = self.run.as_mut().expect("checked by the caller");
        run.members.push(Member { id, covered: false });
        let open = self.open.get_mut(&id).expect("looked up above");
        open.place = Place::Run;
        open.not_before = None;
        open.starts = run.attempt;
        open.tries += 1;
        Ok(())
    }

    fn apply_receipt(&mut self, receipt: &RunBoundaryReceipt) -> Fold {
        self.link(receipt)?;
        let run = self.run.as_mut().expect("checked by the caller");
        if receipt.sequence != run.next_sequence {
            return Err("a boundary is out of order");
        }
        if !run.uncovered().eq(receipt.contributing_input_ids.iter().copied()) {
            return Err("a receipt does not name the inputs that no receipt names yet");
        }
        run.members.iter_mut().for_each(|member| member.covered = true);
        run.next_sequence += 1;
        run.tries = 0;
        let confirmed = std::mem::take(&mut run.context) as usize;
        self.context.drain(..confirmed.min(self.context.len()));
        Ok(())
    }

    /// Checks a receipt against the chain and makes it the chain's last link.
    fn link(&mut self, receipt: &RunBoundaryReceipt) -> Fold {
        if receipt.chain_after(self.chain) != receipt.chain {
            return Err("the chain of receipts is broken");
        }
        self.chain = receipt.chain;
        Ok(())
    }

    fn apply_ended(&mut self, ended: &RunEnded, ends: &mut Ends<'_>) -> Fold {
        // A suspended run can be ended too, but only from outside.
        if !matches!(ended.end, RunEnd::Cancelled { .. }) {
            self.running(ended.run, Some(ended.attempt))?;
        }
        if let RunEnd::Completed { receipt, .. } = &ended.end {
            if receipt.run_id != ended.run {
                return Err("a run ends with the receipt of another");
            }
            self.apply_receipt(receipt)?;
        }
        let run = self.run.take().filter(|run| run.id == ended.run).ok_or("a run ends that is not on")?;
        self.last_run = Some(run.id);
        let committed = run.last_committed();
        if ended.committed != committed {
            return Err("a run ends after another boundary than its last");
        }
        let outcome = |covered| ended.outcome(covered).ok_or("a run that is let go ends an input");
        match &ended.end {
            RunEnd::Completed { .. } => {
                run.members.iter().try_for_each(|member| self.settle(member.id, outcome(member.covered)?, ends))
            }
            RunEnd::Failed { retry_at: None, .. } => run.members.iter().try_for_each(|member| {
                if !member.covered && self.is_callers_company(&run, member.id) {
                    return self.give_back(member.id, |open| open.tries -= 1);
                }
                self.settle(member.id, outcome(member.covered)?, ends)
            }),
            RunEnd::Failed { retry_at: Some(until), .. } if committed.is_some() => {
                self.suspend(run, *until);
                Ok(())
            }
            RunEnd::Failed { retry_at: Some(at), exhausted, .. } => {
                let (several, leader) = (run.members.len() > 1, self.leader(&run));
                run.uncovered().try_for_each(|id| {
                    if exhausted.contains(&id) {
                        return self.settle(id, outcome(false)?, ends);
                    }
                    self.give_back(id, |open| {
                        open.not_before = Some(*at);
                        open.alone |= several;
                        open.run = (leader == Some(id)).then_some(run.id);
                    })
                })
            }
            RunEnd::Cancelled { inputs, .. } => run.members.iter().try_for_each(|member| {
                let company = match inputs {
                    AbandonReason::Cancelled => self.open.get(&member.id).and_then(Open::home) == Some(Lane::Aside),
                    AbandonReason::CallerGone => self.is_callers_company(&run, member.id),
                    _ => false,
                };
                if company && !member.covered {
                    return self.give_back(member.id, |open| open.tries -= 1);
                }
                self.settle(member.id, outcome(member.covered)?, ends)
            }),
            RunEnd::Released { .. } if committed.is_some() => {
                self.suspend(Box::new(Run { tries: run.tries.saturating_sub(1), ..*run }), ends.at);
                Ok(())
            }
            RunEnd::Released { .. } => {
                let only = run.members.len() == 1;
                run.uncovered().try_for_each(|id| {
                    self.give_back(id, |open| {
                        open.tries -= 1;
                        open.run = only.then_some(run.id);
                    })
                })
            }
        }
    }

    /// Whether an input only goes along with one whose caller runs it itself, and so does not share its fate.
    fn is_callers_company(&self, run: &Run, id: InputId) -> bool {
        run.pinned && self.open.get(&id).is_some_and(|open| !open.accepted.pinned)
    }

    /// The input that a run is for: its only one, or the only one that others went along with. Tried again, it goes on
    /// under the run's id, so that what it does outside has the same keys.
    fn leader(&self, run: &Run) -> Option<InputId> {
        if let [only] = run.members[..] {
            return Some(only.id);
        }
        let leads = |id: &InputId| self.open.get(id).is_some_and(|open| open.home() != Some(Lane::Aside));
        let mut leaders = run.members.iter().map(|member| member.id).filter(leads);
        leaders.next().filter(|_| leaders.next().is_none())
    }

    fn suspend(&mut self, mut run: Box<Run>, until: Timestamp) {
        run.phase = Phase::Suspended { until };
        self.run = Some(run);
    }

    /// Puts an input of a run that is over back to where it waited, at its old position.
    fn give_back(&mut self, id: InputId, change: impl FnOnce(&mut Open)) -> Fold {
        let open = self.open.get_mut(&id).ok_or("a run has an input that is not open")?;
        change(open);
        let lane = open.home().ok_or("an input goes back that never waited")?;
        open.place = Place::Waiting(lane);
        // It has run before, so nothing can be owed to a wake that it did not ask for.
        open.wake = lane != Lane::Aside;
        let slot = open.slot(&self.limits);
        self.lanes.insert(lane, slot);
        Ok(())
    }

    fn apply_woken(&mut self) {
        let asleep = self.open.values_mut().filter(|open| !open.wake);
        for open in asleep {
            if let Place::Waiting(lane @ (Lane::Steer | Lane::Queue)) = open.place {
                self.lanes.remove(lane, &open.slot(&self.limits));
                open.wake = true;
                self.lanes.insert(lane, open.slot(&self.limits));
            }
        }
    }

    /// Errs unless this run (and attempt) is on.
    fn running(&self, run: crate::RunId, attempt: Option<u32>) -> Fold {
        let on = self.run.as_ref().filter(|on| on.is_running() && on.id == run);
        match on {
            Some(on) if attempt.is_none_or(|attempt| attempt == on.attempt) => Ok(()),
            _ => Err("a run gets on that is not on"),
        }
    }

    pub(crate) fn index_open(&mut self, open: &Open) {
        let id = open.accepted.input.id();
        match open.place {
            Place::Waiting(lane) => {
                self.lanes.insert(lane, open.slot(&self.limits));
                // An input that a run has tried is no longer only a wish.
                if let Some(scope) = open.scope(lane).filter(|_| open.starts == 0) {
                    self.scopes.entry(scope).or_default().insert(open.order, id);
                }
            }
            Place::Context => self.context_waits += 1,
            Place::Run => {}
        }
        if let Some(key) = &open.accepted.input.header.idempotency_key {
            self.keys.insert(KeyHash::of(key), id);
        }
    }

    /// Takes an input out of the place where it waits.
    fn unplace(&mut self, id: InputId) {
        let open = &self.open[&id];
        match open.place {
            Place::Waiting(lane) => {
                self.lanes.remove(lane, &open.slot(&self.limits));
                if let Some(scope) = open.scope(lane)
                    && let Some(inputs) = self.scopes.get_mut(&scope)
                {
                    inputs.remove(&open.order);
                    if inputs.is_empty() {
                        self.scopes.remove(&scope);
                    }
                }
            }
            Place::Context => self.context_waits -= 1,
            Place::Run => {}
        }
    }

    /// The inputs that wait to be appended as context, in order.
    pub(crate) fn context_waiting(&self) -> Vec<InputId> {
        if self.context_waits == 0 {
            return Vec::new();
        }
        let waiting = self.open.iter().filter(|(_, open)| open.place == Place::Context);
        let mut waiting: Vec<_> = waiting.map(|(id, open)| (open.order, *id)).collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, id)| id).collect()
    }
}

/// Where the ends of inputs are reported.
struct Ends<'a> {
    seq: Seq,
    at: Timestamp,
    settled: &'a mut Vec<Settlement>,
}

impl crate::Orders {
    fn next(&mut self, front: bool) -> i64 {
        if front {
            self.front -= 1;
            self.front
        } else {
            self.back += 1;
            self.back
        }
    }
}

impl Open {
    fn scope(&self, lane: Lane) -> Option<crate::Scope> {
        let input = &self.accepted.input;
        input.header.supersession_key.clone().map(|key| (input.kind(), key, lane))
    }
}
