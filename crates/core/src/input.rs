//! What can be addressed to a session, and which shapes of it are well formed?
//!
//! An [`Input`] is a header (who, how durable, under which key) and a body (one of six kinds). Whether a session
//! takes it is [`admission`](crate::Session::step)'s business; how a model sees it is [`render`](crate::render)'s.

use crate::{
    CompletionEntry, CorrelationId, IdempotencyKey, InputId, OperationId, SupersessionKey, Timestamp, TraceContext,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Something addressed to a session.
///
/// ```
/// use windlass_core::{Input, InputId, Timestamp};
/// let id = InputId::from_uuid(uuid::Uuid::from_u128(1));
/// let input = Input::prompt(id, Timestamp::ZERO, "hello").with_key("greeting-1").unwrap();
/// assert_eq!(input.kind().as_str(), "prompt");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Who sent it, how durable it is, under which keys.
    pub header: InputHeader,
    /// What it says.
    #[serde(flatten)]
    pub body: InputBody,
}

/// What every input has, whatever it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputHeader {
    /// Its identity, chosen by whoever builds it.
    pub id: InputId,
    /// When its producer says it was made. Never used for order.
    pub timestamp: Timestamp,
    /// Where it comes from. Assigned by the trusted surface, never by the payload.
    pub source: InputOrigin,
    /// What survives a crash.
    pub durability: Durability,
    /// Who may see it.
    #[serde(default)]
    pub visibility: Visibility,
    /// Makes a retry recognisable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyKey>,
    /// The scope in which newer inputs replace or join older ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersession_key: Option<SupersessionKey>,
    /// Ties it to an interaction or an occurrence outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// The trace that it came with, which its runs continue.
    #[serde(default, rename = "traceparent", skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputOrigin {
    /// The person or service that the session works for.
    Operator,
    /// Another agent.
    Peer {
        /// Its name.
        peer_id: String,
        /// The runtime it lives in, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runtime_id: Option<String>,
    },
    /// A step of a flow.
    Flow {
        /// The flow.
        flow_id: String,
        /// The step's index.
        step_index: u32,
    },
    /// Windlass itself.
    System,
    /// A webhook, a schedule, a file watcher.
    External {
        /// Its name.
        source_name: String,
    },
}

/// What survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On disk before the caller hears "accepted".
    Durable,
    /// May vanish with the process; accepted at once.
    Ephemeral,
    /// As Ephemeral, and its producer makes it again. Only Windlass itself may send it.
    Derived,
}

/// Who may see an input. Read by executors and feeds, not by the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visibility {
    /// May stand in the transcript.
    pub transcript_eligible: bool,
    /// May be shown to the operator.
    pub operator_eligible: bool,
}

impl Default for Visibility {
    fn default() -> Self {
        Visibility { transcript_eligible: true, operator_eligible: true }
    }
}

/// Where an input waits while a run is on, if its sender says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlingMode {
    /// Behind what already waits.
    #[default]
    Queue,
    /// Into the running run at its next checkpoint, or at the head of the next run.
    Steer,
}

/// What an input says: one of six kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "input_type", rename_all = "snake_case")]
pub enum InputBody {
    /// Words for the agent from whoever it works for.
    Prompt(Prompt),
    /// A message of another agent.
    Peer(Peer),
    /// A step of a flow.
    FlowStep(FlowStep),
    /// Something happened outside.
    ExternalEvent(ExternalEvent),
    /// Carry on with what is already there.
    #[serde(alias = "system_generated")]
    Continuation(Continuation),
    /// News of a background operation; recorded, never a turn.
    #[serde(alias = "projected")]
    Operation(OperationNews),
}

/// Words for the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The words, or their text projection if there are blocks.
    pub text: String,
    /// Text, images and video, in order. Where present they are the content and `text` is not added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<ContentBlock>>,
    /// Settings for the turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_metadata: Option<Box<TurnMetadata>>,
}

/// A message of another agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// What kind of message; none counts as a plain message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub convention: Option<PeerConvention>,
    /// The text as the model shall read it.
    pub body: String,
    /// Text, images and video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<ContentBlock>>,
    /// Absent: the policy decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handling_mode: Option<HandlingMode>,
}

/// The kinds of peer messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "convention_type", rename_all = "snake_case")]
pub enum PeerConvention {
    /// Says something.
    Message,
    /// Asks for something and expects a terminal response.
    Request {
        /// Names the request in its responses.
        request_id: String,
        /// What is asked; silent intents match on it.
        intent: String,
    },
    /// Says how a request is getting on.
    ResponseProgress {
        /// The request.
        request_id: String,
        /// How far it is.
        phase: ProgressPhase,
    },
    /// Ends a request.
    ResponseTerminal {
        /// The request.
        request_id: String,
        /// How it ended.
        status: TerminalStatus,
    },
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressPhase {
    /// Taken.
    Accepted,
    /// Being worked on.
    InProgress,
    /// Some of the answer is there.
    PartialResult,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminalStatus {
    /// With an answer.
    Completed,
    /// With an error.
    Failed,
    /// Called off.
    Cancelled,
}

/// A step of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowStep {
    /// The step.
    pub step_id: String,
    /// What to do.
    pub instructions: String,
    /// Text, images and video; where present they are the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<ContentBlock>>,
    /// Settings for the turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_metadata: Option<Box<TurnMetadata>>,
}

/// Something happened outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExternalEvent {
    /// What happened.
    pub event_type: String,
    /// The details; a string member `body` is what the model reads.
    #[serde(default)]
    pub payload: Value,
    /// Text, images and video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<ContentBlock>>,
    /// Where it waits.
    #[serde(default)]
    pub handling_mode: HandlingMode,
    /// How a surface may show it; passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub render_metadata: Option<Value>,
}

/// Carry on with what is already there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Continuation {
    /// Why.
    pub reason: String,
    /// Where it waits.
    #[serde(default)]
    pub handling_mode: HandlingMode,
    /// The request it carries on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The completions it tells of. One that tells of any brings content; one that tells of none resumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Arc<CompletionEntry>>,
}

/// News of a background operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationNews {
    /// The operation.
    pub operation_id: OperationId,
    /// What became of it.
    pub event: OpEvent,
}

/// What became of a background operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpEvent {
    /// It began.
    Started,
    /// It got on.
    Progress,
    /// It ended well.
    Completed,
    /// It ended badly.
    Failed,
    /// It was called off.
    Cancelled,
}

/// One piece of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A picture.
    Image {
        /// For example `image/png`.
        media_type: String,
        /// Where its bytes are.
        source: MediaSource,
    },
    /// A film.
    Video {
        /// For example `video/mp4`.
        media_type: String,
        /// Where its bytes are.
        source: MediaSource,
    },
}

/// Where the bytes of a picture or film are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source_type", rename_all = "snake_case")]
pub enum MediaSource {
    /// Here, in base64. Externalised to the blob store at admission.
    Inline {
        /// Base64, standard alphabet.
        data: Arc<str>,
    },
    /// In the blob store.
    Blob {
        /// The BLAKE3 hash of the bytes, in lower-case hex.
        blob: BlobId,
        /// The number of bytes.
        bytes: u64,
    },
    /// Somewhere the executor can reach. Windlass never fetches it.
    Url {
        /// The address.
        url: String,
    },
}

/// The content address of a blob: the BLAKE3 hash of its bytes, in lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobId(String);

impl BlobId {
    /// The address of these bytes.
    pub fn of(bytes: &[u8]) -> BlobId {
        BlobId(blake3::hash(bytes).to_hex().to_string())
    }

    /// 64 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BlobId {
    type Error = InvalidBlobId;

    fn try_from(text: String) -> Result<Self, InvalidBlobId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(hex) { Ok(BlobId(text)) } else { Err(InvalidBlobId) }
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> String {
        id.0
    }
}

/// The text is no blob id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a blob id is 64 lower-case hex digits: the BLAKE3 hash of the bytes")]
pub struct InvalidBlobId;

/// Settings for one turn; passed through to the executor. All optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnMetadata {
    /// Where the input waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handling_mode: Option<HandlingMode>,
    /// Keep the session's resources after the turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<bool>,
    /// Skills to load.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skill_references: Vec<String>,
    /// Tools of the flow step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_tool_overlay: Option<Value>,
    /// Further instructions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_instructions: Vec<String>,
    /// Another model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Another provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Settings of the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_params: Option<Value>,
    /// How a surface may show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub render_metadata: Option<Value>,
    /// Set by Windlass: whether the run brings content or resumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_kind: Option<ExecutionKind>,
}

/// Whether a run brings content or resumes what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionKind {
    /// There is something new to say to the model.
    ContentTurn,
    /// Nothing is appended; carry on from the last boundary.
    ResumePending,
}

/// The key of the policy table: a kind, with peers split by convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// [`InputBody::Prompt`].
    Prompt,
    /// A peer message, also one without convention.
    PeerMessage,
    /// A peer request.
    PeerRequest,
    /// Progress of a request.
    PeerResponseProgress,
    /// The end of a request.
    PeerResponseTerminal,
    /// [`InputBody::FlowStep`].
    FlowStep,
    /// [`InputBody::ExternalEvent`].
    ExternalEvent,
    /// [`InputBody::Continuation`].
    Continuation,
    /// [`InputBody::Operation`].
    Operation,
}

impl InputKind {
    /// Every kind.
    pub const ALL: [InputKind; 9] = [
        InputKind::Prompt,
        InputKind::PeerMessage,
        InputKind::PeerRequest,
        InputKind::PeerResponseProgress,
        InputKind::PeerResponseTerminal,
        InputKind::FlowStep,
        InputKind::ExternalEvent,
        InputKind::Continuation,
        InputKind::Operation,
    ];

    /// Its name in policies and journals.
    pub const fn as_str(self) -> &'static str {
        match self {
            InputKind::Prompt => "prompt",
            InputKind::PeerMessage => "peer_message",
            InputKind::PeerRequest => "peer_request",
            InputKind::PeerResponseProgress => "peer_response_progress",
            InputKind::PeerResponseTerminal => "peer_response_terminal",
            InputKind::FlowStep => "flow_step",
            InputKind::ExternalEvent => "external_event",
            InputKind::Continuation => "continuation",
            InputKind::Operation => "operation",
        }
    }
}

impl Input {
    /// A durable prompt of the operator.
    pub fn prompt(id: InputId, timestamp: Timestamp, text: impl Into<String>) -> Input {
        Input::durable(
            id,
            timestamp,
            InputOrigin::Operator,
            InputBody::Prompt(Prompt { text: text.into(), ..Prompt::default() }),
        )
    }

    /// A durable prompt of the operator from content blocks.
    ///
    /// The blocks are kept if any of them is not text, so that a video is never reduced to its placeholder; `text`
    /// is their text projection.
    pub fn prompt_from_blocks(id: InputId, timestamp: Timestamp, blocks: Vec<ContentBlock>) -> Input {
        let texts: Vec<&str> = blocks.iter().filter_map(ContentBlock::as_text).collect();
        let text = texts.join("\n");
        let only_text = texts.len() == blocks.len();
        let blocks = if only_text { None } else { Some(blocks) };
        Input::durable(
            id,
            timestamp,
            InputOrigin::Operator,
            InputBody::Prompt(Prompt { text, blocks, turn_metadata: None }),
        )
    }

    /// A durable step of a flow.
    pub fn flow_step(
        id: InputId,
        timestamp: Timestamp,
        flow_id: impl Into<String>,
        step_index: u32,
        step_id: impl Into<String>,
        instructions: impl Into<String>,
    ) -> Input {
        let body =
            FlowStep { step_id: step_id.into(), instructions: instructions.into(), blocks: None, turn_metadata: None };
        Input::durable(
            id,
            timestamp,
            InputOrigin::Flow { flow_id: flow_id.into(), step_index },
            InputBody::FlowStep(body),
        )
    }

    /// A durable external event.
    pub fn external_event(
        id: InputId,
        timestamp: Timestamp,
        source_name: impl Into<String>,
        event_type: impl Into<String>,
        payload: Value,
    ) -> Input {
        let body = ExternalEvent {
            event_type: event_type.into(),
            payload,
            blocks: None,
            handling_mode: HandlingMode::Queue,
            render_metadata: None,
        };
        Input::durable(
            id,
            timestamp,
            InputOrigin::External { source_name: source_name.into() },
            InputBody::ExternalEvent(body),
        )
    }

    /// A durable message of a peer; `convention` decides its kind.
    pub fn peer(
        id: InputId,
        timestamp: Timestamp,
        peer_id: impl Into<String>,
        convention: PeerConvention,
        body: impl Into<String>,
    ) -> Input {
        let body = Peer { convention: Some(convention), body: body.into(), blocks: None, handling_mode: None };
        Input::durable(
            id,
            timestamp,
            InputOrigin::Peer { peer_id: peer_id.into(), runtime_id: None },
            InputBody::Peer(body),
        )
    }

    /// The continuation that tells a quiet session of finished background work: system, derived, invisible, steer.
    pub fn detached_background_op_completed(id: InputId, timestamp: Timestamp) -> Input {
        let body = Continuation {
            reason: "detached_background_op_completed".into(),
            handling_mode: HandlingMode::Steer,
            request_id: None,
            notices: Vec::new(),
        };
        let mut input = Input::durable(id, timestamp, InputOrigin::System, InputBody::Continuation(body));
        input.header.durability = Durability::Derived;
        input.header.visibility = Visibility { transcript_eligible: false, operator_eligible: false };
        input
    }

    /// A durable, visible input without keys.
    pub fn durable(id: InputId, timestamp: Timestamp, source: InputOrigin, body: InputBody) -> Input {
        let header = InputHeader {
            id,
            timestamp,
            source,
            durability: Durability::Durable,
            visibility: Visibility::default(),
            idempotency_key: None,
            supersession_key: None,
            correlation_id: None,
            trace: None,
        };
        Input { header, body }
    }

    /// The same input under an idempotency key.
    ///
    /// # Errors
    /// [`InvalidKey`](crate::InvalidKey) if the text is no key.
    pub fn with_key(mut self, key: &str) -> Result<Input, crate::InvalidKey> {
        self.header.idempotency_key = Some(IdempotencyKey::new(key)?);
        Ok(self)
    }

    /// The same input under a supersession key.
    ///
    /// # Errors
    /// [`InvalidKey`](crate::InvalidKey) if the text is no key.
    pub fn superseding(mut self, key: &str) -> Result<Input, crate::InvalidKey> {
        self.header.supersession_key = Some(SupersessionKey::new(key)?);
        Ok(self)
    }

    /// The same input with a handling mode, where its kind can carry one; an operation is returned unchanged.
    pub fn with_mode(mut self, mode: HandlingMode) -> Input {
        match &mut self.body {
            InputBody::Prompt(Prompt { turn_metadata, .. }) | InputBody::FlowStep(FlowStep { turn_metadata, .. }) => {
                turn_metadata.get_or_insert_default().handling_mode = Some(mode);
            }
            InputBody::Peer(peer) => peer.handling_mode = Some(mode),
            InputBody::ExternalEvent(event) => event.handling_mode = mode,
            InputBody::Continuation(continuation) => continuation.handling_mode = mode,
            InputBody::Operation(_) => {}
        }
        self
    }

    /// The same input with another durability.
    pub fn with_durability(mut self, durability: Durability) -> Input {
        self.header.durability = durability;
        self
    }

    /// The same input from somewhere else.
    pub fn from_origin(mut self, source: InputOrigin) -> Input {
        self.header.source = source;
        self
    }

    /// The same input as a part of a trace.
    pub fn traced(mut self, trace: TraceContext) -> Input {
        self.header.trace = Some(trace);
        self
    }

    /// Its identity.
    pub fn id(&self) -> InputId {
        self.header.id
    }

    /// Its row in the policy table.
    pub fn kind(&self) -> InputKind {
        match &self.body {
            InputBody::Prompt(_) => InputKind::Prompt,
            InputBody::Peer(peer) => match peer.convention {
                None | Some(PeerConvention::Message) => InputKind::PeerMessage,
                Some(PeerConvention::Request { .. }) => InputKind::PeerRequest,
                Some(PeerConvention::ResponseProgress { .. }) => InputKind::PeerResponseProgress,
                Some(PeerConvention::ResponseTerminal { .. }) => InputKind::PeerResponseTerminal,
            },
            InputBody::FlowStep(_) => InputKind::FlowStep,
            InputBody::ExternalEvent(_) => InputKind::ExternalEvent,
            InputBody::Continuation(_) => InputKind::Continuation,
            InputBody::Operation(_) => InputKind::Operation,
        }
    }

    /// Where it asks to wait, if it says so.
    pub fn handling_mode(&self) -> Option<HandlingMode> {
        match &self.body {
            InputBody::Prompt(Prompt { turn_metadata, .. }) | InputBody::FlowStep(FlowStep { turn_metadata, .. }) => {
                turn_metadata.as_ref().and_then(|metadata| metadata.handling_mode)
            }
            InputBody::Peer(peer) => peer.handling_mode,
            InputBody::ExternalEvent(event) => Some(event.handling_mode),
            InputBody::Continuation(continuation) => Some(continuation.handling_mode),
            InputBody::Operation(_) => None,
        }
    }

    /// The content blocks, where it has any.
    pub fn blocks(&self) -> Option<&Vec<ContentBlock>> {
        match &self.body {
            InputBody::Prompt(Prompt { blocks, .. })
            | InputBody::Peer(Peer { blocks, .. })
            | InputBody::FlowStep(FlowStep { blocks, .. })
            | InputBody::ExternalEvent(ExternalEvent { blocks, .. }) => blocks.as_ref(),
            InputBody::Continuation(_) | InputBody::Operation(_) => None,
        }
    }

    /// The content blocks, to replace inline media by references.
    pub fn blocks_mut(&mut self) -> Option<&mut Vec<ContentBlock>> {
        match &mut self.body {
            InputBody::Prompt(Prompt { blocks, .. })
            | InputBody::Peer(Peer { blocks, .. })
            | InputBody::FlowStep(FlowStep { blocks, .. })
            | InputBody::ExternalEvent(ExternalEvent { blocks, .. }) => blocks.as_mut(),
            InputBody::Continuation(_) | InputBody::Operation(_) => None,
        }
    }

    /// Whether any of its media still carries its bytes.
    pub fn has_inline_media(&self) -> bool {
        self.blocks().is_some_and(|blocks| blocks.iter().any(ContentBlock::is_inline_media))
    }

    /// The bytes of content it carries: what the payload limit counts. Linear in the content, allocates nothing.
    pub fn payload_bytes(&self) -> usize {
        let blocks: usize = self.blocks().map_or(0, |blocks| blocks.iter().map(ContentBlock::bytes).sum());
        let metadata = |metadata: &Option<Box<TurnMetadata>>| metadata.as_ref().map_or(0, |m| m.bytes());
        blocks
            + match &self.body {
                InputBody::Prompt(prompt) => prompt.text.len() + metadata(&prompt.turn_metadata),
                InputBody::Peer(peer) => peer.body.len(),
                InputBody::FlowStep(step) => step.instructions.len() + metadata(&step.turn_metadata),
                InputBody::ExternalEvent(event) => {
                    json_bytes(&event.payload)
                        + event.event_type.len()
                        + event.render_metadata.as_ref().map_or(0, json_bytes)
                }
                InputBody::Continuation(continuation) => continuation.reason.len(),
                InputBody::Operation(_) => 0,
            }
    }

    /// The deepest nesting of JSON it carries.
    pub fn payload_depth(&self) -> usize {
        let metadata = |metadata: &Option<Box<TurnMetadata>>| metadata.as_ref().map_or(0, |m| m.depth());
        match &self.body {
            InputBody::Prompt(prompt) => metadata(&prompt.turn_metadata),
            InputBody::FlowStep(step) => metadata(&step.turn_metadata),
            InputBody::ExternalEvent(event) => {
                json_depth(&event.payload).max(event.render_metadata.as_ref().map_or(0, json_depth))
            }
            InputBody::Peer(_) | InputBody::Continuation(_) | InputBody::Operation(_) => 0,
        }
    }
}

impl ExternalEvent {
    /// Moves a legacy `payload.blocks` array into the typed `blocks`. A typed list wins; the payload's copy goes
    /// either way.
    ///
    /// # Errors
    /// The decoding error if `payload.blocks` holds no content blocks; the event is unchanged.
    pub fn normalize(&mut self) -> Result<(), serde_json::Error> {
        let Some(object) = self.payload.as_object_mut() else { return Ok(()) };
        let Some(Value::Array(legacy)) = object.get("blocks") else { return Ok(()) };
        if self.blocks.is_none() {
            self.blocks = Some(Vec::<ContentBlock>::deserialize(&Value::Array(legacy.clone()))?);
        }
        object.remove("blocks");
        Ok(())
    }
}

impl ContentBlock {
    /// A block of words.
    pub fn text(text: impl Into<String>) -> ContentBlock {
        ContentBlock::Text { text: text.into() }
    }

    /// The words, if it is words.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            ContentBlock::Text { text } => Some(text),
            ContentBlock::Image { .. } | ContentBlock::Video { .. } => None,
        }
    }

    fn is_inline_media(&self) -> bool {
        matches!(
            self,
            ContentBlock::Image { source: MediaSource::Inline { .. }, .. }
                | ContentBlock::Video { source: MediaSource::Inline { .. }, .. }
        )
    }

    fn bytes(&self) -> usize {
        match self {
            ContentBlock::Text { text } => text.len(),
            ContentBlock::Image { media_type, source } | ContentBlock::Video { media_type, source } => {
                media_type.len()
                    + match source {
                        MediaSource::Inline { data } => data.len(),
                        MediaSource::Blob { .. } => 64,
                        MediaSource::Url { url } => url.len(),
                    }
            }
        }
    }
}

impl TurnMetadata {
    fn values(&self) -> impl Iterator<Item = &Value> {
        [&self.flow_tool_overlay, &self.provider_params, &self.render_metadata].into_iter().flatten()
    }

    fn bytes(&self) -> usize {
        let texts = self.skill_references.iter().chain(&self.additional_instructions);
        texts.map(String::len).sum::<usize>() + self.values().map(json_bytes).sum::<usize>()
    }

    fn depth(&self) -> usize {
        self.values().map(json_depth).max().unwrap_or(0)
    }
}

// Recursion is safe: the deepest JSON that serde_json hands out has 128 levels.
fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(json_bytes).sum(),
        Value::Object(members) => members.iter().map(|(name, value)| name.len() + json_bytes(value)).sum(),
    }
}

fn json_depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(json_depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(json_depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}
