//! What does Windlass need of a service that has conversations, and what does it promise it?
//!
//! A [`SessionService`] keeps live conversations and runs their turns. [`ServiceExecutor`] drives one from the runtime:
//! the service may then forget everything at any time, because what a turn added is committed with the turn's boundary,
//! and a conversation that is not live is made again from its boundaries. [`EphemeralSessionService`] is one in memory,
//! around a function that answers.

mod ephemeral;
mod executor;

pub use ephemeral::{ConversationAgent, EphemeralSessionService, Floor};
pub use executor::ServiceExecutor;

use async_trait::async_trait;
use std::{collections::BTreeMap, fmt, sync::Arc};
use tokio::sync::broadcast;
use windlass_core::{ExecutionKind, JsonText, RunId, SessionId, Terminal, render::ContentInput};

/// Keeps live conversations, one per session, and runs one turn at a time in each.
///
/// Reads never wait behind a turn. Every call may be dropped at any await; a dropped turn leaves the conversation as its
/// last boundary left it, or as it was before the turn, and idle.
#[async_trait]
pub trait SessionService: Send + Sync + 'static {
    /// Makes a conversation live, with what it has said before, and runs its first turn if there is one.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] if it is live, [`ServiceError::Full`] if there are too many; else as for a turn. Nothing is
    /// live after an error.
    async fn create_session(&self, request: CreateSession) -> Result<Option<TurnOutput>, ServiceError>;

    /// Runs a turn and returns what it added since its last boundary. The conversation is idle, and shows it, before this
    /// returns. On the way it may commit boundaries by [`StartTurn::boundaries`]: what is in one is part of the
    /// conversation, whatever becomes of the turn.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] if it is not live, [`ServiceError::Busy`] if a turn is on,
    /// [`ServiceError::NoPendingBoundary`] if there is nothing to resume, [`ServiceError::Interrupted`],
    /// [`ServiceError::Agent`]. The conversation is as the last boundary left it, or as it was before.
    async fn start_turn(&self, session: SessionId, request: StartTurn) -> Result<TurnOutput, ServiceError>;

    /// Ends the turn that is on. It is not lost, whenever it comes between the start of the turn and its end.
    ///
    /// # Errors
    /// [`ServiceError::NotRunning`] if none is, [`ServiceError::NotFound`] if the conversation is not live.
    async fn interrupt(&self, session: SessionId) -> Result<(), ServiceError>;

    /// Whether the conversation is live, idle or not.
    async fn has_live_session(&self, session: SessionId) -> bool;

    /// The conversation as it stands.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] if it is not live.
    async fn read(&self, session: SessionId) -> Result<ConversationView, ServiceError>;

    /// Live conversations with these labels, by session.
    ///
    /// # Errors
    /// [`ServiceError::Agent`] if the service cannot tell.
    async fn list(&self, query: ConversationQuery) -> Result<Vec<ConversationSummary>, ServiceError>;

    /// Ends the conversation. A turn that is on is interrupted, and has ended when this returns.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] if it is not live.
    async fn archive(&self, session: SessionId) -> Result<(), ServiceError>;

    /// What happens in the conversation from now on.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] if it is not live.
    fn subscribe(&self, session: SessionId) -> Result<TurnEvents, ServiceError>;

    /// Lets the conversation know something without a turn. The same key and text again change nothing.
    ///
    /// # Errors
    /// [`ServiceError::Conflict`] if the key was used for something else, [`ServiceError::NotFound`].
    async fn append_system_context(&self, session: SessionId, context: SystemContext)
    -> Result<Appended, ServiceError>;
}

/// A conversation to make live.
#[derive(Clone, Debug)]
pub struct CreateSession {
    /// Which session it is.
    pub session: SessionId,
    /// Its messages so far, oldest first, as turns returned them.
    pub history: Vec<JsonText>,
    /// By what it is found in lists.
    pub labels: BTreeMap<String, String>,
    /// Its first turn, if it begins with one.
    pub first_turn: Option<StartTurn>,
}

impl CreateSession {
    /// A conversation that has not said anything yet.
    pub fn new(session: SessionId) -> CreateSession {
        CreateSession { session, history: Vec::new(), labels: BTreeMap::new(), first_turn: None }
    }
}

/// A turn to run.
#[derive(Clone)]
pub struct StartTurn {
    /// What is said to the agent.
    pub prompt: ContentInput,
    /// What it should know beside it, oldest first.
    pub context: Vec<SystemContext>,
    /// What it should heed in this turn only.
    pub additional_instructions: Vec<String>,
    /// Whether there is something new to say, or only something to resume.
    pub execution_kind: ExecutionKind,
    /// The run that this is; none outside of the runtime.
    pub run: Option<RunId>,
    /// Hears what the agent shows while it works. Never blocks.
    pub progress: Option<Arc<dyn Fn(JsonText) + Send + Sync>>,
    /// Makes steps of the turn durable; none outside of the runtime.
    pub boundaries: Option<Arc<dyn Boundaries>>,
}

/// Makes durable what a turn has added so far, so that nobody asks for it again.
#[async_trait]
pub trait Boundaries: Send + Sync + 'static {
    /// Commits messages that no boundary holds yet, the prompt's among the first; `message_count` is how many the
    /// conversation has with them. A turn that is lost afterwards is resumed, with
    /// [`ResumePending`](ExecutionKind::ResumePending), where they end.
    ///
    /// Cancel-safe in this sense: dropped, they may have been committed or not, and the conversation is made again from
    /// what was.
    ///
    /// # Errors
    /// [`ServiceError::Interrupted`] if the run is over, [`ServiceError::Agent`] if they cannot be made durable now. End
    /// the turn with it.
    async fn commit(&self, messages: Vec<JsonText>, message_count: u64) -> Result<(), ServiceError>;
}

impl StartTurn {
    /// A turn in which somebody says this.
    pub fn text(text: impl Into<String>) -> StartTurn {
        StartTurn {
            prompt: ContentInput::Text(text.into()),
            context: Vec::new(),
            additional_instructions: Vec::new(),
            execution_kind: ExecutionKind::ContentTurn,
            run: None,
            progress: None,
            boundaries: None,
        }
    }
}

impl fmt::Debug for StartTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartTurn")
            .field("prompt", &self.prompt)
            .field("execution_kind", &self.execution_kind)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// What a turn added.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnOutput {
    /// The messages that are new, the prompt's among them: what is committed. Not those of before, and not those that a
    /// boundary of the turn holds.
    pub messages: Vec<JsonText>,
    /// How many messages there are now.
    pub message_count: u64,
    /// What it came to.
    pub terminal: Terminal,
}

/// Something that a conversation should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemContext {
    /// By what a repetition is recognised.
    pub key: String,
    /// What it is.
    pub text: String,
}

/// What became of context.
#[derive(Clone, Debug, PartialEq)]
pub enum Appended {
    /// It is part of the conversation: these messages are new.
    Applied(Vec<JsonText>),
    /// A turn is on; it becomes part of the conversation with the next one.
    Staged,
    /// It was there before.
    Duplicate,
}

/// A conversation at one glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationSummary {
    /// The session.
    pub session: SessionId,
    /// By what it is found.
    pub labels: BTreeMap<String, String>,
    /// How many messages it has.
    pub message_count: u64,
    /// Whether a turn is on.
    pub is_running: bool,
}

/// A conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationView {
    /// At one glance.
    pub summary: ConversationSummary,
    /// Its messages, oldest first. Shared with the conversation, not copied.
    pub messages: Arc<Vec<JsonText>>,
}

/// Which conversations are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConversationQuery {
    /// All of these labels.
    pub labels: BTreeMap<String, String>,
    /// So many are left out at the beginning.
    pub offset: usize,
    /// At most so many; none: 500.
    pub limit: Option<usize>,
}

/// What happens in a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnEvent {
    /// A turn began.
    Started,
    /// The agent shows this.
    Shown(JsonText),
    /// The turn is over; the messages that it added.
    Ended(Vec<JsonText>),
    /// The turn did not end well.
    Failed(ServiceError),
    /// So many events were missed by this follower, who was too slow.
    Missed(u64),
}

/// A follower of a conversation.
#[derive(Debug)]
pub struct TurnEvents(broadcast::Receiver<TurnEvent>);

impl TurnEvents {
    /// The next event; none when the conversation is no longer live. Cancel-safe.
    pub async fn next(&mut self) -> Option<TurnEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(TurnEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Why a service did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The conversation is not live.
    #[error("session_not_found: the conversation is not live; create it")]
    NotFound,
    /// A turn is on, or the conversation is live already.
    #[error("session_busy: another turn is on, or the conversation is live already")]
    Busy,
    /// There is no turn to interrupt.
    #[error("session_not_running: no turn is on")]
    NotRunning,
    /// There are as many live conversations as there may be.
    #[error("too_many_sessions: {limit} conversations are live, the most there may be; archive one")]
    Full {
        /// The most allowed.
        limit: usize,
    },
    /// There is nothing to resume: the last word was the agent's.
    #[error("no_pending_boundary: there is nothing to resume")]
    NoPendingBoundary,
    /// The turn was interrupted.
    #[error("interrupted: the turn was interrupted")]
    Interrupted,
    /// The key stands for something else.
    #[error("idempotency_conflict: the key {key:?} was used for another text")]
    Conflict {
        /// The key.
        key: String,
    },
    /// The service cannot do this.
    #[error("session_unsupported: {0}")]
    Unsupported(String),
    /// The agent failed.
    #[error("agent_error: {error}")]
    Agent {
        /// What went wrong.
        error: String,
        /// Whether another try may help.
        is_retryable: bool,
    },
}
