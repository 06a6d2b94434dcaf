//! Do agents outside of this process run the turns of sessions: programs, workers, endpoints, by name?

mod common;
mod config;
mod crash;
mod http;
#[cfg(feature = "mcp")]
mod mcp;
#[cfg(feature = "mcp")]
#[path = "../python/mod.rs"]
mod python;
mod sandbox;
mod service;
mod worker;
