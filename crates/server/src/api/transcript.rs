//! What was said in a session?
//!
//! Folded from the boundaries of its runs, a bounded piece of the journal per request.

use super::{Named, PageQuery, cursor::List, journal::Piece, page_limit, reach};
use crate::{auth::Principal, json::StrictQuery, page::Listed, problem::Problem, state::AppState};
use axum::extract::State;
use serde_json::{Map, Value};
use windlass_api::{Message, Page};
use windlass_core::{Entry, JsonText, Record, RunEnd, RunId, Seq, Terminal};
use windlass_runtime::store::{Room, json_bytes};

/// Read the transcript
///
/// The messages that runs committed, in order. A page may be short, or empty, and there may yet be a next one.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/transcript", operation_id = "read_transcript", tag = "runs",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."), PageQuery),
    responses((status = 200, description = "A page.", body = Page<Message>))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Listed<Page<Message>>, Problem> {
    let mut room = Room::page(page_limit(query.limit)?);
    let session = reach::reach(&state, &principal, &session).await?.id();
    let of = List::of("/v1/sessions/{session}/transcript", &[&session.to_string()]);
    // The entry to read on after, and how many messages of the one after it were shown.
    let [after, shown] = of.numbers(query.cursor.as_deref())?;
    let mut piece = Piece::whole(&state, session, Seq(after));
    let mut items: Vec<Message> = Vec::new();
    while let Some(entries) = piece.next().await? {
        for entry in &entries {
            let before = entry.seq.0 - 1;
            let shown = if before == after { shown } else { 0 };
            for (place, message) in (0..).zip(messages(entry)).skip(shown as usize) {
                if !room.takes(json_bytes(&message)) {
                    return Ok(Listed(Page { items, next_cursor: Some(of.at([before, place])) }));
                }
                items.push(message);
            }
        }
    }
    let next_cursor = (!piece.is_over).then(|| of.at([piece.after.0, 0]));
    Ok(Listed(Page { items, next_cursor }))
}

/// The messages that an entry adds to the conversation.
fn messages(entry: &Entry) -> Vec<Message> {
    match &entry.record {
        Record::BoundaryCommitted(boundary) => told(entry, boundary.receipt.run_id, boundary.delta.as_ref()),
        Record::RunEnded(ended) => match &ended.end {
            RunEnd::Completed { delta: Some(delta), .. } => told(entry, ended.run, Some(delta)),
            // An executor that keeps no conversation still has said something.
            RunEnd::Completed { terminal: Terminal::Result(result), .. } => {
                vec![message(entry, ended.run, "assistant", Value::String(result.text.clone()), Map::new())]
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The messages of a delta: its `messages`, or the delta itself, whatever it is.
fn told(entry: &Entry, run: RunId, delta: Option<&JsonText>) -> Vec<Message> {
    let Some(delta) = delta.and_then(|delta| serde_json::from_str::<Value>(delta.get()).ok()) else {
        return Vec::new();
    };
    let Some(Value::Array(messages)) = delta.get("messages") else {
        return vec![message(entry, run, "assistant", delta, Map::new())];
    };
    let one = |told: &Value| {
        let mut more = told.as_object().cloned().unwrap_or_default();
        let role = more.remove("role").and_then(|role| role.as_str().map(str::to_owned));
        let content = more.remove("content").unwrap_or(Value::Null);
        for taken in ["seq", "at", "run"] {
            more.remove(taken);
        }
        message(entry, run, role.as_deref().unwrap_or("assistant"), content, more)
    };
    messages.iter().map(one).collect()
}

fn message(entry: &Entry, run: RunId, role: &str, content: Value, more: Map<String, Value>) -> Message {
    Message { seq: entry.seq.0, at: entry.at.into(), run, role: role.to_owned(), content, more }
}
