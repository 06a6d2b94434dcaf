//! How is what a peer sends classified, and how does a model read it?
//!
//! Classified once, when it comes in, by the rules that its receiver has then: trust that is withdrawn later does not
//! reach back into the inbox.

use super::envelope::{Envelope, EnvelopeBody, EnvelopeId, PeerName, ResponseStatus};
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _};
use windlass_core::{ContentBlock, HandlingMode, render};

/// A receiver's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingress {
    /// Whether only trusted peers are heard.
    pub auth_required: bool,
    /// Requests with these intents start no runs.
    pub silent_intents: BTreeSet<String>,
}

/// Under which names a receiver knows a sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct SenderNames<'a> {
    /// Given with its trust.
    pub trusted: Option<&'a PeerName>,
    /// Found in the registry of the process.
    pub registered: Option<&'a PeerName>,
    /// The runtime that the sender lives in.
    pub runtime_id: Option<&'a str>,
}

/// Something in an inbox, classified.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerInputCandidate {
    /// What it says.
    pub interaction: InboxInteraction,
    /// What it is to the receiver.
    pub class: PeerInputClass,
    /// The peer whose life it tells of.
    pub lifecycle_peer: Option<String>,
}

/// Something that somebody said to a session.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxInteraction {
    /// The envelope's id; for a plain event, what its injector chose.
    pub id: EnvelopeId,
    /// The sender, as the receiver calls it.
    pub from: PeerName,
    /// The sender's key, which stays when it is called otherwise.
    pub from_key: PeerName,
    /// The runtime that the sender lives in, where known.
    pub from_runtime: Option<String>,
    /// What was said.
    pub content: InteractionContent,
    /// What was said, as a model reads it.
    pub rendered_text: String,
    /// Where it asks to wait.
    pub handling_mode: HandlingMode,
    /// How a surface may show it; passed through.
    pub render_metadata: Option<Value>,
}

/// What was said.
#[derive(Clone, Debug, PartialEq)]
pub enum InteractionContent {
    /// Something.
    Message {
        /// The words.
        body: String,
        /// Text, images and video.
        blocks: Option<Vec<ContentBlock>>,
    },
    /// That something is wanted.
    Request {
        /// What.
        intent: String,
        /// The details.
        params: Value,
    },
    /// How a request is getting on, or how it ended.
    Response {
        /// The request.
        in_reply_to: EnvelopeId,
        /// How far it is.
        status: ResponseStatus,
        /// The answer.
        result: Value,
    },
}

/// What an interaction is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerInputClass {
    /// A message.
    ActionableMessage,
    /// A request.
    ActionableRequest,
    /// A request that starts no run.
    SilentRequest,
    /// An answer.
    Response,
    /// A peer came.
    PeerLifecycleAdded,
    /// A peer went.
    PeerLifecycleRetired,
    /// A peer is no longer connected.
    PeerLifecycleUnwired,
    /// A peer's first task failed.
    PeerLifecycleKickoffFailed,
    /// A peer's first task was called off.
    PeerLifecycleKickoffCancelled,
    /// Something happened outside.
    PlainEvent,
    /// The session is to stop. A control entry: never an input, and in its place among the others.
    Dismiss,
}

/// An event that is no peer's.
#[derive(Clone, Debug, PartialEq)]
pub struct PlainEvent {
    /// Its identity, chosen by who injects it.
    pub id: EnvelopeId,
    /// Where it comes from.
    pub source: PeerName,
    /// What happened.
    pub content: InteractionContent,
    /// Where it asks to wait.
    pub handling_mode: HandlingMode,
    /// How a surface may show it.
    pub render_metadata: Option<Value>,
}

/// The sender is not trusted, and the receiver hears only those who are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer_unknown: the receiver does not trust the sender; have it add the sender's key first")]
pub struct Untrusted;

impl Ingress {
    /// What an envelope is to this receiver.
    ///
    /// # Errors
    /// [`Untrusted`]: it is to be dropped.
    pub fn classify(&self, envelope: &Envelope, names: SenderNames<'_>) -> Result<PeerInputCandidate, Untrusted> {
        let from = match names.trusted {
            Some(name) => name,
            None if self.auth_required => return Err(Untrusted),
            None => names.registered.unwrap_or(&envelope.from),
        };
        let class = self.class(&envelope.body);
        let (content, mode) = match &envelope.body {
            EnvelopeBody::Message { body, blocks, handling_mode } => {
                (InteractionContent::Message { body: body.clone(), blocks: blocks.clone() }, *handling_mode)
            }
            EnvelopeBody::Request { intent, params, handling_mode } => {
                (InteractionContent::Request { intent: intent.clone(), params: params.clone() }, *handling_mode)
            }
            EnvelopeBody::Response { in_reply_to, status, result, handling_mode } => {
                let content =
                    InteractionContent::Response { in_reply_to: *in_reply_to, status: *status, result: result.clone() };
                (content, *handling_mode)
            }
        };
        let told_of = match &content {
            InteractionContent::Request { params, .. } => params.get("peer").and_then(Value::as_str),
            InteractionContent::Message { .. } | InteractionContent::Response { .. } => None,
        };
        let told_of = told_of.filter(|name| !name.is_empty()).unwrap_or(from.as_str());
        let lifecycle_peer = class.is_lifecycle().then(|| told_of.to_owned());
        let interaction = InboxInteraction {
            id: envelope.id,
            from: from.clone(),
            from_key: envelope.from.clone(),
            from_runtime: names.runtime_id.map(str::to_owned),
            rendered_text: rendered(envelope.id, from, &content),
            content,
            handling_mode: mode.unwrap_or_default(),
            render_metadata: None,
        };
        Ok(PeerInputCandidate { interaction, class, lifecycle_peer })
    }

    fn class(&self, body: &EnvelopeBody) -> PeerInputClass {
        match body {
            EnvelopeBody::Message { body, .. } if body.trim().eq_ignore_ascii_case("DISMISS") => {
                PeerInputClass::Dismiss
            }
            EnvelopeBody::Message { .. } => PeerInputClass::ActionableMessage,
            // The life of a peer is told to whoever asked for silence too, so these stand before the list.
            EnvelopeBody::Request { intent, .. } => match intent.as_str() {
                "mob.peer_added" => PeerInputClass::PeerLifecycleAdded,
                "mob.peer_retired" => PeerInputClass::PeerLifecycleRetired,
                "mob.peer_unwired" => PeerInputClass::PeerLifecycleUnwired,
                "mob.kickoff_failed" => PeerInputClass::PeerLifecycleKickoffFailed,
                "mob.kickoff_cancelled" => PeerInputClass::PeerLifecycleKickoffCancelled,
                intent if self.silent_intents.contains(intent) => PeerInputClass::SilentRequest,
                _ => PeerInputClass::ActionableRequest,
            },
            EnvelopeBody::Response { .. } => PeerInputClass::Response,
        }
    }
}

impl PeerInputClass {
    /// Whether it tells of a peer's life.
    pub const fn is_lifecycle(self) -> bool {
        matches!(
            self,
            PeerInputClass::PeerLifecycleAdded
                | PeerInputClass::PeerLifecycleRetired
                | PeerInputClass::PeerLifecycleUnwired
                | PeerInputClass::PeerLifecycleKickoffFailed
                | PeerInputClass::PeerLifecycleKickoffCancelled
        )
    }
}

impl PlainEvent {
    /// An event with words.
    pub fn new(source: PeerName, body: impl Into<String>) -> PlainEvent {
        PlainEvent {
            id: EnvelopeId(uuid::Uuid::new_v4()),
            source,
            content: InteractionContent::Message { body: body.into(), blocks: None },
            handling_mode: HandlingMode::Queue,
            render_metadata: None,
        }
    }

    /// The event as it stands in an inbox: its sender is shown as `event:` and the source.
    pub fn candidate(self) -> PeerInputCandidate {
        let shown: std::sync::Arc<str> = format!("event:{}", self.source).into();
        let from = PeerName::new(shown).unwrap_or_else(|_| self.source.clone());
        let interaction = InboxInteraction {
            id: self.id,
            rendered_text: rendered_event(&self.source, &self.content),
            from: from.clone(),
            from_key: from,
            from_runtime: None,
            content: self.content,
            handling_mode: self.handling_mode,
            render_metadata: self.render_metadata,
        };
        PeerInputCandidate { interaction, class: PeerInputClass::PlainEvent, lifecycle_peer: None }
    }
}

impl InboxInteraction {
    /// The bytes of content it carries, roughly: what an inbox has room for.
    pub(crate) fn bytes(&self) -> usize {
        let blocks = match &self.content {
            InteractionContent::Message { blocks: Some(blocks), .. } => {
                blocks.iter().map(|block| serde_json::to_vec(block).map_or(0, |json| json.len())).sum()
            }
            _ => 0,
        };
        blocks + self.rendered_text.len()
    }
}

fn rendered(id: EnvelopeId, from: &PeerName, content: &InteractionContent) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match content {
        InteractionContent::Message { body, .. } => write!(text, "[COMMS MESSAGE from {from}]\n{body}"),
        InteractionContent::Request { intent, params } => {
            let _ = write!(text, "[COMMS REQUEST from {from} (id: {id})]\nIntent: {intent}");
            if !params.is_null() && params.as_object().is_none_or(|members| !members.is_empty()) {
                let _ = write!(text, "\nParams: {params:#}");
            }
            write!(text, "\n\nAnswer it with send_response: peer \"{from}\", in reply to request \"{id}\".")
        }
        InteractionContent::Response { in_reply_to, status, result } => {
            return render::response_text(from.as_str(), &in_reply_to.to_string(), status.as_str(), result);
        }
    };
    text
}

fn rendered_event(source: &PeerName, content: &InteractionContent) -> String {
    let body = match content {
        InteractionContent::Message { body, .. } => body.trim(),
        InteractionContent::Request { .. } | InteractionContent::Response { .. } => "",
    };
    if body.is_empty() { format!("[EVENT via {source}]") } else { format!("[EVENT via {source}] {body}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comms::ChainId;
    use serde_json::json;
    use uuid::Uuid;

    fn name(text: &str) -> PeerName {
        PeerName::new(text).unwrap()
    }

    fn envelope(body: EnvelopeBody) -> Envelope {
        let id = EnvelopeId(Uuid::from_u128(7));
        Envelope { id, from: name("key-a"), to: name("key-b"), chain: ChainId(Uuid::from_u128(1)), hops: 0, body }
    }

    fn message(body: &str) -> EnvelopeBody {
        EnvelopeBody::Message { body: body.into(), blocks: None, handling_mode: None }
    }

    fn request(intent: &str, params: Value) -> EnvelopeBody {
        EnvelopeBody::Request { intent: intent.into(), params, handling_mode: None }
    }

    fn classify(ingress: &Ingress, body: EnvelopeBody) -> PeerInputCandidate {
        let ada = name("ada");
        ingress.classify(&envelope(body), SenderNames { trusted: Some(&ada), ..SenderNames::default() }).unwrap()
    }

    // OC 55
    #[test]
    fn whoever_is_not_trusted_is_not_heard_where_trust_is_asked_for() {
        let (ada, bob) = (name("ada"), name("bob"));
        let named = |auth_required, trusted, registered| {
            let ingress = Ingress { auth_required, ..Ingress::default() };
            let names = SenderNames { trusted, registered, runtime_id: None };
            ingress.classify(&envelope(message("hi")), names).map(|candidate| candidate.interaction.from)
        };
        assert_eq!(named(true, None, Some(&bob)), Err(Untrusted));
        assert_eq!(named(true, Some(&ada), Some(&bob)), Ok(ada.clone()));
        assert_eq!(named(false, Some(&ada), Some(&bob)), Ok(ada.clone()));
        assert_eq!(named(false, None, Some(&bob)), Ok(bob.clone()));
        assert_eq!(named(false, None, None), Ok(name("key-a")), "the key is the last name");
    }

    // OC 56
    #[test]
    fn dismiss_is_a_word_alone() {
        for (body, class) in [
            ("dismiss", PeerInputClass::Dismiss),
            (" DISMISS\n", PeerInputClass::Dismiss),
            ("Dismissed", PeerInputClass::ActionableMessage),
            ("please dismiss", PeerInputClass::ActionableMessage),
        ] {
            assert_eq!(classify(&Ingress::default(), message(body)).class, class, "{body:?}");
        }
    }

    // OC 57, 58
    #[test]
    fn a_peers_life_wins_over_silence_and_names_the_peer() {
        let silent =
            Ingress { silent_intents: ["mob.peer_retired".into(), "ping".into()].into(), ..Ingress::default() };
        for (params, peer) in [(json!({"peer": "x"}), "x"), (json!({"peer": ""}), "ada"), (json!(null), "ada")] {
            let candidate = classify(&silent, request("mob.peer_added", params));
            assert_eq!(candidate.class, PeerInputClass::PeerLifecycleAdded);
            assert_eq!(candidate.lifecycle_peer.as_deref(), Some(peer));
        }
        for (intent, class) in [
            ("mob.peer_retired", PeerInputClass::PeerLifecycleRetired),
            ("mob.peer_unwired", PeerInputClass::PeerLifecycleUnwired),
            ("mob.kickoff_failed", PeerInputClass::PeerLifecycleKickoffFailed),
            ("mob.kickoff_cancelled", PeerInputClass::PeerLifecycleKickoffCancelled),
            ("ping", PeerInputClass::SilentRequest),
            ("other", PeerInputClass::ActionableRequest),
        ] {
            assert_eq!(classify(&silent, request(intent, json!({}))).class, class, "{intent}");
        }
    }

    #[test]
    fn a_model_reads_who_says_what() {
        let text = |body| classify(&Ingress::default(), body).interaction.rendered_text;
        let id = EnvelopeId(Uuid::from_u128(7));
        assert_eq!(text(message("hi")), "[COMMS MESSAGE from ada]\nhi");
        let answer = format!("\n\nAnswer it with send_response: peer \"ada\", in reply to request \"{id}\".");
        assert_eq!(
            text(request("sum", json!({"a": 1}))),
            format!("[COMMS REQUEST from ada (id: {id})]\nIntent: sum\nParams: {{\n  \"a\": 1\n}}{answer}")
        );
        for nothing in [json!(null), json!({})] {
            let expected = format!("[COMMS REQUEST from ada (id: {id})]\nIntent: sum{answer}");
            assert_eq!(text(request("sum", nothing)), expected);
        }
        let response = |result| EnvelopeBody::Response {
            in_reply_to: id,
            status: ResponseStatus::Completed,
            result,
            handling_mode: None,
        };
        let header = format!("[COMMS RESPONSE from ada (to request: {id})]\nStatus: completed");
        assert_eq!(text(response(json!("3"))), format!("{header}\nResult: \"3\""));
        assert_eq!(text(response(json!(null))), header);
        let event = |body: &str| PlainEvent::new(name("webhook"), body).candidate().interaction.rendered_text;
        assert_eq!(event("it rains"), "[EVENT via webhook] it rains");
        assert_eq!(event(" \n"), "[EVENT via webhook]");
    }

    #[test]
    fn names_fit_on_the_line_they_are_shown_on() {
        assert!(PeerName::new("a\nb").is_err());
        assert!(PeerName::new(" ").is_err());
        assert!(PeerName::new("x".repeat(129)).is_err());
        assert!(serde_json::from_value::<PeerName>(json!("a\u{7}b")).is_err());
        assert_eq!(name("Ada Lovelace").as_str(), "Ada Lovelace");
    }
}
