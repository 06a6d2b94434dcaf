//! What may a client do to a connection, and how does the server stay well?
//!
//! Real sockets. Times are short in the configuration and long in the assertions, so nothing here waits for a clock.

use axum::body::{Body, Bytes};
use http::Method;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};
use windlass_server::{
    Config, Scope,
    config::Seconds,
    testing::{Answer, TestServer},
};

/// Nothing here takes longer, unless it hangs.
const LONG: Duration = Duration::from_secs(10);
const SHORT: Seconds = Seconds(Duration::from_millis(200));

async fn server(change: impl FnOnce(&mut Config)) -> TestServer {
    let mut config = TestServer::config();
    config.limits.requests_per_second = NonZeroU32::MAX;
    change(&mut config);
    TestServer::with(TestServer::builder(config)).await
}

async fn connect(server: &TestServer) -> TcpStream {
    TcpStream::connect(server.server().address()).await.expect("a connection")
}

/// Everything until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end too: the server closed with bytes of ours unread.
    drop(timeout(LONG, stream.read_to_end(&mut all)).await.expect("the server closes"));
    String::from_utf8_lossy(&all).into_owned()
}

/// Sends bytes, and reads what comes until the server closes.
async fn say(server: &TestServer, bytes: &[u8]) -> String {
    let mut stream = connect(server).await;
    // The server may have had enough before the end.
    drop(stream.write_all(bytes).await);
    rest(&mut stream).await
}

/// The good request after the bad one is answered within a second, and nothing was stored.
async fn is_well(server: &TestServer) {
    let answer = timeout(Duration::from_secs(1), server.get("/v1/tokens")).await.expect("an answer within a second");
    assert_eq!((answer.status, &answer.body["items"]), (200, &Value::Array(Vec::new())));
}

#[tokio::test]
async fn a_head_must_come_in_time_and_an_idle_connection_ends() {
    let server = server(|config| {
        config.limits.header_seconds = SHORT;
        config.limits.idle_seconds = SHORT;
    })
    .await;
    assert_eq!(rest(&mut connect(&server).await).await, "", "nothing was said");
    assert_eq!(say(&server, b"GET /livez HTTP/1.1\r\nHost: loc").await, "", "half a head was said");
    let answered = say(&server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    let slow = say(&server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /l").await;
    assert_eq!(slow.matches("HTTP/1.1").count(), 1, "{slow}");
    is_well(&server).await;
}

#[tokio::test]
async fn a_body_must_come_in_time_and_be_no_larger_than_it_may() {
    let server = server(|config| config.limits.body_seconds = SHORT).await;
    let head = "POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let large = format!("{:x}\r\n{}\r\n", 0x0011_0000, " ".repeat(0x0011_0000));
    for (rest, status, code) in [
        ("Content-Length: 100\r\n\r\n{".to_owned(), "408", "request_timeout"),
        ("Content-Length: 1048577\r\n\r\n".to_owned(), "413", "payload_too_large"),
        ("Content-Length: 99999999999\r\n\r\n".to_owned(), "413", "payload_too_large"),
        (format!("Transfer-Encoding: chunked\r\n\r\n{large}0\r\n\r\n"), "413", "payload_too_large"),
    ] {
        let answer = say(&server, format!("{head}{rest}").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(code), "{answer}");
        is_well(&server).await;
    }
}

#[tokio::test]
async fn a_head_has_a_size() {
    let server = server(|_| {}).await;
    let many = |count: usize| (0..count).fold(String::new(), |all, i| all + &format!("x-{i}: 1\r\n"));
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
    };
    for (request, status, code) in [
        (get("/livez", &many(90)), "200", "ok"),
        (get("/livez", &many(101)), "431", "headers_too_large"),
        (get("/livez", &many(2_000)), "431", ""),
        (get("/livez", &format!("x: {}\r\n", "a".repeat(17 * 1024))), "431", "headers_too_large"),
        (get("/livez", &format!("x: {}\r\n", "a".repeat(200 * 1024))), "431", ""),
        (get(&format!("/livez?{}", "a".repeat(9 * 1024)), ""), "414", "uri_too_long"),
        (get(&format!("/livez?{}", "a".repeat(100 * 1024)), ""), "4", ""),
        ("nonsense\r\n\r\n".to_owned(), "400", ""),
        (
            "GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            "4",
            "",
        ),
    ] {
        let answer = say(&server, request.as_bytes()).await;
        let shown = &answer[..answer.len().min(300)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(code), "{status}: {shown}");
        is_well(&server).await;
    }
}

#[tokio::test]
async fn there_are_only_so_many_connections() {
    at_most_four(&server(|config| config.limits.connections_per_address = 4).await).await;
    at_most_four(&server(|config| config.limits.connections = 4).await).await;
}

async fn at_most_four(server: &TestServer) {
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(server).await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.expect("each of these is answered");
        held.push(stream);
    }
    assert_eq!(rest(&mut connect(server).await).await, "", "the fifth is closed at once");
    held[0].write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut metrics = Vec::new();
    let counted = async {
        while !String::from_utf8_lossy(&metrics)
            .lines()
            .any(|line| line.starts_with("windlass_connections_refused_total{") && line.ends_with("} 1"))
        {
            assert_ne!(held[0].read_buf(&mut metrics).await.unwrap(), 0, "it stays open");
        }
    };
    timeout(LONG, counted).await.expect("it is counted");
    let mut fourth = held.pop().unwrap();
    fourth.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut fourth).await.contains("HTTP/1.1 200"), "those that are there go on");
    drop(held);
    let again = async {
        while say(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.is_empty() {}
    };
    timeout(Duration::from_secs(1), again).await.expect("there is room again");
}

#[tokio::test]
async fn connections_that_say_nothing_hold_their_places_no_longer_than_a_head_may_take() {
    let server = server(|config| {
        config.limits.connections = 8;
        config.limits.header_seconds = Seconds(Duration::from_millis(500));
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(connect(&server).await);
    }
    let answered = async {
        while !say(&server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .contains(" 200 ")
        {}
    };
    timeout(Duration::from_millis(1_500), answered).await.expect("a second later at the latest");
}

#[tokio::test]
async fn a_request_that_is_cut_anywhere_is_admitted_whole_or_not_at_all() {
    let server = server(|config| config.limits.connections_per_address = usize::MAX).await;
    assert_eq!(server.post("/v1/sessions", &json!({ "name": "s" })).await.status, 201);
    let request = |id: usize| {
        let body = json!({ "kind": "prompt", "text": "/echo whole", "id": uuid::Uuid::from_u128(id as u128 + 1) });
        let body = body.to_string();
        let length = body.len();
        format!(
            "POST /v1/sessions/s/inputs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let length = request(0).len();
    // Everywhere, and often right behind the end, where the server has begun to work.
    for (id, cut) in (0..length).chain([length; 50]).enumerate() {
        let mut stream = connect(&server).await;
        stream.write_all(&request(id).as_bytes()[..cut]).await.unwrap();
        for _ in 0..id % 8 {
            tokio::task::yield_now().await;
        }
        if id % 2 == 0 {
            stream.set_zero_linger().unwrap();
            drop(stream);
        } else {
            stream.shutdown().await.unwrap();
            let answer = rest(&mut stream).await;
            assert!(cut == length || !answer.starts_with("HTTP/1.1 2"), "{answer}");
        }
    }
    // Whoever heard no answer sends it again; what was admitted is known, and nothing runs twice.
    for id in 0..length + 50 {
        let uuid = uuid::Uuid::from_u128(id as u128 + 1);
        let body = json!({ "kind": "prompt", "text": "/echo whole", "id": uuid });
        let again = server.request(Method::POST, "/v1/sessions/s/inputs").header("prefer", "wait=20").json(&body);
        let again = Answer::to(again).await;
        assert_eq!((again.status, &again.body["result"]["text"]), (200, &json!("whole")), "{id}: {again:?}");
        if id < length {
            assert_eq!(again.body["outcome"], "accepted", "{id} bytes are no request");
        }
    }
    let metrics = server.get("/metrics").await.body.as_str().unwrap().to_owned();
    let depth = metrics.lines().find(|line| line.starts_with("windlass_queue_depth{")).unwrap();
    assert!(depth.ends_with(" 0"), "{depth}");
}

/// Frames of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn floods_of_http_2_frames_keep_nobody_else_waiting() {
    const LIVEZ: &[u8] = b"\x82\x86\x01\x09localhost\x04\x06/livez";
    let (headers, reset, settings, ping, window, continuation, data) = (1, 3, 4, 6, 8, 9, 0);
    let odd = (1_u32..).step_by(2);
    let rapid_reset = odd
        .clone()
        .take(20_000)
        .flat_map(|id| [frame(headers, 5, id, LIVEZ), frame(reset, 0, id, &8_u32.to_be_bytes())].concat());
    let endless_head = std::iter::once(frame(headers, 1, 1, LIVEZ))
        .chain(std::iter::repeat_with(|| frame(continuation, 0, 1, &[0; 1_024])).take(2_000));
    let begun = odd.take(20_000).flat_map(|id| frame(headers, 4, id, LIVEZ));
    let floods: [(&str, Vec<u8>, bool); 7] = [
        ("resets", rapid_reset.collect(), true),
        ("a head without end", endless_head.flatten().collect(), true),
        ("bodies without end", begun.collect(), true),
        ("settings", frame(settings, 0, 0, &[]).repeat(50_000), false),
        ("pings", frame(ping, 0, 0, &[0; 8]).repeat(50_000), false),
        ("windows", frame(window, 0, 0, &i32::MAX.to_be_bytes()).repeat(50_000), true),
        ("nothing", [frame(headers, 4, 1, LIVEZ), frame(data, 0, 1, &[]).repeat(50_000)].concat(), false),
    ];
    let server = server(|_| {}).await;
    for (name, frames, ended) in floods {
        let mut floods = Vec::new();
        for _ in 0..4 {
            let mut stream = connect(&server).await;
            let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(settings, 0, 0, &[])[..]].concat();
            let frames = frames.clone();
            floods.push(tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let flood = async {
                    write.write_all(&preface).await?;
                    write.write_all(&frames).await
                };
                let mut heard = Vec::new();
                // Either may fail when the server has had enough.
                let (flooded, read) =
                    tokio::join!(flood, timeout(Duration::from_secs(1), read.read_to_end(&mut heard)));
                (flooded.is_err(), read.is_ok())
            }));
        }
        for _ in 0..10 {
            is_well(&server).await;
        }
        for flood in floods {
            let (cut, closed) = timeout(LONG, flood).await.expect("a flood ends").unwrap();
            assert!(!ended || cut || closed, "{name}: the connection is ended");
        }
    }
}

#[tokio::test]
async fn a_half_closed_client_leaves_nothing_behind() {
    let server = server(|_| {}).await;
    for bytes in [
        "",
        "POST /v1/to",
        "POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{\"sco",
    ] {
        let mut stream = connect(&server).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        is_well(&server).await;
    }
}

/// Tells when it is dropped.
struct Told(Option<oneshot::Sender<()>>);

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell.send(()).unwrap_or_default();
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    let (tell, told) = oneshot::channel();
    let told_once = Arc::new(Mutex::new(Some(Told(Some(tell)))));
    let mut config = TestServer::config();
    config.limits.write_stall_seconds = SHORT;
    let builder = TestServer::builder(config).routes(move |routes| {
        routes.route(Method::GET, "/flood", Scope::Public, move || {
            let told = told_once.lock().unwrap().take();
            let chunks = std::iter::repeat_with(move || {
                let _ = &told;
                Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 16_384]))
            });
            async move { Body::from_stream(futures_util::stream::iter(chunks)) }
        })
    });
    let server = TestServer::with(builder).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    timeout(LONG, told).await.expect("the answer is given up").expect("it tells");
    is_well(&server).await;
}

/// Follows the events of a new session, on whose inputs nothing works: the connection, and what came with the opening.
async fn follow(server: &TestServer, version: &str, more: &str) -> (TcpStream, String) {
    server.post("/v1/sessions", &json!({"name": "s"})).await;
    server.post("/v1/sessions/s/hold", &json!({})).await;
    let mut stream = connect(server).await;
    let request = format!("GET /v1/sessions/s/events HTTP/{version}\r\nHost: localhost\r\n\r\n{more}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut opening = Vec::new();
    while !opening.windows(7).any(|window| window == b"retry: ") {
        let read = timeout(LONG, stream.read_buf(&mut opening)).await.expect("the stream begins").unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&opening));
    }
    (stream, String::from_utf8(opening).expect("text"))
}

/// Ends the session of [`follow`], and so its streams.
async fn end(server: &TestServer) {
    server.post("/v1/sessions/s/destroy", &json!({})).await;
    assert_eq!(server.delete("/v1/sessions/s").await.status, 204);
}

async fn until_no_stream_is_open(server: &TestServer) {
    let closed = async {
        loop {
            let metrics = server.get("/metrics").await;
            let open =
                metrics.body.as_str().and_then(|text| text.lines().find(|line| line.starts_with("windlass_streams{")));
            if open.is_some_and(|line| line.ends_with(" 0")) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, closed).await.expect("the stream is over");
}

/// The body of chunks, which must be whole: each as long as it says, and an empty one last.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a size");
        let size = usize::from_str_radix(size, 16).expect("hexadecimal");
        let (chunk, after) = after.split_at(size);
        rest = after.strip_prefix("\r\n").expect("a chunk as long as it says");
        if size == 0 {
            assert_eq!(rest, "", "nothing follows the last chunk");
            return body;
        }
        body.push_str(chunk);
    }
}

#[tokio::test]
async fn a_stream_is_the_last_response_of_its_connection_and_ends_in_whole_chunks() {
    let server = server(|_| {}).await;
    // A request that follows on its connection is not answered.
    let (mut stream, opening) = follow(&server, "1.1", "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    server.post("/v1/sessions/s/inputs", &json!({"kind": "prompt", "text": "hello"})).await;
    end(&server).await;
    let all = opening + &rest(&mut stream).await;
    let (head, chunks) = all.split_once("\r\n\r\n").expect("a head");
    for line in
        ["HTTP/1.1 200 OK", "connection: close", "transfer-encoding: chunked", "content-type: text/event-stream"]
    {
        assert!(head.lines().any(|said| said == line), "{line}: {head}");
    }
    let body = unchunked(chunks);
    let events: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!((events.first(), events.last()), (Some(&"input_accepted"), Some(&"end")), "{body}");
    assert!(body.ends_with("\n\n"), "{body}");
    until_no_stream_is_open(&server).await;
}

#[tokio::test]
async fn a_stream_over_http_1_0_ends_with_its_connection() {
    let server = server(|_| {}).await;
    let (mut stream, opening) = follow(&server, "1.0", "").await;
    end(&server).await;
    let all = opening + &rest(&mut stream).await;
    assert!(!all.contains("transfer-encoding") && all.contains("\nevent: end\n") && all.ends_with("\n\n"), "{all}");
}

#[tokio::test]
async fn a_stream_is_over_when_its_client_goes_or_takes_nothing() {
    let server = server(|config| config.limits.write_stall_seconds = SHORT).await;
    let (stream, _) = follow(&server, "1.1", "").await;
    drop(stream);
    until_no_stream_is_open(&server).await;

    let (mut stream, _) = follow(&server, "1.1", "").await;
    stream.shutdown().await.unwrap();
    until_no_stream_is_open(&server).await;

    let (stream, _) = follow(&server, "1.1", "").await;
    // More than the buffers between the two will hold.
    let prompt = json!({"kind": "prompt", "text": "x".repeat(60_000)});
    for _ in 0..250 {
        assert_eq!(server.post("/v1/sessions/s/inputs", &prompt).await.status, 202);
    }
    until_no_stream_is_open(&server).await;
    drop(stream);
    is_well(&server).await;
}

#[tokio::test]
async fn only_known_hosts_and_origins_are_answered() {
    let server = server(|config| {
        config.server.allowed_hosts = vec!["windlass.example".into()];
        config.server.allowed_origins = vec!["https://console.example".into()];
    })
    .await;
    let port = server.server().address().port();
    for (host, origin, status, code) in [
        ("localhost", "", "200", ""),
        ("LOCALHOST:1", "", "200", ""),
        ("[::1]", "", "200", ""),
        ("windlass.example", "", "200", ""),
        ("evil.example", "", "421", "host_not_allowed"),
        ("localhost.evil.example", "", "421", "host_not_allowed"),
        ("localhost", "https://console.example", "200", ""),
        (&format!("127.0.0.1:{port}"), &format!("http://127.0.0.1:{port}"), "200", ""),
        ("localhost", "https://evil.example", "403", "origin_not_allowed"),
        ("localhost", "https://console.example.evil", "403", "origin_not_allowed"),
        ("localhost", "null", "403", "origin_not_allowed"),
    ] {
        let origin = if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
        let answer = say(
            &server,
            format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: localhost\r\nConnection: close\r\n{origin}\r\n").as_bytes(),
        )
        .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(code),
            "{host} {origin}: {answer}"
        );
        let allowed = answer.contains("access-control-allow-origin: https://console.example\r\n");
        assert_eq!(allowed, origin.contains("//console.example\r"), "{answer}");
    }
    for (head, status) in [
        ("GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n", "400"),
        ("GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "4"),
        ("GET http://evil.example/livez HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", "421"),
    ] {
        let answer = say(&server, head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
    }
    let preflight = Answer::to(
        server
            .request(Method::OPTIONS, "/v1/tokens")
            .header("origin", "https://console.example")
            .header("access-control-request-method", "POST"),
    )
    .await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, "https://console.example"));
    is_well(&server).await;
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let server = server(|_| {}).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("{}/livez", server.server().url());
    let answer = client.get(&url).send().await.expect("an answer");
    assert_eq!((answer.version(), answer.status().as_u16()), (http::Version::HTTP_2, 200));
    let evil = client.get(&url).header("host", "evil.example").send().await;
    assert!(evil.is_ok_and(|answer| answer.status().is_client_error()));
    is_well(&server).await;
}

#[tokio::test]
async fn a_panic_is_an_answer_without_its_text() {
    let builder = TestServer::builder(TestServer::config()).routes(|routes| {
        routes.route(Method::GET, "/panic", Scope::Public, || async {
            let nothing: Option<u8> = std::hint::black_box(None);
            nothing.expect("a secret of the code").to_string()
        })
    });
    let server = TestServer::with(builder).await;
    let answer = server.get("/panic").await;
    assert_eq!((answer.status, answer.code()), (500, "internal"));
    assert!(!answer.body.to_string().contains("secret"), "{answer:?}");
    is_well(&server).await;
}
