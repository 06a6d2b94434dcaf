//! Does an endpoint run the turns of sessions, and does whatever it answers end in a typed outcome?
//!
//! The endpoint is a socket that plays bytes, so that it can be as wrong as needed.

use crate::common::{abandoned, adapter, has, offer, prompt, repository, result_text, session, until, with_factory};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use windlass_agent::{Egress, EgressRules, Endpoint, HttpExecutor, config::Agents};
use windlass_core::{
    AbandonReason, CancelOutcome, Disposition, HandlingMode, Input, InputId, PeerConvention, ProgressPhase, Record,
    RunEnd, Seq, Timestamp, TraceContext,
};
use windlass_runtime::{CompletionOutcome, ExecutorFactory, FeedItem, RuntimeSessionAdapter};

/// What an endpoint does with one request.
#[derive(Clone)]
enum Act {
    /// Says this and closes the connection.
    Say(Vec<u8>),
    /// Says this and holds the connection until the other side closes it.
    Hold(Vec<u8>),
    /// Says this after a while.
    Late(Duration, Vec<u8>),
    /// Says a comment so many times, with a pause before each, and then this.
    Ping(u32, Duration, Vec<u8>),
    /// Says this, then the second part again and again.
    Repeat(Vec<u8>, Vec<u8>),
    /// Says these one by one, each when the test lets it.
    Paced(Vec<Vec<u8>>, Arc<Semaphore>),
    /// Says a stream in these chunks, which the other side reads one by one, and ends without its last.
    Chunks(Vec<Vec<u8>>),
}

#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    /// Connections that the other side closed while they were held.
    closed: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Plays the acts in order, one per request, and the last one for ever.
    async fn playing(acts: impl IntoIterator<Item = Act>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (requests, closed) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<Mutex<usize>>::default());
        let acts: Arc<Mutex<VecDeque<Act>>> = Arc::new(Mutex::new(acts.into_iter().collect()));
        let (seen, gone) = (Arc::clone(&requests), Arc::clone(&closed));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acts, seen, gone) = (Arc::clone(&acts), Arc::clone(&seen), Arc::clone(&gone));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let request = read(&mut stream).await;
                    let act = {
                        let mut acts = acts.lock().expect("not poisoned");
                        if acts.len() > 1 { acts.pop_front() } else { acts.front().cloned() }
                    };
                    seen.lock().expect("not poisoned").push(request);
                    play(stream.into_inner(), act.expect("an act"), &gone).await;
                });
            }
        });
        Server { port, requests, closed, task }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(format!("http://127.0.0.1:{}/run", self.port).parse().expect("a URL"))
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Request {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("a line");
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").expect("a length").1.parse().expect("a number");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    Request { line: lines[0].clone(), headers, body: serde_json::from_slice(&body).expect("JSON") }
}

async fn play(mut stream: TcpStream, act: Act, closed: &Mutex<usize>) {
    stream.set_nodelay(true).expect("a socket");
    match act {
        Act::Say(bytes) => stream.write_all(&bytes).await.expect("it reads"),
        Act::Hold(bytes) => {
            stream.write_all(&bytes).await.expect("it reads");
            let mut rest = [0; 16];
            while let Ok(1..) = stream.read(&mut rest).await {}
            *closed.lock().expect("not poisoned") += 1;
        }
        Act::Paced(parts, pace) => {
            for part in parts {
                pace.acquire().await.expect("open").forget();
                stream.write_all(&part).await.expect("it reads");
            }
        }
        Act::Late(pause, bytes) => {
            tokio::time::sleep(pause).await;
            stream.write_all(&bytes).await.expect("it reads");
        }
        Act::Ping(times, pause, bytes) => {
            stream.write_all(STREAM.as_bytes()).await.expect("it reads");
            for _ in 0..times {
                tokio::time::sleep(pause).await;
                stream.write_all(b": still here\n\n").await.expect("it reads");
            }
            stream.write_all(&bytes).await.expect("it reads");
        }
        Act::Repeat(first, again) => {
            let mut written = stream.write_all(&first).await;
            while written.is_ok() {
                written = stream.write_all(&again).await;
                tokio::task::yield_now().await;
            }
        }
        Act::Chunks(chunks) => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("it reads");
            for chunk in chunks {
                let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat();
                stream.write_all(&framed).await.expect("it reads");
            }
        }
    }
}

fn http(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes =
        format!("HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n", body.len())
            .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

const JSON: &str = "content-type: application/json\r\n";
const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

fn ok(body: &str) -> Act {
    Act::Say(http("200 OK", JSON, body))
}

fn events(events: &str) -> Act {
    Act::Say(format!("{STREAM}{events}").into_bytes())
}

fn executor(endpoint: Endpoint) -> RuntimeSessionAdapter {
    let rules = EgressRules { allow: vec!["127.0.0.1".parse().expect("a host")] };
    let egress = Egress::new(rules).expect("TLS is there");
    adapter(Arc::new(HttpExecutor::new(endpoint, egress).expect("allowed")))
}

async fn outcome(act: Act, change: impl FnOnce(Endpoint) -> Endpoint) -> (CompletionOutcome, Server) {
    let server = Server::playing([act]).await;
    let adapter = executor(change(server.endpoint()));
    let outcome = offer(&session(&adapter, 1).await, 1, "hello").await.wait().await;
    (outcome, server)
}

#[tokio::test]
async fn answers_are_committed() {
    let (answered, server) = outcome(ok(r#"{"text":"good day","more":1}"#), |it| it).await;
    assert_eq!(result_text(answered), "good day");
    let request = &server.requests()[0];
    assert_eq!(request.line, "POST /run HTTP/1.1");
    assert_eq!((&request.body["type"], &request.body["text"]), (&json!("run"), &json!("hello")));
    for nothing in [ok("{}"), Act::Say(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec())] {
        assert_eq!(outcome(nothing, |it| it).await.0, CompletionOutcome::CompletedWithoutResult);
    }
    // What is ignored counts for no event.
    for ignored in [": still here\n\n", "data: {}\n\n", "event: ping\r\ndata: {}\r\n\r\n"] {
        let said = format!("{}event: result\ndata: {{\"text\":\"done\"}}\n\n", ignored.repeat(2_000));
        let (answered, _server) = outcome(events(&said), |it| Endpoint { answer_limit: 20_000, ..it }).await;
        assert_eq!(result_text(answered), "done", "{ignored:?}");
    }
    let asks = ok(r#"{"text":"May I?","pending":{"tool_name":"ask_human","args":{}}}"#);
    let CompletionOutcome::CallbackPending(tool) = outcome(asks, |it| it).await.0 else { panic!("it asks") };
    assert_eq!(tool.tool_name, "ask_human");
}

/// One row per misbehaviour: what the endpoint does with each request, what the run comes to, after how many requests.
#[tokio::test]
async fn whatever_it_answers_ends_in_a_typed_outcome() {
    let truncated =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"text\":".to_vec();
    let endless = Act::Repeat(
        format!("HTTP/1.1 200 OK\r\n{JSON}\r\n{{\"text\":\"").into_bytes(),
        b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx".repeat(256),
    );
    let endless_event = Act::Repeat(format!("{STREAM}data: ").into_bytes(), vec![b'x'; 8192]);
    let dribble = Act::Repeat(format!("{STREAM}:").into_bytes(), vec![b'x']);
    let page = http("404 Not Found", "content-type: text/html\r\n", "<html>not here</html>");
    for (what, act, expected, requests) in [
        ("empty", ok(""), "executor_protocol_error: the answer is empty", 3),
        ("words", ok("good day"), "executor_protocol_error: expected a JSON object, not: good day", 1),
        ("a list", ok(r#"["text"]"#), "executor_protocol_error: expected a JSON object, not: [", 1),
        ("wrong shape", ok(r#"{"text":7}"#), "executor_protocol_error: invalid type: integer `7`", 1),
        (
            "a slip",
            ok(r#"{"txet":"good day"}"#),
            "executor_protocol_error: none of text, structured, message_count, delta, pending is in: {\"txet\"",
            1,
        ),
        ("half", ok(r#"{"text":"#), "executor_protocol_error: EOF while parsing", 1),
        (
            "no UTF-8",
            Act::Say(http("200 OK", JSON, b"{\"text\":\"\xff\"}")),
            "executor_protocol_error: the answer is no",
            1,
        ),
        (
            "a page",
            Act::Say(http("200 OK", "content-type: text/html\r\n", "<html>")),
            "executor_protocol_error: content type \"text/html\"; an answer is application/json",
            1,
        ),
        ("no type", Act::Say(http("200 OK", "", "{}")), "executor_protocol_error: content type \"\"", 1),
        ("accepted", Act::Say(http("202 Accepted", JSON, "{}")), "executor_protocol_error: 202 Accepted: {}", 1),
        ("not found", Act::Say(page), "executor_refused: 404 Not Found: <html>not here</html>", 1),
        ("denied", Act::Say(http("401 Unauthorized", "", "")), "executor_refused: 401 Unauthorized", 1),
        (
            "elsewhere",
            Act::Say(http("307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n", "")),
            "executor_refused: 307 Temporary Redirect; redirects are not followed",
            1,
        ),
        ("gone", Act::Say(http("410 Gone", "", "moved on")), "executor_gone: 410 Gone: moved on", 1),
        ("broken", Act::Say(http("500 Internal Server Error", "", "oops")), "executor_failed: 500 Internal", 3),
        ("busy", Act::Say(http("429 Too Many Requests", "retry-after: 0\r\n", "")), "executor_failed: 429 Too Many", 3),
        ("truncated", Act::Say(truncated), "executor_unreachable: ", 3),
        ("no answer", Act::Say(Vec::new()), "executor_unreachable: ", 3),
        ("no HTTP", Act::Say(b"hello\r\n\r\n".to_vec()), "executor_unreachable: ", 3),
        ("silence", Act::Hold(Vec::new()), "executor_timed_out: nothing came for 200ms", 3),
        ("silence later", Act::Hold(STREAM.into()), "executor_timed_out: nothing came for 200ms", 3),
        ("a dribble", dribble, "executor_timed_out: the run took longer than 400ms", 3),
        ("endless", endless, "result_too_large: the answer is larger than 100000 bytes", 1),
        ("an endless event", endless_event, "result_too_large: the answer is larger than 100000 bytes", 1),
        ("no result", events("event: progress\ndata: 1\n\n"), "executor_protocol_error: the stream ended without", 3),
        (
            "bad event",
            events("event: result\ndata: {\"text\":1}\n\n"),
            "executor_protocol_error: event \"result\": inv",
            1,
        ),
        ("bad progress", events("event: progress\ndata: {\n\n"), "executor_protocol_error: event \"progress\": EOF", 1),
        ("failed", events("event: failed\ndata: {\"error\":\"no account\"}\n\n"), "executor_refused: no account", 1),
        (
            "failed for now",
            events("event: failed\ndata: {\"error\":\"busy\",\"retryable\":true}\n\n"),
            "executor_failed: busy",
            3,
        ),
    ] {
        // Impatient only where it is about time, so that a slow machine changes nothing elsewhere.
        let usual = |endpoint| Endpoint { answer_limit: 100_000, ..endpoint };
        let bounds = |endpoint| match what {
            "silence" | "silence later" => Endpoint { idle: Duration::from_millis(200), ..usual(endpoint) },
            "a dribble" => {
                let time_limit = Duration::from_millis(400);
                Endpoint { time_limit, answer_limit: usize::MAX, ..usual(endpoint) }
            }
            _ => usual(endpoint),
        };
        let (ended, server) = outcome(act, bounds).await;
        let error = abandoned(ended);
        assert!(error.starts_with(expected), "{what}: {error}");
        assert_eq!(server.requests().len(), requests, "{what}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_may_take_longer_than_the_stall_time_if_its_own_bounds_allow_it() {
    let result = b"event: result\ndata: {\"text\":\"done\"}\n\n".to_vec();
    let late = http("200 OK", JSON, r#"{"text":"done"}"#);
    let minute = Duration::from_secs(60);
    for act in [Act::Ping(9, minute, result), Act::Late(9 * minute, late)] {
        let (answered, server) = outcome(act, |it| Endpoint { idle: 10 * minute, ..it }).await;
        assert_eq!(result_text(answered), "done");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_token_that_the_endpoint_quotes_is_hidden() {
    let token = "s3cr3t-0123456789";
    let page = format!("no such key: Bearer {token}");
    let shapeless = format!(r#"{{"text":["{token}"]}}"#);
    let failed = format!("event: failed\ndata: {{\"error\":\"bad key {token}\"}}\n\n");
    let cut = format!("{}{token}", "x".repeat(1020));
    let begun = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: 99\r\n\r\nbad key {}", &token[..9]);
    for (act, expected) in [
        (Act::Say(http("401 Unauthorized", "", page)), "401 Unauthorized: no such key: Bearer ***"),
        (ok(&shapeless), r#"{"text":["***"]}"#),
        (ok(&format!(r#"{{"text":7,"error":"{token}"}}"#)), "***"),
        (events(&failed), "bad key ***"),
        (Act::Say(http("403 Forbidden", "", cut)), "x***…"),
        (Act::Hold(begun.into_bytes()), "403 Forbidden: bad key ***…"),
    ] {
        let with_token = |mut endpoint: Endpoint| {
            let mut value = reqwest::header::HeaderValue::try_from(format!("Bearer {token}")).expect("a header");
            value.set_sensitive(true);
            endpoint.headers.insert(reqwest::header::AUTHORIZATION, value);
            endpoint
        };
        let (ended, server) = outcome(act, with_token).await;
        assert!(server.requests()[0].header("authorization").contains(token));
        let error = abandoned(ended);
        assert!(error.contains(expected) && !error.contains(&token[..4]), "{error}");
    }
}

#[tokio::test]
async fn what_was_told_before_stands_in_the_transcript() {
    let server = Server::playing([ok(r#"{"text":"good day"}"#)]).await;
    let adapter = executor(server.endpoint());
    let session = session(&adapter, 1).await;
    let convention = PeerConvention::ResponseProgress { request_id: "r".into(), phase: ProgressPhase::InProgress };
    let id = InputId::from_uuid(uuid::Uuid::from_u128(7));
    let aside = Input::peer(id, Timestamp::ZERO, "weather", convention, "it rains");
    session.accept(aside).await.expect("an answer");
    assert_eq!(result_text(offer(&session, 1, "hello").await.wait().await), "good day");
    assert_eq!(server.requests()[0].body["context"][0]["text"], "it rains");
    let messages = json!([
        { "role": "user", "content": "it rains" },
        { "role": "user", "content": "hello" },
        { "role": "assistant", "content": "good day" },
    ]);
    let entries = adapter.store().read(session.id(), Seq::ZERO, 100).await.expect("entries");
    let delta = entries.iter().find_map(|entry| match &entry.record {
        Record::RunEnded(ended) => match &ended.end {
            RunEnd::Completed { delta, .. } => delta.clone(),
            _ => None,
        },
        _ => None,
    });
    let delta: Value = serde_json::from_str(delta.expect("a delta").get()).expect("JSON");
    assert_eq!(delta["messages"], messages);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_tried_again_and_one_inside_is_not() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("bound").port()
    };
    let adapter1 = executor(Endpoint::new(format!("http://127.0.0.1:{port}/").parse().expect("a URL")));
    let error = abandoned(offer(&session(&adapter1, 1).await, 1, "hello").await.wait().await);
    assert!(error.starts_with("executor_unreachable: ") && error.contains("refused"), "{error}");
    // A name that only resolving shows to be inside.
    let egress = Egress::new(EgressRules::default()).expect("TLS is there");
    let endpoint = Endpoint::new("https://localhost:8443/".parse().expect("a URL"));
    let adapter2 = adapter(Arc::new(HttpExecutor::new(endpoint, egress).expect("allowed as written")));
    let error = abandoned(offer(&session(&adapter2, 1).await, 1, "hello").await.wait().await);
    assert!(error.starts_with("url_not_allowed: localhost is at "), "{error}");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_id() {
    let server = Server::playing([Act::Say(Vec::new()), ok(r#"{"text":"done"}"#), ok(r#"{"text":"more"}"#)]).await;
    let adapter = executor(server.endpoint());
    let session = session(&adapter, 1).await;
    assert_eq!(result_text(offer(&session, 1, "hello").await.wait().await), "done");
    assert_eq!(result_text(offer(&session, 2, "hello").await.wait().await), "more");
    let requests = server.requests();
    let ids: Vec<&str> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert!(ids[0] == ids[1] && ids[0] != ids[2] && ids[0].starts_with("msg_"), "{ids:?}");
    assert_eq!(requests[0].body["effect_key"], requests[1].body["effect_key"]);
    assert_eq!((&requests[0].body["attempt"], &requests[1].body["attempt"]), (&json!(1), &json!(2)));
}

#[tokio::test]
async fn every_attempt_is_a_span_of_its_own_in_the_trace_of_the_input() {
    let server = Server::playing([Act::Say(Vec::new()), ok(r#"{"text":"done"}"#), ok(r#"{"text":"more"}"#)]).await;
    let adapter = executor(server.endpoint());
    let session = session(&adapter, 1).await;
    let trace = TraceContext::new([7; 16], [8; 8], true).expect("ids");
    let (_, completion) = session.accept_with_completion(prompt(1, "hello").traced(trace)).await.expect("an answer");
    assert_eq!(result_text(completion.expect("accepted").wait().await), "done");
    assert_eq!(result_text(offer(&session, 2, "hello").await.wait().await), "more");
    let requests = server.requests();
    let told: Vec<TraceContext> =
        requests[..2].iter().map(|request| request.header("traceparent").parse().expect("a trace")).collect();
    assert_eq!([told[0].trace_id(), told[1].trace_id()], [trace.trace_id(); 2]);
    assert!(told[0].span_id() != told[1].span_id() && !told.contains(&trace), "{told:?}");
    assert_eq!(requests[0].body["traceparent"], told[0].to_string());
    assert_eq!((requests[2].header("traceparent"), &requests[2].body["traceparent"]), ("", &Value::Null));
}

#[tokio::test]
async fn the_endpoint_says_when_to_come_back() {
    let server = Server::playing([Act::Say(http("503 Service Unavailable", "retry-after: 120\r\n", ""))]).await;
    let adapter = executor(server.endpoint());
    let session = session(&adapter, 1).await;
    let _completion = offer(&session, 1, "hello").await;
    let mut feed = session.feed(Seq::ZERO);
    loop {
        let FeedItem::Entry(entry) = feed.next().await.expect("an item") else { continue };
        let Record::RunEnded(ended) = &entry.record else { continue };
        let RunEnd::Failed { retry_at: Some(at), .. } = &ended.end else { panic!("{ended:?}") };
        assert!(*at >= entry.at + Duration::from_secs(120), "{at:?} after {:?}", entry.at);
        break;
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_not_asked_again() {
    let server = Server::playing([Act::Say(http("410 Gone", "", ""))]).await;
    let adapter = executor(server.endpoint());
    let session = session(&adapter, 1).await;
    for number in 0..2 {
        let error = abandoned(offer(&session, number, "hello").await.wait().await);
        assert!(error.starts_with("executor_gone: "), "{error}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_was_gone_is_asked_again_when_it_answers_a_test() {
    let gone = || Act::Say(http("410 Gone", "", ""));
    let server = Server::playing([gone(), gone(), ok(r#"{"text":"back"}"#)]).await;
    let host = format!("127.0.0.1:{}", server.port);
    let config = format!("[hook]\nkind = \"http\"\nurl = \"http://{host}/run\"\nallow = [\"{host}\"]");
    let agents = Arc::new(Agents::new(toml::from_str(&config).expect("read")).expect("valid"));
    let adapter = with_factory(Arc::clone(&agents) as Arc<dyn ExecutorFactory>);
    let session = session(&adapter, 1).await;
    // Whether the test that follows the run finds it there.
    for (number, is_back) in [(1, false), (2, true)] {
        let error = abandoned(offer(&session, number, "hello").await.wait().await);
        assert!(error.starts_with("executor_gone: "), "{error}");
        let report = agents.test("hook").await;
        assert_eq!(report.ok, is_back, "{report:?}");
    }
    assert_eq!(result_text(offer(&session, 3, "hello").await.wait().await), "back");
    assert_eq!(server.requests().len(), 4, "a run, two tests, and the run after the one that went well");
}

#[tokio::test]
async fn steering_is_posted_at_a_checkpoint_and_is_not_lost_with_it() {
    let unwell = Act::Say(http("503 Service Unavailable", "retry-after: 0\r\n", ""));
    let taken = Act::Say(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec());
    for (steered, expected) in [
        (taken, ["POST /run", "POST /steer"].as_slice()),
        // Not taken: the run is tried again, and so is what came in.
        (unwell, ["POST /run", "POST /steer", "POST /run", "POST /run"].as_slice()),
    ] {
        let pace = Arc::new(Semaphore::new(1));
        let done = "event: result\ndata: {\"text\":\"done\"}\n\n";
        let parts = [STREAM, "event: checkpoint\ndata: {}\n\n", done].map(|part| part.as_bytes().to_vec());
        let stream = Act::Paced(parts.to_vec(), Arc::clone(&pace));
        let server = Server::playing([stream, steered, ok(r#"{"text":"done"}"#)]).await;
        let steer_url = format!("http://127.0.0.1:{}/steer", server.port).parse().expect("a URL");
        let secrets = vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().expect("a secret")];
        let adapter = executor(Endpoint { steer_url: Some(steer_url), secrets, ..server.endpoint() });
        let session = session(&adapter, 1).await;
        let asked = offer(&session, 1, "hello").await;
        until(|| (server.requests().len() == 1).then_some(())).await;
        let left = prompt(2, "left").with_mode(HandlingMode::Steer);
        let left = session.accept_with_completion(left).await.expect("an answer").1.expect("accepted");
        pace.add_permits(2);
        assert_eq!(result_text(asked.wait().await), "done");
        assert_eq!(result_text(left.wait().await), "done");
        let requests = server.requests();
        let lines: Vec<&str> = requests.iter().map(|request| request.line.trim_end_matches(" HTTP/1.1")).collect();
        assert_eq!(lines, expected);
        let (run, steer) = (&requests[0], &requests[1]);
        assert_eq!((&steer.body["type"], &steer.body["run"]), (&json!("steer"), &run.body["run"]));
        assert_eq!(steer.body["inputs"][0]["text"], "left");
        assert_eq!(steer.header("webhook-id"), format!("{}_steer_1_1", run.header("webhook-id")));
        assert!(steer.header("webhook-signature").starts_with("v1,"));
    }
}

#[tokio::test]
async fn so_many_boundaries_of_before_are_told_as_were_asked_for() {
    let server = Server::playing([ok(r#"{"text":"yes"}"#)]).await;
    let adapter = executor(Endpoint { history: 2, ..server.endpoint() });
    let session = session(&adapter, 1).await;
    let mut told = Vec::new();
    for number in 1..6_u128 {
        if number == 5 {
            session.reset(false).await.expect("an answer");
        }
        offer(&session, number, &format!("hello {number}")).await.wait().await;
        let requests = server.requests();
        let history = requests.last().expect("one").body["history"].as_array().cloned().expect("a list");
        let heard = |past: &Value| past["delta"]["messages"][0]["content"].as_str().map(str::to_owned);
        told.push(history.iter().filter_map(heard).collect::<Vec<_>>().join(", "));
    }
    assert_eq!(told, ["", "hello 1", "hello 1, hello 2", "hello 2, hello 3", ""]);
    let silent = executor(server.endpoint());
    offer(&crate::common::session(&silent, 1).await, 1, "hello").await.wait().await;
    assert!(server.requests().last().expect("one").body.get("history").is_none(), "not unless asked for");
}

#[tokio::test]
async fn a_stream_commits_on_the_way_and_resumes_where_it_broke() {
    // Cut in the middle of a character, and within a line end.
    let text = "event: commit\r\ndata: {\"delta\":{\"half\": \"Grüße\"}}\r\n\r\n";
    let bytes = format!(": hello\n\n{text}event: progress\ndata: 1\n\n").into_bytes();
    let at = bytes.iter().position(|byte| *byte == 0xc3).expect("an umlaut") + 1;
    let end = bytes.iter().rposition(|byte| *byte == b'\r').expect("a line end") + 1;
    let chunks = vec![bytes[..at].to_vec(), bytes[at..end].to_vec(), bytes[end..].to_vec()];
    let rest = events("event: commit\ndata: {\"text\":\"more\"}\n\nevent: result\ndata: {\"text\":\"done\"}\n\n");
    let server = Server::playing([Act::Chunks(chunks), rest]).await;
    let adapter = executor(server.endpoint());
    let session = session(&adapter, 1).await;
    assert_eq!(result_text(offer(&session, 1, "hello").await.wait().await), "done");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_ne!(requests[0].header("webhook-id"), requests[1].header("webhook-id"), "another step");
    let resumed = &requests[1].body;
    assert_eq!((&resumed["resumes_after"], &resumed["inputs"]), (&json!(0), &json!([])));
    let entries = adapter.store().read(session.id(), Seq::ZERO, 100).await.expect("entries");
    let deltas: Vec<&str> = entries
        .iter()
        .filter_map(|entry| match &entry.record {
            Record::BoundaryCommitted(boundary) => boundary.delta.as_ref().map(windlass_core::JsonText::get),
            _ => None,
        })
        .collect();
    assert_eq!(deltas, [r#"{"half": "Grüße"}"#, r#"{"messages":[{"content":"more","role":"assistant"}]}"#]);
}

#[tokio::test]
async fn a_cancel_closes_the_connection_and_tells_the_cancel_url() {
    let server = Server::playing([Act::Hold(STREAM.into()), ok("{}")]).await;
    let cancel_url = format!("http://127.0.0.1:{}/cancel", server.port).parse().expect("a URL");
    let secrets = vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().expect("a secret")];
    let adapter = executor(Endpoint { cancel_url: Some(cancel_url), secrets, ..server.endpoint() });
    let session = session(&adapter, 1).await;
    let completion = offer(&session, 1, "hello").await;
    until(|| (server.requests().len() == 1).then_some(())).await;
    let cancelled = session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    assert!(matches!(cancelled, CancelOutcome::Cancelled { .. }), "{cancelled:?}");
    assert_eq!(completion.wait().await, CompletionOutcome::Abandoned(AbandonReason::Cancelled));
    until(|| (*server.closed.lock().expect("not poisoned") == 1).then_some(())).await;
    until(|| (server.requests().len() == 2).then_some(())).await;
    let requests = server.requests();
    assert_eq!(requests[1].line, "POST /cancel HTTP/1.1");
    assert_eq!((&requests[1].body["type"], &requests[1].body["run"]), (&json!("cancel"), &requests[0].body["run"]));
    assert_eq!(requests[1].body["attempt"], 1);
    assert_eq!(requests[1].header("webhook-id"), format!("{}_cancel_1", requests[0].header("webhook-id")));
    assert!(requests.iter().all(|request| request.header("webhook-signature").starts_with("v1,")));
}

#[tokio::test]
async fn attempts_that_take_too_long_are_called_off_each_and_the_next_one_is_not() {
    let held = || Act::Hold(STREAM.into());
    let server = Server::playing([held(), ok("{}"), held(), ok("{}"), ok(r#"{"text":"done"}"#)]).await;
    let cancel_url = Some(format!("http://127.0.0.1:{}/cancel", server.port).parse().expect("a URL"));
    let time_limit = Duration::from_millis(400);
    let adapter = executor(Endpoint { cancel_url, time_limit, ..server.endpoint() });
    assert_eq!(result_text(offer(&session(&adapter, 1).await, 1, "hello").await.wait().await), "done");
    let requests = server.requests();
    let id = requests[0].header("webhook-id");
    let said = requests.iter().map(|it| {
        let name = it.header("webhook-id").strip_prefix(id).expect("messages about one step");
        (it.body["type"].as_str().expect("a type"), it.body["attempt"].as_u64().expect("a number"), name)
    });
    let expected =
        [("run", 1, ""), ("cancel", 1, "_cancel_1"), ("run", 2, ""), ("cancel", 2, "_cancel_2"), ("run", 3, "")];
    assert_eq!(said.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn the_python_endpoint_accepts_our_signature_and_no_other() {
    if !has("python3") {
        eprintln!("not shown: there is no python3");
        return;
    }
    let file = repository().join("examples/agents/python/endpoint.py");
    let mut python = tokio::process::Command::new("python3")
        .arg(file)
        .env("HOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python3 is there");
    let mut said = BufReader::new(python.stdout.take().expect("a pipe")).lines();
    let port = said.next_line().await.expect("a pipe").expect("its port");
    let url: reqwest::Url = format!("http://127.0.0.1:{port}/").parse().expect("a URL");
    let with = |secret: &str| {
        let secrets = vec![secret.parse().expect("a secret")];
        executor(Endpoint { secrets, ..Endpoint::new(url.clone()) })
    };
    let known = with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    assert_eq!(result_text(offer(&session(&known, 1).await, 1, "hello").await.wait().await), "You said: hello");
    let stranger = with("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let error = abandoned(offer(&session(&stranger, 2).await, 2, "hello").await.wait().await);
    assert!(error.starts_with("executor_refused: 401"), "{error}");
}
