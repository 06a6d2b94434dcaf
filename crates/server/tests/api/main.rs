//! Does the HTTP API do what it says? Real requests to a real server on SQLite, answered by the built-in agent.

mod blobs;
mod events;
mod explain;
mod inputs;
mod limits;
mod metrics;

mod openapi;
mod others;
mod pages;
mod sessions;

use http::Method;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use windlass_runtime::object_blobs::ObjectBlobs;
use windlass_server::{
    Config, Server,
    testing::{Answer, TestServer},
};
use windlass_sqlite::{SqliteOptions, SqliteStore};

/// A server on a new SQLite file, which goes away with it.
struct Rig {
    server: TestServer,
    store: SqliteStore,
    folder: tempfile::TempDir,
}

impl std::ops::Deref for Rig {
    type Target = TestServer;

    fn deref(&self) -> &TestServer {
        &self.server
    }
}

impl Rig {
    async fn start() -> Rig {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Rig {
        let mut config = TestServer::config();
        change(&mut config);
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("windlass.db"), SqliteOptions::default()).unwrap();
        let builder = Server::builder(config, Arc::new(store.clone()));
        let blobs = ObjectBlobs::in_folder(folder.path().join("blobs")).unwrap();
        Rig { server: TestServer::with(builder.blobs(Arc::new(blobs))).await, store, folder }
    }

    /// A session of this name.
    async fn session(&self, name: &str) -> String {
        let created = self.post("/v1/sessions", &json!({ "name": name })).await;
        assert_eq!(created.status, 201, "{created:?}");
        created.body["id"].as_str().unwrap().to_owned()
    }

    /// Sends a prompt and waits for what it comes to.
    async fn say(&self, session: &str, text: &str) -> Answer {
        let path = format!("/v1/sessions/{session}/inputs");
        let request = self.request(Method::POST, &path).header("prefer", "wait=20");
        Answer::to(request.json(&json!({ "kind": "prompt", "text": text }))).await
    }

    async fn patch(&self, path: &str, body: &Value) -> Answer {
        Answer::to(self.request(Method::PATCH, path).json(body)).await
    }

    /// A token with these scopes for this tenant, made while the server trusts its machine or by the shown one.
    async fn token(&self, tenant: &str, scopes: &[&str]) -> String {
        let made = self.post("/v1/tokens", &json!({ "tenant": tenant, "scopes": scopes })).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["token"].as_str().unwrap().to_owned()
    }
}

/// What no test waits longer for.
const PATIENCE: Duration = Duration::from_secs(30);
