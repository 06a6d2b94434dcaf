//! What does every wire format have to say, whatever its shape?

use super::{
    config::DialectName,
    failure::ModelError,
    message::{Message, Role, ToolCall, Usage},
};
use reqwest::header::HeaderMap;
use secrecy::SecretString;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use windlass_core::{BlobId, ContentBlock, MediaSource};

/// A wire format.
pub(crate) trait Dialect: std::fmt::Debug + Send + Sync {
    fn name(&self) -> DialectName;

    /// Where requests go, below the base address.
    fn path(&self) -> &'static str;

    /// The headers that every request has.
    fn headers(&self, key: Option<&SecretString>) -> HeaderMap;

    /// The request's body, as JSON.
    fn body(&self, question: &Question<'_>) -> Vec<u8>;

    /// Reads one streamed answer.
    fn reader(&self) -> Box<dyn Reader>;

    /// Reads an answer that came in one piece, because the server does not stream.
    fn whole(&self, body: Value) -> Result<Answer, ModelError>;
}

/// Reads one streamed answer, event by event.
pub(crate) trait Reader: Send {
    /// Takes in the data of one event.
    fn event(&mut self, data: &str, heard: &mut dyn FnMut(Piece<'_>)) -> Result<Heard, ModelError>;

    /// The answer, once the stream has ended. An error if it has ended too early.
    fn finish(self: Box<Self>) -> Result<Answer, ModelError>;
}

/// How much of an answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// There is more to come.
    More,
    /// The answer is whole; only accounting may follow.
    Whole,
    /// Nothing follows.
    End,
}

/// A part of an answer, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Thinking(&'a str),
    Call {
        id: &'a str,
        name: &'a str,
    },
    /// What was heard so far is void: the model is asked again.
    Again,
}

/// What a model is asked.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) model: &'a str,
    pub(crate) system: Option<&'a str>,
    pub(crate) messages: Vec<Arc<Message>>,
    pub(crate) tools: &'a [ToolSpec],
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: Option<f64>,
    pub(crate) schema: Option<&'a Value>,
    pub(crate) params: &'a Map<String, Value>,
    /// Pictures that messages refer to, in base64.
    pub(crate) pictures: &'a HashMap<BlobId, String>,
}

/// A tool, as the model is told of it.
#[derive(Clone, Debug)]
pub(crate) struct ToolSpec {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) schema: Value,
}

/// What a model answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) verbatim: Value,
    pub(crate) stop: Stop,
    pub(crate) usage: Option<Usage>,
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It has said what it wants to say, or calls tools.
    Done,
    /// It must not say more.
    Length,
    /// It, or the provider, refuses to say more.
    Filtered,
    /// It goes on when it is asked again.
    Paused,
    /// A word that we do not know.
    Other(String),
}

impl Stop {
    pub(crate) fn word(&self) -> &str {
        match self {
            Stop::Done => "done",
            Stop::Length => "length",
            Stop::Filtered => "filtered",
            Stop::Paused => "paused",
            Stop::Other(word) => word,
        }
    }
}

/// Messages in the order that providers ask for: each call is followed by its result. A call without one, of a run
/// that was cancelled or lost, gets a result that says so.
pub(crate) fn in_order(messages: &[Arc<Message>]) -> Vec<Arc<Message>> {
    let mut ordered = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        if message.role == Role::Tool {
            continue;
        }
        ordered.push(Arc::clone(message));
        if message.calls.is_empty() {
            continue;
        }
        // Only up to the next answer: ids are unique within an answer, and not always beyond.
        let until = messages[at + 1..].iter().position(|later| later.role == Role::Assistant);
        let following = &messages[at + 1..until.map_or(messages.len(), |until| at + 1 + until)];
        let mut answered = HashSet::new();
        for call in message.calls.iter().filter(|call| answered.insert(call.id.as_str())) {
            let result = following.iter().find(|later| later.call.as_deref() == Some(&call.id));
            ordered.push(result.map_or_else(|| Arc::new(Message::tool(&call.id, NO_RESULT, true)), Arc::clone));
        }
    }
    ordered
}

/// Of a call whose run was cut off before its result: before it was made, while it was on, or after.
pub(crate) const NO_RESULT: &str =
    "no_result: the run ended before there was one; the call may or may not have been made";

/// A picture's source, as a dialect writes it.
pub(crate) enum Picture<'a> {
    Data {
        media_type: &'a str,
        base64: &'a str,
    },
    Url(&'a str),
    /// Words in its place.
    Words(String),
}

/// What stands for a block that is no words.
pub(crate) fn picture<'a>(block: &'a ContentBlock, pictures: &'a HashMap<BlobId, String>) -> Picture<'a> {
    let (media_type, source) = match block {
        ContentBlock::Text { text } => return Picture::Words(text.clone()),
        ContentBlock::Video { media_type, .. } => {
            return Picture::Words(format!("[a film of type {media_type}, which cannot be shown here]"));
        }
        ContentBlock::Image { media_type, source } => (media_type, source),
    };
    match source {
        MediaSource::Inline { data } => Picture::Data { media_type, base64: data },
        MediaSource::Url { url } => Picture::Url(url),
        MediaSource::Blob { blob, .. } => match pictures.get(blob) {
            Some(base64) => Picture::Data { media_type, base64 },
            None => Picture::Words(format!("[a picture of type {media_type}, which is no longer there]")),
        },
    }
}

/// The room that a body has at first, in bytes; it grows.
const BODY: usize = 2 << 10;

/// A request's body, written member by member: conversations are long, and nothing of them is copied first.
pub(crate) struct Body<'q> {
    json: Vec<u8>,
    params: &'q Map<String, Value>,
}

impl<'q> Body<'q> {
    /// One that gets these members too; they replace ours.
    pub(crate) fn with_params(params: &'q Map<String, Value>) -> Body<'q> {
        let mut json = Vec::with_capacity(BODY);
        json.push(b'{');
        Body { json, params }
    }

    pub(crate) fn add(&mut self, name: &str, value: impl Serialize) {
        if !self.params.contains_key(name) {
            self.write(name, value);
        }
    }

    pub(crate) fn whole(mut self) -> Vec<u8> {
        for (name, value) in self.params {
            self.write(name, value);
        }
        self.json.push(b'}');
        self.json
    }

    fn write(&mut self, name: &str, value: impl Serialize) {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
        let is_json = "text, numbers and JSON are always JSON";
        serde_json::to_writer(&mut self.json, name).expect(is_json);
        self.json.push(b':');
        serde_json::to_writer(&mut self.json, &value).expect(is_json);
    }
}

/// Joins a piece of a streamed object to what came before: text is appended, objects are joined member by member, all
/// else is replaced. What names something is said once, or repeated, and never appended.
pub(crate) fn join(whole: &mut Map<String, Value>, piece: Map<String, Value>) {
    const NAMES: [&str; 5] = ["id", "type", "role", "name", "index"];
    for (name, value) in piece {
        match (whole.get_mut(&name), value) {
            (Some(_), Value::Null) => {}
            (Some(Value::String(there)), Value::String(more)) if NAMES.contains(&name.as_str()) => {
                if !more.is_empty() {
                    *there = more;
                }
            }
            (Some(Value::String(there)), Value::String(more)) => there.push_str(&more),
            (Some(Value::Object(there)), Value::Object(more)) => join(there, more),
            (Some(Value::Array(there)), Value::Array(more)) => join_lists(there, more),
            (_, value) => drop(whole.insert(name, value)),
        }
    }
}

/// Entries with an `index` are joined to those of the same index, others are appended.
fn join_lists(whole: &mut Vec<Value>, pieces: Vec<Value>) {
    for piece in pieces {
        let index = piece.get("index").cloned();
        let there = whole.iter_mut().find(|there| index.is_some() && there.get("index") == index.as_ref());
        match (there, piece) {
            (Some(Value::Object(there)), Value::Object(more)) => join(there, more),
            (_, piece) => whole.push(piece),
        }
    }
}

/// The event's data, which is JSON.
pub(crate) fn parse<T: DeserializeOwned>(data: &str) -> Result<T, ModelError> {
    serde_json::from_str(data).map_err(|error| {
        let page = super::failure::page(data);
        ModelError::retryable("provider_protocol_error", format!("an event is no JSON ({error}): {page}"))
    })
}

/// Takes a member out of an object as text.
pub(crate) fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name).and_then(Value::as_str)
}

/// Words for where a format refuses a text that is empty.
pub(super) fn words(text: &str) -> &str {
    if text.trim().is_empty() { "(nothing)" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(messages: &[Arc<Message>]) -> Vec<String> {
        let word = |message: &Arc<Message>| match &message.call {
            Some(call) => format!("{call}={}", message.content),
            None => message.content.clone(),
        };
        messages.iter().map(word).collect()
    }

    fn asks(text: &str, ids: &[&str]) -> Arc<Message> {
        let call = |id: &&str| ToolCall { id: (*id).into(), name: "t".into(), arguments: "{}".into() };
        Arc::new(Message { calls: ids.iter().map(call).collect(), ..Message::assistant(text) })
    }

    #[test]
    fn every_call_is_followed_by_its_result() {
        let tool = |id: &str, text: &str| Arc::new(Message::tool(id, text, false));
        let user = |text: &str| Arc::new(Message::user(text));
        let messages =
            [user("u"), asks("a", &["1", "2"]), user("late"), tool("2", "two"), asks("b", &["1"]), user("v")];
        let none = format!("1={NO_RESULT}");
        assert_eq!(shape(&in_order(&messages)), ["u", "a", &none, "2=two", "late", "b", &none, "v"]);
        let messages = [asks("a", &["1"]), tool("1", "one"), asks("b", &["1"]), tool("1", "again"), tool("9", "stray")];
        assert_eq!(shape(&in_order(&messages)), ["a", "1=one", "b", "1=again"]);
    }

    #[test]
    fn pieces_join_to_what_they_are_pieces_of() {
        let mut whole = Map::new();
        for piece in [
            json!({ "role": "assistant", "content": "a", "tool_calls": [{ "index": 1, "id": "x", "function": { "name": "f", "arguments": "{" } }] }),
            json!({ "role": "assistant", "content": null, "new": { "deep": "p" } }),
            json!({ "content": "b", "new": { "deep": "q" }, "tool_calls": [{ "index": 1, "id": "", "function": { "name": "f", "arguments": "}" } }] }),
        ] {
            let Value::Object(piece) = piece else { unreachable!("all are objects") };
            join(&mut whole, piece);
        }
        let expected = json!({
            "role": "assistant",
            "content": "ab",
            "new": { "deep": "pq" },
            "tool_calls": [{ "index": 1, "id": "x", "function": { "name": "f", "arguments": "{}" } }],
        });
        assert_eq!(Value::Object(whole), expected);
    }
}
