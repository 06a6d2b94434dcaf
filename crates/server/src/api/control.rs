//! How is a session controlled over HTTP?

use super::{Named, check, reach};
use crate::{auth::Principal, json::StrictJson, problem::Problem, state::AppState};
use axum::{
    Json,
    extract::{FromRequest, Request, State},
};
use http::header;
use http_body::Body as _;
use serde::de::DeserializeOwned;
use windlass_api::{ControlReport, Interrupt, InterruptOutcome, Interrupted, Reset};
use windlass_core::CancelOutcome;

/// A body that may be left out.
pub(crate) struct Maybe<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Maybe<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let absent = request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_TYPE);
        if absent {
            return Ok(Maybe(T::default()));
        }
        StrictJson::from_request(request, state).await.map(|StrictJson(body)| Maybe(body))
    }
}

/// Cancel a run
///
/// The one that is on, or the one that is named. After `cancelled` no further boundary of it commits.
#[utoipa::path(
    post, path = "/v1/sessions/{session}/interrupt", operation_id = "interrupt_session", tag = "control",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name.")),
    request_body(content = Option<Interrupt>, example = json!({"reason": "not what was meant", "disposition": "drop"})),
    responses((status = 200, description = "What became of it.", body = Interrupted))
)]
pub(crate) async fn interrupt(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    Maybe(body): Maybe<Interrupt>,
) -> Result<Json<Interrupted>, Problem> {
    let reason = body.reason.as_deref().unwrap_or("interrupted");
    check::length("/reason", reason, 0, 256)?;
    let session = reach::reach(&state, &principal, &session).await?;
    Ok(Json(match session.cancel(body.run, reason, body.disposition).await? {
        CancelOutcome::Cancelled { run, last_committed } => {
            Interrupted { outcome: InterruptOutcome::Cancelled, run: Some(run), last_committed }
        }
        CancelOutcome::TooLate { run } => {
            Interrupted { outcome: InterruptOutcome::TooLate, run: Some(run), last_committed: None }
        }
        CancelOutcome::NoSuchRun => {
            Interrupted { outcome: InterruptOutcome::NoSuchRun, run: None, last_committed: None }
        }
    }))
}

/// Empty a session
///
/// Inputs are abandoned, operations end, and the gate opens. Refused while a run is on, unless `force` is set.
#[utoipa::path(
    post, path = "/v1/sessions/{session}/reset", operation_id = "reset_session", tag = "control",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name.")),
    request_body(content = Option<Reset>, example = json!({"force": true})),
    responses(
        (status = 200, description = "What was done.", body = ControlReport),
        (status = 409, description = "The state of the session does not allow it.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn reset(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    Maybe(body): Maybe<Reset>,
) -> Result<Json<ControlReport>, Problem> {
    let session = reach::reach(&state, &principal, &session).await?;
    let report = session.reset(body.force).await?;
    told(&session, report).await
}

async fn told(
    session: &windlass_runtime::SessionHandle,
    report: windlass_core::ControlReport,
) -> Result<Json<ControlReport>, Problem> {
    Ok(Json(ControlReport {
        state: session.state().await?,
        inputs_abandoned: report.inputs_abandoned,
        inputs_pending_drain: report.inputs_pending_drain,
        inputs_transferred: report.inputs_transferred,
    }))
}

macro_rules! verbs {
    ($($(#[doc = $doc:literal])* $verb:ident, $path:literal, $id:literal;)+) => {$(
        $(#[doc = $doc])*
        #[utoipa::path(
            post, path = $path, operation_id = $id, tag = "control",
            params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name.")),
            responses(
                (status = 200, description = "What was done.", body = ControlReport),
                (status = 409, description = "The state of the session does not allow it.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
            )
        )]
        pub(crate) async fn $verb(
            State(state): State<AppState>,
            principal: Principal,
            Named(session): Named<String>,
        ) -> Result<Json<ControlReport>, Problem> {
            let session = reach::reach(&state, &principal, &session).await?;
            let report = session.$verb().await?;
            told(&session, report).await
        }
    )+};
}

verbs! {
    /// Stop a session
    ///
    /// Cancels what runs, abandons what waits, and does nothing until the session is created again, which revives it.
    stop, "/v1/sessions/{session}/stop", "stop_session";
    /// Hold a session
    ///
    /// Keeps inputs and does not run them. A run that is on goes on.
    hold, "/v1/sessions/{session}/hold", "hold_session";
    /// Release a held session
    ///
    /// Runs inputs again.
    release, "/v1/sessions/{session}/release", "release_session";
    /// Retire a session
    ///
    /// Takes nothing new and runs what is there.
    retire, "/v1/sessions/{session}/retire", "retire_session";
    /// Recycle a session
    ///
    /// Keeps everything and makes it due.
    recycle, "/v1/sessions/{session}/recycle", "recycle_session";
    /// Check a session against its journal
    ///
    /// Reads the journal again and compares. Repairs nothing, because there is nothing to repair but a bug.
    recover, "/v1/sessions/{session}/recover", "recover_session";
    /// Destroy a session
    ///
    /// As stop, for ever. Its journal stays until the session is deleted.
    destroy, "/v1/sessions/{session}/destroy", "destroy_session";
}
