//! What do the Windlass server and its clients say to each other?
//!
//! The types of the HTTP API, version 1: one file per subject. Requests are strict: an unknown field is refused.
//! Responses are open: a client ignores fields that it does not know, and takes unknown words for [`Unknown`](
//! CompletionStatus::Unknown) where it can. Moments are RFC 3339 in UTC, ids are text.
//!
//! With the feature `openapi` every type has a schema, from which the server makes its document.
#![forbid(unsafe_code)]

mod agent;
mod blob;
mod completion;
mod control;
mod event;
mod explain;
mod input;
mod name;
mod operation;
mod page;
mod peer;
mod policy;
mod problem;
mod run;
#[cfg(feature = "openapi")]
pub mod schema;
mod session;
mod time;
mod token;

pub use agent::{Agent, AgentTest};
pub use blob::StoredBlob;
pub use completion::{Completion, CompletionStatus};
pub use control::{ControlReport, Interrupt, InterruptOutcome, Interrupted, Reset, Verb};
pub use event::{Ended, Event, Gap, Lagged, Progress};
pub use explain::Explanation;
pub use input::{
    Admission, Admitted, Block, Convention, InputPhase, InputView, Media, NewContinuation, NewExternalEvent,
    NewFlowStep, NewInput, NewOperation, NewPeer, NewPrompt, RequestDurability, TurnSettings, Waited, Withdrawn,
};
pub use name::{InvalidSessionName, is_session_name, parse_session, session_id};
pub use operation::{
    CancelOperation, CompleteOperation, FailOperation, OperationView, OperationWaited, ProgressOperation,
    RegisterOperation,
};
pub use page::{JournalPage, Page};
pub use peer::{NewPeerMessage, PeerMessageKind, PeerMessageSent, PeerPage, PeerResponseStatus, PeerView};
pub use policy::{
    ExplainPolicy, PolicyDifference, PolicyExplained, PolicyReplayed, PolicySaved, PolicyView, ReplayPolicy,
};
pub use problem::{FieldError, ProblemDetails};
pub use run::{Attempt, AttemptEnd, Message, Receipt, RunView};
pub use session::{CreateSession, SessionView, UpdateSession};
pub use time::Time;
pub use token::{CreateToken, CreatedToken, TokenView};
