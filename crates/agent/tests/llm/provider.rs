//! Who plays the provider? A server that answers from a script, byte for byte, in both dialects, and counts.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
    routing::any,
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// A part of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    /// These bytes, in a chunk of their own.
    Bytes(Vec<u8>),
    /// Waits until the test lets it go on.
    Gate(Arc<Notify>),
    /// Tells the test that it has come so far.
    Reached(Arc<Notify>),
    /// The connection breaks.
    Break,
    /// These bytes, again and again, without end.
    Endless(Vec<u8>),
    /// Nothing more, and no end.
    Silence,
}

/// An answer: status, headers, frames.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) frames: Vec<Frame>,
}

impl Script {
    pub(crate) fn stream(frames: Vec<Frame>) -> Script {
        Script { status: 200, headers: vec![("content-type", "text/event-stream".into())], frames }
    }

    pub(crate) fn page(status: u16, kind: &str, body: impl AsRef<[u8]>) -> Script {
        Script {
            status,
            headers: vec![("content-type", kind.into())],
            frames: vec![Frame::Bytes(body.as_ref().into())],
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Script {
        self.headers.push((name, value.into()));
        self
    }

    /// The same bytes, each in a chunk of its own: every cut that a network can make.
    pub(crate) fn in_bytes(self) -> Script {
        let cut = |frame: Frame| match frame {
            Frame::Bytes(bytes) => bytes.into_iter().map(|byte| Frame::Bytes(vec![byte])).collect(),
            other => vec![other],
        };
        Script { frames: self.frames.into_iter().flat_map(cut).collect(), ..self }
    }

    /// Waits for the test before the frame of this number.
    pub(crate) fn gated(mut self, at: usize, gate: &Arc<Notify>) -> Script {
        self.frames.insert(at, Frame::Gate(Arc::clone(gate)));
        self
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

type Answers = Box<dyn Fn(usize, &Value) -> Script + Send>;

struct Inner {
    queue: Mutex<VecDeque<Script>>,
    otherwise: Mutex<Option<Answers>>,
    asked: Mutex<Vec<Asked>>,
    count: watch::Sender<usize>,
}

/// The server. It ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) base: String,
    inner: Arc<Inner>,
}

impl Provider {
    /// Answers one script after the other, and fails when there is none left.
    pub(crate) async fn scripted(scripts: impl IntoIterator<Item = Script>) -> Provider {
        let queue = Mutex::new(scripts.into_iter().collect());
        let (otherwise, asked) = (Mutex::new(None), Mutex::default());
        let inner = Arc::new(Inner { queue, otherwise, asked, count: watch::Sender::new(0) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(any(answer)).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Provider { base, inner }
    }

    /// Answers by the number of the request, from 0, and by what it asks.
    pub(crate) async fn answering(answers: impl Fn(usize, &Value) -> Script + Send + 'static) -> Provider {
        let provider = Provider::scripted([]).await;
        *provider.inner.otherwise.lock().expect("no panic") = Some(Box::new(answers));
        provider
    }

    pub(crate) fn then(&self, script: Script) {
        self.inner.queue.lock().expect("no panic").push_back(script);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().expect("no panic").clone()
    }

    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.asked().into_iter().map(|asked| asked.body).collect()
    }

    pub(crate) fn count(&self) -> usize {
        *self.inner.count.borrow()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn heard(&self, n: usize) {
        let mut count = self.inner.count.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(30), count.wait_for(|count| *count >= n));
        waited.await.unwrap_or_else(|_| panic!("request {n} does not come")).expect("the provider lives");
    }
}

async fn answer(State(inner): State<Arc<Inner>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let number = inner.asked.lock().expect("no panic").len();
    let script = inner.queue.lock().expect("no panic").pop_front();
    let script = script.or_else(|| inner.otherwise.lock().expect("no panic").as_ref().map(|of| of(number, &body)));
    inner.asked.lock().expect("no panic").push(Asked { path: uri.path().to_owned(), headers, body });
    inner.count.send_modify(|count| *count += 1);
    let script = script.unwrap_or_else(|| Script::page(418, "text/plain", "the script is at its end"));
    let mut response = Response::builder().status(StatusCode::from_u16(script.status).expect("a status"));
    for (name, value) in &script.headers {
        response = response.header(*name, value);
    }
    let frames = stream::iter(script.frames).flat_map(|frame| match frame {
        Frame::Bytes(bytes) => stream::once(async { Ok(Bytes::from(bytes)) }).boxed(),
        Frame::Gate(gate) => stream::once(async move { gate.notified().await })
            .flat_map(|()| stream::empty::<io::Result<Bytes>>())
            .boxed(),
        Frame::Reached(mark) => {
            stream::once(async move { mark.notify_one() }).flat_map(|()| stream::empty::<io::Result<Bytes>>()).boxed()
        }
        // What was sent before is on its way first.
        Frame::Break => stream::once(async {
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
            Err(io::Error::other("the connection breaks"))
        })
        .boxed(),
        Frame::Endless(bytes) => stream::repeat(Bytes::from(bytes)).map(Ok).boxed(),
        Frame::Silence => stream::pending().boxed(),
    });
    response.body(Body::from_stream(frames)).expect("a response")
}

/// Both dialects, to write the same scripts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Openai,
    Anthropic,
}

pub(crate) const BOTH: [Speaks; 2] = [Speaks::Openai, Speaks::Anthropic];

impl Speaks {
    /// An answer in words, which come in the given pieces, with 10 tokens read and 5 written.
    pub(crate) fn says(self, pieces: &[&str]) -> Script {
        self.answers(pieces, &[])
    }

    /// An answer that calls tools: id, name, arguments.
    pub(crate) fn calls(self, calls: &[(&str, &str, &str)]) -> Script {
        self.answers(&[], calls)
    }

    pub(crate) fn answers(self, pieces: &[&str], calls: &[(&str, &str, &str)]) -> Script {
        Script::stream(self.events(pieces, calls).iter().map(|event| self.frame(event)).collect())
    }

    /// The events of an answer, without the end mark of a stream.
    pub(crate) fn events(self, pieces: &[&str], calls: &[(&str, &str, &str)]) -> Vec<Value> {
        match self {
            Speaks::Openai => openai(pieces, calls),
            Speaks::Anthropic => anthropic(pieces, calls),
        }
    }

    pub(crate) fn frame(self, event: &Value) -> Frame {
        let text = match (self, event.as_str()) {
            (_, Some(raw)) => raw.to_owned(),
            (Speaks::Openai, None) => format!("data: {event}\n\n"),
            (Speaks::Anthropic, None) => {
                format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"))
            }
        };
        Frame::Bytes(text.into_bytes())
    }

    /// The address as the dialect wants it.
    pub(crate) fn base(self, provider: &Provider) -> String {
        match self {
            Speaks::Openai => format!("{}/v1", provider.base),
            Speaks::Anthropic => provider.base.clone(),
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Speaks::Openai => "/v1/chat/completions",
            Speaks::Anthropic => "/v1/messages",
        }
    }
}

fn halves(text: &str) -> (&str, &str) {
    text.split_at(text.floor_char_boundary(text.len() / 2))
}

fn openai(pieces: &[&str], calls: &[(&str, &str, &str)]) -> Vec<Value> {
    let chunk = |delta: Value, finish: Value| {
        json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
        })
    };
    let mut events = vec![chunk(json!({ "role": "assistant", "content": "" }), Value::Null)];
    events.extend(pieces.iter().map(|piece| chunk(json!({ "content": piece }), Value::Null)));
    for (at, (id, name, arguments)) in calls.iter().enumerate() {
        let (first, rest) = halves(arguments);
        let begun =
            json!({ "index": at, "id": id, "type": "function", "function": { "name": name, "arguments": first } });
        events.push(chunk(json!({ "tool_calls": [begun] }), Value::Null));
        let more = json!({ "index": at, "function": { "arguments": rest } });
        events.push(chunk(json!({ "tool_calls": [more] }), Value::Null));
    }
    events.push(chunk(json!({}), if calls.is_empty() { "stop".into() } else { "tool_calls".into() }));
    events.push(json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m", "choices": [],
        "usage": { "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 },
    }));
    events.push(json!("data: [DONE]\n\n"));
    events
}

fn anthropic(pieces: &[&str], calls: &[(&str, &str, &str)]) -> Vec<Value> {
    let usage = json!({ "input_tokens": 8, "cache_read_input_tokens": 2, "output_tokens": 1 });
    let mut events = vec![json!({
        "type": "message_start",
        "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage,
        },
    })];
    let mut index = 0;
    let mut block = |start: Value, deltas: Vec<Value>| {
        let mut events = vec![json!({ "type": "content_block_start", "index": index, "content_block": start })];
        events.extend(
            deltas.into_iter().map(|delta| json!({ "type": "content_block_delta", "index": index, "delta": delta })),
        );
        events.push(json!({ "type": "content_block_stop", "index": index }));
        index += 1;
        events
    };
    if !pieces.is_empty() {
        let deltas = pieces.iter().map(|piece| json!({ "type": "text_delta", "text": piece })).collect();
        events.extend(block(json!({ "type": "text", "text": "" }), deltas));
    }
    events.push(json!({ "type": "ping" }));
    for (id, name, arguments) in calls {
        let (first, rest) = halves(arguments);
        let deltas = [first, rest]
            .map(|piece| json!({ "type": "input_json_delta", "partial_json": piece }))
            .into_iter()
            .collect();
        events.extend(block(json!({ "type": "tool_use", "id": id, "name": name, "input": {} }), deltas));
    }
    let stop = if calls.is_empty() { "end_turn" } else { "tool_use" };
    events.push(json!({
        "type": "message_delta", "delta": { "stop_reason": stop, "stop_sequence": null }, "usage": { "output_tokens": 5 },
    }));
    events.push(json!({ "type": "message_stop" }));
    events
}
