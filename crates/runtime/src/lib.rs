//! The durable session runtime for AI agents: one owner per session, records before effects.
//!
//! [`RuntimeSessionAdapter`] is the public face. Behind it every open session is owned by one actor, which feeds the
//! pure state machine of `windlass-core`, makes its entries durable in a [`store::Store`], and only then answers,
//! starts runs and tells those who wait. [`CoreExecutor`] is what runs a run: an LLM loop, a program, your code.
//!
//! What is not here: no decision about an input (that is `windlass-core`), no SQL (that is `windlass-sqlite`), no
//! model and no tool (that is `windlass-agent`).
#![forbid(unsafe_code)]

mod actor;
mod adapter;
pub mod blob;
mod clock;
pub mod comms;
mod completion;
mod creation;
pub mod documents;
mod error;
mod executor;
mod feed;
mod handle;
mod mailbox;
mod media;
pub mod memory;
pub mod object_blobs;
mod observer;
mod operations;
mod owner;
mod policy_file;
mod reference;
mod shared;
pub mod store;
mod sweep;
pub mod testing;
mod trace;
mod turn;
mod waiters;

pub use adapter::{ENTRIES_KEPT, RuntimeBuilder, RuntimeSessionAdapter};
pub use clock::{Clock, ManualClock, SystemClock};
pub use completion::{Completion, CompletionHandle, CompletionOutcome, WaitError};
pub use creation::{NewSession, Policies};
pub use error::{RuntimeControlPlaneError, RuntimeDriverError, SessionError};
pub use executor::{CoreApplyOutput, CoreExecutor, CoreExecutorError, ExecutorFactory, executor_fn};
pub use feed::{Feed, FeedItem, Progress};
pub use handle::{SessionHandle, SessionView};
pub use mailbox::Attachment;
pub use observer::Observer;
pub use operations::{CompletionFeed, EpochCursorState, OpsError, OpsLifecycleRegistry, SessionRuntimeBindings};
pub use policy_file::{PolicyFileError, policy_from_toml};
pub use reference::{RunControlCommand, RuntimeControlPlane, RuntimeMode, SessionServiceRuntimeExt};
pub use trace::{Span, SpanPart, Tracer};
pub use turn::{Turn, TurnError};
