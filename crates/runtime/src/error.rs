//! What can go wrong outside a session, and what is the caller to do?

use crate::{actor::panic_text, blob::BlobError, store::StoreError};
use std::{any::Any, sync::Arc};
use windlass_core::{ControlRefused, RejectReason, RunClosed, RuntimeState, SessionId};

/// Why a call on a session could not be answered. A refused input is no error but an answer
/// ([`AcceptOutcome::Rejected`](windlass_core::AcceptOutcome::Rejected)).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no such session here. Register it, or create it.
    #[error("not_found: session {0} is not known here; create or register it first")]
    NotFound(SessionId),
    /// The session refuses it: its state forbids it, or there is no room for it.
    #[error("{code}: {0}", code = .0.code())]
    Refused(ControlRefused),
    /// The store did not do it; its error says whether it may have.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob store did not do it. Nothing was admitted.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The session could not be read back: its journal is not what a session writes.
    #[error("store_corrupt: session {session}: {error}; run `windlass verify` and restore a backup")]
    Corrupt {
        /// The session.
        session: SessionId,
        /// What is wrong, and where.
        error: windlass_core::CorruptJournal,
    },
    /// The runtime is shutting down, or the session is being unregistered. Nothing was admitted.
    #[error("draining: the runtime lets go of this session; try again when it is open elsewhere")]
    Draining,
    /// The run that the caller ran himself was cut off before its end was durable; what it came to was not taken.
    #[error(transparent)]
    Closed(#[from] RunClosed),
    /// The session's owner panicked: a bug. Its journal is read again; what it says is what happened.
    #[error(
        "internal: the session's owner panicked ({0}); whether the call was done is unknown, try again under the same idempotency key"
    )]
    Panicked(Arc<str>),
    /// No executor: the one asked for could not be made, or none was ever attached.
    #[error("executor_unavailable: {0}")]
    Executor(String),
}

impl SessionError {
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> SessionError {
        SessionError::Panicked(panic_text(panic).into())
    }

    /// Its stable code.
    pub fn code(&self) -> &'static str {
        match self {
            SessionError::NotFound(_) => "not_found",
            SessionError::Refused(refused) => refused.code(),
            SessionError::Store(error) => error.code(),
            SessionError::Blob(BlobError::Missing(_)) => "blob_missing",
            SessionError::Blob(BlobError::Corrupt(_)) => "blob_corrupt",
            SessionError::Blob(_) => "store_unavailable",
            SessionError::Corrupt { .. } => "store_corrupt",
            SessionError::Draining => "draining",
            SessionError::Closed(_) => "run_closed",
            SessionError::Panicked(_) => "internal",
            SessionError::Executor(_) => "executor_unavailable",
        }
    }
}

/// The errors of the adapter's methods, as the reference names them.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeDriverError {
    /// The session's state refuses it. An unknown session counts as destroyed.
    #[error("not_ready: the session is {}", state.as_str())]
    NotReady {
        /// What it is doing.
        state: RuntimeState,
    },
    /// The input is refused, where the method cannot return an outcome.
    #[error("{code}: {reason}")]
    ValidationFailed {
        /// The stable code of the refusal.
        code: &'static str,
        /// The refusal in words.
        reason: String,
    },
    /// Something outside the session went wrong.
    #[error(transparent)]
    Session(SessionError),
}

impl From<SessionError> for RuntimeDriverError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::NotFound(_) => RuntimeDriverError::NotReady { state: RuntimeState::Destroyed },
            SessionError::Refused(ControlRefused::State { state }) => RuntimeDriverError::NotReady { state },
            SessionError::Refused(refused) => {
                RuntimeDriverError::ValidationFailed { code: refused.code(), reason: refused.to_string() }
            }
            error => RuntimeDriverError::Session(error),
        }
    }
}

impl From<RejectReason> for RuntimeDriverError {
    fn from(reason: RejectReason) -> Self {
        match reason {
            RejectReason::NotReady { state } => RuntimeDriverError::NotReady { state },
            reason => RuntimeDriverError::ValidationFailed { code: reason.code(), reason: reason.to_string() },
        }
    }
}

/// The errors of the control plane, as the reference names them.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeControlPlaneError {
    /// The id names no session that is known here.
    #[error("not_found: runtime {0:?} is not known here")]
    NotFound(windlass_core::LogicalRuntimeId),
    /// The session's state refuses it.
    #[error("session_state_conflict: the session is {}", state.as_str())]
    InvalidState {
        /// What it is doing.
        state: RuntimeState,
    },
    /// Something outside the session went wrong.
    #[error(transparent)]
    Session(SessionError),
}
