//! The pure state machine of a durable agent session.
//!
//! No clock, no randomness, no I/O, no async: [`Session::step`] takes what happened and when, and returns what is to
//! be made durable and what is to be done then. The same machine is driven by the runtime, by recovery, by the tests
//! and by the simulator.
//!
//! ```text
//!            Event ──►┌─────────────┐──► entries  (make them durable first)
//!              now ──►│   Session   │──► effects  (then do these)
//!                     └─────────────┘──► settled  (then tell those who wait)
//! ```
//!
//! Laws: state is the fold of [`Record`]s; records first, effects after; a step never waits and never fails.
#![forbid(unsafe_code)]

mod admission;
mod check;
mod control;
mod drain;
mod event;
mod explain;
mod fingerprint;
mod fold;
mod ids;
mod input;
mod lanes;
mod limits;
pub mod notation;
mod operation;
mod ops;
mod outbox;
mod policy;
mod profile;
mod record;
pub mod render;
mod run;
mod session;
mod state;
mod time;
mod trace;
mod window;

pub use drain::*;
pub use event::*;
pub use explain::{Cause, Explanation};
pub use fold::CorruptJournal;
pub use ids::{
    CorrelationId, EffectKey, Fence, IdempotencyKey, Incarnation, InputId, InvalidKey, LogicalRuntimeId, OperationId,
    RunId, RuntimeEpochId, Seq, SessionId, SupersessionKey, Ticket,
};
pub use input::*;
pub use limits::Limits;
pub use operation::*;
pub use outbox::{DEADLINE_EXCEEDED, Delivery, Kept, Outgoing, OutgoingKind, SendRefused, answer_key};
pub use policy::*;
pub use profile::*;
pub use record::*;
pub use session::{Session, Snapshot};
pub use state::*;
pub use time::Timestamp;
pub use trace::{InvalidTraceContext, TraceContext};

pub(crate) use ids::Purpose;
pub(crate) use run::Run;
pub(crate) use session::{Open, Orders, Place, Scope};
