//! What can be done with one session?

use crate::{
    completion::{Completion, CompletionHandle, CompletionOutcome, WaitError},
    error::SessionError,
    executor::CoreApplyOutput,
    feed::Feed,
    mailbox::{Admitted, Answer, Message},
    media::{self, MediaError},
    owner::{Slot, stored_outcome},
    shared::Shared,
    store::{InputRef, InputRow, Loaded, SessionStatus, StoreError},
    sweep::Named,
};
use std::{future::Future, sync::Arc};
use tokio::sync::oneshot;
use windlass_core::{
    AcceptOptions, AcceptOutcome, Accepted, CancelOutcome, Control, ControlReport, Disposition, Explanation, Gate,
    IdempotencyKey, Input, InputId, InputState, JsonText, Outcome, Profile, ProfileChange, Record, RejectReason,
    RunBoundaryReceipt, RunClosed, RunId, RunReport, RuntimeState, Seq, Session, SessionId, Timestamp, WithdrawOutcome,
    render::RunPrimitive,
};

/// A session, by name. Cheap to clone; keeps nothing open by itself.
///
/// Every method is cancel-safe: a call whose future is dropped has either wholly happened or not at all. Looks see
/// committed state only, never wait behind a run, and are answered while the disk is full.
#[derive(Clone)]
pub struct SessionHandle {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
}

/// A session at one glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// What it is doing.
    pub state: RuntimeState,
    /// Whether it takes inputs.
    pub gate: Gate,
    /// Whether waiting inputs are kept but not run.
    pub held: bool,
    /// The run that is on or suspended.
    pub run: Option<RunId>,
    /// How many inputs are not over.
    pub open_inputs: u32,
    /// The last position of its journal.
    pub head: Seq,
    /// The agent that runs it.
    pub agent: Option<Arc<str>>,
    /// What it was told about itself.
    pub profile: Profile,
    /// When it was created; [`Timestamp::ZERO`] if that is no longer known.
    pub created_at: Timestamp,
    /// When its last entry was decided.
    pub updated_at: Timestamp,
    /// The intents of peer requests that start no runs, sorted.
    pub silent_intents: Vec<String>,
    /// Whether there is something to do now, were an executor there.
    pub pending: bool,
    /// When there is something to do next, were an executor there.
    pub due_at: Option<Timestamp>,
}

impl SessionView {
    fn of(session: &Session) -> SessionView {
        let status = SessionStatus::of(session);
        SessionView {
            state: session.state(),
            gate: status.gate,
            held: status.held,
            run: session.current_run(),
            open_inputs: status.open_inputs,
            head: session.head(),
            agent: status.agent,
            profile: (*status.profile).clone(),
            created_at: status.created_at,
            updated_at: session.last_at(),
            silent_intents: session.silent_intents().to_vec(),
            pending: status.pending,
            due_at: status.due_at,
        }
    }
}

impl SessionHandle {
    pub(crate) fn new(shared: Arc<Shared>, slot: Arc<Slot>) -> SessionHandle {
        SessionHandle { shared, slot }
    }

    /// Which session.
    pub fn id(&self) -> SessionId {
        self.slot.id
    }

    /// Offers an input. When this answers `Accepted { durable: true }` it survives the process.
    ///
    /// # Errors
    /// [`SessionError`]: nothing was admitted, unless it is [`StoreError::Unknown`]; offer it again under the same
    /// idempotency key to find out.
    pub async fn accept(&self, input: Input) -> Result<AcceptOutcome, SessionError> {
        Ok(self.offer(Box::new(input), AcceptOptions::default(), false).await?.outcome)
    }

    /// As [`SessionHandle::accept`], and how to wait for its end. A duplicate of an open input waits with the
    /// original; of one that is over, there is no handle: ask [`SessionHandle::completion`] for what it came to.
    ///
    /// # Errors
    /// As for [`SessionHandle::accept`].
    pub async fn accept_with_completion(
        &self,
        input: Input,
    ) -> Result<(AcceptOutcome, Option<CompletionHandle>), SessionError> {
        let admitted = self.offer(Box::new(input), AcceptOptions::default(), true).await?;
        Ok((admitted.outcome, admitted.completion))
    }

    /// As [`SessionHandle::accept`], but it starts no run: it goes with what other inputs start. Steering is refused.
    ///
    /// # Errors
    /// As for [`SessionHandle::accept`].
    pub async fn accept_without_wake(&self, input: Input) -> Result<AcceptOutcome, SessionError> {
        let options = AcceptOptions { without_wake: true, ..AcceptOptions::default() };
        Ok(self.offer(Box::new(input), options, false).await?.outcome)
    }

    /// Offers an input and runs it here, in the caller's task, instead of by the session's executor. Refused as
    /// `NotReady` if there is anything else to run. If `run` fails, or this future is dropped before its end, the
    /// input is abandoned and never run again. If the run is cancelled, `run` is dropped.
    ///
    /// # Errors
    /// As for [`SessionHandle::accept`]; [`SessionError::Closed`] if the run was cut off before its end was durable.
    /// The inner result is the error of `run`, after it has been recorded.
    pub async fn accept_and_run<F, E>(
        &self,
        input: Input,
        run: impl FnOnce(RunId, RunPrimitive) -> F,
    ) -> Result<(AcceptOutcome, Option<Result<CoreApplyOutput, E>>), SessionError>
    where
        F: Future<Output = Result<CoreApplyOutput, E>>,
        E: std::fmt::Display,
    {
        let options = AcceptOptions { pinned: true, ..AcceptOptions::default() };
        let admitted = self.offer(Box::new(input), options, false).await?;
        // From here on the run is ours: if this future is dropped, so is `pinned`, which says so.
        let Some(mut pinned) = admitted.pinned else { return Ok((admitted.outcome, None)) };
        let attempt = pinned.start.attempt;
        let result = tokio::select! {
            biased;
            result = run(attempt.run, RunPrimitive::of(&pinned.start)) => result,
            () = pinned.cut.cancelled() => return Err(RunClosed.into()),
        };
        let report = match &result {
            Ok(output) => RunReport::Done { output: output.boundary.clone(), terminal: output.terminal.clone() },
            Err(error) => RunReport::Failed { error: error.to_string().into(), retryable: false, retry_after: None },
        };
        let message = |reply| Message::Report { attempt, report, at_once: false, reply: Some(reply) };
        let reported = self.ask(message).await;
        pinned.reported();
        // A run that was cut off meanwhile has its outcome already; what it still reports is not taken.
        reported??;
        Ok((admitted.outcome, Some(result)))
    }

    /// Takes back an input that has not started.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn withdraw(&self, input: InputId) -> Result<WithdrawOutcome, SessionError> {
        self.ask(|reply| Message::Withdraw { input, reply }).await
    }

    /// Cancels a run: this one, or the one that is on. After `Cancelled` no boundary of it commits; the executor is
    /// told at once, and dropped if it does not return within the grace time.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn cancel(
        &self,
        run: Option<RunId>,
        reason: &str,
        disposition: Disposition,
    ) -> Result<CancelOutcome, SessionError> {
        let reason = reason.to_owned();
        let outcome = self.ask(|reply| Message::Cancel { run, reason, disposition, reply }).await?;
        match (outcome, run) {
            // The session remembers its last run only; receipts remember all that committed.
            (CancelOutcome::NoSuchRun, Some(run)) if self.shared.store.receipt(self.id(), run, 0).await?.is_some() => {
                Ok(CancelOutcome::TooLate { run })
            }
            (outcome, _) => Ok(outcome),
        }
    }

    /// Takes nothing new and runs what is there. Without an executor, and without a factory to make one, what waits is
    /// abandoned. Idempotent.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if the session is stopped or destroyed.
    pub async fn retire(&self) -> Result<ControlReport, SessionError> {
        self.control(Control::Retire { will_drain: false }).await
    }

    /// Cancels what runs, abandons what waits, and does nothing until the session is registered again. Answered when
    /// the executor is gone and has cleaned up, within the limits for that. Idempotent.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if the session is destroyed.
    pub async fn stop(&self) -> Result<ControlReport, SessionError> {
        self.control(Control::Stop).await
    }

    /// As [`SessionHandle::stop`], for ever. Idempotent. The journal stays until
    /// [`RuntimeSessionAdapter::delete_session`](crate::RuntimeSessionAdapter::delete_session).
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn destroy(&self) -> Result<ControlReport, SessionError> {
        self.control(Control::Destroy).await
    }

    /// Empties the session and opens its gate. The executor stays attached; idempotency keys are still remembered.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if a run is on and `force` is not set, or the session is stopped or destroyed.
    pub async fn reset(&self, force: bool) -> Result<ControlReport, SessionError> {
        self.control(Control::Reset { force }).await
    }

    /// Keeps everything and makes it due.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if a run is on or the session is destroyed.
    pub async fn recycle(&self) -> Result<ControlReport, SessionError> {
        self.control(Control::Recycle).await
    }

    /// Keeps inputs, does not run them. A run that is on goes on.
    ///
    /// # Errors
    /// [`SessionError::Refused`] unless the session is open.
    pub async fn hold(&self) -> Result<ControlReport, SessionError> {
        self.control(Control::Hold).await
    }

    /// Runs inputs again.
    ///
    /// # Errors
    /// [`SessionError::Refused`] unless the session is open.
    pub async fn release(&self) -> Result<ControlReport, SessionError> {
        self.control(Control::Release).await
    }

    /// From now on peer requests with these intents start no runs. Durable.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if there are too many, or the session is destroyed.
    pub async fn set_silent_intents(&self, intents: Vec<String>) -> Result<(), SessionError> {
        self.control(Control::SetSilentIntents(intents)).await.map(|_| ())
    }

    /// What the session was told about itself.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn profile(&self) -> Result<Profile, SessionError> {
        self.look(|session| Profile::clone(session.profile())).await
    }

    /// Tells the session about itself; durable. A policy that it names governs what is admitted from now on; what was
    /// decided before stands.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if it would change the tenant, has no room, names a policy that is not known here, or
    /// the session is destroyed.
    pub async fn set_profile(&self, profile: Profile) -> Result<(), SessionError> {
        self.shared.check_policy(profile.policy.as_deref())?;
        self.control(Control::SetProfile(Arc::new(profile))).await.map(|_| ())
    }

    /// Changes some of what the session is told about itself, all of that or nothing; durable. What the change does not
    /// speak of stays, also if somebody else changes it at the same time.
    ///
    /// # Errors
    /// As for [`SessionHandle::set_profile`] and [`SessionHandle::set_silent_intents`];
    /// [`ControlRefused::ChangedSince`](windlass_core::ControlRefused::ChangedSince) if the session has been told something
    /// else than the change is meant for.
    pub async fn change(&self, change: ProfileChange) -> Result<(), SessionError> {
        if let Some(Some(policy)) = &change.policy {
            self.shared.check_policy(Some(policy))?;
        }
        self.control(Control::Change(Box::new(change))).await.map(|_| ())
    }

    /// Leaves a note in the feed. Changes nothing.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if the session is destroyed.
    pub async fn note(&self, note: JsonText) -> Result<(), SessionError> {
        self.control(Control::Note(note)).await.map(|_| ())
    }

    /// Reads the journal again and compares: what is in memory is what the journal says. Repairs nothing, because
    /// there is nothing to repair but a bug.
    ///
    /// # Errors
    /// [`SessionError::Refused`] while a run is on; [`StoreError::Corrupt`] if the two differ.
    pub async fn recover(&self) -> Result<ControlReport, SessionError> {
        let live = self.look(|session| {
            session.current_attempt().is_none().then(|| (session.snapshot(), session.open_inputs(), session.state()))
        });
        let Some((live, open, state)) = live.await? else {
            let state = RuntimeState::Running;
            return Err(SessionError::Refused(windlass_core::ControlRefused::State { state }));
        };
        let (limits, policy) = (self.shared.limits.clone(), Arc::clone(&self.shared.policy));
        let (mut again, mut settled) = (Session::new(self.id(), limits, policy), Vec::new());
        while again.head() < live.head() {
            let left = u32::try_from(live.head().0 - again.head().0).unwrap_or(u32::MAX);
            match self.shared.store.read(self.id(), again.head(), left.min(RECOVER_PAGE)).await {
                Ok(page) if page.is_empty() => break,
                Ok(page) => {
                    for entry in page {
                        again
                            .replay(&entry, &mut settled)
                            .map_err(|error| SessionError::Corrupt { session: self.id(), error })?;
                        settled.clear();
                    }
                }
                // Entries that are no longer kept cannot be folded again; the snapshot stands for them.
                Err(StoreError::Pruned { .. }) => return Ok(recovered(open)),
                Err(error) => return Err(error.into()),
            }
        }
        if again.snapshot() != live {
            let detail = format!("memory ({state:?}) and journal ({:?}) differ", again.state());
            return Err(
                StoreError::Corrupt { session: Some(self.id()), at: Some(live.head()), detail: detail.into() }.into()
            );
        }
        Ok(recovered(open))
    }

    /// Admits a dead letter anew, as a new input without the key of the old one. Redriving twice admits once.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn redrive(&self, dead: InputId) -> Result<(AcceptOutcome, Option<CompletionHandle>), SessionError> {
        let refused = |reason| Ok((AcceptOutcome::Rejected { reason }, None));
        let row = self.shared.store.input(self.id(), &InputRef::Id(dead)).await?;
        let Some(row) = row.filter(|row| row.dead) else {
            return refused(RejectReason::NotADeadLetter { input: dead });
        };
        let Some(accepted) = self.stored_input(&row).await? else {
            return refused(RejectReason::NoLongerKept { input: dead });
        };
        let mut input = accepted.input.clone();
        input.header.id = InputId::redrive_of(self.id(), dead);
        input.header.idempotency_key = None;
        let options = AcceptOptions { redrive_of: Some(dead), ..AcceptOptions::default() };
        let admitted = self.offer(Box::new(input), options, true).await?;
        Ok((admitted.outcome, admitted.completion))
    }

    /// What the session is doing.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn state(&self) -> Result<RuntimeState, SessionError> {
        self.look(Session::state).await
    }

    /// The session at one glance.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn status(&self) -> Result<SessionView, SessionError> {
        self.look(SessionView::of).await
    }

    /// Where an input is; from the store, if the session has forgotten it.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn input_state(&self, input: InputId) -> Result<Option<InputState>, SessionError> {
        match self.look(move |session| session.input_state(input)).await? {
            Some(state) => Ok(Some(state)),
            None => Ok(self.shared.store.input(self.id(), &InputRef::Id(input)).await?.and_then(|row| row.settled)),
        }
    }

    /// The inputs that are not over, in the order of their ids.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn active_inputs(&self) -> Result<Vec<(InputId, InputState)>, SessionError> {
        self.look(|session| session.active_inputs().collect()).await
    }

    /// Why an input is not running.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn explain(&self, input: InputId) -> Result<Explanation, SessionError> {
        let clock = Arc::clone(&self.shared.clock);
        let said = self.look(move |session| session.explain(input, clock.now())).await?;
        Ok(match self.shared.unattended.why(self.id()) {
            Some(why) => said.without_executor(why),
            None => said,
        })
    }

    /// Waits for the end of an input, by id or key: also of one that was accepted in another life of the process, and
    /// of one that is over.
    ///
    /// # Errors
    /// [`WaitError::NoSuchInput`] if the session never had it.
    pub async fn completion(&self, of: InputRef) -> Result<CompletionHandle, WaitError> {
        let input = match &of {
            InputRef::Id(input) => *input,
            InputRef::Key(key) => self.input_by_key(key).await?.ok_or(WaitError::NoSuchInput)?,
        };
        let (waiter, handle) = CompletionHandle::open(input);
        if self.ask(|reply| Message::Watch { input, waiter, reply }).await? {
            return Ok(handle);
        }
        let by = InputRef::Id(input);
        let row = self.shared.store.input(self.id(), &by).await.map_err(SessionError::from)?;
        let state = row.and_then(|row| row.settled).ok_or(WaitError::NoSuchInput)?;
        let outcome = stored_outcome(&self.shared, self.id(), &by).await.map_err(SessionError::from)?;
        match outcome {
            Some(Outcome::Coalesced { into }) => {
                let survivor = Box::pin(self.completion(InputRef::Id(into))).await?;
                Ok(survivor.absorbed(input, into))
            }
            Some(outcome) => Ok(CompletionHandle::resolved(input, Completion::told(&outcome))),
            None => Ok(CompletionHandle::already_resolved(input, CompletionOutcome::Forgotten(state))),
        }
    }

    /// How an input ended, in the words of the journal; none if it is open, unknown, or no longer kept.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn outcome(&self, of: &InputRef) -> Result<Option<Outcome>, SessionError> {
        Ok(stored_outcome(&self.shared, self.id(), of).await?)
    }

    /// An input as it was admitted; none if it is unknown or no longer kept.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn input(&self, of: &InputRef) -> Result<Option<Arc<Accepted>>, SessionError> {
        match self.shared.store.input(self.id(), of).await? {
            Some(row) => self.stored_input(&row).await,
            None => Ok(None),
        }
    }

    /// One receipt, exactly.
    ///
    /// # Errors
    /// [`SessionError`], as for every call.
    pub async fn receipt(&self, run: RunId, sequence: u64) -> Result<Option<Arc<RunBoundaryReceipt>>, SessionError> {
        Ok(self.shared.store.receipt(self.id(), run, sequence).await?)
    }

    /// Follows the session from the entry after this position, then live, until it is let go of.
    pub fn feed(&self, after: Seq) -> Feed {
        Feed::new(self.current(), Arc::clone(&self.shared.store), after)
    }

    /// The same name, but of the session as it is registered now, if this one was let go of.
    fn current(&self) -> SessionHandle {
        let slot = self.shared.slot(self.id()).filter(|_| self.slot.is_gone());
        slot.map_or_else(|| self.clone(), |slot| SessionHandle::new(Arc::clone(&self.shared), slot))
    }

    /// Where the session announces what it has committed.
    pub(crate) fn hub(&self) -> &Arc<crate::feed::FeedHub> {
        self.slot.follow()
    }

    /// The same, if somebody follows the session.
    pub(crate) fn followed(&self) -> Option<&Arc<crate::feed::FeedHub>> {
        self.slot.hub()
    }

    /// The next entries after a position.
    pub(crate) async fn entries(&self, after: Seq, limit: u32) -> Result<Vec<Arc<windlass_core::Entry>>, StoreError> {
        self.shared.store.read(self.id(), after, limit).await
    }

    async fn input_by_key(&self, key: &IdempotencyKey) -> Result<Option<InputId>, SessionError> {
        let wanted = key.clone();
        match self.look(move |session| session.input_by_key(&wanted)).await? {
            Some(input) => Ok(Some(input)),
            None => {
                let row = self.shared.store.input(self.id(), &InputRef::Key(key.clone())).await?;
                Ok(row.map(|row| row.input))
            }
        }
    }

    async fn stored_input(&self, row: &InputRow) -> Result<Option<Arc<Accepted>>, SessionError> {
        let before = Seq(row.accepted_seq.0 - 1);
        let entries = match self.shared.store.read(self.id(), before, 1).await {
            Err(StoreError::Pruned { .. }) => return Ok(None),
            entries => entries?,
        };
        Ok(entries.first().and_then(|entry| match &entry.record {
            Record::InputAccepted(accepted) => Some(Arc::clone(accepted)),
            _ => None,
        }))
    }

    pub(crate) async fn offer(
        &self,
        mut input: Box<Input>,
        options: AcceptOptions,
        wait: bool,
    ) -> Result<Admitted, SessionError> {
        let mut named = None;
        if input.blocks().is_some() {
            // Boxed, so that the state of this rare path is not part of every call.
            match Box::pin(self.keep_media(input, options)).await {
                Ok((detached, guard)) => (input, named) = (detached, guard),
                Err(MediaError::Blob(error)) => return Err(SessionError::Blob(error)),
                Err(MediaError::Session(error)) => return Err(error),
                Err(MediaError::Rejected(reason)) => {
                    let outcome = AcceptOutcome::Rejected { reason };
                    return Ok(Admitted { outcome, completion: None, pinned: None });
                }
            }
        }
        self.ask(|reply| Message::Accept { input, named, options, wait, reply }).await
    }

    /// Moves an input's media to the blob store, if the session would take the input. Nothing that it names is forgotten
    /// until the guard is dropped.
    async fn keep_media(
        &self,
        mut input: Box<Input>,
        options: AcceptOptions,
    ) -> Result<(Box<Input>, Option<Named>), MediaError> {
        let blobs = self.shared.blobs.clone();
        let has_store = blobs.is_some();
        let detached =
            tokio::task::spawn_blocking(move || media::detach(&mut input, has_store).map(|media| (input, media)));
        let (input, media) =
            detached.await.expect("decoding neither panics nor is aborted").map_err(MediaError::Rejected)?;
        let Some(blobs) = blobs.filter(|_| !media.is_empty()) else { return Ok((input, None)) };
        let asked = input.clone();
        let wanted = self.look(move |session| session.would_admit(&asked, options)).await;
        if !wanted.map_err(MediaError::Session)? {
            return Ok((input, None));
        }
        let named = self.shared.naming.name(input.blobs()).await;
        media.keep(&*blobs).await?;
        Ok((input, Some(named)))
    }

    pub(crate) async fn control(&self, verb: Control) -> Result<ControlReport, SessionError> {
        self.ask(|reply| Message::Control { verb, reply }).await
    }

    /// Looks at the session. While nothing can be written it cannot be opened; then at what is stored of it.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Session) -> T + Send + 'static,
    ) -> Result<T, SessionError> {
        let (reply, answer) = oneshot::channel();
        let tell = move |session: Result<&Session, SessionError>| {
            let seen = match session {
                Ok(session) => Ok(look(session)),
                Err(error) => Err((error, look)),
            };
            drop(reply.send(seen));
        };
        self.slot.send(&self.shared, Message::Look { reply: Box::new(tell) }).await?;
        match answer.await.map_err(|_| SessionError::Draining)? {
            Ok(seen) => Ok(seen),
            Err((SessionError::Store(StoreError::Full(_) | StoreError::ReadOnly(_)), look)) => {
                self.look_stored(look).await
            }
            Err((error, _)) => Err(error),
        }
    }

    /// Looks at what is stored of the session, without owning it.
    async fn look_stored<T>(&self, look: impl FnOnce(&Session) -> T) -> Result<T, SessionError> {
        let missing = || SessionError::NotFound(self.id());
        let Loaded { snapshot, tail } = self.shared.store.load(self.id()).await?.ok_or_else(missing)?;
        let (limits, policy) = (self.shared.limits.clone(), Arc::clone(&self.shared.policy));
        let snapshot = snapshot.as_ref().map(|(_, snapshot)| &**snapshot);
        let stored = Session::recover(self.id(), limits, policy, snapshot, &tail)
            .map_err(|error| SessionError::Corrupt { session: self.id(), error })?;
        if stored.head() == Seq::ZERO { Err(missing()) } else { Ok(look(&stored)) }
    }

    pub(crate) async fn ask<T>(&self, message: impl FnOnce(Answer<T>) -> Message) -> Result<T, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.slot.send(&self.shared, message(reply)).await?;
        answer.await.map_err(|_| SessionError::Draining)?
    }
}

const RECOVER_PAGE: u32 = 4_096;

fn recovered(open: u32) -> ControlReport {
    ControlReport { inputs_transferred: open, ..ControlReport::default() }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.shared.put_down(&self.slot);
    }
}

impl std::fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SessionHandle").field(&self.slot.id).finish()
    }
}
