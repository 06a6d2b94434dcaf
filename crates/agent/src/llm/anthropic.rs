//! How are messages, the format of Anthropic, written and read?

use super::{
    config::DialectName,
    dialect::{
        Answer, Body, Dialect, Heard, Picture, Piece, Question, Reader, Stop, ToolSpec, in_order, join, parse, picture,
        text, words,
    },
    failure::{ModelError, excerpt},
    message::{Message, Role, ToolCall, Usage},
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The vendor's own address.
pub(crate) const BASE_URL: &str = "https://api.anthropic.com";
/// What the format asks for, and the configuration leaves open.
const MAX_TOKENS: u32 = 8_192;

#[derive(Debug)]
pub(crate) struct Anthropic;

impl Dialect for Anthropic {
    fn name(&self) -> DialectName {
        DialectName::Anthropic
    }

    fn path(&self) -> &'static str {
        "/v1/messages"
    }

    fn headers(&self, key: Option<&SecretString>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01"));
        if let Some(key) = key {
            let key = HeaderValue::from_str(key.expose_secret());
            let mut key = key.expect("the configuration refuses keys that no header can hold");
            key.set_sensitive(true);
            headers.insert(HeaderName::from_static("x-api-key"), key);
        }
        headers
    }

    fn body(&self, question: &Question<'_>) -> Vec<u8> {
        let mut body = Body::with_params(question.params);
        body.add("model", question.model);
        body.add("max_tokens", question.max_tokens.unwrap_or(MAX_TOKENS));
        body.add("messages", messages(question));
        body.add("stream", true);
        let schema = question.schema.map(|schema| {
            format!("Your last answer is one JSON value, and nothing else, that obeys this JSON schema:\n{schema}")
        });
        let system: Vec<&str> = question.system.into_iter().chain(schema.as_deref()).collect();
        if !system.is_empty() {
            body.add("system", system.join("\n\n"));
        }
        if let Some(schema) = question.schema.filter(|schema| is_enforceable(schema)) {
            body.add("output_config", json!({ "format": { "type": "json_schema", "schema": schema } }));
        }
        if let Some(temperature) = question.temperature {
            body.add("temperature", temperature);
        }
        if !question.tools.is_empty() {
            body.add("tools", question.tools.iter().map(Tool::of).collect::<Vec<_>>());
        }
        body.whole()
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(Events::default())
    }

    fn whole(&self, body: Value) -> Result<Answer, ModelError> {
        let Some(Value::Array(blocks)) = body.get("content") else {
            let detail = format!("an answer without content: {}", excerpt(&body.to_string()));
            return Err(ModelError::retryable("provider_protocol_error", detail));
        };
        let blocks = blocks.iter().cloned().map(|value| Block { value, ..Block::default() }).collect();
        let stop = text(&body, "stop_reason").or(Some("end_turn")).map(str::to_owned);
        let mut events = Events { blocks, stop, begun: true, ..Events::default() };
        events.count(body.get("usage"));
        Box::new(events).finish()
    }
}

/// A tool as it is sent.
#[derive(Serialize)]
struct Tool<'t> {
    name: &'t str,
    description: &'t str,
    input_schema: &'t Value,
}

impl<'t> Tool<'t> {
    fn of(tool: &'t ToolSpec) -> Tool<'t> {
        Tool { name: &tool.name, description: &tool.description, input_schema: &tool.schema }
    }
}

/// Whether the vendor takes a schema to hold the model to; it refuses the request otherwise. Its objects are closed, and
/// it bounds neither numbers nor lengths. Schemas beyond that are asked for in words alone, and judged by us all the same.
fn is_enforceable(schema: &Value) -> bool {
    const UNKNOWN: [&str; 18] = [
        "$ref",
        "additionalItems",
        "contains",
        "dependentRequired",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "if",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "not",
        "patternProperties",
    ];
    match schema {
        Value::Object(members) => {
            let is_object = text(schema, "type") == Some("object") || members.contains_key("properties");
            let is_closed = members.get("additionalProperties") == Some(&Value::Bool(false));
            let within = |(name, value): (&String, &Value)| match (name.as_str(), value) {
                ("properties" | "$defs", Value::Object(named)) => named.values().all(is_enforceable),
                ("const" | "enum" | "default" | "examples", _) => true,
                (name, _) if UNKNOWN.contains(&name) => false,
                (_, value) => is_enforceable(value),
            };
            (!is_object || is_closed) && members.iter().all(within)
        }
        Value::Array(schemas) => schemas.iter().all(is_enforceable),
        _ => true,
    }
}

/// Messages whose roles alternate: what is said to the model between two answers is one message.
fn messages(question: &Question<'_>) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::with_capacity(question.messages.len());
    let mut user: Vec<Value> = Vec::new();
    for said in in_order(&question.messages) {
        if said.role == Role::Assistant {
            if !user.is_empty() {
                messages.push(json!({ "role": "user", "content": std::mem::take(&mut user) }));
            }
            messages.push(json!({ "role": "assistant", "content": assistant(&said) }));
        } else {
            user.extend(blocks(&said, question));
        }
    }
    if !user.is_empty() {
        messages.push(json!({ "role": "user", "content": user }));
    }
    messages
}

fn blocks(said: &Message, question: &Question<'_>) -> Vec<Value> {
    if said.role == Role::Tool {
        // A failure without words is refused.
        let content = if said.is_error { words(&said.content) } else { &said.content };
        let mut result = json!({ "type": "tool_result", "tool_use_id": said.call, "content": content });
        if said.is_error {
            result["is_error"] = true.into();
        }
        return vec![result];
    }
    if said.blocks.is_empty() {
        return vec![json!({ "type": "text", "text": words(&said.content) })];
    }
    let block = |block| match picture(block, question.pictures) {
        Picture::Words(text) => json!({ "type": "text", "text": words(&text) }),
        Picture::Url(url) => json!({ "type": "image", "source": { "type": "url", "url": url } }),
        Picture::Data { media_type, base64 } => {
            json!({ "type": "image", "source": { "type": "base64", "media_type": media_type, "data": base64 } })
        }
    };
    said.blocks.iter().map(block).collect()
}

fn assistant(said: &Message) -> Vec<Value> {
    let own = said.verbatim.as_ref().filter(|verbatim| verbatim.dialect == DialectName::Anthropic);
    let mut blocks = match own.and_then(|verbatim| verbatim.value.as_array()) {
        Some(blocks) => blocks.clone(),
        None => {
            let words = (!said.content.is_empty()).then(|| json!({ "type": "text", "text": said.content }));
            let calls = said.calls.iter().map(|call| {
                let input = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
                json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input })
            });
            words.into_iter().chain(calls).collect()
        }
    };
    // The format has no place for words that are none.
    blocks.retain(|block| {
        text(block, "type") != Some("text") || text(block, "text").is_some_and(|text| !text.trim().is_empty())
    });
    if blocks.is_empty() {
        blocks.push(json!({ "type": "text", "text": words("") }));
    }
    blocks
}

/// The usual event, which says a few words and nothing else: read without a copy, for there are thousands of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'d> {
    #[serde(borrow)]
    r#type: Cow<'d, str>,
    index: u64,
    #[serde(borrow)]
    delta: PlainDelta<'d>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainDelta<'d> {
    #[serde(borrow)]
    r#type: Cow<'d, str>,
    #[serde(borrow)]
    text: Cow<'d, str>,
}

impl<'d> Plain<'d> {
    /// The block and the words of such an event; none if it is another one.
    fn words(data: &'d str) -> Option<(u64, Cow<'d, str>)> {
        let Plain { r#type, index, delta } = serde_json::from_str(data).ok()?;
        (r#type == "content_block_delta" && delta.r#type == "text_delta").then_some((index, delta.text))
    }
}

/// A message that comes as events.
#[derive(Default)]
struct Events {
    begun: bool,
    blocks: Vec<Block>,
    stop: Option<String>,
    ended: bool,
    input: Option<u64>,
    output: Option<u64>,
}

/// A content block that comes in pieces.
#[derive(Default)]
struct Block {
    index: u64,
    value: Value,
    /// The arguments of a call, as text.
    json: String,
}

impl Reader for Events {
    fn event(&mut self, data: &str, heard: &mut dyn FnMut(Piece<'_>)) -> Result<Heard, ModelError> {
        if let Some((index, words)) = Plain::words(data) {
            let block = self.blocks.iter_mut().find(|block| block.index == index);
            if let Some(block) = block.filter(|_| self.stop.is_none()) {
                block.say(&words, heard);
            }
            return Ok(if self.stop.is_some() { Heard::Whole } else { Heard::More });
        }
        let mut event: Value = parse(data)?;
        if let Some(error) = ModelError::within(&event) {
            return Err(error);
        }
        let index = event.get("index").and_then(Value::as_u64).unwrap_or_default();
        match text(&event, "type").unwrap_or_default() {
            "message_start" => {
                self.begun = true;
                self.count(event.pointer("/message/usage"));
            }
            "content_block_start" if self.stop.is_none() => {
                let value = event.get_mut("content_block").map(Value::take).unwrap_or_default();
                self.start(Block { index, value, json: String::new() }, heard);
            }
            "content_block_delta" if self.stop.is_none() => {
                if let Some(Value::Object(delta)) = event.get_mut("delta").map(Value::take)
                    && let Some(block) = self.blocks.iter_mut().find(|block| block.index == index)
                {
                    block.take(delta, heard);
                }
            }
            "message_delta" => {
                let stop = event.pointer("/delta/stop_reason").and_then(Value::as_str);
                self.stop = self.stop.take().or(stop.map(str::to_owned));
                self.count(event.get("usage"));
            }
            "message_stop" => {
                self.ended = true;
                return Ok(Heard::End);
            }
            // Pings, ends of blocks, and what later versions may say.
            _ => {}
        }
        Ok(if self.stop.is_some() { Heard::Whole } else { Heard::More })
    }

    fn finish(self: Box<Self>) -> Result<Answer, ModelError> {
        let stop = match self.stop.as_deref() {
            Some("end_turn" | "tool_use" | "stop_sequence") => Stop::Done,
            Some("max_tokens" | "model_context_window_exceeded") => Stop::Length,
            Some("refusal") => Stop::Filtered,
            Some("pause_turn") => Stop::Paused,
            Some(other) => Stop::Other(excerpt(other)),
            None if self.ended && self.begun => Stop::Done,
            None if !self.begun && self.blocks.is_empty() => {
                return Err(ModelError::retryable("provider_empty_answer", "the stream has ended before it began"));
            }
            None => return Err(ModelError::retryable("provider_answer_cut", "the stream has ended within the answer")),
        };
        let (mut words, mut calls, mut verbatim) = (String::new(), Vec::new(), Vec::new());
        for block in self.blocks {
            let (block, arguments) = block.whole();
            match text(&block, "type") {
                Some("text") => words.push_str(text(&block, "text").unwrap_or_default()),
                Some("tool_use") => calls.push(ToolCall {
                    id: text(&block, "id").unwrap_or_default().to_owned(),
                    name: text(&block, "name").unwrap_or_default().to_owned(),
                    arguments,
                }),
                _ => {}
            }
            verbatim.push(block);
        }
        let usage = self.input.zip(self.output).map(|(input, output)| Usage { input, output, estimated: false });
        Ok(Answer { text: words, calls, verbatim: Value::Array(verbatim), stop, usage })
    }
}

impl Events {
    fn start(&mut self, block: Block, heard: &mut dyn FnMut(Piece<'_>)) {
        // A block that is begun again is a repetition.
        if self.blocks.iter().any(|there| there.index == block.index) {
            return;
        }
        if text(&block.value, "type") == Some("tool_use") {
            let (id, name) = (text(&block.value, "id"), text(&block.value, "name"));
            heard(Piece::Call { id: id.unwrap_or_default(), name: name.unwrap_or_default() });
        }
        self.blocks.push(block);
    }

    /// The last count of each kind stands: later events repeat it, or know better.
    fn count(&mut self, usage: Option<&Value>) {
        let count = |name: &str| usage.and_then(|usage| usage.get(name)).and_then(Value::as_u64);
        if let Some(fresh) = count("input_tokens") {
            let cached = ["cache_creation_input_tokens", "cache_read_input_tokens"];
            self.input = Some(cached.iter().filter_map(|name| count(name)).fold(fresh, u64::saturating_add));
        }
        self.output = count("output_tokens").or(self.output);
    }
}

impl Block {
    /// Takes in words: what [`Block::take`] does with a delta that holds nothing else.
    fn say(&mut self, words: &str, heard: &mut dyn FnMut(Piece<'_>)) {
        heard(Piece::Text(words));
        let Value::Object(block) = &mut self.value else { return };
        match block.get_mut("text") {
            Some(Value::String(there)) => there.push_str(words),
            _ => drop(block.insert("text".into(), words.into())),
        }
    }

    fn take(&mut self, mut delta: Map<String, Value>, heard: &mut dyn FnMut(Piece<'_>)) {
        delta.remove("type");
        if let Some(Value::String(piece)) = delta.remove("partial_json") {
            self.json.push_str(&piece);
        }
        if let Some(words) = delta.get("text").and_then(Value::as_str) {
            heard(Piece::Text(words));
        }
        if let Some(words) = delta.get("thinking").and_then(Value::as_str) {
            heard(Piece::Thinking(words));
        }
        let Value::Object(block) = &mut self.value else { return };
        if let Some(citation) = delta.remove("citation") {
            match block.get_mut("citations") {
                Some(Value::Array(citations)) => citations.push(citation),
                _ => drop(block.insert("citations".into(), json!([citation]))),
            }
        }
        join(block, delta);
    }

    /// The block with its arguments in place, and the arguments as the model wrote them.
    fn whole(mut self) -> (Value, String) {
        if self.json.is_empty() {
            let input = self.value.get("input").map_or_else(|| "{}".into(), Value::to_string);
            return (self.value, input);
        }
        // What is no JSON stays with the call, which is told so; the format has no place for it.
        let input: Value = serde_json::from_str(&self.json).unwrap_or_else(|_| json!({}));
        if let Value::Object(block) = &mut self.value {
            block.insert("input".into(), input);
        }
        (self.value, self.json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_event_is_read_the_short_way_and_says_the_same() {
        let (mut reader, mut said) = (Events::default(), String::new());
        for (event, is_usual) in [
            (r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#, false),
            (r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"a \"word\""}}"#, true),
            (r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"\u00e4"}}"#, true),
            (
                r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":" ö","mood":"calm"}}"#,
                false,
            ),
            (r#"{"type":"content_block_delta","index":7,"delta":{"type":"text_delta","text":"of no block"}}"#, true),
            (
                r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}"#,
                false,
            ),
            (r#"{"type":"other_delta","index":1,"delta":{"type":"text_delta","text":"of another kind"}}"#, false),
            (r#"{"type":"content_block_stop","index":1}"#, false),
            (r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}"#, false),
            (r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"said again"}}"#, true),
        ] {
            assert_eq!(Plain::words(event).is_some(), is_usual, "{event}");
            let mut hear = |piece: Piece<'_>| {
                if let Piece::Text(words) = piece {
                    said.push_str(words);
                }
            };
            reader.event(event, &mut hear).expect("it is understood");
        }
        assert_eq!(said, "a \"word\"ä ö");
        let answer = Box::new(reader).finish().expect("it is whole");
        assert_eq!(answer.verbatim, json!([{ "type": "text", "text": said, "mood": "calm" }]));
    }

    #[test]
    fn the_vendor_is_asked_to_enforce_only_what_it_takes() {
        let closed = json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"],
            "additionalProperties": false });
        let with = |name: &str, schema: Value| {
            let mut whole = closed.clone();
            whole["properties"][name] = schema;
            whole
        };
        for (schema, expected) in [
            (closed.clone(), true),
            (json!({ "type": "array", "items": closed }), true),
            (json!({ "anyOf": [closed, { "type": "null" }] }), true),
            // The name of a member is no word of the schema's language.
            (with("maximum", json!({ "type": "string", "enum": ["minimum"] })), true),
            (json!({ "type": "object", "properties": {} }), false),
            (with("open", json!({ "type": "object" })), false),
            (with("bounded", json!({ "type": "integer", "maximum": 3 })), false),
            (with("long", json!({ "type": "string", "minLength": 3 })), false),
            (with("recursive", json!({ "$ref": "#" })), false),
        ] {
            assert_eq!(is_enforceable(&schema), expected, "{schema}");
        }
    }
}
