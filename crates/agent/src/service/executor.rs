//! How does the runtime drive a service, so that neither can lose what the other said?
//!
//! A turn's messages are committed as the deltas of its boundaries, those on the way and the last: what a turn costs does
//! not depend on how long the conversation is. Before each turn the journal is read from where the executor last looked. If what it finds there is
//! not exactly what the live conversation last said (the commit failed, another process went on, the session was reset),
//! the live one is let go and made again from the boundaries.

use super::{Appended, Boundaries, CreateSession, ServiceError, SessionService, StartTurn, SystemContext, TurnOutput};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use windlass_core::{
    BoundaryOutput, Entry, JsonText, Record, RunEnd, RunId, Seq, SessionId, Terminal,
    render::{ConversationContextAppend, CoreRenderable, RunPrimitive},
};
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, Turn, TurnError, store::StoreError};

/// Entries that are read at once.
const PAGE: u32 = 256;
/// How long a service may take to end a turn that is interrupted. Below the runtime's grace time.
const INTERRUPTING: Duration = Duration::from_secs(3);

/// Runs the runs of any number of sessions as turns of a service.
pub struct ServiceExecutor {
    service: Arc<dyn SessionService>,
    /// Of each session that is live in the service: how it got there.
    known: Mutex<HashMap<SessionId, Known>>,
}

/// Up to where the journal is known, and what the live conversation said last.
#[derive(Clone, Debug)]
struct Known {
    after: Seq,
    said: Vec<(RunId, u64)>,
}

/// The boundaries that a turn has committed.
struct Steps {
    turn: Turn,
    said: Mutex<Vec<(RunId, u64)>>,
}

#[async_trait]
impl Boundaries for Steps {
    async fn commit(&self, messages: Vec<JsonText>, message_count: u64) -> Result<(), ServiceError> {
        let committed = self.turn.commit(boundary(messages, message_count)).await;
        let receipt = committed.map_err(|error| match error {
            TurnError::Closed(_) => ServiceError::Interrupted,
            TurnError::Session(error) => ServiceError::Agent { error: error.to_string(), is_retryable: true },
        })?;
        self.said().push((receipt.run_id, receipt.sequence));
        Ok(())
    }
}

impl Steps {
    fn said(&self) -> MutexGuard<'_, Vec<(RunId, u64)>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a boundary adds to a conversation.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Delta {
    messages: Vec<JsonText>,
}

/// What the journal holds beyond what is known.
#[derive(Debug, Default)]
struct News {
    after: Seq,
    boundaries: Vec<(RunId, u64)>,
    messages: Vec<JsonText>,
    was_reset: bool,
}

impl ServiceExecutor {
    /// An executor of this service.
    pub fn new(service: Arc<dyn SessionService>) -> ServiceExecutor {
        ServiceExecutor { service, known: Mutex::default() }
    }

    /// Sees to it that the live conversation is the committed one; returns up to where the journal is known then.
    async fn bring_up(&self, turn: &Turn) -> Result<Seq, CoreExecutorError> {
        let session = turn.session();
        // Taken out: whoever leaves before the end of this turn has to look at everything again.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
        if let Some(known) = known
            && self.service.has_live_session(session).await
        {
            let news = read(turn, known.after).await?;
            if !news.was_reset && news.boundaries == known.said {
                return Ok(news.after);
            }
        }
        match self.service.archive(session).await {
            Ok(()) | Err(ServiceError::NotFound) => {}
            Err(error) => return Err(failure(&error)),
        }
        let news = read(turn, Seq::ZERO).await?;
        let request = CreateSession { history: news.messages, ..CreateSession::new(session) };
        self.service.create_session(request).await.map_err(|error| failure(&error))?;
        Ok(news.after)
    }

    /// The turn of a run, interrupted when the run is cancelled.
    async fn run(&self, turn: &Turn, steps: &Arc<Steps>) -> Result<TurnOutput, ServiceError> {
        let (session, primitive) = (turn.session(), turn.primitive());
        if primitive.is_context_only_immediate() {
            return self.append(session, &primitive).await;
        }
        let shown = turn.clone();
        let request = StartTurn {
            prompt: primitive.extract_content_input(),
            context: primitive.context_appends.iter().map(context).collect(),
            additional_instructions: primitive.turn_metadata.additional_instructions.clone(),
            execution_kind: primitive.execution_kind(),
            run: Some(turn.run()),
            progress: Some(Arc::new(move |delta| shown.progress(delta))),
            boundaries: Some(Arc::clone(steps) as Arc<dyn Boundaries>),
        };
        let mut running = self.service.start_turn(session, request);
        tokio::select! {
            biased;
            ended = &mut running => return ended,
            () = turn.cancelled() => {}
        }
        let told = self.service.interrupt(session).await;
        tracing::debug!(%session, ?told, "service told to end a turn");
        tokio::time::timeout(INTERRUPTING, running).await.unwrap_or(Err(ServiceError::Interrupted))
    }

    /// Context without a turn.
    async fn append(&self, session: SessionId, primitive: &RunPrimitive) -> Result<TurnOutput, ServiceError> {
        let mut messages = Vec::new();
        for append in &primitive.context_appends {
            if let Appended::Applied(new) = self.service.append_system_context(session, context(append)).await? {
                messages.extend(new);
            }
        }
        let message_count = self.service.read(session).await?.summary.message_count;
        Ok(TurnOutput { messages, message_count, terminal: Terminal::NoResult })
    }
}

#[async_trait]
impl CoreExecutor for ServiceExecutor {
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        let session = turn.session();
        let after = self.bring_up(&turn).await?;
        let steps = Arc::new(Steps { turn: turn.clone(), said: Mutex::default() });
        let output = match self.run(&turn, &steps).await {
            Err(ServiceError::NoPendingBoundary) => {
                let message_count =
                    self.service.read(session).await.map_err(|error| failure(&error))?.summary.message_count;
                TurnOutput { messages: Vec::new(), message_count, terminal: Terminal::NoResult }
            }
            ended => ended.map_err(|error| failure(&error))?,
        };
        let mut said = std::mem::take(&mut *steps.said());
        let last = said.last().map(|(_, sequence)| *sequence).or(turn.resumes_after());
        said.push((turn.run(), last.map_or(0, |last| last + 1)));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(session, Known { after, said });
        let boundary = boundary(output.messages, output.message_count);
        Ok(CoreApplyOutput { boundary, terminal: output.terminal })
    }

    async fn stopped(&self, session: SessionId, _: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
        if let Err(error) = self.service.archive(session).await {
            tracing::debug!(%session, %error, "the conversation was not live any more");
        }
    }
}

fn boundary(messages: Vec<JsonText>, message_count: u64) -> BoundaryOutput {
    let delta = JsonText::encode(&Delta { messages }).expect("JSON in a list is JSON");
    BoundaryOutput { message_count, conversation_digest: None, delta: Some(delta) }
}

/// Reads the journal from a position to its end.
async fn read(turn: &Turn, after: Seq) -> Result<News, CoreExecutorError> {
    let mut news = News { after, ..News::default() };
    loop {
        match turn.history(news.after, PAGE).await {
            Ok(entries) if entries.is_empty() => return Ok(news),
            Ok(entries) => {
                for entry in &entries {
                    news.fold(entry)?;
                }
            }
            // What is no longer kept is no longer known to anybody.
            Err(StoreError::Pruned { oldest }) if oldest > news.after => news.after = oldest,
            Err(error) => return Err(CoreExecutorError::retryable(error.to_string())),
        }
    }
}

impl News {
    fn fold(&mut self, entry: &Entry) -> Result<(), CoreExecutorError> {
        self.after = entry.seq;
        let (receipt, delta) = match &entry.record {
            Record::BoundaryCommitted(boundary) => (&boundary.receipt, &boundary.delta),
            Record::RunEnded(ended) => match &ended.end {
                RunEnd::Completed { receipt, delta, .. } => (receipt, delta),
                RunEnd::Failed { .. } | RunEnd::Cancelled { .. } | RunEnd::Released { .. } => return Ok(()),
            },
            Record::SessionReset { .. } => {
                *self = News { after: self.after, was_reset: true, ..News::default() };
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.boundaries.push((receipt.run_id, receipt.sequence));
        if let Some(delta) = delta {
            let Delta { messages } = serde_json::from_str(delta.get()).map_err(|error| {
                let seq = entry.seq;
                CoreExecutorError::fatal(format!("transcript_unreadable: the delta of entry {seq:?}: {error}"))
            })?;
            self.messages.extend(messages);
        }
        Ok(())
    }
}

fn context(append: &ConversationContextAppend) -> SystemContext {
    let text = match &append.content {
        CoreRenderable::Text { text } => text.clone(),
        CoreRenderable::Blocks { blocks } => {
            blocks.iter().filter_map(windlass_core::ContentBlock::as_text).collect::<Vec<_>>().join("\n")
        }
        CoreRenderable::Json { value } => value.to_string(),
        CoreRenderable::Reference { uri, label } => label.as_ref().unwrap_or(uri).clone(),
    };
    SystemContext { key: append.key.clone(), text }
}

fn failure(error: &ServiceError) -> CoreExecutorError {
    match error {
        ServiceError::Agent { is_retryable: false, .. }
        | ServiceError::Unsupported(_)
        | ServiceError::Conflict { .. } => CoreExecutorError::fatal(error.to_string()),
        _ => CoreExecutorError::retryable(error.to_string()),
    }
}

impl std::fmt::Debug for ServiceExecutor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceExecutor").field("known", &self.known).finish_non_exhaustive()
    }
}
