//! What is told of the inputs that came with a trace?

mod rig;

use rig::{Rig, accept, text};
use std::sync::{Arc, Mutex};
use windlass_core::{BoundaryOutput, HandlingMode, Input, Timestamp, TraceContext};
use windlass_runtime::{
    Span, SpanPart, Tracer,
    store::InputRef,
    testing::{input, input_id},
};

/// Keeps what it is told.
#[derive(Default)]
struct Kept(Mutex<Vec<Span>>);

impl Tracer for Kept {
    fn span(&self, span: Span) {
        self.0.lock().unwrap().push(span);
    }
}

impl Kept {
    fn rig() -> (Arc<Kept>, Rig) {
        let kept = Arc::new(Kept::default());
        let tracer = Arc::clone(&kept) as Arc<dyn Tracer>;
        (kept, Rig::with(|builder| builder.tracer(tracer)))
    }

    /// What was told since it was last taken, in short: the part, its parent and its links by their names.
    fn take(&self, known: &[(&'static str, TraceContext)]) -> Vec<String> {
        let spans = std::mem::take(&mut *self.0.lock().unwrap());
        let mut known = known.to_vec();
        known.extend(
            spans.iter().filter(|span| matches!(span.part, SpanPart::Run { .. })).map(|run| ("run", run.trace)),
        );
        let name = |trace: &TraceContext| known.iter().find(|(_, at)| at == trace).map_or("unknown", |(name, _)| name);
        let said = |span: &Span| {
            assert!(span.began <= span.ended && span.trace.trace_id() == span.parent.trace_id(), "{span:?}");
            let part = match span.part {
                SpanPart::Queued { .. } => "queued".to_owned(),
                SpanPart::Run { how } => format!("run {how}"),
                SpanPart::Commit { sequence } => format!("commit {sequence}"),
            };
            let links: Vec<_> = span.links.iter().map(name).collect();
            format!("{part} of {} {}", name(&span.parent), links.join(" ")).trim_end().to_owned()
        };
        spans.iter().map(said).collect()
    }
}

fn trace(n: u8) -> TraceContext {
    TraceContext::new([n; 16], [n; 8], true).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_continues_the_first_trace_and_names_the_others() {
    let (kept, rig) = Kept::rig();
    let (handle, _, mut runs) = rig.session().await;
    let known = [("one", trace(1)), ("two", trace(2)), ("steer", trace(3))];
    let event = |n| Input::external_event(input_id(n), Timestamp::ZERO, "s", "e", 1.into());
    handle.hold().await.unwrap();
    let first = accept(&handle, event(1).traced(trace(1))).await;
    accept(&handle, event(2)).await;
    accept(&handle, event(3).traced(trace(2))).await;
    assert_eq!(kept.take(&known), [""; 0], "nothing is over");
    handle.release().await.unwrap();
    let run = runs.next().await;
    assert_eq!(kept.take(&known), ["queued of one", "queued of two"]);
    let attempt = run.turn.trace().expect("it has one");
    accept(&handle, input(4, "quick").with_mode(HandlingMode::Steer).traced(trace(3))).await;
    run.turn.checkpoint().await.unwrap();
    run.turn.commit(BoundaryOutput::default()).await.unwrap();
    run.text("done");
    assert_eq!(text(first.wait().await), "done");
    let spans = kept.0.lock().unwrap().clone();
    assert!(spans.iter().any(|span| span.trace == attempt), "what the executor was told is the run's own: {spans:?}");
    let told = kept.take(&known);
    assert_eq!(told, ["queued of steer", "commit 0 of run", "commit 1 of run", "run completed of one two"]);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_told_and_goes_on_in_the_same_trace_after_a_crash() {
    let (kept, rig) = Kept::rig();
    let (handle, _, mut runs) = rig.session().await;
    accept(&handle, input(1, "hello").traced(trace(1))).await;
    runs.next().await.fail("no luck");
    let second = runs.next().await;
    let known = [("one", trace(1))];
    assert_eq!(kept.take(&known), ["queued of one", "run failed of one", "queued of one"]);
    let before = second.turn.trace();
    // The process dies; another one is told of what comes next.
    let kept = Arc::new(Kept::default());
    let tracer = Arc::clone(&kept) as Arc<dyn Tracer>;
    let rig = Rig::on(Arc::clone(&rig.store) as _, |builder| builder.tracer(tracer));
    let (handle, _, mut runs) = rig.session().await;
    let third = runs.next().await;
    let attempts = [before.unwrap(), third.turn.trace().unwrap()];
    assert_eq!(attempts.map(|trace| trace.trace_id()), [[1; 16]; 2]);
    assert_ne!(attempts[0], attempts[1]);
    let done = handle.completion(InputRef::Id(input_id(1))).await.unwrap();
    third.text("at last");
    assert_eq!(text(done.wait().await), "at last");
    assert_eq!(kept.take(&known), ["queued of one", "commit 0 of run", "run completed of one"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_of_inputs_without_a_trace() {
    let (kept, rig) = Kept::rig();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "hello")).await;
    let run = runs.next().await;
    assert_eq!(run.turn.trace(), None);
    run.text("hi");
    assert_eq!(text(done.wait().await), "hi");
    assert_eq!(kept.take(&[]), [""; 0]);
}
