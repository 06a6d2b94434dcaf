//! Does `/metrics` show what the guide says, and nothing else?

use crate::PATIENCE;
use http::Method;
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use windlass_runtime::object_blobs::ObjectBlobs;
use windlass_server::{
    Server,
    config::Seconds,
    telemetry::Metrics,
    testing::{Answer, TestServer},
};
use windlass_sqlite::{SqliteOptions, SqliteStore};

/// At once.
const CONNECTIONS: usize = 8;
const GUIDE: &str = include_str!("../../../../docs/guide/operating.md");

/// Name and type, out of the table of the guide.
fn documented() -> BTreeSet<(String, String)> {
    let rows = GUIDE.lines().filter_map(|line| line.strip_prefix("| `windlass_"));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>());
    cells.map(|cells| (format!("windlass_{}", cells[0]), cells[1].clone())).collect()
}

/// Name and type, out of the comments of the text format.
fn shown(metrics: &str) -> BTreeSet<(String, String)> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// A server that counts its commits as well, searches for blobs at once, and has an agent that nobody reaches.
async fn server(folder: &tempfile::TempDir) -> TestServer {
    let mut config = TestServer::config();
    config.store.sweep_seconds = Seconds(Duration::from_millis(50));
    config.limits.connections = CONNECTIONS;
    let inside = json!({"kind": "http", "url": "https://localhost:8443/"});
    config.agents.insert("inside".into(), serde_json::from_value(inside).unwrap());
    let metrics = Arc::new(Metrics::new().unwrap());
    let options = SqliteOptions { observer: Some(Arc::clone(&metrics) as _), ..SqliteOptions::default() };
    let store = SqliteStore::open(folder.path().join("windlass.db"), options).unwrap();
    let builder = Server::builder(config, Arc::new(store)).blobs(Arc::new(ObjectBlobs::in_memory()));
    TestServer::with(builder.metrics(metrics)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_done_a_bit_of_everything_shows_every_metric_of_the_guide_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    for (session, agent) in [("s", "builtin"), ("dead", "inside")] {
        assert_eq!(server.post("/v1/sessions", &json!({"name": session, "agent": agent})).await.status, 201);
    }
    let mut events = server.request(Method::GET, "/v1/sessions/s/events").send().await.unwrap();
    events.chunk().await.unwrap().expect("it begins");
    for session in ["s", "dead"] {
        let prompt = server.request(Method::POST, &format!("/v1/sessions/{session}/inputs"));
        let prompt = prompt.header("prefer", "wait=20").json(&json!({"kind": "prompt", "text": "hello"}));
        assert_eq!(Answer::to(prompt).await.status, 200);
    }
    assert_eq!(server.post("/peers/v1/envelopes", &json!({})).await.status, 401);
    // With those of the client there is no room for all of these.
    let mut strangers = Vec::new();
    for _ in 0..CONNECTIONS {
        strangers.push(TcpStream::connect(server.server().address()).await.unwrap());
    }
    drop(strangers);
    let metrics = async || {
        // It may be closed too.
        let answer = server.request(Method::GET, "/metrics").send().await.ok()?;
        answer.text().await.ok()
    };
    let counted = async {
        while metrics().await.is_none_or(|text| shown(&text) != documented()) {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(PATIENCE, counted).await.is_err() {
        assert_eq!(shown(&metrics().await.expect("an answer")), documented());
    }
}
