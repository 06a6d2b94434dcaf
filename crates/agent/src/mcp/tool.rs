//! How is a tool of a server called, and how far is what it says believed?

use super::{McpConfig, schema::bounded, server::McpServer, server::schema};
use crate::{
    sandbox::Profile,
    tools::{Effect, Reply, Tool, ToolContext, shown},
};
use async_trait::async_trait;
use rmcp::{
    ServiceError,
    model::{
        CallToolRequestParams, CallToolResult, ContentBlock, MetaObject, RequestMetaObject, ResourceContents,
        Tool as Offer,
    },
    transport::streamable_http_client::StreamableHttpError,
};
use serde_json::{Map, Value};
use std::time::Duration;
use windlass_runtime::CoreExecutorError;

/// The longest name that models' providers take.
const NAME: usize = 64;
/// The most that is told of a tool, in bytes.
const DESCRIPTION: usize = 4 << 10;
/// The largest schema, in bytes.
const SCHEMA: usize = 64 << 10;
/// The most of a result that is kept, in bytes; the agent's own limit cuts further.
const RESULT: usize = 1 << 20;
/// Where the effect key stands in a request.
const EFFECT_KEY: &str = "windlass/effect_key";

pub(super) struct McpTool {
    server: McpServer,
    /// As the model calls it.
    name: String,
    /// As the server calls it.
    remote: String,
    description: String,
    schema: Value,
    /// What it promised of its structured results.
    promise: Option<jsonschema::Validator>,
    effect: Effect,
    trust_hints: bool,
    timeout: Duration,
    sandbox: Option<Profile>,
}

impl McpTool {
    /// # Errors
    /// What about the offer is not usable.
    pub(super) fn new(server: McpServer, of: &str, offer: &Offer, config: &McpConfig) -> Result<McpTool, String> {
        let plain = |char: char| if char.is_ascii_alphanumeric() || matches!(char, '_' | '-') { char } else { '_' };
        let name: String = format!("{of}__{}", offer.name).chars().map(plain).collect();
        if offer.name.is_empty() || name.len() > NAME {
            return Err(format!("{name:?} is no name: it has 1 to {NAME} characters"));
        }
        let schema = schema(offer);
        if schema.to_string().len() > SCHEMA {
            return Err(format!("its schema is larger than {SCHEMA} bytes"));
        }
        bounded(&schema).map_err(|error| format!("its schema takes unbounded time: {error}"))?;
        jsonschema::validator_for(&schema).map_err(|error| format!("its schema is none: {error}"))?;
        let promise = offer.output_schema.as_ref().map(|schema| Value::Object((**schema).clone()));
        if let Some(promise) = &promise {
            bounded(promise).map_err(|error| format!("its output schema takes unbounded time: {error}"))?;
        }
        let promise = promise.map(|promise| jsonschema::validator_for(&promise)).transpose();
        Ok(McpTool {
            server,
            name,
            remote: offer.name.to_string(),
            description: description(offer).to_owned(),
            schema,
            promise: promise.map_err(|error| format!("its output schema is none: {error}"))?,
            effect: effect(offer, config.trust_hints),
            trust_hints: config.trust_hints,
            timeout: Duration::from_secs(config.timeout_seconds.max(1)),
            sandbox: (!config.command.is_empty()).then(|| config.sandbox.profile()),
        })
    }

    /// Whether an offer is still what the model was told of it.
    fn is_told_of(&self, offer: &Offer) -> bool {
        schema(offer) == self.schema
            && description(offer) == self.description
            && effect(offer, self.trust_hints) == self.effect
    }

    /// What the model is told.
    fn reply(&self, result: &CallToolResult) -> Reply {
        let structured = result.structured_content.as_ref();
        let is_error = result.is_error.unwrap_or(false);
        if let (Some(promise), false) = (&self.promise, is_error) {
            let broken = match structured {
                Some(value) => promise.iter_errors(value).next().map(|error| error.to_string()),
                None => Some("there is no structured result".into()),
            };
            if let Some(broken) = broken {
                let words = format!("the result is not what was promised: {broken}");
                return self.error("mcp_schema_violation", &words);
            }
        }
        let mut words = result.content.iter().map(said).collect::<Vec<_>>().join("\n");
        if let (true, Some(value)) = (words.is_empty(), structured) {
            words = value.to_string();
        }
        let words = self.server.discreet(&words);
        Reply::Done { content: shown(words.as_bytes(), RESULT), is_error }
    }

    /// A failure told in the server's words.
    fn error(&self, code: &str, words: &str) -> Reply {
        Reply::error(code, self.server.discreet(words))
    }
}

#[async_trait]
impl Tool for McpTool {
    fn name(&self) -> &str {
        &self.name
    }

    fn description(&self) -> &str {
        &self.description
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self) -> Effect {
        self.effect
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn sandbox(&self) -> Option<Profile> {
        self.sandbox
    }

    async fn call(&self, arguments: Value, context: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
        let Value::Object(arguments) = arguments else {
            return Ok(Reply::error("invalid_arguments", "they are no object"));
        };
        let mut was_lost = false;
        loop {
            let (peer, offers) = match self.server.live().await {
                Ok(live) => live,
                Err(error) => return Ok(Reply::Done { content: error.to_string(), is_error: true }),
            };
            if !offers.get(&self.remote).is_some_and(|offer| self.is_told_of(offer)) {
                let words = "the server was started again and offers something else under this name";
                return Ok(Reply::error("mcp_tool_changed", words));
            }
            let mut request = CallToolRequestParams::new(self.remote.clone()).with_arguments(arguments.clone());
            let key = Map::from_iter([(EFFECT_KEY.to_owned(), context.effect_key.into())]);
            request.meta = Some(RequestMetaObject(MetaObject(key)));
            // Dropped, when its time is up or the run is cancelled, it tells the server so.
            return Ok(match peer.call_tool(request).await {
                Ok(result) => self.reply(&result),
                Err(ServiceError::McpError(error)) => {
                    self.error("mcp_error", &format!("{} ({})", error.message, error.code.0))
                }
                Err(ServiceError::UnexpectedResponse) => {
                    Reply::error("mcp_protocol_error", "the server answered what is no result")
                }
                // The server knows us no more, and has refused the call: it may offer something else now.
                Err(error) if !was_lost && is_expired(&error) => {
                    self.server.forget(&offers).await;
                    was_lost = true;
                    continue;
                }
                Err(error) if self.effect == Effect::Once => {
                    let words =
                        format!("{error}; whether the call took effect is not known, look before calling again");
                    self.error("mcp_outcome_unknown", &words)
                }
                Err(_) if !was_lost => {
                    was_lost = true;
                    continue;
                }
                Err(error) => self.error("mcp_unavailable", &error.to_string()),
            });
        }
    }
}

/// Whether an endpoint has ended the session that the call was made in.
fn is_expired(error: &ServiceError) -> bool {
    let ServiceError::TransportSend(error) = error else { return false };
    matches!(error.error.downcast_ref(), Some(StreamableHttpError::<reqwest::Error>::SessionExpired))
}

/// What the model is told of it.
fn description(offer: &Offer) -> &str {
    let description = offer.description.as_deref().unwrap_or_default();
    &description[..description.floor_char_boundary(DESCRIPTION)]
}

/// What calling it twice does, as far as its hints are believed.
fn effect(offer: &Offer, trust_hints: bool) -> Effect {
    let Some(hints) = offer.annotations.as_ref().filter(|_| trust_hints) else { return Effect::Once };
    match (hints.read_only_hint, hints.idempotent_hint, hints.destructive_hint) {
        (Some(true), _, Some(true)) => Effect::Once,
        (Some(true), _, _) => Effect::ReadOnly,
        (_, Some(true), _) => Effect::Idempotent,
        _ => Effect::Once,
    }
}

/// A piece of a result, in words. Pictures and sounds are named, not shown.
fn said(block: &ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::Image(image) => format!("[{}, {} bytes of base64]", image.mime_type, image.data.len()),
        ContentBlock::Audio(audio) => format!("[{}, {} bytes of base64]", audio.mime_type, audio.data.len()),
        ContentBlock::Resource(resource) => match &resource.resource {
            ResourceContents::TextResourceContents { text, .. } => text.clone(),
            ResourceContents::BlobResourceContents { uri, .. } => format!("[{uri}]"),
            _ => "[a resource]".into(),
        },
        ContentBlock::ResourceLink(link) => format!("[{}]", link.uri),
        _ => "[something that cannot be shown]".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_become_effects_and_contradictions_are_not_believed() {
        for (hints, expected) in [
            (r"{}", Effect::Once),
            (r#"{"readOnlyHint": true}"#, Effect::ReadOnly),
            (r#"{"readOnlyHint": true, "destructiveHint": false, "idempotentHint": false}"#, Effect::ReadOnly),
            (r#"{"readOnlyHint": true, "destructiveHint": true}"#, Effect::Once),
            (r#"{"idempotentHint": true}"#, Effect::Idempotent),
            (r#"{"idempotentHint": true, "destructiveHint": true}"#, Effect::Idempotent),
            (r#"{"readOnlyHint": false, "idempotentHint": false}"#, Effect::Once),
            (r#"{"openWorldHint": false}"#, Effect::Once),
        ] {
            let offer = format!(r#"{{"name": "x", "inputSchema": {{}}, "annotations": {hints}}}"#);
            let offer: Offer = serde_json::from_str(&offer).expect(hints);
            assert_eq!((effect(&offer, true), effect(&offer, false)), (expected, Effect::Once), "{hints}");
        }
    }
}
