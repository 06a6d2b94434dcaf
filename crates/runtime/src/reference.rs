//! The adapter's methods under the names and with the errors that users of the reference know.
//!
//! Everything here is a thin edge over [`SessionHandle`](crate::SessionHandle): refusals that the reference reports as
//! errors become errors, with their codes kept (decisions 4).

use crate::{
    RuntimeSessionAdapter,
    completion::CompletionHandle,
    error::{RuntimeControlPlaneError, RuntimeDriverError, SessionError},
    executor::{CoreApplyOutput, CoreExecutor},
    handle::SessionHandle,
    mailbox::Attachment,
};
use async_trait::async_trait;
use std::{future::Future, sync::Arc};
use windlass_core::{
    AcceptOutcome, CancelOutcome, ControlRefused, ControlReport, Disposition, Input, InputId, InputState, JsonText,
    LogicalRuntimeId, RejectReason, RunBoundaryReceipt, RunId, RuntimeState, SessionId, render::RunPrimitive,
};

/// What to tell a session's executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunControlCommand {
    /// End the run that is on.
    CancelCurrentRun {
        /// Why, in words.
        reason: String,
    },
    /// End everything until the session is registered again.
    StopRuntimeExecutor {
        /// Why, in words.
        reason: String,
    },
}

/// How sessions are persisted. There is one mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeMode {
    /// Inputs are admitted, journaled and run by the runtime.
    #[default]
    V9Compliant,
}

/// The runtime side of a session service, by session id. An unknown session counts as destroyed.
#[async_trait]
pub trait SessionServiceRuntimeExt: Send + Sync {
    /// How sessions are persisted.
    fn runtime_mode(&self) -> RuntimeMode;

    /// Offers an input.
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if the gate is closed or the session unknown. Other refusals are answers.
    async fn accept_input(&self, session: &SessionId, input: Input) -> Result<AcceptOutcome, RuntimeDriverError>;

    /// Offers an input and waits for its end. A duplicate of one that is over has no handle.
    ///
    /// # Errors
    /// As for [`Self::accept_input`]; every refusal is [`RuntimeDriverError::ValidationFailed`].
    async fn accept_input_with_completion(
        &self,
        session: &SessionId,
        input: Input,
    ) -> Result<(AcceptOutcome, Option<CompletionHandle>), RuntimeDriverError>;

    /// What the session is doing.
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if it is unknown.
    async fn runtime_state(&self, session: &SessionId) -> Result<RuntimeState, RuntimeDriverError>;

    /// Takes nothing new and runs what is there.
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if the session is stopped, destroyed or unknown.
    async fn retire_runtime(&self, session: &SessionId) -> Result<ControlReport, RuntimeDriverError>;

    /// Empties the session.
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if a run is on, or the session is stopped, destroyed or unknown.
    async fn reset_runtime(&self, session: &SessionId) -> Result<ControlReport, RuntimeDriverError>;

    /// Where an input is; none if the session never had it.
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if the session is unknown.
    async fn input_state(&self, session: &SessionId, input: &InputId)
    -> Result<Option<InputState>, RuntimeDriverError>;

    /// The inputs that are not over.
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if the session is unknown.
    async fn list_active_inputs(&self, session: &SessionId) -> Result<Vec<InputId>, RuntimeDriverError>;
}

/// The control plane, by logical runtime id: the session id as text.
#[async_trait]
pub trait RuntimeControlPlane: Send + Sync {
    /// Offers an input; refusals are answers, a closed gate too.
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError::NotFound`] if the id names no known session.
    async fn ingest(&self, runtime: &LogicalRuntimeId, input: Input)
    -> Result<AcceptOutcome, RuntimeControlPlaneError>;

    /// Leaves a note in the feed; changes nothing.
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError`], as for every call here.
    async fn publish_event(&self, runtime: &LogicalRuntimeId, event: JsonText) -> Result<(), RuntimeControlPlaneError>;

    /// As [`SessionHandle::retire`].
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError`], as for every call here.
    async fn retire(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError>;

    /// As [`SessionHandle::recycle`].
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError`], as for every call here.
    async fn recycle(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError>;

    /// As [`SessionHandle::reset`], without force.
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError`], as for every call here.
    async fn reset(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError>;

    /// As [`SessionHandle::recover`].
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError`], as for every call here.
    async fn recover(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError>;

    /// As [`SessionHandle::destroy`].
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError`], as for every call here.
    async fn destroy(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError>;

    /// What the session is doing.
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError`], as for every call here.
    async fn runtime_state(&self, runtime: &LogicalRuntimeId) -> Result<RuntimeState, RuntimeControlPlaneError>;

    /// One receipt, exactly; also of sessions that are not registered.
    ///
    /// # Errors
    /// [`RuntimeControlPlaneError`], as for every call here.
    async fn load_boundary_receipt(
        &self,
        runtime: &LogicalRuntimeId,
        run: &RunId,
        sequence: u64,
    ) -> Result<Option<Arc<RunBoundaryReceipt>>, RuntimeControlPlaneError>;
}

impl RuntimeSessionAdapter {
    /// As [`RuntimeSessionAdapter::ensure_session_with_executor`], under its other name.
    ///
    /// # Errors
    /// As there.
    pub async fn register_session_with_executor(
        &self,
        session: SessionId,
        executor: Arc<dyn CoreExecutor>,
    ) -> Result<Attachment, SessionError> {
        self.ensure_session_with_executor(session, executor).await
    }

    /// Whether an executor is at hand: attached, or to be made by the factory.
    pub fn session_has_executor(&self, session: &SessionId) -> bool {
        self.shared.slot(*session).is_some_and(|slot| slot.executor().is_some() || self.shared.factory.is_some())
    }

    /// Offers an input that starts no run.
    ///
    /// # Errors
    /// As for [`SessionServiceRuntimeExt::accept_input`].
    pub async fn accept_input_without_wake(
        &self,
        session: &SessionId,
        input: Input,
    ) -> Result<AcceptOutcome, RuntimeDriverError> {
        gate_refusal(self.known(session).await?.accept_without_wake(input).await?)
    }

    /// Offers an input and runs it in the caller's task: [`SessionHandle::accept_and_run`].
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if anything else is to be run; [`RuntimeDriverError::ValidationFailed`] for a
    /// duplicate or a refusal. The inner result is that of `run`.
    pub async fn accept_input_and_run<F, E>(
        &self,
        session: &SessionId,
        input: Input,
        run: impl FnOnce(RunId, RunPrimitive) -> F,
    ) -> Result<Result<CoreApplyOutput, E>, RuntimeDriverError>
    where
        F: Future<Output = Result<CoreApplyOutput, E>>,
        E: std::fmt::Display,
    {
        match self.known(session).await?.accept_and_run(input, run).await? {
            (_, Some(result)) => Ok(result),
            (AcceptOutcome::Rejected { reason }, None) => Err(reason.into()),
            (
                AcceptOutcome::Deduplicated { existing_id, .. } | AcceptOutcome::Accepted { input_id: existing_id, .. },
                None,
            ) => {
                let reason = format!("input {existing_id} is already there; wait for it instead of running it again");
                Err(RuntimeDriverError::ValidationFailed { code: "duplicate_input", reason })
            }
        }
    }

    /// Cancels the run that is on; its inputs are dropped.
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if none is on.
    pub async fn interrupt_current_run(&self, session: &SessionId) -> Result<CancelOutcome, RuntimeDriverError> {
        let handle = self.known(session).await?;
        match handle.cancel(None, "interrupted", Disposition::Drop).await? {
            CancelOutcome::NoSuchRun => Err(RuntimeDriverError::NotReady { state: handle.state().await? }),
            outcome => Ok(outcome),
        }
    }

    /// Cancels or stops. A stop is answered when the executor is gone and has cleaned up.
    ///
    /// # Errors
    /// As for [`Self::interrupt_current_run`].
    pub async fn stop_runtime_executor(
        &self,
        session: &SessionId,
        command: RunControlCommand,
    ) -> Result<(), RuntimeDriverError> {
        match command {
            RunControlCommand::CancelCurrentRun { .. } => self.interrupt_current_run(session).await.map(|_| ()),
            RunControlCommand::StopRuntimeExecutor { .. } => {
                self.known(session).await?.stop().await?;
                Ok(())
            }
        }
    }

    /// From now on peer requests with these intents start no runs.
    ///
    /// # Errors
    /// [`RuntimeDriverError::NotReady`] if the session is destroyed or unknown.
    pub async fn set_session_silent_intents(
        &self,
        session: &SessionId,
        intents: Vec<String>,
    ) -> Result<(), RuntimeDriverError> {
        Ok(self.known(session).await?.set_silent_intents(intents).await?)
    }

    async fn known(&self, session: &SessionId) -> Result<SessionHandle, RuntimeDriverError> {
        self.find(*session).await?.ok_or(RuntimeDriverError::NotReady { state: RuntimeState::Destroyed })
    }

    async fn named(&self, runtime: &LogicalRuntimeId) -> Result<SessionHandle, RuntimeControlPlaneError> {
        let unknown = || RuntimeControlPlaneError::NotFound(runtime.clone());
        let session = runtime.session().ok_or_else(unknown)?;
        self.find(session).await.map_err(on_control_plane(runtime))?.ok_or_else(unknown)
    }
}

/// A closed gate is an error where the reference has it as one.
fn gate_refusal(outcome: AcceptOutcome) -> Result<AcceptOutcome, RuntimeDriverError> {
    match outcome {
        AcceptOutcome::Rejected { reason: reason @ RejectReason::NotReady { .. } } => Err(reason.into()),
        outcome => Ok(outcome),
    }
}

fn on_control_plane(runtime: &LogicalRuntimeId) -> impl Fn(SessionError) -> RuntimeControlPlaneError {
    move |error| match error {
        SessionError::NotFound(_) => RuntimeControlPlaneError::NotFound(runtime.clone()),
        SessionError::Refused(ControlRefused::State { state }) => RuntimeControlPlaneError::InvalidState { state },
        error => RuntimeControlPlaneError::Session(error),
    }
}

#[async_trait]
impl SessionServiceRuntimeExt for RuntimeSessionAdapter {
    fn runtime_mode(&self) -> RuntimeMode {
        RuntimeMode::V9Compliant
    }

    async fn accept_input(&self, session: &SessionId, input: Input) -> Result<AcceptOutcome, RuntimeDriverError> {
        gate_refusal(self.known(session).await?.accept(input).await?)
    }

    async fn accept_input_with_completion(
        &self,
        session: &SessionId,
        input: Input,
    ) -> Result<(AcceptOutcome, Option<CompletionHandle>), RuntimeDriverError> {
        match self.known(session).await?.accept_with_completion(input).await? {
            (AcceptOutcome::Rejected { reason }, _) => Err(reason.into()),
            answer => Ok(answer),
        }
    }

    async fn runtime_state(&self, session: &SessionId) -> Result<RuntimeState, RuntimeDriverError> {
        Ok(self.known(session).await?.state().await?)
    }

    async fn retire_runtime(&self, session: &SessionId) -> Result<ControlReport, RuntimeDriverError> {
        Ok(self.known(session).await?.retire().await?)
    }

    async fn reset_runtime(&self, session: &SessionId) -> Result<ControlReport, RuntimeDriverError> {
        Ok(self.known(session).await?.reset(false).await?)
    }

    async fn input_state(
        &self,
        session: &SessionId,
        input: &InputId,
    ) -> Result<Option<InputState>, RuntimeDriverError> {
        Ok(self.known(session).await?.input_state(*input).await?)
    }

    async fn list_active_inputs(&self, session: &SessionId) -> Result<Vec<InputId>, RuntimeDriverError> {
        let active = self.known(session).await?.active_inputs().await?;
        Ok(active.into_iter().map(|(input, _)| input).collect())
    }
}

#[async_trait]
impl RuntimeControlPlane for RuntimeSessionAdapter {
    async fn ingest(
        &self,
        runtime: &LogicalRuntimeId,
        input: Input,
    ) -> Result<AcceptOutcome, RuntimeControlPlaneError> {
        self.named(runtime).await?.accept(input).await.map_err(on_control_plane(runtime))
    }

    async fn publish_event(&self, runtime: &LogicalRuntimeId, event: JsonText) -> Result<(), RuntimeControlPlaneError> {
        self.named(runtime).await?.note(event).await.map_err(on_control_plane(runtime))
    }

    async fn retire(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError> {
        self.named(runtime).await?.retire().await.map_err(on_control_plane(runtime))
    }

    async fn recycle(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError> {
        self.named(runtime).await?.recycle().await.map_err(on_control_plane(runtime))
    }

    async fn reset(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError> {
        self.named(runtime).await?.reset(false).await.map_err(on_control_plane(runtime))
    }

    async fn recover(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError> {
        self.named(runtime).await?.recover().await.map_err(on_control_plane(runtime))
    }

    async fn destroy(&self, runtime: &LogicalRuntimeId) -> Result<ControlReport, RuntimeControlPlaneError> {
        self.named(runtime).await?.destroy().await.map_err(on_control_plane(runtime))
    }

    async fn runtime_state(&self, runtime: &LogicalRuntimeId) -> Result<RuntimeState, RuntimeControlPlaneError> {
        self.named(runtime).await?.state().await.map_err(on_control_plane(runtime))
    }

    async fn load_boundary_receipt(
        &self,
        runtime: &LogicalRuntimeId,
        run: &RunId,
        sequence: u64,
    ) -> Result<Option<Arc<RunBoundaryReceipt>>, RuntimeControlPlaneError> {
        let session = runtime.session().ok_or_else(|| RuntimeControlPlaneError::NotFound(runtime.clone()))?;
        let receipt = self.store().receipt(session, *run, sequence).await;
        receipt.map_err(|error| on_control_plane(runtime)(error.into()))
    }
}
