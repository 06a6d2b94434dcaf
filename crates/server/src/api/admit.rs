//! How does a request become an input?
//!
//! What a client may say is read by the letter; who says it, when and how far it is trusted is set here. The input is
//! whole in the runtime's hands or not at all: a client that goes away in between changes nothing about it.

use super::{Named, blobs, check, headers, inputs, reach, sessions};
use crate::{
    auth::{Principal, Scope},
    json::{StrictJson, StrictQuery},
    limits::WAIT,
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
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use uuid::Uuid;
use windlass_api::{
    Admission, Admitted, Block, Convention, Media, NewContinuation, NewExternalEvent, NewFlowStep, NewInput,
    NewOperation, NewPeer, NewPrompt, RequestDurability, TurnSettings,
};
use windlass_core::{
    AcceptOutcome, ContentBlock, Continuation, Durability, ExternalEvent, FlowStep, Input, InputBody, InputId,
    InputOrigin, MediaSource, OperationNews, Peer, PeerConvention, Prompt, TurnMetadata,
};
use windlass_runtime::{Clock as _, CompletionHandle, SessionHandle, SystemClock, store::InputRef};

/// What an input is, and is set by the server alone.
const RESERVED: [&str; 16] = [
    "source",
    "origin",
    "trust",
    "tenant",
    "timestamp",
    "visibility",
    "notices",
    "lane",
    "priority",
    "decision",
    "policy",
    "fingerprint",
    "receipt",
    "epoch",
    "fence",
    "idempotency_key",
];

/// How an input is sent.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdmitQuery {
    /// Create the session if it is not there. Needs the scope `sessions:write` then.
    #[serde(default)]
    #[param(required = false)]
    create: bool,
    /// The agent of a session that is created by this.
    agent: Option<String>,
}

/// Send an input
///
/// When this answers, the input is accounted for: it is handled in exactly one committed run, or ends in an outcome
/// that says why not. A retry under the same `Idempotency-Key`, or with the same `id`, hears the first answer.
#[utoipa::path(
    post, path = "/v1/sessions/{session}/inputs", operation_id = "send_input", tag = "inputs",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        AdmitQuery,
        ("Idempotency-Key" = Option<windlass_api::schema::Key>, Header, description = "Makes a retry recognisable: 1 to 255 visible ASCII characters, bare or quoted."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer with the outcome if it comes within N seconds, at most 120 (RFC 7240). Needs the scope `sessions:read`, and is passed over without."),
        ("traceparent" = Option<String>, Header, description = "The trace that the input is a part of (W3C Trace Context): kept with it, and continued by its runs. One that is not understood is passed over."),
    ),
    request_body(content = NewInput, examples(
        ("prompt" = (value = json!({"kind": "prompt", "text": "hello", "handling_mode": "steer"}))),
        ("external_event" = (value = json!({"kind": "external_event", "source_name": "cron", "event_type": "tick", "payload": {"body": "It is noon."}}))),
    )),
    responses(
        (status = 202, description = "It is accounted for.", body = Admitted, headers(("Location" = String, description = "Where the input is."), ("traceresponse" = String, description = "The place in a trace that was kept with it, if it has one."))),
        (status = 200, description = "It is accounted for, and over: `result` says how.", body = Admitted, headers(("Location" = String, description = "Where the input is."), ("Preference-Applied" = String, description = "`wait=N`"), ("traceresponse" = String, description = "The place in a trace that was kept with it, if it has one."))),
        (status = 409, description = "The session, the policy or the id refuses it.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
        (status = 422, description = "It is not well formed, or its key was used for something else.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn admit(
    State(state): State<AppState>,
    principal: Principal,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<AdmitQuery>,
    headers: HeaderMap,
    StrictJson(body): StrictJson<Value>,
) -> Result<Response, Problem> {
    let key = headers::idempotency_key(&headers)?;
    // A preference that the token does not allow is not applied: who may only write hears no outcome.
    let wait = headers::wait(&headers, WAIT).filter(|_| principal.may(Scope::SessionsRead).is_ok());
    let new = read(body)?;
    let mut input = input_of(new)?;
    input.header.idempotency_key = key;
    let admitting = state.traces().admit(&headers);
    input.header.trace = admitting.trace;
    if matches!(input.body, InputBody::Peer(_)) {
        principal.may(Scope::PeersSend)?;
    }
    if query.agent.is_some() && !query.create {
        return Err(Problem::new(Code::SchemaViolation).detail("goes with create=true only").parameter("agent"));
    }
    // What can be refused without the session is refused before one is made.
    blobs::check_named(&state, &principal, &input).await?;
    let place = wait.map(|_| state.api().waits.take(&principal)).transpose()?;
    let full = state.api().quota.input(&state, &principal.tenant).await.err();
    let session = match full {
        None if query.create => sessions::reach_or_make(&state, &principal, &session, query.agent).await?,
        None => reach::reach(&state, &principal, &session).await?,
        // A retry hears its first answer, also in a tenant that is full.
        Some(full) => match reach::reach(&state, &principal, &session).await {
            Ok(session) if is_known(&state, &session, &input).await? => session,
            Err(problem) if !query.create => return Err(problem),
            _ => return Err(full),
        },
    };
    if input.has_inline_media() {
        blobs::own_carried(&state, &principal, &input).await?;
    }
    let (outcome, completion) = match wait {
        Some(_) => session.accept_with_completion(input).await?,
        None => (session.accept(input).await?, None),
    };
    let mut admitted = admitted(&session, outcome)?;
    let trace = admitting.trace.filter(|_| admitted.outcome == Admission::Accepted);
    admitting.end(session.id(), admitted.id, if trace.is_some() { "accepted" } else { "deduplicated" });
    if let Some(limit) = wait {
        admitted = with_result(&state, &session, admitted, completion, limit).await;
    }
    drop(place);
    let mut response = answer(&admitted, wait);
    if let Some(trace) = trace.and_then(|trace| HeaderValue::try_from(trace.to_string()).ok()) {
        response.headers_mut().insert("traceresponse", trace);
    }
    Ok(response)
}

/// Whether an input of this id, or with this key, was admitted before.
async fn is_known(state: &AppState, session: &SessionHandle, input: &Input) -> Result<bool, Problem> {
    if state.store().input(session.id(), &InputRef::Id(input.id())).await?.is_some() {
        return Ok(true);
    }
    let Some(key) = input.header.idempotency_key.clone() else { return Ok(false) };
    Ok(state.store().input(session.id(), &InputRef::Key(key)).await?.is_some())
}

/// What the runtime said of an offer.
pub(super) fn admitted(session: &SessionHandle, outcome: AcceptOutcome) -> Result<Admitted, Problem> {
    let session = session.id();
    match outcome {
        AcceptOutcome::Accepted { input_id, policy, state, ahead, durable } => Ok(Admitted {
            id: input_id,
            session,
            outcome: Admission::Accepted,
            state,
            decision: Some(policy),
            ahead: Some(ahead),
            durable,
            result: None,
        }),
        AcceptOutcome::Deduplicated { existing_id, state, .. } => Ok(Admitted {
            id: existing_id,
            session,
            outcome: Admission::Deduplicated,
            state,
            decision: None,
            ahead: None,
            durable: true,
            result: None,
        }),
        AcceptOutcome::Rejected { reason } => Err(reason.into()),
    }
}

/// The same, with the outcome if it comes in time. Whatever becomes of the wait, the input is admitted, and the answer
/// says so: what is in the way of the outcome is heard by whoever waits again.
async fn with_result(
    state: &AppState,
    session: &SessionHandle,
    admitted: Admitted,
    completion: Option<CompletionHandle>,
    limit: std::time::Duration,
) -> Admitted {
    let completion = match completion {
        Some(completion) => completion,
        None => match session.completion(InputRef::Id(admitted.id)).await {
            Ok(completion) => completion,
            Err(_) => return admitted,
        },
    };
    match inputs::finish(state, session, completion, limit).await {
        Ok(Some((result, state))) => Admitted { result: Some(result), state, ..admitted },
        Ok(None) | Err(_) => admitted,
    }
}

pub(super) fn answer(admitted: &Admitted, wait: Option<std::time::Duration>) -> Response {
    let status = if admitted.result.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/v1/sessions/{}/inputs/{}", admitted.session, admitted.id);
    let mut response = (status, [(header::LOCATION, location)], Json(admitted)).into_response();
    if let Some(wait) = wait.filter(|_| admitted.result.is_some()) {
        let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs()));
        response.headers_mut().insert("preference-applied", applied.expect("digits are visible ASCII"));
    }
    response
}

/// Reads the body by its kind, so that a fault is told with its place.
fn read(body: Value) -> Result<NewInput, Problem> {
    let Value::Object(mut fields) = body else {
        return Err(Problem::at(Code::SchemaViolation, String::new(), "an object is wanted"));
    };
    if let Some(reserved) = RESERVED.into_iter().find(|reserved| fields.contains_key(*reserved)) {
        let detail = "the server sets this; leave it out";
        return Err(Problem::at(Code::ReservedMetadata, format!("/{reserved}"), detail));
    }
    let kind = fields.remove("kind");
    let known = NewInput::KINDS.join(", ");
    match kind.as_ref().and_then(Value::as_str) {
        Some("prompt") => of_kind(fields).map(NewInput::Prompt),
        Some("peer") => of_kind(fields).map(NewInput::Peer),
        Some("flow_step") => of_kind(fields).map(NewInput::FlowStep),
        Some("external_event") => of_kind(fields).map(NewInput::ExternalEvent),
        Some("continuation") => of_kind(fields).map(NewInput::Continuation),
        Some("operation") => of_kind(fields).map(NewInput::Operation),
        Some(_) => {
            Err(Problem::at(Code::UnknownInputType, "/kind".into(), &format!("one of these is wanted: {known}")))
        }
        None => Err(Problem::at(Code::SchemaViolation, "/kind".into(), &format!("one of these is wanted: {known}"))),
    }
}

fn of_kind<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Problem> {
    tags(&fields)?;
    shape::read(&Value::Object(fields))
}

/// The tags of unions are words: serde would take the number of a variant for its name.
fn tags(fields: &Map<String, Value>) -> Result<(), Problem> {
    let word = |tag: Option<&Value>, pointer: String| match tag {
        Some(tag) if !tag.is_string() => Err(Problem::at(Code::SchemaViolation, pointer, "a string is wanted")),
        _ => Ok(()),
    };
    word(fields.get("convention").and_then(|convention| convention.get("type")), "/convention/type".to_owned())?;
    let blocks = fields.get("blocks").and_then(Value::as_array).into_iter().flatten();
    for (at, block) in blocks.enumerate() {
        for place in ["/type", "/source/source_type"] {
            word(block.pointer(place), format!("/blocks/{at}{place}"))?;
        }
    }
    Ok(())
}

/// The input that a request means.
fn input_of(new: NewInput) -> Result<Input, Problem> {
    match new {
        NewInput::Prompt(new) => prompt(new),
        NewInput::Peer(new) => peer(new),
        NewInput::FlowStep(new) => flow_step(new),
        NewInput::ExternalEvent(new) => external_event(new),
        NewInput::Continuation(new) => continuation(new),
        NewInput::Operation(new) => Ok(operation(&new)),
    }
}

macro_rules! dressed {
    ($new:ident, $origin:expr, $body:expr) => {{
        let id = $new.id.unwrap_or_else(new_id);
        let mut input = Input::durable(id, SystemClock.now(), $origin, $body);
        input.header.durability = match $new.durability {
            RequestDurability::Durable => Durability::Durable,
            RequestDurability::Ephemeral => Durability::Ephemeral,
        };
        input.header.supersession_key = $new.supersession_key;
        input.header.correlation_id = $new.correlation_id;
        match $new.handling_mode {
            Some(mode) => input.with_mode(mode),
            None => input,
        }
    }};
}

fn new_id() -> InputId {
    InputId::from_uuid(Uuid::now_v7())
}

fn prompt(new: NewPrompt) -> Result<Input, Problem> {
    let (text, blocks) = content(new.text, new.blocks)?;
    let turn_metadata = new.turn_metadata.map(|settings| Box::new(metadata(settings)));
    Ok(dressed!(new, InputOrigin::Operator, InputBody::Prompt(Prompt { text, blocks, turn_metadata })))
}

fn peer(new: NewPeer) -> Result<Input, Problem> {
    check::name("/peer_id", &new.peer_id)?;
    new.runtime_id.as_deref().map_or(Ok(()), |id| check::name("/runtime_id", id))?;
    let convention = new.convention.map(convention).transpose()?;
    let (body, blocks) = content(new.body, new.blocks)?;
    let origin = InputOrigin::Peer { peer_id: new.peer_id, runtime_id: new.runtime_id };
    Ok(dressed!(new, origin, InputBody::Peer(Peer { convention, body, blocks, handling_mode: None })))
}

fn flow_step(new: NewFlowStep) -> Result<Input, Problem> {
    check::name("/flow_id", &new.flow_id)?;
    check::name("/step_id", &new.step_id)?;
    let (instructions, blocks) = content(new.instructions, new.blocks)?;
    let turn_metadata = new.turn_metadata.map(|settings| Box::new(metadata(settings)));
    let origin = InputOrigin::Flow { flow_id: new.flow_id, step_index: new.step_index };
    let body = FlowStep { step_id: new.step_id, instructions, blocks, turn_metadata };
    Ok(dressed!(new, origin, InputBody::FlowStep(body)))
}

fn external_event(new: NewExternalEvent) -> Result<Input, Problem> {
    check::name("/source_name", &new.source_name)?;
    check::length("/event_type", &new.event_type, 1, 200)?;
    let blocks = if new.blocks.is_empty() { None } else { Some(blocks(new.blocks)?) };
    let event = ExternalEvent {
        event_type: new.event_type,
        payload: new.payload,
        blocks,
        handling_mode: windlass_core::HandlingMode::Queue,
        render_metadata: new.render_metadata,
    };
    let origin = InputOrigin::External { source_name: new.source_name };
    Ok(dressed!(new, origin, InputBody::ExternalEvent(event)))
}

fn continuation(new: NewContinuation) -> Result<Input, Problem> {
    check::length("/reason", &new.reason, 1, 1_000)?;
    new.request_id.as_deref().map_or(Ok(()), |id| check::name("/request_id", id))?;
    let body = Continuation {
        reason: new.reason,
        handling_mode: windlass_core::HandlingMode::Queue,
        request_id: new.request_id,
        notices: Vec::new(),
    };
    Ok(dressed!(new, InputOrigin::Operator, InputBody::Continuation(body)))
}

fn operation(new: &NewOperation) -> Input {
    let body = InputBody::Operation(OperationNews { operation_id: new.operation_id, event: new.event });
    let mut input = Input::durable(new.id.unwrap_or_else(new_id), SystemClock.now(), InputOrigin::Operator, body);
    input.header.correlation_id = new.correlation_id;
    input
}

fn convention(convention: Convention) -> Result<PeerConvention, Problem> {
    let request = |id: String| check::name("/convention/request_id", &id).map(|()| id);
    Ok(match convention {
        Convention::Message {} => PeerConvention::Message,
        Convention::Request { request_id, intent } => {
            check::length("/convention/intent", &intent, 1, 64)?;
            PeerConvention::Request { request_id: request(request_id)?, intent }
        }
        Convention::ResponseProgress { request_id, phase } => {
            PeerConvention::ResponseProgress { request_id: request(request_id)?, phase }
        }
        Convention::ResponseTerminal { request_id, status } => {
            PeerConvention::ResponseTerminal { request_id: request(request_id)?, status }
        }
    })
}

/// Words and blocks as the runtime takes them: blocks are the content where there are any, so the words stand before
/// them as one; words alone stay words.
fn content(text: String, given: Vec<Block>) -> Result<(String, Option<Vec<ContentBlock>>), Problem> {
    if given.is_empty() {
        return Ok((text, None));
    }
    let mut all = Vec::with_capacity(given.len() + 1);
    if !text.is_empty() {
        all.push(ContentBlock::text(text));
    }
    all.extend(blocks(given)?);
    // Only how words are projected matters here, and the runtime knows that.
    let projected = Input::prompt_from_blocks(new_id(), SystemClock.now(), all);
    match projected.body {
        InputBody::Prompt(Prompt { text, blocks, .. }) => Ok((text, blocks)),
        _ => Err(Problem::internal("a prompt is a prompt")),
    }
}

/// The most blocks of one input.
const BLOCKS: usize = 1_000;

fn blocks(given: Vec<Block>) -> Result<Vec<ContentBlock>, Problem> {
    if given.len() > BLOCKS {
        return Err(check::too_many("/blocks", BLOCKS, "blocks are taken"));
    }
    given.into_iter().enumerate().map(|(at, block)| self::block(at, block)).collect()
}

fn block(at: usize, block: Block) -> Result<ContentBlock, Problem> {
    let checked = |media_type: String| {
        check::length(&format!("/blocks/{at}/media_type"), &media_type, 0, 127).map(|()| media_type)
    };
    let media = |media: Media| {
        Ok::<_, Problem>(match media {
            Media::Inline { data } => MediaSource::Inline { data },
            Media::Blob { blob, bytes } => MediaSource::Blob { blob, bytes },
            Media::Url { url } => {
                check::length(&format!("/blocks/{at}/source/url"), &url, 0, 8_192)?;
                MediaSource::Url { url }
            }
        })
    };
    Ok(match block {
        Block::Text { text } => ContentBlock::Text { text },
        Block::Image { media_type, source } => {
            ContentBlock::Image { media_type: checked(media_type)?, source: media(source)? }
        }
        Block::Video { media_type, source } => {
            ContentBlock::Video { media_type: checked(media_type)?, source: media(source)? }
        }
    })
}

fn metadata(settings: TurnSettings) -> TurnMetadata {
    TurnMetadata {
        keep_alive: settings.keep_alive,
        skill_references: settings.skill_references,
        flow_tool_overlay: settings.flow_tool_overlay,
        additional_instructions: settings.additional_instructions,
        model: settings.model,
        provider: settings.provider,
        provider_params: settings.provider_params,
        render_metadata: settings.render_metadata,
        ..TurnMetadata::default()
    }
}
