//! Who hears what became of inputs that came with a trace, and in which words?
//!
//! A [`Tracer`] is told of each part of the way when it is over and durable. What a part is called and where it hangs
//! follows from the journal, so that a later process goes on in the same trace, and no id of a span is kept anywhere.

use windlass_core::{AttemptId, InputId, RunEnd, RunStart, SessionId, Timestamp, TraceContext};

/// Hears of the parts of traces. Nothing is told of inputs without one, and nothing at all where there is no tracer.
///
/// Called from the tasks of sessions: take it and return, never wait.
pub trait Tracer: Send + Sync + 'static {
    /// A part of a trace is over.
    fn span(&self, span: Span);
}

/// A part of a trace that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which part.
    pub part: SpanPart,
    /// Where it stands; its span id is this part's own.
    pub trace: TraceContext,
    /// What it is a child of, in the same trace.
    pub parent: TraceContext,
    /// The other inputs' traces that a run continues.
    pub links: Vec<TraceContext>,
    /// The session.
    pub session: SessionId,
    /// The attempt.
    pub attempt: AttemptId,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
}

/// The parts that a session tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanPart {
    /// From the admission of an input to a start of its run, or to the checkpoint that took it.
    Queued {
        /// The input.
        input: InputId,
    },
    /// An attempt, from its start to its durable end.
    Run {
        /// `completed`, `failed`, `cancelled` or `released`.
        how: &'static str,
    },
    /// Making a boundary of a run durable.
    Commit {
        /// The boundary.
        sequence: u64,
    },
}

/// Where an attempt stands in the trace that it continues.
pub(crate) fn attempt_trace(start: &RunStart) -> Option<TraceContext> {
    Some(start.traces.first()?.child(&named(start.attempt)))
}

/// An attempt as bytes, to name parts by.
pub(crate) fn named(attempt: AttemptId) -> [u8; 20] {
    let mut name = [0; 20];
    name[..16].copy_from_slice(attempt.run.as_uuid().as_bytes());
    name[16..].copy_from_slice(&attempt.attempt.to_be_bytes());
    name
}

/// How an attempt ended, in one word.
pub(crate) const fn how_of(end: &RunEnd) -> &'static str {
    match end {
        RunEnd::Completed { .. } => "completed",
        RunEnd::Failed { .. } => "failed",
        RunEnd::Cancelled { .. } => "cancelled",
        RunEnd::Released { .. } => "released",
    }
}
