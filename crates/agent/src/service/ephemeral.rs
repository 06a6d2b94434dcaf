//! How are conversations kept live in memory, with one turn at a time in each?
//!
//! Whether a turn is on is one field under one lock that is never held across an await: of two turns exactly one is
//! admitted, an interrupt finds the turn from its admission to its end, a dropped turn ends, and reads wait for nobody.

use super::{
    Appended, ConversationQuery, ConversationSummary, ConversationView, CreateSession, ServiceError, SessionService,
    StartTurn, SystemContext, TurnEvent, TurnEvents, TurnOutput,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use windlass_core::{ExecutionKind, JsonText, SessionId, Terminal, render::ContentInput};

/// Events that are kept for a follower who is busy.
const EVENTS: usize = 256;
/// Conversations in one list, unless told.
const LIST: usize = 500;

/// Answers in a conversation.
#[async_trait]
pub trait ConversationAgent: Send + Sync + 'static {
    /// Says what is said next: messages, and what they come to. `past` is the conversation before this turn, `new` what
    /// this turn has brought, the prompt at its end. An interrupted turn is dropped at its next await.
    ///
    /// # Errors
    /// [`ServiceError`]; nothing of the turn is kept but its boundaries, its prompt neither.
    async fn answer(
        &self,
        past: &[JsonText],
        new: &[JsonText],
        request: &StartTurn,
        floor: &Floor<'_>,
    ) -> Result<(Vec<JsonText>, Terminal), ServiceError>;
}

/// Where an agent shows what it is doing, and commits what it has done.
pub struct Floor<'c> {
    conversation: &'c Conversation,
    /// What this turn has brought, until the first boundary holds it.
    uncommitted: Mutex<Brought>,
}

/// What a turn brings to its conversation.
#[derive(Default)]
struct Brought {
    messages: Vec<JsonText>,
    /// How many of the staged ones are among them.
    staged: usize,
}

impl Floor<'_> {
    /// Commits what the agent has said so far in this turn and has not committed yet, so that a turn that is lost goes on
    /// from there. The last of it asks for more (a tool's result): after a last word there is nothing to resume.
    ///
    /// # Errors
    /// As [`Boundaries::commit`](super::Boundaries::commit): end the turn with it.
    pub async fn commit(&self, request: &StartTurn, said: Vec<JsonText>) -> Result<(), ServiceError> {
        let brought = std::mem::take(&mut *self.brought());
        let new = [brought.messages, said].concat();
        if let Some(boundaries) = &request.boundaries {
            let count = self.conversation.state().count() + new.len() as u64;
            boundaries.commit(new.clone(), count).await?;
        }
        let mut state = self.conversation.state();
        state.staged.drain(..brought.staged);
        state.committed.extend(new);
        Ok(())
    }

    fn brought(&self) -> MutexGuard<'_, Brought> {
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows something to all who follow. Not recorded; missed by those who are too slow. Never blocks.
    pub fn show(&self, request: &StartTurn, delta: JsonText) {
        if let Some(progress) = &request.progress {
            progress(delta.clone());
        }
        // An error says that nobody follows.
        drop(self.conversation.events.send(TurnEvent::Shown(delta)));
    }
}

impl std::fmt::Debug for Floor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Floor").finish_non_exhaustive()
    }
}

/// Conversations in memory, around an agent.
pub struct EphemeralSessionService<A> {
    agent: A,
    most: usize,
    live: Mutex<BTreeMap<SessionId, Arc<Conversation>>>,
}

struct Conversation {
    labels: BTreeMap<String, String>,
    events: broadcast::Sender<TurnEvent>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: Arc<Vec<JsonText>>,
    /// What boundaries of the turn that is on hold: part of the messages when it ends, which its agent still looks at.
    committed: Vec<JsonText>,
    turn: Option<Running>,
    /// Known while a turn was on, for the next one.
    staged: Vec<SystemContext>,
    /// What each key stands for.
    keys: HashMap<String, String>,
}

/// A turn from its admission to its end.
#[derive(Clone, Default)]
struct Running {
    interrupt: CancellationToken,
    over: CancellationToken,
}

/// Ends the turn when it is dropped.
struct Admitted<'c> {
    conversation: &'c Conversation,
    running: Running,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.conversation.state().end_turn();
        self.running.over.cancel();
    }
}

impl State {
    fn count(&self) -> u64 {
        (self.messages.len() + self.committed.len()) as u64
    }

    fn end_turn(&mut self) {
        self.turn = None;
        let committed = std::mem::take(&mut self.committed);
        if !committed.is_empty() {
            Arc::make_mut(&mut self.messages).extend(committed);
        }
    }
}

impl Conversation {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self) -> Result<Admitted<'_>, ServiceError> {
        let mut state = self.state();
        if state.turn.is_some() {
            return Err(ServiceError::Busy);
        }
        let running = Running::default();
        state.turn = Some(running.clone());
        Ok(Admitted { conversation: self, running })
    }

    fn summary(&self, session: SessionId, state: &State) -> ConversationSummary {
        let (labels, message_count) = (self.labels.clone(), state.messages.len() as u64);
        ConversationSummary { session, labels, message_count, is_running: state.turn.is_some() }
    }
}

impl<A: ConversationAgent> EphemeralSessionService<A> {
    /// At most so many live conversations around this agent.
    pub fn new(agent: A, most: usize) -> EphemeralSessionService<A> {
        EphemeralSessionService { agent, most, live: Mutex::default() }
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<Conversation>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, session: SessionId) -> Result<Arc<Conversation>, ServiceError> {
        self.live().get(&session).cloned().ok_or(ServiceError::NotFound)
    }

    async fn turn(&self, conversation: &Conversation, request: StartTurn) -> Result<TurnOutput, ServiceError> {
        let admitted = conversation.admit()?;
        drop(conversation.events.send(TurnEvent::Started));
        let ended = tokio::select! {
            biased;
            () = admitted.running.interrupt.cancelled() => Err(ServiceError::Interrupted),
            ended = self.answer(conversation, &request) => ended,
        };
        // Idle before anybody hears of the end.
        drop(admitted);
        drop(conversation.events.send(match &ended {
            Ok(output) => TurnEvent::Ended(output.messages.clone()),
            Err(error) => TurnEvent::Failed(error.clone()),
        }));
        ended
    }

    async fn answer(&self, conversation: &Conversation, request: &StartTurn) -> Result<TurnOutput, ServiceError> {
        // Shared, not copied: a turn costs what it adds.
        let (past, staged) = {
            let state = conversation.state();
            (Arc::clone(&state.messages), state.staged.clone())
        };
        let mut new: Vec<JsonText> = Vec::new();
        let known = |context: &SystemContext| message("system", &context.text);
        new.extend(staged.iter().chain(&request.context).map(known));
        if request.execution_kind == ExecutionKind::ContentTurn {
            new.extend(request.additional_instructions.iter().map(|note| message("system", note)));
            new.push(match &request.prompt {
                ContentInput::Text(text) => message("user", text),
                ContentInput::Blocks(blocks) => message("user", blocks),
            });
        } else if !past.last().is_some_and(is_pending) {
            return Err(ServiceError::NoPendingBoundary);
        }
        let brought = Brought { messages: new.clone(), staged: staged.len() };
        let floor = Floor { conversation, uncommitted: Mutex::new(brought) };
        let (said, terminal) = self.agent.answer(&past, &new, request, &floor).await?;
        drop(past);
        let brought = std::mem::take(&mut *floor.brought());
        let messages = [brought.messages, said].concat();
        let mut state = conversation.state();
        state.staged.drain(..brought.staged);
        state.committed.extend(messages.iter().cloned());
        Ok(TurnOutput { messages, message_count: state.count(), terminal })
    }
}

#[async_trait]
impl<A: ConversationAgent> SessionService for EphemeralSessionService<A> {
    async fn create_session(&self, request: CreateSession) -> Result<Option<TurnOutput>, ServiceError> {
        let CreateSession { session, history, labels, first_turn } = request;
        let state = Mutex::new(State { messages: Arc::new(history), ..State::default() });
        let conversation = Arc::new(Conversation { labels, events: broadcast::Sender::new(EVENTS), state });
        {
            let mut live = self.live();
            if live.contains_key(&session) {
                return Err(ServiceError::Busy);
            }
            if live.len() >= self.most {
                return Err(ServiceError::Full { limit: self.most });
            }
            live.insert(session, Arc::clone(&conversation));
        }
        let Some(first_turn) = first_turn else { return Ok(None) };
        // Whoever gets no answer does not know the conversation either.
        let mut unborn = Unborn { service: self, session: Some(session) };
        let output = self.turn(&conversation, first_turn).await?;
        unborn.session = None;
        Ok(Some(output))
    }

    async fn start_turn(&self, session: SessionId, request: StartTurn) -> Result<TurnOutput, ServiceError> {
        let conversation = self.find(session)?;
        self.turn(&conversation, request).await
    }

    async fn interrupt(&self, session: SessionId) -> Result<(), ServiceError> {
        let conversation = self.find(session)?;
        let turn = conversation.state().turn.clone();
        turn.ok_or(ServiceError::NotRunning)?.interrupt.cancel();
        Ok(())
    }

    async fn has_live_session(&self, session: SessionId) -> bool {
        self.live().contains_key(&session)
    }

    async fn read(&self, session: SessionId) -> Result<ConversationView, ServiceError> {
        let conversation = self.find(session)?;
        let state = conversation.state();
        Ok(ConversationView { summary: conversation.summary(session, &state), messages: Arc::clone(&state.messages) })
    }

    async fn list(&self, query: ConversationQuery) -> Result<Vec<ConversationSummary>, ServiceError> {
        let live = self.live();
        let wanted = |conversation: &Conversation| {
            query.labels.iter().all(|(label, value)| conversation.labels.get(label) == Some(value))
        };
        let found = live.iter().filter(|(_, conversation)| wanted(conversation)).skip(query.offset);
        let found = found.take(query.limit.unwrap_or(LIST));
        Ok(found.map(|(session, conversation)| conversation.summary(*session, &conversation.state())).collect())
    }

    async fn archive(&self, session: SessionId) -> Result<(), ServiceError> {
        let conversation = self.live().remove(&session).ok_or(ServiceError::NotFound)?;
        let turn = conversation.state().turn.clone();
        if let Some(turn) = turn {
            turn.interrupt.cancel();
            turn.over.cancelled().await;
        }
        Ok(())
    }

    fn subscribe(&self, session: SessionId) -> Result<TurnEvents, ServiceError> {
        Ok(TurnEvents(self.find(session)?.events.subscribe()))
    }

    async fn append_system_context(
        &self,
        session: SessionId,
        context: SystemContext,
    ) -> Result<Appended, ServiceError> {
        let conversation = self.find(session)?;
        let mut state = conversation.state();
        match state.keys.get(&context.key) {
            Some(text) if *text == context.text => return Ok(Appended::Duplicate),
            Some(_) => return Err(ServiceError::Conflict { key: context.key }),
            None => {}
        }
        state.keys.insert(context.key.clone(), context.text.clone());
        if state.turn.is_some() {
            state.staged.push(context);
            return Ok(Appended::Staged);
        }
        let new = vec![message("system", &context.text)];
        Arc::make_mut(&mut state.messages).extend(new.iter().cloned());
        Ok(Appended::Applied(new))
    }
}

/// A conversation whose first turn is not over. Taken back when dropped.
struct Unborn<'s, A: ConversationAgent> {
    service: &'s EphemeralSessionService<A>,
    session: Option<SessionId>,
}

impl<A: ConversationAgent> Drop for Unborn<'_, A> {
    fn drop(&mut self) {
        if let Some(session) = self.session {
            self.service.live().remove(&session);
        }
    }
}

fn message(role: &str, content: impl Serialize) -> JsonText {
    #[derive(Serialize)]
    struct Message<'m, C> {
        role: &'m str,
        content: C,
    }
    JsonText::encode(&Message { role, content }).expect("text and blocks are JSON")
}

/// Whether the agent still has to say something.
fn is_pending(last: &JsonText) -> bool {
    #[derive(Deserialize)]
    struct Spoken {
        role: String,
    }
    serde_json::from_str::<Spoken>(last.get()).is_ok_and(|last| last.role != "assistant")
}

impl<A> std::fmt::Debug for EphemeralSessionService<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EphemeralSessionService").field("most", &self.most).finish_non_exhaustive()
    }
}
