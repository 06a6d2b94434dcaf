//! What is a tool, and how is it called without trust in what the model says?

mod ask;
mod fetch;
mod files;
mod jobs;
mod peer;
mod shell;
mod text;
pub(crate) mod toolbox;

pub use ask::AskHuman;
pub use fetch::Fetch;
pub use files::{ListFiles, ReadFile, Workspace, WriteFile};
pub use jobs::{JobCancel, JobStart, JobStatus, ShellJobs};
pub use peer::{Peers, SendPeer};
pub use shell::Shell;
pub use text::shown;
pub(crate) use toolbox::Toolbox;

use crate::sandbox::Profile;
use async_trait::async_trait;
use serde_json::Value;
use std::{fmt, time::Duration};
use windlass_core::PendingTool;
use windlass_runtime::{CoreExecutorError, Turn, comms::EnvelopeId};

/// Something that a model can do.
///
/// To ensure correctness: a call that is dropped (the run was cancelled, the time is up) must stop; whatever is told to
/// the model as a result must have happened; [`Effect`] must be honest, because recovery rests on it.
#[async_trait]
pub trait Tool: Send + Sync + 'static {
    /// What the model calls it: letters, digits, `_` and `-`, at most 64.
    fn name(&self) -> &str;

    /// What it does and when to use it, for the model.
    fn description(&self) -> &str;

    /// The JSON schema of its arguments. Calls whose arguments do not obey never reach the tool.
    fn schema(&self) -> &Value;

    /// What calling it twice does.
    fn effect(&self) -> Effect;

    /// How long a call may take.
    fn timeout(&self) -> Duration;

    /// The walls around what it starts, committed with the intent to call it; none if it starts nothing.
    fn sandbox(&self) -> Option<Profile> {
        None
    }

    /// Does it. What goes wrong with the call itself is a reply for the model, with [`Reply::error`].
    ///
    /// # Errors
    /// [`CoreExecutorError`] ends the attempt: only what no model can mend, such as a store that is out of reach.
    async fn call(&self, arguments: Value, context: &ToolContext<'_>) -> Result<Reply, CoreExecutorError>;
}

/// What calling a tool twice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing, and neither does calling it once. Such calls run side by side.
    ReadOnly,
    /// The same as calling it once.
    Idempotent,
    /// Something twice. An intent is committed before each call; a call that a crash interrupts is ambiguous.
    Once,
}

/// What a call knows of its surroundings.
#[derive(Debug)]
pub struct ToolContext<'a> {
    /// The attempt that it is part of.
    pub turn: &'a Turn,
    /// Names the effect: the same if the call is made again after a crash. Hand it to whatever recognises repetitions.
    pub effect_key: &'a str,
    /// The envelopes of peers that the run answers: what is sent to a peer is sent because of them.
    pub causes: &'a [EnvelopeId],
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A result for the model.
    Done {
        /// In words.
        content: String,
        /// Whether the call failed.
        is_error: bool,
    },
    /// A person has to answer first: the run ends, and their answer, an input, is the call's result.
    Ask(PendingTool),
}

impl Reply {
    /// A result.
    pub fn done(content: impl Into<String>) -> Reply {
        Reply::Done { content: content.into(), is_error: false }
    }

    /// A failure that the model is told of. `code` is stable; `words` say what to try.
    pub fn error(code: &str, words: impl fmt::Display) -> Reply {
        Reply::Done { content: format!("{code}: {words}"), is_error: true }
    }
}
