//! What can be put into a session's mailbox?
//!
//! One mailbox per session: calls, controls, executors' reports and checkpoints share it, so order is what it looks
//! like. Messages are boxed, because an idle mailbox keeps room for thirty-two of them.

use crate::{
    completion::{Completion, CompletionHandle},
    creation::NewSession,
    error::SessionError,
    executor::CoreExecutor,
    sweep::Named,
};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use windlass_core::{
    AcceptOptions, AcceptOutcome, Accepted, AttemptId, BoundaryOutput, CancelOutcome, CompletionSeq, Control,
    ControlReport, CorrelationId, Delivery, Disposition, Input, InputId, OperationId, OperationReport, OperationSpec,
    OpsLifecycleError, Outgoing, RunBoundaryReceipt, RunClosed, RunId, RunReport, RunStart, SendRefused, Session,
    WithdrawOutcome,
};

pub(crate) type Answer<T> = oneshot::Sender<Result<T, SessionError>>;

/// A message to a session's owner.
pub(crate) enum Message {
    Accept {
        input: Box<Input>,
        /// What it names is not forgotten before it is answered.
        named: Option<Named>,
        options: AcceptOptions,
        wait: bool,
        reply: Answer<Admitted>,
    },
    Withdraw {
        input: InputId,
        reply: Answer<WithdrawOutcome>,
    },
    Checkpoint {
        attempt: AttemptId,
        reply: Answer<Result<Vec<Arc<Accepted>>, RunClosed>>,
    },
    Boundary {
        attempt: AttemptId,
        output: BoundaryOutput,
        reply: Answer<Result<Arc<RunBoundaryReceipt>, RunClosed>>,
    },
    /// An executor is done, or gone. Whoever ran it himself hears when that is durable, or that it was refused.
    Report {
        attempt: AttemptId,
        report: RunReport,
        /// Whether the executor was done as soon as it was called.
        at_once: bool,
        reply: Option<Answer<Result<(), RunClosed>>>,
    },
    Cancel {
        run: Option<RunId>,
        reason: String,
        disposition: Disposition,
        reply: Answer<CancelOutcome>,
    },
    Control {
        verb: Control,
        reply: Answer<ControlReport>,
    },
    RegisterOperation {
        spec: OperationSpec,
        attempt: Option<AttemptId>,
        /// Whether it runs already.
        runs: bool,
        reply: Answer<Result<(), OpsLifecycleError>>,
    },
    Operation {
        id: OperationId,
        report: OperationReport,
        reply: Answer<Result<(), OpsLifecycleError>>,
    },
    TerminateOperations {
        reason: String,
        reply: Answer<Result<(), OpsLifecycleError>>,
    },
    CompletionsApplied {
        seq: CompletionSeq,
        reply: Answer<Result<(), OpsLifecycleError>>,
    },
    /// Make the session unless it exists; answers whether it was made by this very letter.
    Create {
        new: Arc<NewSession>,
        made: bool,
        reply: Answer<bool>,
    },
    /// Keep an envelope that is to be sent.
    Send {
        outgoing: Arc<Outgoing>,
        reply: Answer<Result<(), SendRefused>>,
    },
    /// What became of an envelope.
    Delivery {
        id: CorrelationId,
        delivery: Delivery,
        reply: Answer<Result<(), SendRefused>>,
    },
    /// Attach an executor by hand, unless one is.
    Attach {
        executor: Arc<dyn CoreExecutor>,
        reply: Answer<Attachment>,
    },
    /// Look at the session. Sees committed state only.
    Look {
        reply: Look,
    },
    /// Tell the end of an input that is open; answers false if it is not.
    Watch {
        input: InputId,
        waiter: oneshot::Sender<Completion>,
        reply: Answer<bool>,
    },
    /// Begin no other run; answered once none is on.
    FinishRun {
        reply: Answer<()>,
    },
    /// Let go in good order and end.
    Leave {
        reason: &'static str,
        reply: Answer<()>,
    },
}

impl Message {
    /// Answers that it could not be done. A look or a report without an answer is dropped: who waits for it hears that
    /// the channel is closed.
    pub(crate) fn refuse(self, error: SessionError) {
        fn tell<T>(reply: Answer<T>, error: SessionError) {
            // An error says that the caller is gone, who then needs no answer.
            drop(reply.send(Err(error)));
        }
        match self {
            Message::Accept { reply, .. } => tell(reply, error),
            Message::Withdraw { reply, .. } => tell(reply, error),
            Message::Checkpoint { reply, .. } => tell(reply, error),
            Message::Boundary { reply, .. } => tell(reply, error),
            Message::Report { reply, .. } => {
                if let Some(reply) = reply {
                    tell(reply, error);
                }
            }
            Message::Cancel { reply, .. } => tell(reply, error),
            Message::Control { reply, .. } => tell(reply, error),
            Message::RegisterOperation { reply, .. }
            | Message::Operation { reply, .. }
            | Message::TerminateOperations { reply, .. }
            | Message::CompletionsApplied { reply, .. } => tell(reply, error),
            Message::Send { reply, .. } | Message::Delivery { reply, .. } => tell(reply, error),
            Message::Attach { reply, .. } => tell(reply, error),
            Message::Look { reply, .. } => reply(Err(error)),
            Message::Create { reply, .. } | Message::Watch { reply, .. } => tell(reply, error),
            Message::FinishRun { reply } | Message::Leave { reply, .. } => tell(reply, error),
        }
    }
}

impl Message {
    /// As [`Message::refuse`], but whoever asks the owner to leave is put on a list: that can be done whatever failed.
    pub(crate) fn refuse_but_leave(self, error: &SessionError, leaving: &mut Vec<(&'static str, Answer<()>)>) {
        match self {
            Message::Leave { reason, reply } => leaving.push((reason, reply)),
            message => message.refuse(error.clone()),
        }
    }
}

/// Answers from a session, or with the reason why it could not be looked at.
pub(crate) type Look = Box<dyn FnOnce(Result<&Session, SessionError>) + Send>;

/// What became of an offer, and how to wait for what was taken.
pub(crate) struct Admitted {
    pub(crate) outcome: AcceptOutcome,
    pub(crate) completion: Option<CompletionHandle>,
    /// The run, if the caller runs it himself.
    pub(crate) pinned: Option<PinnedRun>,
}

/// A run in the hands of the caller who runs it himself. Dropped without a report, it says that he is gone.
pub(crate) struct PinnedRun {
    pub(crate) start: RunStart,
    /// Cancelled when the run is cut off.
    pub(crate) cut: CancellationToken,
    mailbox: Option<Mailbox>,
}

impl PinnedRun {
    pub(crate) fn new(start: RunStart, cut: CancellationToken, mailbox: Mailbox) -> PinnedRun {
        PinnedRun { start, cut, mailbox: Some(mailbox) }
    }

    /// The caller has reported himself.
    pub(crate) fn reported(&mut self) {
        self.mailbox = None;
    }
}

impl Drop for PinnedRun {
    fn drop(&mut self) {
        let Some(mailbox) = self.mailbox.take() else { return };
        let attempt = self.start.attempt;
        let message = Box::new(Message::Report { attempt, report: RunReport::CallerGone, at_once: false, reply: None });
        if let Err(mpsc::error::TrySendError::Full(message)) = mailbox.0.try_send(message)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Without a runtime the process is ending, and recovery says the same.
            runtime.spawn(async move { drop(mailbox.send_boxed(message).await) });
        }
    }
}

/// What became of an executor that was to be attached.
#[derive(Clone)]
pub enum Attachment {
    /// It is the session's executor now.
    Attached,
    /// Another one is attached and stays; the one offered was dropped.
    AlreadyAttached(Arc<dyn CoreExecutor>),
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Attachment::Attached => "Attached",
            Attachment::AlreadyAttached(_) => "AlreadyAttached",
        })
    }
}

/// A message under way.
pub(crate) type Letter = Box<Message>;

/// Messages that share one append.
pub(crate) const BATCH: usize = 128;

/// Messages that may wait; a sender waits for room.
pub(crate) const MAILBOX_ROOM: usize = 1024;

/// The sending end.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox(pub(crate) mpsc::Sender<Letter>);

impl Mailbox {
    pub(crate) fn new() -> (Mailbox, mpsc::Receiver<Letter>) {
        let (sender, receiver) = mpsc::channel(MAILBOX_ROOM);
        (Mailbox(sender), receiver)
    }

    /// Puts a message in, or gives it back if the owner is gone.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Letter> {
        self.send_boxed(Box::new(message)).await
    }

    pub(crate) async fn send_boxed(&self, message: Letter) -> Result<(), Letter> {
        self.0.send(message).await.map_err(|refused| refused.0)
    }
}
