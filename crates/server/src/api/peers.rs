//! How does a session write to another one of this server?
//!
//! What is said is classified and becomes an input by the rules of the runtime's comms, and is admitted before the
//! sender is answered: there is no inbox in between that a crash could empty.

use super::{Named, PageQuery, check, cursor::List, page_limit, reach};
use crate::{
    auth::Principal,
    json::{StrictJson, StrictQuery},
    problem::{Code, Problem},
    state::AppState,
};
use axum::{Json, extract::State, http::StatusCode};
use serde_json::Value;
use uuid::Uuid;
use windlass_api::{NewPeerMessage, Page, PeerMessageKind, PeerMessageSent, PeerView};
use windlass_core::{AcceptOutcome, Gate, InputId, SessionId};
use windlass_runtime::{
    Clock as _, SystemClock,
    comms::{ChainId, Envelope, EnvelopeBody, EnvelopeId, Ingress, PeerName, SenderNames, input_of},
    store::ListQuery,
};

/// List the peers of a session
///
/// The other sessions that may be written to: those with a name are called by it, the others by their ids.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/peers", operation_id = "list_peers", tag = "peers",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."), PageQuery),
    responses((status = 200, description = "A page.", body = Page<PeerView>))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Json<Page<PeerView>>, Problem> {
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
        name: row.status.profile.name.as_deref().map_or_else(|| row.session.to_string(), str::to_owned),
        reachable: row.status.gate == Gate::Open,
    });
    Ok(Json(Page { items: items.collect(), next_cursor }))
}

/// Write to a peer
///
/// In the name of the session in the path. When this answers, the peer's session has it on disk.
#[utoipa::path(
    post, path = "/v1/sessions/{session}/peers/messages", operation_id = "send_peer_message", tag = "peers",
    params(("session" = windlass_api::schema::SessionName, Path, description = "The id or name of the sender.")),
    request_body(content = NewPeerMessage, example = json!({"to": "reviewer", "body": "please look at the draft"})),
    responses(
        (status = 202, description = "The peer has it.", body = PeerMessageSent),
        (status = 404, description = "There is no such session or peer.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The peer takes nothing.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn send(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictJson(new): StrictJson<NewPeerMessage>,
) -> Result<(StatusCode, Json<PeerMessageSent>), Problem> {
    check::name("/to", &new.to)?;
    let longest = if new.kind == PeerMessageKind::Request { 64 } else { usize::MAX };
    check::length("/body", &new.body, 1, longest)?;
    let sender = reach::reach(&state, &principal, &session).await?;
    let unknown = || Problem::new(Code::PeerUnknown).detail("there is no such peer; ask for the list of peers");
    let (to, _) = reach::session_of(&principal, &new.to).map_err(|_| unknown())?;
    let receiver = reach::find(&state, &principal, to).await?.ok_or_else(unknown)?;
    let body = match new.kind {
        PeerMessageKind::Message if !new.params.is_null() => {
            return Err(Problem::at(Code::SchemaViolation, "/params".into(), "goes with a request only"));
        }
        PeerMessageKind::Message if new.body.trim().eq_ignore_ascii_case("DISMISS") => {
            return Err(Problem::at(
                Code::SchemaViolation,
                "/body".into(),
                "this word alone dismisses a session; stop it instead",
            ));
        }
        PeerMessageKind::Message => {
            EnvelopeBody::Message { body: new.body, blocks: None, handling_mode: new.handling_mode }
        }
        PeerMessageKind::Request => {
            EnvelopeBody::Request { intent: new.body, params: object(new.params)?, handling_mode: new.handling_mode }
        }
    };
    let from = sender.profile().await?.name.as_deref().map_or_else(|| sender.id().to_string(), str::to_owned);
    let peer_name = |text: &str| PeerName::new(text).map_err(|error| Problem::internal(error.to_string()));
    let (from_key, from) = (peer_name(&sender.id().to_string())?, peer_name(&from)?);
    let id = EnvelopeId(Uuid::now_v7());
    let envelope = Envelope { id, from: from_key, to: peer_name(&new.to)?, chain: ChainId::new(), hops: 0, body };
    let runtime_id = sender.id().to_string();
    let names = SenderNames { trusted: Some(&from), registered: None, runtime_id: Some(&runtime_id) };
    let candidate =
        Ingress::default().classify(&envelope, names).map_err(|error| Problem::internal(error.to_string()))?;
    let input = input_of(&candidate, InputId::from_uuid(Uuid::now_v7()), SystemClock.now());
    let input = input.ok_or_else(|| Problem::internal("a dismissal was let through"))?;
    state.api().quota.input(&state, &principal.tenant).await?;
    match receiver.accept(input).await? {
        AcceptOutcome::Rejected { reason } => Err(reason.into()),
        _ => Ok((StatusCode::ACCEPTED, Json(PeerMessageSent { id: id.0, kind: new.kind }))),
    }
}

/// The details of a request: an object, or nothing.
fn object(params: Value) -> Result<Value, Problem> {
    match params {
        Value::Null | Value::Object(_) => Ok(params),
        _ => Err(Problem::at(Code::SchemaViolation, "/params".into(), "an object is wanted")),
    }
}
