//! Is no answer paid for twice, wherever the process is killed?
//!
//! A child process runs a conversation with tools on a store of its own, and is killed by SIGKILL before or after each
//! of its commits, or within each of its answers. Another child goes on. The provider, which lives on, has counted.

use crate::{
    provider::{BOTH, Frame, Provider, Script, Speaks},
    rig::{Bench, answers_in, config, deltas, session_id},
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
};
use windlass_agent::llm::{LlmConfig, LlmDeps, OnAmbiguous, ToolsConfig};
use windlass_core::{Input, InputId, Seq, Timestamp};
use windlass_runtime::{CompletionOutcome, FeedItem, memory::MemoryStore, store::InputRef};
use windlass_sqlite::{SqliteOptions, SqliteStore, verify};

/// Answers of the conversation.
const ANSWERS: usize = 3;
/// What a child writes before what its agent shows.
const SHOWN: &str = "shown: ";

/// The same answer to the same question, however often it is asked.
fn conversation(speaks: Speaks) -> impl Fn(usize, &Value) -> Script + Send {
    let effect = r#"{"argv":["sh","-c","echo $WINDLASS_EFFECT_KEY >> effects"]}"#;
    move |_, body| {
        let messages = body["messages"].as_array().expect("messages");
        match messages.iter().filter(|message| message["role"] == "assistant").count() {
            0 => speaks.calls(&[("a", "list_files", "{}"), ("b", "read_file", r#"{"path":"store.db"}"#)]),
            1 => speaks.answers(&["now"], &[("c", "shell", effect), ("d", "list_files", "{}")]),
            _ => speaks.says(&["done"]),
        }
    }
}

fn agent(speaks: Speaks, base: &str, folder: &Path) -> LlmConfig {
    let tools = ToolsConfig {
        enabled: ["shell", "read_file", "list_files"].map(str::to_owned).to_vec(),
        workspace: Some(folder.to_owned()),
        on_ambiguous: OnAmbiguous::GiveUp,
        output_limit: 300,
        ..ToolsConfig::default()
    };
    let dialect = match speaks {
        Speaks::Openai => windlass_agent::llm::DialectName::Openai,
        Speaks::Anthropic => windlass_agent::llm::DialectName::Anthropic,
    };
    LlmConfig { tools, base_url: Some(base.to_owned()), ..LlmConfig::new(dialect, "m") }
}

/// Not a test by itself: the life of a child, when there is one.
#[test]
fn child() {
    let Ok(folder) = std::env::var("WINDLASS_TEST_CHILD") else { return };
    let base = std::env::var("WINDLASS_TEST_PROVIDER").expect("a provider");
    let speaks = if base.ends_with("/v1") { Speaks::Openai } else { Speaks::Anthropic };
    let folder = Path::new(&folder);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = SqliteStore::open(folder.join("store.db"), SqliteOptions::default()).expect("opened");
        let bench = Bench::over(Arc::new(store), &agent(speaks, &base, folder), LlmDeps::default()).await;
        let id = InputId::from_uuid(uuid::Uuid::from_u128(7));
        let mut feed = bench.session.feed(Seq::ZERO);
        tokio::spawn(async move {
            while let Ok(item) = feed.next().await {
                if let FeedItem::Progress(progress) = item {
                    println!("{SHOWN}{}", progress.delta.get());
                }
            }
        });
        bench.session.accept(Input::prompt(id, Timestamp::ZERO, "go")).await.expect("accepted, or known");
        let outcome = bench.session.completion(InputRef::Id(id)).await.expect("a wait").wait().await;
        assert!(matches!(&outcome, CompletionOutcome::Completed(result) if result.text == "done"), "{outcome:?}");
        bench.adapter.shutdown().await;
    });
    std::process::exit(0);
}

fn child_on(folder: &Path, base: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "crash::child", "--nocapture"]);
    command.env("WINDLASS_TEST_CHILD", folder).env("WINDLASS_TEST_PROVIDER", base).env_remove("WINDLASS_CRASH");
    command
}

async fn run_child(folder: &Path, base: &str, crash: Option<&str>) -> ExitStatus {
    let mut command = child_on(folder, base);
    if let Some(crash) = crash {
        command.env("WINDLASS_CRASH", crash);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("the child ran");
    let well = output.status.success() || crash.is_some();
    assert!(well, "{}", String::from_utf8_lossy(&output.stdout));
    output.status
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_any_two_steps_it_pays_for_one_answer_more_at_most() {
    use std::os::unix::process::ExitStatusExt;
    for (speaks, point) in BOTH.into_iter().flat_map(|speaks| ["before_commit", "after_commit"].map(|at| (speaks, at)))
    {
        let (mut kills, mut ambiguous, mut wasted) = (0, 0, 0);
        for pass in 1.. {
            assert!(pass < 60, "it never ends");
            let folder = tempfile::tempdir().expect("a folder");
            let provider = Provider::answering(conversation(speaks)).await;
            let (case, base) = (format!("{point}@{pass}"), speaks.base(&provider));
            let status = run_child(folder.path(), &base, Some(&case)).await;
            let killed = status.signal() == Some(9);
            assert!(killed || status.success(), "{case}: {status}");
            if killed {
                kills += 1;
                run_child(folder.path(), &base, None).await;
            }
            let report = verify(folder.path().join("store.db")).expect("verified");
            assert!(report.is_clean(), "{case}: {report}");
            let store = SqliteStore::open_read_only(folder.path().join("store.db")).expect("opened");
            let committed = deltas(&store).await;
            let answers: usize = committed.iter().map(answers_in).sum();
            assert_eq!(answers, ANSWERS, "{case}: each answer is committed once");
            let paid = provider.count();
            assert!(paid <= answers + usize::from(killed), "{case}: {paid} answers were paid for, {answers} kept");
            wasted += paid - answers;

            let effects = fs::read_to_string(folder.path().join("effects")).unwrap_or_default().lines().count();
            let result = committed.iter().flat_map(|delta| delta["messages"].as_array().expect("a list"));
            let result = result.filter(|message| message["call"] == "c").collect::<Vec<_>>();
            assert_eq!(result.len(), 1, "{case}: one result");
            let said = result[0]["content"].as_str().expect("text");
            if said.starts_with("ambiguous") {
                ambiguous += 1;
                assert!(effects <= 1, "{case}");
            } else {
                assert_eq!(effects, 1, "{case}: {said}");
            }
            if !killed {
                break;
            }
        }
        // Created, accepted, two answers, two results, an intent, its result, the end, at the least.
        assert!(kills >= 9, "{point}: only {kills} kills");
        assert_eq!(ambiguous, 1, "{point}: exactly one place hides an effect");
        assert_eq!(wasted > 0, point == "before_commit", "{point}: {wasted} answers were lost");
    }
}

/// Kills a child as soon as its agent has shown these words.
async fn kill_child_at(folder: &Path, base: &str, words: &'static str) {
    let mut command = child_on(folder, base);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the child runs");
    let killed = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        if !lines.any(|line| line.contains(SHOWN) && line.contains(words)) {
            let mut said = String::new();
            child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
            panic!("the child ended without a word of this answer: {said}");
        }
        child.kill().and_then(|()| child.wait()).expect("the child was ours")
    });
    assert!(!killed.await.expect("it shows the words").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_within_every_answer_it_pays_for_one_more_each_time_and_keeps_no_half() {
    for speaks in BOTH {
        let folder = tempfile::tempdir().expect("a folder");
        let whole = conversation(speaks);
        // Every other request is answered with the first words of an answer, and nothing after them.
        let provider = Provider::answering(move |number, body| match number % 2 {
            0 => {
                let mut half = speaks.answers(&["HALF", " of it"], &[("x", "list_files", "{}")]);
                let first = half.frames.iter().position(
                    |frame| matches!(frame, Frame::Bytes(bytes) if bytes.windows(4).any(|word| word == b"HALF")),
                );
                half.frames.truncate(first.expect("the words are said") + 1);
                half.frames.push(Frame::Silence);
                half
            }
            _ => whole(number, body),
        })
        .await;
        let base = speaks.base(&provider);
        for _ in 0..ANSWERS {
            kill_child_at(folder.path(), &base, "HALF").await;
        }
        run_child(folder.path(), &base, None).await;
        let report = verify(folder.path().join("store.db")).expect("verified");
        assert!(report.is_clean(), "{speaks:?}: {report}");
        let store = SqliteStore::open_read_only(folder.path().join("store.db")).expect("opened");
        let committed = deltas(&store).await;
        assert_eq!(committed.iter().map(answers_in).sum::<usize>(), ANSWERS, "{speaks:?}: once each");
        assert_eq!(provider.count(), ANSWERS + ANSWERS, "{speaks:?}: one more for each kill");
        let said = Value::from(committed).to_string() + &Value::from(provider.bodies()).to_string();
        assert!(!said.contains("HALF"), "{speaks:?}: half an answer is none: {said}");
        let effects = fs::read_to_string(folder.path().join("effects")).expect("the tool was called");
        assert_eq!(effects.lines().count(), 1, "{speaks:?}");
    }
}

/// The suite's own check: an answer that is asked for twice would be seen.
#[tokio::test]
async fn the_count_would_show_an_answer_paid_twice() {
    let provider = Provider::answering(|_, _| Speaks::Openai.says(&["done"])).await;
    let config = config(Speaks::Openai, &provider);
    let bench = Bench::over(Arc::new(MemoryStore::new()), &config, LlmDeps::default()).await;
    bench.hear("go").await;
    let forgetful = Bench::over(Arc::new(MemoryStore::new()), &config, LlmDeps::default()).await;
    forgetful.hear("go").await;
    assert_eq!(forgetful.session.id(), session_id());
    assert!(provider.count() > forgetful.answers().await);
}
