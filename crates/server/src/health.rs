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

/// How often the store is probed when nobody asks; more often if it may not be away for as long.
const WATCH: Duration = Duration::from_secs(15);
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
        let most = state.config().store.lost_seconds.0;
        // Fresh enough that a failure is asked about again before it is called an outage.
        if let Some((at, found)) = *last
            && at.elapsed() < FRESH.min(most / 4)
        {
            return found.map_or(Ok(()), Err);
        }
        let patience = PROBE.min(most);
        let found = match tokio::time::timeout(patience, state.store().probe()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Problem::from(error).code()),
            Err(_) => Some(Code::StoreUnavailable),
        };
        *last = Some((Instant::now(), found));
        found.map_or(Ok(()), Err)
    }
}

/// Watches the store. Returns when it has been lost for as long as the configuration allows, with what it answered last.
pub(crate) async fn store_lost(state: &AppState) -> Code {
    let lost = state.config().store.lost_seconds.0;
    let (watch, mut outage) = (WATCH.min(lost / 2), Outage::default());
    loop {
        tokio::time::sleep(if outage.is_on() { FRESH.min(watch) } else { watch }).await;
        let asked = Instant::now();
        let probed = state.health().probe(state).await;
        if let Some((since, code)) = outage.hear(probed, asked)
            && since.elapsed() >= lost
        {
            return code;
        }
    }
}

/// Since when the store takes no commits. One that is full or cannot be written is there all the same.
#[derive(Debug, Default)]
struct Outage(Option<Instant>);

impl Outage {
    fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Hears of a probe that was begun at a moment; answers since when the store has been away, and what it says.
    fn hear(&mut self, probed: Result<(), Code>, asked: Instant) -> Option<(Instant, Code)> {
        match probed {
            Err(code @ (Code::StoreUnavailable | Code::CommitOutcomeUnknown)) => {
                Some((*self.0.get_or_insert(asked), code))
            }
            _ => {
                self.0 = None;
                None
            }
        }
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
        Ok(()) => {
            let without_executor = state.adapter().sessions_without_executor();
            Ok(Json(json!({ "status": "ready", "sessions_without_executor": without_executor })))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;
    use std::sync::Arc;
    use windlass_runtime::{
        memory::MemoryStore,
        testing::faulty_store::{Call, Fault, FaultyStore},
    };

    #[test]
    fn a_store_is_away_since_its_first_failure_and_never_for_being_full() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        for (seconds, probed, since) in [
            (0, Ok(()), None),
            (15, Err(Code::StorageFull), None),
            (90, Err(Code::StoreReadOnly), None),
            (100, Err(Code::StoreUnavailable), Some(100)),
            (129, Err(Code::CommitOutcomeUnknown), Some(100)),
            (130, Ok(()), None),
            (131, Err(Code::StoreUnavailable), Some(131)),
            (160, Err(Code::StorageFull), None),
            (161, Err(Code::CommitOutcomeUnknown), Some(161)),
        ] {
            let heard = outage.hear(probed, at(seconds));
            let expected = since.zip(probed.err()).map(|(since, code)| (at(since), code));
            assert_eq!(heard, expected, "after {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_is_lost_in_time_and_the_process_says_so() {
        for (seconds, first) in [(None, WATCH), (Some(4), Duration::from_secs(2))] {
            let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
            (1..=100).for_each(|nth| store.fail(Call::Probe, nth, Fault::Unavailable));
            let mut config = TestServer::config();
            let lost = seconds.map_or(config.store.lost_seconds.0, Duration::from_secs);
            config.store.lost_seconds.0 = lost;
            let server = TestServer::with(TestServer::builder(config).store(Arc::clone(&store) as _)).await;
            let begun = Instant::now();
            let code = store_lost(server.server().state()).await;
            assert_eq!(code, Code::StoreUnavailable);
            let took = begun.elapsed();
            assert!((first + lost..=first + lost + 2 * FRESH).contains(&took), "{took:?}");
            assert_eq!(crate::ServeError::StoreLost { code, after: lost }.exit_code(), 70);
        }
    }
}
