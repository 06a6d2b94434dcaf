//! What does an owner tell of the traces that its inputs came with?
//!
//! Only what is durable, and nothing where nobody hears it.

use super::Actor;
use crate::trace::{Span, SpanPart, Tracer, attempt_trace, how_of, named};
use std::sync::Arc;
use windlass_core::{Accepted, AttemptId, Entry, InputId, Record, RunStart, SessionId, Timestamp, TraceContext};

/// The attempt that is on, as a part of a trace.
pub(super) struct TracedRun {
    session: SessionId,
    attempt: AttemptId,
    trace: TraceContext,
    traces: Vec<TraceContext>,
    began: Timestamp,
}

impl Actor {
    /// Now, in the session's own time, which never goes back.
    pub(super) fn moment(&self) -> Timestamp {
        self.shared.clock.now().max(self.session.last_at())
    }

    /// Tells of what an append that began then has made durable of the traced attempt.
    pub(super) fn trace_commit(&mut self, entries: &[Arc<Entry>], began: Option<Timestamp>) {
        let (Some(tracer), Some(began), Some(run)) = (&self.shared.tracer, began, &self.traced) else { return };
        if run.committed(entries, began, self.moment(), &**tracer) {
            self.traced = None;
        }
    }

    /// An attempt starts: what waited for it has waited until now. One that resumes took its inputs before.
    pub(super) fn trace_start(&mut self, start: &RunStart) {
        self.traced =
            self.shared.tracer.as_ref().and_then(|_| TracedRun::of(self.slot.id, start, self.session.last_at()));
        if self.traced.is_some() && start.resumes_after.is_none() {
            self.trace_queued(start.attempt, start.inputs.iter().chain(&start.context));
        }
    }

    pub(super) fn trace_queued<'a>(&self, attempt: AttemptId, taken: impl IntoIterator<Item = &'a Arc<Accepted>>) {
        let Some(tracer) = &self.shared.tracer else { return };
        for accepted in taken {
            let id = accepted.input.id();
            if let (Some(came), Some(began)) = (accepted.input.header.trace, self.session.admitted_at(id)) {
                tracer.span(queued(self.slot.id, attempt, id, came, (began, self.session.last_at())));
            }
        }
    }
}

impl TracedRun {
    fn of(session: SessionId, start: &RunStart, began: Timestamp) -> Option<Box<TracedRun>> {
        let trace = attempt_trace(start)?;
        Some(Box::new(TracedRun { session, attempt: start.attempt, trace, traces: start.traces.clone(), began }))
    }

    /// Tells of what an append made durable, which took from `began` until `ended`. Returns whether the attempt is over.
    fn committed(&self, entries: &[Arc<Entry>], began: Timestamp, ended: Timestamp, tracer: &dyn Tracer) -> bool {
        let mut over = false;
        for entry in entries {
            if let Some(receipt) = entry.record.receipt().filter(|receipt| receipt.run_id == self.attempt.run) {
                let part = SpanPart::Commit { sequence: receipt.sequence };
                let trace = self.trace.child(&receipt.sequence.to_be_bytes());
                tracer.span(self.span(part, trace, self.trace, Vec::new(), began, ended));
            }
            if let Record::RunEnded(end) = &entry.record
                && (end.run, end.attempt) == (self.attempt.run, self.attempt.attempt)
            {
                let [continued, links @ ..] = &*self.traces else { unreachable!("it continues the first") };
                let part = SpanPart::Run { how: how_of(&end.end) };
                tracer.span(self.span(part, self.trace, *continued, links.to_vec(), self.began, ended));
                over = true;
            }
        }
        over
    }

    fn span(
        &self,
        part: SpanPart,
        trace: TraceContext,
        parent: TraceContext,
        links: Vec<TraceContext>,
        began: Timestamp,
        ended: Timestamp,
    ) -> Span {
        Span { part, trace, parent, links, session: self.session, attempt: self.attempt, began, ended }
    }
}

/// An input has waited until this attempt.
fn queued(
    session: SessionId,
    attempt: AttemptId,
    input: InputId,
    came: TraceContext,
    (began, ended): (Timestamp, Timestamp),
) -> Span {
    let mut name = [0; 36];
    name[..16].copy_from_slice(input.as_uuid().as_bytes());
    name[16..].copy_from_slice(&named(attempt));
    let part = SpanPart::Queued { input };
    Span { part, trace: came.child(&name), parent: came, links: Vec::new(), session, attempt, began, ended }
}
