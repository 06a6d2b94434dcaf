//! How is a journal read page by page?

use super::{Named, page_limit, reach};
use crate::{
    auth::Principal,
    json::StrictQuery,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{Json, extract::State};
use serde::Deserialize;
use std::sync::Arc;
use windlass_api::{Event, JournalPage};
use windlass_core::{Entry, Seq, SessionId};

/// Where to read.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct JournalQuery {
    /// The entries after this position.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_u64, default = 0)]
    after: Option<u64>,
    /// At most so many items.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
}

/// Read a journal
///
/// The same entries that the stream of events shows.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/journal", operation_id = "read_journal", tag = "events",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."), JournalQuery),
    responses(
        (status = 200, description = "A page.", body = JournalPage),
        (status = 410, description = "Entries after this position are no longer kept; the detail says from where on they are.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<JournalQuery>,
) -> Result<Json<JournalPage>, Problem> {
    let limit = page_limit(query.limit)?;
    let after = position("/after", query.after.unwrap_or(0))?;
    let session = reach::reach(&state, &principal, &session).await?;
    let entries = state.store().read(session.id(), after, limit).await?;
    let next_after = entries.last().filter(|_| entries.len() == limit as usize).map(|entry| entry.seq.0);
    let items = entries.iter().map(|entry| event(session.id(), entry)).collect::<Result<_, _>>()?;
    Ok(Json(JournalPage { items, next_after }))
}

/// A position in a journal, as JSON can say it.
pub(super) fn position(pointer: &str, number: u64) -> Result<Seq, Problem> {
    const LAST: u64 = (1 << 53) - 1;
    if number > LAST {
        return Err(Problem::at(Code::SchemaViolation, pointer.to_owned(), &format!("at most {LAST} is taken")));
    }
    Ok(Seq(number))
}

/// An entry as an event.
pub(super) fn event(session: SessionId, entry: &Arc<Entry>) -> Result<Event, Problem> {
    Ok(Event {
        session,
        seq: entry.seq.0,
        at: entry.at.into(),
        name: entry.record.name().to_owned(),
        record: serde_json::to_value(&entry.record).map_err(Problem::internal)?,
    })
}
