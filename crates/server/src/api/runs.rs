//! Which runs were there, and which boundaries did they commit?
//!
//! Folded from the journal, a bounded piece of it per request.

use super::{Named, PageQuery, cursor::List, journal::Piece, page_limit, reach};
use crate::{
    auth::Principal,
    json::StrictQuery,
    page::Listed,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{Json, extract::State};
use windlass_api::{Attempt, AttemptEnd, Page, Receipt, RunView};
use windlass_core::{Entry, Record, RunBoundaryReceipt, RunEnd, RunEnded, RunId, Seq, SessionId, Terminal};
use windlass_runtime::store::{Room, StoreError, json_bytes};

/// List the attempts at runs
///
/// In the order of the journal; a run that was tried twice comes twice. What it says is read from the journal, so much
/// of it per page: a page may be short, or empty, and there may yet be a next one.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/runs", operation_id = "list_runs", tag = "runs",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."), PageQuery),
    responses((status = 200, description = "A page.", body = Page<Attempt>))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Listed<Page<Attempt>>, Problem> {
    let mut room = Room::page(page_limit(query.limit)?);
    let session = reach::reach(&state, &principal, &session).await?.id();
    let of = List::of("/v1/sessions/{session}/runs", &[&session.to_string()]);
    // Where an attempt began that was not over at the end of the page before, and where to read on.
    let [began, after] = of.numbers(query.cursor.as_deref())?;
    let mut fold = Attempts::default();
    if began > 0 {
        for entry in Piece::new(&state, session, Seq(began - 1), 1).next().await?.unwrap_or_default() {
            fold.add(&entry);
        }
    }
    let mut piece = Piece::whole(&state, session, Seq(after));
    let mut items: Vec<Attempt> = Vec::new();
    while let Some(entries) = piece.next().await? {
        for entry in &entries {
            fold.add(entry);
            for attempt in fold.over.drain(..) {
                if !room.takes(json_bytes(&attempt)) {
                    return Ok(Listed(Page { items, next_cursor: Some(of.at([0, attempt.seq - 1])) }));
                }
                items.push(attempt);
            }
        }
    }
    let next_cursor = match fold.open {
        open if !piece.is_over => Some(of.at([open.map_or(0, |attempt| attempt.seq), piece.after.0])),
        Some(attempt) if !room.takes(json_bytes(&attempt)) => Some(of.at([0, attempt.seq - 1])),
        open => {
            items.extend(open);
            None
        }
    };
    Ok(Listed(Page { items, next_cursor }))
}

/// Folds entries into attempts.
#[derive(Default)]
struct Attempts {
    over: Vec<Attempt>,
    open: Option<Attempt>,
}

impl Attempts {
    fn add(&mut self, entry: &Entry) {
        match &entry.record {
            Record::RunStarted(started) => {
                // One that has no end in the journal died with its process.
                self.over.extend(self.open.take());
                self.open = Some(Attempt {
                    run: started.run,
                    attempt: started.attempt,
                    inputs: started.inputs.clone(),
                    asides: started.asides.clone(),
                    steered: Vec::new(),
                    resumes_after: started.resumes_after,
                    last_committed: started.resumes_after,
                    seq: entry.seq.0,
                    started_at: entry.at.into(),
                    ended_at: None,
                    end: None,
                    detail: None,
                    retry_at: None,
                    text: None,
                });
            }
            Record::RunSteered { run, inputs } => {
                if let Some(open) = self.open.as_mut().filter(|open| open.run == *run) {
                    open.steered.extend(inputs);
                }
            }
            Record::BoundaryCommitted(boundary) => {
                if let Some(open) = self.open.as_mut().filter(|open| open.run == boundary.receipt.run_id) {
                    open.last_committed = Some(boundary.receipt.sequence);
                }
            }
            Record::RunEnded(ended) => {
                if let Some(mut open) = self.open.take_if(|open| open.run == ended.run) {
                    open.ended_at = Some(entry.at.into());
                    end(&mut open, ended);
                    self.over.push(open);
                }
            }
            _ => {}
        }
    }
}

fn end(attempt: &mut Attempt, ended: &RunEnded) {
    attempt.last_committed = ended.end.receipt().map(|receipt| receipt.sequence).or(ended.committed);
    match &ended.end {
        RunEnd::Completed { terminal, .. } => {
            attempt.end = Some(AttemptEnd::Completed);
            if let Terminal::Result(result) = terminal {
                attempt.text = Some(result.text.clone());
            }
        }
        RunEnd::Failed { error, retry_at, .. } => {
            attempt.end = Some(AttemptEnd::Failed);
            attempt.detail = Some(error.to_string());
            attempt.retry_at = retry_at.map(Into::into);
        }
        RunEnd::Cancelled { reason, .. } => {
            attempt.end = Some(AttemptEnd::Cancelled);
            attempt.detail = Some(reason.clone());
        }
        RunEnd::Released { reason } => {
            attempt.end = Some(AttemptEnd::Released);
            attempt.detail = Some(reason.clone());
        }
    }
}

/// Look at a run
///
/// Its attempts and its receipts.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/runs/{run}", operation_id = "get_run", tag = "runs",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("run" = windlass_api::schema::RunId, Path, description = "Its id."),
    ),
    responses((status = 200, description = "The run.", body = RunView))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, run)): Named<(String, String)>,
) -> Result<Json<RunView>, Problem> {
    let session = reach::reach(&state, &principal, &session).await?.id();
    let run: RunId = reach::id(&run, "a run")?;
    let mut piece = Piece::whole(&state, session, before(&state, session, run).await?);
    let (mut fold, mut receipts, mut ended) = (Attempts::default(), Vec::new(), false);
    while !ended && let Some(entries) = piece.next().await? {
        for entry in entries.iter().filter(|entry| names(&entry.record, run)) {
            fold.add(entry);
            receipts.extend(entry.record.receipt().map(|receipt| shown(receipt)));
            ended |= matches!(&entry.record, Record::RunEnded(ended) if is_final(&ended.end));
        }
    }
    let complete = ended || piece.is_over;
    let attempts: Vec<Attempt> = fold.over.into_iter().chain(fold.open).collect();
    if attempts.is_empty() && receipts.is_empty() {
        return Err(absent());
    }
    Ok(Json(RunView { id: run, attempts, receipts, complete, read_to: piece.after.0 }))
}

fn absent() -> Problem {
    Problem::new(Code::NotFound).detail("the session has no such run, or its entries are no longer kept")
}

/// Whether the record is part of a run's story.
fn names(record: &Record, run: RunId) -> bool {
    match record {
        Record::RunStarted(started) => started.run == run,
        Record::RunSteered { run: steered, .. } => *steered == run,
        Record::RunEnded(ended) => ended.run == run,
        record => record.receipt().is_some_and(|receipt| receipt.run_id == run),
    }
}

/// Whether the run never goes on after this end.
const fn is_final(end: &RunEnd) -> bool {
    match end {
        RunEnd::Completed { .. } | RunEnd::Cancelled { .. } => true,
        RunEnd::Failed { retry_at, .. } => retry_at.is_none(),
        RunEnd::Released { .. } => false,
    }
}

/// The position before the entry that started a run. A run's id holds the moment of its start, and moments in a journal
/// never go back, so it is found by halving.
async fn before(state: &AppState, session: SessionId, run: RunId) -> Result<Seq, Problem> {
    let row = state.store().session(session).await?.ok_or_else(reach::no_session)?;
    let time = run.as_uuid().get_timestamp().ok_or_else(absent)?;
    let (seconds, nanos) = time.to_unix();
    let millis = seconds * 1_000 + u64::from(nanos) / 1_000_000;
    let (mut low, mut high) = (Seq::ZERO, row.head);
    // Every entry at or before `low` was decided earlier, or is gone.
    while low < high {
        let middle = Seq(low.0 + (high.0 - low.0) / 2);
        match state.store().read(session, middle, 1).await {
            Ok(entries) => match entries.first() {
                Some(entry) if entry.at.as_millis() < millis => low = middle.next(),
                _ => high = middle,
            },
            Err(StoreError::Pruned { oldest }) => low = oldest.max(middle.next()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(low)
}

/// Look at a receipt
///
/// Works on sessions that are not open, and on entries that are no longer kept.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/runs/{run}/receipts/{sequence}", operation_id = "get_receipt", tag = "runs",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("run" = windlass_api::schema::RunId, Path, description = "Its id."),
        ("sequence" = u64, Path, description = "The receipt's position in the run, from 0.", maximum = 9_007_199_254_740_991_u64),
    ),
    responses((status = 200, description = "The receipt.", body = Receipt))
)]
pub(crate) async fn receipt(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, run, sequence)): Named<(String, String, String)>,
) -> Result<Json<Receipt>, Problem> {
    let session = reach::reach(&state, &principal, &session).await?.id();
    let run: RunId = reach::id(&run, "a run")?;
    let sequence = sequence.parse::<u64>().ok().filter(|sequence| i64::try_from(*sequence).is_ok());
    let sequence =
        sequence.ok_or_else(|| Problem::new(Code::InvalidId).detail("a receipt is named by a number from 0"))?;
    let receipt = state.store().receipt(session, run, sequence).await?;
    let absent = || Problem::new(Code::NotFound).detail("the session has no such receipt");
    let receipt = receipt.ok_or_else(absent)?;
    Ok(Json(shown(&receipt)))
}

fn shown(receipt: &RunBoundaryReceipt) -> Receipt {
    Receipt {
        run: receipt.run_id,
        sequence: receipt.sequence,
        boundary: receipt.boundary,
        inputs: receipt.contributing_input_ids.clone(),
        conversation_digest: receipt.conversation_digest.as_deref().map(str::to_owned),
        message_count: receipt.message_count,
        chain: receipt.chain.to_string(),
    }
}
