//! How do operations live in a session, and when does their end wake it?

use crate::{
    AbandonReason, AcceptOptions, AcceptOutcome, CompletionBatch, CompletionEntry, CompletionSeq, Continuation, Gate,
    HandlingMode, Incarnation, Input, InputBody, InputId, Operation, OperationId, OperationKind, OperationReport,
    OperationSpec, OperationStatus, OperationTerminalOutcome, OpsLifecycleError, Outcome, Purpose, Record, Session,
    Step, Timestamp, ids::derived_uuid,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// The operations of a session, and its completion feed. Empty costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ops {
    by_id: BTreeMap<OperationId, Operation>,
    active: u32,
    /// How many of those have lost their producer.
    orphans: u32,
    /// Those that are over and still kept, oldest first.
    over: VecDeque<OperationId>,
    feed: VecDeque<Arc<CompletionEntry>>,
    watermark: CompletionSeq,
    /// The last completion that has the power to wake.
    last_waking: CompletionSeq,
    /// What the model has seen, as the executor says.
    pub(crate) applied: CompletionSeq,
    /// What the last wake told of.
    told: CompletionSeq,
    /// Wakes since anything was applied.
    wakes: u32,
    /// The wake that is under way.
    pub(crate) wake: Option<InputId>,
    /// When the next wake is due at the earliest.
    wake_after: Option<Timestamp>,
}

impl Ops {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Ops::default()
    }

    fn get(&self, id: OperationId) -> Result<&Operation, OpsLifecycleError> {
        self.by_id.get(&id).ok_or(OpsLifecycleError::NotFound { id })
    }

    fn next_seq(&self) -> CompletionSeq {
        CompletionSeq(self.watermark.0 + 1)
    }

    /// The first moment at which an operation whose producer is gone is given up.
    fn first_orphan(&self) -> Option<(Timestamp, OperationId)> {
        // Asked after every step: with no orphan there is nothing to look through.
        if self.orphans == 0 {
            return None;
        }
        self.by_id.values().filter_map(|op| op.orphaned_until.map(|at| (at, op.spec.id))).min()
    }
}

impl Session {
    pub(crate) fn on_register_operation(
        &mut self,
        now: Timestamp,
        spec: OperationSpec,
        incarnation: Incarnation,
        step: &mut Step,
    ) -> Result<(), OpsLifecycleError> {
        if self.gate != Gate::Open {
            return Err(OpsLifecycleError::GateClosed);
        }
        if self.ops.by_id.contains_key(&spec.id) {
            return Err(OpsLifecycleError::AlreadyRegistered { id: spec.id });
        }
        let (limit, active) = (self.limits.operations, self.ops.active);
        if active >= limit {
            return Err(OpsLifecycleError::MaxConcurrentExceeded { limit, active });
        }
        self.check_size(spec.display_name.len() + spec.source_label.len())?;
        self.write(now, Record::OperationRegistered { spec: Arc::new(spec), incarnation }, step);
        Ok(())
    }

    /// The lifecycle table of the operations specification, section 1.2.
    pub(crate) fn on_operation(
        &mut self,
        now: Timestamp,
        id: OperationId,
        report: OperationReport,
        incarnation: Incarnation,
        step: &mut Step,
    ) -> Result<(), OpsLifecycleError> {
        use OperationStatus::{Provisioning, Retiring, Running};
        let op = self.ops.get(id)?;
        let status = op.status;
        let allowed = match &report {
            OperationReport::ProvisioningSucceeded
            | OperationReport::ProvisioningFailed { .. }
            | OperationReport::AbortProvisioning { .. } => status == Provisioning,
            OperationReport::PeerReady(_) if op.spec.kind != OperationKind::MobMemberChild => {
                return Err(OpsLifecycleError::PeerNotExpected { id });
            }
            OperationReport::PeerReady(_) if op.peer.is_some() => {
                return Err(OpsLifecycleError::AlreadyPeerReady { id });
            }
            OperationReport::PeerReady(_)
            | OperationReport::Progress(_)
            | OperationReport::MarkRetired
            | OperationReport::Complete(_) => matches!(status, Running | Retiring),
            OperationReport::RequestRetire => status == Running,
            OperationReport::Adopt if op.orphaned_until.is_none() => {
                return Err(OpsLifecycleError::NotAdoptable { id });
            }
            OperationReport::Adopt | OperationReport::Fail { .. } | OperationReport::Cancel { .. } => {
                !status.is_terminal()
            }
        };
        if !allowed {
            return Err(OpsLifecycleError::InvalidTransition { id, status, action: report.action().to_owned() });
        }
        let outcome = match report {
            OperationReport::ProvisioningSucceeded => {
                self.write(now, Record::OperationMoved { id, status: Running }, step);
                return Ok(());
            }
            OperationReport::RequestRetire => {
                self.write(now, Record::OperationMoved { id, status: Retiring }, step);
                return Ok(());
            }
            OperationReport::PeerReady(peer) => {
                self.check_size(peer.peer_name.len() + peer.peer_id.len() + peer.address.len())?;
                self.write(now, Record::OperationPeerReady { id, peer }, step);
                return Ok(());
            }
            OperationReport::Progress(update) => {
                self.check_size(update.message.len())?;
                self.write(now, Record::OperationProgressed { id, update }, step);
                return Ok(());
            }
            OperationReport::Adopt => {
                self.write(now, Record::OperationAdopted { id, incarnation }, step);
                return Ok(());
            }
            OperationReport::ProvisioningFailed { error } | OperationReport::Fail { error } => {
                OperationTerminalOutcome::Failed { error }
            }
            OperationReport::AbortProvisioning { reason } => OperationTerminalOutcome::Aborted { reason },
            OperationReport::MarkRetired => OperationTerminalOutcome::Retired,
            OperationReport::Complete(result) => OperationTerminalOutcome::Completed(result),
            OperationReport::Cancel { reason } => OperationTerminalOutcome::Cancelled { reason },
        };
        self.check_size(outcome.detail().len())?;
        self.end_operation(now, id, outcome, step);
        Ok(())
    }

    fn check_size(&self, bytes: usize) -> Result<(), OpsLifecycleError> {
        let limit = self.limits.payload_bytes;
        if bytes > limit as usize { Err(OpsLifecycleError::TooLarge { bytes: bytes as u64, limit }) } else { Ok(()) }
    }

    /// A terminal, its entry in the feed and the wake that it owes are one record.
    fn end_operation(&mut self, now: Timestamp, id: OperationId, outcome: OperationTerminalOutcome, step: &mut Step) {
        let spec = &self.ops.by_id[&id].spec;
        let entry = CompletionEntry {
            seq: self.ops.next_seq(),
            operation_id: id,
            kind: spec.kind,
            display_name: spec.display_name.clone(),
            terminal_outcome: outcome,
            completed_at: now,
        };
        self.write(now, Record::OperationEnded(Arc::new(entry)), step);
    }

    /// Ends every operation that is under way, with its owner.
    pub(crate) fn terminate_operations(&mut self, now: Timestamp, reason: &str, step: &mut Step) {
        let live = self.ops.by_id.values().filter(|op| !op.status.is_terminal()).map(|op| op.spec.id);
        for id in live.collect::<Vec<_>>() {
            let reason = reason.to_owned();
            self.end_operation(now, id, OperationTerminalOutcome::Terminated { reason }, step);
        }
    }

    /// The producers of other lives are gone: what they may hand over waits to be adopted, the rest has ended.
    pub(crate) fn orphan_operations(&mut self, now: Timestamp, incarnation: Incarnation, step: &mut Step) {
        let until = now + self.limits.adopt_within;
        let orphaned =
            |op: &&Operation| !op.status.is_terminal() && op.incarnation != incarnation && op.orphaned_until.is_none();
        let orphans: Vec<_> =
            self.ops.by_id.values().filter(orphaned).map(|op| (op.spec.id, op.spec.adoptable)).collect();
        for (id, adoptable) in orphans {
            if adoptable {
                self.write(now, Record::OperationOrphaned { id, until }, step);
            } else {
                let reason = OWNER_LOST.to_owned();
                self.end_operation(now, id, OperationTerminalOutcome::Terminated { reason }, step);
            }
        }
    }

    /// Gives up operations that nobody has adopted in time.
    pub(crate) fn give_up_orphans(&mut self, now: Timestamp, step: &mut Step) {
        while let Some((until, id)) = self.ops.first_orphan()
            && until <= now
        {
            let reason = OWNER_LOST.to_owned();
            self.end_operation(now, id, OperationTerminalOutcome::Terminated { reason }, step);
        }
    }

    /// The executor says that the model has seen what is at or before this position.
    pub(crate) fn on_applied(&mut self, now: Timestamp, seq: CompletionSeq, step: &mut Step) {
        let seq = seq.min(self.ops.watermark);
        if seq > self.ops.applied {
            self.write(now, Record::CompletionsApplied { seq }, step);
        }
    }

    /// Whether completions wait to be told that have the power to wake.
    pub(crate) fn owes_wake(&self) -> bool {
        let told = if self.ops.wake.is_some() { self.ops.told } else { CompletionSeq::default() };
        self.ops.last_waking > self.ops.applied.max(told)
    }

    /// Wakes a quiet session: one continuation for any number of completions. Quiet is: nothing runs, nothing that
    /// could wake waits. Evaluated after every step, so nothing is forgotten and nothing spins.
    pub(crate) fn wake_if_owed(&mut self, now: Timestamp, step: &mut Step) {
        if !self.owes_wake() || self.gate != Gate::Open || self.held || self.run.is_some() || self.ops.wake.is_some() {
            return;
        }
        let lanes_quiet = !self.lanes.steer.has_waking() && !self.lanes.queue.has_waking();
        let due = self.ops.wake_after.is_none_or(|at| at <= now);
        if self.attached && lanes_quiet && due && self.ops.wakes < self.limits.attempts {
            self.tell_completions(now, step);
        }
    }

    /// At a checkpoint a running run is told, rather than woken afterwards.
    pub(crate) fn tell_at_checkpoint(&mut self, now: Timestamp, step: &mut Step) {
        if self.owes_wake() && self.ops.wake.is_none() && self.gate == Gate::Open {
            self.tell_completions(now, step);
        }
    }

    fn tell_completions(&mut self, now: Timestamp, step: &mut Step) {
        let id = InputId::from_uuid(derived_uuid(now, self.id, Purpose::Wake, self.made));
        let mut input = Input::detached_background_op_completed(id, now);
        let notices = self.completions_since(self.ops.applied).entries;
        let notices = notices.into_iter().filter(|entry| entry.kind == OperationKind::BackgroundToolOp);
        if let InputBody::Continuation(Continuation { notices: told, handling_mode: HandlingMode::Steer, .. }) =
            &mut input.body
        {
            told.extend(notices);
        }
        // Its own admission can be refused like any other's, by a full lane: then it is owed still.
        if let Ok(accepted) = self.admit(now, input, AcceptOptions::default()) {
            let outcome = self.take_in(now, accepted, step);
            debug_assert!(matches!(outcome, AcceptOutcome::Accepted { .. }));
        }
    }

    /// When a wake that was put off is due.
    pub(crate) fn wake_due(&self) -> Option<Timestamp> {
        let waits = self.owes_wake() && self.ops.wake.is_none() && self.ops.wakes < self.limits.attempts;
        self.ops.wake_after.filter(|at| waits && *at > self.latest)
    }

    /// When the next operation is given up that nobody adopts.
    pub(crate) fn orphan_due(&self) -> Option<Timestamp> {
        self.ops.first_orphan().map(|(until, _)| until)
    }

    /// Whether a wake is owed that only waits for an executor.
    pub(crate) fn has_wake_pending(&self) -> bool {
        self.owes_wake() && self.ops.wakes < self.limits.attempts && self.gate == Gate::Open && !self.held
    }

    /// How many operations are under way.
    pub fn active_operations(&self) -> u32 {
        self.ops.active
    }

    /// The operations of the session, by display name and id.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations: Vec<_> = self.ops.by_id.values().cloned().collect();
        operations.sort_by(|a, b| (&a.spec.display_name, a.spec.id).cmp(&(&b.spec.display_name, b.spec.id)));
        operations
    }

    /// One operation, under way or still kept.
    pub fn operation(&self, id: OperationId) -> Option<&Operation> {
        self.ops.by_id.get(&id)
    }

    /// How an operation ended: from the feed too, which keeps completions longer than operations are kept.
    pub fn operation_completion(&self, id: OperationId) -> Option<Arc<CompletionEntry>> {
        match self.ops.by_id.get(&id) {
            Some(op) => op.completion.clone(),
            None => self.ops.feed.iter().rfind(|entry| entry.operation_id == id).cloned(),
        }
    }

    /// Completions after a position and how far the feed reaches, taken together. A reader who lagged is told so.
    pub fn completions_since(&self, after: CompletionSeq) -> CompletionBatch {
        let oldest = self.ops.feed.front().map_or(self.ops.watermark.0 + 1, |entry| entry.seq.0);
        let skip = (after.0 + 1).saturating_sub(oldest) as usize;
        CompletionBatch {
            entries: self.ops.feed.iter().skip(skip).cloned().collect(),
            watermark: self.ops.watermark,
            lagged_to: (after.0 + 1 < oldest).then(|| CompletionSeq(oldest - 1)),
        }
    }

    /// The last position of the completion feed.
    pub fn completion_watermark(&self) -> CompletionSeq {
        self.ops.watermark
    }

    /// What the model has seen, as the executor says.
    pub fn applied_completions(&self) -> CompletionSeq {
        self.ops.applied
    }

    pub(crate) fn apply_operation(&mut self, at: Timestamp, record: &Record) -> Result<(), &'static str> {
        let unknown = "an operation gets on that is not under way";
        match record {
            Record::OperationRegistered { spec, incarnation } => {
                let op = Operation {
                    spec: Arc::clone(spec),
                    status: OperationStatus::Provisioning,
                    peer: None,
                    progress_count: 0,
                    progress: Vec::new(),
                    created_at: at,
                    started_at: None,
                    completion: None,
                    incarnation: *incarnation,
                    orphaned_until: None,
                };
                self.ops.active += 1;
                match self.ops.by_id.insert(spec.id, op) {
                    None => Ok(()),
                    Some(_) => Err("an operation is registered twice"),
                }
            }
            Record::OperationEnded(entry) => self.apply_operation_ended(entry),
            Record::CompletionsApplied { seq } => {
                self.ops.applied = *seq;
                (self.ops.wakes, self.ops.wake_after) = (0, None);
                Ok(())
            }
            Record::OperationMoved { id, .. }
            | Record::OperationPeerReady { id, .. }
            | Record::OperationProgressed { id, .. }
            | Record::OperationOrphaned { id, .. }
            | Record::OperationAdopted { id, .. } => {
                let op = self.ops.by_id.get_mut(id).filter(|op| !op.status.is_terminal()).ok_or(unknown)?;
                match record {
                    Record::OperationMoved { status, .. } => {
                        op.status = *status;
                        op.started_at.get_or_insert(at);
                    }
                    Record::OperationPeerReady { peer, .. } => op.peer = Some(peer.clone()),
                    Record::OperationProgressed { update, .. } => {
                        op.progress_count += 1;
                        if op.progress.len() == PROGRESS_KEPT {
                            op.progress.remove(0);
                        }
                        op.progress.push(update.clone());
                    }
                    Record::OperationOrphaned { until, .. } => {
                        self.ops.orphans += u32::from(op.orphaned_until.replace(*until).is_none());
                    }
                    Record::OperationAdopted { incarnation, .. } => {
                        op.incarnation = *incarnation;
                        self.ops.orphans -= u32::from(op.orphaned_until.take().is_some());
                    }
                    _ => unreachable!("matched above"),
                }
                Ok(())
            }
            _ => unreachable!("only records of operations come here"),
        }
    }

    fn apply_operation_ended(&mut self, entry: &Arc<CompletionEntry>) -> Result<(), &'static str> {
        if entry.seq != self.ops.next_seq() {
            return Err("a completion is out of order");
        }
        let op = self.ops.by_id.get_mut(&entry.operation_id).filter(|op| !op.status.is_terminal());
        let op = op.ok_or("an operation ends that is not under way")?;
        op.status = entry.terminal_outcome.status();
        op.completion = Some(Arc::clone(entry));
        self.ops.orphans -= u32::from(op.orphaned_until.take().is_some());
        self.ops.active -= 1;
        self.ops.watermark = entry.seq;
        if entry.kind == OperationKind::BackgroundToolOp {
            self.ops.last_waking = entry.seq;
            // Something new to tell is a new reason to wake.
            (self.ops.wakes, self.ops.wake_after) = (0, None);
        }
        self.ops.feed.push_back(Arc::clone(entry));
        if self.ops.feed.len() > self.limits.completions_kept as usize {
            self.ops.feed.pop_front();
        }
        self.ops.over.push_back(entry.operation_id);
        if self.ops.over.len() > self.limits.operations_kept as usize
            && let Some(oldest) = self.ops.over.pop_front()
        {
            self.ops.by_id.remove(&oldest);
        }
        Ok(())
    }

    /// A wake was admitted.
    pub(crate) fn apply_wake(&mut self, id: InputId, continuation: &Continuation) {
        if let Some(last) = continuation.notices.last() {
            self.made += 1;
            self.ops.wake = Some(id);
            self.ops.told = last.seq;
            self.ops.wakes += 1;
        }
    }

    /// A wake is over. If nothing of it was applied, another is owed, after a back-off.
    pub(crate) fn apply_wake_over(&mut self, id: InputId, outcome: &Outcome, at: Timestamp) {
        if self.ops.wake == Some(id) {
            self.ops.wake = None;
            // One that was lost with its process before it ran told nobody anything, and cost nothing.
            if matches!(outcome, Outcome::Abandoned { reason: AbandonReason::EphemeralLost }) {
                self.ops.wakes = self.ops.wakes.saturating_sub(1);
            } else if self.ops.applied < self.ops.told {
                let doublings = self.ops.wakes.saturating_sub(1).min(16);
                let delay = self.limits.backoff.saturating_mul(1 << doublings).min(self.limits.backoff_max);
                self.ops.wake_after = Some(at + delay);
            }
        }
    }

    /// A reset begins a new completion order.
    pub(crate) fn apply_new_epoch(&mut self) {
        self.ops = Ops::default();
    }
}

/// What is said of an operation whose producer died with its process.
const OWNER_LOST: &str = "owner lost";
/// Updates kept per operation.
const PROGRESS_KEPT: usize = 8;
