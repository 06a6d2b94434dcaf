//! Why is an input not running, and when may it?

use crate::PATIENCE;
use http::Method;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use windlass_agent::config::Agents;
use windlass_api::Explanation;
use windlass_core::SessionId;
use windlass_runtime::{
    Clock as _, CoreExecutor, CoreExecutorError, ExecutorFactory, SystemClock,
    testing::{ManualExecutor, Runs},
};
use windlass_server::testing::{Answer, TestServer};

/// Gives every session the same executor.
struct One(Arc<ManualExecutor>);

#[async_trait::async_trait]
impl ExecutorFactory for One {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::clone(&self.0) as _)
    }
}

/// A server whose runs are in the hands of the test, and a session of this policy.
async fn server(policy: &serde_json::Value) -> (TestServer, Runs) {
    let (executor, runs) = ManualExecutor::new();
    let agents = Arc::new(Agents::new(BTreeMap::new()).unwrap());
    let server =
        TestServer::with(TestServer::builder(TestServer::config()).agents(Arc::new(One(executor)), agents)).await;
    let kept = Answer::to(server.request(Method::PUT, "/v1/policies/p").json(policy)).await;
    assert_eq!(kept.status, 200, "{kept:?}");
    assert_eq!(server.post("/v1/sessions", &json!({"name": "s", "policy": "p"})).await.status, 201);
    (server, runs)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_waits_for_its_time_says_when_that_is() {
    let later = Duration::from_secs(600);
    let quiet = json!({"debounce": {"window_ms": 600_000, "max_ms": 3_600_000}});
    for (cause, merge, tries) in [("debounced", quiet, 0), ("backing_off", json!("keep"), 1)] {
        let (server, mut runs) = server(&json!({"row": [{"decision": {"deliver": "next_run", "merge": merge}}]})).await;
        let earliest = SystemClock.now() + later;
        let sent = server.post("/v1/sessions/s/inputs", &json!({"kind": "prompt", "text": "hello"})).await;
        assert_eq!(sent.status, 202, "{sent:?}");
        if cause == "backing_off" {
            let run = tokio::time::timeout(PATIENCE, runs.next()).await.expect("it runs");
            run.finish(Err(CoreExecutorError::Retryable { error: "busy".into(), retry_after: Some(later) }));
        }
        let path = format!("{}/explain", sent.header("location"));
        let explained = async {
            loop {
                let told = server.get(&path).await;
                let told: Explanation = serde_json::from_value(told.body).expect("an explanation");
                if told.cause == cause {
                    break told;
                }
                tokio::task::yield_now().await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, explained).await.expect(cause);
        let at = told.next_eligible.expect("a moment").0;
        assert!((earliest..=SystemClock.now() + later).contains(&at), "{cause}: {at:?} of {earliest:?}");
        assert_eq!(told.tries, tries, "{cause}");
    }
}
