//! How is something addressed to a session, and what is heard of it?
//!
//! A request type says only what a client may say: origin, receipts, notices and whatever else the session itself sets
//! have no field.

use crate::{Completion, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use windlass_core::{
    BlobId, CorrelationId, Decision, HandlingMode, InputId, InputKind, InputState, OpEvent, OperationId, ProgressPhase,
    SessionId, SupersessionKey, TerminalStatus, TraceContext,
};

/// Something to address to a session: one of six kinds, told by `kind`.
///
/// ```
/// let input: windlass_api::NewInput = serde_json::from_str(r#"{"kind": "prompt", "text": "hello"}"#).unwrap();
/// assert_eq!(serde_json::to_value(&input).unwrap()["kind"], "prompt");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NewInput {
    /// Words for the agent from whoever it works for.
    Prompt(NewPrompt),
    /// A message of another agent. Needs the scope `peers:send` too.
    Peer(NewPeer),
    /// A step of a flow.
    FlowStep(NewFlowStep),
    /// Something happened outside.
    ExternalEvent(NewExternalEvent),
    /// Carry on with what is already there.
    Continuation(NewContinuation),
    /// News of a background operation; recorded, never a turn.
    Operation(NewOperation),
}

impl NewInput {
    /// The kinds, as they are written.
    pub const KINDS: [&str; 6] = ["prompt", "peer", "flow_step", "external_event", "continuation", "operation"];

    /// A prompt.
    pub fn prompt(text: impl Into<String>) -> NewInput {
        NewInput::Prompt(NewPrompt { text: text.into(), ..NewPrompt::default() })
    }
}

macro_rules! new_input {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$field:meta])* $member:ident: $type:ty,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field])* pub $member: $type,)*
            /// Its id. Absent: a new one. The same id again is a duplicate, or a conflict if it says something else.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::InputId>))]
            pub id: Option<InputId>,
            /// Where it waits while a run is on. Absent: the policy says.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::HandlingMode>))]
            pub handling_mode: Option<HandlingMode>,
            /// What survives a crash. Absent: everything.
            #[serde(default)]
            #[cfg_attr(feature = "openapi", schema(required = false))]
            pub durability: RequestDurability,
            /// The scope in which newer inputs replace or join older ones.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Key>))]
            pub supersession_key: Option<SupersessionKey>,
            /// Ties it to something outside.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Uuid>))]
            pub correlation_id: Option<CorrelationId>,
        }
    };
}

new_input! {
    /// Words for the agent.
    NewPrompt {
        /// The words. With `blocks` they stand before them.
        text: String,
        /// Text, images and video, in order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "openapi", schema(required = false, max_items = 1000))]
        blocks: Vec<Block>,
        /// Settings for the turn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        turn_metadata: Option<TurnSettings>,
    }
}

new_input! {
    /// A message of another agent.
    NewPeer {
        /// The sender's name.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Name))]
        peer_id: String,
        /// The runtime it lives in, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Name>))]
        runtime_id: Option<String>,
        /// What kind of message. Absent: a plain one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        convention: Option<Convention>,
        /// The text as the model shall read it.
        body: String,
        /// Text, images and video.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "openapi", schema(required = false, max_items = 1000))]
        blocks: Vec<Block>,
    }
}

new_input! {
    /// A step of a flow.
    NewFlowStep {
        /// The flow.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Name))]
        flow_id: String,
        /// The step's index in it.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(required = false, maximum = 4_294_967_295_u64))]
        step_index: u32,
        /// The step.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Name))]
        step_id: String,
        /// What to do. With `blocks` it stands before them.
        instructions: String,
        /// Text, images and video, in order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "openapi", schema(required = false, max_items = 1000))]
        blocks: Vec<Block>,
        /// Settings for the turn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        turn_metadata: Option<TurnSettings>,
    }
}

new_input! {
    /// Something happened outside.
    NewExternalEvent {
        /// Who says so: a webhook, a schedule.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Name))]
        source_name: String,
        /// What happened.
        #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
        event_type: String,
        /// The details; a string member `body` is what the model reads.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::AnyJson, required = false))]
        payload: Value,
        /// Text, images and video.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "openapi", schema(required = false, max_items = 1000))]
        blocks: Vec<Block>,
        /// How a surface may show it; passed through.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::AnyJson>))]
        render_metadata: Option<Value>,
    }
}

new_input! {
    /// Carry on with what is already there.
    NewContinuation {
        /// Why.
        #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 1000))]
        reason: String,
        /// The request it carries on with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Name>))]
        request_id: Option<String>,
    }
}

/// News of a background operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewOperation {
    /// The operation.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OperationId))]
    pub operation_id: OperationId,
    /// What became of it.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::OpEvent))]
    pub event: OpEvent,
    /// Its id. Absent: a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::InputId>))]
    pub id: Option<InputId>,
    /// Ties it to something outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Uuid>))]
    pub correlation_id: Option<CorrelationId>,
}

/// What survives a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RequestDurability {
    /// On disk before the answer.
    #[default]
    Durable,
    /// May vanish with the process; answered at once.
    Ephemeral,
}

/// The kinds of peer messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Convention {
    /// Says something.
    Message {},
    /// Asks for something and expects a terminal response.
    Request {
        /// Names the request in its responses.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Name))]
        request_id: String,
        /// What is asked; silent intents match on it.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Word))]
        intent: String,
    },
    /// Says how a request is getting on.
    ResponseProgress {
        /// The request.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Name))]
        request_id: String,
        /// How far it is.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::ProgressPhase))]
        phase: ProgressPhase,
    },
    /// Ends a request.
    ResponseTerminal {
        /// The request.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Name))]
        request_id: String,
        /// How it ended.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::TerminalStatus))]
        status: TerminalStatus,
    },
}

/// One piece of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Block {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A picture.
    Image {
        /// For example `image/png`.
        #[cfg_attr(feature = "openapi", schema(max_length = 127))]
        media_type: String,
        /// Where its bytes are.
        source: Media,
    },
    /// A film.
    Video {
        /// For example `video/mp4`.
        #[cfg_attr(feature = "openapi", schema(max_length = 127))]
        media_type: String,
        /// Where its bytes are.
        source: Media,
    },
}

/// Where the bytes of a picture or film are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "source_type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Media {
    /// Here, in base64. Moved to the blob store when the input is admitted.
    Inline {
        /// Base64, standard alphabet.
        #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"))]
        data: Arc<str>,
    },
    /// In the blob store, where it was uploaded before.
    Blob {
        /// Its address.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::BlobId))]
        blob: BlobId,
        /// Its length.
        bytes: u64,
    },
    /// Somewhere the executor can reach. Windlass never fetches it.
    Url {
        /// The address.
        #[cfg_attr(feature = "openapi", schema(max_length = 8192))]
        url: String,
    },
}

/// Settings for one turn; passed through to the executor. All optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TurnSettings {
    /// Keep the session's resources after the turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<bool>,
    /// Skills to load.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 1000))]
    pub skill_references: Vec<String>,
    /// Tools of the flow step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::AnyJson>))]
    pub flow_tool_overlay: Option<Value>,
    /// Further instructions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 1000))]
    pub additional_instructions: Vec<String>,
    /// Another model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Another provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Settings of the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::AnyJson>))]
    pub provider_params: Option<Value>,
    /// How a surface may show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::AnyJson>))]
    pub render_metadata: Option<Value>,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// It is accounted for from now on.
    Accepted,
    /// It is already there: nothing was recorded.
    Deduplicated,
}

/// An input is accounted for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Admitted {
    /// The input; of a duplicate, the one that was there.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputId))]
    pub id: InputId,
    /// The session.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// Whether it is new.
    pub outcome: Admission,
    /// Where it is now.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputState))]
    pub state: InputState,
    /// What the policy said. Absent for duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Decision>))]
    pub decision: Option<Decision>,
    /// How many wait in its lane before it. Absent for duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u32>,
    /// Whether it is on disk.
    pub durable: bool,
    /// What it came to, if that was waited for and came in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Completion>,
}

/// What a wait came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Waited {
    /// The input.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputId))]
    pub id: InputId,
    /// The session.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// Where it is now.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputState))]
    pub state: InputState,
    /// What it came to. Absent: it is not over yet; wait again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Completion>,
}

/// An input, as it was admitted, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InputView {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputId))]
    pub id: InputId,
    /// Its session.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// Where it is. Lists tell all open ones as `queued`; ask for one to hear exactly.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputState))]
    pub state: InputState,
    /// Whether something went wrong and `redrive` may try again.
    pub dead: bool,
    /// The entry of the journal that admitted it. Without `kind`, that entry is no longer kept.
    pub seq: u64,
    /// Its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::InputKind>))]
    pub kind: Option<InputKind>,
    /// When it was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Time>,
    /// Where it comes from: an object whose `type` is `operator`, `peer`, `flow`, `system` or `external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub source: Option<Value>,
    /// What it says: the fields of its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub body: Option<Value>,
    /// The key under which it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The scope in which newer inputs replace or join older ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersession_key: Option<String>,
    /// Ties it to something outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Uuid>))]
    pub correlation_id: Option<CorrelationId>,
    /// The place in a trace (W3C Trace Context) that its runs continue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub traceparent: Option<TraceContext>,
    /// What the policy decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Decision>))]
    pub decision: Option<Decision>,
    /// The row of the policy that decided, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_row: Option<u32>,
    /// The dead letter that it is a new try of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::InputId>))]
    pub redrive_of: Option<InputId>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Time>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Completion>,
}

/// Which inputs to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum InputPhase {
    /// Those that are not over.
    Open,
    /// Those that are over.
    Done,
    /// Dead letters.
    Dead,
}

/// An input was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Withdrawn {
    /// The input.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputId))]
    pub id: InputId,
    /// Where it is now.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::InputState))]
    pub state: InputState,
}

#[cfg(feature = "openapi")]
mod schema {
    use super::{NewContinuation, NewExternalEvent, NewFlowStep, NewInput, NewOperation, NewPeer, NewPrompt};
    use utoipa::{
        PartialSchema, ToSchema,
        openapi::{
            ObjectBuilder, RefOr, Schema,
            schema::{Discriminator, OneOfBuilder, Type},
        },
    };

    /// Each kind is a closed object whose `kind` is one word. Written by hand, because a derived one would refer to
    /// closed objects that know no `kind`, which nothing could match.
    impl PartialSchema for NewInput {
        fn schema() -> RefOr<Schema> {
            let kinds = [
                NewPrompt::schema(),
                NewPeer::schema(),
                NewFlowStep::schema(),
                NewExternalEvent::schema(),
                NewContinuation::schema(),
                NewOperation::schema(),
            ];
            let union = OneOfBuilder::new()
                .description(Some("Something to address to a session: one of six kinds, told by `kind`."))
                .discriminator(Some(Discriminator::new("kind")));
            let one = |kind: &str, schema: RefOr<Schema>| -> RefOr<Schema> {
                let RefOr::T(Schema::Object(mut object)) = schema else {
                    unreachable!("the schema of a struct is an object")
                };
                let word: Schema =
                    ObjectBuilder::new().schema_type(Type::String).enum_values(Some([kind.to_owned()])).into();
                object.properties.insert("kind".into(), word.into());
                object.required.insert(0, "kind".into());
                RefOr::T(Schema::Object(object))
            };
            NewInput::KINDS
                .into_iter()
                .zip(kinds)
                .fold(union, |union, (kind, schema)| union.item(one(kind, schema)))
                .into()
        }
    }

    impl ToSchema for NewInput {
        fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
            NewPrompt::schemas(schemas);
            NewPeer::schemas(schemas);
            NewFlowStep::schemas(schemas);
            NewExternalEvent::schemas(schemas);
            NewContinuation::schemas(schemas);
            NewOperation::schemas(schemas);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_and_refuses_what_is_not_its_own() {
        for (kind, json) in NewInput::KINDS.into_iter().zip([
            r#"{"kind":"prompt","text":"hello","handling_mode":"steer"}"#,
            r#"{"kind":"peer","peer_id":"ada","body":"hi","convention":{"type":"request","request_id":"r","intent":"i"}}"#,
            r#"{"kind":"flow_step","flow_id":"f","step_id":"s","instructions":"do"}"#,
            r#"{"kind":"external_event","source_name":"cron","event_type":"tick","payload":{"body":"now"}}"#,
            r#"{"kind":"continuation","reason":"go on"}"#,
            r#"{"kind":"operation","operation_id":"0190b8a0-1111-7222-8333-444455556666","event":"started"}"#,
        ]) {
            let input: NewInput = serde_json::from_str(json).unwrap();
            let again = serde_json::to_value(&input).unwrap();
            assert_eq!(again["kind"], kind);
            assert_eq!(serde_json::from_value::<NewInput>(again).unwrap(), input);
            for forbidden in ["source", "timestamp", "notices", "origin", "tenant"] {
                let forged = json.replacen('{', &format!(r#"{{"{forbidden}":1,"#), 1);
                assert!(serde_json::from_str::<NewInput>(&forged).is_err(), "{forged}");
            }
        }
    }
}
