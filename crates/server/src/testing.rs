//! How does a test talk to a server that is really there?
//!
//! [`TestServer`] listens on a loopback port that the system chose, on a store in memory unless told otherwise.

use crate::{Config, Server, ServerBuilder};
use http::{HeaderMap, Method};
use serde_json::Value;
use std::sync::Arc;
use windlass_runtime::{memory::MemoryStore, object_blobs::ObjectBlobs};

/// A server, and a client of it. Dropping it ends the server at once.
pub struct TestServer {
    server: Server,
    client: reqwest::Client,
    token: Option<String>,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; text where it is no JSON, null where there is none.
    pub body: Value,
}

impl TestServer {
    /// The configuration of test servers: a port that the system chooses.
    pub fn config() -> Config {
        let mut config = Config::defaults();
        config.server.listen.set_port(0);
        config
    }

    /// A server in memory with the built-in agent.
    pub async fn start() -> TestServer {
        Self::with(Self::builder(Self::config())).await
    }

    /// A server in memory, to be changed before it starts.
    pub fn builder(config: Config) -> ServerBuilder {
        let blobs = Arc::new(ObjectBlobs::in_memory());
        Server::builder(config, Arc::new(MemoryStore::new())).blobs(blobs)
    }

    /// Any server.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn with(builder: ServerBuilder) -> TestServer {
        let server = builder.start().await.expect("a test server starts");
        TestServer { server, client: reqwest::Client::new(), token: None }
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The server alone, to end it.
    pub fn into_server(self) -> Server {
        self.server
    }

    /// From now on this token is shown.
    pub fn show(&mut self, token: Option<&str>) {
        self.token = token.map(str::to_owned);
    }

    /// A request to a path, to be added to.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.server.url()));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Asks.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::GET, path)).await
    }

    /// Sends JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::to(self.request(Method::POST, path).json(body)).await
    }

    /// Deletes.
    pub async fn delete(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::DELETE, path)).await
    }
}

impl Answer {
    /// Sends a request and reads the whole answer.
    ///
    /// # Panics
    /// If there is none.
    pub async fn to(request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("the whole answer");
        let body = match serde_json::from_slice(&bytes) {
            Ok(body) => body,
            Err(_) if bytes.is_empty() => Value::Null,
            Err(_) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
        };
        Answer { status, headers, body }
    }

    /// The code of the problem that it is, or an empty text.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// One header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
