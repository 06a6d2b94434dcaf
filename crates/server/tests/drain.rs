//! How does a server end?

use axum::{body::Body, extract::State};
use futures_util::StreamExt;
use http::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};
use windlass_agent::config::Agents;
use windlass_core::SessionId;
use windlass_runtime::{
    CoreExecutor, CoreExecutorError, ExecutorFactory,
    memory::MemoryStore,
    testing::{ManualExecutor, Runs},
};
use windlass_server::{
    AppState, Scope, Server, ServerBuilder,
    config::Seconds,
    testing::{Answer, TestServer},
};

const LONG: Duration = Duration::from_secs(10);
const INPUTS: &str = "/v1/sessions/s/inputs";

/// Gives every session the same executor.
struct One(Arc<dyn CoreExecutor>);

#[async_trait::async_trait]
impl ExecutorFactory for One {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::clone(&self.0))
    }
}

/// A server whose runs are in the hands of the test; and a stream that tells of its end.
fn by_hand(store: &Arc<MemoryStore>, grace: Duration) -> (ServerBuilder, Runs) {
    let mut config = TestServer::config();
    config.server.drain_seconds = Seconds(grace);
    let (executor, runs) = ManualExecutor::new();
    let agents = Arc::new(Agents::new(BTreeMap::new()).unwrap());
    let builder = Server::builder(config, Arc::clone(store)).agents(Arc::new(One(executor)), agents);
    let stream = |State(state): State<AppState>| async move {
        let closing = state.closing().clone().cancelled_owned();
        let first = futures_util::stream::iter([Ok::<_, Infallible>("open\n")]);
        Body::from_stream(first.chain(futures_util::stream::once(async move {
            closing.await;
            Ok("closing\n")
        })))
    };
    (builder.routes(move |routes| routes.route(Method::GET, "/stream", Scope::Public, stream)), runs)
}

/// Sends a prompt and waits for what it comes to.
fn say(server: &TestServer, text: &str) -> tokio::task::JoinHandle<Answer> {
    let request = server.request(Method::POST, &format!("{INPUTS}?create=true")).header("prefer", "wait=20");
    tokio::spawn(Answer::to(request.json(&json!({ "kind": "prompt", "text": text }))))
}

#[tokio::test]
async fn streams_end_and_nothing_new_is_taken_while_a_run_is_given_its_time() {
    let store = Arc::new(MemoryStore::new());
    let (builder, mut runs) = by_hand(&store, LONG);
    let server = TestServer::with(builder).await;
    let said = say(&server, "one");
    let run = timeout(LONG, runs.next()).await.expect("the run starts");
    let behind = say(&server, "two");
    let waiting = async { while server.get(INPUTS).await.body["items"].as_array().unwrap().len() < 2 {} };
    timeout(LONG, waiting).await.expect("the second is admitted");
    let mut streams = Vec::new();
    for _ in 0..100 {
        let stream = server.request(Method::GET, "/stream").send().await.expect("a stream");
        streams.push(stream.bytes_stream());
    }
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap().unwrap(), "open\n");
    }

    let url = server.server().url();
    let client = reqwest::Client::new();
    let ended = tokio::spawn(server.into_server().shutdown());
    let ask = async |path: &str| {
        let answer = client.get(format!("{url}{path}")).send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.expect("JSON")["code"].as_str().unwrap_or_default().to_owned())
    };
    timeout(LONG, async { while ask("/readyz").await.0 == 200 {} }).await.expect("it is not ready any more");
    assert_eq!(ask("/readyz").await, (503, "draining".to_owned()));
    assert_eq!(ask("/livez").await.0, 200);
    assert_eq!(ask("/v1/tokens").await, (503, "draining".to_owned()));
    for mut stream in streams {
        let last = timeout(LONG, stream.next()).await.expect("streams end at once").unwrap().unwrap();
        assert_eq!(last, "closing\n");
        assert!(stream.next().await.is_none(), "and whole");
    }
    let behind = timeout(LONG, behind).await.expect("who waits for no run hears at once").unwrap();
    assert_eq!((behind.status, &behind.body["state"]), (202, &json!("queued")), "{behind:?}");
    assert!(!ended.is_finished() && !said.is_finished(), "the run has its time");
    run.text("done");
    let said = timeout(LONG, said).await.expect("who waits for the run hears of its end").unwrap();
    assert_eq!((said.status, &said.body["result"]["text"]), (200, &json!("done")), "{said:?}");
    timeout(LONG, ended).await.expect("then the server ends").unwrap();
    assert!(runs.started().is_none(), "no other run was begun");
    assert!(client.get(format!("{url}/livez")).send().await.is_err(), "nobody listens");

    // What was accepted goes on with the next one, under the same id.
    let (builder, mut runs) = by_hand(&store, LONG);
    let next = TestServer::with(builder).await;
    timeout(LONG, runs.next()).await.expect("it runs without being called").text("done too");
    let waited = next.get(&format!("{INPUTS}/{}/wait", behind.body["id"].as_str().unwrap())).await;
    assert_eq!((waited.status, &waited.body["result"]["text"]), (200, &json!("done too")), "{waited:?}");
}

#[tokio::test]
async fn a_run_that_takes_longer_than_the_grace_time_is_put_back_at_no_cost() {
    let store = Arc::new(MemoryStore::new());
    let (builder, mut runs) = by_hand(&store, Duration::from_millis(100));
    let server = TestServer::with(builder).await;
    let said = say(&server, "one");
    let _run = timeout(LONG, runs.next()).await.expect("the run starts");
    timeout(LONG, server.into_server().shutdown()).await.expect("the server ends all the same");
    let said = timeout(LONG, said).await.expect("and answers").unwrap();
    assert_eq!((said.status, &said.body["result"]), (202, &Value::Null), "{said:?}");

    let (builder, mut runs) = by_hand(&store, LONG);
    let next = TestServer::with(builder).await;
    timeout(LONG, runs.next()).await.expect("it runs again without being called").text("done");
    let waited = next.get(&format!("{INPUTS}/{}/wait", said.body["id"].as_str().unwrap())).await;
    assert_eq!((waited.status, &waited.body["result"]["text"]), (200, &json!("done")), "{waited:?}");
    let journal = next.get("/v1/sessions/s/journal?limit=500").await;
    let ends: Vec<_> =
        journal.body["items"].as_array().unwrap().iter().map(|entry| &entry["record"]["run_ended"]["end"]).collect();
    let released = ends.iter().filter(|end| end.get("released").is_some()).count();
    assert_eq!(released, 1, "{ends:?}");
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_server_ends() {
    let release = Arc::new(Notify::new());
    let (started, begun) = oneshot::channel();
    let started = Arc::new(Mutex::new(Some(started)));
    let handler = {
        let release = Arc::clone(&release);
        move || {
            let (started, release) = (started.lock().unwrap().take(), Arc::clone(&release));
            async move {
                started.map(|started| started.send(()));
                release.notified().await;
                "answered"
            }
        }
    };
    let builder = TestServer::builder(TestServer::config())
        .routes(|routes| routes.route(Method::GET, "/slow", Scope::Public, handler));
    let server = TestServer::with(builder).await;
    let asked = tokio::spawn(server.request(Method::GET, "/slow").send());
    begun.await.unwrap();
    let ended = tokio::spawn(server.into_server().shutdown());
    release.notify_one();
    let answer = timeout(LONG, asked).await.unwrap().unwrap().expect("an answer");
    assert_eq!(answer.text().await.unwrap(), "answered");
    timeout(LONG, ended).await.expect("the server ends").unwrap();
}

// F055. Which agents there are may change while a server is down.
#[tokio::test]
async fn what_waits_for_an_agent_that_is_declared_no_more_says_so_until_it_is_back() {
    let store = Arc::new(MemoryStore::new());
    let start = async |is_declared: bool| {
        let mut config = TestServer::config();
        if is_declared {
            let words = serde_json::from_value(json!({ "kind": "builtin" })).unwrap();
            config.agents.insert("words".to_owned(), words);
        }
        TestServer::with(Server::builder(config, Arc::clone(&store))).await
    };
    let without = async |server: &TestServer, expected: u64| {
        let ready = server.get("/readyz").await;
        assert_eq!(ready.body, json!({ "status": "ready", "sessions_without_executor": expected }));
        let metrics = server.get("/metrics").await.body.as_str().unwrap().to_owned();
        let level = metrics.lines().find(|line| line.starts_with("windlass_sessions_without_executor{")).unwrap();
        assert!(level.ends_with(&format!(" {expected}")), "{level}");
    };

    let server = start(true).await;
    assert_eq!(server.post("/v1/sessions", &json!({ "name": "s", "agent": "words" })).await.status, 201);
    assert_eq!(server.post("/v1/sessions/s/hold", &json!({})).await.status, 200);
    let sent = server.post(INPUTS, &json!({ "kind": "prompt", "text": "hello" })).await;
    let input = sent.header("location").to_owned();
    server.into_server().shutdown().await;

    let server = start(false).await;
    assert_eq!(server.post("/v1/sessions/s/release", &json!({})).await.status, 200);
    let said = server.get(&format!("{input}/explain")).await.body;
    assert_eq!((&said["state"], &said["cause"]), (&json!("queued"), &json!("executor_unavailable")), "{said}");
    let sentence = said["sentence"].as_str().unwrap();
    assert!(sentence.contains("unknown_agent: no agent is named \"words\"; there are builtin"), "{sentence}");
    without(&server, 1).await;
    server.into_server().shutdown().await;

    let server = start(true).await;
    let ended = server.get(&format!("{input}/wait?timeout=20")).await;
    assert_eq!((ended.status, &ended.body["state"]), (200, &json!("consumed")), "{ended:?}");
    without(&server, 0).await;
}
