//! What runs next, how does a run get on, and how does it end?

use crate::{
    AbandonReason, AttemptId, Boundary, BoundaryOutput, CancelOutcome, ChainHash, Disposition, Effect, EffectKey,
    ExecutionKind, Gate, InputBody, InputId, InputKind, InputState, Lane, Open, Outcome, Place, Purpose, Record, Reply,
    RunApplyBoundary, RunBoundaryReceipt, RunClosed, RunEnd, RunEnded, RunId, RunReport, RunStart, RunStarted, Seq,
    Session, Step, Ticket, Timestamp, WithdrawOutcome, ids::derived_bytes, lanes::OneLane,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// The run that is on, or suspended between two attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    /// The entry that started it first. An executor that resumes it reads from here.
    pub(crate) first: Seq,
    /// The number of the last start.
    pub(crate) attempt: u32,
    pub(crate) pinned: bool,
    pub(crate) phase: Phase,
    /// Its inputs in the order they joined, asides last at each start.
    pub(crate) members: Vec<Member>,
    /// Where its boundaries lie.
    pub(crate) boundary: RunApplyBoundary,
    /// The sequence of the next boundary.
    pub(crate) next_sequence: u64,
    /// Starts since the last boundary, once there is one. Before that each input counts its own.
    pub(crate) tries: u32,
    /// How much of the session's appended context the current attempt was given.
    pub(crate) context: u32,
}

/// Whether a run is being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It is.
    Running,
    /// It has boundaries that stand, and goes on from the last one.
    Suspended {
        /// Not earlier than this.
        until: Timestamp,
    },
}

/// An input of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) id: InputId,
    /// Whether a receipt names it.
    pub(crate) covered: bool,
}

impl Run {
    pub(crate) fn attempt(&self) -> AttemptId {
        AttemptId { run: self.id, attempt: self.attempt }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(crate) fn suspended_until(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Running => None,
            Phase::Suspended { until } => Some(until),
        }
    }

    pub(crate) fn covers(&self, id: InputId) -> bool {
        self.members.iter().any(|member| member.id == id && member.covered)
    }

    pub(crate) fn uncovered(&self) -> impl Iterator<Item = InputId> {
        self.members.iter().filter(|member| !member.covered).map(|member| member.id)
    }

    /// The last boundary that stands.
    pub(crate) fn last_committed(&self) -> Option<u64> {
        self.next_sequence.checked_sub(1)
    }
}

/// A batch that shall run.
struct Batch {
    inputs: Vec<InputId>,
    asides: Vec<InputId>,
}

impl Session {
    pub(crate) fn start_run_if_ready(&mut self, now: Timestamp, step: &mut Step) {
        if !self.may_run() || self.leaving.is_some() {
            return;
        }
        match &self.run {
            None => {
                if let Some(batch) = self.select(now) {
                    self.start(now, batch, false, step);
                }
            }
            Some(run) if run.suspended_until().is_some_and(|until| until <= now) => self.resume(now, step),
            Some(_) => {}
        }
    }

    pub(crate) fn may_run(&self) -> bool {
        self.attached && !self.held && matches!(self.gate, Gate::Open | Gate::Retired)
    }

    /// Whether there is something to choose right now; for the invariants.
    pub(crate) fn is_selectable(&self) -> bool {
        self.clone().select(self.latest).is_some()
    }

    /// The next batch: the whole steer lane; else one prompt; else the consecutive other inputs at the head of the
    /// queue. What failed in company, or is tried again under its run's id, runs alone. What waits aside goes along.
    fn select(&mut self, now: Timestamp) -> Option<Batch> {
        self.lanes.ripen(now);
        if !self.lanes.steer.has_waking() && !self.lanes.queue.has_waking() {
            let asides = if self.drains_aside() { self.last_asides(now) } else { Vec::new() };
            return (!asides.is_empty()).then(|| Batch { inputs: Vec::new(), asides });
        }
        // Steering is never overtaken, not even while it backs off.
        if self.lanes.steer.is_walled() {
            return None;
        }
        let inputs = if self.lanes.steer.has_ripe() {
            self.select_from(&self.lanes.steer, now, false)
        } else if self.lanes.queue.is_walled() {
            return None;
        } else {
            self.select_from(&self.lanes.queue, now, true)
        };
        let first = self.open.get(inputs.first()?).expect("what a lane holds is open");
        let asides = if first.runs_alone() { Vec::new() } else { self.asides() };
        Some(Batch { inputs, asides })
    }

    fn select_from(&self, lane: &OneLane, now: Timestamp, prompts_alone: bool) -> Vec<InputId> {
        let mut batch = Vec::new();
        let mut passed = 0;
        for id in lane.in_order(now, &self.limits, |id| self.open[&id].at) {
            let open = &self.open[&id];
            if lane.is_blocked(&open.accepted.input.header.source) {
                passed += 1;
                // Behind the first of a batch nothing may be skipped, and the search for a first one is bounded.
                if !batch.is_empty() || passed > self.limits.lookahead {
                    break;
                }
                continue;
            }
            let alone = open.runs_alone() || (prompts_alone && open.accepted.input.kind() == InputKind::Prompt);
            if alone && !batch.is_empty() {
                break;
            }
            batch.push(id);
            if alone || batch.len() >= self.limits.batch as usize {
                break;
            }
        }
        batch
    }

    /// Whether a retired session has nothing left but what waits aside, which then gets a run of its own.
    pub(crate) fn drains_aside(&self) -> bool {
        self.gate == Gate::Retired
            && self.lanes.len(Lane::Aside) > 0
            && self.lanes.len(Lane::Steer) == 0
            && self.lanes.len(Lane::Queue) == 0
    }

    /// What a retired session runs of that: what failed in company runs alone, and not before its time.
    fn last_asides(&self, now: Timestamp) -> Vec<InputId> {
        let ripe = self.lanes.aside().filter(|id| self.open[id].not_before.is_none_or(|at| at <= now));
        let mut batch = Vec::new();
        for id in ripe.take(self.limits.batch as usize) {
            let alone = self.open[&id].alone;
            if !alone || batch.is_empty() {
                batch.push(id);
            }
            if alone {
                break;
            }
        }
        batch
    }

    /// When the first of that may be tried again.
    pub(crate) fn last_asides_ripen(&self) -> Option<Timestamp> {
        let retries = || self.lanes.aside().filter_map(|id| self.open[&id].not_before).filter(|at| *at > self.latest);
        if self.drains_aside() { retries().min() } else { None }
    }

    fn asides(&self) -> Vec<InputId> {
        self.lanes.aside().take(self.limits.batch as usize).collect()
    }

    /// Starts the run of an input whose caller runs it itself.
    pub(crate) fn start_pinned(&mut self, now: Timestamp, input: InputId, step: &mut Step) {
        let asides = self.asides();
        self.start(now, Batch { inputs: vec![input], asides }, true, step);
    }

    /// Whether there is something that an executor could run now.
    pub(crate) fn has_selectable(&mut self, now: Timestamp) -> bool {
        self.run.is_some() || self.leaving.is_some() || self.select(now).is_some()
    }

    fn start(&mut self, now: Timestamp, batch: Batch, pinned: bool, step: &mut Step) {
        let members = || batch.inputs.iter().chain(&batch.asides);
        let attempt = 1 + members().map(|id| self.open[id].starts).max().unwrap_or(0);
        let kept = match (&batch.inputs[..], &batch.asides[..]) {
            ([only], []) => self.open[only].run,
            _ => None,
        };
        let run = kept.unwrap_or_else(|| self.make_run_id(now));
        let Batch { inputs, asides } = batch;
        let started = RunStarted { run, attempt, inputs, asides, resumes_after: None, pinned };
        self.write(now, Record::RunStarted(Arc::new(started)), step);
        self.call_executor(step);
    }

    fn resume(&mut self, now: Timestamp, step: &mut Step) {
        let run = self.run.as_ref().expect("only a suspended run resumes");
        let started = RunStarted {
            run: run.id,
            attempt: run.attempt + 1,
            inputs: run.uncovered().collect(),
            asides: Vec::new(),
            resumes_after: run.last_committed(),
            pinned: false,
        };
        self.write(now, Record::RunStarted(Arc::new(started)), step);
        self.call_executor(step);
    }

    fn call_executor(&self, step: &mut Step) {
        let run = self.run.as_ref().expect("a run has just started");
        let accepted = |id: &InputId| Arc::clone(&self.open[id].accepted);
        let (context, inputs): (Vec<_>, Vec<_>) =
            run.uncovered().partition(|id| self.open[id].home() == Some(Lane::Aside));
        let inputs: Vec<_> = inputs.iter().map(accepted).collect();
        let traces = run.members.iter().filter_map(|member| self.open[&member.id].accepted.input.header.trace);
        let context = self.context.iter().cloned().chain(context.iter().map(accepted)).collect();
        let resuming = run.next_sequence > 0;
        let only_continuations = !inputs.is_empty()
            && inputs
                .iter()
                .all(|a| matches!(&a.input.body, InputBody::Continuation(carry_on) if carry_on.notices.is_empty()));
        let kind =
            if resuming || only_continuations { ExecutionKind::ResumePending } else { ExecutionKind::ContentTurn };
        let effect_key = EffectKey { session: self.id, run: run.id, boundary: run.next_sequence, ordinal: 0 };
        step.effects.push(Effect::StartRun(RunStart {
            attempt: run.attempt(),
            pinned: run.pinned,
            kind,
            boundary: run.boundary,
            resumes_after: run.last_committed(),
            inputs,
            context,
            effect_key,
            traces: traces.collect(),
        }));
    }
}

impl Session {
    /// Whether a checkpoint may have something to tell at this moment. False is certain: until the next step nothing will
    /// be handed over. True may turn out to be nothing.
    pub fn may_steer(&self) -> bool {
        self.lanes.len(Lane::Steer) > 0 || self.owes_wake()
    }

    pub(crate) fn on_checkpoint(&mut self, now: Timestamp, ticket: Ticket, attempt: AttemptId, step: &mut Step) {
        if self.current_attempt() != Some(attempt) {
            return step.reply(ticket, Reply::Checkpoint(Err(RunClosed)));
        }
        self.tell_at_checkpoint(now, step);
        // The policy may have let what is told interrupt the run.
        if self.current_attempt() != Some(attempt) {
            return step.reply(ticket, Reply::Checkpoint(Err(RunClosed)));
        }
        self.lanes.ripen(now);
        let mut steering = if self.lanes.steer.is_walled() || self.held {
            Vec::new()
        } else {
            self.select_from(&self.lanes.steer, now, false)
        };
        // What has to run alone joins nobody.
        if steering.first().is_some_and(|id| self.open[id].runs_alone()) {
            steering.clear();
        }
        let accepted = steering.iter().map(|id| Arc::clone(&self.open[id].accepted)).collect();
        if !steering.is_empty() {
            self.write(now, Record::RunSteered { run: attempt.run, inputs: steering }, step);
        }
        step.reply(ticket, Reply::Checkpoint(Ok(accepted)));
    }

    pub(crate) fn on_boundary(
        &mut self,
        now: Timestamp,
        ticket: Ticket,
        attempt: AttemptId,
        output: BoundaryOutput,
        step: &mut Step,
    ) {
        let reply = match &self.run {
            Some(run) if self.current_attempt() == Some(attempt) => {
                let receipt = self.receipt(run, &output);
                let boundary = Boundary { receipt: Arc::clone(&receipt), delta: output.delta };
                self.write(now, Record::BoundaryCommitted(Arc::new(boundary)), step);
                Ok(receipt)
            }
            _ => Err(RunClosed),
        };
        step.reply(ticket, Reply::Boundary(reply));
    }

    fn receipt(&self, run: &Run, output: &BoundaryOutput) -> Arc<RunBoundaryReceipt> {
        let mut receipt = RunBoundaryReceipt {
            run_id: run.id,
            sequence: run.next_sequence,
            boundary: run.boundary,
            contributing_input_ids: run.uncovered().collect(),
            conversation_digest: output.conversation_digest.clone(),
            message_count: output.message_count,
            chain: ChainHash::default(),
        };
        receipt.chain = receipt.chain_after(self.chain);
        Arc::new(receipt)
    }

    /// Appends waiting context to the conversation, unless a run is on that has not reached a boundary since it came.
    pub(crate) fn append_context(&mut self, now: Timestamp, at_boundary: bool, step: &mut Step) {
        if self.run.as_ref().is_some_and(|run| run.is_running()) && !at_boundary {
            return;
        }
        let waiting = self.context_waiting();
        if waiting.is_empty() {
            return;
        }
        let mut receipt = RunBoundaryReceipt {
            run_id: self.make_run_id(now),
            sequence: 0,
            boundary: RunApplyBoundary::Immediate,
            contributing_input_ids: waiting,
            conversation_digest: None,
            message_count: 0,
            chain: ChainHash::default(),
        };
        receipt.chain = receipt.chain_after(self.chain);
        self.write(now, Record::ContextAppended { receipt: Arc::new(receipt) }, step);
    }
}

impl Session {
    pub(crate) fn on_run_ended(&mut self, now: Timestamp, attempt: AttemptId, report: RunReport, step: &mut Step) {
        if self.leaving == Some(attempt) {
            self.leaving = None;
        }
        // Whatever an attempt reports that is not the current one is late news.
        let Some(run) = self.run.as_ref().filter(|_| self.current_attempt() == Some(attempt)) else { return };
        match report {
            RunReport::Done { output, terminal } => {
                let receipt = self.receipt(run, &output);
                self.end_run(now, RunEnd::Completed { receipt, delta: output.delta, terminal }, step);
            }
            RunReport::Failed { error, .. } if run.pinned => {
                let end = RunEnd::Failed { error, retry_at: None, exhausted: Vec::new(), fatal: true };
                self.end_run(now, end, step);
            }
            RunReport::Failed { error, retryable, retry_after } => {
                let tries = self.tries_of(run);
                let delay = self.backoff(run.id, tries).max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
                self.fail_run(now, error, retryable, delay, step);
            }
            RunReport::CallerGone => {
                let end = RunEnd::Cancelled { reason: "caller gone".into(), inputs: AbandonReason::CallerGone };
                self.end_run(now, end, step);
            }
        }
    }

    /// A run that was on when its owner died has failed; the process death was its back-off. If only the store
    /// failed, it is let go and costs nothing.
    pub(crate) fn mend_run(&mut self, now: Timestamp, same_process: bool, step: &mut Step) {
        let Some(run) = self.run.as_ref().filter(|run| run.is_running()) else { return };
        if run.pinned {
            let end = RunEnd::Cancelled { reason: "caller gone".into(), inputs: AbandonReason::CallerGone };
            self.end_run(now, end, step);
        } else if same_process {
            self.end_run(now, RunEnd::Released { reason: "the store failed".into() }, step);
        } else {
            self.fail_run(now, "the process that ran it is gone".into(), true, Duration::ZERO, step);
        }
    }

    fn tries_of(&self, run: &Run) -> u32 {
        if run.next_sequence > 0 {
            return run.tries;
        }
        run.uncovered().map(|id| self.open[&id].tries).max().unwrap_or(0)
    }

    fn fail_run(&mut self, now: Timestamp, error: Arc<str>, retryable: bool, delay: Duration, step: &mut Step) {
        let run = self.run.as_ref().expect("only a run fails");
        let retry = Some(now + delay);
        let limit = self.limits.attempts;
        let spent = |id: &InputId| self.open[id].tries >= limit;
        let end = if run.next_sequence > 0 {
            let retry_at = retry.filter(|_| retryable && run.tries < limit);
            RunEnd::Failed { error, retry_at, exhausted: Vec::new(), fatal: !retryable }
        } else if run.members.len() > 1 {
            // Whose fault it was shows when each runs alone; a failure that forbids another try forbids it then.
            let exhausted = run.uncovered().filter(spent).collect();
            let retry_at = if retryable { retry } else { Some(now) };
            RunEnd::Failed { error, retry_at, exhausted, fatal: false }
        } else {
            let retry_at = retry.filter(|_| retryable && !run.uncovered().any(|id| spent(&id)));
            RunEnd::Failed { error, retry_at, exhausted: Vec::new(), fatal: !retryable }
        };
        self.end_run(now, end, step);
    }

    fn end_run(&mut self, now: Timestamp, end: RunEnd, step: &mut Step) {
        let run = self.run.as_ref().expect("only a run ends");
        let committed = match &end {
            RunEnd::Completed { receipt, .. } => Some(receipt.sequence),
            RunEnd::Failed { .. } | RunEnd::Cancelled { .. } | RunEnd::Released { .. } => run.last_committed(),
        };
        let ended = RunEnded { run: run.id, attempt: run.attempt, tries: self.tries_of(run), committed, end };
        self.write(now, Record::RunEnded(Arc::new(ended)), step);
    }

    /// Ends a run from outside. Its executor is told, and nothing else starts before it has returned.
    pub(crate) fn cut_run(&mut self, now: Timestamp, end: RunEnd, reason: &str, step: &mut Step) {
        let Some(run) = &self.run else { return };
        if run.is_running() {
            let attempt = run.attempt();
            self.leaving = Some(attempt);
            step.effects.push(Effect::StopRun { attempt, reason: reason.to_owned() });
        }
        self.end_run(now, end, step);
    }

    /// Lets go of a running run in good order.
    pub(crate) fn release_run(&mut self, now: Timestamp, reason: &str, step: &mut Step) {
        match &self.run {
            // Its caller is cut off with it: nobody else can run it.
            Some(run) if run.is_running() && run.pinned => {
                let end = RunEnd::Cancelled { reason: reason.to_owned(), inputs: AbandonReason::CallerGone };
                self.cut_run(now, end, reason, step);
            }
            Some(run) if run.is_running() => {
                self.cut_run(now, RunEnd::Released { reason: reason.to_owned() }, reason, step);
            }
            _ => {}
        }
    }

    pub(crate) fn on_cancel(
        &mut self,
        now: Timestamp,
        ticket: Ticket,
        run: Option<RunId>,
        reason: &str,
        disposition: Disposition,
        step: &mut Step,
    ) {
        let waiting = run.and_then(|wanted| self.waits_for_retry(wanted));
        let outcome = match (&self.run, run) {
            (Some(current), wanted) if wanted.is_none_or(|wanted| wanted == current.id) => {
                let outcome = CancelOutcome::Cancelled { run: current.id, last_committed: current.last_committed() };
                match disposition {
                    Disposition::Drop => {
                        let end = RunEnd::Cancelled { reason: reason.to_owned(), inputs: AbandonReason::Cancelled };
                        self.cut_run(now, end, reason, step);
                    }
                    Disposition::Requeue => self.release_run(now, reason, step),
                }
                outcome
            }
            // A run of one input that backs off is that input, waiting.
            (_, Some(wanted)) if waiting.is_some() => {
                if disposition == Disposition::Drop {
                    self.abandon(now, waiting.into_iter().collect(), AbandonReason::Cancelled, step);
                }
                CancelOutcome::Cancelled { run: wanted, last_committed: None }
            }
            (_, Some(wanted)) if self.last_run == Some(wanted) => CancelOutcome::TooLate { run: wanted },
            _ => CancelOutcome::NoSuchRun,
        };
        step.reply(ticket, Reply::Cancel(outcome));
    }

    /// The input that is tried again under this run's id. Linear in what is open; cancels are rare.
    fn waits_for_retry(&self, run: RunId) -> Option<InputId> {
        let waits = |open: &Open| matches!(open.place, Place::Waiting(Lane::Steer | Lane::Queue));
        self.open.iter().find(|(_, open)| open.run == Some(run) && waits(open)).map(|(id, _)| *id)
    }

    pub(crate) fn on_withdraw(&mut self, now: Timestamp, ticket: Ticket, input: InputId, step: &mut Step) {
        let outcome = match self.open.get(&input).map(|open| open.place) {
            Some(Place::Waiting(_) | Place::Context) => {
                let reason = AbandonReason::Withdrawn;
                let record = Record::InputsSettled { inputs: vec![input], outcome: Outcome::Abandoned { reason } };
                self.write(now, record, step);
                WithdrawOutcome::Withdrawn
            }
            Some(Place::Run) => {
                let state = self.input_state(input).unwrap_or(InputState::Staged);
                WithdrawOutcome::TooLate { state }
            }
            None => match self.input_state(input) {
                Some(state) => WithdrawOutcome::TooLate { state },
                None => WithdrawOutcome::NotFound,
            },
        };
        step.reply(ticket, Reply::Withdraw(outcome));
    }

    /// Exponential, with jitter over its upper half that depends on the run and the try (AWS Architecture Blog,
    /// "Exponential Backoff and Jitter", 2015: equal jitter).
    fn backoff(&self, run: RunId, tries: u32) -> Duration {
        let doublings = tries.saturating_sub(1).min(32);
        let whole = self.limits.backoff.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX));
        let whole = whole.min(self.limits.backoff_max);
        let salt = run.as_uuid().as_u64_pair().1 ^ u64::from(tries);
        let bytes = derived_bytes(self.id, Purpose::RetryJitter, salt);
        let fraction = u64::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let half = whole / 2;
        half + Duration::from_micros((half.as_micros() as u64).saturating_mul(fraction) / u64::from(u16::MAX))
    }
}

/// No executor may put a retry off for longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
