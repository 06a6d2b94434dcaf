//! Which executors come with Windlass?
//!
//! [`BuiltinAgent`] answers offline and deterministically, and shows what the runtime does; [`ProcessExecutor`] runs
//! one program per attempt. The factories choose one for a session.

#![forbid(unsafe_code)]

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
