//! What becomes of a change whose client goes away in the middle of it?

use crate::{AppState, ClientIp, Server, auth::Tenant, routes, testing::TestServer};
use async_trait::async_trait;
use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};
use std::{net::Ipv4Addr, sync::Arc};
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt as _;
use windlass_core::PolicyTable;
use windlass_runtime::{
    documents::{Document, DocumentError, Documents},
    memory::MemoryStore,
    object_blobs::ObjectBlobs,
    store::InputQuery,
};

/// Documents that are kept at once, which is told later.
struct Slow {
    documents: Arc<MemoryStore>,
    kept: Notify,
    told: Semaphore,
}

#[async_trait]
impl Documents for Slow {
    async fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DocumentError> {
        self.documents.get(kind, key).await
    }

    async fn put(&self, kind: &str, key: &str, body: Value, expected: Option<u64>) -> Result<u64, DocumentError> {
        let version = self.documents.put(kind, key, body, expected).await;
        self.kept.notify_one();
        self.told.acquire().await.expect("it is never closed").forget();
        version
    }

    async fn list(&self, kind: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>, DocumentError> {
        self.documents.list(kind, after, limit).await
    }

    async fn delete(&self, kind: &str, key: &str) -> Result<bool, DocumentError> {
        self.documents.delete(kind, key).await
    }
}

async fn slow() -> (Server, Arc<Slow>) {
    let store = Arc::new(MemoryStore::new());
    let slow = Arc::new(Slow { documents: Arc::clone(&store), kept: Notify::new(), told: Semaphore::new(0) });
    let mut builder = Server::builder(TestServer::config(), store).blobs(Arc::new(ObjectBlobs::in_memory()));
    builder.documents = Arc::clone(&slow) as Arc<dyn Documents>;
    (builder.start().await.expect("a server"), slow)
}

/// Calls a route, and goes away when a document is kept.
async fn call_and_go(state: &AppState, slow: &Slow, method: Method, path: &str, body: &Value) {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let mut request = request.body(Body::from(body.to_string())).expect("a request");
    request.extensions_mut().insert(ClientIp(Ipv4Addr::LOCALHOST.into()));
    request.extensions_mut().insert(state.clone());
    tokio::select! {
        answer = routes().router(state.clone()).oneshot(request) => panic!("an answer came: {answer:?}"),
        () = slow.kept.notified() => {}
    }
}

#[tokio::test]
async fn a_token_that_is_stored_is_known() {
    let (server, slow) = slow().await;
    let state = server.state().clone();
    call_and_go(&state, &slow, Method::POST, "/v1/tokens", &json!({"scopes": ["*"]})).await;
    slow.told.add_permits(100);
    server.shutdown().await;
    assert!(!state.tokens().is_empty(), "from now on nobody is trusted without one");
}

#[tokio::test]
async fn a_policy_that_is_stored_is_known_and_takes_its_next_version() {
    let (server, slow) = slow().await;
    let state = server.state().clone();
    call_and_go(&state, &slow, Method::PUT, "/v1/policies/p", &json!({"row": []})).await;
    slow.told.add_permits(100);
    server.shutdown().await;
    let other = PolicyTable::reference();
    let kept = state.api().policies.keep(&Tenant::default(), "p", other).await.expect("the next version");
    assert_eq!(kept, (2, true));
}

#[tokio::test]
async fn media_is_its_senders_before_its_input_is_admitted() {
    let (server, slow) = slow().await;
    let state = server.state().clone();
    let source = json!({"source_type": "inline", "data": "AAECAw=="});
    let picture = json!({"kind": "prompt", "text": "look", "blocks": [{"type": "image", "media_type": "image/png", "source": source}]});
    call_and_go(&state, &slow, Method::POST, "/v1/sessions/s/inputs?create=true", &picture).await;
    let admitted = state.store().inputs(InputQuery { limit: 10, ..InputQuery::default() }).await.expect("a list");
    assert_eq!(admitted.len(), 0, "a crash now leaves no input whose media is nobody's");
}
