//! How does a server end?

use axum::{body::Body, extract::State};
use futures_util::StreamExt;
use http::Method;
use serde_json::Value;
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
use windlass_core::{Input, InputId, SessionId, Timestamp};
use windlass_runtime::{
    CompletionOutcome, CoreApplyOutput, CoreExecutor, CoreExecutorError, ExecutorFactory, executor_fn,
    memory::MemoryStore,
};
use windlass_server::{AppState, Scope, Server, testing::TestServer};

const LONG: Duration = Duration::from_secs(10);

/// Gives every session the same executor.
struct One(Arc<dyn CoreExecutor>);

#[async_trait::async_trait]
impl ExecutorFactory for One {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::clone(&self.0))
    }
}

fn prompt(id: u128) -> Input {
    Input::prompt(InputId::from_uuid(uuid::Uuid::from_u128(id)), Timestamp::ZERO, "hello")
}

#[tokio::test]
async fn streams_end_and_nothing_new_is_taken_while_a_run_is_given_its_time() {
    let store = Arc::new(MemoryStore::new());
    let (started, begun) = oneshot::channel();
    let started = Arc::new(Mutex::new(Some(started)));
    let release = Arc::new(Notify::new());
    let stubborn = executor_fn({
        let release = Arc::clone(&release);
        move |_| {
            let (started, release) = (started.lock().unwrap().take(), Arc::clone(&release));
            async move {
                started.map(|started| started.send(()));
                release.notified().await;
                Err(CoreExecutorError::retryable("told to stop"))
            }
        }
    });
    let stubborn: Arc<dyn ExecutorFactory> = Arc::new(One(Arc::new(stubborn)));
    let catalog = Arc::new(windlass_agent::config::Agents::new(BTreeMap::new()).unwrap());
    let builder =
        Server::builder(TestServer::config(), Arc::clone(&store)).agents(stubborn, catalog).routes(|routes| {
            routes.route(Method::GET, "/stream", Scope::Public, |State(state): State<AppState>| async move {
                let closing = state.closing().clone().cancelled_owned();
                let first = futures_util::stream::iter([Ok::<_, Infallible>("open\n")]);
                Body::from_stream(first.chain(futures_util::stream::once(async move {
                    closing.await;
                    Ok("closing\n")
                })))
            })
        });
    let server = TestServer::with(builder).await;
    let id = SessionId::from_uuid(uuid::Uuid::from_u128(1));
    let session = server.server().state().adapter().create_session(id, None).await.unwrap();
    session.accept(prompt(1)).await.unwrap();
    timeout(LONG, begun).await.expect("the run starts").unwrap();
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
    assert!(!ended.is_finished(), "the run has its time");
    release.notify_one();
    timeout(LONG, ended).await.expect("then the server ends").unwrap();
    assert!(client.get(format!("{url}/livez")).send().await.is_err(), "nobody listens");

    // What was accepted goes on with the next one, under the same id.
    let echo: Arc<dyn ExecutorFactory> =
        Arc::new(One(Arc::new(executor_fn(|_| async { Ok(CoreApplyOutput::text("done")) }))));
    let catalog = Arc::new(windlass_agent::config::Agents::new(BTreeMap::new()).unwrap());
    let next = Server::builder(TestServer::config(), store).agents(echo, catalog).start().await.unwrap();
    let session = next.state().adapter().session(id).await.unwrap();
    let input = windlass_runtime::store::InputRef::Id(InputId::from_uuid(uuid::Uuid::from_u128(1)));
    let outcome = timeout(LONG, session.completion(input).await.unwrap().wait()).await.expect("it ends");
    let CompletionOutcome::Completed(result) = outcome else { panic!("{outcome:?}") };
    assert_eq!(result.text, "done");
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
