//! Does one trace lead from a request to every way in which its answer goes out, also over a kill?
//!
//! The collector is a real one as far as OTLP goes: an HTTP server that decodes what comes.
#![cfg(feature = "otlp")]

mod common;

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use common::{Served, wait_until};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message as _;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};

const CALLER: [u8; 8] = [0xca; 8];

/// The spans that came.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Listens, and has servers on this folder send there.
    async fn for_servers_on(dir: &Path) -> Collector {
        let collector = Collector::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let routes = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let folder = dir.join("config/windlass");
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = format!("[telemetry]\notlp_endpoint = \"http://{address}\"\n");
        std::fs::write(folder.join("config.toml"), config).expect("a file");
        collector
    }

    /// The spans of this name in the trace of an input, in the order in which they came.
    fn spans(&self, way: Way, name: &str) -> Vec<Span> {
        let spans = self.0.lock().expect("not poisoned");
        spans.iter().filter(|span| span.name == name && span.trace_id == way.trace()).cloned().collect()
    }
}

async fn take(State(collector): State<Collector>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    for from in request.resource_spans {
        assert!(format!("{:?}", from.resource).contains("StringValue(\"windlass\")"), "{:?}", from.resource);
        let spans = from.scope_spans.into_iter().flat_map(|scope| scope.spans);
        collector.0.lock().expect("not poisoned").extend(spans);
    }
}

/// A way in which the end of an input is heard.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The request again, under its key, with `Prefer: wait`.
    Prefer,
    Wait,
    Stream,
}

impl Way {
    const ALL: [Way; 3] = [Way::Prefer, Way::Wait, Way::Stream];

    /// Its session, and the trace that is given with its input.
    fn session(self) -> String {
        format!("{self:?}")
    }

    fn trace(self) -> [u8; 16] {
        [self as u8 + 1; 16]
    }

    /// Hears of the end of the input: the request that sent it, where it is waited for, the events of its session.
    async fn hear(self, send: RequestBuilder, wait: RequestBuilder, events: RequestBuilder) -> String {
        match self {
            Way::Prefer => text(send.header("prefer", "wait=20")).await,
            Way::Wait => text(wait).await,
            Way::Stream => {
                let mut stream = events.send().await.expect("an answer");
                let mut said = String::new();
                while !said.contains("event: run_ended\n") {
                    let chunk = stream.chunk().await.expect("no error").expect("it goes on");
                    said.push_str(&String::from_utf8_lossy(&chunk));
                }
                said
            }
        }
    }
}

async fn text(request: RequestBuilder) -> String {
    request.send().await.expect("an answer").text().await.expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_request_over_a_kill_to_the_reply() {
    let dir = tempfile::tempdir().expect("a folder");
    let collector = Collector::for_servers_on(dir.path()).await;
    let server = Served::start(dir.path());
    let client = reqwest::Client::new();
    let mut sent = Vec::new();
    for way in Way::ALL {
        let session = way.session();
        let made = client.post(format!("{}/v1/sessions", server.url)).json(&json!({"name": session})).send().await;
        assert!(made.expect("an answer").status().is_success());
        assert_eq!(server.run(&["hold", &session]).code, Some(0));
        let place = format!("{}/v1/sessions/{session}", server.url);
        let request = client
            .post(format!("{place}/inputs"))
            .header("traceparent", format!("00-{}-{}-01", hex(&way.trace()), hex(&CALLER)))
            .header("idempotency-key", "once")
            .json(&json!({"kind": "prompt", "text": "/echo hello"}));
        let admitted = request.try_clone().expect("no stream").send().await.expect("an answer");
        let kept = admitted.headers()["traceresponse"].to_str().expect("text").to_owned();
        let input = admitted.json::<Value>().await.expect("JSON")["id"].as_str().expect("an id").to_owned();
        let wait = client.get(format!("{place}/inputs/{input}/wait?timeout=20"));
        sent.push((way, kept, (request, wait, client.get(format!("{place}/events")))));
    }
    wait_until("the first spans", || Way::ALL.iter().all(|way| !collector.spans(*way, "admit").is_empty()));

    let server = server.killed_and_started();
    let mut heard = Vec::new();
    for (way, kept, (request, wait, events)) in sent {
        heard.push((way, kept, tokio::spawn(way.hear(request, wait, events))));
    }
    let count = |name: &str, count: usize| {
        let is_so = |line: &str| line.starts_with(name) && line.ends_with(&format!(" {count}"));
        wait_until("those who wait", || metrics(&server).lines().any(is_so));
    };
    count("windlass_waiters{", 2);
    count("windlass_streams{", 1);
    for (way, _, heard) in &mut heard {
        assert_eq!(server.run(&["release", &way.session()]).code, Some(0));
        assert!(heard.await.expect("no panic").contains("hello"), "{way:?}");
    }
    // What was not sent yet is sent before it ends.
    assert_eq!(server.terminated(), Some(0));

    for (way, kept, _) in heard {
        let one = |name: &str| match &collector.spans(way, name)[..] {
            [span] => span.clone(),
            spans => panic!("{way:?}: one {name} is wanted: {spans:?}"),
        };
        let admit = collector.spans(way, "admit")[0].clone();
        let (queued, run, commit, reply) = (one("queued"), one("run"), one("commit"), one("reply"));
        for (child, parent) in [
            (&admit, &CALLER[..]),
            (&queued, &admit.span_id),
            (&run, &admit.span_id),
            (&commit, &run.span_id),
            (&reply, &admit.span_id),
        ] {
            assert_eq!(child.parent_span_id, parent, "{way:?}: {child:?}");
        }
        assert_eq!(kept, format!("00-{}-{}-01", hex(&way.trace()), hex(&admit.span_id)));
        let by = if matches!(way, Way::Stream) { "event" } else { "response" };
        assert!(format!("{:?}", reply.attributes).contains(by), "{reply:?}");
        assert!(admit.start_time_unix_nano <= queued.start_time_unix_nano, "{admit:?} {queued:?}");
        assert!(queued.end_time_unix_nano <= run.start_time_unix_nano, "{queued:?} {run:?}");
    }
}

fn metrics(server: &Served) -> String {
    let url = format!("{}/metrics", server.url);
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(async { reqwest::get(url).await?.text().await })
    })
    .expect("an answer")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
