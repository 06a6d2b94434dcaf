//! How does a model leave a program running in the background, and hear of its end?
//!
//! A job is an operation of the session and a task of this process. Its end is in the completion feed, and wakes the
//! session if it is quiet. Jobs die with the process; the session then hears that they were lost.

use super::{
    Effect, Reply, Tool, ToolContext,
    shell::{Command, Surroundings, command_schema, complaint, told},
    shown,
};
use crate::{
    jobs::{heard, operation_id},
    program::run,
    sandbox::Profile,
};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use windlass_core::{
    Operation, OperationId, OperationKind, OperationProgressUpdate, OperationResult, OperationSpec, OpsLifecycleError,
    SessionId,
};
use windlass_runtime::{CoreExecutorError, OpsError, OpsLifecycleRegistry};

/// By what our operations are told from those of others.
const SOURCE: &str = "shell";
/// The most of a job's output that its completion carries; the rest belongs into a file.
const RESULT: usize = 8 * 1024;
/// Jobs of one session at a time.
const JOBS: usize = 16;
/// Jobs that are listed.
const SHOWN: usize = 50;
const STARTS: &str = "Starts a program in the background and returns its number at once. You are told when it ends.";
const PATIENCE: Duration = Duration::from_secs(30);

/// The jobs that are under way.
#[derive(Debug, Default)]
pub struct ShellJobs {
    jobs: Mutex<HashMap<(SessionId, OperationId), Job>>,
}

#[derive(Debug)]
struct Job {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl ShellJobs {
    /// Ends the jobs of a session, and returns when they have ended.
    pub(crate) async fn end(&self, session: SessionId) {
        let ended: Vec<Job> = self.jobs().extract_if(|(of, _), _| *of == session).map(|(_, job)| job).collect();
        for job in ended {
            job.task.abort();
            // Cancelled, or over already: either way it is no more.
            drop(job.task.await);
        }
    }

    /// Ends operations of ours that are said to be under way in this process, and have no job in it.
    pub(crate) async fn account(&self, session: SessionId, ops: &OpsLifecycleRegistry) -> Result<(), OpsError> {
        for operation in ops.list_operations().await? {
            let id = operation.spec.id;
            let ours = operation.spec.source_label == SOURCE && !operation.status.is_terminal();
            if ours && !self.jobs().contains_key(&(session, id)) {
                match ops.fail_operation(id, "its program was let go".into()).await {
                    Ok(()) | Err(OpsError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<(SessionId, OperationId), Job>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| !job.task.is_finished());
        jobs
    }
}

impl Drop for ShellJobs {
    fn drop(&mut self) {
        self.jobs().values().for_each(|job| job.task.abort());
    }
}

/// Starts a program in the background.
#[derive(Debug)]
pub struct JobStart {
    description: String,
    schema: Value,
    jobs: Arc<ShellJobs>,
    surroundings: Surroundings,
}

impl JobStart {
    pub(crate) fn new(jobs: Arc<ShellJobs>, surroundings: Surroundings) -> JobStart {
        let mut schema = command_schema();
        schema["properties"]["name"] = json!({ "type": "string", "minLength": 1, "maxLength": 100 });
        schema["required"] = json!(["name", "argv"]);
        let description = format!("{STARTS}{}", surroundings.walls());
        JobStart { description, schema, jobs, surroundings }
    }
}

#[derive(Deserialize)]
struct Start {
    name: String,
    #[serde(flatten)]
    command: Command,
}

#[async_trait]
impl Tool for JobStart {
    fn name(&self) -> &'static str {
        "job_start"
    }

    fn description(&self) -> &str {
        &self.description
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self) -> Effect {
        Effect::Once
    }

    fn timeout(&self) -> Duration {
        PATIENCE
    }

    fn sandbox(&self) -> Option<Profile> {
        Some(self.surroundings.sandbox.profile())
    }

    async fn call(&self, arguments: Value, context: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
        let start: Start = match serde_json::from_value(arguments) {
            Ok(start) => start,
            Err(error) => return Ok(Reply::error("invalid_arguments", error)),
        };
        let session = context.turn.session();
        if self.jobs.jobs().keys().filter(|(of, _)| *of == session).count() >= JOBS {
            return Ok(Reply::error("too_many_jobs", format!("{JOBS} are under way; wait for one, or cancel one")));
        }
        let (id, ops) = (operation_id(context.effect_key), context.turn.operations());
        let spec = OperationSpec {
            id,
            kind: OperationKind::BackgroundToolOp,
            display_name: start.name,
            source_label: SOURCE.into(),
            child_session_id: None,
            expect_peer_channel: false,
            adoptable: false,
        };
        match ops.register_operation(spec).await {
            Ok(()) => {}
            // The same call, made again: the first one is there, or is over.
            Err(OpsError::Refused(OpsLifecycleError::AlreadyRegistered { .. })) => {
                return Ok(Reply::done(format!("it was started before, as job {id}")));
            }
            Err(OpsError::Refused(refused)) => return Ok(Reply::error("job_refused", refused)),
            Err(error) => return Err(CoreExecutorError::retryable(error.to_string())),
        }
        let (program, stdin) = (self.surroundings.program(&start.command), start.command.stdin);
        let cancel = CancellationToken::new();
        let limit = self.surroundings.output;
        let called_off = cancel.clone();
        let task = tokio::spawn(async move {
            let mut complaints = String::new();
            let began = Instant::now();
            // Said again, it is refused; lost, the operation is under way all the same.
            let _ = heard(|| ops.provisioning_succeeded(id)).await;
            let ended = tokio::select! {
                biased;
                () = called_off.cancelled() => None,
                ended = run(&program, stdin.as_bytes(), |line| complaint(&mut complaints, line, limit)) => Some(ended),
            };
            let reported = match ended {
                None => heard(|| ops.cancel_operation(id, Some("called off by the agent".into()))).await,
                Some(ended) => {
                    let (words, is_error) = told(ended, &complaints);
                    let result = OperationResult {
                        content: shown(words.as_bytes(), RESULT),
                        is_error,
                        duration_ms: began.elapsed().as_millis() as u64,
                        ..OperationResult::default()
                    };
                    heard(|| ops.complete_operation(id, result.clone())).await
                }
            };
            if let Err(error) = reported {
                tracing::debug!(operation = %id, %error, "a job ends unheard");
            }
        });
        self.jobs.jobs().insert((session, id), Job { cancel, task });
        Ok(Reply::done(format!("started as job {id}")))
    }
}

/// Says how jobs are.
#[derive(Debug)]
pub struct JobStatus {
    schema: Value,
}

impl JobStatus {
    pub(crate) fn new() -> JobStatus {
        let schema = json!({ "type": "object", "properties": {}, "additionalProperties": false });
        JobStatus { schema }
    }
}

#[async_trait]
impl Tool for JobStatus {
    fn name(&self) -> &'static str {
        "job_status"
    }

    fn description(&self) -> &'static str {
        "Lists the jobs of this session: number, name, state, and what came of those that are over."
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self) -> Effect {
        Effect::ReadOnly
    }

    fn timeout(&self) -> Duration {
        PATIENCE
    }

    async fn call(&self, _: Value, context: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
        let operations = context.turn.operations().list_operations().await;
        let operations = operations.map_err(|error| CoreExecutorError::retryable(error.to_string()))?;
        let ours = operations.iter().filter(|operation| operation.spec.source_label == SOURCE);
        let (over, mut jobs): (Vec<_>, Vec<_>) = ours.partition(|job| job.status.is_terminal());
        jobs.extend(over);
        let mut lines: Vec<String> = jobs.iter().take(SHOWN).map(|job| line(job)).collect();
        if jobs.len() > SHOWN {
            lines.push(format!("[cut: {SHOWN} of {} jobs are shown, those under way first]", jobs.len()));
        }
        Ok(Reply::done(if lines.is_empty() { "there are no jobs".into() } else { lines.join("\n") }))
    }
}

fn line(operation: &Operation) -> String {
    let (id, name, status) = (operation.spec.id, &operation.spec.display_name, operation.status.as_str());
    let detail = match &operation.completion {
        Some(entry) => entry.terminal_outcome.detail(),
        None => operation.progress.last().map_or("", |update: &OperationProgressUpdate| update.message.as_str()),
    };
    format!("{id} {name:?}: {status} {}", shown(detail.trim().as_bytes(), 500)).trim_end().to_owned()
}

/// Calls off a job.
#[derive(Debug)]
pub struct JobCancel {
    schema: Value,
    jobs: Arc<ShellJobs>,
}

#[derive(Deserialize)]
struct Which {
    job: OperationId,
}

impl JobCancel {
    pub(crate) fn new(jobs: Arc<ShellJobs>) -> JobCancel {
        let schema = json!({
            "type": "object",
            "properties": { "job": { "type": "string", "description": "the number that job_start returned" } },
            "required": ["job"],
            "additionalProperties": false,
        });
        JobCancel { schema, jobs }
    }
}

#[async_trait]
impl Tool for JobCancel {
    fn name(&self) -> &'static str {
        "job_cancel"
    }

    fn description(&self) -> &'static str {
        "Ends a job: its program and all that it started are killed."
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self) -> Effect {
        Effect::Idempotent
    }

    fn timeout(&self) -> Duration {
        PATIENCE
    }

    async fn call(&self, arguments: Value, context: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
        let Which { job } = match serde_json::from_value(arguments) {
            Ok(which) => which,
            Err(error) => return Ok(Reply::error("invalid_arguments", error)),
        };
        let found = self.jobs.jobs().get(&(context.turn.session(), job)).map(|job| job.cancel.clone());
        Ok(match found {
            Some(cancel) => {
                cancel.cancel();
                Reply::done("it is being ended")
            }
            None => Reply::error("no_such_job", format!("{job} is not under way; job_status lists what is")),
        })
    }
}
