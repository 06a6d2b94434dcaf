//! Who does the background work of the built-in agent, and who hears how it goes?
//!
//! One task per job, owned by [`Jobs`], which outlives runs and sessions that are put away: it is shared by all agents
//! of a factory. A job registers itself, so that a run that is cancelled meanwhile leaves either nothing or a job with
//! a worker. It dies with the process; the session then hears that it was lost.

use blake3::derive_key;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use windlass_core::{
    OperationId, OperationKind, OperationProgressUpdate, OperationResult, OperationSpec, OperationStatus,
    OpsLifecycleError, SessionId,
};
use windlass_runtime::{OpsError, OpsLifecycleRegistry, SessionError, Turn};

/// By what the operations of this agent are told from those of others.
const SOURCE: &str = "builtin";
const SECOND: Duration = Duration::from_secs(1);
/// The longest wait before a report that could not be made is made again.
const PATIENCE: Duration = Duration::from_secs(30);

/// The jobs that are under way, and their workers.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    workers: Mutex<HashMap<(SessionId, OperationId), JoinHandle<()>>>,
}

impl Jobs {
    /// Begins a job of so many seconds. Repeated by another attempt of the run, it begins none if the first one is
    /// there still, or done.
    pub(crate) async fn begin(&self, turn: &Turn, name: &str, seconds: u32) -> Result<(), OpsError> {
        loop {
            let id = operation_id(&turn.effect_key().to_string());
            if self.has(turn.session(), id) {
                return Ok(());
            }
            let (begun, answer) = oneshot::channel();
            let job = Job { ops: turn.operations(), id, name: name.to_owned(), seconds };
            self.keep(turn.session(), id, tokio::spawn(job.work(begun)));
            // A worker that says nothing was ended, with its session.
            match answer.await.unwrap_or(Err(OpsLifecycleError::RunClosed.into())) {
                Err(OpsError::Refused(OpsLifecycleError::AlreadyRegistered { .. })) => {
                    if turn.operations().snapshot(id).await?.status == OperationStatus::Completed {
                        return Ok(());
                    }
                    // Lost with an earlier attempt: its id is used up, the next effect has another one.
                }
                begun => return begun,
            }
        }
    }

    /// Ends operations of this agent that are said to be under way in this process, and have no worker in it.
    pub(crate) async fn account(&self, turn: &Turn) -> Result<(), OpsError> {
        let ops = turn.operations();
        for operation in ops.list_operations().await? {
            let (id, ours) = (operation.spec.id, operation.spec.source_label == SOURCE);
            if ours && !operation.status.is_terminal() && !self.has(turn.session(), id) {
                match ops.fail_operation(id, "its worker was let go".into()).await {
                    Ok(()) | Err(OpsError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Ends the workers of a session, and returns when they have ended.
    pub(crate) async fn end(&self, session: SessionId) {
        let ended: Vec<JoinHandle<()>> =
            self.workers().extract_if(|(of, _), _| *of == session).map(|(_, worker)| worker).collect();
        for worker in ended {
            worker.abort();
            // Cancelled, or over already: either way it is no more.
            drop(worker.await);
        }
    }

    fn has(&self, session: SessionId, id: OperationId) -> bool {
        self.workers().get(&(session, id)).is_some_and(|worker| !worker.is_finished())
    }

    fn keep(&self, session: SessionId, id: OperationId, worker: JoinHandle<()>) {
        let mut workers = self.workers();
        workers.retain(|_, worker| !worker.is_finished());
        workers.insert((session, id), worker);
    }

    fn workers(&self) -> MutexGuard<'_, HashMap<(SessionId, OperationId), JoinHandle<()>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.workers().values().for_each(JoinHandle::abort);
    }
}

/// The same for every attempt at the same work.
pub(crate) fn operation_id(key: &str) -> OperationId {
    let hash = derive_key("windlass 2026 operation id of an effect key", key.as_bytes());
    let bytes = *hash.first_chunk().expect("sixteen of thirty-two bytes");
    OperationId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

struct Job {
    ops: OpsLifecycleRegistry,
    id: OperationId,
    name: String,
    seconds: u32,
}

impl Job {
    async fn work(self, begun: oneshot::Sender<Result<(), OpsError>>) {
        let registered = self.register().await;
        let is_ours = registered.is_ok();
        // An error says that the run is over. What it began goes on.
        drop(begun.send(registered));
        if is_ours && let Err(error) = self.until_done().await {
            tracing::debug!(operation = %self.id, %error, "background work ends unheard");
        }
    }

    async fn register(&self) -> Result<(), OpsError> {
        let spec = OperationSpec {
            id: self.id,
            kind: OperationKind::BackgroundToolOp,
            display_name: self.name.clone(),
            source_label: SOURCE.into(),
            child_session_id: None,
            expect_peer_channel: false,
            adoptable: false,
        };
        self.ops.register_operation(spec).await?;
        match heard(|| self.ops.provisioning_succeeded(self.id)).await {
            // It was heard the time before, when the answer was lost.
            Err(OpsError::Refused(OpsLifecycleError::InvalidTransition { .. })) => Ok(()),
            moved => moved,
        }
    }

    /// Works; an error says that the operation is over without us, or that there is nobody to report to.
    async fn until_done(&self) -> Result<(), OpsError> {
        let begun = Instant::now();
        for second in 1..self.seconds {
            tokio::time::sleep_until(begun + second * SECOND).await;
            let percent = u8::try_from(second * 100 / self.seconds).ok().map(f32::from);
            let update = OperationProgressUpdate { message: format!("{second} of {} s", self.seconds), percent };
            heard(|| self.ops.report_progress(self.id, update.clone())).await?;
        }
        tokio::time::sleep_until(begun + self.seconds * SECOND).await;
        let result = OperationResult {
            content: format!("{} s of work", self.seconds),
            duration_ms: u64::from(self.seconds) * 1_000,
            ..OperationResult::default()
        };
        heard(|| self.ops.complete_operation(self.id, result.clone())).await
    }
}

/// Reports until it is heard: as long as this process lives, nobody else can end the operation. Ends with the session,
/// the runtime, or the operation itself.
pub(crate) async fn heard<R>(report: impl Fn() -> R) -> Result<(), OpsError>
where
    R: Future<Output = Result<(), OpsError>>,
{
    let mut delay = SECOND / 10;
    loop {
        match report().await {
            Err(OpsError::Session(error @ (SessionError::Store(_) | SessionError::Panicked(_)))) => {
                tracing::debug!(%error, ?delay, "a report of background work is made again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(PATIENCE);
            }
            answer => return answer,
        }
    }
}
