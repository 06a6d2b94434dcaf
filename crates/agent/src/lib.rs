//! Which executors come with Windlass?
//!
//! [`BuiltinAgent`] answers offline and deterministically, and shows what the runtime does; [`ProcessExecutor`] runs
//! one program per attempt. The factories choose one for a session.

#![forbid(unsafe_code)]

pub mod builtin;
pub mod command;
mod egress;
pub mod eliza;
mod factory;
mod jobs;
pub mod process;
mod program;
pub mod transcript;

pub use builtin::BuiltinAgent;
pub use egress::{AllowedHost, Egress, EgressRules, NotAHost, UrlNotAllowed};
pub use factory::{BuiltinFactory, ProcessFactory};
pub use process::ProcessExecutor;
pub use program::Program;
