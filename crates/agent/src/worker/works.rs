//! Who answers for the background work that a worker has begun?
//!
//! The worker does it, and reports by a key of its choice. If its process ends first, the sessions hear that the work
//! is lost.

use super::protocol::{Op, Report, Told};
use blake3::derive_key;
use std::collections::HashMap;
use windlass_core::{
    OperationId, OperationKind, OperationProgressUpdate, OperationResult, OperationSpec, OperationStatus,
    OpsLifecycleError, SessionId,
};
use windlass_runtime::{OpsError, OpsLifecycleRegistry, Turn};

/// By what the operations of workers are told from those of others.
const SOURCE: &str = "worker";
/// Work under way in one process.
const LIMIT: usize = 1024;
/// The longest key, in bytes.
const KEY: usize = 256;

/// The background work under way in one process.
#[derive(Debug, Default)]
pub(super) struct Works {
    under_way: HashMap<(SessionId, String), (OperationId, OpsLifecycleRegistry)>,
}

/// Why a report was not taken: a code and words.
type Declined = (&'static str, String);

impl Works {
    /// Whether anything is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Takes a report and says what to answer. `turn` is the run that is on.
    pub(super) async fn report<'o>(&mut self, op: &'o Op, turn: Option<&Turn>) -> Told<'o> {
        match self.take(op, turn).await {
            Ok((operation, status)) => {
                Told::Op { session: op.session, key: &op.key, operation, status: status.as_str() }
            }
            Err((code, error)) => Told::Refused { to: "op", run: None, key: Some(&op.key), code, error },
        }
    }

    async fn take(&mut self, op: &Op, turn: Option<&Turn>) -> Result<(OperationId, OperationStatus), Declined> {
        let at = (op.session, op.key.clone());
        let known = self.under_way.get(&at);
        if let (Report::Start { name }, None) = (&op.report, known) {
            let turn = turn.filter(|turn| turn.session() == op.session);
            let turn = turn.ok_or_else(|| ("run_closed", "background work is begun within a run".to_owned()))?;
            return self.start(at, name, turn).await;
        }
        if let Report::Progress { percent: Some(percent), .. } = &op.report
            && !(0.0..=100.0).contains(percent)
        {
            return Err(("refused", format!("percent is 0 to 100, not {percent}")));
        }
        let (id, ops) = known.ok_or_else(|| ("not_found", "this process has no such work under way".to_owned()))?;
        let (id, reported) = (*id, op.report.make(*id, ops).await);
        // What is over, or was ended from outside, is not under way. What is only not taken, because it is too large,
        // ends some other time.
        let is_over = match &reported {
            Ok(status) | Err(OpsError::Refused(OpsLifecycleError::InvalidTransition { status, .. })) => {
                status.is_terminal()
            }
            Err(error) => matches!(error, OpsError::Refused(OpsLifecycleError::NotFound { .. })),
        };
        if is_over {
            self.under_way.remove(&at);
        }
        reported.map(|status| (id, status)).map_err(|error| declined(&error))
    }

    async fn start(
        &mut self,
        at: (SessionId, String),
        name: &str,
        turn: &Turn,
    ) -> Result<(OperationId, OperationStatus), Declined> {
        if at.1.len() > KEY || self.under_way.len() >= LIMIT {
            let words = format!("a key has at most {KEY} bytes, a process at most {LIMIT} works under way");
            return Err(("max_concurrent_exceeded", words));
        }
        let (id, ops) = (operation_id(&at), turn.operations());
        let spec = OperationSpec {
            id,
            kind: OperationKind::BackgroundToolOp,
            display_name: name.to_owned(),
            source_label: SOURCE.into(),
            child_session_id: None,
            expect_peer_channel: false,
            adoptable: false,
        };
        // Before it is registered: a run that is dropped meanwhile leaves nothing behind that nobody answers for.
        self.under_way.insert(at.clone(), (id, ops.clone()));
        let registered = ops.register_operation(spec).await;
        if registered.is_err() {
            self.under_way.remove(&at);
        }
        match registered {
            Ok(()) => {}
            // Begun by an earlier attempt: what became of it is the answer.
            Err(OpsError::Refused(OpsLifecycleError::AlreadyRegistered { .. })) => {
                let known = ops.snapshot(id).await.map_err(|error| declined(&error))?;
                return Ok((id, known.status));
            }
            Err(error) => return Err(declined(&error)),
        }
        match ops.provisioning_succeeded(id).await {
            Ok(()) => Ok((id, OperationStatus::Running)),
            Err(error) => Err(declined(&error)),
        }
    }

    /// The process is gone: the sessions hear that its work is lost.
    pub(super) async fn lose(self) {
        for (id, ops) in self.under_way.into_values() {
            if let Err(error) = ops.fail_operation(id, "its process is gone".into()).await {
                tracing::debug!(operation = %id, %error, "lost background work ends unheard");
            }
        }
    }
}

impl Report {
    /// Makes a report on work that is under way; says where it is then.
    async fn make(&self, id: OperationId, ops: &OpsLifecycleRegistry) -> Result<OperationStatus, OpsError> {
        match self {
            // Begun before, by this process.
            Report::Start { .. } => Ok(OperationStatus::Running),
            Report::Progress { message, percent } => {
                let update = OperationProgressUpdate { message: message.clone(), percent: *percent };
                ops.report_progress(id, update).await.map(|()| OperationStatus::Running)
            }
            Report::Complete { content, is_error } => {
                let (content, is_error) = (content.clone(), *is_error);
                let result = OperationResult { content, is_error, ..OperationResult::default() };
                ops.complete_operation(id, result).await.map(|()| OperationStatus::Completed)
            }
            Report::Fail { error } => ops.fail_operation(id, error.clone()).await.map(|()| OperationStatus::Failed),
        }
    }
}

fn declined(error: &OpsError) -> Declined {
    let code = match error {
        OpsError::Refused(OpsLifecycleError::RunClosed) => "run_closed",
        OpsError::Refused(OpsLifecycleError::MaxConcurrentExceeded { .. }) => "max_concurrent_exceeded",
        OpsError::Refused(_) => "refused",
        OpsError::Session(_) => "unavailable",
    };
    (code, error.to_string())
}

/// The same for every attempt that chooses the same key.
fn operation_id((session, key): &(SessionId, String)) -> OperationId {
    let hash = derive_key("windlass 2026 operation id of a worker's key", format!("{session}/{key}").as_bytes());
    let bytes = *hash.first_chunk().expect("sixteen of thirty-two bytes");
    OperationId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}
