//! How are policies uploaded, asked and tried out over HTTP?

use super::{
    Named, PageQuery,
    cursor::List,
    journal::{Piece, position},
    page_limit,
    policy_book::{self, Version},
    reach,
};
use crate::{
    auth::Principal,
    json::{self, StrictJson, StrictQuery},
    limits::JSON_BYTES,
    page::Listed,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{
    Json,
    extract::{Request, State},
};
use http::header;
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};
use windlass_api::{
    ExplainPolicy, Page, PolicyDifference, PolicyExplained, PolicyReplayed, PolicySaved, PolicyView, ReplayPolicy,
};
use windlass_core::{
    Accepted, Decision, Deliver, Input, InputBody, OnBusy, Peer, PeerConvention, PolicyQuery, PolicyTable, Record,
    RunEnd, Seq, SourceKind,
};
use windlass_runtime::policy_from_toml;

/// Upload a policy
///
/// As TOML or JSON. It becomes the next version of its name, unless it says the same as the latest. A `version` in it
/// is passed over: the server counts.
#[utoipa::path(
    put, path = "/v1/policies/{name}", operation_id = "upload_policy", tag = "policies",
    params(("name" = windlass_api::schema::PolicyName, Path, description = "Its name.")),
    request_body(content(
        (windlass_api::schema::PolicyTable = "application/json", example = json!({"row": [{"kind": "external_event", "decision": {"deliver": "next_run"}}]})),
        (String = "application/toml", example = json!("[[row]]\nkind = \"external_event\"\ndecision = { deliver = \"next_run\" }\n")),
    )),
    responses(
        (status = 200, description = "It is kept.", body = PolicySaved),
        (status = 422, description = "It cannot be used; the detail names the row and the field.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn upload(
    State(state): State<AppState>,
    principal: Principal,
    Named(name): Named<String>,
    request: Request,
) -> Result<Json<PolicySaved>, Problem> {
    policy_name(&name)?;
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let table = match essence.as_str() {
        "application/json" => {
            let mut body = json::value(&json::read(request, JSON_BYTES).await?)?;
            if let Some(fields) = body.as_object_mut() {
                // Passed over, but what no version can be is a slip worth telling.
                if !fields.get("version").is_none_or(is_version) {
                    let detail = "a version is a number from 0; leave it out";
                    return Err(Problem::at(Code::SchemaViolation, "/version".into(), detail));
                }
                fields.insert("version".into(), 0.into());
            }
            crate::shape::read(&body)?
        }
        "application/toml" | "text/toml" => {
            let bytes = json::read(request, JSON_BYTES).await?;
            let text = std::str::from_utf8(&bytes).map_err(|_| Problem::new(Code::InvalidUtf8))?;
            of_toml(text)?
        }
        _ => {
            return Err(
                Problem::new(Code::UnsupportedMediaType).detail("application/json or application/toml is taken")
            );
        }
    };
    table.validate().map_err(invalid)?;
    let (policies, of) = (Arc::clone(&state.api().policies), name.clone());
    let kept = async move { policies.keep(&principal.tenant, &of, table).await };
    let (version, changed) = state.to_its_end(kept).await?;
    Ok(Json(PolicySaved { name, version, changed }))
}

/// Whether it could be one: as JSON has it, `1.0` is a whole number too.
fn is_version(value: &Value) -> bool {
    let whole = |number: f64| number.fract() == 0.0 && (0.0..=9_007_199_254_740_991.0).contains(&number);
    value.is_null()
        || value.as_i64().is_some_and(|number| number >= 0)
        || value.is_f64() && value.as_f64().is_some_and(whole)
}

fn invalid(error: impl std::fmt::Display) -> Problem {
    Problem::new(Code::PolicyInvalid).detail(error.to_string())
}

/// A table in TOML; its version may be left out.
fn of_toml(text: &str) -> Result<PolicyTable, Problem> {
    let mut parsed: toml::Table = toml::from_str(text).map_err(invalid)?;
    if parsed.contains_key("version") {
        return policy_from_toml(text).map_err(invalid);
    }
    parsed.insert("version".into(), toml::Value::Integer(0));
    parsed.try_into().map_err(invalid)
}

fn policy_name(name: &str) -> Result<(), Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Problem::new(Code::InvalidId).detail("a policy is named by 1 to 64 of A-Z a-z 0-9 _ . -"))
}

/// List policies
///
/// Each with its latest version; `default` is the built-in one.
#[utoipa::path(
    get, path = "/v1/policies", operation_id = "list_policies", tag = "policies", params(PageQuery),
    responses((status = 200, description = "A page.", body = Page<PolicyView>))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    principal: Principal,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Listed<Page<PolicyView>>, Problem> {
    let limit = page_limit(query.limit)? as usize;
    let of = List::of("/v1/policies", &[principal.tenant.as_str()]);
    let after = query.cursor.as_deref().map(|cursor| of.position(cursor)).transpose()?.unwrap_or_default();
    let after = String::from_utf8(after).map_err(|_| Problem::new(Code::InvalidCursor))?;
    let found = state.api().policies.list(&principal.tenant, &after, limit);
    let more = found.len() == limit;
    let next_cursor = found.last().filter(|_| more).map(|(name, ..)| of.cursor(name.as_bytes()));
    let items = found.into_iter().map(|(name, version, found)| shown(name, version, &found, false)).collect();
    Ok(Listed(Page { items, next_cursor }))
}

fn shown(name: String, version: u64, found: &Version, whole: bool) -> PolicyView {
    let table = whole.then(|| PolicyTable::clone(&found.table));
    PolicyView { name, version, updated_at: found.at.into(), table }
}

/// Look at a policy
///
/// `name` is its latest version, `name@version` another one.
#[utoipa::path(
    get, path = "/v1/policies/{name}", operation_id = "get_policy", tag = "policies",
    params(("name" = windlass_api::schema::PolicyRef, Path, description = "Its name, or `name@version`.")),
    responses((status = 200, description = "The policy.", body = PolicyView))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    principal: Principal,
    Named(name): Named<String>,
) -> Result<Json<PolicyView>, Problem> {
    let (bare, version, found) = find(&state, &principal, &name)?;
    Ok(Json(shown(bare, version, &found, true)))
}

fn find(state: &AppState, principal: &Principal, name: &str) -> Result<(String, u64, Version), Problem> {
    let (bare, _) = name.rsplit_once('@').unwrap_or((name, ""));
    policy_name(bare)?;
    let found = state.api().policies.find(&policy_book::qualified(&principal.tenant, name));
    let absent = || Problem::new(Code::NotFound).detail("there is no such policy; see /v1/policies");
    let (version, found) = found.ok_or_else(absent)?;
    Ok((bare.to_owned(), version, found))
}

/// Ask a policy
///
/// What it would do with such an input, and which row says so.
#[utoipa::path(
    post, path = "/v1/policies/{name}/explain", operation_id = "explain_policy", tag = "policies",
    params(("name" = windlass_api::schema::PolicyRef, Path, description = "Its name, or `name@version`.")),
    request_body(content = ExplainPolicy, example = json!({"kind": "prompt", "handling_mode": "steer", "busy": true})),
    responses((status = 200, description = "What it says.", body = PolicyExplained))
)]
pub(crate) async fn explain(
    State(state): State<AppState>,
    principal: Principal,
    Named(name): Named<String>,
    StrictJson(asked): StrictJson<ExplainPolicy>,
) -> Result<Json<PolicyExplained>, Problem> {
    let (name, version, found) = find(&state, &principal, &name)?;
    let ExplainPolicy { kind, handling_mode: mode, source, busy } = asked;
    let ruling = found.table.decide(PolicyQuery { kind: Some(kind), mode, source, busy });
    let row = ruling.row.map(|row| row as u32);
    Ok(Json(PolicyExplained { name, version, row, decision: ruling.decision }))
}

/// Try a policy out on what was recorded
///
/// Which inputs of a session would have been treated otherwise. Changes nothing.
#[utoipa::path(
    post, path = "/v1/policies/{name}/replay", operation_id = "replay_policy", tag = "policies",
    params(("name" = windlass_api::schema::PolicyRef, Path, description = "Its name, or `name@version`.")),
    request_body = ReplayPolicy,
    responses((status = 200, description = "What would differ.", body = PolicyReplayed))
)]
pub(crate) async fn replay(
    State(state): State<AppState>,
    principal: Principal,
    Named(name): Named<String>,
    StrictJson(asked): StrictJson<ReplayPolicy>,
) -> Result<Json<PolicyReplayed>, Problem> {
    if !(1..=10_000).contains(&asked.limit) {
        return Err(Problem::at(Code::SchemaViolation, "/limit".into(), "1 to 10000 is taken"));
    }
    let after = position("/after", asked.after)?;
    let (name, version, found) = find(&state, &principal, &name)?;
    let handle = reach::reach(&state, &principal, &asked.session).await?;
    let session = handle.id();
    // Read twice and held never: ten thousand entries may be more than there is room for.
    let mut silent: BTreeSet<String> = handle.status().await?.silent_intents.into_iter().collect();
    let mut began_busy = None;
    let mut first = Piece::new(&state, session, after, asked.limit);
    let mut read = 0;
    while let Some(entries) = first.next().await? {
        read += entries.len() as u32;
        for entry in entries {
            began_busy = began_busy.or_else(|| was_busy(&entry.record));
            if let Record::SilentIntentsSet { intents } = &entry.record {
                silent.extend(intents.iter().cloned());
            }
        }
    }
    let mut busy = began_busy.unwrap_or(false);
    let (mut decisions, mut differences) = (0, Vec::new());
    let mut again = Piece::new(&state, session, after, read);
    while let Some(entries) = again.next().await? {
        for entry in entries {
            if let Record::InputAccepted(accepted) = &entry.record {
                decisions += 1;
                differences.extend(compare(&found.table, entry.seq, accepted, busy, &silent));
            }
            busy = busy_after(&entry.record).unwrap_or(busy);
        }
    }
    let next_after = (!first.is_over).then_some(first.after.0);
    Ok(Json(PolicyReplayed { name, version, session, entries: read, decisions, differences, next_after }))
}

/// Whether a run is on, or suspended, after this record; none if the record does not say.
fn busy_after(record: &Record) -> Option<bool> {
    match record {
        Record::RunStarted(_) | Record::RunSteered { .. } | Record::BoundaryCommitted(_) => Some(true),
        Record::RunEnded(ended) => Some(match &ended.end {
            RunEnd::Completed { .. } | RunEnd::Cancelled { .. } => false,
            // One with boundaries stays, suspended.
            RunEnd::Failed { retry_at, .. } => retry_at.is_some() && ended.committed.is_some(),
            RunEnd::Released { .. } => ended.committed.is_some(),
        }),
        Record::SessionReset { .. } => Some(false),
        _ => None,
    }
}

/// Whether a run was on before the first record that speaks of runs; none if this one does not. One that starts a run
/// may follow on a suspended one, which is then the rarer case.
fn was_busy(record: &Record) -> Option<bool> {
    match record {
        Record::RunStarted(started) => Some(started.resumes_after.is_some()),
        Record::RunSteered { .. } | Record::BoundaryCommitted(_) | Record::RunEnded(_) => Some(true),
        _ => None,
    }
}

/// Whether it is a request that the session wants silent.
fn is_silent(input: &Input, silent: &BTreeSet<String>) -> bool {
    match &input.body {
        InputBody::Peer(Peer { convention: Some(PeerConvention::Request { intent, .. }), .. }) => {
            silent.contains(intent)
        }
        _ => false,
    }
}

/// What would have been decided otherwise, if anything.
fn compare(
    table: &PolicyTable,
    seq: Seq,
    accepted: &Accepted,
    busy: bool,
    silent: &BTreeSet<String>,
) -> Option<PolicyDifference> {
    let input = &accepted.input;
    let query = PolicyQuery {
        kind: Some(input.kind()),
        mode: input.handling_mode(),
        source: SourceKind::from(&input.header.source),
        busy,
    };
    let ruling = table.decide(query);
    let mut replayed = ruling.decision;
    // What admission makes of a decision, whatever the policy: silent requests go along, interrupts go first.
    if is_silent(input, silent) && accepted.decision.deliver == Deliver::WithNextRun {
        replayed = Decision { deliver: Deliver::WithNextRun, wake: false, on_busy: OnBusy::Wait, ..replayed };
    }
    if busy && replayed.on_busy == OnBusy::Interrupt {
        (replayed.deliver, replayed.priority) = (Deliver::Checkpoint, u8::MAX);
    }
    let same = Decision { policy_version: replayed.policy_version, ..accepted.decision.clone() };
    (same != replayed).then(|| PolicyDifference {
        input: input.id(),
        seq: seq.0,
        busy,
        recorded: accepted.decision.clone(),
        recorded_row: accepted.policy_row,
        replayed,
        replayed_row: ruling.row.map(|row| row as u32),
    })
}
