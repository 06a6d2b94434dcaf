//! How is a session made, found, changed and forgotten over HTTP?

use super::{
    Named, check,
    cursor::List,
    page_limit, policy_book,
    reach::{self, Owner},
};
use crate::{
    auth::{Principal, Scope},
    json::{StrictJson, StrictQuery},
    page::Listed,
    problem::{Code, Problem},
    shape,
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;
use windlass_api::{CreateSession, Page, SessionView, UpdateSession};
use windlass_core::{BlobId, ControlRefused, Gate, Limits, Profile, ProfileChange, RuntimeState, SessionId};
use windlass_runtime::{
    NewSession, SessionHandle,
    store::{ListQuery, SessionRow},
};

/// The most labels that a list is asked by.
const LABELS: usize = 64;
/// The longest value of a label, in characters.
const LABEL: usize = 64;
/// The longest intent, in characters.
const INTENT: usize = 64;
/// Rows that are looked at for one page, where a token sees only some of them.
const LOOKED_AT: u32 = 1_000;

/// Create a session, or find that it is there
///
/// Idempotent: with the same `id` or `name` and the same settings it answers 200. A stopped session is revived by it.
#[utoipa::path(
    post, path = "/v1/sessions", operation_id = "create_session", tag = "sessions", request_body = CreateSession,
    responses(
        (status = 201, description = "Created.", body = SessionView, headers(("Location" = String, description = "Where it is."))),
        (status = 200, description = "It was there, with the same settings.", body = SessionView),
        (status = 409, description = "It is there with other settings, or destroyed.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    principal: Principal,
    StrictJson(new): StrictJson<CreateSession>,
) -> Result<Response, Problem> {
    if new.id.is_some() && new.name.is_some() {
        return Err(Problem::at(
            Code::SchemaViolation,
            "/id".into(),
            "a session with a name has its id from it; leave one out",
        ));
    }
    let tenant = principal.tenant.in_profile();
    let id = match (&new.id, &new.name) {
        (Some(id), _) => *id,
        (None, Some(name)) if windlass_api::is_session_name(name) => windlass_api::session_id(tenant.as_deref(), name),
        (None, Some(_)) => {
            let detail = "1 to 64 of A-Z a-z 0-9 _ -, and no UUID, are taken";
            return Err(Problem::at(Code::SchemaViolation, "/name".into(), detail));
        }
        (None, None) => SessionId::from_uuid(Uuid::now_v7()),
    };
    let wanted = settings(&state, &principal, new)?;
    let (session, created) = make(&state, &principal, id, wanted.clone()).await?;
    let mut view = session.status().await?;
    if !created {
        let there = NewSession {
            agent: view.agent.clone(),
            profile: view.profile.clone(),
            silent_intents: view.silent_intents.clone(),
        };
        if there != wanted {
            return Err(Problem::new(Code::SettingsConflict)
                .detail("the session is there with other settings; change them by PATCH, or choose another name"));
        }
        if view.gate == Gate::Stopped {
            view = state.adapter().register_session(id).await?.status().await?;
        }
    }
    let location = format!("/v1/sessions/{id}");
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(header::LOCATION, location)], Json(shown(&principal, id, view))).into_response())
}

/// What a request asks for, as the runtime takes it.
fn settings(state: &AppState, principal: &Principal, new: CreateSession) -> Result<NewSession, Problem> {
    if !principal.may_name(new.name.as_deref()) {
        return Err(Problem::new(Code::ForbiddenScope).detail("the token makes sessions of its own prefix only"));
    }
    if let Some(agent) = &new.agent {
        known_agent(state, agent, "/agent")?;
    }
    let profile = Profile {
        tenant: principal.tenant.in_profile(),
        name: new.name.map(Arc::from),
        labels: labels(new.labels)?,
        keep_alive: new.keep_alive,
        policy: policy(state, principal, new.policy.as_deref())?,
    };
    Ok(NewSession { agent: new.agent.map(Arc::from), profile, silent_intents: intents(new.silent_intents)? })
}

/// Makes a session with these settings, unless it is there; tells whether it was made.
pub(super) async fn make(
    state: &AppState,
    principal: &Principal,
    id: SessionId,
    new: NewSession,
) -> Result<(SessionHandle, bool), Problem> {
    // Whose it is stays unsaid.
    let taken = || Problem::new(Code::SettingsConflict).detail("this id cannot be used; leave it out to get a new one");
    if let Some(session) = reach::find(state, principal, id).await? {
        return Ok((session, false));
    }
    // An id of version 8 is the hash of a name, maybe of one in another tenant: only that name makes it.
    let of_a_name = id.as_uuid().get_version_num() == 8;
    if (of_a_name && new.profile.name.is_none()) || reach::owner(state, id).await?.is_some() {
        return Err(taken());
    }
    state.api().quota.session(state, &principal.tenant).await?;
    let (owner, age) = (Owner::of(&new.profile), state.api().owners.age());
    let (session, created) = state.adapter().create_session_with(id, new).await?;
    if created {
        state.api().owners.remember(id, owner, age);
        return Ok((session, true));
    }
    // Somebody was faster: perhaps somebody else.
    Ok((reach::find(state, principal, id).await?.ok_or_else(taken)?, false))
}

/// The session of this name or id; made with the default settings if it is not there.
pub(super) async fn reach_or_make(
    state: &AppState,
    principal: &Principal,
    text: &str,
    agent: Option<String>,
) -> Result<SessionHandle, Problem> {
    let (id, name) = reach::session_of(principal, text)?;
    if let Some(session) = reach::find(state, principal, id).await? {
        return Ok(session);
    }
    principal.may(Scope::SessionsWrite)?;
    let new = settings(state, principal, CreateSession { name, agent, ..CreateSession::default() })?;
    Ok(make(state, principal, id, new).await?.0)
}

fn known_agent(state: &AppState, agent: &str, pointer: &str) -> Result<(), Problem> {
    let agents = state.agents().agents();
    if agents.iter().any(|row| row.name == agent) {
        return Ok(());
    }
    let known: Vec<_> = agents.iter().map(|row| row.name.as_str()).collect();
    let detail = format!("there is no such agent; known: {}", known.join(", "));
    Err(Problem::at(Code::SchemaViolation, pointer.to_owned(), &detail))
}

fn labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Problem> {
    if labels.len() > Profile::MAX_LABELS {
        return Err(check::too_many("/labels", Profile::MAX_LABELS, "labels are kept"));
    }
    for (name, value) in &labels {
        let plain = !name.is_empty()
            && name.len() <= Profile::MAX_LABEL_KEY_BYTES
            && name.bytes().all(|b| b.is_ascii_graphic());
        if !plain {
            let detail = "the name of a label has 1 to 64 visible ASCII characters";
            return Err(Problem::at(Code::SchemaViolation, "/labels".into(), detail));
        }
        check::length(&format!("/labels/{}", shape::escape(name)), value, 0, LABEL)?;
    }
    Ok(labels)
}

/// Sorted, without repetitions, as the session keeps them.
fn intents(mut intents: Vec<String>) -> Result<Vec<String>, Problem> {
    let most = Limits::default().silent_intents as usize;
    if intents.len() > most {
        return Err(check::too_many("/silent_intents", most, "are taken, repetitions among them"));
    }
    for (at, intent) in intents.iter().enumerate() {
        check::length(&format!("/silent_intents/{at}"), intent, 1, INTENT)?;
    }
    intents.sort();
    intents.dedup();
    Ok(intents)
}

fn policy(state: &AppState, principal: &Principal, name: Option<&str>) -> Result<Option<Arc<str>>, Problem> {
    let Some(name) = name else { return Ok(None) };
    let qualified = policy_book::qualified(&principal.tenant, name);
    if state.api().policies.find(&qualified).is_none() {
        let detail = "there is no policy of this name and version; upload it first";
        return Err(Problem::at(Code::SchemaViolation, "/policy".into(), detail));
    }
    Ok(Some(qualified.into()))
}

/// Which sessions to list.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionQuery {
    /// Only those of this agent.
    agent: Option<String>,
    /// Only those of this name.
    name: Option<String>,
    /// Only those with this gate.
    #[param(value_type = Option<windlass_api::schema::Gate>)]
    state: Option<Gate>,
    /// Only those with this label, as `name:value`; may be repeated.
    #[serde(default)]
    #[param(required = false, max_items = 64, value_type = Vec<windlass_api::schema::LabelFilter>)]
    label: Vec<String>,
    /// At most so many items.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<u32>,
    /// Where the page begins: the `next_cursor` of the one before.
    cursor: Option<String>,
}

/// List sessions
///
/// In the order of their ids, which is that of their creation for ids that the server made. Opens none of them.
#[utoipa::path(
    get, path = "/v1/sessions", operation_id = "list_sessions", tag = "sessions", params(SessionQuery),
    responses((status = 200, description = "A page.", body = Page<SessionView>))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    StrictQuery(query): StrictQuery<SessionQuery>,
) -> Result<Listed<Page<SessionView>>, Problem> {
    let limit = page_limit(query.limit)?;
    if query.label.len() > LABELS {
        let detail = format!("at most {LABELS} labels are asked for at once");
        return Err(Problem::new(Code::SchemaViolation).detail(detail).parameter("label"));
    }
    let pair = |label: &String| label.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let labels: Option<Vec<_>> = query.label.iter().map(pair).collect();
    let labels =
        labels.ok_or_else(|| Problem::new(Code::SchemaViolation).detail("name:value is wanted").parameter("label"))?;
    let gate = query.state.map(|gate| format!("{gate:?}")).unwrap_or_default();
    let mut words = vec![principal.tenant.as_str(), principal.prefix.as_deref().unwrap_or_default(), &gate];
    words.extend([query.agent.as_deref(), query.name.as_deref()].map(Option::unwrap_or_default));
    words.extend(query.label.iter().map(String::as_str));
    let of = List::of("/v1/sessions", &words);
    let mut after = of.uuids::<1>(query.cursor.as_deref())?.map(|[id]| SessionId::from_uuid(id));
    let (mut items, mut looked_at) = (Vec::new(), 0);
    let next_cursor = loop {
        let wanted = limit - items.len() as u32;
        let query = ListQuery {
            tenant: Some(principal.tenant.in_profile()),
            agent: query.agent.as_deref().map(Arc::from),
            name: query.name.as_deref().map(Arc::from),
            labels: labels.clone(),
            gate: query.state,
            after,
            limit: wanted,
            ..ListQuery::default()
        };
        let rows = state.store().list(query).await?;
        let last = rows.len() < wanted as usize;
        looked_at += rows.len() as u32;
        after = rows.last().map(|row| row.session).or(after);
        let shown = rows.into_iter().filter(|row| principal.may_name(row.status.profile.name.as_deref()));
        items.extend(shown.map(|row| shown_row(&principal, row)));
        if last {
            break None;
        }
        if items.len() as u32 >= limit || looked_at >= LOOKED_AT {
            break after.map(|id| of.cursor(id.as_uuid().as_bytes()));
        }
    };
    Ok(Listed(Page { items, next_cursor }))
}

/// Look at a session
#[utoipa::path(
    get, path = "/v1/sessions/{session}", operation_id = "get_session", tag = "sessions",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name.")),
    responses((status = 200, description = "The session.", body = SessionView, headers(("ETag" = String, description = "Names what it is told about itself: labels, intents, policy and the like; made for `If-Match`. State, counts and moments change without it, so `If-None-Match` is not heeded: the answer is always whole."))))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
) -> Result<Response, Problem> {
    let session = reach::reach(&state, &principal, &session).await?;
    answer(&principal, session.id(), session.status().await?)
}

/// Change a session
///
/// What is absent stays as it is, also when somebody else changes it at the same time. With `If-Match` nothing is changed
/// unless the session is still told what it was when it was read.
#[utoipa::path(
    patch, path = "/v1/sessions/{session}", operation_id = "update_session", tag = "sessions",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the session when it was read."),
    ),
    request_body = UpdateSession,
    responses(
        (status = 200, description = "The session as it is now.", body = SessionView, headers(("ETag" = String, description = "Names what it is told about itself."))),
        (status = 412, description = "It was changed since it was read.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn update(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    headers: HeaderMap,
    StrictJson(change): StrictJson<UpdateSession>,
) -> Result<Response, Problem> {
    let session = reach::reach(&state, &principal, &session).await?;
    let change = ProfileChange {
        labels: change.labels.map(labels).transpose()?,
        keep_alive: change.keep_alive,
        policy: change.policy.map(|name| policy(&state, &principal, name.as_deref())).transpose()?,
        silent_intents: change.silent_intents.map(intents).transpose()?,
        since: meant_for(&headers, &session).await?,
    };
    // Nothing to change is changed at any time.
    if change != ProfileChange::default() {
        session.change(change).await?;
    }
    answer(&principal, session.id(), session.status().await?)
}

/// What a change is meant for, if it says so: nothing else than what is there now, or it has come too late.
async fn meant_for(headers: &HeaderMap, session: &SessionHandle) -> Result<Option<(Profile, Vec<String>)>, Problem> {
    let mut given = headers.get_all(header::IF_MATCH).iter().peekable();
    if given.peek().is_none() {
        return Ok(None);
    }
    let now = session.status().await?;
    let tag = tag(&now.profile, &now.silent_intents);
    // What is no text is no tag of ours. Compared strongly (RFC 9110, 13.1.1): a weak one is none either.
    let mut given = given.flat_map(|tags| tags.to_str().unwrap_or_default().split(',')).map(str::trim);
    match given.find(|given| *given == tag || *given == "*") {
        Some("*") => Ok(None),
        Some(_) => Ok(Some((now.profile, now.silent_intents))),
        None => Err(ControlRefused::ChangedSince.into()),
    }
}

/// Names what a session is told about itself. What it does does not change it: a session that is at work can be changed
/// by whoever has read it.
fn tag(profile: &Profile, silent_intents: &[String]) -> String {
    let Profile { tenant: _, name: _, labels, keep_alive, policy } = profile;
    let told = serde_json::to_vec(&(labels, keep_alive, policy, silent_intents));
    let hash = BlobId::of(&told.expect("texts always serialise"));
    format!("\"{}\"", &hash.as_str()[..32])
}

fn answer(principal: &Principal, id: SessionId, view: windlass_runtime::SessionView) -> Result<Response, Problem> {
    let tag = HeaderValue::try_from(tag(&view.profile, &view.silent_intents)).map_err(Problem::internal)?;
    Ok(([(header::ETAG, tag)], Json(shown(principal, id, view))).into_response())
}

/// Forget a session wholly
///
/// Its journal too. It must be destroyed before.
#[utoipa::path(
    delete, path = "/v1/sessions/{session}", operation_id = "delete_session", tag = "sessions",
    params(("session" = windlass_api::schema::SessionName, Path, description = "Its id or name.")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 409, description = "It is not destroyed.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
) -> Result<StatusCode, Problem> {
    let id = reach::reach(&state, &principal, &session).await?.id();
    state.adapter().delete_session(id).await?;
    state.api().owners.forget(id);
    state.api().channels.deleted(id);
    Ok(StatusCode::NO_CONTENT)
}

fn shown(principal: &Principal, id: SessionId, view: windlass_runtime::SessionView) -> SessionView {
    SessionView {
        id,
        name: view.profile.name.as_deref().map(str::to_owned),
        agent: view.agent.as_deref().map(str::to_owned),
        labels: view.profile.labels.clone(),
        silent_intents: Some(view.silent_intents),
        keep_alive: view.profile.keep_alive,
        policy: policy_book::shown(&principal.tenant, view.profile.policy.as_deref()),
        state: view.state,
        gate: view.gate,
        held: view.held,
        run: view.run,
        open_inputs: view.open_inputs,
        pending: view.pending,
        due_at: view.due_at.map(Into::into),
        head: view.head.0,
        created_at: view.created_at.into(),
        updated_at: view.updated_at.into(),
    }
}

fn shown_row(principal: &Principal, row: SessionRow) -> SessionView {
    let status = row.status;
    let state = match status.gate {
        Gate::Open if status.running => RuntimeState::Running,
        Gate::Open => RuntimeState::Idle,
        Gate::Retired => RuntimeState::Retired,
        Gate::Stopped => RuntimeState::Stopped,
        Gate::Destroyed => RuntimeState::Destroyed,
    };
    SessionView {
        id: row.session,
        name: status.profile.name.as_deref().map(str::to_owned),
        agent: status.agent.as_deref().map(str::to_owned),
        labels: status.profile.labels.clone(),
        silent_intents: None,
        keep_alive: status.profile.keep_alive,
        policy: policy_book::shown(&principal.tenant, status.profile.policy.as_deref()),
        state,
        gate: status.gate,
        held: status.held,
        run: None,
        open_inputs: status.open_inputs,
        pending: status.pending,
        due_at: status.due_at.map(Into::into),
        head: row.head.0,
        created_at: status.created_at.into(),
        updated_at: row.updated_at.into(),
    }
}
