//! Are the tools of MCP servers used as they are, and are servers that die or lie contained?

use crate::{
    common::{adapter, gone, has, offer, pids, repository, result_text, session, until},
    python::python_with,
};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio_util::task::AbortOnDropHandle;
use windlass_agent::{
    mcp::{McpConfig, McpServer},
    tools::{Effect, Reply, Tool, ToolContext},
};
use windlass_runtime::{CoreApplyOutput, executor_fn};

type Tools = BTreeMap<String, Arc<dyn Tool>>;

/// A server that can be made to die and to lie, and its tools by the names that models use.
async fn small(folder: &Path, change: impl FnOnce(&mut McpConfig)) -> Result<Tools, String> {
    let script = repository().join("crates/agent/tests/outside/mcp_server.py");
    let paths = [script.as_path(), folder].map(|path| path.to_str().expect("UTF-8").to_owned());
    let command = ["python3".to_owned()].into_iter().chain(paths).collect();
    let mut config = McpConfig { command, timeout_seconds: 30, ..McpConfig::default() };
    change(&mut config);
    let tools = McpServer::new("small", config).tools().await.map_err(|error| error.to_string())?;
    Ok(tools.into_iter().map(|tool| (tool.name().to_owned(), tool)).collect())
}

/// Calls a tool within a run.
async fn call(tool: &Arc<dyn Tool>, arguments: Value) -> (String, bool) {
    let tool = Arc::clone(tool);
    let executor = executor_fn(move |turn| {
        let (tool, arguments) = (Arc::clone(&tool), arguments.clone());
        async move {
            let key = turn.effect_key().to_string();
            let context = ToolContext { turn: &turn, effect_key: &key, causes: &[] };
            let called = tokio::time::timeout(tool.timeout(), tool.call(arguments, &context));
            let said = match called.await {
                Ok(Ok(Reply::Done { content, is_error })) => json!([content, is_error]),
                _ => json!(["its time is up", true]),
            };
            Ok(CoreApplyOutput::text(said.to_string()))
        }
    });
    let adapter = adapter(Arc::new(executor));
    let said = result_text(offer(&session(&adapter, 1).await, 1, "call").await.wait().await);
    serde_json::from_str(&said).expect("what was said")
}

#[tokio::test]
async fn tools_are_offered_with_the_effects_that_they_claim() {
    if !has("python3") {
        eprintln!("not shown: there is no python3");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let tools = small(dir.path(), |_| {}).await.expect("tools");
    // Without those whose names or schemas are of no use.
    let names: Vec<&str> = tools.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "small__bolder",
            "small__changes",
            "small__die",
            "small__die_once",
            "small__echo",
            "small__endless_line",
            "small__fail",
            "small__huge",
            "small__lie",
            "small__refuse",
            "small__silent"
        ]
    );
    let effect = |name: &str| tools[name].effect();
    assert_eq!(
        (effect("small__echo"), effect("small__die_once"), effect("small__die")),
        (Effect::ReadOnly, Effect::Idempotent, Effect::Once)
    );
    let doubted = small(dir.path(), |config| config.trust_hints = false).await.expect("tools");
    assert!(doubted.values().all(|tool| tool.effect() == Effect::Once));
    let chosen = small(dir.path(), |config| config.tools = vec!["echo".into()]).await.expect("tools");
    assert_eq!(chosen.keys().collect::<Vec<_>>(), ["small__echo"]);
    let missing = small(dir.path(), |config| config.tools = vec!["fly".into()]).await.err().expect("it cannot fly");
    assert!(missing.contains("it offers no tool \"fly\""), "{missing}");
}

#[tokio::test]
async fn whatever_a_server_does_the_model_is_told_and_the_next_call_works() {
    if !has("python3") {
        eprintln!("not shown: there is no python3");
        return;
    }
    for (name, arguments, expected, is_error) in [
        ("echo", json!({ "text": "good day" }), "good day 1 keyed", false),
        ("fail", json!({}), "no such thing", true),
        ("refuse", json!({}), "mcp_error: not today (-32000)", true),
        ("lie", json!({}), "mcp_schema_violation: the result is not what was promised: \"none\" is not of type", true),
        ("die_once", json!({}), "die_once at start 2", false),
        ("die", json!({}), "mcp_outcome_unknown: ", true),
        ("silent", json!({}), "its time is up", true),
        ("endless_line", json!({}), "after it", false),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        // Impatient only where it is about time.
        let impatient = |config: &mut McpConfig| config.timeout_seconds = if name == "silent" { 1 } else { 30 };
        let tools = small(dir.path(), impatient).await.expect("tools");
        let (said, failed) = call(&tools[&format!("small__{name}")], arguments).await;
        assert!(said.starts_with(expected) && failed == is_error, "{name}: {said}");
        let (said, failed) = call(&tools["small__echo"], json!({ "text": "still" })).await;
        assert!(said.starts_with("still ") && !failed, "after {name}: {said}");
        // Started again by somebody, it offers another tool under the same name.
        let restarted = fs::read_to_string(dir.path().join("starts")).expect("written").len() > 1;
        for changed in ["changes", "bolder"] {
            let (said, failed) = call(&tools[&format!("small__{changed}")], json!({})).await;
            let expected = if restarted { "mcp_tool_changed".into() } else { format!("{changed} at start 1") };
            assert!(said.starts_with(&expected) && failed == restarted, "{changed} after {name}: {said}");
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    let tools = small(dir.path(), |_| {}).await.expect("tools");
    let (said, _) = call(&tools["small__huge"], json!({})).await;
    assert!(said.contains("[cut: 1048576 of 2097152 bytes are shown]"), "{}", &said[..100]);
}

/// An endpoint that keeps one session at a time, and offers something else in each.
async fn keeps_one_session(State(current): State<Arc<AtomicU32>>, headers: HeaderMap, body: Json<Value>) -> Response {
    let (method, params) = (body["method"].as_str().unwrap_or_default(), &body["params"]);
    let session = current.load(Ordering::SeqCst).to_string();
    let is_known = headers.get("mcp-session-id").is_some_and(|sent| sent.as_bytes() == session.as_bytes());
    let told =
        |name: &str, told: &str| json!({ "name": name, "description": told, "inputSchema": { "type": "object" } });
    let result = match method {
        "initialize" => {
            json!({
                "protocolVersion": params["protocolVersion"],
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "one", "version": "1" },
            })
        }
        "tools/list" | "tools/call" if !is_known => return StatusCode::NOT_FOUND.into_response(),
        "tools/list" => json!({ "tools": [told("same", "it"), told("changed", &session)] }),
        "tools/call" => json!({ "content": [{ "type": "text", "text": format!("done in session {session}") }] }),
        _ if body["id"].is_null() => return StatusCode::ACCEPTED.into_response(),
        _ => {
            let error = json!({ "code": -32601, "message": "unknown method" });
            return Json(json!({ "jsonrpc": "2.0", "id": body["id"], "error": error })).into_response();
        }
    };
    let answer = Json(json!({ "jsonrpc": "2.0", "id": body["id"], "result": result }));
    ([("mcp-session-id", session)], answer).into_response()
}

#[tokio::test]
async fn an_endpoint_that_ends_our_session_is_asked_anew_what_it_offers() {
    let current = Arc::new(AtomicU32::new(1));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = listener.local_addr().expect("bound").to_string();
    let router = Router::new().route("/mcp", post(keeps_one_session)).with_state(Arc::clone(&current));
    let _endpoint = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, router).await }));
    let config = McpConfig {
        url: Some(format!("http://{host}/mcp")),
        allow: vec![host.parse().expect("a host")],
        ..McpConfig::default()
    };
    let tools = McpServer::new("one", config).tools().await.expect("tools");
    let tools: Tools = tools.into_iter().map(|tool| (tool.name().to_owned(), tool)).collect();
    for (tool, session, expected) in [
        ("one__same", 1, "done in session 1"),
        ("one__changed", 1, "done in session 1"),
        ("one__changed", 2, "mcp_tool_changed: "),
        ("one__same", 2, "done in session 2"),
        // Refused by the endpoint, it has had no effect, although it may not be repeated.
        ("one__same", 3, "done in session 3"),
    ] {
        current.store(session, Ordering::SeqCst);
        let (said, _) = call(&tools[tool], json!({})).await;
        assert!(said.starts_with(expected), "{tool} in session {session}: {said}");
    }
}

/// Too short to be hidden by everybody: only who was given it knows it for a secret.
const TOKEN: &str = "k3yzzz";

/// An endpoint that quotes its caller's token wherever it can.
async fn quotes(State(ready): State<Arc<AtomicU32>>, headers: HeaderMap, body: Json<Value>) -> Response {
    let (method, params) = (body["method"].as_str().unwrap_or_default(), &body["params"]);
    let authorization = headers.get("authorization").and_then(|sent| sent.to_str().ok()).unwrap_or_default();
    let words = format!("{} is no good", authorization.trim_start_matches("Bearer "));
    let answer = |name: &str, value: Value| Json(json!({ "jsonrpc": "2.0", "id": body["id"], name: value }));
    let number = json!({ "type": "object", "properties": { "n": { "type": "integer" } } });
    let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" }, "outputSchema": number });
    let text = || json!([{ "type": "text", "text": words }]);
    match (method, params["name"].as_str().unwrap_or_default()) {
        ("initialize", _) => answer(
            "result",
            json!({
                "protocolVersion": params["protocolVersion"],
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "loud", "version": "1" },
            }),
        )
        .into_response(),
        ("tools/list", _) if ready.load(Ordering::SeqCst) == 0 => {
            answer("error", json!({ "code": -32001, "message": words })).into_response()
        }
        ("tools/list", _) => {
            let tools = ["says", "fails", "lies", "breaks"].map(tool).to_vec();
            let plain = json!({ "name": "answers", "inputSchema": { "type": "object" } });
            let tools = [tools, vec![plain]].concat();
            answer("result", json!({ "tools": tools })).into_response()
        }
        ("tools/call", "answers") => answer("result", json!({ "content": text() })).into_response(),
        ("tools/call", "says") => answer("error", json!({ "code": -32000, "message": words })).into_response(),
        ("tools/call", "fails") => answer("result", json!({ "content": text(), "isError": true })).into_response(),
        ("tools/call", "lies") => {
            answer("result", json!({ "content": [], "structuredContent": { "n": words } })).into_response()
        }
        ("tools/call", _) => (StatusCode::INTERNAL_SERVER_ERROR, words).into_response(),
        _ if body["id"].is_null() => StatusCode::ACCEPTED.into_response(),
        _ => answer("error", json!({ "code": -32601, "message": "unknown method" })).into_response(),
    }
}

#[tokio::test]
async fn what_a_server_says_is_told_without_its_token() {
    let ready = Arc::new(AtomicU32::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = listener.local_addr().expect("bound").to_string();
    let router = Router::new().route("/mcp", post(quotes)).with_state(Arc::clone(&ready));
    let _endpoint = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, router).await }));
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("token");
    fs::write(&file, TOKEN).expect("it is written");
    let config = McpConfig {
        url: Some(format!("http://{host}/mcp")),
        token_file: Some(file),
        allow: vec![host.parse().expect("a host")],
        ..McpConfig::default()
    };
    let unready = McpServer::new("loud", config.clone()).tools().await.err().expect("it is not ready").to_string();
    assert!(unready.contains("*** is no good") && !unready.contains(TOKEN), "{unready}");
    ready.store(1, Ordering::SeqCst);
    let tools = McpServer::new("loud", config).tools().await.expect("tools");
    let tools: Tools = tools.into_iter().map(|tool| (tool.name().to_owned(), tool)).collect();
    for (name, expected) in [
        ("answers", "*** is no good"),
        ("says", "mcp_error: *** is no good (-32000)"),
        ("fails", "*** is no good"),
        ("lies", "mcp_schema_violation: the result is not what was promised: \"*** is no good\" is not of type"),
        ("breaks", "mcp_outcome_unknown: "),
    ] {
        let (said, failed) = call(&tools[&format!("loud__{name}")], json!({})).await;
        assert!(said.starts_with(expected) && !said.contains(TOKEN), "{name}: {said}");
        assert_eq!(failed, name != "answers", "{name}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_starts_slower_than_calls_may_take_is_there_for_a_later_one() {
    if !has("python3") {
        eprintln!("not shown: there is no python3");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let slow = |config: &mut McpConfig| {
        config.timeout_seconds = 1;
        config.env.insert("SLOW_AGAIN".into(), "2".into());
    };
    let tools = small(dir.path(), slow).await.expect("tools");
    assert!(call(&tools["small__die"], json!({})).await.0.starts_with("mcp_outcome_unknown: "));
    let mut said = call(&tools["small__echo"], json!({ "text": "still" })).await;
    assert_eq!(said, ("its time is up".to_owned(), true));
    for _ in 0..30 {
        said = call(&tools["small__echo"], json!({ "text": "still" })).await;
        if !said.1 {
            break;
        }
    }
    assert_eq!(said, ("still 2 keyed".to_owned(), false));
    assert_eq!(fs::read_to_string(dir.path().join("starts")).expect("written"), "xx", "started again once");
}

#[tokio::test]
async fn a_server_that_is_none_is_not_there_and_leaves_nobody_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $$ $! > '{0}.new'; mv '{0}.new' '{0}'; echo hello; exit 3", file.display());
    let unusable = |command: &[&str], url: Option<&str>| McpConfig {
        command: command.iter().map(|&part| part.to_owned()).collect(),
        url: url.map(str::to_owned),
        ..McpConfig::default()
    };
    for (config, expected) in [
        (unusable(&["/nowhere/to/be/found"], None), "/nowhere/to/be/found cannot be started"),
        (unusable(&["/bin/sh", "-c", &script], None), "mcp_unavailable: x: "),
        (unusable(&[], None), "give either command or url"),
        (unusable(&["true"], Some("https://example.com/")), "give either command or url"),
        (unusable(&[], Some("http://127.0.0.1:1/")), "url_not_allowed"),
    ] {
        let error = McpServer::new("x", config).tools().await.err().expect("it is none").to_string();
        assert!(error.contains(expected), "{error}");
    }
    gone(&pids(&file).await).await;
}

/// Judged by the package `mcp` of PyPI.
#[tokio::test]
async fn the_official_server_and_we_agree_over_both_transports() {
    let python = tokio::task::spawn_blocking(|| python_with(&["mcp"])).await.expect("no panic");
    let Some(python) = python.map(|python| python.to_str().expect("UTF-8").to_owned()) else { return };
    let script = repository().join("crates/agent/tests/outside/mcp_official.py").to_str().expect("UTF-8").to_owned();
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let _endpoint = tokio::process::Command::new(&python)
        .args([script.as_str(), &port.to_string()])
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    until(|| std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
    let stdio = McpConfig { command: vec![python, script], ..McpConfig::default() };
    let http = McpConfig {
        url: Some(format!("http://127.0.0.1:{port}/mcp")),
        allow: vec![format!("127.0.0.1:{port}").parse().expect("a host")],
        ..McpConfig::default()
    };
    for config in [stdio, http] {
        let tools = McpServer::new("official", config).tools().await.expect("tools");
        let tools: Tools = tools.into_iter().map(|tool| (tool.name().to_owned(), tool)).collect();
        assert_eq!(tools.keys().collect::<Vec<_>>(), ["official__add", "official__divide"]);
        assert_eq!(tools["official__add"].effect(), Effect::ReadOnly);
        assert_eq!(call(&tools["official__add"], json!({ "a": 19, "b": 23 })).await, ("42".to_owned(), false));
        let (said, failed) = call(&tools["official__divide"], json!({ "a": 1, "b": 0 })).await;
        assert!(failed && said.contains("divide"), "{said}");
    }
}
