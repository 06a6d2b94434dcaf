//! Does a program run a session's turns, and die with them?

use std::{fs, path::Path, sync::Arc, time::Duration};
use windlass_agent::{ProcessFactory, Program};
use windlass_core::{
    AbandonReason, CancelOutcome, CompletionSeq, Disposition, Input, InputId, Limits, OperationId, OperationKind,
    OperationResult, OperationSpec, Record, Seq, SessionId, Timestamp, TraceContext,
};
use windlass_runtime::{
    CompletionHandle, CompletionOutcome, FeedItem, RuntimeSessionAdapter, SessionHandle, memory::MemoryStore,
};

async fn session(script: &str) -> (RuntimeSessionAdapter, SessionHandle) {
    let program = Program::new(["/bin/sh", "-c", script]);
    let limits = Limits { backoff: Duration::from_millis(1), ..Limits::default() };
    let adapter = RuntimeSessionAdapter::builder()
        .store(Arc::new(MemoryStore::new()))
        .factory(Arc::new(ProcessFactory::new(program)))
        .limits(limits)
        .build();
    let id = SessionId::from_uuid(uuid::Uuid::from_u128(1));
    let session = adapter.create_session(id, None).await.expect("a session");
    (adapter, session)
}

async fn offer(session: &SessionHandle, text: &str) -> CompletionHandle {
    let input = Input::prompt(InputId::from_uuid(uuid::Uuid::from_u128(2)), Timestamp::ZERO, text);
    let (_, completion) = session.accept_with_completion(input).await.expect("an answer");
    completion.expect("it is accepted")
}

async fn outcome(script: &str) -> CompletionOutcome {
    let (_adapter, session) = session(script).await;
    offer(&session, "hello").await.wait().await
}

/// Looks again and again, because another process gives no signal.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let looked = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    looked.await.expect("it is seen in time")
}

async fn pids(file: &Path) -> Vec<String> {
    until(|| fs::read_to_string(file).ok().filter(|text| text.ends_with('\n')))
        .await
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

async fn gone(pids: &[String]) {
    for pid in pids {
        let stat = format!("/proc/{pid}/stat");
        until(|| fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(())).await;
    }
}

#[tokio::test]
async fn it_is_told_the_run_and_its_answer_is_committed() {
    let CompletionOutcome::Completed(result) = outcome("printf 'told '; cat").await else { panic!("it completes") };
    let told = result.text.strip_prefix("told ").expect("words, because of how they begin");
    let told: serde_json::Value = serde_json::from_str(told).expect("what it was told, said back");
    assert_eq!(
        (&told["text"], &told["attempt"], &told["resumes_after"]),
        (&"hello".into(), &1.into(), &serde_json::Value::Null)
    );
    assert_eq!(
        told["inputs"][0],
        serde_json::json!({ "id": uuid::Uuid::from_u128(2), "kind": "prompt", "text": "hello" })
    );
    let key = format!("{}/{}/0/0", told["session"].as_str().expect("text"), told["run"].as_str().expect("text"));
    assert_eq!(told["effect_key"], key.as_str());
}

#[tokio::test]
async fn it_finds_its_place_in_the_trace_of_the_input() {
    let (_adapter, session) = session("printf '%s ' \"$TRACEPARENT\"; cat").await;
    let trace = TraceContext::new([7; 16], [8; 8], true).expect("ids");
    let input = Input::prompt(InputId::from_uuid(uuid::Uuid::from_u128(2)), Timestamp::ZERO, "hello").traced(trace);
    let (_, completion) = session.accept_with_completion(input).await.expect("an answer");
    let outcome = completion.expect("it is accepted").wait().await;
    let CompletionOutcome::Completed(result) = outcome else { panic!("{outcome:?}") };
    let (variable, told) = result.text.split_once(' ').expect("both");
    let told: serde_json::Value = serde_json::from_str(told).expect("what it was told, said back");
    assert_eq!(told["traceparent"], variable);
    let variable: TraceContext = variable.parse().expect("a trace");
    assert!(variable.trace_id() == trace.trace_id() && variable.span_id() != trace.span_id(), "{variable}");
}

#[tokio::test]
async fn a_failure_is_tried_again_and_a_refusal_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let counter = dir.path().join("tries");
    let counting = |then: &str| format!("echo x >> '{}'; {then}", counter.display());
    let tries = || fs::read_to_string(&counter).map_or(0, |text| text.lines().count());
    let failed = outcome(&counting("echo broken >&2; exit 3")).await;
    let CompletionOutcome::Abandoned(AbandonReason::MaxAttemptsExhausted { error, .. }) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(&*error, "executor_failed: exit status: 3; it said: broken");
    assert_eq!(tries(), 3);
    fs::remove_file(&counter).expect("it was written");
    let refused = outcome(&counting("exit 65")).await;
    let CompletionOutcome::Abandoned(AbandonReason::Failed { error }) = refused else { panic!("{refused:?}") };
    assert_eq!(&*error, "executor_refused: exit status: 65");
    assert_eq!(tries(), 1);
}

#[tokio::test]
async fn a_cancel_kills_it_and_its_children() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $$ $! > '{0}.new'; mv '{0}.new' '{0}'; wait", file.display());
    let (_adapter, session) = session(&script).await;
    let completion = offer(&session, "hello").await;
    let pids = pids(&file).await;
    let cancelled = session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    assert!(matches!(cancelled, CancelOutcome::Cancelled { .. }), "{cancelled:?}");
    assert_eq!(completion.wait().await, CompletionOutcome::Abandoned(AbandonReason::Cancelled));
    gone(&pids).await;
}

#[tokio::test]
async fn shutting_down_kills_it_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $$ $! > '{0}.new'; mv '{0}.new' '{0}'; wait", file.display());
    let (adapter, session) = session(&script).await;
    let _completion = offer(&session, "hello").await;
    let pids = pids(&file).await;
    adapter.shutdown().await;
    gone(&pids).await;
}

#[tokio::test]
async fn a_flood_is_final() {
    let flooded = outcome("yes").await;
    let CompletionOutcome::Abandoned(AbandonReason::Failed { error }) = flooded else { panic!("{flooded:?}") };
    assert!(error.starts_with("result_too_large: "), "{error}");
}

#[tokio::test]
async fn it_is_told_once_of_background_work_that_is_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("told");
    let (adapter, session) = session(&format!("cat >> '{}'; echo seen", file.display())).await;
    let id = OperationId::from_uuid(uuid::Uuid::from_u128(7));
    let spec = OperationSpec {
        id,
        kind: OperationKind::BackgroundToolOp,
        display_name: "tea".into(),
        source_label: "test".into(),
        child_session_id: None,
        expect_peer_channel: false,
        adoptable: false,
    };
    let ops = session.operations();
    ops.register_operation(spec).await.expect("it is registered");
    ops.provisioning_succeeded(id).await.expect("it runs");
    let result = OperationResult { content: "hot".into(), ..OperationResult::default() };
    ops.complete_operation(id, result).await.expect("it is done");
    let mut feed = session.feed(Seq::ZERO);
    let ended = async {
        while !matches!(feed.next().await.expect("a feed"), FeedItem::Entry(entry) if matches!(entry.record, Record::RunEnded(_)))
        {
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it is woken");
    let told = fs::read_to_string(&file).expect("it ran");
    assert_eq!(told.matches("“tea” is done: hot.").count(), 1, "{told}");
    // What was applied has no power to wake again.
    let bindings = adapter.prepare_bindings(session.id()).await.expect("a session");
    assert_eq!(bindings.cursor_state.agent_applied_cursor, CompletionSeq(1));
    assert_eq!(session.status().await.expect("a look").open_inputs, 0);
}
