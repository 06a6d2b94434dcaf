//! What is more than its limit, over real HTTP: how it is told, and that it leaves nothing.

use crate::{PATIENCE, Rig};
use http::Method;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use windlass_server::{Config, testing::Answer};

fn event(rig: &Rig, payload: &str) -> RequestBuilder {
    let body = format!(r#"{{"kind":"external_event","source_name":"ci","event_type":"done","payload":{payload}}}"#);
    rig.request(Method::POST, "/v1/sessions/s/inputs").header("content-type", "application/json").body(body)
}

fn get(rig: &Rig, path: &str) -> RequestBuilder {
    rig.request(Method::GET, path)
}

fn many(count: usize, of: impl Fn(usize) -> String) -> String {
    (0..count).map(of).collect::<Vec<_>>().join(",")
}

/// One request that asks for too much.
type Ask = fn(&Rig) -> RequestBuilder;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_it_may_be_hears_the_limit_and_leaves_nothing() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let table: [(&str, Ask, u16, &str, Option<u64>); 16] = [
        ("a body", |rig| event(rig, &" ".repeat(1 << 20)), 413, "payload_too_large", Some(1 << 20)),
        ("depth", |rig| event(rig, &format!("{}{}", "[".repeat(64), "]".repeat(64))), 400, "json_too_deep", Some(64)),
        (
            "a string",
            |rig| event(rig, &json!("x".repeat(512 * 1024 + 1)).to_string()),
            422,
            "schema_violation",
            Some(512 * 1024),
        ),
        (
            "an array",
            |rig| event(rig, &format!("[{}]", many(10_001, |_| "1".into()))),
            422,
            "schema_violation",
            Some(10_000),
        ),
        (
            "an object",
            |rig| event(rig, &format!("{{{}}}", many(257, |n| format!("\"{n}\":1")))),
            422,
            "schema_violation",
            Some(256),
        ),
        (
            "blocks",
            |rig| {
                let blocks = vec![json!({"type": "text", "text": "x"}); 1_001];
                let prompt = json!({"kind": "prompt", "text": "", "blocks": blocks});
                rig.request(Method::POST, "/v1/sessions/s/inputs").json(&prompt)
            },
            422,
            "schema_violation",
            Some(1_000),
        ),
        (
            "labels",
            |rig| {
                let labels: serde_json::Map<_, _> = (0..65).map(|n| (format!("l{n}"), json!("v"))).collect();
                rig.request(Method::PATCH, "/v1/sessions/s").json(&json!({ "labels": labels }))
            },
            422,
            "schema_violation",
            Some(64),
        ),
        (
            "a label",
            |rig| rig.request(Method::PATCH, "/v1/sessions/s").json(&json!({"labels": {"k": "v".repeat(65)}})),
            422,
            "schema_violation",
            Some(64),
        ),
        (
            "intents",
            |rig| {
                let intents: Vec<_> = (0..257).map(|n| n.to_string()).collect();
                rig.request(Method::PATCH, "/v1/sessions/s").json(&json!({ "silent_intents": intents }))
            },
            422,
            "schema_violation",
            Some(256),
        ),
        (
            "a key",
            |rig| event(rig, "1").header("idempotency-key", "k".repeat(256)),
            400,
            "idempotency_key_invalid",
            None,
        ),
        ("an id", |rig| get(rig, &format!("/v1/sessions/{}", "s".repeat(65))), 400, "invalid_id", None),
        ("a page", |rig| get(rig, "/v1/sessions?limit=501"), 422, "schema_violation", Some(500)),
        (
            "a wait",
            |rig| get(rig, &format!("/v1/sessions/s/inputs/{}/wait?timeout=121", uuid::Uuid::nil())),
            422,
            "schema_violation",
            Some(120),
        ),
        (
            "a URI",
            |rig| get(rig, &format!("/v1/sessions?name={}", "n".repeat(8 * 1024))),
            414,
            "uri_too_long",
            Some(8 * 1024),
        ),
        (
            "headers",
            |rig| (0..101).fold(event(rig, "1"), |request, n| request.header(format!("x-{n}"), "1")),
            431,
            "headers_too_large",
            Some(100),
        ),
        (
            "a head",
            |rig| event(rig, "1").header("x-long", "x".repeat(16 * 1024)),
            431,
            "headers_too_large",
            Some(16 * 1024),
        ),
    ];
    for (what, ask, status, code, limit) in table {
        let refused = Answer::to(ask(&rig)).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{what}: {refused:?}");
        assert_eq!(refused.body["limit"].as_u64(), limit, "{what}: {refused:?}");
        assert_eq!(rig.get("/v1/sessions/s").await.body["head"], 2, "{what}: nothing was written, and it goes on");
    }
    let mut blob = TcpStream::connect(rig.server().address()).await.unwrap();
    let head = "POST /v1/blobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 67108865\r\n\r\n";
    blob.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    blob.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"limit\":67108864"), "{answer}");
    assert_eq!(rig.get("/v1/sessions").await.body["items"].as_array().unwrap().len(), 1);
}

/// What there is only so much room for.
struct Room {
    what: &'static str,
    bound: fn(&mut Config),
    /// What is in it once two have asked.
    full: u64,
    ask: Ask,
    taken: Taken,
    code: &'static str,
    later: &'static str,
}

/// How long a place is taken.
#[derive(Clone, Copy, PartialEq)]
enum Taken {
    /// Longer than the request.
    ForGood,
    /// As long as the answer goes on.
    ByAnswer,
    /// Until there is an answer.
    UntilAnswered,
}

fn prompt(rig: &Rig) -> RequestBuilder {
    rig.request(Method::POST, "/v1/sessions/s/inputs").json(&json!({"kind": "prompt", "text": "x"}))
}

const ROOMS: [Room; 5] = [
    Room {
        what: "inputs of a session",
        bound: |config| config.limits.inputs_per_session = 2,
        full: 2,
        ask: prompt,
        taken: Taken::ForGood,
        code: "queue_full",
        later: "1",
    },
    Room {
        what: "inputs of a tenant",
        bound: |config| config.limits.inputs_per_tenant = 2,
        full: 2,
        ask: prompt,
        taken: Taken::ForGood,
        code: "quota_exceeded",
        later: "5",
    },
    Room {
        what: "sessions of a tenant",
        bound: |config| config.limits.sessions_per_tenant = 3,
        // One is there before.
        full: 3,
        ask: |rig| rig.request(Method::POST, "/v1/sessions").json(&json!({})),
        taken: Taken::ForGood,
        code: "quota_exceeded",
        later: "5",
    },
    Room {
        what: "waits of a token",
        bound: |config| config.limits.waits_per_token = 2,
        full: 2,
        ask: |rig| prompt(rig).header("prefer", "wait=60"),
        taken: Taken::UntilAnswered,
        code: "too_many_streams",
        later: "1",
    },
    Room {
        what: "streams of a token",
        bound: |config| config.limits.streams_per_token = 2,
        full: 2,
        ask: |rig| get(rig, "/v1/sessions/s/events"),
        taken: Taken::ByAnswer,
        code: "too_many_streams",
        later: "1",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn who_has_all_that_he_may_have_hears_the_limit_and_when_to_come_again() {
    for Room { what, bound, full, ask, taken, code, later } in ROOMS {
        let rig = Rig::with(bound).await;
        rig.session("s").await;
        assert_eq!(rig.post("/v1/sessions/s/hold", &json!({})).await.status, 200);
        let (mut streams, mut waits) = (Vec::new(), Vec::new());
        for n in 1..=2 {
            match taken {
                Taken::ForGood => assert!([201, 202].contains(&Answer::to(ask(&rig)).await.status), "{what}"),
                Taken::ByAnswer => streams.push(ask(&rig).send().await.unwrap()),
                Taken::UntilAnswered => {
                    waits.push(tokio::spawn(ask(&rig).send()));
                    until(async || rig.get("/v1/sessions/s").await.body["open_inputs"] == n).await;
                }
            }
        }
        let before = stored(&rig).await;
        let refused = Answer::to(ask(&rig)).await;
        assert_eq!((refused.status, refused.code()), (429, code), "{what}: {refused:?}");
        assert_eq!((&refused.body["limit"], refused.header("retry-after")), (&json!(full), later), "{what}");
        assert_eq!(stored(&rig).await, before, "{what}: nothing was stored, and it goes on");
        drop(streams);
        waits.iter().for_each(tokio::task::JoinHandle::abort);
        if taken != Taken::ForGood {
            // A wait that is let in is not answered; that it is not refused is enough.
            let let_in = async || match ask(&rig).timeout(Duration::from_millis(500)).send().await {
                Ok(answer) => answer.status() != 429,
                Err(error) => error.is_timeout(),
            };
            until(let_in).await;
        }
    }
}

/// How many sessions there are, and how far the one is.
async fn stored(rig: &Rig) -> (usize, Value) {
    let sessions = rig.get("/v1/sessions").await.body["items"].as_array().expect("a page").len();
    (sessions, rig.get("/v1/sessions/s").await.body["head"].clone())
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let asked = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("it comes to that");
}
