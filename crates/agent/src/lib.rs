//! Which executors come with Windlass?
//!
//! - [`BuiltinAgent`] answers offline and deterministically, and shows what the runtime does.
//! - [`llm::LlmAgent`] asks a language model and lets it use [`tools`], those of MCP servers too.
//! - [`ProcessExecutor`] runs one program per attempt, [`ProcessWorker`] keeps a few that speak JSON lines.
//! - [`HttpExecutor`] posts runs to an endpoint.
//! - [`service::ServiceExecutor`] drives whatever keeps conversations.
//!
//! Programs that they start run in a [`sandbox`]. Keys that somebody quotes are kept out of logs by [`secrets`].
//!
//! [`config::Agents`] gives sessions theirs by name, as a configuration file declares them.

#![forbid(unsafe_code)]

mod alive;
pub mod builtin;
pub mod command;
mod complaints;
pub mod config;
mod egress;
pub mod eliza;
mod exchange;
mod factory;
mod http;
mod jobs;
pub mod ledger;
pub mod llm;
#[cfg(feature = "mcp")]
pub mod mcp;
pub mod process;
mod program;
pub mod sandbox;
pub mod secrets;
pub mod service;
pub mod tools;
pub mod transcript;
mod worker;

pub use builtin::BuiltinAgent;
pub use egress::{AllowedHost, Egress, EgressRules, NotAHost, UrlNotAllowed};
pub use factory::{BuiltinFactory, ProcessFactory};
pub use http::{Endpoint, HttpExecutor, NotASecret, WebhookSecret};
pub use process::ProcessExecutor;
pub use program::Program;
pub use worker::{Crew, ProcessWorker};
