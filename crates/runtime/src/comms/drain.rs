//! How does what waits in an inbox get into its session?
//!
//! One task per session, strictly in order: claim, admit, acknowledge. It may be ended at any await and loses nothing:
//! what was not acknowledged is claimed again, and what was admitted before that is recognised by its key.

use super::{
    bridge::{InteractionEvent, event_of, input_of},
    candidate::{InteractionContent, PeerInputClass},
    envelope::EnvelopeId,
    inbox::Claim,
    seam::{CommsRuntime, Refusal},
};
use crate::{
    RuntimeSessionAdapter, completion::CompletionHandle, error::SessionError, handle::SessionHandle, mailbox::Admitted,
    shared::Shared, store::InputRef,
};
use futures_util::FutureExt;
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use windlass_core::{AcceptOptions, AcceptOutcome, DrainExit, InputId, Lane, RejectReason, RuntimeState, SessionId};

/// Entries that are claimed at once.
const BATCH: usize = 64;
/// The wait after a session, a store or an inbox could not take part; doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// How long somebody who waits for an interaction may take to hear of its end.
pub(super) const TELL_LIMIT: Duration = Duration::from_secs(5);

/// What a drain task works with.
pub(super) struct DrainTask {
    /// The task does not keep the runtime alive.
    pub(super) shared: Weak<Shared>,
    pub(super) session: SessionId,
    pub(super) comms: Arc<dyn CommsRuntime>,
    pub(super) generation: u64,
    /// Ends it at its next await, but not in the middle of a dismissal.
    pub(super) cancel: CancellationToken,
    /// Set once it stops the session, so that a stop that lets go of the session does not wait for it.
    pub(super) dismissing: CancellationToken,
    /// Whether it has brought anything in, so that the next failure is not one more in a row.
    pub(super) progressed: AtomicBool,
}

/// Why a drain stopped taking entries.
enum End {
    Gone,
    Dismissed(Claim),
}

/// Whether an entry is dealt with.
enum Settled {
    Yes,
    SessionGone,
}

/// Runs a drain to its end and says how it ended. `previous` is the drain before it, which ends first; `ended` is
/// dropped last.
pub(super) async fn run(task: DrainTask, previous: Option<CancellationToken>, ended: DropGuard) {
    if let Some(previous) = previous {
        previous.cancelled().await;
    }
    let exit = AssertUnwindSafe(task.drain()).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(session = %task.session, "a peer drain panicked; what it had claimed stays in the inbox");
        DrainExit::Failed
    });
    if let Some(shared) = task.shared.upgrade() {
        let progressed = task.progressed.load(Ordering::Relaxed);
        shared.drains.exited(&shared, task.session, task.generation, exit, progressed);
    }
    drop(ended);
}

impl DrainTask {
    async fn drain(&self) -> DrainExit {
        let end = tokio::select! {
            biased;
            // Every await of the pump may be given up: nothing leaves the inbox before it is in the journal.
            () = self.cancel.cancelled() => return DrainExit::Aborted,
            end = self.pump() => end,
        };
        match end {
            End::Gone => DrainExit::SessionShutdown,
            End::Dismissed(claim) => self.dismiss(&claim).await,
        }
    }

    async fn pump(&self) -> End {
        let mut retry = Backoff::default();
        loop {
            let claims = match self.comms.claim(BATCH).await {
                Ok(claims) => claims,
                Err(error) => {
                    tracing::warn!(session = %self.session, %error, "inbox not read");
                    retry.wait().await;
                    continue;
                }
            };
            retry = Backoff::default();
            if claims.is_empty() {
                self.comms.notified().await;
                continue;
            }
            for claim in claims {
                if claim.candidate.class == PeerInputClass::Dismiss {
                    return End::Dismissed(claim);
                }
                if let Settled::SessionGone = self.settle(&claim).await {
                    return End::Gone;
                }
                self.progressed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Brings one entry in, or refuses it. While the session can do neither, the entry and all behind it wait, so that
    /// the inbox fills and senders hear of it.
    async fn settle(&self, claim: &Claim) -> Settled {
        let Some(shared) = self.shared.upgrade() else { return Settled::SessionGone };
        let candidate = &claim.candidate;
        let interaction = candidate.interaction.id;
        let id = InputId::from_uuid(uuid::Uuid::now_v7());
        let input = input_of(candidate, id, shared.clock.now()).expect("a dismissal is dealt with before");
        drop(shared);
        let aside = candidate.class == PeerInputClass::SilentRequest;
        let options = AcceptOptions { aside, ..AcceptOptions::default() };
        let wait = self.comms.is_subscribed(interaction);
        let mut retry = Backoff::default();
        loop {
            let Some(handle) = self.handle().await else { return Settled::SessionGone };
            // The same input each time: should the answer have been lost, the next offer finds the first one.
            let refusal = match handle.offer(Box::new(input.clone()), options, wait).await {
                Ok(Admitted { outcome: AcceptOutcome::Rejected { reason }, .. }) => match reason {
                    RejectReason::NotReady { state } if state != RuntimeState::Destroyed => None,
                    // Aside empties with the next run only, which what stands behind may be the one to start.
                    RejectReason::QueueFull { lane, .. } if lane != Lane::Aside => None,
                    RejectReason::IdempotencyConflict { .. } => {
                        if let InteractionContent::Response { .. } = candidate.interaction.content {
                            Some(Refusal::request_over())
                        } else {
                            // The same sender and envelope, shown differently by now: the first copy stands.
                            self.acknowledge(claim).await;
                            self.comms.mark_interaction_complete(interaction);
                            return Settled::Yes;
                        }
                    }
                    reason => Some(Refusal::from(&reason)),
                },
                Ok(admitted) => {
                    self.acknowledge(claim).await;
                    self.bridge(&handle, interaction, admitted, wait);
                    return Settled::Yes;
                }
                Err(SessionError::NotFound(_)) => return Settled::SessionGone,
                Err(error) => {
                    tracing::debug!(session = %self.session, %error, "an envelope waits for its session");
                    None
                }
            };
            // Nothing is kept open while it waits.
            drop(handle);
            match refusal {
                None => retry.wait().await,
                Some(refusal) => {
                    self.refuse(claim, &refusal).await;
                    return Settled::Yes;
                }
            }
        }
    }

    async fn handle(&self) -> Option<SessionHandle> {
        let mut retry = Backoff::default();
        loop {
            let adapter = RuntimeSessionAdapter { shared: self.shared.upgrade()? };
            match adapter.find(self.session).await {
                Ok(handle) => return handle,
                Err(error) => tracing::debug!(session = %self.session, %error, "session not found out"),
            }
            drop(adapter);
            retry.wait().await;
        }
    }

    async fn acknowledge(&self, claim: &Claim) {
        let mut retry = Backoff::default();
        while let Err(error) = self.comms.acknowledge(&[claim.receipt]).await {
            tracing::warn!(session = %self.session, %error, "envelope not acknowledged");
            retry.wait().await;
        }
    }

    /// Never silent: the sender hears why, and so does whoever waits here.
    async fn refuse(&self, claim: &Claim, refusal: &Refusal) {
        let mut retry = Backoff::default();
        while let Err(error) = self.comms.refuse(claim, refusal).await {
            tracing::warn!(session = %self.session, %error, "envelope not refused");
            retry.wait().await;
        }
        tracing::debug!(session = %self.session, code = %refusal.code, "envelope refused");
        let (comms, interaction) = (Arc::clone(&self.comms), claim.candidate.interaction.id);
        if !comms.is_subscribed(interaction) {
            return comms.mark_interaction_complete(interaction);
        }
        let error = refusal.reason.clone();
        self.spawn(async move { tell(&*comms, interaction, InteractionEvent::InteractionFailed { error }).await });
    }

    /// Tells whoever waits here how the interaction ended, in a task of its own.
    fn bridge(&self, handle: &SessionHandle, interaction: EnvelopeId, admitted: Admitted, wait: bool) {
        if !wait {
            return self.comms.mark_interaction_complete(interaction);
        }
        let (comms, handle) = (Arc::clone(&self.comms), handle.clone());
        self.spawn(async move {
            let completion = match (admitted.completion, admitted.outcome) {
                (Some(completion), _) => Some(completion),
                // An envelope that came again after its first copy was handled.
                (None, AcceptOutcome::Deduplicated { existing_id, .. }) => {
                    handle.completion(InputRef::Id(existing_id)).await.ok()
                }
                (None, _) => None,
            };
            let outcome = match completion.map(CompletionHandle::wait) {
                Some(outcome) => outcome.await,
                None => crate::CompletionOutcome::CompletedWithoutResult,
            };
            tell(&*comms, interaction, event_of(&outcome)).await;
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Without a runtime nobody waits for anything any more.
        if let Some(shared) = self.shared.upgrade() {
            shared.tasks.spawn(task);
        }
    }

    /// Stops the session, then takes the entry out: a dismissal that was cut off is done again.
    async fn dismiss(&self, claim: &Claim) -> DrainExit {
        self.dismissing.cancel();
        let mut retry = Backoff::default();
        loop {
            let Some(handle) = self.handle().await else { return DrainExit::SessionShutdown };
            match handle.stop().await {
                // What is destroyed needs no stop.
                Ok(_) | Err(SessionError::Refused(_)) => break,
                Err(SessionError::NotFound(_) | SessionError::Draining) => return DrainExit::SessionShutdown,
                Err(error) => tracing::warn!(session = %self.session, %error, "peer DISMISS not done yet"),
            }
            drop(handle);
            tokio::select! {
                () = self.cancel.cancelled() => return DrainExit::Aborted,
                () = retry.wait() => {}
            }
        }
        self.acknowledge(claim).await;
        DrainExit::Dismissed
    }
}

async fn tell(comms: &dyn CommsRuntime, interaction: EnvelopeId, event: InteractionEvent) {
    if tokio::time::timeout(TELL_LIMIT, comms.tell(interaction, event)).await.is_err() {
        tracing::warn!(%interaction, "whoever waited for an interaction did not take its end in time");
    }
    comms.mark_interaction_complete(interaction);
}

pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Backoff(RETRY_FIRST)
    }
}

impl Backoff {
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_LONGEST);
    }
}
