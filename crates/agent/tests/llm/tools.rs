//! Do tools stay within their bounds, whatever a model asks of them?

use crate::{
    provider::{Provider, Script, Speaks},
    rig::{Bench, config, deltas, told},
};
use serde_json::{Value, json};
use std::sync::Arc;
use windlass_agent::{
    Egress, EgressRules,
    config::{AgentConfig, Agents},
    llm::{LlmConfig, LlmDeps, ToolsConfig},
};
use windlass_core::SessionId;
use windlass_runtime::{
    comms::{CommsRuntime, LocalNetwork, NetworkRules, PeerName, PeerRules},
    memory::MemoryStore,
};

/// What the model is told of each call, in order: the result, and whether it is an error.
async fn results(tools: ToolsConfig, deps: LlmDeps, calls: &[(&str, Value)]) -> Vec<(String, bool)> {
    let speaks = Speaks::Openai;
    let ids: Vec<String> = (0..calls.len()).map(|at| format!("c{at}")).collect();
    let arguments: Vec<String> = calls.iter().map(|(_, arguments)| arguments.to_string()).collect();
    let asked: Vec<(&str, &str, &str)> =
        calls.iter().enumerate().map(|(at, (name, _))| (ids[at].as_str(), *name, arguments[at].as_str())).collect();
    let provider = Provider::scripted([speaks.calls(&asked), speaks.says(&["ok"])]).await;
    let config = LlmConfig { tools, ..config(speaks, &provider) };
    let bench = Bench::over(Arc::new(MemoryStore::new()), &config, deps).await;
    assert_eq!(bench.hear("go").await, "ok");
    let deltas = deltas(&*bench.store).await;
    let said = deltas.iter().flat_map(|delta| delta["messages"].as_array().expect("a list"));
    let result = |message: &Value| {
        let content = message["content"].as_str().expect("text").to_owned();
        (content, message["is_error"].as_bool().unwrap_or_default())
    };
    said.filter(|message| message["role"] == "tool").map(result).collect()
}

fn enabled(names: &[&str]) -> ToolsConfig {
    ToolsConfig { enabled: names.iter().map(|&name| name.to_owned()).collect(), ..ToolsConfig::default() }
}

#[tokio::test]
async fn programs_are_bounded_and_see_little() {
    let folder = tempfile::tempdir().expect("a folder");
    let tools = ToolsConfig {
        workspace: Some(folder.path().to_owned()),
        env: vec!["CARGO_PKG_NAME".into()],
        output_limit: 1_000,
        timeout_s: 1,
        ..enabled(&["shell"])
    };
    let run = |argv: &[&str]| ("shell", json!({ "argv": argv }));
    let calls = [
        run(&["echo", "$HOME", "*"]),
        run(&["pwd"]),
        run(&["env"]),
        run(&["sh", "-c", "printf '\\377ok'"]),
        run(&["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x"]),
        run(&["yes"]),
        run(&["sleep", "1000"]),
        run(&["/no/such/program"]),
        ("shell", json!({ "argv": ["cat"], "stdin": "fed" })),
        ("shell", json!({ "argv": "ls -l" })),
        ("shell", json!({ "argv": [] })),
    ];
    let results = results(tools, LlmDeps::default(), &calls).await;
    let place = folder.path().canonicalize().expect("a path");
    assert_eq!(results[0], ("$HOME *\n".into(), false), "no shell reads the arguments");
    assert_eq!(results[1].0.trim(), place.to_string_lossy());
    let names: Vec<&str> = results[2].0.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(names.contains(&"PATH") && names.contains(&"CARGO_PKG_NAME") && names.contains(&"WINDLASS_EFFECT_KEY"));
    assert!(!names.contains(&"CARGO_MANIFEST_DIR") && std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "{names:?}");
    for (at, expected, is_error) in [
        (3, "\u{fffd}ok\n[invalid_utf8: ", false),
        (4, "[cut: 1000 of 100000 bytes are shown]", false),
        (5, "output_too_large: ", true),
        (6, "program_timed_out: ", true),
        (7, "program_not_started: ", true),
        (8, "fed", false),
        (9, "invalid_arguments: /argv", true),
        (10, "invalid_arguments: /argv", true),
    ] {
        let (said, failed) = &results[at];
        assert!(said.contains(expected) && *failed == is_error, "{at}: {said}");
    }
}

#[tokio::test]
async fn only_public_pages_and_allowed_hosts_are_fetched() {
    let pages = Provider::answering(|_, _| Script::page(200, "text/plain", "a page")).await;
    let host = pages.base.trim_start_matches("http://").to_owned();
    let egress = Egress::new(EgressRules { allow: vec![host.parse().expect("a host")] }).expect("a client");
    let deps = LlmDeps { egress: Some(egress), ..LlmDeps::default() };
    let fetch = |url: &str| ("fetch", json!({ "url": url }));
    let calls = [
        fetch("http://127.0.0.1:1/"),
        fetch("https://169.254.169.254/latest/meta-data/"),
        fetch("https://[::ffff:10.0.0.1]/"),
        fetch("file:///etc/passwd"),
        fetch("no url"),
    ];
    for (said, is_error) in results(enabled(&["fetch"]), deps.clone(), &calls).await {
        assert!(is_error && (said.starts_with("fetch_refused: ") || said.starts_with("invalid_arguments: ")), "{said}");
    }
    assert_eq!(pages.count(), 0);
    let fetched = results(enabled(&["fetch"]), deps, &[fetch(&format!("{}/page", pages.base))]).await;
    assert_eq!(fetched, [("HTTP 200 OK, text/plain\na page".into(), false)]);
    assert_eq!(pages.asked()[0].path, "/page");
    let raw = Provider::answering(|_, _| Script::page(200, "text/plain", b"\xffok")).await;
    let egress = EgressRules { allow: vec![raw.base.trim_start_matches("http://").parse().expect("a host")] };
    let deps = LlmDeps { egress: Some(Egress::new(egress).expect("a client")), ..LlmDeps::default() };
    let fetched = results(enabled(&["fetch"]), deps, &[fetch(&raw.base)]).await;
    assert!(fetched[0].0.contains("\u{fffd}ok\n[invalid_utf8: "), "{fetched:?}");
}

#[tokio::test]
async fn a_configuration_allows_hosts_by_name() {
    let pages = Provider::answering(|_, _| Script::page(200, "text/plain", "a page")).await;
    let (speaks, url) = (Speaks::Openai, json!({ "url": pages.base }).to_string());
    let host = pages.base.trim_start_matches("http://");
    for (allow, expected) in [(vec![], "result c: fetch_refused: "), (vec![host], "result c: HTTP 200 OK")] {
        let provider = Provider::scripted([speaks.calls(&[("c", "fetch", &url)]), speaks.says(&["ok"])]).await;
        let fetch_allow = allow.into_iter().map(|host| host.parse().expect("a host")).collect();
        let config =
            LlmConfig { tools: ToolsConfig { fetch_allow, ..enabled(&["fetch"]) }, ..config(speaks, &provider) };
        let agents = Agents::new([("a".into(), AgentConfig::Llm(Box::new(config)))].into()).expect("valid");
        let report = agents.test("a").await;
        assert_eq!(report.text.as_deref(), Some("ok"), "{report:?}");
        let said = told(&provider.bodies()[1]);
        assert!(said.last().is_some_and(|line| line.starts_with(expected)), "{said:?}");
    }
}

#[tokio::test]
async fn another_session_is_written_to_by_its_name() {
    let network = LocalNetwork::new(NetworkRules::default());
    let join = |name: &str| network.join(PeerName::new(name).expect("a name"), PeerRules::default()).expect("joined");
    let (ada, bob) = (join("ada"), join("bob"));
    let of = move |_: SessionId| Some(Arc::clone(&ada) as Arc<dyn CommsRuntime>);
    let deps = LlmDeps { peers: Some(Arc::new(of)), ..LlmDeps::default() };
    let calls = [
        ("send_peer", json!({ "to": "bob", "body": "hello" })),
        ("send_peer", json!({ "to": "nobody", "body": "hello" })),
    ];
    let results = results(enabled(&["send_peer"]), deps, &calls).await;
    assert_eq!(results[0], ("sent".into(), false));
    assert!(results[1].1 && results[1].0.starts_with("not_sent: "), "{:?}", results[1]);
    assert_eq!(bob.waiting(), 1);
}
