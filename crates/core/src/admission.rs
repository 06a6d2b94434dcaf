//! May this input come in, and what becomes of it?
//!
//! Checks stand in the order in which a caller must hear of them: duplicate or conflict, gate, durability, handling
//! mode, limits, policy. A refusal is an answer and leaves nothing behind.

use crate::{
    AcceptOptions, AcceptOutcome, Accepted, Decision, Deliver, Durability, Gate, HandlingMode, Input, InputBody,
    InputId, InputKind, InputOrigin, InputState, Join, Lane, Limits, Merge, OnBusy, Peer, PeerConvention, PolicyQuery,
    Prompt, Record, RejectReason, Replaced, Reply, Ruling, Session, SourceKind, Step, Ticket, Timestamp,
    fingerprint::fingerprint, record::Fingerprint,
};
use std::sync::Arc;

/// What was found out about an input that may come in.
struct Examined {
    fingerprint: Fingerprint,
    policy_row: Option<u32>,
    decision: Decision,
    front: bool,
    replaces: Option<Replaced>,
}

impl Session {
    pub(crate) fn on_accept(
        &mut self,
        now: Timestamp,
        ticket: Ticket,
        input: Input,
        options: AcceptOptions,
        step: &mut Step,
    ) {
        let durable = input.header.durability == Durability::Durable;
        // Notices are the session's own; from outside they would move what it believes to have told.
        let forged = matches!(&input.body, InputBody::Continuation(carry_on) if !carry_on.notices.is_empty());
        let admitted = if forged {
            Err(AcceptOutcome::Rejected { reason: RejectReason::ReservedMetadata { field: "notices".into() } })
        } else {
            self.admit(now, input, options)
        };
        let outcome = match admitted {
            Err(answer) => answer,
            Ok(admitted) => self.take_in(now, admitted, step),
        };
        // What may vanish with the process need not wait for the disk.
        let accepted = matches!(outcome, AcceptOutcome::Accepted { .. });
        if accepted && !durable && !options.pinned {
            step.at_once.push((ticket, Reply::Accept(outcome)));
        } else {
            step.reply(ticket, Reply::Accept(outcome));
        }
    }

    /// Whether this input would come in if it were offered now: for those who prepare something for it outside, and
    /// should not if it is a duplicate or would be refused. Changes nothing, promises nothing.
    pub fn would_admit(&self, input: &Input, options: AcceptOptions) -> bool {
        self.examine(input, options, true).is_ok()
    }

    /// Everything about an input that is to be checked or decided. The error is the answer of one that does not come in.
    fn examine(&self, input: &Input, options: AcceptOptions, limited: bool) -> Result<Examined, AcceptOutcome> {
        let fingerprint = fingerprint(input);
        // A retry must hear the first answer, so duplicates are found before the gate is, or a limit.
        self.find_duplicate(input, fingerprint)?;
        let rejected = |reason| AcceptOutcome::Rejected { reason };
        if self.gate != Gate::Open {
            return Err(rejected(RejectReason::NotReady { state: self.state() }));
        }
        check_durability(input).map_err(rejected)?;
        check_handling_mode(input, options).map_err(rejected)?;
        let (policy_row, mut decision) = self.decide(input, options);
        let busy = self.is_busy();
        let front = busy && decision.on_busy == OnBusy::Interrupt;
        if front {
            // Head of the steer lane, before every class: what was interrupted, and all that waits, comes after it.
            (decision.deliver, decision.priority) = (Deliver::Checkpoint, u8::MAX);
        }
        check_pinned(input, &decision, options).map_err(rejected)?;
        let replaces = self.find_replaced(input, &decision);
        if limited {
            self.check_limits(input, &decision, replaces).map_err(rejected)?;
        }
        if busy && decision.on_busy == OnBusy::Reject {
            return Err(rejected(RejectReason::Busy));
        }
        Ok(Examined { fingerprint, policy_row, decision, front, replaces })
    }

    /// What is to be recorded of an input that comes in. Changes nothing.
    pub(crate) fn admit(
        &mut self,
        now: Timestamp,
        input: Input,
        options: AcceptOptions,
    ) -> Result<Accepted, AcceptOutcome> {
        let examined = self.examine(&input, options, true)?;
        self.admit_examined(now, input, options, examined)
    }

    /// As [`Session::admit`], for what has a place that was kept for it.
    pub(crate) fn admit_kept(
        &mut self,
        now: Timestamp,
        input: Input,
        options: AcceptOptions,
    ) -> Result<Accepted, AcceptOutcome> {
        let examined = self.examine(&input, options, false)?;
        self.admit_examined(now, input, options, examined)
    }

    fn admit_examined(
        &mut self,
        now: Timestamp,
        input: Input,
        options: AcceptOptions,
        examined: Examined,
    ) -> Result<Accepted, AcceptOutcome> {
        let Examined { fingerprint, policy_row, decision, front, replaces } = examined;
        if options.pinned && self.has_selectable(now) {
            return Err(AcceptOutcome::Rejected { reason: RejectReason::NotReady { state: self.state() } });
        }
        // What is absorbed leaves the wake that it was owed.
        let owed = replaces.is_some_and(|replaced| replaced.coalesced && self.open[&replaced.older].wake);
        let wake = (decision.wake && !options.without_wake) || owed;
        let not_before = self.due_of(now, &decision, replaces);
        let mut accepted = Accepted {
            input,
            fingerprint,
            wake,
            front,
            pinned: options.pinned,
            not_before,
            replaces,
            redrive_of: options.redrive_of,
            policy_row,
            decision,
        };
        self.join_contents(&mut accepted);
        Ok(accepted)
    }

    pub(crate) fn take_in(&mut self, now: Timestamp, accepted: Accepted, step: &mut Step) -> AcceptOutcome {
        let id = accepted.input.id();
        if accepted.front {
            self.release_run(now, "interrupted by an input", step);
        }
        let policy = accepted.decision.clone();
        let ahead = match policy.deliver {
            _ if accepted.front => 0,
            Deliver::NextRun => self.lanes.len(Lane::Steer) + self.lanes.len(Lane::Queue),
            Deliver::Checkpoint => self.lanes.len(Lane::Steer),
            Deliver::WithNextRun => self.lanes.len(Lane::Aside),
            Deliver::Context | Deliver::Ignore => 0,
        };
        // Whom it replaces is no longer before it.
        let ahead = ahead - u32::from(accepted.replaces.is_some());
        let durable = accepted.input.header.durability == Durability::Durable;
        let pinned = accepted.pinned;
        self.write(now, Record::InputAccepted(Arc::new(accepted)), step);
        if pinned {
            self.start_pinned(now, id, step);
        }
        let state = self.input_state(id).unwrap_or(InputState::Consumed);
        AcceptOutcome::Accepted { input_id: id, policy, state, ahead, durable }
    }

    /// The same id or key before: a duplicate if it says the same, a conflict if not.
    fn find_duplicate(&self, input: &Input, fingerprint: Fingerprint) -> Result<(), AcceptOutcome> {
        let id = input.id();
        let answer = |existing_id, (known, state): (Fingerprint, InputState), conflict| {
            Err(if known == fingerprint {
                AcceptOutcome::Deduplicated { input_id: id, existing_id, state }
            } else {
                AcceptOutcome::Rejected { reason: conflict }
            })
        };
        if let Some(known) = self.known(id) {
            return answer(id, known, RejectReason::IdConflict { existing_id: id });
        }
        if let Some(key) = &input.header.idempotency_key
            && let Some(existing_id) = self.input_by_key(key)
            && let Some(known) = self.known(existing_id)
        {
            return answer(existing_id, known, RejectReason::IdempotencyConflict { existing_id });
        }
        Ok(())
    }

    fn known(&self, id: InputId) -> Option<(Fingerprint, InputState)> {
        match self.open.get(&id) {
            Some(open) => Some((open.accepted.fingerprint, self.input_state(id)?)),
            None => self.remembered(self.settled.by_id(id)).map(|settled| (settled.fingerprint, settled.state)),
        }
    }

    /// What the policy says, with the session's silent intents: a matching request starts no run, whatever its mode.
    fn decide(&self, input: &Input, options: AcceptOptions) -> (Option<u32>, Decision) {
        let query = PolicyQuery {
            kind: Some(input.kind()),
            mode: input.handling_mode(),
            source: SourceKind::from(&input.header.source),
            busy: self.is_busy(),
        };
        let Ruling { row, decision } = self.policy.decide(query);
        let silent = |intent| self.silent_intents.binary_search(intent).is_ok();
        let aside = match &input.body {
            InputBody::Peer(Peer { convention: Some(PeerConvention::Request { intent, .. }), .. }) => {
                options.aside || silent(intent)
            }
            _ => options.aside,
        };
        let decision = if aside {
            Decision { deliver: Deliver::WithNextRun, wake: false, on_busy: OnBusy::Wait, ..decision }
        } else {
            decision
        };
        (row.map(|row| row as u32), decision)
    }

    fn is_busy(&self) -> bool {
        self.run.is_some()
    }

    fn check_limits(&self, input: &Input, decision: &Decision, replaces: Option<Replaced>) -> Result<(), RejectReason> {
        let bytes = input.payload_bytes();
        let limit = self.limits.payload_bytes;
        if bytes > limit as usize {
            return Err(RejectReason::PayloadTooLarge { bytes: bytes as u64, limit });
        }
        let depth = input.payload_depth() as u32;
        let limit = self.limits.payload_depth;
        if depth > limit {
            return Err(RejectReason::PayloadTooDeep { depth, limit });
        }
        let (lane, len, limit) = match decision.deliver {
            Deliver::NextRun => (Lane::Queue, self.lanes.len(Lane::Queue), self.limits.queued),
            Deliver::Checkpoint => (Lane::Steer, self.lanes.len(Lane::Steer), self.limits.steered),
            Deliver::WithNextRun => (Lane::Aside, self.lanes.len(Lane::Aside), self.limits.aside),
            Deliver::Context => (Lane::Aside, self.context.len() as u32 + self.context_waits, self.limits.aside),
            Deliver::Ignore => return Ok(()),
        };
        if len >= limit && replaces.is_none() {
            return Err(RejectReason::QueueFull { lane, limit });
        }
        Ok(())
    }

    /// The waiting input of the same scope that this one replaces or absorbs, if the policy says so.
    fn find_replaced(&self, input: &Input, decision: &Decision) -> Option<Replaced> {
        let coalesced = match decision.merge {
            Merge::Keep => return None,
            Merge::Coalesce { .. } | Merge::Debounce { .. } => true,
            Merge::Supersede => false,
        };
        let key = input.header.supersession_key.clone()?;
        let (_, &older) = self.scopes.get(&(input.kind(), key, lane_of(decision.deliver)?))?.last_key_value()?;
        let open = &self.open[&older];
        // What is promised to survive a crash is not given up for what may vanish in one.
        let lasts = input.header.durability == Durability::Durable || open.is_ephemeral();
        let fits = match decision.merge {
            Merge::Coalesce { join: Join::Append } => can_join(&open.accepted.input, input, &self.limits),
            _ => true,
        };
        (lasts && fits).then_some(Replaced { older, coalesced })
    }

    /// When a debounced input is due: after its quiet, but not later than the first of its scope may wait.
    fn due_of(&self, now: Timestamp, decision: &Decision, replaces: Option<Replaced>) -> Option<Timestamp> {
        let Merge::Debounce { window, max } = decision.merge else { return None };
        let first_at = replaces.map_or(now, |replaced| self.open[&replaced.older].first_at);
        Some((now + window).min(first_at + max).max(now))
    }

    /// Puts the older content before the newer, where the policy says so.
    fn join_contents(&self, accepted: &mut Accepted) {
        let (Some(Replaced { older, coalesced: true }), Merge::Coalesce { join: Join::Append }) =
            (accepted.replaces, accepted.decision.merge)
        else {
            return;
        };
        let older = &self.open[&older].accepted.input;
        if let Some(text) = text_of(older) {
            prepend_text(&mut accepted.input, text);
        }
        if let Some(blocks) = older.blocks()
            && let Some(newer) = accepted.input.blocks_mut()
        {
            newer.splice(0..0, blocks.iter().cloned());
        }
    }
}

fn lane_of(deliver: Deliver) -> Option<Lane> {
    match deliver {
        Deliver::NextRun => Some(Lane::Queue),
        Deliver::Checkpoint => Some(Lane::Steer),
        Deliver::WithNextRun => Some(Lane::Aside),
        Deliver::Context | Deliver::Ignore => None,
    }
}

/// Whether nothing of either would be lost or too much: text joins text, and blocks, which stand for it, join blocks.
fn can_join(older: &Input, newer: &Input, limits: &Limits) -> bool {
    let both = older.payload_bytes() + newer.payload_bytes();
    both <= limits.payload_bytes as usize
        && older.blocks().is_some() == newer.blocks().is_some()
        && [older, newer].into_iter().all(|input| text_of(input).is_some())
}

/// The text of an input, where it has one that can be joined to another.
fn text_of(input: &Input) -> Option<&str> {
    match &input.body {
        InputBody::Prompt(prompt) => Some(&prompt.text),
        InputBody::Peer(peer) => Some(&peer.body),
        InputBody::FlowStep(step) => Some(&step.instructions),
        InputBody::ExternalEvent(event) => event.payload.get("body").and_then(serde_json::Value::as_str),
        InputBody::Continuation(_) | InputBody::Operation(_) => None,
    }
}

fn prepend_text(input: &mut Input, older: &str) {
    let join = |newer: &mut String| *newer = format!("{older}\n{newer}");
    match &mut input.body {
        InputBody::Prompt(Prompt { text, .. }) => join(text),
        InputBody::Peer(peer) => join(&mut peer.body),
        InputBody::FlowStep(step) => join(&mut step.instructions),
        InputBody::ExternalEvent(event) => {
            if let Some(serde_json::Value::String(newer)) = event.payload.get_mut("body") {
                join(newer);
            }
        }
        InputBody::Continuation(_) | InputBody::Operation(_) => {}
    }
}

/// Only Windlass itself may send what can be made again, and only what it does make again.
fn check_durability(input: &Input) -> Result<(), RejectReason> {
    if input.header.durability != Durability::Derived {
        return Ok(());
    }
    let refuse = |detail: String| Err(RejectReason::DurabilityViolation { detail });
    match &input.header.source {
        InputOrigin::Operator | InputOrigin::Peer { .. } | InputOrigin::External { .. } => {
            refuse("derived inputs come from the system or a flow only; send it durable or ephemeral".into())
        }
        InputOrigin::System | InputOrigin::Flow { .. } => match input.kind() {
            kind @ (InputKind::Prompt
            | InputKind::FlowStep
            | InputKind::PeerMessage
            | InputKind::PeerRequest
            | InputKind::PeerResponseTerminal) => {
                refuse(format!("a {} cannot be derived; send it durable or ephemeral", kind.as_str()))
            }
            InputKind::PeerResponseProgress
            | InputKind::ExternalEvent
            | InputKind::Continuation
            | InputKind::Operation => Ok(()),
        },
    }
}

fn check_handling_mode(input: &Input, options: AcceptOptions) -> Result<(), RejectReason> {
    let mode = input.handling_mode();
    let detail = if input.kind() == InputKind::PeerResponseProgress && mode.is_some() {
        "progress of a request goes along with other inputs; send it without a handling mode"
    } else if options.without_wake && mode == Some(HandlingMode::Steer) {
        "steering asks to be seen at once, so it cannot be accepted without a wake"
    } else {
        return Ok(());
    };
    Err(RejectReason::HandlingModeInvalid { detail: detail.into() })
}

/// What goes along, is appended or is only recorded has no run that its caller could run.
fn check_pinned(input: &Input, decision: &Decision, options: AcceptOptions) -> Result<(), RejectReason> {
    if !options.pinned || matches!(decision.deliver, Deliver::NextRun | Deliver::Checkpoint) {
        return Ok(());
    }
    let detail =
        format!("a {} starts no run here, so its caller cannot run it; accept it plainly", input.kind().as_str());
    Err(RejectReason::HandlingModeInvalid { detail })
}
