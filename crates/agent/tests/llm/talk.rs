//! Does a conversation with tools go as it should, steered, cancelled, restarted and at the end of its budget?

use crate::{
    provider::{BOTH, Frame, Provider, Script, Speaks},
    rig::{Bench, answers_in, config, deltas, session_id},
};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc, time::Duration};
use tokio::sync::Notify;
use windlass_agent::llm::{Budget, Compaction, LlmConfig, LlmDeps, OnAmbiguous, Price, ToolsConfig};
use windlass_core::{
    BlobId, CancelOutcome, ContentBlock, Disposition, HandlingMode, Input, InputId, MediaSource, OperationId,
    OperationKind, OperationSpec, OperationStatus, Record, RunEnd, Timestamp,
};
use windlass_runtime::{CompletionOutcome, memory::MemoryStore, object_blobs::ObjectBlobs};

fn with_tools(speaks: Speaks, provider: &Provider, folder: &Path, tools: &[&str]) -> LlmConfig {
    let tools = ToolsConfig {
        enabled: tools.iter().map(|&name| name.to_owned()).collect(),
        workspace: Some(folder.to_owned()),
        ..ToolsConfig::default()
    };
    LlmConfig { tools, ..config(speaks, provider) }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn input_id() -> InputId {
    InputId::from_uuid(uuid::Uuid::new_v4())
}

/// What a request says after its system prompt, a line for each part: who, what.
fn told(body: &Value) -> Vec<String> {
    let mut told = Vec::new();
    for message in body["messages"].as_array().expect("messages") {
        let role = message["role"].as_str().expect("a role");
        match &message["content"] {
            _ if role == "system" => {}
            Value::String(text) if role == "tool" => {
                told.push(format!("result {}: {text}", message["tool_call_id"].as_str().expect("an id")));
            }
            Value::String(text) if !text.is_empty() => told.push(format!("{role}: {text}")),
            Value::Array(parts) => told.extend(parts.iter().map(|part| match part["type"].as_str() {
                Some("text") => format!("{role}: {}", part["text"].as_str().expect("text")),
                Some("tool_use") => format!("call {}: {}", part["id"].as_str().expect("an id"), part["input"]),
                Some("tool_result") => {
                    let id = part["tool_use_id"].as_str().expect("an id");
                    format!("result {id}: {}", part["content"].as_str().expect("text"))
                }
                other => format!("{role}: {other:?}"),
            })),
            _ => {}
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let (id, arguments) = (call["id"].as_str(), call["function"]["arguments"].as_str());
            told.push(format!("call {}: {}", id.expect("an id"), arguments.expect("text")));
        }
    }
    told
}

#[tokio::test]
async fn a_conversation_with_tools_goes_to_its_end_and_on_after_a_restart() {
    for speaks in BOTH {
        let folder = folder();
        fs::write(folder.path().join("a"), "alpha").expect("written");
        let provider = Provider::scripted([
            speaks.answers(
                &["Let me ", "look."],
                &[("c1", "read_file", r#"{"path":"a"}"#), ("c2", "list_files", "{}"), ("c3", "nonsense", "{}")],
            ),
            speaks.calls(&[
                ("d1", "write_file", r#"{"path":"b","content":"beta"}"#),
                ("d2", "read_file", r#"{"path":"b"}"#),
                ("d3", "read_file", r#"{"file":"b"}"#),
                ("d4", "shell", r#"{"argv":["sh","-c","cat b; echo no >&2; exit 3"]}"#),
            ]),
            speaks.says(&["Done."]),
            speaks.says(&["You are welcome."]),
        ])
        .await;
        let config = with_tools(speaks, &provider, folder.path(), &["read_file", "write_file", "list_files", "shell"]);
        let bench = Bench::new(&config).await;
        assert_eq!(bench.hear("tidy up").await, "Done.");
        let bench = bench.restarted(&config, LlmDeps::default()).await;
        assert_eq!(bench.hear("thanks").await, "You are welcome.");
        let last = told(&provider.bodies()[3]);
        let expected = [
            "user: tidy up",
            "assistant: Let me look.",
            r#"call c1: {"path":"a"}"#,
            "call c2: {}",
            "call c3: {}",
            "result c1: alpha",
            "result c2: a (5 bytes)",
            "result c3: unknown_tool: there is no tool \"nonsense\"; there are: list_files, read_file, shell, write_file",
            r#"call d1: {"path":"b","content":"beta"}"#,
            r#"call d2: {"path":"b"}"#,
            r#"call d3: {"file":"b"}"#,
            r#"call d4: {"argv":["sh","-c","cat b; echo no >&2; exit 3"]}"#,
            "result d1: 4 bytes are in b",
            "result d2: beta",
            "result d3: ",
            "result d4: beta\n[standard error]\nno\n\n[exit status: 3]",
            "assistant: Done.",
            "user: thanks",
        ];
        assert_eq!(last.len(), expected.len(), "{speaks:?}: {last:#?}");
        for (told, expected) in last.iter().zip(expected) {
            let same = match speaks {
                // JSON is written anew there.
                Speaks::Anthropic if expected.starts_with("call") => told[..7] == expected[..7],
                _ if expected.starts_with("result d3") => told.contains("invalid_arguments: ") && told.contains("path"),
                _ => told == expected,
            };
            assert!(same, "{speaks:?}: {told:?} is not {expected:?}");
        }
        assert_eq!(bench.answers().await, provider.count(), "each answer is committed once");
        let tools = provider.bodies()[0]["tools"].as_array().map(Vec::len);
        assert_eq!(tools, Some(4));
    }
}

#[tokio::test]
async fn a_turn_without_tools_is_one_boundary_and_no_turn_grows_with_history() {
    let provider = Provider::answering(|_, _| Speaks::Openai.says(&["yes"])).await;
    let bench = Bench::new(&config(Speaks::Openai, &provider)).await;
    let mut lengths = Vec::new();
    for _ in 0..12 {
        let before = bench.entries().await.len();
        bench.hear("and?").await;
        let entries = bench.entries().await;
        let bytes: usize = entries[before..].iter().map(|entry| format!("{:?}", entry.record).len()).sum();
        assert_eq!(entries.len() - before, 3, "accepted, started, ended");
        lengths.push(bytes);
    }
    assert!(lengths[11] < lengths[1] + 64, "{lengths:?}");
}

#[tokio::test]
async fn steering_joins_between_two_steps() {
    for speaks in BOTH {
        let (folder, gate) = (folder(), Arc::new(Notify::new()));
        let provider = Provider::scripted([
            speaks.calls(&[("c1", "list_files", "{}")]).gated(1, &gate),
            speaks.says(&["first"]).gated(1, &gate),
            speaks.says(&["second"]),
        ])
        .await;
        let bench = Bench::new(&with_tools(speaks, &provider, folder.path(), &["list_files"])).await;
        let done = bench.offer("go", HandlingMode::Queue).await;
        provider.heard(1).await;
        let steered = bench.offer("left", HandlingMode::Steer).await;
        gate.notify_one();
        provider.heard(2).await;
        assert_eq!(told(&provider.bodies()[1])[2..], ["result c1: (empty)", "user: left"], "{speaks:?}");
        // Into what would have been the last answer.
        let late = bench.offer("right", HandlingMode::Steer).await;
        gate.notify_one();
        for completion in [done, steered, late] {
            let outcome = completion.wait().await;
            assert!(matches!(&outcome, CompletionOutcome::Completed(result) if result.text == "second"), "{outcome:?}");
        }
        assert_eq!(told(&provider.bodies()[2])[4..], ["assistant: first", "user: right"], "{speaks:?}");
        assert_eq!((provider.count(), bench.answers().await), (3, 3));
    }
}

#[tokio::test]
async fn a_cancel_is_prompt_and_leaves_a_conversation_that_goes_on() {
    for speaks in BOTH {
        let folder = folder();
        let mut stuck = speaks.says(&["never ", "heard"]);
        stuck.frames.truncate(2);
        stuck.frames.push(Frame::Silence);
        let sleep = r#"{"argv":["sh","-c","echo $$ > pid; sleep 1000"]}"#;
        let provider = Provider::scripted([
            stuck,
            speaks.calls(&[("c1", "shell", sleep), ("c2", "list_files", "{}")]),
            speaks.says(&["I see."]),
        ])
        .await;
        let bench = Bench::new(&with_tools(speaks, &provider, folder.path(), &["shell", "list_files"])).await;
        // While the model speaks.
        let first = bench.offer("one", HandlingMode::Queue).await;
        provider.heard(1).await;
        let cancelled = bench.session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
        assert!(matches!(cancelled, CancelOutcome::Cancelled { .. }), "{cancelled:?}");
        assert!(matches!(first.wait().await, CompletionOutcome::Abandoned(_)));
        // While a tool works.
        let second = bench.offer("two", HandlingMode::Queue).await;
        let pid = written(&folder.path().join("pid")).await;
        bench.session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
        assert!(matches!(second.wait().await, CompletionOutcome::Cancelled { .. }));
        gone(pid.trim()).await;
        assert_eq!(bench.hear("three").await, "I see.");
        let last = told(&provider.bodies()[2]);
        assert_eq!(last[0], "user: two", "{speaks:?}: what was never answered was never committed: {last:?}");
        assert!(last[3].starts_with("result c1: ambiguous: "), "{last:?}");
        assert!(last[4].starts_with("result c2: not_called: "), "{last:?}");
        assert_eq!(last[5], "user: three");
    }
}

/// Waits, by looking, for a file that ends in a line end.
async fn written(path: &Path) -> String {
    let looked = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    });
    looked.await.expect("it is written")
}

async fn gone(pid: &str) {
    let stat = format!("/proc/{pid}/stat");
    let alive = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "));
    let looked = tokio::time::timeout(Duration::from_secs(30), async {
        while alive() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    looked.await.expect("the process is killed");
}

#[tokio::test]
async fn budgets_ask_and_go_on_or_stop_as_told() {
    let steps = |steps| Budget { steps: Some(steps), ..Budget::default() };
    let cases = [
        ("steps", steps(2), 2),
        ("tokens", Budget { tokens: Some(30), ..steps(100) }, 2),
        ("cost_usd", Budget { cost_usd: Some(0.0001), ..steps(100) }, 2),
        ("seconds", Budget { seconds: Some(0), ..steps(100) }, 0),
    ];
    for speaks in BOTH {
        for (name, budget, until) in cases {
            let folder = folder();
            let provider = Provider::answering(move |_, _| speaks.calls(&[("c", "list_files", "{}")])).await;
            let config = LlmConfig {
                budget,
                // Ten tokens read and five written are fifty millionths of a dollar.
                price: Some(Price { input: 1.0, output: 8.0 }),
                ..with_tools(speaks, &provider, folder.path(), &["list_files"])
            };
            let bench = Bench::new(&config).await;
            let (tool, args) = bench.asked("go").await;
            assert_eq!((tool.as_str(), &args["budget"]), ("extend_budget", &json!(name)), "{args}");
            assert_eq!(provider.count(), until, "{speaks:?}: {name}");
            if name == "seconds" {
                continue;
            }
            // Counted anew, also by another process; neither question nor answer is for the model.
            let bench = bench.restarted(&config, LlmDeps::default()).await;
            let (tool, _) = bench.asked("yes").await;
            assert_eq!((tool.as_str(), provider.count()), ("extend_budget", 2 * until));
            assert!(told(&provider.bodies()[3]).iter().all(|line| !line.contains("yes")));
            assert_eq!(bench.hear("no").await, "I have stopped, as told.");
            // Other words are for the model.
            let (_, _) = bench.asked("then do this").await;
            let (_, _) = bench.asked("and hurry").await;
            assert!(told(provider.bodies().last().expect("asked")).contains(&"user: and hurry".to_owned()));
        }
    }
}

#[tokio::test]
async fn a_question_waits_for_its_answer_over_a_restart_and_other_news() {
    for speaks in BOTH {
        let folder = folder();
        let provider = Provider::scripted([
            speaks.calls(&[("q", "ask_human", r#"{"question":"Which?"}"#), ("l", "list_files", "{}")]),
            speaks.says(&["Blue it is."]),
        ])
        .await;
        let config = with_tools(speaks, &provider, folder.path(), &["ask_human", "list_files"]);
        let bench = Bench::new(&config).await;
        let (tool, args) = bench.asked("paint it").await;
        assert_eq!((tool.as_str(), args), ("ask_human", json!({ "question": "Which?" })));
        let bench = bench.restarted(&config, LlmDeps::default()).await;
        // Not an answer: it is kept, and the question stands.
        let event = Input::external_event(input_id(), Timestamp::ZERO, "clock", "tick", json!({ "body": "noon" }));
        let outcome = bench.give(event).await.wait().await;
        assert!(
            matches!(&outcome, CompletionOutcome::CallbackPending(tool) if tool.tool_name == "ask_human"),
            "{outcome:?}"
        );
        assert_eq!(provider.count(), 1);
        assert_eq!(bench.hear("blue").await, "Blue it is.");
        let last = told(&provider.bodies()[1]);
        assert_eq!(last[3..], ["result q: blue", "result l: (empty)", "user: [EVENT via clock] noon"], "{speaks:?}");
    }
}

#[tokio::test]
async fn a_call_is_made_only_when_a_person_has_approved_it() {
    for (answer, expected) in [
        ("approve", "wrote"),
        ("no", "result c: denied: "),
        ("use the other one", "the person says: use the other one"),
    ] {
        let speaks = Speaks::Openai;
        let folder = folder();
        let call = r#"{"argv":["sh","-c","echo once >> log; echo wrote"]}"#;
        let provider = Provider::scripted([speaks.calls(&[("c", "shell", call)]), speaks.says(&["ok"])]).await;
        let mut config = with_tools(speaks, &provider, folder.path(), &["shell"]);
        config.tools.approve = vec!["shell".into()];
        let bench = Bench::new(&config).await;
        let (tool, args) = bench.asked("go").await;
        assert_eq!((tool.as_str(), &args["tool"], &args["arguments"]), ("approve", &json!("shell"), &json!(call)));
        assert!(!folder.path().join("log").exists(), "nothing is done before");
        let bench = bench.restarted(&config, LlmDeps::default()).await;
        assert_eq!(bench.hear(answer).await, "ok");
        let last = told(&provider.bodies()[1]).pop().expect("a result");
        assert!(last.contains(expected), "{answer}: {last}");
        assert_eq!(folder.path().join("log").exists(), answer == "approve");
    }
}

#[tokio::test]
async fn what_may_have_happened_is_never_done_again_unasked() {
    // It takes effect, and then its process dies before anybody hears.
    let call = r#"{"argv":["sh","-c","echo $WINDLASS_EFFECT_KEY >> log; test -e again || sleep 1000; echo done"]}"#;
    let cases = [
        (OnAmbiguous::GiveUp, None, 1, "result c: ambiguous: "),
        (OnAmbiguous::Retry, None, 2, "result c: done"),
        (OnAmbiguous::Ask, Some("retry"), 2, "result c: done"),
        (OnAmbiguous::Ask, Some("I saw it happen"), 1, "the person says: I saw it happen"),
    ];
    for (on_ambiguous, answer, effects, expected) in cases {
        let speaks = Speaks::Anthropic;
        let folder = folder();
        let provider = Provider::scripted([speaks.calls(&[("c", "shell", call)]), speaks.says(&["ok"])]).await;
        let mut config = with_tools(speaks, &provider, folder.path(), &["shell"]);
        config.tools.on_ambiguous = on_ambiguous;
        let bench = Bench::new(&config).await;
        let done = bench.offer("go", HandlingMode::Queue).await;
        written(&folder.path().join("log")).await;
        bench.adapter.shutdown().await;
        drop(done);
        fs::write(folder.path().join("again"), "").expect("written");
        let bench = Bench::over(bench.store, &config, LlmDeps::default()).await;
        bench.adapter.resume_pending().await.expect("resumed");
        if let Some(answer) = answer {
            bench.record(|record| matches!(record, Record::RunEnded(_)) && is_pending(record)).await;
            assert_eq!(provider.count(), 1, "asked before all else");
            assert_eq!(bench.hear(answer).await, "ok");
        } else {
            provider.heard(2).await;
        }
        let last = told(&provider.bodies()[1]).pop().expect("a result");
        assert!(last.contains(expected), "{on_ambiguous:?}, {answer:?}: {last}");
        let log = fs::read_to_string(folder.path().join("log")).expect("a log");
        let keys: Vec<&str> = log.lines().collect();
        assert_eq!(keys.len(), effects, "{on_ambiguous:?}, {answer:?}");
        assert!(keys.iter().all(|key| *key == keys[0] && key.starts_with(&session_id().to_string())), "{keys:?}");
    }
}

#[tokio::test]
async fn a_yes_is_for_one_more_call_and_for_none_after_the_next_crash() {
    let call = r#"{"argv":["sh","-c","echo once >> log; test -e again || sleep 1000; echo done"]}"#;
    let (speaks, folder) = (Speaks::Openai, folder());
    let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default().lines().count();
    let provider = Provider::scripted([speaks.calls(&[("c", "shell", call)]), speaks.says(&["ok"])]).await;
    let mut config = with_tools(speaks, &provider, folder.path(), &["shell"]);
    config.tools.on_ambiguous = OnAmbiguous::Ask;
    let mut bench = Bench::new(&config).await;
    for (calls, said) in [(1, "go"), (2, "retry")] {
        let done = bench.offer(said, HandlingMode::Queue).await;
        let looked = tokio::time::timeout(Duration::from_secs(30), async {
            while log() < calls {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        looked.await.expect("it is called");
        // It has taken effect, and its process dies before anybody hears.
        bench.adapter.shutdown().await;
        drop(done);
        if calls == 2 {
            fs::write(folder.path().join("again"), "").expect("written");
        }
        bench = Bench::over(bench.store, &config, LlmDeps::default()).await;
        bench.adapter.resume_pending().await.expect("resumed");
        let mut ends = 0;
        bench
            .record(|record| {
                ends +=
                    usize::from(matches!(record, Record::RunEnded(of) if matches!(of.end, RunEnd::Completed { .. })));
                ends == calls
            })
            .await;
        assert_eq!((log(), provider.count()), (calls, 1), "asked again before all else");
    }
    assert_eq!(bench.hear("retry").await, "ok");
    assert_eq!(log(), 3);
}

#[tokio::test]
async fn a_provider_may_count_what_it_likes() {
    let speaks = Speaks::Openai;
    let mut events = speaks.events(&["ok"], &[]);
    let usage = events.iter_mut().find(|event| !event["usage"].is_null()).expect("usage");
    usage["usage"]["prompt_tokens"] = u64::MAX.into();
    let counted = Script::stream(events.iter().map(|event| speaks.frame(event)).collect());
    let provider = Provider::scripted([counted, speaks.says(&["still here"])]).await;
    let compaction = Some(Compaction { at_tokens: 1_000_000, keep_messages: 8 });
    let bench = Bench::new(&LlmConfig { compaction, ..config(speaks, &provider) }).await;
    assert_eq!(bench.hear("one").await, "ok");
    assert_eq!(bench.hear("two").await, "still here");
}

#[tokio::test]
async fn what_is_no_call_is_not_called_and_not_said_back() {
    let odd = json!({ "choices": [{ "message": { "role": "assistant", "content": "hi", "tool_calls": ["x", 7] } }] });
    let odd = Script::page(200, "application/json", &odd.to_string());
    let provider = Provider::scripted([odd, Speaks::Openai.says(&["ok"])]).await;
    let bench = Bench::new(&config(Speaks::Openai, &provider)).await;
    assert_eq!(bench.hear("one").await, "hi");
    assert_eq!(bench.hear("two").await, "ok");
    let said = &provider.bodies()[1]["messages"];
    assert_eq!(said[2], json!({ "role": "assistant", "content": "hi" }), "{said}");
}

#[tokio::test]
async fn a_conversation_does_not_give_way_to_an_empty_summary() {
    let speaks = Speaks::Openai;
    let provider = Provider::answering(move |_, body| {
        let asks_for_summary = body["tools"].is_null() && body.to_string().contains("You summarise");
        speaks.says(&[if asks_for_summary { " " } else { "ok" }])
    })
    .await;
    let compaction = Some(Compaction { at_tokens: 12, keep_messages: 2 });
    let bench = Bench::new(&LlmConfig { compaction, ..config(speaks, &provider) }).await;
    for text in ["tea", "green tea", "hot"] {
        bench.hear(text).await;
    }
    assert!(provider.count() > 3, "a summary was asked for");
    assert_eq!(told(provider.bodies().last().expect("asked"))[0], "user: tea");
}

fn is_pending(record: &Record) -> bool {
    record
        .outcome_of(input_id(), windlass_core::InputState::Consumed)
        .is_some_and(|outcome| matches!(outcome, windlass_core::Outcome::CallbackPending { .. }))
}

#[tokio::test]
async fn long_conversations_are_summarised_as_a_step_of_their_own() {
    for speaks in BOTH {
        let provider = Provider::answering(move |_, body| {
            let asks_for_summary = body["tools"].is_null() && body.to_string().contains("You summarise");
            speaks.says(&[if asks_for_summary { "They talked of tea." } else { "ok" }])
        })
        .await;
        let compaction = Some(Compaction { at_tokens: 12, keep_messages: 2 });
        let config = LlmConfig { compaction, ..config(speaks, &provider) };
        let bench = Bench::new(&config).await;
        for text in ["tea", "green tea", "hot"] {
            bench.hear(text).await;
        }
        let bench = bench.restarted(&config, LlmDeps::default()).await;
        let before = provider.count();
        bench.hear("now").await;
        let bodies = provider.bodies();
        let summary = "user: [Summary of the conversation so far]\nThey talked of tea.";
        let last = told(bodies.last().expect("asked"));
        assert_eq!(last[0], summary, "{speaks:?}: {last:?}");
        assert_eq!(last.last().map(String::as_str), Some("user: now"));
        assert!(last.len() <= 4, "{last:?}");
        assert_eq!(provider.count() - before, 2, "one summary and one answer");
        let committed = deltas(&*bench.store).await;
        let summaries = committed.iter().filter(|delta| !delta["compacted"].is_null()).count();
        assert_eq!(committed.iter().map(answers_in).sum::<usize>() + summaries, provider.count());
    }
}

#[tokio::test]
async fn a_conversation_that_is_too_long_for_the_model_is_summarised_and_asked_again() {
    let speaks = Speaks::Openai;
    let too_long = json!({ "error": { "code": "context_length_exceeded", "message": "too long" } }).to_string();
    let talk = (0..6).map(|_| speaks.says(&["ok"]));
    let provider = Provider::scripted(talk).await;
    let bench = Bench::new(&config(speaks, &provider)).await;
    for _ in 0..6 {
        bench.hear("more").await;
    }
    provider.then(Script::page(400, "application/json", &too_long));
    provider.then(speaks.says(&["the summary"]));
    provider.then(speaks.says(&["at last"]));
    assert_eq!(bench.hear("again").await, "at last");
    assert!(told(&provider.bodies()[8])[0].ends_with("the summary"));
    // Where it does not help, it is said.
    for _ in 0..3 {
        provider.then(Script::page(400, "application/json", &too_long));
    }
    let outcome = bench.say("and again").await;
    assert!(format!("{outcome:?}").contains("context_overflow"), "{outcome:?}");
}

#[tokio::test]
async fn structured_answers_are_repaired_so_often_and_no_more() {
    let schema = json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } });
    for speaks in BOTH {
        let provider =
            Provider::scripted([speaks.says(&["One."]), speaks.says(&["{\"n\":\"1\"}"]), speaks.says(&["{\"n\":1}"])])
                .await;
        let config = LlmConfig { schema: Some(schema.clone()), ..config(speaks, &provider) };
        let bench = Bench::new(&config).await;
        match bench.say("how many?").await {
            CompletionOutcome::Completed(result) => assert_eq!(result.structured, Some(json!({ "n": 1 }))),
            other => panic!("{other:?}"),
        }
        let bodies = provider.bodies();
        assert!(bodies[0].to_string().contains("required"), "the model is told of the schema");
        assert!(told(&bodies[2]).last().expect("a complaint").contains("/n"), "and of what is wrong");

        let provider = Provider::answering(move |_, _| speaks.says(&["no"])).await;
        let config = LlmConfig { base_url: Some(speaks.base(&provider)), ..config };
        let outcome = Bench::new(&config).await.say("how many?").await;
        assert!(
            matches!(&outcome, CompletionOutcome::Failed { error, .. } if error.starts_with("structured_output_invalid")),
            "{outcome:?}"
        );
        assert_eq!(provider.count(), 3, "one answer and two repairs");
    }
}

#[tokio::test]
async fn pictures_are_sent_and_missed_ones_are_said() {
    let blobs = Arc::new(ObjectBlobs::in_memory());
    for speaks in BOTH {
        let provider = Provider::scripted([speaks.says(&["a cat"]), speaks.says(&["it is gone"])]).await;
        let deps = LlmDeps { blobs: Some(blobs.clone()), ..LlmDeps::default() };
        let bench = Bench::over(Arc::new(MemoryStore::new()), &config(speaks, &provider), deps).await;
        let picture = |source| ContentBlock::Image { media_type: "image/png".into(), source };
        let url = "https://example.org/cat.png";
        let blocks = vec![
            ContentBlock::text("what is it?"),
            picture(MediaSource::Inline { data: "bWVvdw==".into() }),
            picture(MediaSource::Url { url: url.into() }),
        ];
        bench.give(Input::prompt_from_blocks(input_id(), Timestamp::ZERO, blocks)).await.wait().await;
        let parts = |at: usize| {
            let body = &provider.bodies()[at];
            let said =
                body["messages"].as_array().expect("messages").iter().find(|said| said["role"] == "user").cloned();
            said.expect("somebody speaks")["content"].clone()
        };
        let words = json!({ "type": "text", "text": "what is it?" });
        let (inline, linked) = match speaks {
            Speaks::Openai => (
                json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,bWVvdw==" } }),
                json!({ "type": "image_url", "image_url": { "url": url } }),
            ),
            Speaks::Anthropic => (
                json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "bWVvdw==" } }),
                json!({ "type": "image", "source": { "type": "url", "url": url } }),
            ),
        };
        assert_eq!(parts(0), json!([words, inline, linked]));
        // The journal names the picture, and does not hold it.
        let delta = deltas(&*bench.store).await[0].to_string();
        assert!(!delta.contains("bWVvdw==") && delta.contains(BlobId::of(b"meow").as_str()), "{delta}");
        let bench = bench.restarted(&config(speaks, &provider), LlmDeps::default()).await;
        bench.hear("and now?").await;
        let missing = json!({ "type": "text", "text": "[a picture of type image/png, which is no longer there]" });
        assert_eq!(parts(1), json!([words, missing, linked]));
    }
}

#[tokio::test]
async fn a_job_in_the_background_wakes_the_session_when_it_ends() {
    for speaks in BOTH {
        let folder = folder();
        let start = r#"{"name":"brew","argv":["sh","-c","test -e go || sleep 0.01; while ! test -e go; do sleep 0.01; done; echo brewed"]}"#;
        let provider = Provider::scripted([
            speaks.calls(&[("c", "job_start", start), ("s", "job_status", "{}")]),
            speaks.says(&["started"]),
            speaks.says(&["tea!"]),
        ])
        .await;
        let bench =
            Bench::new(&with_tools(speaks, &provider, folder.path(), &["job_start", "job_status", "job_cancel"])).await;
        assert_eq!(bench.hear("make tea").await, "started");
        let results = told(&provider.bodies()[1]);
        assert!(
            results[3].starts_with("result c: started as job ") && results[4].contains("\"brew\": "),
            "{results:?}"
        );
        fs::write(folder.path().join("go"), "").expect("written");
        provider.heard(3).await;
        let news = told(&provider.bodies()[2]).pop().expect("news");
        assert!(news.contains("[BACKGROUND JOB brew") && news.contains("brewed"), "{news}");
        bench.record(|record| matches!(record, Record::CompletionsApplied { .. })).await;
    }
}

#[tokio::test]
async fn a_job_that_a_cancel_kept_from_starting_is_ended_by_the_next_run() {
    let (speaks, folder) = (Speaks::Openai, folder());
    let provider = Provider::answering(move |number, _| match number {
        1 => Script::stream(vec![Frame::Silence]),
        _ => speaks.says(&["ok"]),
    })
    .await;
    let bench = Bench::new(&with_tools(speaks, &provider, folder.path(), &["job_start"])).await;
    assert_eq!(bench.hear("one").await, "ok");
    let cut = bench.offer("two", HandlingMode::Queue).await;
    provider.heard(2).await;
    // As a call leaves it that is cut off between registering its operation and starting its program.
    let ops = bench.adapter.ops_lifecycle_registry(session_id()).await.expect("a registry");
    let id = OperationId::from_uuid(uuid::Uuid::from_u128(5));
    let spec = OperationSpec {
        id,
        kind: OperationKind::BackgroundToolOp,
        display_name: "brew".into(),
        source_label: "shell".into(),
        child_session_id: None,
        expect_peer_channel: false,
        adoptable: false,
    };
    ops.register_operation(spec).await.expect("registered");
    bench.session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    cut.wait().await;
    assert_eq!(bench.hear("three").await, "ok");
    assert_eq!(ops.snapshot(id).await.expect("known").status, OperationStatus::Failed);
}

#[tokio::test]
async fn settings_of_an_input_hold_for_its_run() {
    let provider = Provider::answering(|_, _| Speaks::Openai.says(&["ok"])).await;
    let bench = Bench::new(&config(Speaks::Openai, &provider)).await;
    let mut input = Input::prompt(input_id(), Timestamp::ZERO, "one");
    if let windlass_core::InputBody::Prompt(prompt) = &mut input.body {
        prompt.turn_metadata = Some(Box::new(windlass_core::TurnMetadata {
            model: Some("big".into()),
            additional_instructions: vec!["In verse.".into()],
            ..Default::default()
        }));
    }
    bench.give(input).await.wait().await;
    bench.hear("two").await;
    let seen: Vec<(Value, Value)> =
        provider.bodies().iter().map(|body| (body["model"].clone(), body["messages"][0]["content"].clone())).collect();
    assert_eq!(seen, [(json!("big"), json!("Be brief.\n\nIn verse.")), (json!("m"), json!("Be brief."))]);
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    use windlass_agent::llm::{DialectName, LlmAgent};
    type Change = fn(&mut LlmConfig);
    let change = |change: Change| {
        let mut config = LlmConfig::new(DialectName::Openai, "m");
        change(&mut config);
        match LlmAgent::from_config(&config, LlmDeps::default()) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let cases: [(Change, &str); 13] = [
        (|_| (), "ok"),
        (|config| config.model = " ".into(), "invalid_setting: model: "),
        (|config| config.base_url = Some("nowhere".into()), "invalid_setting: base_url: "),
        (|config| config.base_url = Some("ftp://x".into()), "invalid_setting: base_url: "),
        (|config| config.api_key_env = Some("WINDLASS_NO_SUCH_KEY".into()), "missing_key: api_key_env: "),
        (|config| config.api_key_file = Some("/no/such/file".into()), "missing_key: api_key_file: "),
        (|config| drop(config.headers.insert("a b".into(), String::new())), "invalid_setting: headers: "),
        (|config| config.schema = Some(json!({ "type": 1 })), "invalid_setting: schema: "),
        (|config| config.tools.enabled = vec!["dance".into()], "invalid_setting: tools.enabled: "),
        (|config| config.tools.enabled = vec!["shell".into()], "invalid_setting: tools.workspace: "),
        (|config| config.tools.enabled = vec!["fetch".into()], "invalid_setting: tools.enabled: "),
        (|config| config.tools.approve = vec!["shell".into()], "invalid_setting: tools.approve: "),
        (|config| config.budget.cost_usd = Some(1.0), "invalid_setting: budget.cost_usd: "),
    ];
    for (how, expected) in cases {
        let said = change(how);
        assert!(said.starts_with(expected), "{said} is not {expected}");
    }
    let unknown = toml::from_str::<LlmConfig>("dialect = 'openai'\nmodel = 'm'\nmodle = 'x'").expect_err("a slip");
    assert!(unknown.to_string().contains("modle"), "{unknown}");
}

#[test]
fn the_guides_example_is_a_configuration() {
    use std::collections::BTreeMap;
    use windlass_agent::config::AgentConfig;
    type Agents = BTreeMap<String, BTreeMap<String, AgentConfig>>;
    let guide = include_str!("../../../../docs/guide/llm-agents.md");
    let example = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let read: Agents = toml::from_str(example).expect("it is read");
    let AgentConfig::Llm(gardener) = &read["agents"]["gardener"] else { panic!("{read:?}") };
    assert_eq!((gardener.budget.steps, gardener.tools.enabled.len()), (Some(50), 8));
}
