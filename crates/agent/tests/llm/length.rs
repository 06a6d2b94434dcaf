//! What becomes of a conversation that grows too long?

use crate::{
    provider::{BOTH, Provider, Script, Speaks},
    rig::{Bench, answers_in, config, deltas, input_id, told},
};
use serde_json::{Value, json};
use std::sync::Arc;
use windlass_agent::llm::{Compaction, LlmConfig, LlmDeps, ToolsConfig};
use windlass_core::{Input, Timestamp};
use windlass_runtime::memory::MemoryStore;

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
async fn an_answer_of_a_person_is_not_summarised_away_from_its_question() {
    let speaks = Speaks::Openai;
    let provider = Provider::answering(move |_, body| {
        let told = told(body);
        let is_told = |words: &str| told.iter().any(|line| line.starts_with(words));
        if body.to_string().contains("You summarise") {
            speaks.says(&["They talked of tea."])
        } else if is_told("result q: blue") {
            speaks.says(&["Blue it is."])
        } else if is_told("user: paint it") {
            speaks.calls(&[("q", "ask_human", r#"{"question":"Which?"}"#)])
        } else {
            speaks.says(&["ok"])
        }
    })
    .await;
    let tools = ToolsConfig { enabled: vec!["ask_human".into()], ..ToolsConfig::default() };
    let compaction = Some(Compaction { at_tokens: 12, keep_messages: 1 });
    let bench = Bench::new(&LlmConfig { compaction, tools, ..config(speaks, &provider) }).await;
    bench.hear("tea").await;
    bench.asked("paint it").await;
    // News between the question and its answer.
    let event = Input::external_event(input_id(), Timestamp::ZERO, "clock", "tick", json!({ "body": "noon" }));
    bench.give(event).await.wait().await;
    assert_eq!(bench.hear("blue").await, "Blue it is.");
    let last = told(provider.bodies().last().expect("asked"));
    assert!(last[0].ends_with("They talked of tea."), "{last:?}");
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
async fn what_is_too_long_to_be_summarised_is_cut_until_it_is_not() {
    let too_long = json!({ "error": { "code": "context_length_exceeded", "message": "too long" } }).to_string();
    let compaction = Some(Compaction { at_tokens: 600, keep_messages: 8 });
    // Where nothing says how much is too much, the model does.
    for (speaks, compaction, asked_for_summaries) in
        [(Speaks::Openai, None, 2), (Speaks::Anthropic, None, 2), (Speaks::Openai, compaction, 1)]
    {
        let too_long = too_long.clone();
        let asks_for_summary = |body: &Value| body.to_string().contains("You summarise");
        let provider = Provider::answering(move |_, body| match body["messages"].to_string().len() {
            4_000.. if body["model"] == "small" => Script::page(400, "application/json", &too_long),
            _ => speaks.says(&[if asks_for_summary(body) { "They talked of tea." } else { "ok" }]),
        })
        .await;
        let large = config(speaks, &provider);
        let bench = Bench::new(&large).await;
        for said in [&"tea ".repeat(150); 10].into_iter().chain([&"tea".to_owned(); 4]) {
            bench.hear(said).await;
        }
        // Another model goes on, of which the conversation is too much already.
        let small = LlmConfig { model: "small".into(), compaction, ..large };
        let bench = bench.restarted(&small, LlmDeps::default()).await;
        assert_eq!(bench.hear("and now?").await, "ok", "{speaks:?}");
        let summaries = provider.bodies().into_iter().filter(asks_for_summary).count();
        assert_eq!(summaries, asked_for_summaries, "{speaks:?}");
        let last = told(provider.bodies().last().expect("asked"));
        assert!(last[0].ends_with("They talked of tea."), "{speaks:?}: {last:?}");
    }
}

#[tokio::test]
async fn what_is_no_longer_kept_leaves_no_half_of_a_call() {
    for speaks in BOTH {
        let provider = Provider::answering(move |number, body| {
            let is_told = body["messages"].as_array().and_then(|said| said.last()).map(Value::to_string);
            match is_told {
                Some(last) if last.contains("unknown_tool") => speaks.says(&["ok"]),
                _ => speaks.calls(&[(&format!("c{number}"), "nothing", "{}")]),
            }
        })
        .await;
        let config = config(speaks, &provider);
        let store = Arc::new(MemoryStore::new());
        // Cut after each of the records that a run leaves.
        for kept in 12..16 {
            let bench = Bench::keeping(kept, store.clone(), &config, LlmDeps::default()).await;
            for _ in 0..30 {
                bench.hear("go").await;
            }
            let bench = bench.restarted(&config, LlmDeps::default()).await;
            assert_eq!(bench.hear("and now?").await, "ok");
            let bodies = provider.bodies();
            let last = told(&bodies[bodies.len() - 2]);
            assert_eq!(last[0], "user: [What was said before this is no longer kept]", "{speaks:?}, {kept}");
            assert!((4..20).contains(&last.len()), "{speaks:?}, {kept}: {last:#?}");
            let named = |what: &str| -> Vec<String> {
                let of =
                    |line: &String| line.strip_prefix(what).and_then(|rest| rest.split(':').next()).map(str::to_owned);
                last.iter().filter_map(of).collect()
            };
            assert_eq!(named("call "), named("result "), "{speaks:?}, {kept}: {last:#?}");
            bench.adapter.shutdown().await;
        }
    }
}
