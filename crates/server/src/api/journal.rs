//! How is a journal read page by page, and how much of it for one request?

use super::{Named, page_limit, reach};
use crate::{
    auth::Principal,
    json::StrictQuery,
    page::Listed,
    problem::{Code, Problem},
    state::AppState,
};
use axum::extract::State;
use serde::Deserialize;
use std::sync::Arc;
use windlass_api::{Event, JournalPage};
use windlass_core::{Entry, Seq, SessionId};
use windlass_runtime::store::StoreError;

/// Where to read.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct JournalQuery {
    /// The entries after this position.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_u64, default = 0)]
    after: Option<u64>,
    /// At most so many items; large ones make a page shorter.
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
) -> Result<Listed<JournalPage>, Problem> {
    let limit = page_limit(query.limit)?;
    let after = position("/after", query.after.unwrap_or(0))?;
    let session = reach::reach(&state, &principal, &session).await?;
    let head = state.store().session(session.id()).await?.map_or(Seq::ZERO, |row| row.head);
    let entries = state.store().read(session.id(), after, limit).await?;
    let next_after = entries.last().filter(|last| last.seq < head).map(|last| last.seq.0);
    let items = entries.iter().map(|entry| Event::of(session.id(), entry)).collect::<Result<_, _>>();
    let items = items.map_err(Problem::internal)?;
    Ok(Listed(JournalPage { items, next_after }))
}

/// Entries that are read at once.
const READ: u32 = 512;
/// Pages of them that are read for one request. With the size of a page this bounds the work, whatever the entries are.
const READS: u32 = 64;

/// A piece of a journal that one request reads, one page in memory at a time. What is no longer kept is left out.
pub(super) struct Piece<'s> {
    state: &'s AppState,
    session: SessionId,
    /// The last entry that was read, or is no longer kept.
    pub(super) after: Seq,
    entries: u32,
    reads: u32,
    /// Whether the journal is at its end.
    pub(super) is_over: bool,
}

impl<'s> Piece<'s> {
    /// At most so many entries after a position.
    pub(super) fn new(state: &'s AppState, session: SessionId, after: Seq, entries: u32) -> Piece<'s> {
        Piece { state, session, after, entries, reads: READS, is_over: false }
    }

    /// So many entries as one request may fold.
    pub(super) fn whole(state: &'s AppState, session: SessionId, after: Seq) -> Piece<'s> {
        Piece::new(state, session, after, 8 * READ)
    }

    /// The next entries. None: the piece is over, or the journal.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Arc<Entry>>>, Problem> {
        while !self.is_over && self.entries > 0 && self.reads > 0 {
            match self.state.store().read(self.session, self.after, self.entries.min(READ)).await {
                Ok(entries) => {
                    self.reads -= 1;
                    self.entries -= entries.len() as u32;
                    let Some(last) = entries.last() else {
                        self.is_over = true;
                        break;
                    };
                    self.after = last.seq;
                    return Ok(Some(entries));
                }
                Err(StoreError::Pruned { oldest }) => self.after = oldest,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// A position in a journal, as JSON can say it.
pub(super) fn position(pointer: &str, number: u64) -> Result<Seq, Problem> {
    const LAST: u64 = (1 << 53) - 1;
    if number > LAST {
        return Err(Problem::at(Code::SchemaViolation, pointer.to_owned(), &format!("at most {LAST} is taken")));
    }
    Ok(Seq(number))
}
