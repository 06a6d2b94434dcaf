//! Is the server alive, is it ready, and which one is it?

use crate::{
    auth::{Scope, authenticate},
    guard::ClientIp,
    problem::{Code, Problem},
    routes::Routes,
    state::AppState,
};
use axum::{
    Json,
    extract::{Extension, State},
    response::IntoResponse,
};
use http::{HeaderMap, Method, header};
use serde_json::json;
use std::time::Duration;
use tokio::{sync::Mutex, time::Instant};

/// So long an answer of the store counts.
const FRESH: Duration = Duration::from_secs(1);
/// So long a probe may take.
const PROBE: Duration = Duration::from_secs(5);

/// The last probe of the store.
#[derive(Debug, Default)]
pub(crate) struct Health {
    last: Mutex<Option<(Instant, Option<Code>)>>,
}

impl Health {
    /// Whether the store takes commits: a commit of nothing, at most once a second however many ask.
    pub(crate) async fn probe(&self, state: &AppState) -> Result<(), Code> {
        let mut last = self.last.lock().await;
        if let Some((at, found)) = *last
            && at.elapsed() < FRESH
        {
            return found.map_or(Ok(()), Err);
        }
        let found = match tokio::time::timeout(PROBE, state.store().probe()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Problem::from(error).code()),
            Err(_) => Some(Code::StoreUnavailable),
        };
        *last = Some((Instant::now(), found));
        found.map_or(Ok(()), Err)
    }
}

/// The routes that tell of the server itself.
pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route(Method::GET, "/livez", Scope::Public, livez)
        .route(Method::GET, "/readyz", Scope::Public, readyz)
        .route(Method::GET, "/version", Scope::Public, version)
        .route(Method::GET, "/metrics", Scope::Public, metrics)
}

async fn livez() -> impl IntoResponse {
    Json(json!({ "status": "ok" }))
}

async fn readyz(State(state): State<AppState>) -> Result<impl IntoResponse, Problem> {
    if state.is_draining() {
        return Err(Problem::new(Code::Draining).detail("the server is shutting down"));
    }
    match state.health().probe(&state).await {
        Ok(()) => Ok(Json(json!({ "status": "ready" }))),
        Err(code) => Err(Problem::new(code).retry_after(FRESH)),
    }
}

async fn version() -> impl IntoResponse {
    Json(json!({ "name": "windlass", "version": env!("CARGO_PKG_VERSION"), "api": "v1" }))
}

/// Whoever runs on this machine may scrape; others need the token of an operator.
async fn metrics(
    State(state): State<AppState>,
    Extension(ClientIp(from)): Extension<ClientIp>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    if !from.is_loopback() || state.config().server.behind_proxy {
        authenticate(&state, &headers, from).await?.may(Scope::TenantAdmin)?;
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], state.metrics().render()?))
}
