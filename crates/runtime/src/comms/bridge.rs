//! Which input does a candidate become, and which event the outcome of it?

use super::{
    candidate::{InboxInteraction, InteractionContent, PeerInputCandidate, PeerInputClass},
    envelope::ResponseStatus,
};
use crate::completion::CompletionOutcome;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_core::{
    ContentBlock, CorrelationId, Durability, ExternalEvent, HandlingMode, IdempotencyKey, Input, InputBody, InputId,
    InputOrigin, InputState, Peer, PeerConvention, ProgressPhase, SupersessionKey, TerminalStatus, Timestamp,
    answer_key,
};

/// How an interaction ended, for whoever injected it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InteractionEvent {
    /// A run handled it.
    InteractionComplete {
        /// What the run said; empty if it said nothing.
        result: String,
    },
    /// The run waits for an outside tool.
    InteractionCallbackPending {
        /// The tool.
        tool_name: String,
        /// What it was asked.
        args: Value,
    },
    /// Nothing handled it.
    InteractionFailed {
        /// Why.
        error: String,
    },
}

/// The input that a candidate becomes; none for a dismissal, which is no input.
///
/// The class decides, not the sender's name: a peer that is called like an event source stays a peer.
pub fn input_of(candidate: &PeerInputCandidate, id: InputId, now: Timestamp) -> Option<Input> {
    let interaction = &candidate.interaction;
    let mut input = match candidate.class {
        PeerInputClass::Dismiss => return None,
        PeerInputClass::PlainEvent => event_input(interaction, id, now),
        PeerInputClass::SilentRequest => {
            let mut input = peer_input(interaction, id, now);
            if let InputBody::Peer(peer) = &mut input.body {
                // Nobody steers by what shall not be noticed.
                peer.handling_mode = None;
            }
            input
        }
        _ => peer_input(interaction, id, now),
    };
    input.header.idempotency_key = Some(idempotency_key(interaction, &input.body));
    input.header.correlation_id = Some(CorrelationId::from_uuid(interaction.id.0));
    Some(input)
}

/// The sender's key and the envelope's id, hashed, because names may hold what keys may not. A terminal response has the
/// one key of its request: the first to come is the answer.
fn idempotency_key(interaction: &InboxInteraction, body: &InputBody) -> IdempotencyKey {
    match (body, &interaction.content) {
        (InputBody::Peer(_), InteractionContent::Response { in_reply_to, status, .. }) if status.is_terminal() => {
            answer_key(CorrelationId::from_uuid(in_reply_to.0))
        }
        _ => {
            let key = format!("peer-{}", hashed(interaction.from_key.as_str(), interaction.id.0.as_bytes()));
            IdempotencyKey::new(key).expect("a hash in hex is visible ASCII")
        }
    }
}

fn hashed(name: &str, rest: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    // The length keeps name and rest apart.
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(rest);
    hasher.finalize()
}

fn event_input(interaction: &InboxInteraction, id: InputId, now: Timestamp) -> Input {
    let shown = interaction.from.as_str();
    let source = shown.strip_prefix("event:").unwrap_or(shown);
    let (payload, blocks) = match &interaction.content {
        InteractionContent::Message { body, blocks } => (json!({ "body": body }), blocks.clone()),
        InteractionContent::Request { intent, params } => (json!({ "intent": intent, "params": params }), None),
        InteractionContent::Response { in_reply_to, status, result } => {
            (json!({ "in_reply_to": in_reply_to, "status": status, "result": result }), None)
        }
    };
    let body = ExternalEvent {
        event_type: source.to_owned(),
        payload,
        blocks,
        handling_mode: interaction.handling_mode,
        render_metadata: interaction.render_metadata.clone(),
    };
    let origin = InputOrigin::External { source_name: source.to_owned() };
    Input::durable(id, now, origin, InputBody::ExternalEvent(body))
}

fn peer_input(interaction: &InboxInteraction, id: InputId, now: Timestamp) -> Input {
    let or_json = |value: &Value| {
        if interaction.rendered_text.is_empty() { value.to_string() } else { interaction.rendered_text.clone() }
    };
    let (convention, body, blocks) = match &interaction.content {
        InteractionContent::Message { body, blocks } => {
            let text = if interaction.rendered_text.is_empty() { body } else { &interaction.rendered_text };
            (PeerConvention::Message, text.clone(), blocks.as_ref().map(|blocks| with_words(body, blocks)))
        }
        InteractionContent::Request { intent, params } => {
            let request_id = interaction.id.to_string();
            (PeerConvention::Request { request_id, intent: intent.clone() }, or_json(params), None)
        }
        InteractionContent::Response { in_reply_to, status, result } => {
            let request_id = in_reply_to.to_string();
            let convention = match status {
                ResponseStatus::Accepted => {
                    PeerConvention::ResponseProgress { request_id, phase: ProgressPhase::Accepted }
                }
                ResponseStatus::Completed => {
                    PeerConvention::ResponseTerminal { request_id, status: TerminalStatus::Completed }
                }
                ResponseStatus::Failed => {
                    PeerConvention::ResponseTerminal { request_id, status: TerminalStatus::Failed }
                }
            };
            (convention, or_json(result), None)
        }
    };
    let progress = match &convention {
        PeerConvention::ResponseProgress { request_id, .. } => Some(hashed("progress", request_id.as_bytes())),
        _ => None,
    };
    // Progress says nothing that anybody would steer by, and a hint on it must not cost the progress.
    let steer = interaction.handling_mode == HandlingMode::Steer && progress.is_none();
    let handling_mode = steer.then_some(HandlingMode::Steer);
    let origin = InputOrigin::Peer {
        peer_id: interaction.from.as_str().to_owned(),
        runtime_id: interaction.from_runtime.clone(),
    };
    let peer = Peer { convention: Some(convention), body, blocks, handling_mode };
    let mut input = Input::durable(id, now, origin, InputBody::Peer(peer));
    if let Some(scope) = progress {
        input.header.durability = Durability::Ephemeral;
        // The newest progress of a request is the one worth keeping.
        let scope = SupersessionKey::new(format!("progress-{scope}")).expect("a hash in hex is visible ASCII");
        input.header.supersession_key = Some(scope);
    }
    input
}

/// The blocks, with the words before them that stand in none of them: where there are blocks, only they are shown.
fn with_words(body: &str, blocks: &[ContentBlock]) -> Vec<ContentBlock> {
    let texts: Vec<&str> = blocks.iter().filter_map(ContentBlock::as_text).collect();
    let said = body.trim().is_empty() || texts.contains(&body) || texts.join("\n") == body;
    let words = (!said).then(|| ContentBlock::text(body));
    words.into_iter().chain(blocks.iter().cloned()).collect()
}

/// What whoever injected an interaction hears of its outcome.
pub fn event_of(outcome: &CompletionOutcome) -> InteractionEvent {
    let failed = |error: String| InteractionEvent::InteractionFailed { error };
    match outcome {
        CompletionOutcome::Completed(result) => InteractionEvent::InteractionComplete { result: result.text.clone() },
        CompletionOutcome::CompletedWithoutResult | CompletionOutcome::Forgotten(InputState::Consumed) => {
            InteractionEvent::InteractionComplete { result: String::new() }
        }
        CompletionOutcome::CallbackPending(tool) => {
            InteractionEvent::InteractionCallbackPending { tool_name: tool.tool_name.clone(), args: tool.args.clone() }
        }
        CompletionOutcome::Abandoned(reason) => failed(reason.code().to_owned()),
        CompletionOutcome::Failed { error, .. } => failed(error.to_string()),
        CompletionOutcome::Cancelled { .. } => failed("cancelled".to_owned()),
        CompletionOutcome::Superseded { .. } => failed("superseded".to_owned()),
        CompletionOutcome::RuntimeTerminated(reason) => failed(reason.clone()),
        CompletionOutcome::Forgotten(state) => failed(format!("{state:?}").to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comms::{ChainId, Envelope, EnvelopeBody, EnvelopeId, Ingress, PeerName, PlainEvent, SenderNames};
    use std::sync::Arc;
    use uuid::Uuid;
    use windlass_core::{AbandonReason, MediaSource, PendingTool, RunResult, render};

    fn id() -> EnvelopeId {
        EnvelopeId(Uuid::from_u128(7))
    }

    fn candidate(from: &str, body: EnvelopeBody) -> PeerInputCandidate {
        let name = PeerName::new(from).unwrap();
        let chain = ChainId(Uuid::from_u128(1));
        let envelope = Envelope { id: id(), from: name.clone(), to: name.clone(), chain, hops: 0, body };
        let names = SenderNames { trusted: Some(&name), registered: None, runtime_id: Some("theirs") };
        Ingress::default().classify(&envelope, names).unwrap()
    }

    fn mapped(candidate: &PeerInputCandidate) -> Input {
        input_of(candidate, InputId::from_uuid(Uuid::from_u128(1)), Timestamp::ZERO).unwrap()
    }

    fn peer(input: &Input) -> &Peer {
        match &input.body {
            InputBody::Peer(peer) => peer,
            body => panic!("{body:?}"),
        }
    }

    fn response(status: ResponseStatus, handling_mode: Option<HandlingMode>) -> EnvelopeBody {
        EnvelopeBody::Response { in_reply_to: id(), status, result: json!(1), handling_mode }
    }

    // OC 60, 61
    // S 171
    #[test]
    fn the_class_decides_whether_it_is_an_event_not_the_name() {
        let source = PeerName::new("webhook").unwrap();
        let event = PlainEvent { render_metadata: Some(json!("shown")), ..PlainEvent::new(source, "it rains") };
        let event_id = event.id;
        let input = mapped(&event.candidate());
        assert_eq!(input.header.source, InputOrigin::External { source_name: "webhook".into() });
        assert_eq!(input.header.correlation_id, Some(CorrelationId::from_uuid(event_id.0)));
        assert_eq!(input.header.durability, Durability::Durable);
        let InputBody::ExternalEvent(event) = &input.body else { panic!("{input:?}") };
        assert_eq!((event.event_type.as_str(), &event.payload), ("webhook", &json!({"body": "it rains"})));
        assert_eq!(event.render_metadata, Some(json!("shown")));

        let message = EnvelopeBody::Message { body: "hi".into(), blocks: None, handling_mode: None };
        let input = mapped(&candidate("event:webhook", message));
        let origin = InputOrigin::Peer { peer_id: "event:webhook".into(), runtime_id: Some("theirs".into()) };
        assert_eq!(input.header.source, origin);
        assert_eq!(peer(&input).body, "[COMMS MESSAGE from event:webhook]\nhi");
    }

    // OC 62, 64
    // S 171, 173
    #[test]
    fn responses_are_progress_or_the_end_and_hints_are_kept_where_they_mean_something() {
        let request_id = id().to_string();
        for (status, convention, durability) in [
            (
                ResponseStatus::Accepted,
                PeerConvention::ResponseProgress { request_id: request_id.clone(), phase: ProgressPhase::Accepted },
                Durability::Ephemeral,
            ),
            (
                ResponseStatus::Completed,
                PeerConvention::ResponseTerminal { request_id: request_id.clone(), status: TerminalStatus::Completed },
                Durability::Durable,
            ),
            (
                ResponseStatus::Failed,
                PeerConvention::ResponseTerminal { request_id: request_id.clone(), status: TerminalStatus::Failed },
                Durability::Durable,
            ),
        ] {
            for (mode, kept) in [
                (None, None),
                (Some(HandlingMode::Queue), None),
                (Some(HandlingMode::Steer), Some(HandlingMode::Steer).filter(|_| status.is_terminal())),
            ] {
                let input = mapped(&candidate("ada", response(status, mode)));
                assert_eq!(peer(&input).convention.as_ref(), Some(&convention));
                assert_eq!((input.header.durability, peer(&input).handling_mode), (durability, kept), "{status:?}");
                assert_eq!(input.header.supersession_key.is_some(), !status.is_terminal());
            }
        }
    }

    // OC 63
    #[test]
    fn pictures_keep_their_sender_and_their_words() {
        let picture = ContentBlock::Image {
            media_type: "image/png".into(),
            source: MediaSource::Url { url: "https://example.org/a.png".into() },
        };
        let message =
            |body: &str, blocks| EnvelopeBody::Message { body: body.into(), blocks: Some(blocks), handling_mode: None };
        let shown = |input: &Input| match render::append(input).unwrap().content {
            render::CoreRenderable::Blocks { blocks } => blocks,
            content => panic!("{content:?}"),
        };
        let sender = ContentBlock::text("[COMMS MESSAGE from ada]");
        let words = ContentBlock::text("look");
        let bare = mapped(&candidate("ada", message("", vec![picture.clone()])));
        assert_eq!(shown(&bare), [sender.clone(), picture.clone()]);
        let both = [sender, words.clone(), picture.clone()];
        let beside = mapped(&candidate("ada", message("look", vec![picture.clone()])));
        assert_eq!(shown(&beside), both);
        let within = mapped(&candidate("ada", message("look", vec![words, picture])));
        assert_eq!(shown(&within), both, "not said twice");
    }

    // OC 65
    #[test]
    fn the_key_is_sender_and_envelope_whatever_the_sender_is_called() {
        let message = || EnvelopeBody::Message { body: "hi".into(), blocks: None, handling_mode: None };
        let key = |candidate: &PeerInputCandidate| mapped(candidate).header.idempotency_key.unwrap();
        let first = candidate("Ada Lovelace", message());
        let mut renamed = first.clone();
        renamed.interaction.from = PeerName::new("ada").unwrap();
        assert_eq!(key(&first), key(&renamed));
        assert_ne!(key(&first), key(&candidate("bob", message())), "another sender's envelope of the same id");
        let mut other = first.clone();
        other.interaction.id = EnvelopeId(Uuid::from_u128(8));
        assert_ne!(key(&first), key(&other));
    }

    // OC 81
    #[test]
    fn every_outcome_has_its_event() {
        let complete = |result: &str| InteractionEvent::InteractionComplete { result: result.into() };
        let failed = |error: &str| InteractionEvent::InteractionFailed { error: error.into() };
        let tool = PendingTool { tool_name: "ask".into(), args: json!([1]) };
        for (outcome, event) in [
            (CompletionOutcome::Completed(Arc::new(RunResult::text("done"))), complete("done")),
            (CompletionOutcome::CompletedWithoutResult, complete("")),
            (
                CompletionOutcome::CallbackPending(Arc::new(tool)),
                InteractionEvent::InteractionCallbackPending { tool_name: "ask".into(), args: json!([1]) },
            ),
            (CompletionOutcome::Abandoned(AbandonReason::Cancelled), failed("cancelled")),
            (CompletionOutcome::RuntimeTerminated("runtime stopped".into()), failed("runtime stopped")),
        ] {
            assert_eq!(event_of(&outcome), event);
        }
    }
}
