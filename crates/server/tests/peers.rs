//! Do the sessions of a server hear from each other, each time once, also if the server is killed?

#[path = "../../agent/tests/llm/provider.rs"]
#[expect(dead_code, reason = "the tests of the agent need more of it")]
mod provider;

use http::Method;
use provider::{Provider, Speaks};
use serde_json::{Value, json};
use std::{path::Path, process::Command, sync::Arc, time::Duration};
use windlass_agent::{
    config::AgentConfig,
    llm::{DialectName, LlmConfig, OnAmbiguous, ToolsConfig},
};
use windlass_core::{Entry, InputBody, Record, Seq, SessionId};
use windlass_peers::{Identity, SignedEnvelope};
use windlass_runtime::{
    Clock as _, FeedItem, SystemClock,
    comms::{ChainId, Envelope, EnvelopeBody, EnvelopeId, KeptEnvelope, PeerName, ResponseStatus, SendError},
    memory::MemoryStore,
    object_blobs::ObjectBlobs,
    store::Store,
};
use windlass_server::{
    Config, Server,
    config::PeerConfig,
    testing::{Answer, TestServer},
};
use windlass_sqlite::{SqliteOptions, SqliteStore};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server whose sessions ask this provider, and may write to each other.
fn config(base: &str) -> Config {
    let tools =
        ToolsConfig { enabled: vec!["send_peer".into()], on_ambiguous: OnAmbiguous::Retry, ..ToolsConfig::default() };
    let model = LlmConfig { tools, base_url: Some(base.into()), ..LlmConfig::new(DialectName::Openai, "m") };
    let mut config = TestServer::config();
    config.agents.insert("model".into(), AgentConfig::Llm(Box::new(model)));
    config
}

fn id_of(name: &str) -> SessionId {
    windlass_api::session_id(None, name)
}

fn name(text: &str) -> PeerName {
    PeerName::new(text).unwrap()
}

async fn create(server: &TestServer, name: &str, agent: &str) {
    let made = server.post("/v1/sessions", &json!({ "name": name, "agent": agent })).await;
    assert!(matches!(made.status, 200 | 201), "{made:?}");
}

async fn say(server: &TestServer, session: &str, input: &Value) -> Answer {
    let path = format!("/v1/sessions/{session}/inputs");
    let request = server.request(Method::POST, &path).header("prefer", "wait=60").header("idempotency-key", "first");
    Answer::to(request.json(input)).await
}

/// What peers have said to a session: who, and what.
fn heard(entries: &[Arc<Entry>]) -> Vec<(Value, String)> {
    let peer = |entry: &Arc<Entry>| match &entry.record {
        Record::InputAccepted(accepted) => match &accepted.input.body {
            InputBody::Peer(peer) => {
                let source = serde_json::to_value(&accepted.input.header.source).unwrap();
                Some((source["peer_id"].clone(), peer.body.clone()))
            }
            _ => None,
        },
        _ => None,
    };
    entries.iter().filter_map(peer).collect()
}

async fn journal(store: &dyn Store, session: &str) -> Vec<Arc<Entry>> {
    store.read(id_of(session), Seq::ZERO, 10_000).await.unwrap()
}

/// Waits until a session has heard a peer.
async fn hears(server: &Server, session: &str) {
    let mut feed = server.state().adapter().session(id_of(session)).await.unwrap().feed(Seq::ZERO);
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            if let FeedItem::Entry(entry) = feed.next().await.unwrap()
                && !heard(&[entry]).is_empty()
            {
                return;
            }
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{session} hears nothing"));
}

fn text(message: &Value) -> &str {
    message["content"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_model_writes_to_its_peer_and_reads_what_that_answers() {
    let tell = |to: &str, body: &str| {
        Speaks::Openai.calls(&[("c", "send_peer", &json!({ "to": to, "body": body }).to_string())])
    };
    let provider = Provider::answering(move |_, body| {
        let last = body["messages"].as_array().unwrap().last().unwrap();
        match text(last) {
            "sent" => Speaks::Openai.says(&["I have written."]),
            said if said.contains("[COMMS MESSAGE from writer]\nWhat grows?") => tell("writer", "Roses."),
            said if said.contains("[COMMS MESSAGE from gardener]\nRoses.") => Speaks::Openai.says(&["Roses grow."]),
            said if said.contains("to a stranger") => tell("stranger", "hello"),
            said if said.starts_with("not_sent: ") => Speaks::Openai.says(&[said]),
            _ => tell("gardener", "What grows?"),
        }
    })
    .await;
    let server = TestServer::with(TestServer::builder(config(&Speaks::Openai.base(&provider)))).await;
    create(&server, "writer", "model").await;
    create(&server, "gardener", "model").await;
    let said = say(&server, "writer", &json!({ "kind": "prompt", "text": "What grows in the garden?" })).await;
    assert_eq!(said.body["result"]["text"], "I have written.", "{said:?}");
    // Twice the writer, twice the gardener, then the writer reads the answer.
    provider.heard(5).await;
    let inputs = server.get("/v1/sessions/writer/inputs").await;
    let answer = inputs.body["items"].as_array().unwrap().iter().find(|input| input["kind"] == "peer_message");
    let answer = answer.expect("the gardener's answer")["id"].as_str().unwrap().to_owned();
    let read = server.get(&format!("/v1/sessions/writer/inputs/{answer}/wait?timeout=60")).await;
    assert_eq!(read.body["result"]["text"], "Roses grow.", "{read:?}");
    let stray = json!({ "kind": "prompt", "text": "Write to a stranger." });
    let refused = server.post("/v1/sessions/other/inputs?create=true&agent=model", &stray).await;
    let refused = refused.body["id"].as_str().unwrap().to_owned();
    let refused = server.get(&format!("/v1/sessions/other/inputs/{refused}/wait?timeout=60")).await;
    let words = refused.body["result"]["text"].as_str().unwrap();
    assert!(words.starts_with("not_sent: peer_unknown: nobody here is called stranger"), "{words}");
    assert!(words.contains("writer") && words.contains("gardener"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_model_sees_a_picture_of_the_blob_store() {
    let provider = Provider::answering(|_, _| Speaks::Openai.says(&["A rose."])).await;
    let server = TestServer::with(TestServer::builder(config(&Speaks::Openai.base(&provider)))).await;
    create(&server, "viewer", "model").await;
    let blob = Answer::to(server.request(Method::POST, "/v1/blobs").body(vec![0u8, 1, 2, 3])).await;
    let blob = blob.header("location").rsplit('/').next().unwrap().to_owned();
    let source = json!({ "source_type": "blob", "blob": blob, "bytes": 4 });
    let picture = json!({ "type": "image", "media_type": "image/png", "source": source });
    let seen = say(&server, "viewer", &json!({ "kind": "prompt", "text": "What is it?", "blocks": [picture] })).await;
    assert_eq!(seen.body["result"]["text"], "A rose.", "{seen:?}");
    assert!(provider.bodies()[0].to_string().contains("data:image/png;base64,AAECAw=="), "{:?}", provider.bodies());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_before_the_end_of_a_server_is_carried_by_the_next() {
    let store = Arc::new(MemoryStore::new());
    let start = async || {
        let builder = Server::builder(TestServer::config(), Arc::clone(&store));
        TestServer::with(builder.blobs(Arc::new(ObjectBlobs::in_memory()))).await
    };
    let server = start().await;
    create(&server, "writer", "builtin").await;
    create(&server, "reader", "builtin").await;
    let key = |session: &str| name(&id_of(session).to_string());
    let envelope = Envelope {
        id: EnvelopeId::new(),
        from: key("writer"),
        to: key("reader"),
        chain: ChainId::new(),
        hops: 0,
        body: EnvelopeBody::Message { body: "good evening".into(), blocks: None, handling_mode: None },
    };
    let kept = KeptEnvelope::new(envelope, name("reader"), SystemClock.now(), PATIENCE);
    let away = || std::future::ready(Err(SendError::PeerOffline(name("reader"))));
    server.server().state().adapter().outbox(id_of("writer")).send(kept, away).await.unwrap();
    server.into_server().shutdown().await;
    assert!(heard(&journal(&*store, "reader").await).is_empty());
    let server = start().await;
    hears(server.server(), "reader").await;
    server.into_server().shutdown().await;
    let expected = [(json!("writer"), "[COMMS MESSAGE from writer]\ngood evening".to_owned())];
    assert_eq!(heard(&journal(&*store, "reader").await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_that_a_tenant_may_write_to_are_listed_with_its_own_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = TestServer::config();
    config.server.peer_key = Some(folder.path().join("peer.key"));
    for (name, seed, tenant) in [("lyon", 1, "default"), ("berlin", 2, "default"), ("rome", 3, "acme")] {
        let (url, key) = ("http://127.0.0.1:9".to_owned(), Identity::from_seed(&[seed; 32]).name().to_string());
        config.peers.insert(name.into(), PeerConfig { url, key, tenant: tenant.into() });
    }
    let server = TestServer::with(TestServer::builder(config)).await;
    create(&server, "writer", "builtin").await;
    create(&server, "reader", "builtin").await;
    for query in ["", "?limit=1"] {
        let peers = server.get(&format!("/v1/sessions/writer/peers{query}")).await;
        assert_eq!(peers.body["servers"], json!(["berlin", "lyon"]), "{query}: {peers:?}");
    }
    let peers = server.get("/v1/sessions/writer/peers").await;
    assert_eq!(peers.body["items"], json!([{ "name": "reader", "reachable": true }]));
    // What is listed can be written to; whether there is such a session is that server's to say.
    let said = json!({ "to": "reader@berlin", "body": "good evening" });
    assert_eq!(server.post("/v1/sessions/writer/peers/messages", &said).await.status, 202);
    let said = json!({ "to": "reader@rome", "body": "good evening" });
    assert_eq!(server.post("/v1/sessions/writer/peers/messages", &said).await.code(), "peer_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_lets_in_what_a_pinned_server_may_say_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (lyon, rome) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
    let mut config = TestServer::config();
    config.server.peer_key = Some(folder.path().join("peer.key"));
    config.limits.failed_auth_per_minute = 2.try_into().unwrap();
    for (name, identity, tenant) in [("lyon", &lyon, "default"), ("rome", &rome, "acme")] {
        let (url, key) = ("http://127.0.0.1:9".to_owned(), identity.name().to_string());
        config.peers.insert(name.into(), PeerConfig { url, key, tenant: tenant.into() });
    }
    let key = windlass_server::peer_key(&config.server, None).unwrap();
    let server = TestServer::with(TestServer::builder(config)).await;
    create(&server, "reader", "builtin").await;
    let message = |words: &str| EnvelopeBody::Message { body: words.into(), blocks: None, handling_mode: None };
    let from_lyon = |n: u128, body: EnvelopeBody| Envelope {
        id: EnvelopeId(uuid::Uuid::from_u128(n)),
        from: name(&format!("{}#writer", lyon.name())),
        to: name(&format!("{key}#reader")),
        chain: ChainId::new(),
        hops: 0,
        body,
    };
    let post = async |envelope: &Envelope, identity: &Identity| {
        let bytes = SignedEnvelope::sign(envelope, identity, SystemClock.now()).unwrap();
        let answer = Answer::to(server.request(Method::POST, windlass_peers::DOOR).body(bytes)).await;
        (answer.status, answer.code().to_owned())
    };
    let first = from_lyon(1, message("hi"));
    for _ in 0..2 {
        assert_eq!(post(&first, &lyon).await.0, 202, "posted again, it is taken once");
    }
    let other = |to: &str| Envelope { to: name(to), ..from_lyon(2, message("hi")) };
    let picture = |source: Value| {
        let block = json!({ "type": "image", "media_type": "image/png", "source": source });
        let blocks = Some(vec![serde_json::from_value(block).unwrap()]);
        EnvelopeBody::Message { body: "look".into(), blocks, handling_mode: None }
    };
    let blob = json!({ "source_type": "blob", "blob": "0".repeat(64), "bytes": 4 });
    let url = json!({ "source_type": "url", "url": "https://example.org/a.png" });
    let answer = EnvelopeBody::Response {
        in_reply_to: EnvelopeId(uuid::Uuid::from_u128(1)),
        status: ResponseStatus::Completed,
        result: json!(1),
        handling_mode: None,
    };
    let of_rome = Envelope { from: name(&format!("{}#writer", rome.name())), ..from_lyon(3, message("hi")) };
    for (envelope, signed_by, status, code) in [
        (of_rome, &rome, 403, "peer_audience"),
        (other(&format!("{key}#nobody")), &lyon, 403, "peer_audience"),
        (other(&key), &lyon, 403, "peer_audience"),
        (other(rome.name().as_str()), &lyon, 403, "peer_audience"),
        (Envelope { hops: 17, ..from_lyon(4, message("hi")) }, &lyon, 422, "loop_detected"),
        (from_lyon(5, message(" dismiss ")), &lyon, 400, "schema_violation"),
        (from_lyon(6, picture(blob)), &lyon, 400, "schema_violation"),
        (from_lyon(7, picture(url)), &lyon, 202, ""),
        (from_lyon(8, answer), &lyon, 409, "session_state_conflict"),
        (from_lyon(9, message("hi")), &rome, 401, "peer_signature_invalid"),
        (from_lyon(9, message("hi")), &rome, 401, "peer_signature_invalid"),
        (from_lyon(9, message("hi")), &rome, 429, "rate_limited"),
        (from_lyon(9, message("hi")), &lyon, 202, ""),
    ] {
        assert_eq!(post(&envelope, signed_by).await, (status, code.to_owned()), "{envelope:?}");
    }
    // An answer is taken once, and heard as often as it is posted; another one finds the request closed.
    let request = json!({ "to": "writer@lyon", "kind": "request", "body": "add" });
    let asked = server.post("/v1/sessions/reader/peers/messages", &request).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let in_reply_to = EnvelopeId(serde_json::from_value(asked.body["id"].clone()).unwrap());
    let answer = |n: u128| {
        let (status, result) = (ResponseStatus::Completed, json!(2));
        from_lyon(n, EnvelopeBody::Response { in_reply_to, status, result, handling_mode: None })
    };
    for (n, status) in [(10, 202), (10, 202), (11, 409)] {
        assert_eq!(post(&answer(n), &lyon).await.0, status, "answer {n}");
    }
    let inputs = server.get("/v1/sessions/reader/inputs").await;
    let sources = inputs.body["items"].as_array().unwrap().iter().map(|input| input["source"]["peer_id"].clone());
    assert_eq!(sources.collect::<Vec<_>>(), vec![json!("writer@lyon"); 4]);
}

/// Not a test by itself: the life of a child, when there is one.
#[test]
fn child() {
    let Ok(folder) = std::env::var("WINDLASS_TEST_CHILD") else { return };
    let base = std::env::var("WINDLASS_TEST_PROVIDER").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(Path::new(&folder).join("store.db"), SqliteOptions::default()).unwrap();
        let server = TestServer::with(Server::builder(config(&base), Arc::new(store))).await;
        create(&server, "writer", "model").await;
        create(&server, "gardener", "builtin").await;
        let said = say(&server, "writer", &json!({ "kind": "prompt", "text": "Greet the gardener." })).await;
        assert_eq!(said.body["result"]["text"], "I have written.", "{said:?}");
        hears(server.server(), "gardener").await;
        server.into_server().shutdown().await;
    });
    std::process::exit(0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_any_two_steps_a_model_writes_to_its_peer_once() {
    use std::os::unix::process::ExitStatusExt;
    let provider = Provider::answering(|_, body| match text(body["messages"].as_array().unwrap().last().unwrap()) {
        "sent" => Speaks::Openai.says(&["I have written."]),
        _ => Speaks::Openai.calls(&[("c", "send_peer", r#"{"to":"gardener","body":"hello"}"#)]),
    })
    .await;
    for point in ["before_commit", "after_commit"] {
        let mut kills = 0;
        for pass in 1.. {
            assert!(pass < 60, "it never ends");
            let folder = tempfile::tempdir().unwrap();
            let case = format!("{point}@{pass}");
            let life = async |crash: Option<&str>| {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "child", "--nocapture"]).env_remove("WINDLASS_CRASH");
                command.env("WINDLASS_TEST_CHILD", folder.path());
                command.env("WINDLASS_TEST_PROVIDER", Speaks::Openai.base(&provider));
                command.envs(crash.map(|crash| ("WINDLASS_CRASH", crash)));
                let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
                let killed = output.status.signal() == Some(9);
                let words = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success() || (killed && crash.is_some()), "{case}: {words}");
                killed
            };
            let killed = life(Some(&case)).await;
            if killed {
                kills += 1;
                life(None).await;
            }
            let store = SqliteStore::open_read_only(folder.path().join("store.db")).unwrap();
            let told = heard(&journal(&store, "gardener").await);
            assert_eq!(told, [(json!("writer"), "[COMMS MESSAGE from writer]\nhello".to_owned())], "{case}");
            if !killed {
                break;
            }
        }
        // Two sessions, the prompt, an answer, the intent, what is sent, its arrival here and there, the result, the end.
        assert!(kills >= 10, "{point}: only {kills} kills");
    }
}
