//! How do producers outside report background work over HTTP, and how does one wait for it?

use super::{Named, PageQuery, check, cursor::List, inputs::WaitQuery, page_limit, reach};
use crate::{
    auth::Principal,
    json::{StrictJson, StrictQuery},
    page::Listed,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;
use windlass_api::{
    CancelOperation, CompleteOperation, FailOperation, OperationView, OperationWaited, Page, ProgressOperation,
    RegisterOperation,
};
use windlass_core::{
    Operation, OperationId, OperationProgressUpdate, OperationResult, OperationSpec, OpsLifecycleError, SessionId,
};
use windlass_runtime::{
    OpsError, OpsLifecycleRegistry,
    store::{Room, json_bytes},
};

/// List the operations of a session
///
/// Those that are under way or still kept, in the order of their ids.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/operations", operation_id = "list_operations", tag = "operations",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."), PageQuery),
    responses((status = 200, description = "A page.", body = Page<OperationView>))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Listed<Page<OperationView>>, Problem> {
    let mut room = Room::page(page_limit(query.limit)?);
    let session = reach::reach(&state, &principal, &session).await?;
    let of = List::of("/v1/sessions/{session}/operations", &[&session.id().to_string()]);
    let after = of.uuids::<1>(query.cursor.as_deref())?.map(|[id]| OperationId::from_uuid(id));
    let mut operations = session.operations().list_operations().await?;
    operations.retain(|operation| after.is_none_or(|after| operation.spec.id > after));
    operations.sort_by_key(|operation| operation.spec.id);
    let views = operations.iter().map(|operation| shown(session.id(), operation));
    let items: Vec<OperationView> = views.take_while(|view| room.takes(json_bytes(view))).collect();
    let more = items.len() < operations.len();
    let next_cursor = items.last().filter(|_| more).map(|last| of.cursor(last.id.as_uuid().as_bytes()));
    Ok(Listed(Page { items, next_cursor }))
}

/// Register background work
///
/// It runs from now on; its end is told to the session. A producer that is not heard of for a minute after a restart of
/// the server loses it, unless it reports within that time.
#[utoipa::path(
    post, path = "/v1/sessions/{session}/operations", operation_id = "register_operation", tag = "operations",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name.")),
    request_body = RegisterOperation,
    responses(
        (status = 201, description = "Registered.", body = OperationView, headers(("Location" = String, description = "Where it is."))),
        (status = 409, description = "The id is taken, or the session takes no new work.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn register(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictJson(new): StrictJson<RegisterOperation>,
) -> Result<Response, Problem> {
    check::length("/display_name", &new.display_name, 1, check::NAME)?;
    let source_label = new.source_label.unwrap_or_else(|| "http".to_owned());
    check::length("/source_label", &source_label, 0, check::NAME)?;
    let session = reach::reach(&state, &principal, &session).await?;
    let id = new.id.unwrap_or_else(|| OperationId::from_uuid(Uuid::now_v7()));
    let spec = OperationSpec {
        id,
        kind: new.kind,
        display_name: new.display_name,
        source_label,
        child_session_id: new.child_session_id,
        expect_peer_channel: false,
        // Its producer lives elsewhere, and is not gone when this process is.
        adoptable: true,
    };
    let operations = session.operations();
    operations.register_running(spec).await?;
    let operation = operations.snapshot(id).await?;
    let location = format!("/v1/sessions/{}/operations/{id}", session.id());
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(shown(session.id(), &operation))).into_response())
}

/// Look at an operation
#[utoipa::path(
    get, path = "/v1/sessions/{session}/operations/{operation}", operation_id = "get_operation", tag = "operations",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("operation" = windlass_api::schema::OperationId, Path, description = "Its id."),
    ),
    responses((status = 200, description = "The operation.", body = OperationView))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, operation)): Named<(String, String)>,
) -> Result<Json<OperationView>, Problem> {
    let (session, operations, id) = named(&state, &principal, &session, &operation).await?;
    Ok(Json(shown(session, &operations.snapshot(id).await?)))
}

/// Wait for the end of an operation
///
/// 200 when it is over; 202 when the time is up first: ask again.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/operations/{operation}/wait", operation_id = "wait_operation", tag = "operations",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("operation" = windlass_api::schema::OperationId, Path, description = "Its id."),
        WaitQuery,
    ),
    responses(
        (status = 200, description = "It is over.", body = OperationWaited),
        (status = 202, description = "It is not over yet.", body = OperationWaited),
    )
)]
pub(crate) async fn wait(
    State(state): State<AppState>,
    principal: Principal,
    Named((session, operation)): Named<(String, String)>,
    StrictQuery(query): StrictQuery<WaitQuery>,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let (_, operations, id) = named(&state, &principal, &session, &operation).await?;
    let place = state.api().waits.take(&principal)?;
    let ended = tokio::select! {
        biased;
        ended = operations.watch(id) => Some(ended?),
        () = state.closing().cancelled() => {
            let draining = Problem::new(Code::Draining).detail("the server is shutting down; wait again when it is back");
            return Err(draining.retry_after(Duration::from_secs(1)));
        }
        () = tokio::time::sleep(limit) => None,
    };
    drop(place);
    Ok(match ended {
        Some(outcome) => {
            let detail = Some(outcome.detail().to_owned()).filter(|detail| !detail.is_empty());
            (StatusCode::OK, Json(OperationWaited { id, status: outcome.status(), detail })).into_response()
        }
        None => {
            let status = operations.snapshot(id).await?.status;
            (StatusCode::ACCEPTED, Json(OperationWaited { id, status, detail: None })).into_response()
        }
    })
}

async fn named(
    state: &AppState,
    principal: &Principal,
    session: &str,
    operation: &str,
) -> Result<(SessionId, OpsLifecycleRegistry, OperationId), Problem> {
    let session = reach::reach(state, principal, session).await?;
    Ok((session.id(), session.operations(), reach::id(operation, "an operation")?))
}

/// Takes the work over if its producer was last heard through another life of the server, which is no change to a
/// producer outside.
async fn heard(operations: &OpsLifecycleRegistry, id: OperationId) -> Result<(), Problem> {
    let operation = operations.snapshot(id).await?;
    if operation.orphaned_until.is_none() {
        return Ok(());
    }
    match operations.adopt(id).await {
        // Another request was faster.
        Ok(()) | Err(OpsError::Refused(OpsLifecycleError::NotAdoptable { .. })) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

macro_rules! reports {
    ($($(#[doc = $doc:literal])* $name:ident($body:ident: $type:ty), $path:literal, $id:literal => |$operations:ident, $op:ident| $report:expr;)+) => {$(
        $(#[doc = $doc])*
        #[utoipa::path(
            post, path = $path, operation_id = $id, tag = "operations",
            params(
                ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
                ("operation" = windlass_api::schema::OperationId, Path, description = "Its id."),
            ),
            request_body = $type,
            responses(
                (status = 200, description = "The operation as it is now.", body = OperationView),
                (status = 409, description = "It is over, or not so far.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
            )
        )]
        pub(crate) async fn $name(
            State(state): State<AppState>,
            principal: Principal,
            Named((session, operation)): Named<(String, String)>,
            StrictJson($body): StrictJson<$type>,
        ) -> Result<Json<OperationView>, Problem> {
            let (session, $operations, $op) = named(&state, &principal, &session, &operation).await?;
            heard(&$operations, $op).await?;
            $report?;
            Ok(Json(shown(session, &$operations.snapshot($op).await?)))
        }
    )+};
}

reports! {
    /// Report that an operation ended well
    complete(body: CompleteOperation), "/v1/sessions/{session}/operations/{operation}/complete", "complete_operation" => |operations, id| {
        let CompleteOperation { content, is_error, duration_ms, tokens_used } = body;
        operations.complete_operation(id, OperationResult { content, is_error, duration_ms, tokens_used }).await
    };
    /// Report that an operation ended badly
    fail(body: FailOperation), "/v1/sessions/{session}/operations/{operation}/fail", "fail_operation" => |operations, id| {
        operations.fail_operation(id, body.error).await
    };
    /// Report how far an operation is
    ///
    /// The last few reports are kept.
    progress(body: ProgressOperation), "/v1/sessions/{session}/operations/{operation}/progress", "progress_operation" => |operations, id| {
        if body.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            return Err(Problem::at(Code::SchemaViolation, "/percent".into(), "0 to 100 is taken"));
        }
        let update = OperationProgressUpdate { message: body.message, percent: body.percent };
        operations.report_progress(id, update).await
    };
    /// Report that an operation is called off
    cancel(body: CancelOperation), "/v1/sessions/{session}/operations/{operation}/cancel", "cancel_operation" => |operations, id| {
        operations.cancel_operation(id, body.reason).await
    };
}

fn shown(session: SessionId, operation: &Operation) -> OperationView {
    let Operation {
        spec, status, progress_count, progress, created_at, started_at, completion, orphaned_until, ..
    } = operation;
    let spec: &OperationSpec = spec;
    let detail = completion.as_ref().map(|completion| completion.terminal_outcome.detail().to_owned());
    OperationView {
        id: spec.id,
        session,
        kind: spec.kind,
        display_name: spec.display_name.clone(),
        source_label: spec.source_label.clone(),
        child_session_id: spec.child_session_id,
        status: *status,
        progress_count: *progress_count,
        progress: progress.clone(),
        created_at: (*created_at).into(),
        started_at: started_at.map(Into::into),
        ended_at: completion.as_ref().map(|completion: &Arc<_>| completion.completed_at.into()),
        detail: detail.filter(|detail| !detail.is_empty()),
        completion: completion.as_ref().map(|completion| completion.seq.0),
        orphaned_until: orphaned_until.map(Into::into),
    }
}
