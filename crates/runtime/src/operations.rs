//! How do producers report background work, and how does somebody wait for it?
//!
//! The registry is a handle on the session: what it is told is in the journal before it answers. Waits live in their
//! futures only: any number at once, over operations that are over, kept or evicted, and a dropped one leaves no trace.

use crate::{error::SessionError, handle::SessionHandle, mailbox::Message};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;
use windlass_core::{
    AttemptId, CompletionBatch, CompletionEntry, CompletionSeq, Operation, OperationId, OperationPeerHandle,
    OperationProgressUpdate, OperationReport, OperationResult, OperationSpec, OperationTerminalOutcome,
    OpsLifecycleError, RuntimeEpochId, SessionId,
};

/// Why an operation could not be reported or waited for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpsError {
    /// The session refuses it; nothing was changed.
    #[error(transparent)]
    Refused(#[from] OpsLifecycleError),
    /// The session could not be asked.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// The operations of one session. Cheap to clone; cancel-safe: a dropped call has wholly happened or not at all.
#[derive(Clone, Debug)]
pub struct OpsLifecycleRegistry {
    session: SessionHandle,
    attempt: Option<AttemptId>,
}

macro_rules! reports {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) => $report:expr;)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`OpsError::Refused`] if the lifecycle forbids it, otherwise as for every call.
            pub async fn $name(&self, id: OperationId $(, $arg: $type)*) -> Result<(), OpsError> {
                self.report(id, $report).await
            }
        )+
    };
}

impl OpsLifecycleRegistry {
    pub(crate) fn new(session: SessionHandle, attempt: Option<AttemptId>) -> OpsLifecycleRegistry {
        OpsLifecycleRegistry { session, attempt }
    }

    /// Registers background work. Within a run: refused when the run is over.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if the id is taken, too many are under way, the gate is closed or the run is over.
    pub async fn register_operation(&self, spec: OperationSpec) -> Result<(), OpsError> {
        self.register(spec, false).await
    }

    /// Registers background work that runs already: in one append, so that nobody sees it waiting to run.
    ///
    /// # Errors
    /// As for [`OpsLifecycleRegistry::register_operation`].
    pub async fn register_running(&self, spec: OperationSpec) -> Result<(), OpsError> {
        self.register(spec, true).await
    }

    async fn register(&self, spec: OperationSpec, runs: bool) -> Result<(), OpsError> {
        let attempt = self.attempt;
        Ok(self.session.ask(|reply| Message::RegisterOperation { spec, attempt, runs, reply }).await??)
    }

    reports! {
        /// It runs.
        provisioning_succeeded() => OperationReport::ProvisioningSucceeded;
        /// It could not be started.
        provisioning_failed(error: String) => OperationReport::ProvisioningFailed { error };
        /// It was called off before it ran.
        abort_provisioning(reason: Option<String>) => OperationReport::AbortProvisioning { reason };
        /// The peer of a child can be reached.
        peer_ready(peer: OperationPeerHandle) => OperationReport::PeerReady(peer);
        /// It is so far; the last few updates are kept.
        report_progress(update: OperationProgressUpdate) => OperationReport::Progress(update);
        /// It is told to end.
        request_retire() => OperationReport::RequestRetire;
        /// It has ended as told.
        mark_retired() => OperationReport::MarkRetired;
        /// It ended well.
        complete_operation(result: OperationResult) => OperationReport::Complete(result);
        /// It ended badly.
        fail_operation(error: String) => OperationReport::Fail { error };
        /// It was called off.
        cancel_operation(reason: Option<String>) => OperationReport::Cancel { reason };
        /// A producer in this process works on it from now on: within the time limit after its own has died.
        adopt() => OperationReport::Adopt;
    }

    /// Ends everything that is under way, with its owner.
    ///
    /// # Errors
    /// [`OpsError::Session`], as for every call.
    pub async fn terminate_owner(&self, reason: &str) -> Result<(), OpsError> {
        let reason = reason.to_owned();
        Ok(self.session.ask(|reply| Message::TerminateOperations { reason, reply }).await??)
    }

    /// One operation, under way or still kept.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if it is neither.
    pub async fn snapshot(&self, id: OperationId) -> Result<Operation, OpsError> {
        let found = self.session.look(move |session| session.operation(id).cloned()).await?;
        Ok(found.ok_or(OpsLifecycleError::NotFound { id })?)
    }

    /// All operations that are under way or still kept, by display name and id.
    ///
    /// # Errors
    /// [`OpsError::Session`], as for every call.
    pub async fn list_operations(&self) -> Result<Vec<Operation>, OpsError> {
        Ok(self.session.look(windlass_core::Session::operations).await?)
    }

    /// How each of these ended, once all have, in the order asked for. Operations that are over count at once, evicted
    /// ones as long as the feed keeps their completion. Dropping the future leaves no trace.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if one is unknown, or no longer kept anywhere.
    pub async fn wait_all(
        &self,
        ids: &[OperationId],
    ) -> Result<Vec<(OperationId, OperationTerminalOutcome)>, OpsError> {
        let mut waits = Waits::begin(self, ids).await?;
        while !waits.open.is_empty() {
            waits.advance(self).await?;
        }
        let outcome = |id: &OperationId| (*id, waits.over[id].terminal_outcome.clone());
        Ok(ids.iter().map(outcome).collect())
    }

    /// The first of these to end, and how. Of several that are over already, the one that ended first.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if one is unknown; also if none is asked for, because none will ever end.
    pub async fn wait_any(&self, ids: &[OperationId]) -> Result<(OperationId, OperationTerminalOutcome), OpsError> {
        if ids.is_empty() {
            return Err(OpsLifecycleError::NotFound { id: OperationId::from_uuid(uuid::Uuid::nil()) }.into());
        }
        let mut waits = Waits::begin(self, ids).await?;
        while waits.over.is_empty() {
            waits.advance(self).await?;
        }
        let first = waits.over.values().min_by_key(|entry| entry.seq).expect("one of them is over");
        Ok((first.operation_id, first.terminal_outcome.clone()))
    }

    /// How one operation ends. Any number may watch.
    ///
    /// # Errors
    /// As for [`OpsLifecycleRegistry::wait_all`].
    pub async fn watch(&self, id: OperationId) -> Result<OperationTerminalOutcome, OpsError> {
        Ok(self.wait_any(&[id]).await?.1)
    }

    /// The completions of the session, in order.
    pub fn completion_feed(&self) -> CompletionFeed {
        CompletionFeed { session: self.session.clone() }
    }

    async fn report(&self, id: OperationId, report: OperationReport) -> Result<(), OpsError> {
        Ok(self.session.ask(|reply| Message::Operation { id, report, reply }).await??)
    }
}

/// What is still waited for.
struct Waits {
    open: Vec<OperationId>,
    over: BTreeMap<OperationId, Arc<CompletionEntry>>,
    /// The feed has been looked at up to here.
    seen: CompletionSeq,
    announced: watch::Receiver<CompletionSeq>,
}

impl Waits {
    async fn begin(registry: &OpsLifecycleRegistry, ids: &[OperationId]) -> Result<Waits, OpsError> {
        let mut announced = registry.session.hub().completions();
        announced.borrow_and_update();
        let mut waits = Waits { open: ids.to_vec(), over: BTreeMap::new(), seen: CompletionSeq::default(), announced };
        waits.open.sort_unstable();
        waits.open.dedup();
        waits.look(registry).await?;
        Ok(waits)
    }

    /// Looks at each operation itself.
    async fn look(&mut self, registry: &OpsLifecycleRegistry) -> Result<(), OpsError> {
        let ids = std::mem::take(&mut self.open);
        let look = move |session: &windlass_core::Session| {
            let of = |id| (id, session.operation(id).is_some(), session.operation_completion(id));
            (ids.into_iter().map(of).collect::<Vec<_>>(), session.completion_watermark())
        };
        let (found, watermark) = registry.session.look(look).await?;
        for (id, known, completion) in found {
            match completion {
                Some(entry) => drop(self.over.insert(id, entry)),
                None if known => self.open.push(id),
                None => return Err(OpsLifecycleError::NotFound { id }.into()),
            }
        }
        self.seen = watermark;
        Ok(())
    }

    /// Waits for the feed to advance, and takes from it what is waited for.
    async fn advance(&mut self, registry: &OpsLifecycleRegistry) -> Result<(), OpsError> {
        let seen = self.seen;
        // Whatever is announced after the last look is news, also that the session is let go: the next look says why. An
        // error says that the session is forgotten, and the look says that.
        drop(self.announced.changed().await);
        self.announced.borrow_and_update();
        let batch = registry.session.look(move |session| session.completions_since(seen)).await?;
        // Too much has happened, or a reset has begun a new order.
        if batch.lagged_to.is_some() || batch.watermark < seen {
            return self.look(registry).await;
        }
        self.seen = batch.watermark;
        for entry in batch.entries {
            if let Ok(at) = self.open.binary_search(&entry.operation_id) {
                self.open.remove(at);
                self.over.insert(entry.operation_id, entry);
            }
        }
        Ok(())
    }
}

/// The completions of a session: dense from 1 within an epoch, resumable, never waiting behind a run.
#[derive(Clone, Debug)]
pub struct CompletionFeed {
    session: SessionHandle,
}

impl CompletionFeed {
    /// The last position.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn watermark(&self) -> Result<CompletionSeq, SessionError> {
        self.session.look(windlass_core::Session::completion_watermark).await
    }

    /// What came after a position and how far the feed reaches, taken together; and whether the reader lagged.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn list_since(&self, after: CompletionSeq) -> Result<CompletionBatch, SessionError> {
        self.session.look(move |session| session.completions_since(after)).await
    }

    /// Waits until the feed is past this position, and tells how far it is. No wake-up is lost: interest is registered
    /// before the feed is looked at. Cancel-safe; any number may wait.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn wait_for_advance(&self, after: CompletionSeq) -> Result<CompletionSeq, SessionError> {
        let mut announced = self.session.hub().completions();
        loop {
            announced.borrow_and_update();
            let watermark = self.watermark().await?;
            if watermark > after {
                return Ok(watermark);
            }
            // As for every wait: what is announced after the look is news.
            drop(announced.changed().await);
        }
    }
}

/// What has been shown of the completions of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochCursorState {
    /// What the model has seen, as the executor says.
    pub agent_applied_cursor: CompletionSeq,
    /// The last position of the feed. The session has looked at all of it: it decides with each completion.
    pub runtime_observed_seq: CompletionSeq,
}

/// What a session's build needs to report and to hear of background work.
#[derive(Clone, Debug)]
pub struct SessionRuntimeBindings {
    /// The session.
    pub session_id: SessionId,
    /// The current completion order; the same on every call until the session is reset.
    pub epoch_id: RuntimeEpochId,
    /// Its operations.
    pub ops_lifecycle: OpsLifecycleRegistry,
    /// How far it was when this was made.
    pub cursor_state: EpochCursorState,
}

impl crate::RuntimeSessionAdapter {
    /// Registers the session and returns what a build of it needs. Idempotent.
    ///
    /// # Errors
    /// As for [`register_session`](Self::register_session): the real cause, never a fresh epoch in its place.
    pub async fn prepare_bindings(&self, session: SessionId) -> Result<SessionRuntimeBindings, SessionError> {
        let handle = self.register_session(session).await?;
        let (epoch, cursor_state) = handle
            .look(|session| {
                let cursor_state = EpochCursorState {
                    agent_applied_cursor: session.applied_completions(),
                    runtime_observed_seq: session.completion_watermark(),
                };
                (session.epoch(), cursor_state)
            })
            .await?;
        let epoch_id = epoch.expect("a session that is open was created, and has an epoch since");
        Ok(SessionRuntimeBindings { session_id: session, epoch_id, ops_lifecycle: handle.operations(), cursor_state })
    }

    /// The operations of a session that is known here.
    ///
    /// # Errors
    /// [`SessionError::NotFound`] if it is not.
    pub async fn ops_lifecycle_registry(&self, session: SessionId) -> Result<OpsLifecycleRegistry, SessionError> {
        Ok(self.session(session).await?.operations())
    }
}

impl SessionHandle {
    /// The session's background operations.
    pub fn operations(&self) -> OpsLifecycleRegistry {
        OpsLifecycleRegistry::new(self.clone(), None)
    }

    /// The model has seen completions up to here; they are not shown again.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn advance_applied(&self, seq: CompletionSeq) -> Result<(), SessionError> {
        match self.ask(|reply| Message::CompletionsApplied { seq, reply }).await? {
            Ok(()) => Ok(()),
            Err(refused) => unreachable!("the core refuses no cursor: {refused}"),
        }
    }
}
