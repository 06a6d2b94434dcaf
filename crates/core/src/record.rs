//! Which facts make up a session's journal?
//!
//! A [`Record`] is a fact. Its name and meaning are permanent; fields may be added with a default. A session's state
//! is the fold of its records and nothing else.

use crate::{
    AbandonReason, BlobId, CompletionEntry, CompletionSeq, ContentBlock, CorrelationId, Decision, Gate, Incarnation,
    Input, InputId, InputState, MediaSource, OperationId, OperationPeerHandle, OperationProgressUpdate, OperationSpec,
    OperationStatus, Outcome, Outgoing, PendingTool, Profile, RunId, RunResult, RuntimeEpochId, Seq, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{fmt, sync::Arc};

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its position: dense, from 1.
    pub seq: Seq,
    /// When it was decided; never earlier than the entry before.
    pub at: Timestamp,
    /// What happened.
    pub record: Record,
}

/// What can happen to a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The session exists. Always the first record, and never another.
    SessionCreated {
        /// Its first completion order.
        epoch: RuntimeEpochId,
        /// The agent that runs it, by the name the factory knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<Arc<str>>,
    },
    /// An input was admitted.
    InputAccepted(Arc<Accepted>),
    /// Inputs ended outside a run.
    InputsSettled {
        /// Which.
        inputs: Vec<InputId>,
        /// How.
        outcome: Outcome,
    },
    /// Context was appended to the conversation without a turn; its inputs are consumed.
    ContextAppended {
        /// The receipt that names them.
        receipt: Arc<RunBoundaryReceipt>,
    },
    /// A run began, or began again. Durable before the executor is called.
    RunStarted(Arc<RunStarted>),
    /// Steering was handed to the run at a checkpoint.
    RunSteered {
        /// The run.
        run: RunId,
        /// What it was handed, in order.
        inputs: Vec<InputId>,
    },
    /// The run committed an intermediate boundary.
    BoundaryCommitted(Arc<Boundary>),
    /// The run, or an attempt at it, is over.
    RunEnded(Arc<RunEnded>),
    /// The gate was moved.
    GateChanged {
        /// Where to.
        gate: Gate,
        /// Why, in words.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Waiting inputs are kept but not run, or run again.
    HoldChanged {
        /// Whether they are kept.
        held: bool,
    },
    /// Everything that waits may start a run now.
    Woken {
        /// Who woke it.
        by: Waker,
    },
    /// The session was emptied; its completion order begins anew.
    SessionReset {
        /// The new completion order.
        epoch: RuntimeEpochId,
    },
    /// Peer requests with these intents start no runs.
    SilentIntentsSet {
        /// Sorted, without repetitions.
        intents: Vec<String>,
    },
    /// The session was told about itself.
    ProfileSet {
        /// Everything that it was told.
        profile: Arc<Profile>,
    },
    /// Background work was registered.
    OperationRegistered {
        /// What its producer says of it.
        spec: Arc<OperationSpec>,
        /// The life of the process whose producer works on it.
        incarnation: Incarnation,
    },
    /// Background work runs, or is told to end.
    OperationMoved {
        /// Which.
        id: OperationId,
        /// Where to.
        status: OperationStatus,
    },
    /// The peer of a child can be reached.
    OperationPeerReady {
        /// Which.
        id: OperationId,
        /// How.
        peer: OperationPeerHandle,
    },
    /// Background work is so far.
    OperationProgressed {
        /// Which.
        id: OperationId,
        /// How far.
        update: OperationProgressUpdate,
    },
    /// The producer of background work is gone; another may adopt it for a while.
    OperationOrphaned {
        /// Which.
        id: OperationId,
        /// How long.
        until: Timestamp,
    },
    /// A producer of another process has taken it over.
    OperationAdopted {
        /// Which.
        id: OperationId,
        /// The life of its process.
        incarnation: Incarnation,
    },
    /// Background work is over: its outcome, its place in the completion feed and the wake it owes, in one.
    OperationEnded(Arc<CompletionEntry>),
    /// The executor says that the model has seen completions up to here.
    CompletionsApplied {
        /// Up to here.
        seq: CompletionSeq,
    },
    /// An envelope for a peer is kept, to be sent until it has arrived.
    PeerSent(Arc<Outgoing>),
    /// An envelope has arrived: its receiver has it on disk. A request now waits for its answer only.
    PeerDelivered {
        /// The envelope.
        id: CorrelationId,
    },
    /// An envelope is over of which the session is not told.
    PeerGivenUp {
        /// The envelope.
        id: CorrelationId,
    },
    /// Somebody outside left a note in the feed. Changes nothing.
    Noted {
        /// The note.
        note: JsonText,
    },
}

impl Record {
    /// Its permanent name, as it stands in the journal.
    pub const fn name(&self) -> &'static str {
        match self {
            Record::SessionCreated { .. } => "session_created",
            Record::InputAccepted(_) => "input_accepted",
            Record::InputsSettled { .. } => "inputs_settled",
            Record::ContextAppended { .. } => "context_appended",
            Record::RunStarted(_) => "run_started",
            Record::RunSteered { .. } => "run_steered",
            Record::BoundaryCommitted(_) => "boundary_committed",
            Record::RunEnded(_) => "run_ended",
            Record::GateChanged { .. } => "gate_changed",
            Record::HoldChanged { .. } => "hold_changed",
            Record::Woken { .. } => "woken",
            Record::SessionReset { .. } => "session_reset",
            Record::SilentIntentsSet { .. } => "silent_intents_set",
            Record::ProfileSet { .. } => "profile_set",
            Record::OperationRegistered { .. } => "operation_registered",
            Record::OperationMoved { .. } => "operation_moved",
            Record::OperationPeerReady { .. } => "operation_peer_ready",
            Record::OperationProgressed { .. } => "operation_progressed",
            Record::OperationOrphaned { .. } => "operation_orphaned",
            Record::OperationAdopted { .. } => "operation_adopted",
            Record::OperationEnded(_) => "operation_ended",
            Record::CompletionsApplied { .. } => "completions_applied",
            Record::PeerSent(_) => "peer_sent",
            Record::PeerDelivered { .. } => "peer_delivered",
            Record::PeerGivenUp { .. } => "peer_given_up",
            Record::Noted { .. } => "noted",
        }
    }

    /// How the record ended this input, which it left in `state`: what [`Settlement`](crate::Settlement) said when it
    /// was written. None if it did not end it.
    pub fn outcome_of(&self, input: InputId, state: InputState) -> Option<Outcome> {
        match self {
            Record::InputAccepted(accepted) if accepted.input.id() == input => Some(Outcome::Recorded),
            Record::InputAccepted(accepted) => {
                let newer = accepted.input.id();
                let replaced = accepted.replaces.filter(|replaced| replaced.older == input)?;
                Some(if replaced.coalesced {
                    Outcome::Coalesced { into: newer }
                } else {
                    Outcome::Superseded { by: newer }
                })
            }
            Record::InputsSettled { inputs, outcome } => inputs.contains(&input).then(|| outcome.clone()),
            Record::ContextAppended { .. } => Some(Outcome::Recorded),
            Record::RunEnded(ended) => ended.outcome(state == InputState::Consumed),
            _ => None,
        }
    }

    /// The boundary receipt that this record makes durable, if it makes one.
    pub fn receipt(&self) -> Option<&Arc<RunBoundaryReceipt>> {
        match self {
            Record::ContextAppended { receipt } => Some(receipt),
            Record::BoundaryCommitted(boundary) => Some(&boundary.receipt),
            Record::RunEnded(ended) => ended.end.receipt(),
            _ => None,
        }
    }

    /// The blobs that the record names, for collectors of garbage.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobId> {
        let accepted = match self {
            Record::InputAccepted(accepted) => Some(accepted),
            _ => None,
        };
        accepted.into_iter().flat_map(|accepted| accepted.input.blobs())
    }
}

impl Input {
    /// The blobs that the input names.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobId> {
        self.blocks().into_iter().flatten().filter_map(|block| match block {
            ContentBlock::Image { source: MediaSource::Blob { blob, .. }, .. }
            | ContentBlock::Video { source: MediaSource::Blob { blob, .. }, .. } => Some(blob),
            _ => None,
        })
    }
}

/// Who made waiting inputs due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waker {
    /// An executor was attached.
    Attach,
    /// The session was retired and drains.
    Retire,
    /// The session was recycled.
    Recycle,
}

/// An admitted input, and all that was decided about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The input. If it joined an older one, its content is the joined content.
    pub input: Input,
    /// What the policy said.
    pub decision: Decision,
    /// The row of the policy that said it; none: no row matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_row: Option<u32>,
    /// The hash of what the input says, by which a retry is told from a conflict.
    pub fingerprint: Fingerprint,
    /// Whether it may start a run by itself.
    pub wake: bool,
    /// Whether it goes before everything else in its lane.
    #[serde(default, skip_serializing_if = "is_false")]
    pub front: bool,
    /// Whether its caller runs it itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pinned: bool,
    /// When it may run at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The waiting input that it replaces or absorbs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Replaced>,
    /// The dead letter that it is a new try of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_of: Option<InputId>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What became of a waiting input when a newer one of its scope came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The older input.
    pub older: InputId,
    /// True: absorbed, its waiters hear the newer one's outcome. False: superseded, they hear so at once.
    pub coalesced: bool,
}

/// A run began, or began again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStarted {
    /// The run; the same over all attempts.
    pub run: RunId,
    /// Counts the starts of this work: rises with each, never falls.
    pub attempt: u32,
    /// The inputs it runs, in order.
    pub inputs: Vec<InputId>,
    /// The passive inputs that go with it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asides: Vec<InputId>,
    /// The last boundary that stands, if the run resumes after one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes_after: Option<u64>,
    /// Whether its caller runs it itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pinned: bool,
}

/// An intermediate boundary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boundary {
    /// Its receipt.
    pub receipt: Arc<RunBoundaryReceipt>,
    /// What it adds to the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<JsonText>,
}

/// A run, or an attempt at it, is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEnded {
    /// The run.
    pub run: RunId,
    /// The attempt.
    pub attempt: u32,
    /// Starts since the last boundary.
    pub tries: u32,
    /// The last boundary that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<u64>,
    /// How it ended.
    pub end: RunEnd,
}

impl RunEnded {
    /// How this ended an input of the run, if it did not go back: one that a receipt covers, or one that none does.
    pub(crate) fn outcome(&self, covered: bool) -> Option<Outcome> {
        let run = self.run;
        let abandoned = |reason| Outcome::Abandoned { reason };
        Some(match (&self.end, self.committed) {
            (RunEnd::Completed { terminal, .. }, _) => match terminal {
                Terminal::NoResult => Outcome::CompletedWithoutResult { run },
                Terminal::Result(result) => Outcome::Completed { run, result: Arc::clone(result) },
                Terminal::CallbackPending(tool) => Outcome::CallbackPending { run, tool: Arc::clone(tool) },
            },
            (RunEnd::Failed { error, .. }, Some(after)) if covered => {
                Outcome::Failed { run, after, error: Arc::clone(error) }
            }
            (RunEnd::Failed { error, fatal: true, .. }, _) => {
                abandoned(AbandonReason::Failed { error: Arc::clone(error) })
            }
            (RunEnd::Failed { error, .. }, _) => {
                abandoned(AbandonReason::MaxAttemptsExhausted { attempts: self.tries, error: Arc::clone(error) })
            }
            (RunEnd::Cancelled { .. }, Some(after)) if covered => Outcome::Cancelled { run, after },
            (RunEnd::Cancelled { inputs, .. }, _) => abandoned(inputs.clone()),
            (RunEnd::Released { .. }, _) => return None,
        })
    }
}

/// How a run, or an attempt at it, ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// It committed its final boundary; its inputs are consumed.
    Completed {
        /// The final boundary.
        receipt: Arc<RunBoundaryReceipt>,
        /// What it adds to the conversation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delta: Option<JsonText>,
        /// What it came to.
        terminal: Terminal,
    },
    /// It failed. With receipts: suspended until `retry_at`, or over. Without: each input is tried again, alone if
    /// there were several, or is abandoned. One that only passive inputs went along with keeps the run's id.
    Failed {
        /// What went wrong.
        error: Arc<str>,
        /// When it is tried again; none: never.
        retry_at: Option<Timestamp>,
        /// The inputs that have no try left although others have.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exhausted: Vec<InputId>,
        /// Whether the failure itself forbids another try.
        #[serde(default, skip_serializing_if = "is_false")]
        fatal: bool,
    },
    /// It was cancelled for good: inputs in no receipt are abandoned, the others consumed.
    Cancelled {
        /// Why, in words.
        reason: String,
        /// What becomes of the inputs in no receipt.
        inputs: AbandonReason,
    },
    /// It was let go in good order and costs no attempt: inputs in no receipt go back to where they were; a run with
    /// receipts is suspended.
    Released {
        /// Why, in words.
        reason: String,
    },
}

impl RunEnd {
    /// The receipt of the final boundary, if the run committed one.
    pub const fn receipt(&self) -> Option<&Arc<RunBoundaryReceipt>> {
        match self {
            RunEnd::Completed { receipt, .. } => Some(receipt),
            RunEnd::Failed { .. } | RunEnd::Cancelled { .. } | RunEnd::Released { .. } => None,
        }
    }
}

/// What a completed run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terminal {
    /// Committed, without a result.
    #[default]
    NoResult,
    /// Committed, with a result.
    Result(Arc<RunResult>),
    /// Committed, and waits for an outside tool, whose answer will be an input.
    CallbackPending(Arc<PendingTool>),
}

/// Proof that a boundary was committed. Each input is in exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunBoundaryReceipt {
    /// The run.
    pub run_id: RunId,
    /// Its position in the run: dense, from 0.
    pub sequence: u64,
    /// What kind of boundary.
    pub boundary: RunApplyBoundary,
    /// The inputs it is the first to cover, in order.
    pub contributing_input_ids: Vec<InputId>,
    /// The hash of the conversation after it, as the executor reported it: lower-case hex SHA-256 of the messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_digest: Option<Arc<str>>,
    /// The messages in the conversation after it, as the executor reported them.
    pub message_count: u64,
    /// Hash of this receipt and of the one before it in the session.
    pub chain: ChainHash,
}

impl RunBoundaryReceipt {
    /// The chain hash this receipt must carry if it follows `before`.
    pub fn chain_after(&self, before: ChainHash) -> ChainHash {
        // Put together first: a hasher that is fed morsels takes several times as long.
        let digest = self.conversation_digest.as_deref().unwrap_or_default();
        let mut link = Vec::with_capacity(96 + 16 * self.contributing_input_ids.len() + digest.len());
        link.extend(before.0);
        link.extend(self.run_id.as_uuid().as_bytes());
        link.extend(self.sequence.to_le_bytes());
        link.push(self.boundary as u8);
        link.extend((self.contributing_input_ids.len() as u64).to_le_bytes());
        for input in &self.contributing_input_ids {
            link.extend(input.as_uuid().as_bytes());
        }
        link.extend((digest.len() as u64).to_le_bytes());
        link.extend(digest.as_bytes());
        link.extend(self.message_count.to_le_bytes());
        ChainHash(*blake3::hash(&link).as_bytes())
    }
}

/// Where in a run a boundary lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunApplyBoundary {
    /// Outside any run: context without a turn.
    Immediate = 0,
    /// Of a run that began with queued inputs.
    RunStart = 1,
    /// Of a run that began with steering.
    RunCheckpoint = 2,
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$name> for String {
            fn from(bytes: $name) -> String {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let mut text = String::with_capacity($len * 2);
                for byte in bytes.0 {
                    text.push(DIGITS[usize::from(byte >> 4)] as char);
                    text.push(DIGITS[usize::from(byte & 15)] as char);
                }
                text
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidHex;

            fn try_from(text: String) -> Result<Self, InvalidHex> {
                let digits = text.as_bytes();
                if digits.len() != $len * 2 {
                    return Err(InvalidHex { digits: $len * 2 });
                }
                let mut bytes = [0u8; $len];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let digit = |d: u8| char::from(d).to_digit(16).ok_or(InvalidHex { digits: $len * 2 });
                    *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
                }
                Ok($name(bytes))
            }
        }
    };
}

hex_bytes! {
    /// A link of the chain of receipts: BLAKE3, 32 bytes, in hex.
    ChainHash, 32
}
hex_bytes! {
    /// The hash of what an input says: the first 16 bytes of a BLAKE3 hash, in hex.
    Fingerprint, 16
}

/// The text is no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} hex digits")]
pub struct InvalidHex {
    digits: usize,
}

/// JSON that passes through unread: stored and handed on byte for byte.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonText(Arc<RawValue>);

impl JsonText {
    /// Encodes a value.
    ///
    /// # Errors
    /// The encoder's error, for example a map whose keys are not text.
    pub fn encode(value: &impl Serialize) -> Result<JsonText, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(|raw| JsonText(raw.into()))
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &JsonText) -> bool {
        self.get() == other.get()
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}
