//! How are chat completions, the format of OpenAI and most others, written and read?

use super::{
    config::DialectName,
    dialect::{
        Answer, Body, Dialect, Heard, Picture, Piece, Question, Reader, Stop, ToolSpec, in_order, join, parse, picture,
        text, words,
    },
    failure::{ModelError, excerpt},
    message::{Message, Role, ToolCall, Usage},
};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The vendor's own address.
pub(crate) const BASE_URL: &str = "https://api.openai.com/v1";

#[derive(Debug)]
pub(crate) struct OpenAi {
    /// The vendor's own models refuse `max_tokens`, everybody else's know nothing else.
    pub(crate) is_vendor: bool,
}

impl Dialect for OpenAi {
    fn name(&self) -> DialectName {
        DialectName::Openai
    }

    fn path(&self) -> &'static str {
        "/chat/completions"
    }

    fn headers(&self, key: Option<&SecretString>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let bearer = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()));
            let mut bearer = bearer.expect("the configuration refuses keys that no header can hold");
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        headers
    }

    fn body(&self, question: &Question<'_>) -> Vec<u8> {
        let ordered = in_order(&question.messages);
        let system = question.system.map(|content| Wire::Words { role: "system", content });
        let messages: Vec<Wire<'_>> =
            system.into_iter().chain(ordered.iter().map(|said| message(said, question))).collect();
        let mut body = Body::with_params(question.params);
        body.add("model", question.model);
        body.add("messages", messages);
        body.add("stream", true);
        body.add("stream_options", json!({ "include_usage": true }));
        if let Some(most) = question.max_tokens {
            body.add(if self.is_vendor { "max_completion_tokens" } else { "max_tokens" }, most);
        }
        if let Some(temperature) = question.temperature {
            body.add("temperature", temperature);
        }
        if !question.tools.is_empty() {
            body.add("tools", question.tools.iter().map(Tool::of).collect::<Vec<_>>());
        }
        if let Some(schema) = question.schema {
            let format = json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } });
            body.add("response_format", format);
        }
        body.whole()
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(Chunks::default())
    }

    fn whole(&self, body: Value) -> Result<Answer, ModelError> {
        let mut chunks = Chunks { usage: body.get("usage").and_then(usage), ..Chunks::default() };
        let choice = body.pointer("/choices/0");
        let Some(Value::Object(message)) = choice.and_then(|choice| choice.get("message")) else {
            let detail = format!("an answer without a message: {}", excerpt(&body.to_string()));
            return Err(ModelError::retryable("provider_protocol_error", detail));
        };
        chunks.message = message.clone();
        chunks.stop = choice.and_then(|choice| text(choice, "finish_reason")).or(Some("stop")).map(str::to_owned);
        Box::new(chunks).finish()
    }
}

/// A message as it is sent.
#[derive(Serialize)]
#[serde(untagged)]
enum Wire<'m> {
    Words { role: &'static str, content: &'m str },
    Result { role: &'static str, tool_call_id: Option<&'m str>, content: &'m str },
    Verbatim(&'m Value),
    Made(Value),
}

/// A tool as it is sent.
#[derive(Serialize)]
struct Tool<'t> {
    r#type: &'static str,
    function: Function<'t>,
}

#[derive(Serialize)]
struct Function<'t> {
    name: &'t str,
    description: &'t str,
    parameters: &'t Value,
}

impl<'t> Tool<'t> {
    fn of(tool: &'t ToolSpec) -> Tool<'t> {
        let function = Function { name: &tool.name, description: &tool.description, parameters: &tool.schema };
        Tool { r#type: "function", function }
    }
}

fn message<'m>(said: &'m Message, question: &Question<'_>) -> Wire<'m> {
    match said.role {
        Role::User | Role::System if said.blocks.is_empty() => Wire::Words { role: "user", content: &said.content },
        Role::User | Role::System => {
            let part = |block| match picture(block, question.pictures) {
                Picture::Words(text) => json!({ "type": "text", "text": text }),
                Picture::Url(url) => json!({ "type": "image_url", "image_url": { "url": url } }),
                Picture::Data { media_type, base64 } => {
                    let url = format!("data:{media_type};base64,{base64}");
                    json!({ "type": "image_url", "image_url": { "url": url } })
                }
            };
            Wire::Made(json!({ "role": "user", "content": said.blocks.iter().map(part).collect::<Vec<_>>() }))
        }
        Role::Tool => Wire::Result { role: "tool", tool_call_id: said.call.as_deref(), content: &said.content },
        Role::Assistant => match &said.verbatim {
            Some(verbatim) if verbatim.dialect == DialectName::Openai => Wire::Verbatim(&verbatim.value),
            _ => Wire::Made(assistant(said)),
        },
    }
}

fn assistant(said: &Message) -> Value {
    if said.calls.is_empty() {
        return json!({ "role": "assistant", "content": said.content });
    }
    let call = |call: &ToolCall| json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } });
    let calls: Vec<Value> = said.calls.iter().map(call).collect();
    let content = if said.content.is_empty() { Value::Null } else { said.content.clone().into() };
    json!({ "role": "assistant", "content": content, "tool_calls": calls })
}

/// What of a chunk is looked at; the rest is not kept.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Value,
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    error: Value,
}

/// The usual chunk, which says a few words and nothing else: read without a copy, for there are thousands of them.
#[derive(Deserialize)]
struct Plain<'d> {
    #[serde(borrow)]
    choices: [PlainChoice<'d>; 1],
    #[serde(default)]
    usage: Option<IgnoredAny>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct PlainChoice<'d> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: PlainDelta<'d>,
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

/// Whatever else it holds has to be kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainDelta<'d> {
    #[serde(borrow)]
    content: Cow<'d, str>,
}

impl<'d> Plain<'d> {
    /// The words of such a chunk; none if it is another one.
    fn words(data: &'d str) -> Option<Cow<'d, str>> {
        let Plain { choices: [choice], usage: None, error: None } = serde_json::from_str(data).ok()? else {
            return None;
        };
        (choice.index == 0 && choice.finish_reason.is_none()).then_some(choice.delta.content)
    }
}

/// A message that comes in chunks.
#[derive(Default)]
struct Chunks {
    message: Map<String, Value>,
    calls: Vec<Map<String, Value>>,
    stop: Option<String>,
    ended: bool,
    usage: Option<Usage>,
}

impl Reader for Chunks {
    fn event(&mut self, data: &str, heard: &mut dyn FnMut(Piece<'_>)) -> Result<Heard, ModelError> {
        if data.trim() == "[DONE]" {
            self.ended = true;
            return Ok(Heard::End);
        }
        if let Some(words) = Plain::words(data) {
            // What follows the end of an answer is a repetition, and adds nothing.
            if self.stop.is_none() {
                self.say(&words, heard);
            }
            return Ok(if self.stop.is_some() { Heard::Whole } else { Heard::More });
        }
        let mut chunk: Chunk = parse(data)?;
        if let Some(error) = ModelError::named(&chunk.error) {
            return Err(error);
        }
        self.usage = usage(&chunk.usage).or(self.usage);
        let choice = chunk.choices.as_array_mut().and_then(|choices| {
            choices.iter_mut().find(|choice| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0)
        });
        if let Some(choice) = choice.filter(|_| self.stop.is_none()) {
            if let Some(Value::Object(delta)) = choice.get_mut("delta").map(Value::take) {
                self.take(delta, heard);
            }
            self.stop = text(choice, "finish_reason").map(str::to_owned);
        }
        Ok(if self.stop.is_some() { Heard::Whole } else { Heard::More })
    }

    fn finish(mut self: Box<Self>) -> Result<Answer, ModelError> {
        let streamed = std::mem::take(&mut self.calls);
        if !streamed.is_empty() {
            let calls = streamed.into_iter().map(|mut call| {
                call.remove("index");
                call.entry("type").or_insert_with(|| "function".into());
                Value::Object(call)
            });
            self.message.insert("tool_calls".into(), calls.collect());
        }
        let calls: Vec<ToolCall> = match self.message.get_mut("tool_calls").and_then(Value::as_array_mut) {
            Some(calls) => {
                // What is no object is no call.
                calls.retain(Value::is_object);
                calls.iter_mut().enumerate().map(|(at, call)| tool_call(at, call)).collect()
            }
            None => Vec::new(),
        };
        if calls.is_empty() {
            // Said back, an empty list is refused.
            self.message.remove("tool_calls");
        }
        let said = self.message.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
        let stop = match self.stop.as_deref() {
            Some("stop" | "tool_calls" | "function_call") => Stop::Done,
            Some("length") => Stop::Length,
            Some("content_filter") => Stop::Filtered,
            Some(other) => Stop::Other(excerpt(other)),
            // Some servers say only that the stream is over.
            None if self.ended && !(said.is_empty() && calls.is_empty()) => Stop::Done,
            None if self.message.is_empty() => {
                return Err(ModelError::retryable("provider_empty_answer", "the stream has ended before it began"));
            }
            None => return Err(ModelError::retryable("provider_answer_cut", "the stream has ended within the answer")),
        };
        self.message.insert("role".into(), "assistant".into());
        self.message.entry("content").or_insert(Value::Null);
        if calls.is_empty() && self.message["content"].is_null() {
            // Said back, an answer without words and calls is refused.
            self.message["content"] = words("").into();
        }
        Ok(Answer { text: said, calls, verbatim: Value::Object(self.message), stop, usage: self.usage })
    }
}

impl Chunks {
    /// Takes in words: what [`Chunks::take`] does with a delta that holds nothing else.
    fn say(&mut self, words: &str, heard: &mut dyn FnMut(Piece<'_>)) {
        if !words.is_empty() {
            heard(Piece::Text(words));
        }
        match self.message.get_mut("content") {
            Some(Value::String(there)) => there.push_str(words),
            _ => drop(self.message.insert("content".into(), words.into())),
        }
    }

    fn take(&mut self, mut delta: Map<String, Value>, heard: &mut dyn FnMut(Piece<'_>)) {
        if let Some(Value::Array(calls)) = delta.remove("tool_calls") {
            for call in calls {
                if let Value::Object(call) = call {
                    self.take_call(call, heard);
                }
            }
        }
        for (name, is_thinking) in [("content", false), ("reasoning_content", true), ("reasoning", true)] {
            if let Some(words) = delta.get(name).and_then(Value::as_str).filter(|words| !words.is_empty()) {
                heard(if is_thinking { Piece::Thinking(words) } else { Piece::Text(words) });
            }
        }
        join(&mut self.message, delta);
    }

    /// Pieces of a call have its index. Servers that send calls whole often leave it out: a new id is a new call then.
    fn take_call(&mut self, call: Map<String, Value>, heard: &mut dyn FnMut(Piece<'_>)) {
        let index = call.get("index").and_then(Value::as_u64);
        let id = call.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
        let of = |call: &Map<String, Value>, name: &str| call.get(name).cloned();
        let there = match (index, id) {
            (Some(index), _) => self.calls.iter().position(|there| of(there, "index") == Some(index.into())),
            (None, Some(id)) => self.calls.iter().position(|there| of(there, "id") == Some(id.into())),
            (None, None) => self.calls.len().checked_sub(1),
        };
        match there {
            Some(at) => join(&mut self.calls[at], call),
            None => {
                let name = call.get("function").and_then(|function| text(function, "name")).unwrap_or_default();
                heard(Piece::Call { id: id.unwrap_or_default(), name });
                self.calls.push(call);
            }
        }
    }
}

/// A call as we keep it. One without an id gets one, in the verbatim message too, so that its result finds it.
fn tool_call(at: usize, call: &mut Value) -> ToolCall {
    let id = match text(call, "id") {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ => {
            let id = format!("call_{at}");
            call["id"] = id.clone().into();
            id
        }
    };
    let function = call.get("function").unwrap_or(&Value::Null);
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    ToolCall { id, name: text(function, "name").unwrap_or_default().to_owned(), arguments }
}

fn usage(usage: &Value) -> Option<Usage> {
    let count = |name: &str| usage.get(name).and_then(Value::as_u64);
    Some(Usage { input: count("prompt_tokens")?, output: count("completion_tokens")?, estimated: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What chunks of these choices say, and whether each was a usual one.
    fn heard(chunks: &[(&str, bool)]) -> (String, Map<String, Value>) {
        let (mut reader, mut said) = (Chunks::default(), String::new());
        for (choices, is_usual) in chunks {
            let data = format!(r#"{{"id":"c","object":"chat.completion.chunk","model":"m","choices":{choices}}}"#);
            assert_eq!(Plain::words(&data).is_some(), *is_usual, "{data}");
            let mut hear = |piece: Piece<'_>| {
                if let Piece::Text(words) = piece {
                    said.push_str(words);
                }
            };
            reader.event(&data, &mut hear).expect("it is understood");
        }
        (said, reader.message)
    }

    #[test]
    fn a_usual_chunk_is_read_the_short_way_and_says_the_same() {
        let (said, message) = heard(&[
            (r#"[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]"#, false),
            (r#"[{"index":0,"delta":{"content":"a \"word\""},"finish_reason":null}]"#, true),
            (r#"[{"delta":{"content":"\u00e4"},"logprobs":null}]"#, true),
            (r#"[{"index":0,"delta":{"content":" ö","mood":"calm"}}]"#, false),
            (r#"[{"index":1,"delta":{"content":"another answer"}}]"#, false),
            (r#"[{"index":0,"delta":{"content":null}}]"#, false),
            (r#"[{"index":0,"delta":{"content":"!"}},{"index":1,"delta":{"content":"?"}}]"#, false),
            ("[]", false),
            ("null", false),
            (r#"[{"index":0,"delta":{"content":"."},"finish_reason":"stop"}]"#, false),
            (r#"[{"index":0,"delta":{"content":"said again"}}]"#, true),
        ]);
        assert_eq!(said, "a \"word\"ä ö!.");
        assert_eq!(Value::Object(message), json!({ "role": "assistant", "content": said, "mood": "calm" }));
    }
}
