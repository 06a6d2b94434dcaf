//! What can be asked of a session's comms, and how is it read from JSON?

use super::{
    candidate::InteractionContent,
    envelope::{EnvelopeBody, EnvelopeId, PeerName, ResponseStatus},
};
use serde::Deserialize;
use serde_json::{Value, json};
use windlass_core::{ContentBlock, HandlingMode};

/// What can be asked of a session's comms.
#[derive(Clone, Debug, PartialEq)]
pub enum CommsCommand {
    /// Put something into the session's own inbox, as a plain event.
    Input {
        /// Where it comes from: `tcp`, `uds`, `stdin`, `webhook` or `rpc`.
        source: PeerName,
        /// What it says.
        content: InteractionContent,
        /// Where it asks to wait.
        handling_mode: HandlingMode,
    },
    /// Send something to a peer.
    Peer {
        /// The peer's name.
        to: PeerName,
        /// What.
        body: EnvelopeBody,
        /// The envelopes because of which it is sent: their chain goes on, so that a loop is noticed. An answer
        /// belongs to its request's chain without being told.
        causes: Vec<EnvelopeId>,
        /// The envelope's id, if whoever sends may have to send it again: under one id it is sent once.
        id: Option<EnvelopeId>,
    },
}

impl CommsCommand {
    /// A message to a peer.
    pub fn message(to: PeerName, body: impl Into<String>) -> CommsCommand {
        CommsCommand::to(to, EnvelopeBody::Message { body: body.into(), blocks: None, handling_mode: None })
    }

    /// A request to a peer.
    pub fn request(to: PeerName, intent: impl Into<String>, params: Value) -> CommsCommand {
        CommsCommand::to(to, EnvelopeBody::Request { intent: intent.into(), params, handling_mode: None })
    }

    /// A response to a peer.
    pub fn response(to: PeerName, in_reply_to: EnvelopeId, status: ResponseStatus, result: Value) -> CommsCommand {
        CommsCommand::to(to, EnvelopeBody::Response { in_reply_to, status, result, handling_mode: None })
    }

    fn to(to: PeerName, body: EnvelopeBody) -> CommsCommand {
        CommsCommand::Peer { to, body, causes: Vec::new(), id: None }
    }

    /// The same command, sent because of these envelopes.
    pub fn because_of(mut self, envelopes: impl IntoIterator<Item = EnvelopeId>) -> CommsCommand {
        if let CommsCommand::Peer { causes, .. } = &mut self {
            causes.extend(envelopes);
        }
        self
    }

    /// The same command, under an id of its sender's choice.
    pub fn under(mut self, envelope: EnvelopeId) -> CommsCommand {
        if let CommsCommand::Peer { id, .. } = &mut self {
            *id = Some(envelope);
        }
        self
    }
}

/// A command as JSON has it; [`CommsCommandRequest::parse`] makes it one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is the command's field of that name, before it is checked")]
pub struct CommsCommandRequest {
    pub kind: String,
    pub to: Option<String>,
    pub body: Option<String>,
    pub blocks: Option<Vec<ContentBlock>>,
    pub source: Option<String>,
    pub intent: Option<String>,
    pub params: Option<Value>,
    pub in_reply_to: Option<String>,
    pub status: Option<String>,
    pub result: Option<Value>,
    pub handling_mode: Option<String>,
    pub stream: Option<Value>,
}

/// A field that is not as it has to be. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {field}")]
pub struct CommandError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it; stable.
    pub code: &'static str,
}

impl CommsCommandRequest {
    /// Checks every field.
    ///
    /// # Errors
    /// The first [`CommandError`].
    pub fn parse(self) -> Result<CommsCommand, CommandError> {
        if self.stream.is_some() {
            return Err(CommandError { field: "stream", code: "removed_unsupported_field" });
        }
        match self.kind.as_str() {
            "input" => self.input(),
            "peer_message" => self.message(),
            "peer_request" => self.request(),
            "peer_response" => self.response(),
            _ => Err(invalid("kind")),
        }
    }

    fn input(self) -> Result<CommsCommand, CommandError> {
        let source = self.source.as_deref().unwrap_or("rpc");
        if !["tcp", "uds", "stdin", "webhook", "rpc"].contains(&source) {
            return Err(invalid("source"));
        }
        let source = PeerName::new(source).map_err(|_| invalid("source"))?;
        let handling_mode = self.mode()?.unwrap_or_default();
        let body = self.body.ok_or_else(|| required("body"))?;
        Ok(CommsCommand::Input {
            source,
            content: InteractionContent::Message { body, blocks: self.blocks },
            handling_mode,
        })
    }

    fn message(self) -> Result<CommsCommand, CommandError> {
        let handling_mode = Some(self.mode()?.ok_or_else(|| required("handling_mode"))?);
        let to = self.peer()?;
        let body = self.body.unwrap_or_default();
        if body.is_empty() && self.blocks.is_none() {
            return Err(required("body"));
        }
        Ok(CommsCommand::to(to, EnvelopeBody::Message { body, blocks: self.blocks, handling_mode }))
    }

    fn request(self) -> Result<CommsCommand, CommandError> {
        let handling_mode = Some(self.mode()?.ok_or_else(|| required("handling_mode"))?);
        let to = self.peer()?;
        let intent = self.intent.filter(|intent| !intent.trim().is_empty()).ok_or_else(|| required("intent"))?;
        let params = match (self.params, self.body) {
            (Some(params), _) => params,
            (None, Some(body)) => json!({ "body": body }),
            (None, None) => json!({}),
        };
        Ok(CommsCommand::to(to, EnvelopeBody::Request { intent, params, handling_mode }))
    }

    fn response(self) -> Result<CommsCommand, CommandError> {
        let status = match self.status.as_deref() {
            Some("accepted") => ResponseStatus::Accepted,
            Some("completed") | None => ResponseStatus::Completed,
            Some("failed") => ResponseStatus::Failed,
            Some(_) => return Err(invalid("status")),
        };
        let handling_mode = self.mode()?;
        if status == ResponseStatus::Accepted && handling_mode.is_some() {
            return Err(CommandError { field: "handling_mode", code: "forbidden_for_accepted_response" });
        }
        let to = self.peer()?;
        let in_reply_to = self.in_reply_to.as_deref().ok_or_else(|| required("in_reply_to"))?;
        let in_reply_to =
            in_reply_to.parse().map_err(|_| CommandError { field: "in_reply_to", code: "invalid_uuid" })?;
        let result = self.result.or(self.body.map(Value::String)).unwrap_or(Value::Null);
        let in_reply_to = EnvelopeId(in_reply_to);
        Ok(CommsCommand::to(to, EnvelopeBody::Response { in_reply_to, status, result, handling_mode }))
    }

    fn peer(&self) -> Result<PeerName, CommandError> {
        let to = self.to.as_deref().ok_or_else(|| required("to"))?;
        PeerName::new(to).map_err(|_| invalid("to"))
    }

    fn mode(&self) -> Result<Option<HandlingMode>, CommandError> {
        match self.handling_mode.as_deref() {
            None => Ok(None),
            Some("queue") => Ok(Some(HandlingMode::Queue)),
            Some("steer") => Ok(Some(HandlingMode::Steer)),
            Some(_) => Err(invalid("handling_mode")),
        }
    }
}

fn required(field: &'static str) -> CommandError {
    CommandError { field, code: "required_field" }
}

fn invalid(field: &'static str) -> CommandError {
    CommandError { field, code: "invalid_value" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(command: Value) -> Result<CommsCommand, CommandError> {
        serde_json::from_value::<CommsCommandRequest>(command).unwrap().parse()
    }

    // OC 69
    #[test]
    fn each_wrong_field_has_its_code() {
        let id = uuid::Uuid::from_u128(1);
        for (command, field, code) in [
            (json!({"kind": "input"}), "body", "required_field"),
            (json!({"kind": "input", "body": "x", "source": "moon"}), "source", "invalid_value"),
            (json!({"kind": "peer_message", "to": "a", "body": "x"}), "handling_mode", "required_field"),
            (json!({"kind": "peer_message", "to": " ", "body": "x", "handling_mode": "queue"}), "to", "invalid_value"),
            (json!({"kind": "peer_request", "to": "a", "intent": "i"}), "handling_mode", "required_field"),
            (json!({"kind": "peer_request", "to": "a", "handling_mode": "queue"}), "intent", "required_field"),
            (
                json!({"kind": "peer_request", "to": "a", "intent": "i", "handling_mode": "queue", "stream": true}),
                "stream",
                "removed_unsupported_field",
            ),
            (json!({"kind": "peer_response", "to": "a"}), "in_reply_to", "required_field"),
            (json!({"kind": "peer_response", "to": "a", "in_reply_to": "x"}), "in_reply_to", "invalid_uuid"),
            (
                json!({"kind": "peer_response", "to": "a", "in_reply_to": id, "status": "accepted", "handling_mode": "queue"}),
                "handling_mode",
                "forbidden_for_accepted_response",
            ),
            (
                json!({"kind": "peer_response", "to": "a", "in_reply_to": id, "status": "maybe"}),
                "status",
                "invalid_value",
            ),
            (json!({"kind": "shout"}), "kind", "invalid_value"),
        ] {
            assert_eq!(parse(command.clone()), Err(CommandError { field, code }), "{command}");
        }
    }

    // OC 69
    #[test]
    fn what_is_left_out_has_its_default() {
        let peer = PeerName::new("a").unwrap();
        let Ok(CommsCommand::Input { source, handling_mode, .. }) = parse(json!({"kind": "input", "body": "x"})) else {
            panic!("an input")
        };
        assert_eq!((source.as_str(), handling_mode), ("rpc", HandlingMode::Queue));
        for (given, params) in [
            (json!({}), json!({})),
            (json!({"body": "x"}), json!({"body": "x"})),
            (json!({"params": {"n": 1}, "body": "x"}), json!({"n": 1})),
        ] {
            let mut command = json!({"kind": "peer_request", "to": "a", "intent": "i", "handling_mode": "steer"});
            command.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
            let body = EnvelopeBody::Request { intent: "i".into(), params, handling_mode: Some(HandlingMode::Steer) };
            assert_eq!(parse(command), Ok(CommsCommand::to(peer.clone(), body)));
        }
        let id = uuid::Uuid::from_u128(1);
        let response = parse(json!({"kind": "peer_response", "to": "a", "in_reply_to": id})).unwrap();
        assert_eq!(response, CommsCommand::response(peer, EnvelopeId(id), ResponseStatus::Completed, Value::Null));
    }
}
