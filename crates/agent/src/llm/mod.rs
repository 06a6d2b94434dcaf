//! How does a language model run a session's turns?
//!
//! [`LlmAgent`] asks a model, does what it asks tools to do, and asks it again, until it has an answer. Every answer of
//! the model and every result of a tool is committed as a boundary before the next step, so that a crash resumes after
//! the last one: no answer is paid for twice, and nothing is done twice that must not be. Two wire formats, many
//! providers; no agent framework.
//!
//! | what happens | what becomes of it |
//! |---|---|
//! | provider unreachable, silent, overloaded (408, 409, 425, 429, 5xx), stream cut, empty | asked again, as often as `limits.retries`; then the attempt fails, retryable, with what `Retry-After` says |
//! | 4xx, redirect, page of another type, no UTF-8, answer too large, refusal without a word | the run fails, final |
//! | conversation too long for the model | summarised, then asked again; if that does not help, the run fails, final |
//! | answer whole, but `[DONE]`, usage or the end of the connection missing or repeated | taken; tokens are estimated |
//! | a tool unknown, arguments wrong, a call failed or too slow | told to the model |
//! | a person is asked, or a budget is used up | the run ends as pending; the next prompt is the answer |
//! | a crash within a call that must not be made twice | `tools.on_ambiguous` decides |
//! | cancelled | the connection is closed, programs are killed; the next run tells the model what was not done |

mod agent;
mod anthropic;
mod client;
mod config;
mod conversation;
pub(crate) mod dialect;
pub(crate) mod failure;
mod message;
mod openai;
mod questions;
mod structured;
mod talk;

pub use agent::{LlmAgent, LlmDeps};
pub use config::{
    Budget, CallLimits, Compaction, DialectName, LlmConfig, LlmConfigError, OnAmbiguous, Price, ToolsConfig,
};
pub use message::{Asked, Compacted, Delta, Message, Role, Settings, Spent, ToolCall, Usage, Verbatim, Waiting};
