//! What background work does a session wait to hear of?
//!
//! An operation is bookkeeping: the session never runs the work. Producers report facts, and the journal keeps them:
//! a terminal, its place in the completion feed and the wake that it is owed are one record. The lifecycle is that of
//! the operations specification, section 1.2.

use crate::{Incarnation, OperationId, SessionId, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// A child session. May expose a peer once; never wakes its owner, because its own terminal response does.
    MobMemberChild,
    /// Work in the background of a tool. Its completion wakes a quiet session.
    BackgroundToolOp,
}

/// What a producer says of an operation when it registers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSpec {
    /// Its identity.
    pub id: OperationId,
    /// Its kind.
    pub kind: OperationKind,
    /// What to call it.
    pub display_name: String,
    /// Who produces it.
    pub source_label: String,
    /// The child session, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child_session_id: Option<SessionId>,
    /// Whether a peer will be exposed.
    #[serde(default)]
    pub expect_peer_channel: bool,
    /// Whether it outlives the process that registered it: its producer may adopt it from another one.
    #[serde(default)]
    pub adoptable: bool,
}

/// Where an operation is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationStatus {
    /// Registered, not running yet.
    Provisioning,
    /// Running.
    Running,
    /// Running, told to end.
    Retiring,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Never ran.
    Aborted,
    /// Called off.
    Cancelled,
    /// Ended as told.
    Retired,
    /// Ended with its owner or its producer.
    Terminated,
}

impl OperationStatus {
    /// Whether it is over.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, OperationStatus::Provisioning | OperationStatus::Running | OperationStatus::Retiring)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            OperationStatus::Provisioning => "provisioning",
            OperationStatus::Running => "running",
            OperationStatus::Retiring => "retiring",
            OperationStatus::Completed => "completed",
            OperationStatus::Failed => "failed",
            OperationStatus::Aborted => "aborted",
            OperationStatus::Cancelled => "cancelled",
            OperationStatus::Retired => "retired",
            OperationStatus::Terminated => "terminated",
        }
    }
}

/// How an operation ended. One per operation, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome_type", rename_all = "snake_case")]
pub enum OperationTerminalOutcome {
    /// With a result.
    Completed(OperationResult),
    /// With an error.
    Failed {
        /// What went wrong.
        error: String,
    },
    /// Before it ran.
    Aborted {
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Called off.
    Cancelled {
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// As it was told to.
    Retired,
    /// With its owner or its producer.
    Terminated {
        /// Why.
        reason: String,
    },
}

impl OperationTerminalOutcome {
    /// The status of an operation that ended so.
    pub const fn status(&self) -> OperationStatus {
        match self {
            OperationTerminalOutcome::Completed(_) => OperationStatus::Completed,
            OperationTerminalOutcome::Failed { .. } => OperationStatus::Failed,
            OperationTerminalOutcome::Aborted { .. } => OperationStatus::Aborted,
            OperationTerminalOutcome::Cancelled { .. } => OperationStatus::Cancelled,
            OperationTerminalOutcome::Retired => OperationStatus::Retired,
            OperationTerminalOutcome::Terminated { .. } => OperationStatus::Terminated,
        }
    }

    /// What there is to say of it beyond its status.
    pub fn detail(&self) -> &str {
        match self {
            OperationTerminalOutcome::Completed(result) => &result.content,
            OperationTerminalOutcome::Failed { error } => error,
            OperationTerminalOutcome::Aborted { reason } | OperationTerminalOutcome::Cancelled { reason } => {
                reason.as_deref().unwrap_or_default()
            }
            OperationTerminalOutcome::Retired => "",
            OperationTerminalOutcome::Terminated { reason } => reason,
        }
    }
}

/// What an operation came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationResult {
    /// In words.
    pub content: String,
    /// Whether the words tell of an error.
    #[serde(default)]
    pub is_error: bool,
    /// How long it took, in milliseconds, as its producer says.
    #[serde(default)]
    pub duration_ms: u64,
    /// Tokens it used, as its producer says.
    #[serde(default)]
    pub tokens_used: u64,
}

/// How far an operation is, as its producer says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationProgressUpdate {
    /// In words.
    pub message: String,
    /// In percent, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f32>,
}

/// How to reach the peer that an operation exposes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationPeerHandle {
    /// Its name.
    pub peer_name: String,
    /// Its key.
    pub peer_id: String,
    /// Where it listens.
    pub address: String,
}

/// The position of a completion in its session's feed: dense, from 1, within one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CompletionSeq(pub u64);

/// One entry of the completion feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionEntry {
    /// Its position.
    pub seq: CompletionSeq,
    /// The operation.
    pub operation_id: OperationId,
    /// Its kind.
    pub kind: OperationKind,
    /// What it is called.
    pub display_name: String,
    /// How it ended.
    pub terminal_outcome: OperationTerminalOutcome,
    /// When it ended.
    pub completed_at: Timestamp,
}

/// An operation, as everybody may see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// What its producer said of it.
    pub spec: Arc<OperationSpec>,
    /// Where it is in its life.
    pub status: OperationStatus,
    /// The peer that it exposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<OperationPeerHandle>,
    /// How often its producer told how far it is.
    #[serde(default)]
    pub progress_count: u32,
    /// What its producer told last, newest last; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<OperationProgressUpdate>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Arc<CompletionEntry>>,
    /// The life of the process whose producer works on it.
    pub incarnation: Incarnation,
    /// Since when its producer is gone, and until when another may adopt it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphaned_until: Option<Timestamp>,
}

/// What a producer reports of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum OperationReport {
    /// It runs.
    ProvisioningSucceeded,
    /// It could not be started.
    ProvisioningFailed {
        /// What went wrong.
        error: String,
    },
    /// It was called off before it ran.
    AbortProvisioning {
        /// Why.
        reason: Option<String>,
    },
    /// Its peer can be reached.
    PeerReady(OperationPeerHandle),
    /// It is so far.
    Progress(OperationProgressUpdate),
    /// It is told to end.
    RequestRetire,
    /// It has ended as told.
    MarkRetired,
    /// It ended well.
    Complete(OperationResult),
    /// It ended badly.
    Fail {
        /// What went wrong.
        error: String,
    },
    /// It was called off.
    Cancel {
        /// Why.
        reason: Option<String>,
    },
    /// A producer in this process works on it from now on.
    Adopt,
}

impl OperationReport {
    /// What it asks for, in a word.
    pub const fn action(&self) -> &'static str {
        match self {
            OperationReport::ProvisioningSucceeded => "provisioning_succeeded",
            OperationReport::ProvisioningFailed { .. } => "provisioning_failed",
            OperationReport::AbortProvisioning { .. } => "abort_provisioning",
            OperationReport::PeerReady(_) => "peer_ready",
            OperationReport::Progress(_) => "report_progress",
            OperationReport::RequestRetire => "request_retire",
            OperationReport::MarkRetired => "mark_retired",
            OperationReport::Complete(_) => "complete_operation",
            OperationReport::Fail { .. } => "fail_operation",
            OperationReport::Cancel { .. } => "cancel_operation",
            OperationReport::Adopt => "adopt",
        }
    }
}

/// Why a report was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "snake_case")]
#[non_exhaustive]
pub enum OpsLifecycleError {
    /// The id is taken.
    #[error("already_registered: operation {id} is registered already; make a new id for a new operation")]
    AlreadyRegistered {
        /// The operation.
        id: OperationId,
    },
    /// There is no such operation, or no more.
    #[error("not_found: operation {id} is not known to this session, or no longer kept")]
    NotFound {
        /// The operation.
        id: OperationId,
    },
    /// Its status forbids it.
    #[error("invalid_transition: {action} is not possible while operation {id} is {}", status.as_str())]
    InvalidTransition {
        /// The operation.
        id: OperationId,
        /// Where it is.
        status: OperationStatus,
        /// What was asked for.
        action: String,
    },
    /// Its kind exposes no peer.
    #[error("peer_not_expected: operation {id} exposes no peer")]
    PeerNotExpected {
        /// The operation.
        id: OperationId,
    },
    /// Its peer is known.
    #[error("already_peer_ready: the peer of operation {id} is known already")]
    AlreadyPeerReady {
        /// The operation.
        id: OperationId,
    },
    /// Too many are under way.
    #[error("max_concurrent_exceeded: {active} operations are under way, at most {limit} may be; wait for one to end")]
    MaxConcurrentExceeded {
        /// The most allowed.
        limit: u32,
        /// How many are.
        active: u32,
    },
    /// It is not its producer's to hand over.
    #[error("not_adoptable: operation {id} was not declared adoptable, or its producer is still there")]
    NotAdoptable {
        /// The operation.
        id: OperationId,
    },
    /// The gate is closed: the session takes no new work.
    #[error("session_state_conflict: the session takes no new operations")]
    GateClosed,
    /// It carries too much.
    #[error("payload_too_large: {bytes} bytes, at most {limit} are kept; put large results into the blob store")]
    TooLarge {
        /// How much.
        bytes: u64,
        /// The most allowed.
        limit: u32,
    },
    /// The run that registers it is over.
    #[error("run_closed: the run that registers it is over")]
    RunClosed,
}

/// Completions after a position, and how far the feed reaches, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompletionBatch {
    /// In order.
    pub entries: Vec<Arc<CompletionEntry>>,
    /// The last position of the feed.
    pub watermark: CompletionSeq,
    /// Entries at or before this position, and after the one asked for, are no longer kept: the reader lagged.
    pub lagged_to: Option<CompletionSeq>,
}
