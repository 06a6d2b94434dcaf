//! Calls: the server itself, and its agents.

use super::Paging;
use crate::{Client, ClientError, http::Call};
use reqwest::Method;
use serde_json::Value;
use windlass_api::{Agent, AgentTest, Page};

impl Client {
    /// Whether the server's process lives.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if not.
    pub async fn live(&self) -> Result<(), ClientError> {
        Call::new(self, Method::GET, &["livez"]).header("accept", "*/*").raw().await.map(drop)
    }

    /// What the server says of its readiness, which it has just proved by a commit.
    ///
    /// # Errors
    /// `draining`, or what keeps the store from committing.
    pub async fn ready(&self) -> Result<Value, ClientError> {
        Call::new(self, Method::GET, &["readyz"]).read().await
    }

    /// Which server this is.
    ///
    /// # Errors
    /// Only what keeps the question from being answered.
    pub async fn version(&self) -> Result<Value, ClientError> {
        Call::new(self, Method::GET, &["version"]).read().await
    }

    /// The metrics, in the text format of Prometheus.
    ///
    /// # Errors
    /// `unauthenticated` where metrics are not public.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let text = Call::new(self, Method::GET, &["metrics"]).header("accept", "text/plain").raw().await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The OpenAPI document.
    ///
    /// # Errors
    /// Only what keeps the question from being answered.
    pub async fn openapi(&self) -> Result<Value, ClientError> {
        Call::new(self, Method::GET, &["openapi.json"]).read().await
    }

    /// The agents that sessions may be created with.
    ///
    /// # Errors
    /// `forbidden_scope`.
    pub async fn agents(&self, page: &Paging) -> Result<Page<Agent>, ClientError> {
        page.of(Call::new(self, Method::GET, &["v1", "agents"])).read().await
    }

    /// Tries an agent out. That it cannot be used is an answer.
    ///
    /// # Errors
    /// `not_found` if there is no such agent.
    pub async fn test_agent(&self, agent: &str) -> Result<AgentTest, ClientError> {
        let wait = std::time::Duration::from_secs(120);
        Call::new(self, Method::POST, &["v1", "agents", agent, "test"]).waits(wait).read().await
    }
}
