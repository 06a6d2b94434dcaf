//! Does a conversation with tools go as it should, steered, cancelled and restarted?

use crate::{
    provider::{BOTH, Frame, Provider, Script, Speaks},
    rig::{Bench, config, deltas, folder, gone, input_id, told, with_tools, written},
};
use serde_json::{Value, json};
use std::{fs, sync::Arc, time::Duration};
use tokio::sync::Notify;
use windlass_agent::llm::{LlmConfig, LlmDeps};
use windlass_core::{
    BlobId, CancelOutcome, ContentBlock, Continuation, Disposition, HandlingMode, Input, InputBody, InputOrigin,
    MediaSource, Timestamp,
};
use windlass_runtime::{
    CompletionOutcome,
    memory::MemoryStore,
    object_blobs::ObjectBlobs,
    store::{InputRef, Store},
    testing::faulty_store::{Call, Fault, FaultyStore},
};

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
        let deltas = deltas(&*bench.store).await;
        let intents: Vec<&Value> = deltas.iter().filter_map(|delta| delta["intended"].get(0)).collect();
        assert!(intents.iter().any(|intent| intent["call"] == "d4" && intent["sandbox"] == "workspace"), "{intents:?}");
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
        assert!(last[4].starts_with("result c2: no_result: "), "{last:?}");
        assert_eq!(last[5], "user: three");
    }
}

#[tokio::test]
async fn what_is_no_call_is_not_called_and_not_said_back() {
    let odd = json!({ "choices": [{ "message": { "role": "assistant", "content": "hi", "tool_calls": ["x", 7] } }] });
    let odd = Script::page(200, "application/json", odd.to_string());
    let provider = Provider::scripted([odd, Speaks::Openai.says(&["ok"])]).await;
    let bench = Bench::new(&config(Speaks::Openai, &provider)).await;
    assert_eq!(bench.hear("one").await, "hi");
    assert_eq!(bench.hear("two").await, "ok");
    let said = &provider.bodies()[1]["messages"];
    assert_eq!(said[2], json!({ "role": "assistant", "content": "hi" }), "{said}");
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
async fn repairs_count_over_tools_and_steps_and_anew_with_each_run() {
    let schema = json!({ "type": "object", "required": ["n"] });
    for speaks in BOTH {
        // It looks something up between two wrong answers.
        let provider = Provider::answering(move |number, _| match number % 2 {
            0 => speaks.says(&["no"]),
            _ => speaks.calls(&[("c", "list_files", "{}")]),
        })
        .await;
        let folder = folder();
        let config = LlmConfig {
            schema: Some(schema.clone()),
            schema_repairs: 1,
            ..with_tools(speaks, &provider, folder.path(), &["list_files"])
        };
        let bench = Bench::new(&config).await;
        let outcome = bench.say("how many?").await;
        assert!(format!("{outcome:?}").contains("structured_output_invalid: after 1 repairs"), "{outcome:?}");
        assert_eq!(provider.count(), 3, "{speaks:?}: wrong, looked up, wrong");

        // Cut off after a repair, which is not held against the next run.
        let gate = Arc::new(Notify::new());
        let stuck = Script { frames: vec![Frame::Gate(Arc::clone(&gate))], ..speaks.says(&[]) };
        let provider = Provider::scripted([speaks.says(&["no"]), stuck]).await;
        let config = LlmConfig { base_url: Some(speaks.base(&provider)), ..config };
        let bench = Bench::new(&config).await;
        let cut = bench.offer("how many?", HandlingMode::Queue).await;
        provider.heard(2).await;
        bench.session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
        cut.wait().await;
        provider.then(speaks.says(&["no"]));
        provider.then(speaks.says(&[r#"{"n":1}"#]));
        assert_eq!(bench.hear("and now?").await, r#"{"n":1}"#, "{speaks:?}");
    }
}

#[tokio::test]
async fn steering_that_says_nothing_leaves_the_answer_as_it_is() {
    for speaks in BOTH {
        let gate = Arc::new(Notify::new());
        let provider = Provider::scripted([speaks.says(&[r#"{"n":1}"#]).gated(1, &gate)]).await;
        let config = LlmConfig { schema: Some(json!({ "type": "object" })), ..config(speaks, &provider) };
        let bench = Bench::new(&config).await;
        let done = bench.offer("go", HandlingMode::Queue).await;
        provider.heard(1).await;
        let nothing = Continuation {
            reason: "carry on".into(),
            handling_mode: HandlingMode::Steer,
            request_id: None,
            notices: Vec::new(),
        };
        let body = InputBody::Continuation(nothing);
        let steered = bench.give(Input::durable(input_id(), Timestamp::ZERO, InputOrigin::System, body)).await;
        gate.notify_one();
        for completion in [done, steered] {
            match completion.wait().await {
                CompletionOutcome::Completed(result) => assert_eq!(result.structured, Some(json!({ "n": 1 }))),
                other => panic!("{speaks:?}: {other:?}"),
            }
        }
        assert_eq!((provider.count(), bench.answers().await), (1, 1));
    }
}

#[tokio::test]
async fn an_answer_that_is_committed_is_judged_the_same_by_whoever_resumes() {
    let schema = Some(json!({ "type": "object" }));
    let speaks = Speaks::Openai;
    let mut filtered = speaks.events(&[], &[]);
    filtered[1]["choices"][0]["finish_reason"] = "content_filter".into();
    let filtered = || Script::stream(filtered.iter().map(|event| speaks.frame(event)).collect());
    for (answer, schema, expected) in [
        (speaks.says(&["no"]), schema, "structured_output_invalid: after 0 repairs"),
        (filtered(), None, "answer_filtered: "),
    ] {
        let gate = Arc::new(Notify::new());
        let provider = Provider::scripted([answer.gated(1, &gate)]).await;
        let faults = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
        let config = LlmConfig { schema, schema_repairs: 0, ..config(speaks, &provider) };
        let bench = Bench::over(Arc::clone(&faults) as Arc<dyn Store>, &config, LlmDeps::default()).await;
        let id = input_id();
        drop(bench.give(Input::prompt(id, Timestamp::ZERO, "go")).await);
        provider.heard(1).await;
        // The answer will be committed, and what it comes to will not.
        faults.fail(Call::Append, 2, Fault::Full);
        gate.notify_one();
        let failed = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let waiting = bench.session.completion(InputRef::Id(id)).await;
                match waiting.expect("it is known").wait().await {
                    CompletionOutcome::Failed { error, .. } => return error,
                    // Whoever waits while the store fails hears of that.
                    CompletionOutcome::RuntimeTerminated(_) => tokio::task::yield_now().await,
                    other => panic!("{other:?}"),
                }
            }
        });
        let error = failed.await.expect("it ends");
        assert!(error.starts_with(expected), "{error}");
        assert_eq!((provider.count(), bench.answers().await), (1, 1));
    }
}

#[tokio::test]
async fn an_answer_calls_so_many_tools_and_no_more() {
    for speaks in BOTH {
        let folder = folder();
        let ids: Vec<String> = (0..5).map(|at| format!("c{at}")).collect();
        let calls: Vec<(&str, &str, &str)> = ids.iter().map(|id| (id.as_str(), "list_files", "{}")).collect();
        let provider = Provider::scripted([speaks.calls(&calls), speaks.says(&["ok"])]).await;
        let mut config = with_tools(speaks, &provider, folder.path(), &["list_files"]);
        config.tools.calls_per_answer = 3;
        let bench = Bench::new(&config).await;
        assert_eq!(bench.hear("go").await, "ok");
        let results = told(&provider.bodies()[1]).split_off(6);
        let refused = "too_many_calls: an answer may call 3 tools; this one was not called: call it in another answer";
        let refused = ["c3", "c4"].map(|id| format!("result {id}: {refused}"));
        let made = ["c0", "c1", "c2"].map(|id| format!("result {id}: (empty)"));
        assert_eq!(results, [&made[..], &refused].concat(), "{speaks:?}");
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
