//! What does a server do while its store fails, and when it is back?

use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::timeout;
use windlass_agent::config::Agents;
use windlass_core::SessionId;
use windlass_runtime::{
    CoreExecutor, CoreExecutorError, ExecutorFactory,
    memory::MemoryStore,
    testing::{
        ManualExecutor, Runs,
        faulty_store::{Call, Fault, FaultyStore},
    },
};
use windlass_server::{Server, config::Seconds, testing::TestServer};

const LONG: Duration = Duration::from_secs(10);

/// Gives every session the same executor.
struct One(Arc<ManualExecutor>);

#[async_trait::async_trait]
impl ExecutorFactory for One {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::clone(&self.0) as _)
    }
}

/// A server whose runs are in the hands of the test, and its store.
async fn on(memory: &Arc<MemoryStore>, prepare: impl FnOnce(&FaultyStore)) -> (TestServer, Runs, Arc<FaultyStore>) {
    let mut config = TestServer::config();
    config.server.drain_seconds = Seconds(Duration::from_millis(1));
    let store = Arc::new(FaultyStore::new(Arc::clone(memory) as _));
    prepare(&store);
    let (executor, runs) = ManualExecutor::new();
    let agents = Arc::new(Agents::new(BTreeMap::new()).unwrap());
    let builder = Server::builder(config, Arc::clone(memory)).store(Arc::clone(&store) as _);
    (TestServer::with(builder.agents(Arc::new(One(executor)), agents)).await, runs, store)
}

#[tokio::test]
async fn what_waits_goes_on_although_the_store_fails_at_the_start() {
    let memory = Arc::new(MemoryStore::new());
    let (before, mut runs, _) = on(&memory, |_| {}).await;
    let prompt = json!({ "kind": "prompt", "text": "hello" });
    assert_eq!(before.post("/v1/sessions/s/inputs?create=true", &prompt).await.status, 202);
    let _unfinished = timeout(LONG, runs.next()).await.expect("it runs");
    before.into_server().shutdown().await;

    // Twice when what waits is counted, and twice when it is listed.
    let failing = |store: &FaultyStore| {
        for nth in [1, 2, 5, 6] {
            store.fail(Call::List, nth, Fault::Unavailable);
        }
    };
    let (server, mut runs, _) = on(&memory, failing).await;
    let run = timeout(LONG, runs.next()).await.expect("it runs without being called");
    assert_eq!(run.turn.primitive().text(), "hello");
    let metrics = server.get("/metrics").await.body.as_str().unwrap().to_owned();
    let depth = metrics.lines().find(|line| line.starts_with("windlass_queue_depth{")).unwrap();
    assert!(depth.ends_with(" 1"), "counted, and once: {depth}");
}

#[tokio::test(start_paused = true)]
async fn it_is_not_ready_while_the_store_takes_no_commit_and_ready_again_after() {
    for (fault, status, code) in [
        (Fault::Full, 507, "storage_full"),
        (Fault::ReadOnly, 503, "store_read_only"),
        (Fault::Unavailable, 503, "store_unavailable"),
        (Fault::UnknownNotDone, 503, "commit_outcome_unknown"),
    ] {
        let (server, _, store) = on(&Arc::new(MemoryStore::new()), |_| {}).await;
        assert_eq!(server.get("/readyz").await.status, 200);
        store.fail(Call::Probe, 1, fault);
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..3 {
            let unready = server.get("/readyz").await;
            assert_eq!((unready.status, unready.code()), (status, code), "{unready:?}");
            assert_eq!(unready.header("retry-after"), "1");
        }
        assert_eq!(store.calls(Call::Probe), 2, "once a second, however many ask");
        assert_eq!(server.get("/livez").await.status, 200, "the process is well");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(server.get("/readyz").await.status, 200);
    }
}
