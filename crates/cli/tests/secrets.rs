//! Does a server keep the keys it was given out of everything it says?
//!
//! The key is quoted by those it is given to: a program on standard error, a provider in an error page.

mod common;

use axum::{Router, http::HeaderMap, http::StatusCode};
use common::{run, signal, wait_until, windlass};
use std::{
    io::{BufRead, BufReader, Read as _},
    path::Path,
};

/// Not the form of any provider's keys, and with what JSON and URLs write differently.
const KEY: &str = "k3y/of+nobody\"else=";

/// A provider that refuses whoever asks, and quotes the key.
async fn provider() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let routes = Router::new().fallback(async |headers: HeaderMap| {
        let quoted = format!("{:?} is no key; see /help?key={}", headers["authorization"], headers.len());
        (StatusCode::UNAUTHORIZED, format!("<html>{quoted} or {KEY}</html>"))
    });
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}/v1")
}

fn configure(dir: &Path, provider: &str) {
    let folder = dir.join("config/windlass");
    std::fs::create_dir_all(&folder).expect("a folder");
    let config = format!(
        r#"
[agents.model]
kind = "llm"
dialect = "openai"
base_url = "{provider}"
model = "m"
api_key_env = "TEST_KEY"

[agents.program]
kind = "process"
command = ["sh", "-c", "echo \"the key is $TEST_KEY\" >&2; echo \"GET /hook?token=of-somebody-else\" >&2; exit 65"]
env_from = ["TEST_KEY"]
"#
    );
    std::fs::write(folder.join("config.toml"), config).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_quoted_by_others_is_in_no_log_no_journal_and_no_core() {
    let dir = tempfile::tempdir().expect("a folder");
    configure(dir.path(), &provider().await);
    let mut server = windlass(dir.path())
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("WINDLASS_LOG", "trace")
        .env("TEST_KEY", KEY)
        .spawn()
        .expect("the binary runs");
    let mut log = server.stderr.take().expect("a pipe");
    let log = std::thread::spawn(move || {
        let mut said = String::new();
        log.read_to_string(&mut said).map(|_| said)
    });
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut line).expect("text");
    let url = line.trim_end().strip_prefix("listening on ").expect("it listens").to_owned();

    let mut told = String::new();
    for agent in ["model", "program"] {
        let mut send = windlass(dir.path());
        send.args(["send", agent, "hello", "--agent", agent, "--wait=20s", "--json"]).env("WINDLASS_URL", &url);
        let said = run(&mut send);
        assert_eq!(said.code, Some(10), "{said:?}");
        told.push_str(&said.out);
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).expect("Linux");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    signal(server.id(), "TERM");
    wait_until("the end", || server.try_wait().expect("it is ours").is_some());
    let log = log.join().expect("no panic").expect("text");

    assert!(log.contains("the key is ***") && log.contains("/hook?token=***"), "{log}");
    assert!(told.contains("provider_denied") && told.contains("executor_refused"), "{told}");
    for agent in ["model", "program"] {
        told.push_str(&run(windlass(dir.path()).args(["journal", agent])).out);
    }
    for (place, text) in [("log", &log), ("answer or journal", &told)] {
        assert!(!text.contains("k3y"), "the key is in the {place}: {text}");
    }
}
