//! A durable session runtime for AI agents: what embedders add.
//!
//! Windlass stands between everything that talks to an agent and whatever runs the agent's turns. An accepted input is
//! on disk before its sender hears "accepted"; it is handled in exactly one committed run, or ends in a typed outcome
//! that says why not; one run at a time per session; kill the process anywhere and it carries on from the last
//! committed boundary.
//!
//! ```
//! use std::sync::Arc;
//! use windlass::{
//!     AcceptOutcome, Clock, CompletionOutcome, CoreApplyOutput, Input, InputId, MemoryStore, RuntimeSessionAdapter,
//!     SessionId, SystemClock, executor_fn,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // `SqliteStore::open(path, …)` in its place makes everything below survive the process.
//! let adapter = RuntimeSessionAdapter::builder().store(Arc::new(MemoryStore::new())).build();
//! let session = SessionId::from_uuid(uuid::Uuid::from_u128(1));
//! // Your agent: plain async code, called with one run at a time, and again with the same run after a crash.
//! let shout = executor_fn(|turn| async move { Ok(CoreApplyOutput::text(turn.primitive().text().to_uppercase())) });
//! adapter.ensure_session_with_executor(session, Arc::new(shout)).await?;
//!
//! let input = Input::prompt(InputId::from_uuid(uuid::Uuid::from_u128(2)), SystemClock.now(), "hello").with_key("greeting")?;
//! let session = adapter.session(session).await?;
//! let (outcome, completion) = session.accept_with_completion(input).await?;
//! assert!(matches!(outcome, AcceptOutcome::Accepted { .. }));
//! let CompletionOutcome::Completed(result) = completion.expect("it was accepted").wait().await else { panic!() };
//! assert_eq!(result.text, "HELLO");
//! adapter.shutdown().await;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```
//!
//! This crate holds no code of its own: it names what the other crates export. Features: `sqlite` (the store on one
//! file) and `agent` (the built-in agent, and one program per run), both on by default; `peers` (envelopes over HTTP).
//!
//! Where agents start programs, call `agent::sandbox::launch_if_asked` first in `main`: then these end with your process
//! however it ends, and those that models start are kept in their workspaces.
#![forbid(unsafe_code)]

/// For your executors and stores: their traits are async.
pub use async_trait::async_trait;
pub use windlass_core::*;
#[doc(no_inline)]
pub use windlass_runtime::{
    blob::BlobStore,
    memory::MemoryStore,
    object_blobs::ObjectBlobs,
    store::{InputRef, InputRow, Store, StoreError},
    *,
};

/// Executors: the built-in agent, and one program per run.
#[cfg(feature = "agent")]
pub use windlass_agent as agent;

/// The store on one SQLite file, its offline check and its options.
#[cfg(feature = "sqlite")]
pub use windlass_sqlite as sqlite;
#[cfg(feature = "sqlite")]
pub use windlass_sqlite::{SqliteOptions, SqliteStore};

/// Peers in other processes: signed envelopes over HTTP.
#[cfg(feature = "peers")]
pub use windlass_peers as peers;
