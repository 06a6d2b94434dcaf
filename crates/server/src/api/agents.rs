//! Which agents are there, and do they answer?

use super::Named;
use crate::{
    problem::{Code, Problem},
    state::AppState,
};
use axum::{Json, extract::State};
use std::time::{Duration, Instant};
use windlass_api::{Agent, AgentTest, Page};

/// An agent that takes longer to be tried is not answering.
const PATIENCE: Duration = Duration::from_secs(60);

/// List the agents
///
/// A session is created with one of them.
#[utoipa::path(
    get, path = "/v1/agents", operation_id = "list_agents", tag = "agents",
    responses((status = 200, description = "All of them.", body = Page<Agent>))
)]
pub(crate) async fn list(State(state): State<AppState>) -> Json<Page<Agent>> {
    Json(Page { items: state.agents().agents(), next_cursor: None })
}

/// Try an agent
///
/// It answers a small prompt, outside of any session.
#[utoipa::path(
    post, path = "/v1/agents/{name}/test", operation_id = "test_agent", tag = "agents",
    params(("name" = windlass_api::schema::Name, Path, description = "Its name.")),
    responses((status = 200, description = "Whether it answers.", body = AgentTest))
)]
pub(crate) async fn test(
    State(state): State<AppState>,
    Named(name): Named<String>,
) -> Result<Json<AgentTest>, Problem> {
    let began = Instant::now();
    match tokio::time::timeout(PATIENCE, state.agents().test(&name)).await {
        Ok(Some(tried)) => Ok(Json(tried)),
        Ok(None) => Err(Problem::new(Code::NotFound).detail("there is no such agent; see /v1/agents")),
        Err(_) => {
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            Ok(Json(AgentTest {
                name,
                ok: false,
                detail: format!("no answer within {} s", PATIENCE.as_secs()),
                took_ms,
            }))
        }
    }
}
