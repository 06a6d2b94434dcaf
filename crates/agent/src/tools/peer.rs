//! How does a model write to another session?

use super::{Effect, Reply, Tool, ToolContext};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fmt, sync::Arc, time::Duration};
use windlass_core::SessionId;
use windlass_runtime::{
    CoreExecutorError,
    comms::{CommsCommand, CommsRuntime, EnvelopeId, PeerName, SendError, SendReceipt},
};

/// Writes to peers in the names of sessions.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Sends in the name of a session.
    ///
    /// # Errors
    /// As for [`CommsRuntime::send`]; [`SendError::Unsupported`] if the session has no way to write to others.
    async fn send(&self, session: SessionId, command: CommsCommand) -> Result<SendReceipt, SendError>;

    /// Whom the session can write to: some, if there are many.
    async fn names(&self, session: SessionId) -> Vec<PeerName>;
}

/// The comms of each session that has some.
#[async_trait]
impl<F> Peers for F
where
    F: Fn(SessionId) -> Option<Arc<dyn CommsRuntime>> + Send + Sync + 'static,
{
    async fn send(&self, session: SessionId, command: CommsCommand) -> Result<SendReceipt, SendError> {
        self(session).ok_or(SendError::Unsupported)?.send(command).await
    }

    async fn names(&self, session: SessionId) -> Vec<PeerName> {
        let Some(comms) = self(session) else { return Vec::new() };
        comms.peers().await.into_iter().map(|peer| peer.name).collect()
    }
}

/// Sends a message to a peer of the session. What the peer answers comes as an input.
pub struct SendPeer {
    schema: Value,
    peers: Arc<dyn Peers>,
}

#[derive(Deserialize)]
struct Letter {
    to: String,
    body: String,
}

impl SendPeer {
    pub(crate) fn new(peers: Arc<dyn Peers>) -> SendPeer {
        let schema = json!({
            "type": "object",
            "properties": {
                "to": { "type": "string", "minLength": 1, "description": "the peer's name" },
                "body": { "type": "string", "minLength": 1, "description": "what to say" },
            },
            "required": ["to", "body"],
            "additionalProperties": false,
        });
        SendPeer { schema, peers }
    }
}

impl fmt::Debug for SendPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendPeer").finish_non_exhaustive()
    }
}

#[async_trait]
impl Tool for SendPeer {
    fn name(&self) -> &'static str {
        "send_peer"
    }

    fn description(&self) -> &'static str {
        "Sends a message to another agent. The answer, if there is one, reaches you later as a message of its own."
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self) -> Effect {
        Effect::Once
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn call(&self, arguments: Value, context: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
        let letter: Letter = match serde_json::from_value(arguments) {
            Ok(letter) => letter,
            Err(error) => return Ok(Reply::error("invalid_arguments", error)),
        };
        let to = match PeerName::new(letter.to) {
            Ok(to) => to,
            Err(error) => return Ok(Reply::error("invalid_arguments", format!("to: {error}"))),
        };
        let session = context.turn.session();
        // A call that is made again after a crash sends the same envelope again, which its receiver takes once.
        let id = EnvelopeId::of_key(session, context.effect_key);
        let message = CommsCommand::message(to, letter.body).because_of(context.causes.iter().copied()).under(id);
        match self.peers.send(session, message).await {
            Ok(_) => Ok(Reply::done("sent")),
            Err(error) => {
                let names: Vec<String> = self.peers.names(session).await.iter().map(PeerName::to_string).collect();
                Ok(Reply::error("not_sent", format!("{error}; you can write to: {}", names.join(", "))))
            }
        }
    }
}
