//! How does an executor see the inputs of a run?
//!
//! A [`RunPrimitive`] is what a run adds to the conversation: one append per input, passive inputs and context as
//! context appends, and the inputs' turn settings merged into one. Rendered on demand, so that an executor that looks
//! at the inputs themselves pays for none of it.

use crate::{
    Accepted, CompletionEntry, ContentBlock, ExecutionKind, ExternalEvent, HandlingMode, Input, InputBody, InputId,
    InputOrigin, Peer, PeerConvention, RunApplyBoundary, RunStart, TurnMetadata,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// What a run adds to the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunPrimitive {
    /// Where its first boundary lies.
    pub boundary: RunApplyBoundary,
    /// What the inputs say, one append each, in order.
    pub appends: Vec<ConversationAppend>,
    /// What goes along.
    pub context_appends: Vec<ConversationContextAppend>,
    /// The inputs, in order; also those without an append.
    pub contributing_input_ids: Vec<InputId>,
    /// The inputs' settings, merged: the last present wins, lists are joined.
    pub turn_metadata: TurnMetadata,
}

/// One message for the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConversationAppend {
    /// Who says it.
    pub role: ConversationAppendRole,
    /// What is said.
    pub content: CoreRenderable,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationAppendRole {
    /// The agent's counterpart. Inputs are always this.
    User,
    /// The agent.
    Assistant,
    /// Windlass.
    SystemNotice,
    /// A tool.
    Tool,
}

/// Something for the conversation to know without being asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConversationContextAppend {
    /// Replaces what had this key before: the input's id.
    pub key: String,
    /// What is said.
    pub content: CoreRenderable,
}

/// Content that can be shown to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CoreRenderable {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// Words, pictures and films.
    Blocks {
        /// In order.
        blocks: Vec<ContentBlock>,
    },
    /// Data.
    Json {
        /// The data.
        value: Value,
    },
    /// Something elsewhere.
    Reference {
        /// Where.
        uri: String,
        /// What to call it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        label: Option<String>,
    },
}

/// The content of a run in one piece, as a simple executor wants it.
#[derive(Clone, Debug, PartialEq)]
pub enum ContentInput {
    /// Words only.
    Text(String),
    /// Words, pictures and films.
    Blocks(Vec<ContentBlock>),
}

impl RunPrimitive {
    /// What this run adds.
    pub fn of(start: &RunStart) -> RunPrimitive {
        let mut turn_metadata = TurnMetadata::default();
        for accepted in &start.inputs {
            merge_metadata(&mut turn_metadata, &accepted.input);
        }
        turn_metadata.execution_kind = Some(start.kind);
        RunPrimitive {
            boundary: start.boundary,
            appends: start.inputs.iter().filter_map(|accepted| append(&accepted.input)).collect(),
            context_appends: start.context.iter().filter_map(context_append).collect(),
            contributing_input_ids: start.inputs.iter().chain(&start.context).map(|a| a.input.id()).collect(),
            turn_metadata,
        }
    }

    /// Whether the run brings content or resumes.
    pub fn execution_kind(&self) -> ExecutionKind {
        self.turn_metadata.execution_kind.unwrap_or(ExecutionKind::ContentTurn)
    }

    /// Whether it only appends context: there is nothing to answer.
    pub fn is_context_only_immediate(&self) -> bool {
        self.appends.is_empty() && !self.context_appends.is_empty() && self.boundary == RunApplyBoundary::Immediate
    }

    /// All appends in one piece: words if there is nothing else, blocks otherwise. JSON and references are left out.
    pub fn extract_content_input(&self) -> ContentInput {
        let mut blocks: Vec<ContentBlock> = Vec::new();
        for append in &self.appends {
            match &append.content {
                CoreRenderable::Text { text } => blocks.push(ContentBlock::text(text)),
                CoreRenderable::Blocks { blocks: more } => blocks.extend(more.iter().cloned()),
                CoreRenderable::Json { .. } | CoreRenderable::Reference { .. } => {}
            }
        }
        match &blocks[..] {
            [] => ContentInput::Text(String::new()),
            [ContentBlock::Text { text }] => ContentInput::Text(text.clone()),
            _ => ContentInput::Blocks(blocks),
        }
    }

    /// The words of all appends, a line each.
    pub fn text(&self) -> String {
        match self.extract_content_input() {
            ContentInput::Text(text) => text,
            ContentInput::Blocks(blocks) => {
                blocks.iter().filter_map(ContentBlock::as_text).collect::<Vec<_>>().join("\n")
            }
        }
    }
}

/// What one input says; none for those that only carry on or are only recorded.
pub fn append(input: &Input) -> Option<ConversationAppend> {
    let content = match &input.body {
        InputBody::Prompt(prompt) => text_or_blocks(&prompt.text, prompt.blocks.as_ref()),
        InputBody::FlowStep(step) => text_or_blocks(&step.instructions, step.blocks.as_ref()),
        InputBody::Peer(peer) => render_peer(peer, &input.header.source),
        InputBody::ExternalEvent(event) => render_event(event, &input.header.source),
        InputBody::Continuation(continuation) if !continuation.notices.is_empty() => {
            let text = continuation.notices.iter().map(|entry| notice(entry)).collect::<Vec<_>>().join("\n");
            let content = CoreRenderable::Text { text };
            return Some(ConversationAppend { role: ConversationAppendRole::SystemNotice, content });
        }
        InputBody::Continuation(_) | InputBody::Operation(_) => return None,
    };
    Some(ConversationAppend { role: ConversationAppendRole::User, content })
}

/// What the model reads of a completion.
fn notice(entry: &CompletionEntry) -> String {
    let status = entry.terminal_outcome.status().as_str();
    let mut text = format!("[BACKGROUND JOB {} ({}) {status}]", entry.display_name, entry.operation_id);
    let detail = entry.terminal_outcome.detail().trim();
    if !detail.is_empty() {
        text.push(' ');
        text.push_str(detail);
    }
    text
}

fn context_append(accepted: &Arc<Accepted>) -> Option<ConversationContextAppend> {
    let append = append(&accepted.input)?;
    Some(ConversationContextAppend { key: accepted.input.id().to_string(), content: append.content })
}

fn text_or_blocks(text: &str, blocks: Option<&Vec<ContentBlock>>) -> CoreRenderable {
    match blocks {
        Some(blocks) => CoreRenderable::Blocks { blocks: blocks.clone() },
        None => CoreRenderable::Text { text: text.to_owned() },
    }
}

fn render_peer(peer: &Peer, source: &InputOrigin) -> CoreRenderable {
    let Some(blocks) = &peer.blocks else { return CoreRenderable::Text { text: peer.body.clone() } };
    let mut rendered = Vec::with_capacity(blocks.len() + 1);
    let is_message = matches!(peer.convention, None | Some(PeerConvention::Message));
    match source {
        // A picture alone must not lose its sender.
        InputOrigin::Peer { peer_id, .. } if is_message => {
            rendered.push(ContentBlock::text(format!("[COMMS MESSAGE from {peer_id}]")));
        }
        _ if !peer.body.is_empty() && blocks.first().and_then(ContentBlock::as_text) != Some(&peer.body) => {
            rendered.push(ContentBlock::text(&peer.body));
        }
        _ => {}
    }
    rendered.extend(blocks.iter().cloned());
    CoreRenderable::Blocks { blocks: rendered }
}

fn render_event(event: &ExternalEvent, source: &InputOrigin) -> CoreRenderable {
    let label = match source {
        InputOrigin::External { source_name } if !source_name.trim().is_empty() => source_name,
        _ => &event.event_type,
    };
    let body = event.payload.get("body").and_then(Value::as_str).map_or("", str::trim);
    let mut text = format!("[EVENT via {label}]");
    if !body.is_empty() {
        text.push(' ');
        text.push_str(body);
    }
    match &event.blocks {
        None => CoreRenderable::Text { text },
        // The label stays in front of the blocks, so that source and body are never lost.
        Some(blocks) => {
            let labelled = std::iter::once(ContentBlock::text(text)).chain(blocks.iter().cloned());
            CoreRenderable::Blocks { blocks: labelled.collect() }
        }
    }
}

fn merge_metadata(merged: &mut TurnMetadata, input: &Input) {
    match &input.body {
        InputBody::Prompt(crate::Prompt { turn_metadata: Some(own), .. })
        | InputBody::FlowStep(crate::FlowStep { turn_metadata: Some(own), .. }) => {
            let own = (**own).clone();
            last_wins(&mut merged.handling_mode, own.handling_mode);
            last_wins(&mut merged.keep_alive, own.keep_alive);
            last_wins(&mut merged.flow_tool_overlay, own.flow_tool_overlay);
            last_wins(&mut merged.model, own.model);
            last_wins(&mut merged.provider, own.provider);
            last_wins(&mut merged.provider_params, own.provider_params);
            last_wins(&mut merged.render_metadata, own.render_metadata);
            merged.skill_references.extend(own.skill_references);
            merged.additional_instructions.extend(own.additional_instructions);
        }
        InputBody::ExternalEvent(event) => {
            last_wins(&mut merged.handling_mode, Some(event.handling_mode));
            last_wins(&mut merged.render_metadata, event.render_metadata.clone());
        }
        InputBody::Continuation(continuation) => {
            last_wins::<HandlingMode>(&mut merged.handling_mode, Some(continuation.handling_mode));
        }
        InputBody::Prompt(_) | InputBody::FlowStep(_) | InputBody::Peer(_) | InputBody::Operation(_) => {}
    }
}

fn last_wins<T>(merged: &mut Option<T>, own: Option<T>) {
    if own.is_some() {
        *merged = own;
    }
}

/// How a model reads that a peer answered, or that something in its place did: `status` is `accepted`, `completed` or
/// `failed`.
pub fn response_text(from: &str, request: &str, status: &str, result: &Value) -> String {
    let header = format!("[COMMS RESPONSE from {from} (to request: {request})]\nStatus: {status}");
    if result.is_null() { header } else { format!("{header}\nResult: {result:#}") }
}
