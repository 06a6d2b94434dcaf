//! How are words of the core described in the OpenAPI document?
//!
//! The core derives no schemas. Each type here stands for one of its types, under the same name.

#![expect(missing_docs, reason = "the doc comments are the document's descriptions; variants are the words themselves")]
#![allow(unreachable_pub, clippy::missing_docs_in_private_items)]

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat,
        schema::{AdditionalProperties, SchemaType, Type},
    },
};

macro_rules! text {
    ($($(#[doc = $doc:literal])* $name:ident { $($set:ident($value:expr)),* };)+) => {$(
        $(#[doc = $doc])*
        #[derive(Debug)]
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String);
                let text = text.description(Some(concat!($($doc),*).trim()));
                $(let text = text.$set($value);)*
                text.into()
            }
        }

        impl ToSchema for $name {}
    )+};
}

const SCOPES: [&str; 16] = [
    "inputs:write",
    "sessions:read",
    "sessions:write",
    "sessions:control",
    "events:read",
    "blobs:read",
    "blobs:write",
    "ops:read",
    "ops:write",
    "ops:*",
    "peers:send",
    "peers:admin",
    "executors:admin",
    "tokens:admin",
    "tenant:admin",
    "*",
];

fn uuid() -> SchemaFormat {
    SchemaFormat::Custom("uuid".into())
}

text! {
    /// One agent's durable conversation and queue.
    SessionId { format(Some(uuid())) };
    /// One input.
    InputId { format(Some(uuid())) };
    /// One run; the same over all its attempts.
    RunId { format(Some(uuid())) };
    /// One background operation.
    OperationId { format(Some(uuid())) };
    /// A UUID.
    Uuid { format(Some(uuid())) };
    /// A session: its id, or its name.
    SessionName { pattern(Some("^[A-Za-z0-9_-]{1,64}$")), max_length(Some(64)) };
    /// A name.
    Name { pattern(Some("^[^\\u0000-\\u001f\\u007f-\\u009f]+$")), min_length(Some(1)), max_length(Some(200)) };
    /// A short word.
    Word { min_length(Some(1)), max_length(Some(64)) };
    /// The name of a policy.
    PolicyName { pattern(Some("^[A-Za-z0-9_.-]{1,64}$")) };
    /// A policy: its name, or `name@version`.
    PolicyRef { pattern(Some("^[A-Za-z0-9_.-]{1,64}(@[0-9]{1,18})?$")) };
    /// A label as `name:value`.
    LabelFilter { pattern(Some("^[^:]*:.*$")) };
    /// 1 to 255 visible ASCII characters.
    Key { pattern(Some("^[!-~]{1,255}$")) };
    /// The BLAKE3 hash of the bytes, in lower-case hex.
    BlobId { pattern(Some("^[0-9a-f]{64}$")) };
    /// The SHA-256 of the body, as `Content-Digest` has it (RFC 9530).
    ContentDigest { pattern(Some("^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$")) };
    /// A moment, in UTC.
    Moment { format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))) };
    /// What a token may do.
    Scope { enum_values(Some(SCOPES)) };
    /// The public part of a token.
    TokenId { pattern(Some("^[a-z0-9]{16}$")) };
}

impl PartialSchema for crate::Time {
    fn schema() -> RefOr<Schema> {
        Moment::schema()
    }
}

impl ToSchema for crate::Time {}

/// Any JSON.
#[derive(Debug)]
pub struct AnyJson;

impl PartialSchema for AnyJson {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some("Any JSON.")).into()
    }
}

impl ToSchema for AnyJson {}

/// Labels: names and values.
#[derive(Debug)]
pub struct Labels;

impl PartialSchema for Labels {
    fn schema() -> RefOr<Schema> {
        let value: Schema = ObjectBuilder::new().schema_type(Type::String).max_length(Some(64)).into();
        let name: Schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[!-~]{1,64}$")).into();
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .property_names(Some(name))
            .additional_properties(Some(AdditionalProperties::RefOr(value.into())))
            .max_properties(Some(64))
            .into()
    }
}

impl ToSchema for Labels {}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($word:ident),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Debug, ToSchema)]
        #[expect(non_camel_case_types, reason = "the words as they are written on the wire")]
        pub enum $name { $($word),+ }
    )+};
}

words! {
    /// What a session is doing.
    RuntimeState { initializing, idle, attached, running, recovering, retired, stopped, destroyed }
    /// Whether a session takes inputs.
    Gate { open, retired, stopped, destroyed }
    /// Where an input is in its life.
    InputState { accepted, queued, staged, applied_pending_consumption, consumed, superseded, coalesced, abandoned }
    /// Where an input waits while a run is on: `steer` joins the running run.
    HandlingMode { queue, steer }
    /// What becomes of the inputs of a cancelled run.
    Disposition { drop, requeue }
    /// The kind of an operation.
    OperationKind { mob_member_child, background_tool_op }
    /// Where an operation is in its life.
    OperationStatus { provisioning, running, retiring, completed, failed, aborted, cancelled, retired, terminated }
    /// The kind of an input, as policies know it.
    InputKind {
        prompt, peer_message, peer_request, peer_response_progress, peer_response_terminal, flow_step, external_event,
        continuation, operation,
    }
    /// Where an input comes from.
    SourceKind { operator, peer, flow, system, external }
    /// Where an admitted input goes.
    Deliver { next_run, checkpoint, with_next_run, context, ignore }
    /// What is done with an input that arrives while a run is on.
    OnBusy { wait, interrupt, reject }
    /// What becomes of the older content.
    Join { latest, append }
    /// Who may go past an input that backs off.
    Overtake { never, other_sources, always }
    /// How far a request is.
    ProgressPhase { accepted, in_progress, partial_result }
    /// How a request ended.
    TerminalStatus { completed, failed, cancelled }
    /// What became of a background operation.
    OpEvent { started, progress, completed, failed, cancelled }
}

/// What a policy decided about an input.
#[derive(Debug, ToSchema)]
pub struct Decision {
    pub deliver: Deliver,
    /// Whether it may start a run by itself.
    pub wake: bool,
    pub on_busy: OnBusy,
    /// What becomes of one of the same scope that waits: `keep`, `supersede`, or an object.
    #[schema(value_type = AnyJson)]
    pub merge: AnyJson,
    /// Higher goes first.
    pub priority: u8,
    pub overtake: Overtake,
    /// Whether it stands in the transcript.
    pub record_transcript: bool,
    /// Whether the operator is shown what it leads to.
    pub emit_operator_content: bool,
    /// The version of the table that decided.
    pub policy_version: u64,
}

/// How far an operation is.
#[derive(Debug, ToSchema)]
pub struct OperationProgress {
    /// In words.
    pub message: String,
    /// In percent, where known.
    pub percent: Option<f32>,
}

/// A policy: rows, the first that matches wins.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyTable {
    /// Passed over: the server counts versions.
    #[schema(value_type = Option<u64>)]
    pub version: Option<u64>,
    /// In order of precedence.
    #[schema(required = false, max_items = 256)]
    pub row: Vec<PolicyRow>,
}

/// A row of a policy. An absent condition always holds.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRow {
    pub kind: Option<InputKind>,
    pub mode: Option<HandlingMode>,
    pub source: Option<SourceKind>,
    /// Whether a run is on.
    pub busy: Option<bool>,
    pub decision: PolicyDecision,
}

/// What a row of a policy decides.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyDecision {
    pub deliver: Deliver,
    /// Whether it may start a run by itself. Absent: yes.
    pub wake: Option<bool>,
    pub on_busy: Option<OnBusy>,
    /// `keep`, `supersede`, `{"coalesce": {"join": "latest" | "append"}}` or
    /// `{"debounce": {"window_ms": …, "max_ms": …}}`.
    #[schema(value_type = Option<Merge>)]
    pub merge: Option<AnyJson>,
    /// Higher goes first.
    pub priority: Option<u8>,
    pub overtake: Option<Overtake>,
    pub record_transcript: Option<bool>,
    pub emit_operator_content: Option<bool>,
}

/// What becomes of an input of the same scope that waits.
#[derive(Debug)]
pub struct Merge;

impl PartialSchema for Merge {
    fn schema() -> RefOr<Schema> {
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["keep", "supersede"]));
        OneOfBuilder::new().item(word).item(Coalesce::schema()).item(Debounce::schema()).into()
    }
}

impl ToSchema for Merge {}

/// They become one.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Coalesce {
    #[schema(inline)]
    pub coalesce: Joined,
}

#[derive(Debug, ToSchema)]
pub struct Joined {
    #[schema(inline)]
    pub join: Join,
}

/// It waits for quiet.
#[derive(Debug, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Debounce {
    #[schema(inline)]
    pub debounce: Quiet,
}

#[derive(Debug, ToSchema)]
pub struct Quiet {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_u64)]
    pub window_ms: u64,
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_u64)]
    pub max_ms: u64,
}
