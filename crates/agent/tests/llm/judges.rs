//! Do the vendors' own Python packages agree with us about what was said?
//!
//! `openai` and `anthropic` from PyPI hold the same conversation with the same provider: what they send must be what we
//! send, and what they read what we read. Without Python or PyPI in reach the test says so and shows nothing.

use crate::{
    provider::{BOTH, Provider, Script, Speaks},
    python::python_with,
    rig::{Bench, config, deltas},
};
use serde_json::{Value, json};
use std::{
    io::Write,
    process::{Command, Stdio},
};
use windlass_agent::llm::{LlmConfig, ToolsConfig};

const SCRIPT: &str = include_str!("judge.py");

fn scripts(speaks: Speaks) -> [Script; 2] {
    let calls = [("call_1", "list_files", r#"{"path":"."}"#), ("call_2", "list_files", r#"{"path":"süß"}"#)];
    [speaks.answers(&["I ", "look 🦀"], &calls).in_bytes(), speaks.says(&["Nothing ", "there."])]
}

/// Without members that say nothing.
fn bare(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), bare(value)))
            .collect(),
        Value::Array(items) => items.iter().map(bare).collect(),
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendors_packages_say_and_hear_what_we_say_and_hear() {
    let python = tokio::task::spawn_blocking(|| python_with(&["openai", "anthropic"]));
    let Some(python) = python.await.expect("no panic") else { return };
    for speaks in BOTH {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("süß")).expect("a folder");
        let ours = Provider::scripted(scripts(speaks)).await;
        let tools = ToolsConfig {
            enabled: vec!["list_files".into()],
            workspace: Some(folder.path().to_owned()),
            ..ToolsConfig::default()
        };
        let bench = Bench::new(&LlmConfig { tools, max_tokens: Some(64), ..config(speaks, &ours) }).await;
        assert_eq!(bench.hear("look around").await, "Nothing there.");
        let our_bodies = ours.bodies();
        let committed = deltas(&*bench.store).await;
        let messages: Vec<&Value> =
            committed.iter().flat_map(|delta| delta["messages"].as_array().expect("a list")).collect();
        let results: Value = messages
            .iter()
            .filter_map(|message| Some((message["call"].as_str()?.to_owned(), message["content"].clone())))
            .collect::<serde_json::Map<_, _>>()
            .into();

        let theirs = Provider::scripted(scripts(speaks)).await;
        let task = json!({
            "dialect": format!("{speaks:?}").to_lowercase(), "base": speaks.base(&theirs),
            "system": "Be brief.", "prompt": "look around", "tools": our_bodies[0]["tools"], "results": results,
        });
        let python = python.clone();
        let output = tokio::task::spawn_blocking(move || {
            let mut child = Command::new(python)
                .args(["-c", SCRIPT])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("Python starts");
            child.stdin.take().expect("a pipe").write_all(task.to_string().as_bytes()).expect("it listens");
            child.wait_with_output().expect("it ends")
        });
        let output = output.await.expect("no panic");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{speaks:?}: {complaints}");
        let heard: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it prints JSON");

        // What is sent.
        let their_bodies = theirs.bodies();
        assert_eq!(our_bodies.len(), their_bodies.len());
        for (ours, theirs) in our_bodies.iter().zip(&their_bodies) {
            assert_eq!(bare(ours), bare(theirs), "{speaks:?}");
        }
        // What is read.
        let answers = committed.iter().filter(|delta| {
            delta["messages"].as_array().is_some_and(|messages| messages.iter().any(|said| said["role"] == "assistant"))
        });
        let mut ours = Vec::new();
        for delta in answers {
            let said = delta["messages"].as_array().expect("a list").iter().find(|said| said["role"] == "assistant");
            let said = said.expect("an answer");
            let calls: Vec<Value> = said["calls"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|call| {
                    let arguments: Value =
                        serde_json::from_str(call["arguments"].as_str().expect("text")).expect("JSON");
                    json!({ "id": call["id"], "name": call["name"], "arguments": arguments })
                })
                .collect();
            ours.push(json!({
                "text": said["content"], "calls": calls,
                "input": delta["usage"]["input"], "output": delta["usage"]["output"],
            }));
        }
        assert_eq!(ours, heard, "{speaks:?}");
    }
}
