//! What does every handler share?

use crate::{
    auth::{Jwt, Tokens},
    config::Config,
    limits::Rates,
    problem::Problem,
    telemetry::Metrics,
    trace::Traces,
};
use async_trait::async_trait;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use windlass_agent::config::Agents;
use windlass_api::{Agent, AgentTest};
use windlass_runtime::{RuntimeSessionAdapter, documents::Documents, store::Store};

/// Which agents there are, and whether they answer.
#[async_trait]
pub trait AgentCatalog: Send + Sync + 'static {
    /// The agents, by name.
    fn agents(&self) -> Vec<Agent>;

    /// Tries an agent, outside of any session. None if there is no such agent.
    async fn test(&self, name: &str) -> Option<AgentTest>;
}

#[async_trait]
impl AgentCatalog for Agents {
    fn agents(&self) -> Vec<Agent> {
        let described = self.names().into_iter().filter_map(|name| self.describe(name));
        described
            .map(|agent| Agent {
                name: agent.name,
                kind: agent.kind,
                default: agent.is_default,
                detail: Some(agent.summary),
            })
            .collect()
    }

    async fn test(&self, name: &str) -> Option<AgentTest> {
        self.describe(name)?;
        let report = Agents::test(self, name).await;
        let said = report.text.unwrap_or_else(|| "it answered without words".to_owned());
        let detail = report.error.unwrap_or(said);
        Some(AgentTest { name: report.agent, ok: report.ok, detail, took_ms: report.took_ms })
    }
}

/// What every handler shares. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Parts>);

/// The same, without keeping it alive.
#[derive(Clone)]
pub(crate) struct WeakState(Weak<Parts>);

impl WeakState {
    pub(crate) fn upgrade(&self) -> Option<AppState> {
        self.0.upgrade().map(AppState)
    }
}

/// What a server is made of.
pub(crate) struct Parts {
    pub(crate) adapter: RuntimeSessionAdapter,
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) agents: Arc<dyn AgentCatalog>,
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Traces,
    pub(crate) tokens: Tokens,
    pub(crate) jwt: Option<Jwt>,
    pub(crate) rates: Rates,
    pub(crate) closing: CancellationToken,
    pub(crate) draining: AtomicBool,
    pub(crate) tasks: TaskTracker,
    pub(crate) health: crate::health::Health,
    pub(crate) api: crate::api::Api,
}

impl AppState {
    pub(crate) fn new(parts: Parts) -> AppState {
        AppState(Arc::new(parts))
    }

    pub(crate) fn downgrade(&self) -> WeakState {
        WeakState(Arc::downgrade(&self.0))
    }

    /// The runtime.
    pub fn adapter(&self) -> &RuntimeSessionAdapter {
        &self.0.adapter
    }

    /// The store below the runtime.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.0.adapter.store()
    }

    /// What is kept beside the journals: tokens, policies.
    pub fn documents(&self) -> &Arc<dyn Documents> {
        &self.0.documents
    }

    /// Which agents there are.
    pub fn agents(&self) -> &Arc<dyn AgentCatalog> {
        &self.0.agents
    }

    /// What was chosen.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Where spans go.
    pub(crate) fn traces(&self) -> &Traces {
        &self.0.traces
    }

    /// The tokens of this server.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Cancelled when the server begins to shut down: streams end with an event that says so, and so do waits for what
    /// will not come.
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// Where a handler leaves a task that outlives its request; the server waits for them all when it ends.
    pub fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    pub(crate) fn jwt(&self) -> Option<&Jwt> {
        self.0.jwt.as_ref()
    }

    /// Does this to its end, although its client may go: for a change of the store that memory has to follow.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        self.tasks().spawn(work).await.unwrap_or_else(|error| Err(Problem::internal(error)))
    }

    pub(crate) fn rates(&self) -> &Rates {
        &self.0.rates
    }

    pub(crate) fn api(&self) -> &crate::api::Api {
        &self.0.api
    }

    pub(crate) fn health(&self) -> &crate::health::Health {
        &self.0.health
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    pub(crate) fn begin_draining(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.0.closing.cancel();
    }

    /// Whether whoever calls from this machine needs no token: nobody else can call, and there is neither a token yet nor
    /// an issuer of them.
    pub(crate) fn trusts_local(&self) -> bool {
        let server = &self.0.config.server;
        server.listen.ip().is_loopback() && !server.behind_proxy && self.0.tokens.is_empty() && self.0.jwt.is_none()
    }
}
