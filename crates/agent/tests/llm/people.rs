//! Is a person asked when one should be, once, and obeyed?

use crate::{
    provider::{BOTH, Provider, Speaks},
    rig::{Bench, config, deltas, folder, input_id, session_id, told, with_tools, written},
};
use serde_json::{Value, json};
use std::{fs, sync::Arc, time::Duration};
use tokio::sync::Notify;
use windlass_agent::llm::{Budget, LlmConfig, LlmDeps, OnAmbiguous, Price};
use windlass_core::{ContentBlock, HandlingMode, Input, MediaSource, Record, RunEnd, Timestamp};
use windlass_runtime::CompletionOutcome;

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
async fn what_comes_with_a_stop_is_not_lost() {
    for speaks in BOTH {
        let provider = Provider::answering(move |_, _| speaks.says(&["ok"])).await;
        let budget = Budget { steps: Some(0), ..Budget::default() };
        let bench = Bench::new(&LlmConfig { budget, ..config(speaks, &provider) }).await;
        bench.asked("go").await;
        bench.session.hold().await.expect("held");
        let event = Input::external_event(input_id(), Timestamp::ZERO, "clock", "tick", json!({ "body": "noon" }));
        let told = bench.give(event.with_mode(HandlingMode::Steer)).await;
        let stopped = bench.offer("no", HandlingMode::Steer).await;
        bench.session.release().await.expect("released");
        for completion in [told, stopped] {
            let outcome = completion.wait().await;
            assert!(format!("{outcome:?}").contains("I have stopped"), "{outcome:?}");
        }
        let committed = Value::from(deltas(&*bench.store).await).to_string();
        assert!(committed.contains("noon"), "{speaks:?}: {committed}");
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
async fn what_was_said_before_a_question_does_not_answer_it() {
    for mode in [HandlingMode::Queue, HandlingMode::Steer] {
        let (speaks, folder, gate) = (Speaks::Openai, folder(), Arc::new(Notify::new()));
        let asks = speaks.calls(&[("c", "shell", r#"{"argv":["touch","log"]}"#)]).gated(0, &gate);
        let provider = Provider::scripted([asks, speaks.says(&["done"])]).await;
        let mut config = with_tools(speaks, &provider, folder.path(), &["shell"]);
        config.tools.approve = vec!["shell".into()];
        let bench = Bench::new(&config).await;
        let go = bench.offer("go", HandlingMode::Queue).await;
        provider.heard(1).await;
        // Nobody has been asked yet.
        let early = bench.offer("yes", mode).await;
        gate.notify_one();
        for completion in [go, early] {
            let outcome = completion.wait().await;
            let is_asked = matches!(&outcome, CompletionOutcome::CallbackPending(tool) if tool.tool_name == "approve");
            assert!(is_asked, "{mode:?}: {outcome:?}");
        }
        assert!(!folder.path().join("log").exists(), "{mode:?}: nobody has approved it");
        let bench = bench.restarted(&config, LlmDeps::default()).await;
        assert_eq!(bench.hear("yes").await, "done");
        assert!(folder.path().join("log").exists());
        let said = told(&provider.bodies()[1]).into_iter().filter(|line| line == "user: yes");
        assert_eq!(said.count(), 1, "{mode:?}: the one that was no answer");
    }
}

#[tokio::test]
async fn an_answer_keeps_its_pictures() {
    for speaks in BOTH {
        let folder = folder();
        let asks = speaks.calls(&[("q", "ask_human", r#"{"question":"Which?"}"#)]);
        let provider = Provider::scripted([asks, speaks.says(&["A cat."])]).await;
        let bench = Bench::new(&with_tools(speaks, &provider, folder.path(), &["ask_human"])).await;
        bench.asked("draw").await;
        let source = MediaSource::Url { url: "https://example.org/cat.png".into() };
        let picture = ContentBlock::Image { media_type: "image/png".into(), source };
        let answer = Input::prompt_from_blocks(input_id(), Timestamp::ZERO, vec![ContentBlock::text("this"), picture]);
        bench.give(answer).await.wait().await;
        let last = &provider.bodies()[1];
        assert!(told(last).iter().any(|line| line.starts_with("result q: this")), "{speaks:?}: {last}");
        assert!(last.to_string().contains("cat.png"), "{speaks:?}: {last}");
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

fn is_pending(record: &Record) -> bool {
    record
        .outcome_of(input_id(), windlass_core::InputState::Consumed)
        .is_some_and(|outcome| matches!(outcome, windlass_core::Outcome::CallbackPending { .. }))
}
