//! Is every answer of a provider understood, or refused by its class? Byte for byte, in both dialects.

use crate::{
    provider::{BOTH, Frame, Provider, Script, Speaks},
    rig::{Bench, config},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;
use windlass_agent::llm::{CallLimits, LlmConfig, LlmDeps};
use windlass_core::{AbandonReason, Input, InputId, Timestamp, TraceContext};
use windlass_runtime::CompletionOutcome;

/// Says something and returns the answer, or what went wrong.
async fn outcome(config: &LlmConfig) -> Result<String, String> {
    let bench = Bench::new(config).await;
    match bench.say("hello").await {
        CompletionOutcome::Completed(result) => Ok(result.text.clone()),
        CompletionOutcome::CompletedWithoutResult => Ok(String::new()),
        CompletionOutcome::Abandoned(AbandonReason::Failed { error }) => Err(format!("final {error}")),
        CompletionOutcome::Abandoned(AbandonReason::MaxAttemptsExhausted { error, .. }) => {
            Err(format!("retryable {error}"))
        }
        other => Err(format!("{other:?}")),
    }
}

fn impatient(speaks: Speaks, provider: &Provider) -> LlmConfig {
    let limits = CallLimits { retries: 1, idle_s: 1, answer_bytes: 64 * 1024, ..CallLimits::default() };
    LlmConfig { limits, ..config(speaks, provider) }
}

fn drop_frames(script: Script, keep: impl Fn(&str) -> bool) -> Script {
    let text = |frame: &Frame| match frame {
        Frame::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    Script { frames: script.frames.into_iter().filter(|frame| keep(&text(frame))).collect(), ..script }
}

#[tokio::test]
async fn a_provider_can_continue_the_trace_of_the_input_and_is_told_of_none_that_is_not_there() {
    for speaks in BOTH {
        let provider = Provider::answering(move |_, _| speaks.says(&["Hello."])).await;
        let bench = Bench::new(&config(speaks, &provider)).await;
        let trace = TraceContext::new([7; 16], [8; 8], true).expect("ids");
        let id = InputId::from_uuid(uuid::Uuid::from_u128(1));
        bench.give(Input::prompt(id, Timestamp::ZERO, "hello").traced(trace)).await.wait().await;
        bench.hear("hello").await;
        let told: Vec<Option<String>> = provider
            .asked()
            .iter()
            .map(|asked| asked.headers.get("traceparent").map(|told| told.to_str().expect("text").to_owned()))
            .collect();
        let [Some(told), None] = &told[..] else { panic!("{told:?}") };
        let told: TraceContext = told.parse().expect("a trace");
        // The attempt is a span of its own.
        assert_eq!((told.trace_id(), told.span_id() == trace.span_id()), (trace.trace_id(), false));
    }
}

#[tokio::test]
async fn answers_are_whole_whatever_the_cuts_and_whatever_is_missing_behind_them() {
    for speaks in BOTH {
        let words = ["Grüße, ", "世界 ", "🦀"];
        let whole = || speaks.says(&words);
        let final_events: &[&str] = match speaks {
            Speaks::Openai => &["[DONE]"],
            Speaks::Anthropic => &["message_stop"],
        };
        let mut crlf = whole();
        for frame in &mut crlf.frames {
            if let Frame::Bytes(bytes) = frame {
                *bytes = String::from_utf8_lossy(bytes).replace('\n', "\r\n").into_bytes();
            }
        }
        let mut commented = whole();
        commented.frames.insert(1, Frame::Bytes(b": still here\n\n".to_vec()));
        let mut untold = whole();
        untold.headers.clear();
        let mut broken_after = drop_frames(whole(), |text| !final_events.iter().any(|end| text.contains(end)));
        broken_after.frames.push(Frame::Break);
        let mut silent_after = drop_frames(whole(), |text| !final_events.iter().any(|end| text.contains(end)));
        silent_after.frames.push(Frame::Silence);
        let mut error_after = drop_frames(whole(), |text| !final_events.iter().any(|end| text.contains(end)));
        error_after.frames.push(Frame::Bytes(b"data: {\"error\":{\"message\":\"no accounting\"}}\n\n".to_vec()));
        let mut no_last_line = whole();
        if let Some(Frame::Bytes(bytes)) = no_last_line.frames.last_mut() {
            bytes.truncate(bytes.len() - 2);
        }
        let without = |word: &'static str| drop_frames(whole(), move |text| !text.contains(word));
        let finals_doubled = {
            let mut script = whole();
            let last = script.frames.len() - 1;
            script.frames.extend_from_within(last - 1..);
            script
        };
        for (case, script) in [
            ("as it should be", whole()),
            ("a byte at a time", whole().in_bytes()),
            ("with carriage returns", crlf),
            ("with comments", commented),
            ("without a type", untold),
            ("without the end mark", without(final_events[0])),
            ("without usage", without("prompt_tokens")),
            ("without the last empty line", no_last_line),
            ("with final events twice", finals_doubled),
            ("broken after the end", broken_after),
            ("silent after the end", silent_after),
            ("an error after the end", error_after),
        ] {
            let provider = Provider::scripted([script]).await;
            let heard = outcome(&impatient(speaks, &provider)).await;
            assert_eq!(heard.as_deref(), Ok("Grüße, 世界 🦀"), "{speaks:?}: {case}");
            assert_eq!(provider.count(), 1, "{speaks:?}: {case}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_is_refused_by_its_class() {
    let json_page = |status: u16, body: Value| Script::page(status, "application/json", body.to_string());
    for speaks in BOTH {
        let cut = |frames: usize, end: Frame| {
            let mut script = speaks.says(&["half an ", "answer"]);
            script.frames.truncate(frames);
            script.frames.push(end);
            script
        };
        let event = |text: &str| Script::stream(vec![Frame::Bytes(text.into())]);
        let error_event = |kind: &str| match speaks {
            Speaks::Openai => event(&format!("data: {{\"error\":{{\"type\":\"{kind}\",\"message\":\"m\"}}}}\n\n")),
            Speaks::Anthropic => event(&format!(
                "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"m\"}}}}\n\n"
            )),
        };
        for (case, script, expected) in [
            ("cut cleanly", cut(3, Frame::Bytes(Vec::new())), "retryable provider_answer_cut"),
            ("cut within a frame", cut(3, Frame::Bytes(b"data: {\"ch".to_vec())), "retryable provider_protocol_error"),
            (
                "cut within a character",
                cut(3, Frame::Bytes(b"data: {\"x\":\"\xc3".to_vec())),
                "retryable provider_answer_cut",
            ),
            ("connection broken", cut(3, Frame::Break), "retryable provider_answer_cut"),
            ("silent in the middle", cut(3, Frame::Silence), "retryable provider_stalled"),
            ("silent from the start", cut(0, Frame::Silence), "retryable provider_stalled"),
            ("no event", Script::stream(Vec::new()), "retryable provider_empty_answer"),
            ("no JSON in an event", event("data: nonsense\n\n"), "retryable provider_protocol_error"),
            (
                "no UTF-8",
                Script::stream(vec![Frame::Bytes(b"data: \xff\xfe\n\n".to_vec())]),
                "final provider_protocol_error",
            ),
            (
                "endless events",
                cut(2, Frame::Endless(b"data: {\"type\":\"ping\"}\n\n".to_vec())),
                "final answer_too_large",
            ),
            (
                "an endless line",
                Script::stream(vec![Frame::Endless(b"data: xxxxxxxx".to_vec())]),
                "final answer_too_large",
            ),
            ("overloaded within", error_event("overloaded_error"), "retryable provider_unavailable"),
            ("refused within", error_event("invalid_request_error"), "final provider_refused"),
            (
                "an error in a 200",
                json_page(200, json!({ "error": { "code": 500, "message": "oh" } })),
                "retryable provider_unavailable",
            ),
            ("an empty 200", Script::page(200, "application/json", ""), "retryable provider_empty_answer"),
            (
                "a browser page in a 200",
                Script::page(200, "text/html", "<html>login</html>"),
                "final provider_protocol_error",
            ),
            ("JSON that is no answer", json_page(200, json!({ "hello": 1 })), "retryable provider_protocol_error"),
            ("a browser page in a 502", Script::page(502, "text/html", "<html>"), "retryable provider_unavailable"),
            ("500", Script::page(500, "text/plain", "boom"), "retryable provider_unavailable"),
            ("429", json_page(429, json!({})).with("retry-after", "0"), "retryable provider_rate_limited"),
            ("400", json_page(400, json!({ "error": { "message": "bad" } })), "final provider_refused"),
            ("401", json_page(401, json!({})), "final provider_denied"),
            ("404", Script::page(404, "text/plain", ""), "final provider_not_found"),
            (
                "307",
                Script::page(307, "text/plain", "").with("location", "http://elsewhere/"),
                "final provider_redirected",
            ),
        ] {
            let provider = Provider::answering(move |_, _| script.clone()).await;
            let mut once = impatient(speaks, &provider);
            once.limits.retries = 0;
            let agent = windlass_agent::llm::LlmAgent::from_config(&once, LlmDeps::default());
            let heard = first_failure(agent.expect("an agent")).await;
            assert!(heard.starts_with(expected), "{speaks:?}: {case}: {heard}");
        }
    }
}

/// How the first attempt fails, and of which class.
async fn first_failure(agent: windlass_agent::llm::LlmAgent) -> String {
    use windlass_runtime::{CoreExecutor, CoreExecutorError, RuntimeSessionAdapter, executor_fn};
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let agent = Arc::new(agent);
    let spy = executor_fn(move |turn| {
        let (agent, tell) = (Arc::clone(&agent), tell.clone());
        async move {
            let output = agent.apply(turn).await;
            let _ = tell.send(match &output {
                Ok(output) => format!("{:?}", output.terminal),
                Err(CoreExecutorError::Retryable { error, .. }) => format!("retryable {error}"),
                Err(CoreExecutorError::Final { error }) => format!("final {error}"),
            });
            output.map_err(|error| CoreExecutorError::fatal(error.to_string()))
        }
    });
    let adapter = RuntimeSessionAdapter::ephemeral();
    let id = crate::rig::session_id();
    let session = adapter.create_session(id, None).await.expect("a session");
    adapter.ensure_session_with_executor(id, Arc::new(spy)).await.expect("attached");
    let input = windlass_core::Input::prompt(
        windlass_core::InputId::from_uuid(uuid::Uuid::new_v4()),
        windlass_core::Timestamp::ZERO,
        "hello",
    );
    session.accept(input).await.expect("accepted");
    told.recv().await.expect("it ends")
}

#[tokio::test]
async fn what_may_help_is_asked_again_as_often_as_allowed() {
    for speaks in BOTH {
        let busy = || Script::page(429, "application/json", "{}").with("retry-after", "0");
        let broken = || Script::page(503, "text/html", "<html>").with("retry-after-ms", "1");
        let provider = Provider::scripted([busy(), broken(), speaks.says(&["at last"])]).await;
        assert_eq!(outcome(&config(speaks, &provider)).await.as_deref(), Ok("at last"));
        assert_eq!(provider.count(), 3);

        // More than a run should wait: the attempt ends, and says for how long.
        let provider =
            Provider::scripted([Script::page(429, "application/json", "{}").with("retry-after", "3600")]).await;
        let agent = windlass_agent::llm::LlmAgent::from_config(&config(speaks, &provider), LlmDeps::default());
        let heard = first_failure(agent.expect("an agent")).await;
        assert!(heard.starts_with("retryable provider_rate_limited"), "{heard}");
        assert_eq!(provider.count(), 1);
    }
}

#[tokio::test]
async fn servers_that_do_not_stream_are_understood() {
    let whole = [
        (
            Speaks::Openai,
            json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": "one piece" } }] }),
        ),
        (
            Speaks::Anthropic,
            json!({ "type": "message", "role": "assistant", "content": [{ "type": "text", "text": "one piece" }] }),
        ),
    ];
    for (speaks, body) in whole {
        let provider =
            Provider::scripted([Script::page(200, "application/json; charset=utf-8", body.to_string())]).await;
        assert_eq!(outcome(&config(speaks, &provider)).await.as_deref(), Ok("one piece"));
    }
}

#[tokio::test]
async fn requests_say_who_asks_and_what() {
    let key = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(key.path(), "  sk-secret\n").expect("written");
    for speaks in BOTH {
        let provider = Provider::scripted([speaks.says(&["hi"])]).await;
        let mut config = config(speaks, &provider);
        config.api_key_file = Some(key.path().to_owned());
        config.temperature = Some(0.5);
        config.max_tokens = Some(99);
        config.headers.insert("x-team".into(), "garden".into());
        config.params.insert("top_p".into(), json!(0.9));
        outcome(&config).await.expect("an answer");
        let asked = &provider.asked()[0];
        assert_eq!(asked.path, speaks.path());
        let header = |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!(header("x-team"), "garden");
        let expected = match speaks {
            Speaks::Openai => {
                assert_eq!(header("authorization"), "Bearer sk-secret");
                json!({
                    "model": "m", "stream": true, "stream_options": { "include_usage": true },
                    "max_tokens": 99, "temperature": 0.5, "top_p": 0.9,
                    "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "hello" }],
                })
            }
            Speaks::Anthropic => {
                assert_eq!((header("x-api-key"), header("anthropic-version")), ("sk-secret", "2023-06-01"));
                json!({
                    "model": "m", "stream": true, "max_tokens": 99, "temperature": 0.5, "top_p": 0.9,
                    "system": "Be brief.",
                    "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hello" }] }],
                })
            }
        };
        assert_eq!(asked.body, expected);
    }
}

#[tokio::test]
async fn thinking_and_unknown_members_go_back_as_they_came() {
    let openai = [
        json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "reasoning_content": "Hm" } }] }),
        json!({ "choices": [{ "index": 0, "delta": { "reasoning_content": "m.", "x_new": { "sig": "abc" } } }] }),
        json!({ "choices": [{ "index": 0, "delta": { "content": "Yes" } }] }),
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }),
    ];
    let anthropic = [
        json!({ "type": "message_start", "message": { "usage": {} } }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "thinking", "thinking": "", "signature": "" } }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "thinking_delta", "thinking": "Hmm." } }),
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "signature_delta", "signature": "EqQB" } }),
        json!({ "type": "content_block_start", "index": 1, "content_block": { "type": "redacted_thinking", "data": "zzz" } }),
        json!({ "type": "content_block_start", "index": 2, "content_block": { "type": "x_new", "sig": "abc" } }),
        json!({ "type": "content_block_start", "index": 3, "content_block": { "type": "text", "text": "" } }),
        json!({ "type": "content_block_delta", "index": 3, "delta": { "type": "text_delta", "text": "Yes" } }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" } }),
        json!({ "type": "message_stop" }),
    ];
    let cases: [(Speaks, &[Value], Value); 2] = [
        (
            Speaks::Openai,
            &openai,
            json!({ "role": "assistant", "content": "Yes", "reasoning_content": "Hmm.", "x_new": { "sig": "abc" } }),
        ),
        (
            Speaks::Anthropic,
            &anthropic,
            json!({ "role": "assistant", "content": [
                { "type": "thinking", "thinking": "Hmm.", "signature": "EqQB" },
                { "type": "redacted_thinking", "data": "zzz" },
                { "type": "x_new", "sig": "abc" },
                { "type": "text", "text": "Yes" },
            ] }),
        ),
    ];
    for (speaks, events, expected) in cases {
        let frames = events.iter().map(|event| speaks.frame(event)).collect();
        let provider = Provider::scripted([Script::stream(frames), speaks.says(&["again"])]).await;
        let bench = Bench::new(&config(speaks, &provider)).await;
        assert_eq!(bench.hear("one").await, "Yes");
        // Another process reads it from the journal.
        let bench = bench.restarted(&config(speaks, &provider), LlmDeps::default()).await;
        assert_eq!(bench.hear("two").await, "again");
        let body = &provider.bodies()[1];
        let said = body["messages"].as_array().expect("messages").iter().find(|said| said["role"] == "assistant");
        assert_eq!(said, Some(&expected), "{speaks:?}");
    }
}

// A vendor refuses them, and would refuse every later request of the session.
#[tokio::test]
async fn an_answer_without_words_goes_back_with_some() {
    let openai = [
        json!({ "choices": [{ "index": 0, "delta": { "content": null, "reasoning_content": "Hmm." } }] }),
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }),
    ];
    let anthropic = [
        json!({ "type": "message_start", "message": { "usage": {} } }),
        json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "\n\n" } }),
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" } }),
        json!({ "type": "message_stop" }),
    ];
    let words = json!([{ "type": "text", "text": "(nothing)" }]);
    let cases: [(Speaks, &[Value], Value); 2] =
        [(Speaks::Openai, &openai, json!("(nothing)")), (Speaks::Anthropic, &anthropic, words)];
    for (speaks, events, expected) in cases {
        let frames = events.iter().map(|event| speaks.frame(event)).collect();
        let provider = Provider::scripted([Script::stream(frames), speaks.says(&["again"])]).await;
        let bench = Bench::new(&config(speaks, &provider)).await;
        bench.say("one").await;
        assert_eq!(bench.hear("two").await, "again");
        let body = &provider.bodies()[1];
        let said = body["messages"].as_array().expect("messages").iter().find(|said| said["role"] == "assistant");
        assert_eq!(said.map(|said| &said["content"]), Some(&expected), "{speaks:?}");
    }
}

#[tokio::test]
async fn calls_without_indexes_or_ids_are_told_apart() {
    // As servers send them that know calls only whole.
    let call = |name: &str| json!({ "type": "function", "function": { "name": name, "arguments": "{}" } });
    let with_id = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "none", "arguments": {} } });
    let delta = |calls: Value| json!({ "choices": [{ "index": 0, "delta": { "tool_calls": calls } }] });
    let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    for (calls, ids) in [
        (vec![delta(json!([with_id("a"), with_id("b")]))], ["a", "b"].as_slice()),
        (vec![delta(json!([call("none")]))], &["call_0"]),
    ] {
        let events: Vec<Value> = calls.into_iter().chain([end.clone()]).collect();
        let frames = events.iter().map(|event| Speaks::Openai.frame(event)).collect();
        let provider = Provider::scripted([Script::stream(frames), Speaks::Openai.says(&["ok"])]).await;
        assert_eq!(outcome(&config(Speaks::Openai, &provider)).await.as_deref(), Ok("ok"));
        let body = &provider.bodies()[1];
        let results: Vec<&str> = body["messages"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|said| said["tool_call_id"].as_str())
            .collect();
        assert_eq!(results, ids);
    }
}

#[tokio::test]
async fn what_is_said_is_shown_while_it_is_said() {
    use windlass_core::{HandlingMode, Seq};
    use windlass_runtime::FeedItem;
    for speaks in BOTH {
        let gate = Arc::new(Notify::new());
        let script = speaks.says(&["one ", "two"]);
        let at = script
            .frames
            .iter()
            .position(|frame| matches!(frame, Frame::Bytes(b) if String::from_utf8_lossy(b).contains("two")));
        let provider = Provider::scripted([script.gated(at.expect("a frame"), &gate)]).await;
        let bench = Bench::new(&config(speaks, &provider)).await;
        let mut feed = bench.session.feed(Seq::ZERO);
        let completion = bench.offer("hello", HandlingMode::Queue).await;
        let mut shown = Vec::new();
        while shown.is_empty() {
            if let FeedItem::Progress(progress) = feed.next().await.expect("a feed") {
                let live: Value = serde_json::from_str(progress.delta.get()).expect("JSON");
                if live["type"] == "text" {
                    shown.push(live["text"].clone());
                }
            }
        }
        // The second half is not even sent yet.
        assert_eq!(shown, ["one "]);
        gate.notify_one();
        assert!(matches!(completion.wait().await, CompletionOutcome::Completed(result) if result.text == "one two"));
    }
}

#[tokio::test]
async fn an_answer_is_not_kept_waiting_for_the_end_of_its_stream_and_that_is_read_all_the_same() {
    for speaks in BOTH {
        let (gate, read) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut late = speaks.says(&["one"]);
        late.frames.extend([Frame::Gate(Arc::clone(&gate)), Frame::Reached(Arc::clone(&read))]);
        let provider = Provider::scripted([late, speaks.says(&["two"])]).await;
        let bench = Bench::new(&config(speaks, &provider)).await;
        assert_eq!(bench.hear("hello").await, "one");
        // A connection that was closed would be noticed by now.
        assert_eq!(bench.hear("hello").await, "two");
        gate.notify_one();
        let was_read = tokio::time::timeout(Duration::from_secs(10), read.notified()).await;
        assert!(was_read.is_ok(), "{speaks:?}: the connection was closed within its answer");
    }
}
