//! What is an LLM agent made of, and how does the runtime call it?

use super::{
    client::Model,
    config::{LlmConfig, LlmConfigError},
    conversation::Conversation,
    structured::Shape,
    talk::Talk,
};
use crate::{
    egress::Egress,
    tools::{Peers, Tool, Toolbox},
};
use async_trait::async_trait;
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use windlass_core::SessionId;
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, Turn, blob::BlobStore};

/// What an agent is given by whoever embeds it. All of it is optional.
#[derive(Clone, Default)]
pub struct LlmDeps {
    /// Where the pictures of inputs are.
    pub blobs: Option<Arc<dyn BlobStore>>,
    /// How the tool `fetch` reaches the web.
    pub egress: Option<Egress>,
    /// How the tool `send_peer` finds a session's comms.
    pub peers: Option<Arc<dyn Peers>>,
    /// Tools beside the built-in ones.
    pub tools: Vec<Arc<dyn Tool>>,
}

impl fmt::Debug for LlmDeps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmDeps").field("tools", &self.tools.len()).finish_non_exhaustive()
    }
}

/// An agent that asks a language model and lets it use tools.
///
/// A clone shares all but what it remembers of a session, so that one agent serves many: give each session its own clone,
/// and what was remembered goes with it.
pub struct LlmAgent {
    parts: Arc<Parts>,
    /// Whether operations without a program were looked for.
    accounted: AtomicBool,
    /// What was folded last, so that the next turn of the same session reads only what is new. Losing it costs time.
    last: Mutex<Option<(SessionId, Conversation)>>,
}

/// What all sessions of an agent share.
pub(super) struct Parts {
    pub(super) config: LlmConfig,
    pub(super) model: Model,
    pub(super) toolbox: Toolbox,
    pub(super) shape: Option<Shape>,
    pub(super) blobs: Option<Arc<dyn BlobStore>>,
}

impl LlmAgent {
    /// An agent as the configuration says. Reads its key; asks nobody.
    ///
    /// # Errors
    /// [`LlmConfigError`] names the setting.
    pub fn from_config(config: &LlmConfig, deps: LlmDeps) -> Result<LlmAgent, LlmConfigError> {
        config.check()?;
        let parts = Parts {
            model: Model::from_config(config)?,
            toolbox: Toolbox::from_config(&config.tools, &deps)?,
            shape: config.schema.as_ref().map(Shape::new).transpose()?,
            blobs: deps.blobs,
            config: config.clone(),
        };
        Ok(LlmAgent { parts: Arc::new(parts), accounted: AtomicBool::new(false), last: Mutex::new(None) })
    }

    async fn account(&self, turn: &Turn) -> Result<(), CoreExecutorError> {
        let Some(jobs) = self.parts.toolbox.jobs.as_ref().filter(|_| !self.accounted.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        let accounted = jobs.account(turn.session(), &turn.operations()).await;
        accounted.map_err(|error| CoreExecutorError::retryable(error.to_string()))?;
        self.accounted.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn talk(&self, turn: &Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        self.account(turn).await?;
        // A run that is cut off while it starts a job may leave its operation without one: the next run looks again.
        self.accounted.store(false, Ordering::Relaxed);
        let known = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut conversation = match known {
            Some((session, conversation)) if session == turn.session() => conversation,
            _ => Conversation::default(),
        };
        conversation.catch_up(turn).await.map_err(|error| CoreExecutorError::retryable(error.to_string()))?;
        let (output, conversation) = Talk::new(&self.parts, turn, conversation).run().await?;
        self.accounted.store(true, Ordering::Relaxed);
        // The final boundary is not committed yet: the next turn reads it in the journal.
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((turn.session(), conversation));
        Ok(output)
    }
}

impl Clone for LlmAgent {
    fn clone(&self) -> LlmAgent {
        LlmAgent { parts: Arc::clone(&self.parts), accounted: AtomicBool::new(false), last: Mutex::new(None) }
    }
}

impl fmt::Debug for LlmAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmAgent").field("model", &self.parts.config.model).finish_non_exhaustive()
    }
}

#[async_trait]
impl CoreExecutor for LlmAgent {
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        tokio::select! {
            biased;
            // Connections are closed and programs killed as the future is dropped, right here.
            () = turn.cancelled() => Err(CoreExecutorError::retryable("cancelled")),
            output = self.talk(&turn) => output,
        }
    }

    async fn stopped(&self, session: SessionId, _: &str) {
        if let Some(jobs) = &self.parts.toolbox.jobs {
            jobs.end(session).await;
        }
    }
}
