//! Do long-lived programs run the turns of sessions, and is whatever they do contained?

use crate::common::{
    One, abandoned, adapter, gone, has, offer, pids, prompt, repository, result_text, session, sh, until,
};
use serde_json::{Value, json};
use std::{fs, sync::Arc, time::Duration};
use windlass_agent::{Crew, ProcessExecutor, ProcessWorker, Program};
use windlass_core::{AbandonReason, CancelOutcome, Disposition, HandlingMode, Limits, Record, Seq};
use windlass_runtime::{CompletionOutcome, CoreExecutor, FeedItem, RuntimeSessionAdapter, memory::MemoryStore};

fn python() -> Program {
    Program::new(["python3", repository().join("examples/agents/python/worker.py").to_str().expect("UTF-8")])
}

fn node() -> Program {
    Program::new(["node", repository().join("examples/agents/node/worker.mjs").to_str().expect("UTF-8")])
}

fn worker(program: Program) -> RuntimeSessionAdapter {
    adapter(Arc::new(ProcessWorker::new(program, Crew::default())))
}

/// A worker in shell that answers each run with the same lines; `$run` is the run's id, and standard input is read.
fn script(answer: &str) -> Program {
    sh(&format!(
        r#"while read -r line; do
            case "$line" in *'"type":"run"'*) ;; *) continue ;; esac
            run=$(printf '%s' "$line" | sed 's/.*"run":"\([^"]*\)".*/\1/')
            {answer}
        done"#
    ))
}

const DONE: &str = r#"printf '{"type":"result","run":"%s","text":"done by %s"}\n' "$run" $$"#;

#[tokio::test]
async fn a_key_that_a_program_quotes_is_hidden() {
    let key = "s3cr3t-0123456789";
    let with_key = |program: Program| Program { secret_env: vec![("KEY".into(), key.into())], ..program };
    let failed = r#"printf '{"type":"failed","run":"%s","error":"bad key %s"}\n' "$run" "$KEY""#;
    let shapeless = r#"printf '{"type":"result","run":"%s","text":["%s"]}\n' "$run" "$KEY""#;
    let once = |script: &str| adapter(Arc::new(ProcessExecutor::new(with_key(sh(script)))));
    for (adapter, expected) in [
        (once(r#"echo "bad key $KEY" >&2; exit 65"#), "it said: bad key ***"),
        (once(r#"printf %4080s '' | tr ' ' x >&2; echo "$KEY" >&2; exit 65"#), "x***…"),
        (once(r#"printf '{"text":7,"structured":"%s"}' "$KEY""#), "invalid type: integer `7`"),
        (worker(with_key(script(failed))), "bad key ***"),
        (worker(with_key(script(shapeless))), r#""text":["***"]"#),
        (worker(with_key(script(r#"echo "bad key $KEY" >&2; exit 65"#))), "it said: bad key ***"),
    ] {
        let error = abandoned(offer(&session(&adapter, 1).await, 1, "hello").await.wait().await);
        assert!(error.contains(expected) && !error.contains(&key[..4]), "{error}");
    }
}

#[tokio::test]
async fn the_examples_take_word_by_word_and_are_steered() {
    for (name, program) in [("python3", python()), ("node", node())] {
        if !has(name) {
            eprintln!("not shown: there is no {name}");
            continue;
        }
        let adapter = worker(program);
        let session = session(&adapter, 1).await;
        assert_eq!(result_text(offer(&session, 1, "one two three").await.wait().await), "ONE TWO THREE", "{name}");
        // Known by its delta: the boundary is the worker's own, byte for byte.
        let entries = adapter.store().read(session.id(), Seq::ZERO, 100).await.expect("entries");
        let deltas: Vec<&str> = entries
            .iter()
            .filter_map(|entry| match &entry.record {
                Record::BoundaryCommitted(boundary) => boundary.delta.as_ref().map(windlass_core::JsonText::get),
                _ => None,
            })
            .collect();
        let todo = |delta: &&str| serde_json::from_str::<Value>(delta).expect("JSON")["todo"].clone();
        assert_eq!(deltas.iter().map(todo).collect::<Vec<_>>(), [json!(["two", "three"]), json!(["three"])], "{name}");
        // A second run, on the same process.
        assert_eq!(result_text(offer(&session, 2, "four").await.wait().await), "FOUR", "{name}");
    }
}

#[tokio::test]
async fn what_is_said_meanwhile_joins_at_the_checkpoint() {
    // Waits for a file before its checkpoint, so that the steering is certainly there.
    let dir = tempfile::tempdir().expect("a folder");
    let go = dir.path().join("go");
    let answer = format!(
        r#"printf '{{"type":"progress","run":"%s","delta":"here"}}\n' "$run"
           until [ -e '{}' ]; do sleep 0.01; done
           printf '{{"type":"checkpoint","run":"%s"}}\n' "$run"; read -r steer
           printf '%s' "$steer" > '{}'
           {DONE}"#,
        go.display(),
        dir.path().join("steer").display()
    );
    let adapter = worker(script(&answer));
    let session = session(&adapter, 1).await;
    let mut feed = session.feed(Seq::ZERO);
    let first = offer(&session, 1, "begin").await;
    while !matches!(feed.next().await.expect("an item"), FeedItem::Progress(shown) if shown.delta.get() == "\"here\"") {
    }
    let steering = prompt(2, "and this").with_mode(HandlingMode::Steer);
    let second = session.accept_with_completion(steering).await.expect("an answer").1.expect("accepted");
    fs::write(&go, "").expect("written");
    assert!(result_text(first.wait().await).starts_with("done by "));
    assert!(result_text(second.wait().await).starts_with("done by "));
    let steer: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("steer")).expect("there")).expect("JSON");
    assert_eq!((&steer["type"], &steer["inputs"][0]["text"]), (&json!("steer"), &json!("and this")));
}

/// One row per misbehaviour: what the worker does with each run, and what the run comes to.
#[tokio::test]
async fn whatever_it_does_is_contained_and_the_next_run_is_served() {
    let slow = Program { time_limit: Some(Duration::from_millis(200)), ..script("sleep 1000") };
    let small = Program { stdout_limit: 1000, ..script("head -c 3000 /dev/zero | tr '\\0' x; sleep 1000") };
    for (what, program, expected) in [
        ("crash", script("echo broken >&2; exit 3"), "executor_failed: exit status: 3; it said: broken"),
        ("killed", script("kill -9 $$"), "executor_failed: signal: 9 (SIGKILL)"),
        ("refusal", script("exit 78"), "executor_refused: exit status: 78"),
        ("words", script("echo hello"), "executor_protocol_error: expected a JSON object, not: hello"),
        (
            "another type",
            script(r#"echo '{"type":"dance","run":1}'"#),
            "executor_protocol_error: unknown variant `dance`",
        ),
        ("no run", script(r#"echo '{"type":"result"}'"#), "executor_protocol_error: missing field `run`"),
        (
            "wrong shape",
            script(r#"printf '{"type":"result","run":"%s","text":7}\n' "$run""#),
            "executor_protocol_error: invalid type: integer `7`, expected a string",
        ),
        (
            "a slip",
            script(r#"printf '{"type":"result","run":"%s","txet":"good day"}\n' "$run""#),
            "executor_protocol_error: none of text, structured, message_count, delta, pending is in: {\"type\"",
        ),
        ("no UTF-8", script(r"printf '\377\376\n'"), "executor_protocol_error: its line is no text"),
        ("a huge line", small, "result_too_large: a line was longer than 1000 bytes"),
        ("half a line", script(r#"printf '{"type":"resu'; exit 0"#), "executor_protocol_error: EOF while parsing"),
        ("early close", script("exec >&-; sleep 1000"), "executor_protocol_error: it closed its standard output"),
        ("too slow", slow, "executor_timed_out: the run took longer than 200ms"),
        ("not there", Program::new(["/nowhere/to/be/found"]), "executor_spawn_failed: /nowhere/to/be/found"),
        (
            "failed for good",
            script(r#"printf '{"type":"failed","run":"%s","error":"no such account"}\n' "$run""#),
            "executor_refused: no such account",
        ),
        (
            "failed for now",
            script(r#"printf '{"type":"failed","run":"%s","error":"busy","retryable":true}\n' "$run""#),
            "executor_failed: busy",
        ),
    ] {
        let adapter = worker(program);
        let error = abandoned(offer(&session(&adapter, 1).await, 1, "hello").await.wait().await);
        assert!(error.starts_with(expected), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_flood_of_progress_complaints_and_late_lines_does_not_drown_the_result() {
    let flood = format!(
        r#"i=0; while [ $i -lt 3000 ]; do i=$((i+1))
             printf '{{"type":"progress","run":"%s","delta":%s}}\n' "$run" $i
             echo complaint >&2
           done
           {DONE}; {DONE}; printf '{{"type":"progress","run":"%s","delta":0}}\n' "$run""#
    );
    let adapter = worker(script(&flood));
    let session = session(&adapter, 1).await;
    let first = result_text(offer(&session, 1, "hello").await.wait().await);
    assert_eq!(result_text(offer(&session, 2, "hello").await.wait().await), first, "by the same process");
}

#[tokio::test]
async fn a_process_that_never_reads_its_answers_is_not_listened_to_for_ever() {
    // Asks without end and reads nothing: its own questions stop it, and the time limit ends it.
    let ask = r#"while :; do printf '{"type":"checkpoint","run":"%s"}\n' "$run"; done"#;
    let adapter = worker(Program { time_limit: Some(Duration::from_millis(300)), ..script(ask) });
    let error = abandoned(offer(&session(&adapter, 1).await, 1, "hello").await.wait().await);
    assert!(error.starts_with("executor_timed_out"), "{error}");
}

#[tokio::test]
async fn a_cancel_is_told_and_the_obedient_live_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pid");
    // Obeys by answering the cancel; says who it is in any case.
    let answer = format!(
        r#"echo $$ > '{}'; read -r cancel
           printf '{{"type":"failed","run":"%s","error":"stopped","retryable":true}}\n' "$run""#,
        file.display()
    );
    let adapter = worker(script(&answer));
    let first = session(&adapter, 1).await;
    for turn in 0..2 {
        let completion = offer(&first, turn, "hello").await;
        let pid = pids(&file).await;
        let cancelled = first.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
        assert!(matches!(cancelled, CancelOutcome::Cancelled { .. }), "{cancelled:?}");
        assert_eq!(completion.wait().await, CompletionOutcome::Abandoned(AbandonReason::Cancelled));
        if turn == 0 {
            fs::rename(&file, dir.path().join("first")).expect("it was there");
        } else {
            let earlier = fs::read_to_string(dir.path().join("first")).expect("kept");
            assert_eq!(earlier.trim(), pid[0], "the same process serves on");
        }
    }
}

#[tokio::test]
async fn one_that_ignores_a_cancel_is_killed_with_its_children() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pids");
    let answer = format!("sleep 1000 & echo $$ $! > '{0}.new'; mv '{0}.new' '{0}'; wait", file.display());
    let adapter = worker(script(&answer));
    let session = session(&adapter, 1).await;
    let completion = offer(&session, 1, "hello").await;
    let pids = pids(&file).await;
    session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    assert_eq!(completion.wait().await, CompletionOutcome::Abandoned(AbandonReason::Cancelled));
    gone(&pids).await;
}

#[tokio::test]
async fn runs_of_many_sessions_share_a_few_processes_and_end_with_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("starts");
    let program = sh(&format!("echo $$ >> '{}'\n{}", log.display(), script(DONE).argv[2].to_string_lossy()));
    let worker = ProcessWorker::new(program, Crew { processes: 2, ..Crew::default() });
    let adapter = adapter(Arc::new(worker.clone()));
    let mut waits = Vec::new();
    for number in 0..10 {
        waits.push(offer(&session(&adapter, number).await, number, "hello").await);
    }
    for wait in waits {
        assert!(result_text(wait.wait().await).starts_with("done by "));
    }
    let started: Vec<String> = fs::read_to_string(&log).expect("written").lines().map(str::to_owned).collect();
    assert!((1..=2).contains(&started.len()), "{started:?}");
    adapter.shutdown().await;
    drop((worker, adapter));
    gone(&started).await;
}

#[tokio::test]
async fn an_idle_process_is_ended_and_a_dead_one_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("starts");
    let program = |then: &str| {
        sh(&format!("echo $$ >> '{}'\n{}", log.display(), script(&format!("{DONE}; {then}")).argv[2].to_string_lossy()))
    };
    let impatient = Crew { idle_after: Duration::from_millis(20), ..Crew::default() };
    let idle = adapter(Arc::new(ProcessWorker::new(program(":"), impatient)));
    let first = session(&idle, 1).await;
    assert!(result_text(offer(&first, 1, "hello").await.wait().await).starts_with("done by "));
    gone(&pids(&log).await).await;
    assert!(result_text(offer(&first, 2, "hello").await.wait().await).starts_with("done by "));
    fs::remove_file(&log).expect("written");

    // Dies after each run, unasked: the next one finds another.
    let mortal = worker(program("exit 1"));
    let second = session(&mortal, 2).await;
    for number in 0..5 {
        assert!(result_text(offer(&second, number, "hello").await.wait().await).starts_with("done by "));
    }
    let started = until(|| fs::read_to_string(&log).ok().filter(|text| text.lines().count() == 5)).await;
    gone(&started.lines().map(str::to_owned).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn background_work_outlives_its_run_and_is_lost_with_its_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let go = dir.path().join("go");
    // The first run begins two works and ends; one is completed when a file appears, then the process dies.
    let answer = format!(
        r#"case "$line" in *continuation*) {DONE}; continue ;; esac
           session=$(printf '%s' "$line" | sed 's/.*"session":"\([^"]*\)".*/\1/')
           op() {{ printf '{{"type":"op","session":"%s",%s}}\n' "$session" "$1"; read -r said; echo "$said" >> '{said}'; }}
           op '"key":"tea","op":"start","name":"tea"'
           op '"key":"tea","op":"start","name":"tea"'
           op '"key":"cake","op":"start","name":"cake"'
           op '"key":"tea","op":"progress","message":"boiling","percent":50'
           op '"key":"tea","op":"progress","message":"boiling over","percent":101'
           op '"key":"milk","op":"complete","content":"?"'
           {DONE}
           until [ -e '{go}' ]; do sleep 0.01; done
           op '"key":"tea","op":"complete","content":"hot"'
           exit 0"#,
        said = dir.path().join("said").display(),
        go = go.display()
    );
    let adapter = worker(script(&answer));
    let session = session(&adapter, 1).await;
    assert!(result_text(offer(&session, 1, "begin").await.wait().await).starts_with("done by "));
    let ops = adapter.ops_lifecycle_registry(session.id()).await.expect("a registry");
    let under_way = ops.list_operations().await.expect("a list");
    assert_eq!(under_way.len(), 2, "{under_way:?}");
    fs::write(&go, "").expect("written");
    let ids: Vec<_> = under_way.iter().map(|operation| operation.spec.id).collect();
    ops.wait_all(&ids).await.expect("both end");
    let mut ends: Vec<String> = Vec::new();
    for operation in ops.list_operations().await.expect("a list") {
        let detail = operation.completion.expect("over").terminal_outcome.detail().to_owned();
        ends.push(format!("{} {} {detail}", operation.spec.display_name, operation.status.as_str()));
    }
    ends.sort();
    assert_eq!(ends, ["cake failed its process is gone", "tea completed hot"]);
    let said = fs::read_to_string(dir.path().join("said")).expect("written");
    let said: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let statuses: Vec<&str> = said.iter().map(|line| line["status"].as_str().unwrap_or("refused")).collect();
    assert_eq!(statuses, ["running", "running", "running", "running", "refused", "refused", "completed"]);
    let refused = said.iter().filter_map(|line| line["code"].as_str());
    assert_eq!(refused.collect::<Vec<_>>(), ["refused", "not_found"]);
}

#[tokio::test]
async fn background_work_whose_report_is_not_taken_is_still_under_way() {
    let answer = format!(
        r#"session=$(printf '%s' "$line" | sed 's/.*"session":"\([^"]*\)".*/\1/')
           op() {{ printf '{{"type":"op","session":"%s","key":"tea",%s}}\n' "$session" "$1"; read -r said; }}
           op '"op":"start","name":"tea"'
           op '"op":"progress","message":"{long}"'
           op '"op":"complete","content":"{long}"'
           op '"op":"complete","content":"hot"'
           {DONE}"#,
        long = "x".repeat(200),
    );
    let factory = Arc::new(One(Arc::new(ProcessWorker::new(script(&answer), Crew::default()))));
    let limits = Limits { payload_bytes: 100, ..Limits::default() };
    let store = Arc::new(MemoryStore::new());
    let adapter = RuntimeSessionAdapter::builder().store(store).factory(factory).limits(limits).build();
    let session = session(&adapter, 1).await;
    assert!(result_text(offer(&session, 1, "go").await.wait().await).starts_with("done by "));
    let ops = adapter.ops_lifecycle_registry(session.id()).await.expect("a registry");
    let operations = ops.list_operations().await.expect("a list");
    let ends: Vec<_> = operations.iter().filter_map(|operation| operation.completion.as_ref()).collect();
    assert_eq!(ends.len(), 1, "{operations:?}");
    assert_eq!(ends[0].terminal_outcome.detail(), "hot");
}

#[tokio::test]
async fn the_past_of_another_agent_is_told_in_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let asks = format!(
        r#"printf '{{"type":"history","run":"%s"}}\n' "$run"; read -r said; echo "$said" > '{}'; {DONE}"#,
        dir.path().join("said").display()
    );
    let before = ProcessExecutor::new(sh(r#"cat > /dev/null; printf '{"text": "hi", "delta": {\n"todo": 7\n}}'"#));
    let after = ProcessWorker::new(script(&asks), Crew::default());
    let store = Arc::new(MemoryStore::new());
    let agents: [Arc<dyn CoreExecutor>; 2] = [Arc::new(before), Arc::new(after)];
    for (number, agent) in (1..).zip(agents) {
        let builder = RuntimeSessionAdapter::builder().store(Arc::clone(&store) as _);
        let adapter = builder.factory(Arc::new(One(agent))).build();
        let session = session(&adapter, 1).await;
        result_text(offer(&session, number, "go").await.wait().await);
        adapter.shutdown().await;
    }
    let said = fs::read_to_string(dir.path().join("said")).expect("written");
    let said: Value = serde_json::from_str(&said).expect("one line of JSON");
    assert_eq!(said["boundaries"][0]["delta"], json!({ "todo": 7 }));
}
