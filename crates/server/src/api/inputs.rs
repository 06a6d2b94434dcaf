//! What became of an input, why is it not running, and how does one wait for it?

use super::{Named, PageQuery, admit, cursor::List, page_limit, reach};
use crate::{
    auth::Principal,
    json::StrictQuery,
    limits::WAIT,
    page::Listed,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use windlass_api::{Completion, CompletionStatus, Explanation, InputPhase, InputView, Page, Waited, Withdrawn};
use windlass_core::{
    AbandonReason, Entry, InputId, InputState, Outcome, Record, RunId, Seq, SessionId, TraceContext, WithdrawOutcome,
};
use windlass_runtime::{
    Clock as _, CompletionHandle, CompletionOutcome, SessionHandle, SystemClock,
    store::{InputQuery, InputRef, InputRow, Room, StoreError, json_bytes},
};

/// How long a wait lasts if its caller does not say.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries that are read at once for one page.
const READS: usize = 8;

/// Which inputs to list.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputsQuery {
    /// Only these.
    state: Option<InputPhase>,
    /// At most so many items; large ones make a page shorter.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// Where the page begins: the `next_cursor` of the one before.
    cursor: Option<String>,
}

/// List the inputs of a session
///
/// In the order of their ids.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/inputs", operation_id = "list_inputs", tag = "inputs",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."), InputsQuery),
    responses((status = 200, description = "A page.", body = Page<InputView>))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<InputsQuery>,
) -> Result<Listed<Page<InputView>>, Problem> {
    let limit = page_limit(query.limit)?;
    let session = reach::reach(&state, &principal, &session).await?;
    let phase = query.state.map(|phase| format!("{phase:?}")).unwrap_or_default();
    let of = List::of("/v1/sessions/{session}/inputs", &[&session.id().to_string(), &phase]);
    let after = of.uuids::<1>(query.cursor.as_deref())?.map(|[input]| (session.id(), InputId::from_uuid(input)));
    let wanted = InputQuery {
        session: Some(session.id()),
        open: match query.state {
            Some(InputPhase::Open) => Some(true),
            Some(InputPhase::Done) => Some(false),
            Some(InputPhase::Dead) | None => None,
        },
        dead: query.state == Some(InputPhase::Dead),
        after,
        limit,
        ..InputQuery::default()
    };
    let rows = state.store().inputs(wanted).await?;
    let mut more = rows.len() == limit as usize;
    let active: BTreeMap<InputId, InputState> = if rows.iter().any(|row| row.settled.is_none()) {
        session.active_inputs().await?.into_iter().collect()
    } else {
        BTreeMap::new()
    };
    let views = stream::iter(rows).map(|row| {
        let live = active.get(&row.input).copied();
        view(&state, row, live)
    });
    let (mut views, mut room) = (views.buffered(READS), Room::page(limit));
    let mut items: Vec<InputView> = Vec::new();
    while let Some(view) = views.try_next().await? {
        if !room.takes(json_bytes(&view)) {
            more = true;
            break;
        }
        items.push(view);
    }
    let next_cursor = items.last().filter(|_| more).map(|view| of.cursor(view.id.as_uuid().as_bytes()));
    Ok(Listed(Page { items, next_cursor }))
}

/// List dead letters
///
/// Of all sessions: the inputs whose runs went wrong for good. `redrive` admits one anew.
#[utoipa::path(
    get, path = "/v1/dead-letters", operation_id = "list_dead_letters", tag = "inputs", params(PageQuery),
    responses((status = 200, description = "A page.", body = Page<InputView>))
)]
pub(crate) async fn dead_letters(
    State(state): State<AppState>,
    principal: Principal,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Listed<Page<InputView>>, Problem> {
    let limit = page_limit(query.limit)?;
    let prefix = principal.prefix.as_deref().unwrap_or_default();
    let of = List::of("/v1/dead-letters", &[principal.tenant.as_str(), prefix]);
    let after = of.uuids::<2>(query.cursor.as_deref())?;
    let after = after.map(|[session, input]| (SessionId::from_uuid(session), InputId::from_uuid(input)));
    let wanted =
        InputQuery { tenant: Some(principal.tenant.in_profile()), dead: true, after, limit, ..InputQuery::default() };
    let rows = state.store().inputs(wanted).await?;
    let mut more = rows.len() == limit as usize;
    let (mut items, mut room, mut looked_at) = (Vec::new(), Room::page(limit), None);
    for row in rows {
        let place = [*row.session.as_uuid().as_bytes(), *row.input.as_uuid().as_bytes()];
        if reach::owner(&state, row.session).await?.is_some_and(|owner| owner.shows_to(&principal)) {
            let view = view(&state, row, None).await?;
            if !room.takes(json_bytes(&view)) {
                more = true;
                break;
            }
            items.push(view);
        }
        looked_at = Some(place);
    }
    let next_cursor = looked_at.filter(|_| more).map(|place| of.cursor(&place.concat()));
    Ok(Listed(Page { items, next_cursor }))
}

/// Look at an input
#[utoipa::path(
    get, path = "/v1/sessions/{session}/inputs/{input}", operation_id = "get_input", tag = "inputs",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("input" = windlass_api::schema::InputId, Path, description = "Its id."),
    ),
    responses((status = 200, description = "The input.", body = InputView))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, input)): Named<(String, String)>,
) -> Result<Json<InputView>, Problem> {
    let session = reach::reach(&state, &principal, &session).await?;
    let row = row(&state, &session, reach::id(&input, "an input")?).await?;
    let live = if row.settled.is_none() { session.input_state(row.input).await? } else { None };
    Ok(Json(view(&state, row, live).await?))
}

/// How long to wait.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    /// In seconds.
    #[param(minimum = 0, maximum = 120, default = 30)]
    timeout: Option<u64>,
}

impl WaitQuery {
    pub(super) fn limit(&self) -> Result<Duration, Problem> {
        match self.timeout.map(Duration::from_secs) {
            None => Ok(PATIENCE),
            Some(limit) if limit <= WAIT => Ok(limit),
            Some(_) => {
                let detail = "0 to 120 seconds are taken";
                Err(Problem::new(Code::SchemaViolation).detail(detail).parameter("timeout").limit(WAIT.as_secs()))
            }
        }
    }
}

/// Wait for the end of an input
///
/// 200 with how it ended; 202 without, when the time is up first: ask again. A wait may begin at any time, also after a
/// restart of the server, and after the end.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/inputs/{input}/wait", operation_id = "wait_input", tag = "inputs",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("input" = windlass_api::schema::InputId, Path, description = "Its id."),
        WaitQuery,
    ),
    responses(
        (status = 200, description = "It is over.", body = Waited),
        (status = 202, description = "It is not over yet.", body = Waited),
    )
)]
pub(crate) async fn wait(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, input)): Named<(String, String)>,
    StrictQuery(query): StrictQuery<WaitQuery>,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let session = reach::reach(&state, &principal, &session).await?;
    let input = reach::id(&input, "an input")?;
    let place = state.api().waits.take(&principal)?;
    let completion = session.completion(InputRef::Id(input)).await.map_err(no_input)?;
    let ended = finish(&state, &session, completion, limit).await?;
    drop(place);
    let (status, now, result) = match ended {
        Some((result, now)) => (StatusCode::OK, now, Some(result)),
        None => (StatusCode::ACCEPTED, session.input_state(input).await?.unwrap_or(InputState::Consumed), None),
    };
    Ok((status, Json(Waited { id: input, session: session.id(), state: now, result })).into_response())
}

fn no_input(error: windlass_runtime::WaitError) -> Problem {
    match error {
        windlass_runtime::WaitError::NoSuchInput => absent(),
        windlass_runtime::WaitError::Session(error) => error.into(),
    }
}

fn absent() -> Problem {
    Problem::new(Code::NotFound).detail("the session has no such input")
}

/// Waits for an end, at most so long, and says in which state the input is then. None: it is not over yet.
///
/// A server that shuts down waits for the run that is on, as long as it has; whoever waits for anything else hears
/// `draining`, and asks the next server.
pub(super) async fn finish(
    state: &AppState,
    session: &SessionHandle,
    completion: CompletionHandle,
    limit: Duration,
) -> Result<Option<(Completion, InputState)>, Problem> {
    let input = completion.input();
    let heard = tokio::select! {
        biased;
        heard = completion.wait_full() => heard,
        () = left_waiting(state, session, input) => return Err(draining()),
        () = tokio::time::sleep(limit) => return Ok(None),
    };
    let began = SystemClock.now();
    let (ended, now) = match heard.outcome {
        // Whether that is true of the input, or only of this process, is for the journal to say.
        CompletionOutcome::RuntimeTerminated(_) => {
            let told_of = heard.via.unwrap_or(input);
            match session.outcome(&InputRef::Id(told_of)).await? {
                Some(outcome) => (Completion::from(&outcome), outcome.state()),
                None if state.closing().is_cancelled() => return Err(draining()),
                None => return Ok(None),
            }
        }
        outcome => completion_heard(&outcome, heard.run),
    };
    let now = if heard.via.is_some() { InputState::Coalesced } else { now };
    state.traces().replied(state, session.id(), input, "response", began).await;
    Ok(Some((Completion { by: heard.via.or(ended.by), ..ended }, now)))
}

/// Returns when the server shuts down, unless the input is in the run that is on.
async fn left_waiting(state: &AppState, session: &SessionHandle, input: InputId) {
    state.closing().cancelled().await;
    if let Ok(Some(InputState::Staged | InputState::AppliedPendingConsumption)) = session.input_state(input).await {
        std::future::pending::<()>().await;
    }
}

/// The trace that an input came with.
pub(crate) async fn trace_of(
    state: &AppState,
    session: SessionId,
    input: InputId,
) -> Result<Option<TraceContext>, Problem> {
    let Some(row) = state.store().input(session, &InputRef::Id(input)).await? else { return Ok(None) };
    Ok(match entry(state, session, row.accepted_seq).await?.as_ref().map(|entry| &entry.record) {
        Some(Record::InputAccepted(accepted)) => accepted.input.header.trace,
        _ => None,
    })
}

fn draining() -> Problem {
    Problem::new(Code::Draining)
        .detail("the server is shutting down; wait again when it is back")
        .retry_after(Duration::from_secs(1))
}

/// How an input ended, as a waiter heard it, and the state that it is in then.
fn completion_heard(outcome: &CompletionOutcome, run: Option<RunId>) -> (Completion, InputState) {
    let of = |status| Completion { status, run, ..Completion::default() };
    let ended = match outcome {
        CompletionOutcome::Completed(result) => Completion {
            text: Some(result.text.clone()),
            structured: result.structured.clone(),
            ..of(CompletionStatus::Completed)
        },
        CompletionOutcome::CompletedWithoutResult => of(CompletionStatus::CompletedWithoutResult),
        CompletionOutcome::CallbackPending(tool) => Completion {
            tool_name: Some(tool.tool_name.clone()),
            tool_args: Some(tool.args.clone()),
            ..of(CompletionStatus::CallbackPending)
        },
        CompletionOutcome::Abandoned(reason) => return (reason.into(), InputState::Abandoned),
        CompletionOutcome::Failed { after, error } => {
            Completion { after: Some(*after), error: Some(error.to_string()), ..of(CompletionStatus::Failed) }
        }
        CompletionOutcome::Cancelled { after } => Completion { after: Some(*after), ..of(CompletionStatus::Cancelled) },
        CompletionOutcome::Superseded { by } => {
            return (Completion { by: Some(*by), ..of(CompletionStatus::Superseded) }, InputState::Superseded);
        }
        CompletionOutcome::Forgotten(state) => return (of(CompletionStatus::Forgotten), *state),
        _ => of(CompletionStatus::Forgotten),
    };
    (ended, InputState::Consumed)
}

/// Take back an input that has not started
///
/// Idempotent.
#[utoipa::path(
    delete, path = "/v1/sessions/{session}/inputs/{input}", operation_id = "withdraw_input", tag = "inputs",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("input" = windlass_api::schema::InputId, Path, description = "Its id."),
    ),
    responses(
        (status = 200, description = "It will not run.", body = Withdrawn),
        (status = 409, description = "It has started, or is over.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn withdraw(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, input)): Named<(String, String)>,
) -> Result<Json<Withdrawn>, Problem> {
    let session = reach::reach(&state, &principal, &session).await?;
    let id = reach::id(&input, "an input")?;
    match session.withdraw(id).await? {
        WithdrawOutcome::Withdrawn => Ok(Json(Withdrawn { id, state: InputState::Abandoned })),
        WithdrawOutcome::NotFound => {
            // Forgotten by the session is not unknown to the store.
            let row = row(&state, &session, id).await?;
            too_late(&session, id, row.settled.unwrap_or(InputState::Consumed)).await
        }
        WithdrawOutcome::TooLate { state } => too_late(&session, id, state).await,
    }
}

/// One that was withdrawn before is withdrawn; any other is beyond it.
async fn too_late(session: &SessionHandle, id: InputId, state: InputState) -> Result<Json<Withdrawn>, Problem> {
    let outcome = if state == InputState::Abandoned { session.outcome(&InputRef::Id(id)).await? } else { None };
    if outcome == Some(Outcome::Abandoned { reason: AbandonReason::Withdrawn }) {
        return Ok(Json(Withdrawn { id, state }));
    }
    let what = if state.is_terminal() { "is over" } else { "has started; interrupt its run instead" };
    Err(Problem::new(Code::SessionStateConflict).detail(format!("the input {what}")))
}

/// Say why an input is not running
///
/// Exactly one cause; of one that is over, how it ended.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/inputs/{input}/explain", operation_id = "explain_input", tag = "inputs",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("input" = windlass_api::schema::InputId, Path, description = "Its id."),
    ),
    responses((status = 200, description = "Why.", body = Explanation))
)]
pub(crate) async fn explain(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, input)): Named<(String, String)>,
) -> Result<Json<Explanation>, Problem> {
    let session = reach::reach(&state, &principal, &session).await?;
    let id: InputId = reach::id(&input, "an input")?;
    let explained = session.explain(id).await?;
    if let Some(explanation) = Explanation::of_open(explained) {
        return Ok(Json(explanation));
    }
    let row = row(&state, &session, id).await?;
    let view = view(&state, row, None).await?;
    Ok(Json(Explanation::of_settled(id, view.state, view.decision, view.policy_row, view.result)))
}

/// Admit a dead letter anew
///
/// As a new input, without the key of the old one. Redriving twice admits once.
#[utoipa::path(
    post, path = "/v1/sessions/{session}/inputs/{input}/redrive", operation_id = "redrive_input", tag = "inputs",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("input" = windlass_api::schema::InputId, Path, description = "Its id."),
    ),
    responses(
        (status = 202, description = "The new input.", body = windlass_api::Admitted, headers(("Location" = String, description = "Where the new input is."))),
        (status = 409, description = "It is no dead letter, or the session refuses it.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn redrive(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, input)): Named<(String, String)>,
) -> Result<Response, Problem> {
    let session = reach::reach(&state, &principal, &session).await?;
    let row = row(&state, &session, reach::id(&input, "an input")?).await?;
    let (outcome, _) = session.redrive(row.input).await?;
    Ok(admit::answer(&admit::admitted(&session, outcome)?, None))
}

async fn row(state: &AppState, session: &SessionHandle, input: InputId) -> Result<InputRow, Problem> {
    let row = state.store().input(session.id(), &InputRef::Id(input)).await?;
    row.ok_or_else(absent)
}

/// An input as its entries tell of it; `live` is where it is, if it is open.
async fn view(state: &AppState, row: InputRow, live: Option<InputState>) -> Result<InputView, Problem> {
    let mut view = InputView {
        id: row.input,
        session: row.session,
        state: row.settled.or(live).unwrap_or(InputState::Queued),
        dead: row.dead,
        seq: row.accepted_seq.0,
        kind: None,
        accepted_at: None,
        source: None,
        body: None,
        idempotency_key: None,
        supersession_key: None,
        correlation_id: None,
        traceparent: None,
        decision: None,
        policy_row: None,
        redrive_of: None,
        settled_at: None,
        result: None,
    };
    if let Some(entry) = entry(state, row.session, row.accepted_seq).await?
        && let Record::InputAccepted(accepted) = &entry.record
    {
        let header = &accepted.input.header;
        let mut body = serde_json::to_value(&accepted.input.body).map_err(Problem::internal)?;
        if let Some(fields) = body.as_object_mut() {
            fields.remove("input_type");
        }
        view.kind = Some(accepted.input.kind());
        view.accepted_at = Some(entry.at.into());
        view.source = Some(serde_json::to_value(&header.source).map_err(Problem::internal)?);
        view.body = Some(body).filter(Value::is_object);
        view.idempotency_key = header.idempotency_key.as_ref().map(|key| key.as_str().to_owned());
        view.supersession_key = header.supersession_key.as_ref().map(|key| key.as_str().to_owned());
        view.correlation_id = header.correlation_id;
        view.traceparent = header.trace;
        view.decision = Some(accepted.decision.clone());
        view.policy_row = accepted.policy_row;
        view.redrive_of = accepted.redrive_of;
    }
    if let (Some(settled), Some(seq)) = (row.settled, row.settled_seq) {
        let ended = entry(state, row.session, seq).await?;
        view.settled_at = ended.as_ref().map(|entry| entry.at.into());
        let outcome = ended.and_then(|entry| entry.record.outcome_of(row.input, settled));
        view.result = Some(outcome.as_ref().map_or_else(Completion::forgotten, Completion::from));
    }
    Ok(view)
}

/// One entry of a journal; none if it is no longer kept.
async fn entry(state: &AppState, session: SessionId, seq: Seq) -> Result<Option<Arc<Entry>>, Problem> {
    match state.store().read(session, Seq(seq.0.saturating_sub(1)), 1).await {
        Ok(entries) => Ok(entries.into_iter().next().filter(|entry| entry.seq == seq)),
        Err(StoreError::Pruned { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
