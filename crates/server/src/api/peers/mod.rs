//! How does a session write to another one over HTTP?

pub(crate) mod carry;
pub(crate) mod remote;

use super::{
    Named, PageQuery, check,
    cursor::List,
    headers, page_limit,
    reach::{self, Owner},
};
use crate::{
    auth::Principal,
    json::{StrictJson, StrictQuery},
    page::Listed,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{Json, extract::State};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use windlass_api::{
    NewPeerMessage, PeerMessageKind as Kind, PeerMessageSent, PeerPage, PeerResponseStatus as Status, PeerView,
};
use windlass_core::{Gate, SessionId};
use windlass_runtime::{
    comms::{CommsCommand, EnvelopeBody, EnvelopeId, PeerName, ResponseStatus, SendReceipt},
    store::ListQuery,
};

/// List the peers of a session
///
/// The other sessions that may be written to: those with a name are called by it, the others by their ids. Those of other
/// servers are not listed, but the servers are: a session there is called `SESSION@SERVER`.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/peers", operation_id = "list_peers", tag = "peers",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."), PageQuery),
    responses((status = 200, description = "A page.", body = PeerPage))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Listed<PeerPage>, Problem> {
    let limit = page_limit(query.limit)?;
    let session = reach::reach(&state, &principal, &session).await?.id();
    let of = List::of("/v1/sessions/{session}/peers", &[&session.to_string()]);
    let after = of.uuids::<1>(query.cursor.as_deref())?.map(|[id]| SessionId::from_uuid(id));
    let tenant = Some(principal.tenant.in_profile());
    let rows = state.store().list(ListQuery { tenant, after, limit, ..ListQuery::default() }).await?;
    let more = rows.len() == limit as usize;
    let next_cursor = rows.last().filter(|_| more).map(|row| of.cursor(row.session.as_uuid().as_bytes()));
    let others =
        rows.into_iter().filter(|row| row.session != session && principal.may_name(row.status.profile.name.as_deref()));
    let items = others.map(|row| PeerView {
        name: Owner::of(&row.status.profile).called(row.session).to_string(),
        reachable: row.status.gate == Gate::Open,
    });
    let servers = state.api().remotes.names(&principal.tenant);
    Ok(Listed(PeerPage { items: items.collect(), next_cursor, servers }))
}

/// Write to a peer
///
/// In the name of the session in the path, which has it on disk when this answers, and sees to it that it arrives. A
/// request gets one terminal response: the peer's, or a failed one if it does not answer within five minutes. A retry
/// under the same `Idempotency-Key` hears the first answer.
#[utoipa::path(
    post, path = "/v1/sessions/{session}/peers/messages", operation_id = "send_peer_message", tag = "peers",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "The id or name of the sender."),
        ("Idempotency-Key" = Option<windlass_api::schema::Key>, Header, description = "Makes a retry recognisable: 1 to 255 visible ASCII characters, bare or quoted."),
    ),
    request_body(content = NewPeerMessage, example = json!({"to": "reviewer", "body": "please look at the draft"})),
    responses(
        (status = 202, description = "It is on its way.", body = PeerMessageSent),
        (status = 404, description = "There is no such session or peer.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The peer takes nothing, or the request does not wait for an answer of this session.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
        (status = 422, description = "It is not well formed, or its key was used for something else.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn send(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    headers: HeaderMap,
    StrictJson(new): StrictJson<NewPeerMessage>,
) -> Result<(StatusCode, Json<PeerMessageSent>), Problem> {
    let key = headers::idempotency_key(&headers)?;
    check::name("/to", &new.to)?;
    let sender = reach::reach(&state, &principal, &session).await?;
    if !may_write_to(&state, &principal, &new.to).await? {
        return Err(unknown());
    }
    let (to, kind) = (PeerName::new(new.to.as_str()).map_err(|_| unknown())?, new.kind);
    let mut command = CommsCommand::Peer { to, body: body(new)?, causes: Vec::new(), id: None };
    if let Some(key) = key {
        // A session of the same name that is made anew has said nothing yet.
        let born = sender.status().await?.created_at.as_micros();
        command = command.under(EnvelopeId::of_key(sender.id(), &format!("idempotency-key {born} {}", key.as_str())));
    }
    let (id, delivered) = match carry::send(&state, sender.id(), command).await? {
        SendReceipt::PeerMessageSent { envelope_id: id, acked }
        | SendReceipt::PeerRequestSent { request_id: id, acked }
        | SendReceipt::PeerResponseSent { envelope_id: id, acked, .. } => (id, acked),
        SendReceipt::InputAccepted { .. } => return Err(Problem::internal("what is sent to a peer became an input")),
    };
    Ok((StatusCode::ACCEPTED, Json(PeerMessageSent { id: id.0, kind, delivered })))
}

/// Whether the caller's token reaches a peer: it may be bound to names that begin alike, and an id says no name.
async fn may_write_to(state: &AppState, principal: &Principal, to: &str) -> Result<bool, Problem> {
    if principal.prefix.is_none() {
        return Ok(true);
    }
    match reach::session_of(principal, to) {
        Ok((id, None)) => Ok(reach::owner(state, id).await?.is_some_and(|owner| owner.shows_to(principal))),
        _ => Ok(principal.may_name(Some(to))),
    }
}

fn unknown() -> Problem {
    Problem::new(Code::PeerUnknown).detail("there is no such peer; ask for the list of peers")
}

/// What is said, as envelopes carry it.
fn body(new: NewPeerMessage) -> Result<EnvelopeBody, Problem> {
    let NewPeerMessage { to: _, kind, body, params, in_reply_to, status, handling_mode } = new;
    check::length("/body", &body, 1, if kind == Kind::Request { 64 } else { usize::MAX })?;
    for (field, is_there, goes_with) in [
        ("/params", !params.is_null(), Kind::Request),
        ("/in_reply_to", in_reply_to.is_some(), Kind::Response),
        ("/status", status.is_some(), Kind::Response),
    ] {
        if is_there && kind != goes_with {
            let kind = if goes_with == Kind::Request { "request" } else { "response" };
            return Err(Problem::at(Code::SchemaViolation, field.into(), &format!("goes with a {kind} only")));
        }
    }
    Ok(match kind {
        Kind::Message if body.trim().eq_ignore_ascii_case("DISMISS") => {
            let detail = "this word alone dismisses a session; stop it instead";
            return Err(Problem::at(Code::SchemaViolation, "/body".into(), detail));
        }
        Kind::Message => EnvelopeBody::Message { body, blocks: None, handling_mode },
        Kind::Request => EnvelopeBody::Request { intent: body, params: object(params)?, handling_mode },
        Kind::Response => {
            let missing = || Problem::at(Code::SchemaViolation, "/in_reply_to".into(), "the request's id is wanted");
            let status = match status {
                Some(Status::Accepted) => ResponseStatus::Accepted,
                Some(Status::Completed) | None => ResponseStatus::Completed,
                Some(Status::Failed) => ResponseStatus::Failed,
            };
            let in_reply_to = EnvelopeId(in_reply_to.ok_or_else(missing)?);
            EnvelopeBody::Response { in_reply_to, status, result: Value::String(body), handling_mode }
        }
    })
}

/// The details of a request: an object, or nothing.
fn object(params: Value) -> Result<Value, Problem> {
    match params {
        Value::Null | Value::Object(_) => Ok(params),
        _ => Err(Problem::at(Code::SchemaViolation, "/params".into(), "an object is wanted")),
    }
}
