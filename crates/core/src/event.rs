//! What can be told to a session, and what does it want done?
//!
//! An [`Event`] goes into [`Session::step`](crate::Session::step); [`Step`] comes out: entries to be made durable,
//! then effects to be performed. Both are plain data.

use crate::{
    Accepted, CompletionSeq, CorrelationId, Decision, Delivery, EffectKey, Entry, ExecutionKind, Incarnation, Input,
    InputId, InputState, InvalidProfile, JsonText, OperationId, OperationReport, OperationSpec, OpsLifecycleError,
    Outcome, Outgoing, Profile, ProfileChange, RunApplyBoundary, RunBoundaryReceipt, RunId, RuntimeState, SendRefused,
    Seq, Terminal, Ticket, Timestamp, TraceContext,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Everything that can happen to a session from outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A process became its owner. First event of every ownership; mends what the last owner left open.
    Opened {
        /// The life of the process.
        incarnation: Incarnation,
        /// The agent that is to run it, if the session is new.
        agent: Option<Arc<str>>,
        /// Whether the owner before lived in this very process and let go after a failure of the store. A run that
        /// was on is then not to blame and costs no attempt.
        same_process: bool,
    },
    /// Somebody addresses it.
    Accept {
        /// Names the answer, a [`Reply::Accept`].
        ticket: Ticket,
        /// What it is told.
        input: Box<Input>,
        /// How.
        options: AcceptOptions,
    },
    /// Somebody takes an input back that has not started. Answer: [`Reply::Withdraw`].
    Withdraw {
        /// Names the answer.
        ticket: Ticket,
        /// Which.
        input: InputId,
    },
    /// An executor is there.
    Attach {
        /// Whether somebody attached it by hand, which makes what waits due. Reopening alone does not.
        wakes: bool,
    },
    /// The executor is gone.
    Detach,
    /// The running executor would take steering now. Answer: [`Reply::Checkpoint`].
    Checkpoint {
        /// Names the answer.
        ticket: Ticket,
        /// The attempt that asks.
        attempt: AttemptId,
    },
    /// The running executor commits what it has. Answer: [`Reply::Boundary`].
    Boundary {
        /// Names the answer.
        ticket: Ticket,
        /// The attempt that commits.
        attempt: AttemptId,
        /// What it commits.
        output: BoundaryOutput,
    },
    /// The executor returned, panicked or was dropped.
    RunEnded {
        /// The attempt that is over.
        attempt: AttemptId,
        /// How.
        report: RunReport,
    },
    /// Somebody cancels a run. Answer: [`Reply::Cancel`].
    Cancel {
        /// Names the answer.
        ticket: Ticket,
        /// Which run; none: the one that is on.
        run: Option<RunId>,
        /// Why, in words.
        reason: String,
        /// What becomes of its inputs.
        disposition: Disposition,
    },
    /// The owner lets go in good order: shutdown, hand-over, putting away. Costs no attempt. No answer.
    Release {
        /// Why, in words.
        reason: String,
    },
    /// Background work is registered. Answer: [`Reply::Operation`].
    RegisterOperation {
        /// Names the answer.
        ticket: Ticket,
        /// What its producer says of it.
        spec: OperationSpec,
        /// The attempt that registers it, if a run does: refused if that is over.
        attempt: Option<AttemptId>,
        /// The life of the process whose producer works on it.
        incarnation: Incarnation,
    },
    /// A producer reports. Answer: [`Reply::Operation`].
    Operation {
        /// Names the answer.
        ticket: Ticket,
        /// Of which operation.
        id: OperationId,
        /// What.
        report: OperationReport,
        /// The life of its process.
        incarnation: Incarnation,
    },
    /// All background work ends with its owner. Answer: [`Reply::Operation`].
    TerminateOperations {
        /// Names the answer.
        ticket: Ticket,
        /// Why, in words.
        reason: String,
    },
    /// The executor says that the model has seen completions up to here. Answer: [`Reply::Operation`].
    CompletionsApplied {
        /// Names the answer.
        ticket: Ticket,
        /// Up to here.
        seq: CompletionSeq,
    },
    /// An envelope is to be sent to a peer. Answer: [`Reply::Send`]; it may leave when that is given.
    Send {
        /// Names the answer.
        ticket: Ticket,
        /// The envelope.
        outgoing: Arc<Outgoing>,
    },
    /// Whoever carries envelopes says what became of one. Answer: [`Reply::Send`].
    Delivery {
        /// Names the answer.
        ticket: Ticket,
        /// The envelope.
        id: CorrelationId,
        /// What.
        delivery: Delivery,
    },
    /// One of the control verbs. Answer: [`Reply::Control`].
    Control {
        /// Names the answer.
        ticket: Ticket,
        /// Which verb.
        verb: Control,
    },
    /// [`Session::next_due`](crate::Session::next_due) has passed.
    Due,
}

/// One attempt at a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptId {
    /// The run.
    pub run: RunId,
    /// The number of the start.
    pub attempt: u32,
}

/// How an input is offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptOptions {
    /// It shall start no run, whatever the policy says. Refused for steering.
    pub without_wake: bool,
    /// It goes along with what other inputs start, whatever the policy says: its receiver wants it silent.
    pub aside: bool,
    /// Its caller runs it itself; refused if there is anything else to run.
    pub pinned: bool,
    /// It is a new try of this dead letter.
    pub redrive_of: Option<InputId>,
}

/// What becomes of the inputs of a cancelled run that are in no receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Abandoned.
    #[default]
    Drop,
    /// Back to the head of their lane, no attempt counted.
    Requeue,
}

/// The control verbs.
#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    /// Take nothing new, run what is there.
    Retire {
        /// Whether an executor will come although none is attached.
        will_drain: bool,
    },
    /// Do nothing until revived.
    Stop,
    /// Undo a stop: the session was registered again.
    Revive,
    /// Do nothing ever again.
    Destroy,
    /// Empty the session.
    Reset {
        /// Cancel a run that is on, instead of refusing.
        force: bool,
    },
    /// Keep everything, make it due.
    Recycle,
    /// Keep inputs, do not run them.
    Hold,
    /// Run them again.
    Release,
    /// Peer requests with these intents start no runs.
    SetSilentIntents(Vec<String>),
    /// Tell a session that was just created about itself, and whose it is.
    CreateWith(Arc<Profile>),
    /// Tell the session about itself. Whose it is stays.
    SetProfile(Arc<Profile>),
    /// Change some of what it is told about itself, all of that or nothing.
    Change(Box<ProfileChange>),
    /// Leave a note in the feed.
    Note(JsonText),
}

/// What an executor commits at a boundary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BoundaryOutput {
    /// The messages in the conversation after it.
    pub message_count: u64,
    /// Lower-case hex SHA-256 of the messages, where the executor keeps any.
    pub conversation_digest: Option<Arc<str>>,
    /// What it adds to the conversation.
    pub delta: Option<JsonText>,
}

/// How an executor's attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum RunReport {
    /// It returned its final boundary.
    Done {
        /// The boundary.
        output: BoundaryOutput,
        /// What it came to.
        terminal: Terminal,
    },
    /// It returned an error, panicked, stalled or was dropped.
    Failed {
        /// What went wrong.
        error: Arc<str>,
        /// Whether another try may help.
        retryable: bool,
        /// How long to wait at least before it, where the executor knows.
        retry_after: Option<Duration>,
    },
    /// The caller that ran it itself is gone.
    CallerGone,
}

/// What a step decided: first make the entries durable, then do the rest.
#[derive(Debug, Default, PartialEq)]
#[must_use = "entries must be made durable and effects performed"]
pub struct Step {
    /// Answers that need not wait for the entries: acceptances of inputs that may vanish with the process.
    pub at_once: Vec<(Ticket, Reply)>,
    /// To be made durable, in order, before anything below is done.
    pub entries: Vec<Arc<Entry>>,
    /// To be done, in order.
    pub effects: Vec<Effect>,
    /// The inputs that ended with these entries; their waiters hear it after the effects.
    pub settled: Vec<Settlement>,
}

/// The end of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// The input.
    pub input: InputId,
    /// The entry that ended it.
    pub seq: Seq,
    /// When it was admitted.
    pub admitted_at: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
}

/// Something the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer a question.
    Reply {
        /// The question.
        ticket: Ticket,
        /// The answer.
        reply: Reply,
    },
    /// Call the executor. It must report back with [`Event::RunEnded`], whatever happens.
    StartRun(RunStart),
    /// Tell the executor to stop, and drop it if it does not. It too reports back.
    StopRun {
        /// The attempt.
        attempt: AttemptId,
        /// Why, in words.
        reason: String,
    },
}

/// What the executor is called with.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStart {
    /// The attempt.
    pub attempt: AttemptId,
    /// Whether its caller runs it itself.
    pub pinned: bool,
    /// New content, or a resume.
    pub kind: ExecutionKind,
    /// Where its first boundary lies.
    pub boundary: RunApplyBoundary,
    /// The last boundary that stands, if it resumes after one.
    pub resumes_after: Option<u64>,
    /// The inputs it runs, in order. On a resume: only the steering that no boundary covers yet.
    pub inputs: Vec<Arc<Accepted>>,
    /// Passive inputs and appended context that go with it.
    pub context: Vec<Arc<Accepted>>,
    /// Where its effect keys begin.
    pub effect_key: EffectKey,
    /// The traces of its inputs, in the order in which those joined, also where a boundary covers them. It continues
    /// the first.
    pub traces: Vec<TraceContext>,
}

/// The answers to tickets.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To [`Event::Accept`].
    Accept(AcceptOutcome),
    /// To [`Event::Withdraw`].
    Withdraw(WithdrawOutcome),
    /// To [`Event::Checkpoint`]: what to steer by, or that the run is closed.
    Checkpoint(Result<Vec<Arc<Accepted>>, RunClosed>),
    /// To [`Event::Boundary`].
    Boundary(Result<Arc<RunBoundaryReceipt>, RunClosed>),
    /// To [`Event::Cancel`].
    Cancel(CancelOutcome),
    /// To the events of operations.
    Operation(Result<(), OpsLifecycleError>),
    /// To [`Event::Send`] and [`Event::Delivery`].
    Send(Result<(), SendRefused>),
    /// To [`Event::Control`].
    Control(Result<ControlReport, ControlRefused>),
}

/// The attempt is no longer the current one: whatever it reports is refused and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run_closed: this attempt is over (cancelled, timed out or taken over); stop, its results are refused")]
pub struct RunClosed;

/// What became of an offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome_type", rename_all = "snake_case")]
pub enum AcceptOutcome {
    /// It is accounted for from now on.
    Accepted {
        /// Its id.
        input_id: InputId,
        /// What the policy said.
        policy: Decision,
        /// Where it is now.
        state: InputState,
        /// How many wait in its lane before it.
        ahead: u32,
        /// Whether it is on disk.
        durable: bool,
    },
    /// It is already there: nothing was recorded.
    Deduplicated {
        /// The id offered.
        input_id: InputId,
        /// The input that is there.
        existing_id: InputId,
        /// Where that is now.
        state: InputState,
    },
    /// It is refused: nothing was recorded.
    Rejected {
        /// Why.
        reason: RejectReason,
    },
}

/// What makes a session take inputs again.
const fn not_ready(state: RuntimeState) -> &'static str {
    match state {
        RuntimeState::Stopped => "create it again, which revives it",
        RuntimeState::Destroyed => "use another session",
        _ => "reset it, or use another session",
    }
}

/// Why an input was refused. The code and the field of each are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reject_type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectReason {
    /// The session takes no inputs.
    #[error("the session is {} and takes no inputs; {}", state.as_str(), not_ready(*state))]
    NotReady {
        /// What it is doing.
        state: RuntimeState,
    },
    /// The key is taken by an input that says something else.
    #[error(
        "header.idempotency_key: already used by input {existing_id} with another payload; use a new key for a new input"
    )]
    IdempotencyConflict {
        /// The input that has the key.
        existing_id: InputId,
    },
    /// The id is taken by an input that says something else.
    #[error("header.id: already used by an input with another payload; make a new id for a new input")]
    IdConflict {
        /// The input that has the id.
        existing_id: InputId,
    },
    /// The durability does not fit kind and origin.
    #[error("header.durability: {detail}")]
    DurabilityViolation {
        /// What does not fit.
        detail: String,
    },
    /// The handling mode does not fit the kind.
    #[error("handling_mode: {detail}")]
    HandlingModeInvalid {
        /// What does not fit.
        detail: String,
    },
    /// The lane is full.
    #[error("{lane}: {limit} inputs wait already; try again when some are done")]
    QueueFull {
        /// Which lane.
        lane: Lane,
        /// How many may wait.
        limit: u32,
    },
    /// It carries too much.
    #[error("payload: {bytes} bytes, at most {limit} are taken; put large content into the blob store")]
    PayloadTooLarge {
        /// How much.
        bytes: u64,
        /// The most allowed.
        limit: u32,
    },
    /// Its JSON is nested too deeply.
    #[error("payload: nested {depth} deep, at most {limit} levels are taken")]
    PayloadTooDeep {
        /// How deep.
        depth: u32,
        /// The deepest allowed.
        limit: u32,
    },
    /// A run is on and the policy says no.
    #[error("policy: a run is on and the policy for this input is on_busy = reject; send it when the session is idle")]
    Busy,
    /// Its content could not be moved to the blob store, because there is none.
    #[error("blocks: inline media needs a blob store; give the runtime one, or send a url or a blob reference")]
    BlobStoreRequired,
    /// A blob that it names is not there.
    #[error("blocks: blob {blob} is not in the blob store; upload it first")]
    BlobMissing {
        /// The blob.
        blob: String,
    },
    /// Its inline media is no base64.
    #[error("blocks: inline media is not valid base64")]
    InvalidMedia,
    /// It carries what only the session itself may set.
    #[error("{field}: only the session itself sets this; leave it out")]
    ReservedMetadata {
        /// The field.
        field: String,
    },
    /// A new try is wanted of something that is no dead letter.
    #[error("input {input} is no dead letter, so there is nothing to redrive")]
    NotADeadLetter {
        /// The input.
        input: InputId,
    },
    /// A new try is wanted of a dead letter that the journal no longer holds.
    #[error("input {input} is a dead letter whose content is no longer kept; send it as a new input")]
    NoLongerKept {
        /// The input.
        input: InputId,
    },
}

impl RejectReason {
    /// Its stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            RejectReason::NotReady { .. } => "session_state_conflict",
            RejectReason::IdempotencyConflict { .. } => "idempotency_key_reused",
            RejectReason::IdConflict { .. } => "input_id_reused",
            RejectReason::DurabilityViolation { .. } => "durability_violation",
            RejectReason::HandlingModeInvalid { .. } => "handling_mode_invalid",
            RejectReason::QueueFull { .. } => "queue_full",
            RejectReason::PayloadTooLarge { .. } => "payload_too_large",
            RejectReason::PayloadTooDeep { .. } => "json_too_deep",
            RejectReason::Busy => "rejected_by_policy",
            RejectReason::BlobStoreRequired => "blob_store_required",
            RejectReason::BlobMissing { .. } => "blob_missing",
            RejectReason::InvalidMedia => "invalid_media",
            RejectReason::ReservedMetadata { .. } => "reserved_metadata",
            RejectReason::NotADeadLetter { .. } => "not_a_dead_letter",
            RejectReason::NoLongerKept { .. } => "gone",
        }
    }

    /// The field that is wrong, as a path into the input; empty if it is not the input's fault.
    pub const fn field(&self) -> &'static str {
        match self {
            RejectReason::NotReady { .. } | RejectReason::QueueFull { .. } | RejectReason::Busy => "",
            RejectReason::IdempotencyConflict { .. } => "header.idempotency_key",
            RejectReason::IdConflict { .. } => "header.id",
            RejectReason::DurabilityViolation { .. } => "header.durability",
            RejectReason::HandlingModeInvalid { .. } => "handling_mode",
            RejectReason::PayloadTooLarge { .. } | RejectReason::PayloadTooDeep { .. } => "payload",
            RejectReason::BlobStoreRequired | RejectReason::BlobMissing { .. } | RejectReason::InvalidMedia => "blocks",
            RejectReason::ReservedMetadata { .. } => "notices",
            RejectReason::NotADeadLetter { .. } | RejectReason::NoLongerKept { .. } => "redrive_of",
        }
    }
}

/// Where an admitted input waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Taken first; joins the running run at its checkpoints.
    Steer,
    /// Taken in order.
    Queue,
    /// Goes with the next run, never starts one.
    Aside,
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lane::Steer => "steer lane",
            Lane::Queue => "queue lane",
            Lane::Aside => "aside",
        })
    }
}

/// What became of a withdrawal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithdrawOutcome {
    /// It will not run.
    Withdrawn,
    /// It has started, or is over.
    TooLate {
        /// Where it is.
        state: InputState,
    },
    /// There is no such input.
    NotFound,
}

/// What became of a cancel. After [`CancelOutcome::Cancelled`] no boundary of that attempt commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelOutcome {
    /// It is cancelled.
    Cancelled {
        /// The run.
        run: RunId,
        /// The last boundary that stands.
        last_committed: Option<u64>,
    },
    /// It was over before.
    TooLate {
        /// The run.
        run: RunId,
    },
    /// No run is on, or none of that id is known.
    NoSuchRun,
}

/// The report of a control verb; counts are of inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlReport {
    /// Ended without running.
    pub inputs_abandoned: u32,
    /// Left to be run.
    pub inputs_pending_drain: u32,
    /// Kept.
    pub inputs_transferred: u32,
}

/// Why a control verb was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ControlRefused {
    /// The state forbids it.
    #[error("the session is {}, which does not allow this", state.as_str())]
    State {
        /// What the session is doing.
        state: RuntimeState,
    },
    /// A session has room for a limited number of silent intents.
    #[error("intents: {given} given, at most {limit} are kept")]
    TooManyIntents {
        /// How many were given.
        given: u32,
        /// The most allowed.
        limit: u32,
    },
    /// The session is not told this about itself.
    #[error(transparent)]
    Profile(InvalidProfile),
    /// The session was told something else since whoever asks has looked.
    #[error("the session was changed since it was read; read it again")]
    ChangedSince,
}

impl ControlRefused {
    /// Its stable code.
    pub const fn code(self) -> &'static str {
        match self {
            ControlRefused::State { .. } | ControlRefused::Profile(InvalidProfile::TenantIsFixed) => {
                "session_state_conflict"
            }
            ControlRefused::TooManyIntents { .. } | ControlRefused::Profile(_) => "schema_violation",
            ControlRefused::ChangedSince => "precondition_failed",
        }
    }
}

/// Why [`Session::next_due`](crate::Session::next_due) wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DueReason {
    /// A failed input or a suspended run may be tried again.
    Retry,
    /// A debounced input has had its quiet.
    Debounce,
    /// An input has waited aside for too long.
    AsideExpires,
    /// Completions wait to be told again.
    Wake,
    /// Nobody has adopted an operation.
    OperationLost,
    /// The time of something that was sent to a peer is up.
    PeerDeadline,
}

/// When something happens, as people ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// The moment.
    pub at: Timestamp,
    /// What happens then.
    pub reason: DueReason,
}
