//! How are entries, effects and replies written for people, one line each?
//!
//! The one notation of scenario files, of `windlass journal` and of a failing simulation. What is usual is left out:
//! a line shows a kind only if it is no prompt, a lane only if it is not the queue.
//!
//! ```text
//! write 2 input_accepted a key=k1
//! write 3 run_started r1 attempt=1 [a]
//! reply accepted ahead=0
//! start r1 attempt=1 [a]
//! settle a completed "done"
//! ```
//!
//! Names come from the caller: scenarios call an input `a`, a journal calls it by its id.

use crate::{
    AbandonReason, AcceptOutcome, Accepted, CancelOutcome, ControlRefused, ControlReport, Deliver, Due, Durability,
    Effect, Entry, ExecutionKind, InputId, InputState, Outcome, Profile, Record, Reply, RunBoundaryReceipt, RunEnd,
    RunId, RunStart, RunStarted, RuntimeState, Settlement, Step, Terminal, Timestamp, WithdrawOutcome,
};
use std::fmt::Display;

/// What things are called. Every method has a default: the id itself.
pub trait Names {
    /// The name of an input.
    fn input(&self, id: InputId) -> String {
        id.to_string()
    }

    /// The name of a run.
    fn run(&self, id: RunId) -> String {
        id.to_string()
    }

    /// How a moment is written.
    fn moment(&self, at: Timestamp) -> String {
        at.to_string()
    }
}

/// Calls everything by its id.
///
/// ```
/// use windlass_core::{notation, Entry, Record, Seq, Timestamp};
/// let entry = Entry { seq: Seq(7), at: Timestamp::ZERO, record: Record::HoldChanged { held: true } };
/// assert_eq!(notation::entry(&entry, &notation::Ids), "write 7 hold_changed held");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids;

impl Names for Ids {}

/// A line under construction: words, separated by spaces.
struct Line(String);

impl Line {
    fn new(first: impl Display) -> Line {
        Line(first.to_string())
    }

    fn word(mut self, word: impl Display) -> Line {
        self.0 += " ";
        self.0 += &word.to_string();
        self
    }

    fn word_if(self, shown: bool, word: impl Display) -> Line {
        if shown { self.word(word) } else { self }
    }

    fn field(self, name: &str, value: impl Display) -> Line {
        self.word(format_args!("{name}={value}"))
    }

    fn field_of<T: Display>(self, name: &str, value: Option<T>) -> Line {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    fn quoted(self, text: &str) -> Line {
        self.word(format_args!("{text:?}"))
    }
}

/// Everything that a step decided, a line each, in the order in which the shell acts on it.
pub fn step(step: &Step, names: &dyn Names) -> Vec<String> {
    let at_once = step.at_once.iter().map(|(_, answer)| format!("at-once {}", reply(answer, names)));
    let entries = step.entries.iter().map(|written| entry(written, names));
    let effects = step.effects.iter().map(|effect_| effect(effect_, names));
    let settled = step.settled.iter().map(|end| settlement(end, names));
    at_once.chain(entries).chain(effects).chain(settled).collect()
}

/// One line of a journal, without its moment.
pub fn entry(entry: &Entry, names: &dyn Names) -> String {
    format!("write {} {}", entry.seq, record(&entry.record, names))
}

/// One fact, without its position.
pub fn record(record: &Record, names: &dyn Names) -> String {
    let line = Line::new(record.name());
    let line = match record {
        Record::SessionCreated { epoch: _, agent } => line.field_of("agent", agent.as_deref()),
        Record::InputAccepted(accepted) => accepted_line(line, accepted, names),
        Record::InputsSettled { inputs, outcome } => line.word(list(inputs, names)).word(self::outcome(outcome, names)),
        Record::ContextAppended { receipt } => line.word(list(&receipt.contributing_input_ids, names)),
        Record::RunStarted(started) => started_line(line, started, names),
        Record::RunSteered { run, inputs } => line.word(names.run(*run)).word(list(inputs, names)),
        Record::BoundaryCommitted(boundary) => line.word(receipt_of(&boundary.receipt, names)),
        Record::RunEnded(ended) => {
            end_line(line.word(names.run(ended.run)).field("attempt", ended.attempt), &ended.end, names)
        }
        Record::GateChanged { gate, reason: _ } => line.word(snake(&format!("{gate:?}"))),
        Record::HoldChanged { held } => line.word(if *held { "held" } else { "released" }),
        Record::Woken { by } => line.word(snake(&format!("{by:?}"))),
        Record::SessionReset { epoch: _ } => line,
        Record::SilentIntentsSet { intents } => line.word(format_args!("[{}]", intents.join(", "))),
        Record::ProfileSet { profile } => profile_line(line, profile),
        Record::OperationRegistered { spec, .. } => {
            line.word(spec.id).word(snake(&format!("{:?}", spec.kind))).quoted(&spec.display_name)
        }
        Record::OperationMoved { id, status } => line.word(id).word(status.as_str()),
        Record::OperationPeerReady { id, peer } => line.word(id).field("peer", &peer.peer_name),
        Record::OperationProgressed { id, update } => line.word(id).quoted(&update.message),
        Record::OperationOrphaned { id, until: _ } | Record::OperationAdopted { id, incarnation: _ } => line.word(id),
        Record::OperationEnded(entry) => {
            let status = entry.terminal_outcome.status().as_str();
            line.word(entry.operation_id).word(status).field("completion", entry.seq.0)
        }
        Record::CompletionsApplied { seq } => line.word(seq.0),
        Record::PeerSent(sent) => line.word(sent.id).word(snake(&format!("{:?}", sent.kind))).field("to", &sent.peer),
        Record::PeerDelivered { id } | Record::PeerGivenUp { id } => line.word(id),
        Record::Noted { note } => line.word(note.get()),
    };
    line.0
}

/// One effect.
pub fn effect(effect: &Effect, names: &dyn Names) -> String {
    match effect {
        Effect::Reply { ticket: _, reply: answer } => reply(answer, names),
        Effect::StartRun(start) => start_line(start, names),
        Effect::StopRun { attempt, reason } => {
            Line::new("stop").word(names.run(attempt.run)).field("attempt", attempt.attempt).quoted(reason).0
        }
    }
}

/// One answer.
pub fn reply(reply: &Reply, names: &dyn Names) -> String {
    let line = Line::new("reply");
    let line = match reply {
        Reply::Accept(outcome) => accept_line(line, outcome, names),
        Reply::Withdraw(WithdrawOutcome::Withdrawn) => line.word("withdrawn"),
        Reply::Withdraw(WithdrawOutcome::TooLate { state }) => {
            line.word("too_late").field("state", input_state(*state))
        }
        Reply::Withdraw(WithdrawOutcome::NotFound) => line.word("not_found"),
        Reply::Checkpoint(Ok(steering)) => {
            let ids: Vec<_> = steering.iter().map(|accepted| accepted.input.id()).collect();
            line.word("steering").word(list(&ids, names))
        }
        Reply::Boundary(Ok(receipt)) => line.word("committed").word(receipt_of(receipt, names)),
        Reply::Checkpoint(Err(_)) | Reply::Boundary(Err(_)) => line.word("run_closed"),
        Reply::Cancel(CancelOutcome::Cancelled { run, last_committed }) => {
            line.word("cancelled").word(names.run(*run)).field_of("after", *last_committed)
        }
        Reply::Cancel(CancelOutcome::TooLate { run }) => line.word("too_late").word(names.run(*run)),
        Reply::Cancel(CancelOutcome::NoSuchRun) => line.word("no_such_run"),
        Reply::Operation(Ok(())) => line.word("done"),
        Reply::Operation(Err(refused)) => line.word("refused").quoted(&refused.to_string()),
        Reply::Send(Ok(())) => line.word("kept"),
        Reply::Send(Err(refused)) => line.word("refused").quoted(&refused.to_string()),
        Reply::Control(Ok(report)) => report_line(line.word("done"), *report),
        Reply::Control(Err(ControlRefused::State { state })) => {
            line.word("refused").field("state", runtime_state(*state))
        }
        Reply::Control(Err(
            refused @ (ControlRefused::TooManyIntents { .. }
            | ControlRefused::Profile(_)
            | ControlRefused::ChangedSince),
        )) => line.word("refused").quoted(&refused.to_string()),
    };
    line.0
}

/// The end of one input.
pub fn settlement(settled: &Settlement, names: &dyn Names) -> String {
    Line::new("settle").word(names.input(settled.input)).word(outcome(&settled.outcome, names)).0
}

/// How an input ended.
pub fn outcome(outcome: &Outcome, names: &dyn Names) -> String {
    match outcome {
        Outcome::Completed { run: _, result } => Line::new("completed").quoted(&result.text),
        Outcome::CompletedWithoutResult { run: _ } => Line::new("completed_without_result"),
        Outcome::CallbackPending { run: _, tool } => Line::new("callback_pending").field("tool", &tool.tool_name),
        Outcome::Recorded => Line::new("recorded"),
        Outcome::Failed { run: _, after, error } => Line::new("failed").field("after", after).quoted(error),
        Outcome::Cancelled { run: _, after } => Line::new("cancelled").field("after", after),
        Outcome::Superseded { by } => Line::new("superseded").field("by", names.input(*by)),
        Outcome::Coalesced { into } => Line::new("coalesced").field("into", names.input(*into)),
        Outcome::Abandoned { reason } => reason_line(Line::new("abandoned"), reason),
    }
    .0
}

/// When something happens next, and what.
pub fn due(due: Option<Due>, names: &dyn Names) -> String {
    match due {
        Some(Due { at, reason }) => {
            Line::new("due").word(snake(&format!("{reason:?}"))).field("at", names.moment(at)).0
        }
        None => "due never".to_owned(),
    }
}

/// The name of a session's state, as it stands in JSON.
pub fn runtime_state(state: RuntimeState) -> String {
    snake(&format!("{state:?}"))
}

/// The name of an input's state, as it stands in JSON.
pub fn input_state(state: InputState) -> String {
    snake(&format!("{state:?}"))
}

/// Some inputs, in order.
pub fn list(inputs: &[InputId], names: &dyn Names) -> String {
    let inputs: Vec<_> = inputs.iter().map(|id| names.input(*id)).collect();
    format!("[{}]", inputs.join(", "))
}

fn profile_line(line: Line, profile: &Profile) -> Line {
    let labels = profile.labels.iter().map(|(key, value)| format!("{key}:{value}"));
    let labels = labels.collect::<Vec<_>>().join(", ");
    line.field_of("tenant", profile.tenant.as_deref())
        .field_of("name", profile.name.as_deref())
        .field_of("labels", (!labels.is_empty()).then(|| format!("[{labels}]")))
        .word_if(profile.keep_alive, "keep-alive")
        .field_of("policy", profile.policy.as_deref())
}

fn accepted_line(line: Line, accepted: &Accepted, names: &dyn Names) -> Line {
    let header = &accepted.input.header;
    let deliver = accepted.decision.deliver;
    let place = match deliver {
        Deliver::NextRun => None,
        Deliver::Checkpoint => Some("steer"),
        Deliver::WithNextRun => Some("aside"),
        Deliver::Context => Some("context"),
        Deliver::Ignore => Some("ignored"),
    };
    let kind = accepted.input.kind().as_str();
    let starts_runs = matches!(deliver, Deliver::NextRun | Deliver::Checkpoint);
    let durability = header.durability;
    line.word(names.input(accepted.input.id()))
        .field_of("kind", (kind != "prompt").then_some(kind))
        .field_of("lane", place)
        .field_of("key", header.idempotency_key.as_ref())
        .field_of("scope", header.supersession_key.as_ref())
        .word_if(durability != Durability::Durable, snake(&format!("{durability:?}")))
        .word_if(starts_runs && !accepted.wake, "no-wake")
        .word_if(accepted.front, "front")
        .word_if(accepted.pinned, "pinned")
        .field_of("not_before", accepted.not_before.map(|at| names.moment(at)))
        .field_of("absorbs", accepted.replaces.filter(|r| r.coalesced).map(|r| names.input(r.older)))
        .field_of("replaces", accepted.replaces.filter(|r| !r.coalesced).map(|r| names.input(r.older)))
        .field_of("redrive_of", accepted.redrive_of.map(|dead| names.input(dead)))
}

fn started_line(line: Line, started: &RunStarted, names: &dyn Names) -> Line {
    line.word(names.run(started.run))
        .field("attempt", started.attempt)
        .word(list(&started.inputs, names))
        .field_of("asides", (!started.asides.is_empty()).then(|| list(&started.asides, names)))
        .field_of("resumes_after", started.resumes_after)
        .word_if(started.pinned, "pinned")
}

fn end_line(line: Line, end: &RunEnd, names: &dyn Names) -> Line {
    match end {
        RunEnd::Completed { receipt, delta: _, terminal } => {
            let line = line.word("completed").word(format_args!(
                "#{} {}",
                receipt.sequence,
                list(&receipt.contributing_input_ids, names)
            ));
            match terminal {
                Terminal::NoResult => line,
                Terminal::Result(result) => line.quoted(&result.text),
                Terminal::CallbackPending(tool) => line.field("callback", &tool.tool_name),
            }
        }
        RunEnd::Failed { error, retry_at, exhausted, fatal } => line
            .word("failed")
            .quoted(error)
            .field_of("retry_at", retry_at.map(|at| names.moment(at)))
            .field_of("exhausted", (!exhausted.is_empty()).then(|| list(exhausted, names)))
            .word_if(*fatal, "fatal"),
        RunEnd::Cancelled { reason, inputs } => line.word("cancelled").quoted(reason).field("inputs", inputs.code()),
        RunEnd::Released { reason } => line.word("released").quoted(reason),
    }
}

fn start_line(start: &RunStart, names: &dyn Names) -> String {
    let ids = |inputs: &[std::sync::Arc<Accepted>]| {
        let ids: Vec<_> = inputs.iter().map(|accepted| accepted.input.id()).collect();
        list(&ids, names)
    };
    Line::new("start")
        .word(names.run(start.attempt.run))
        .field("attempt", start.attempt.attempt)
        .word(ids(&start.inputs))
        .field_of("context", (!start.context.is_empty()).then(|| ids(&start.context)))
        .word_if(start.kind == ExecutionKind::ResumePending, "resume")
        .field_of("after", start.resumes_after)
        .word_if(start.pinned, "pinned")
        .0
}

fn accept_line(line: Line, outcome: &AcceptOutcome, names: &dyn Names) -> Line {
    match outcome {
        AcceptOutcome::Accepted { input_id: _, policy: _, state, ahead, durable } => line
            .word("accepted")
            .field("ahead", ahead)
            .field_of("state", (*state != InputState::Queued).then(|| input_state(*state)))
            .word_if(!durable, "not-durable"),
        AcceptOutcome::Deduplicated { input_id: _, existing_id, state } => {
            line.word("duplicate").field("of", names.input(*existing_id)).field("state", input_state(*state))
        }
        AcceptOutcome::Rejected { reason } => match reason {
            crate::RejectReason::NotReady { state } => {
                line.word("rejected").word(reason.code()).field("state", runtime_state(*state))
            }
            crate::RejectReason::IdempotencyConflict { existing_id }
            | crate::RejectReason::IdConflict { existing_id } => {
                line.word("rejected").word(reason.code()).field("of", names.input(*existing_id))
            }
            _ => line.word("rejected").word(reason.code()),
        },
    }
}

fn report_line(line: Line, report: ControlReport) -> Line {
    let some = |count: u32| (count > 0).then_some(count);
    line.field_of("abandoned", some(report.inputs_abandoned))
        .field_of("pending_drain", some(report.inputs_pending_drain))
        .field_of("transferred", some(report.inputs_transferred))
}

fn reason_line(line: Line, reason: &AbandonReason) -> Line {
    let line = line.word(reason.code());
    match reason {
        AbandonReason::Failed { error } => line.quoted(error),
        AbandonReason::MaxAttemptsExhausted { attempts, error } => line.field("attempts", attempts).quoted(error),
        _ => line,
    }
}

fn receipt_of(receipt: &RunBoundaryReceipt, names: &dyn Names) -> String {
    let RunBoundaryReceipt { run_id, sequence, contributing_input_ids, .. } = receipt;
    format!("{} #{sequence} {}", names.run(*run_id), list(contributing_input_ids, names))
}

/// The name of a variant as serde writes it.
fn snake(variant: &str) -> String {
    let mut name = String::with_capacity(variant.len() + 4);
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
