//! Do sessions of two processes hear each other, and nobody else?

use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use windlass_core::{Record, Seq, SessionId, Timestamp};
use windlass_peers::{HttpPeer, HttpRules, Identity, PeerDirectory, SignedEnvelope};
use windlass_runtime::{
    ManualClock, RuntimeSessionAdapter,
    comms::{
        ChainId, Claim, CommsCommand, CommsRuntime, Envelope, EnvelopeBody, EnvelopeId, InboxRoom, PeerName, Refusal,
        ResponseStatus, SendError, SendReceipt, TrustedPeer,
    },
    testing::{ManualExecutor, Runs, session},
};

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// One process: a door, a session behind it, and an executor in the hands of the test.
struct Process {
    adapter: RuntimeSessionAdapter,
    directory: PeerDirectory,
    peer: Arc<HttpPeer>,
    address: String,
    runs: Runs,
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn name(text: &str) -> PeerName {
    PeerName::new(text).unwrap()
}

async fn process(seed: u8, rules: HttpRules) -> Process {
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let directory = PeerDirectory::new(clock);
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = directory.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let peer = Arc::new(directory.join(identity(seed), rules).unwrap());
    let adapter = RuntimeSessionAdapter::ephemeral();
    let (executor, runs) = ManualExecutor::new();
    adapter.ensure_session_with_executor(this(seed), executor).await.unwrap();
    adapter.update_peer_ingress_context(&this(seed), false, Some(Arc::clone(&peer) as _)).await.unwrap();
    Process { adapter, directory, peer, address, runs }
}

fn this(seed: u8) -> SessionId {
    session(u128::from(seed))
}

async fn pin(process: &Process, called: &str, key: &PeerName, address: &str) {
    let peer = TrustedPeer { name: name(called), key: key.clone(), address: address.to_owned() };
    process.peer.add_trusted_peer(peer).await.unwrap();
}

/// Ada and bob, who know each other.
async fn two(rules: HttpRules) -> (Process, Process) {
    let (ada, bob) = (process(1, HttpRules::default()).await, process(2, rules).await);
    pin(&ada, "bob", identity(2).name(), &bob.address).await;
    pin(&bob, "ada", identity(1).name(), &ada.address).await;
    (ada, bob)
}

async fn post(process: &Process, bytes: Vec<u8>) -> (u16, String) {
    posted(process, bytes).await
}

/// As [`post`], to be spawned.
fn posted(process: &Process, bytes: Vec<u8>) -> impl Future<Output = (u16, String)> + use<> {
    let url = format!("{}/peers/v1/envelopes", process.address);
    async move {
        let response = reqwest::Client::new().post(url).body(bytes).send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    }
}

fn from_ada(id: u128, words: &str, hops: u32) -> Envelope {
    let body = EnvelopeBody::Message { body: words.into(), blocks: None, handling_mode: None };
    Envelope {
        id: EnvelopeId(uuid::Uuid::from_u128(id)),
        from: identity(1).name().clone(),
        to: identity(2).name().clone(),
        chain: ChainId::new(),
        hops,
        body,
    }
}

#[tokio::test]
async fn a_request_goes_over_and_its_answer_comes_back() {
    let (mut ada, mut bob) = two(HttpRules::default()).await;
    let receipt = ada.peer.send(CommsCommand::request(name("bob"), "sum", json!({"n": 1}))).await.unwrap();
    let SendReceipt::PeerRequestSent { request_id, .. } = receipt else { panic!("{receipt:?}") };
    let run = bob.runs.next().await;
    assert!(run.turn.primitive().text().starts_with(&format!("[COMMS REQUEST from ada (id: {request_id})]")));
    let answer = |status| CommsCommand::response(name("ada"), request_id, status, json!(2));
    bob.peer.send(answer(ResponseStatus::Completed)).await.unwrap();
    assert_eq!(bob.peer.send(answer(ResponseStatus::Failed)).await, Err(SendError::RequestClosed(request_id)));
    run.text("answered");
    let run = ada.runs.next().await;
    let expected = format!("[COMMS RESPONSE from bob (to request: {request_id})]\nStatus: completed\nResult: 2");
    assert_eq!(run.turn.primitive().text(), expected);
    run.text("read");
    assert_eq!(bob.directory.counters().taken, 1);
    ada.adapter.shutdown().await;
    bob.adapter.shutdown().await;
}

// OC 68
#[tokio::test]
async fn a_message_with_pictures_is_acknowledged_like_any_other() {
    let (ada, mut bob) = two(HttpRules::default()).await;
    let blocks = Some(vec![windlass_core::ContentBlock::text("look")]);
    let body = EnvelopeBody::Message { body: "look".into(), blocks, handling_mode: None };
    let command = CommsCommand::Peer { to: name("bob"), body, causes: vec![], id: None };
    let sent = tokio::time::timeout(Duration::from_secs(9), ada.peer.send(command)).await.expect("before any timeout");
    assert!(matches!(sent, Ok(SendReceipt::PeerMessageSent { .. })));
    assert!(bob.runs.next().await.turn.primitive().text().starts_with("[COMMS MESSAGE from ada]"));
}

#[tokio::test]
async fn nothing_is_kept_of_what_is_refused_and_everything_is_counted() {
    let rules = HttpRules { room: InboxRoom { entries: 1, bytes: 1 << 20 }, ..HttpRules::default() };
    let (_ada, bob) = two(rules).await;
    bob.adapter.abort_comms_drains();
    bob.adapter.wait_comms_drain(&this(2)).await;
    let sign = |envelope: &Envelope, seed| SignedEnvelope::sign(envelope, &identity(seed), NOW).unwrap();

    let mallory = Envelope { from: identity(3).name().clone(), ..from_ada(1, "hi", 0) };
    assert_eq!(post(&bob, sign(&mallory, 3)).await, (401, "peer_unknown".into()));
    assert_eq!(post(&bob, sign(&from_ada(1, "hi", 0), 3)).await, (401, "peer_signature_invalid".into()));
    let other = Envelope { to: identity(3).name().clone(), ..from_ada(1, "hi", 0) };
    assert_eq!(post(&bob, sign(&other, 1)).await, (403, "peer_audience".into()));
    let old = Timestamp::from_micros(NOW.as_micros() - 301_000_000);
    let expired = SignedEnvelope::sign(&from_ada(1, "hi", 0), &identity(1), old).unwrap();
    assert_eq!(post(&bob, expired).await, (403, "peer_expired".into()));
    assert_eq!(post(&bob, vec![b' '; 2 << 20]).await, (413, "payload_too_large".into()));
    assert_eq!(post(&bob, b"{".to_vec()).await, (400, "schema_violation".into()));
    assert_eq!(post(&bob, br#"{"lane": "steer"}"#.to_vec()).await, (422, "reserved_metadata".into()));
    assert_eq!(post(&bob, sign(&from_ada(1, "hi", 17), 1)).await, (422, "loop_detected".into()));
    assert!(bob.peer.claim(9).await.unwrap().is_empty(), "nothing came in");

    // Answered when it is on disk; sent again meanwhile, it hears the same.
    let first = sign(&from_ada(1, "hi", 0), 1);
    let (once, again) = (tokio::spawn(posted(&bob, first.clone())), tokio::spawn(posted(&bob, first)));
    let claims = some_claims(&bob).await;
    let second = sign(&from_ada(2, "hi", 0), 1);
    assert_eq!(post(&bob, second.clone()).await, (429, "queue_full".into()));
    assert!(!once.is_finished() && !again.is_finished(), "nobody has it on disk");
    bob.peer.acknowledge(&[claims[0].receipt]).await.unwrap();
    assert_eq!((once.await.unwrap().0, again.await.unwrap().0), (202, 202));
    let second = tokio::spawn(posted(&bob, second));
    let claims = some_claims(&bob).await;
    let refusal = Refusal { code: "json_too_deep".into(), reason: "too deep".into() };
    bob.peer.refuse(&claims[0], &refusal).await.unwrap();
    assert_eq!(second.await.unwrap(), (422, "json_too_deep".into()), "what found no room may come again");
    assert_eq!(post(&bob, sign(&from_ada(1, "hi", 0), 1)).await, (409, "peer_replay".into()), "it is on disk");
    assert_eq!(post(&bob, sign(&from_ada(2, "hi", 0), 1)).await.1, "json_too_deep", "it is not");

    // Pinned by nobody any more.
    assert!(bob.peer.remove_trusted_peer(identity(1).name()).await.unwrap());
    assert_eq!(post(&bob, sign(&from_ada(3, "hi", 0), 1)).await.1, "peer_unknown");
    let counters = bob.directory.counters();
    assert_eq!(counters.taken, 2);
    assert_eq!(counters.refused.values().sum::<u64>(), 13);
    assert_eq!((counters.refused("peer_replay"), counters.refused("peer_unknown")), (1, 2));
}

#[tokio::test]
async fn what_a_session_has_no_room_for_may_come_again() {
    let (_ada, bob) = two(HttpRules::default()).await;
    bob.adapter.abort_comms_drains();
    bob.adapter.wait_comms_drain(&this(2)).await;
    let envelope = SignedEnvelope::sign(&from_ada(1, "hi", 0), &identity(1), NOW).unwrap();
    for code in ["queue_full", "quota_exceeded"] {
        let posted = tokio::spawn(posted(&bob, envelope.clone()));
        let claims = some_claims(&bob).await;
        let refusal = Refusal { code: code.into(), reason: "no room".into() };
        bob.peer.refuse(&claims[0], &refusal).await.unwrap();
        assert_eq!(posted.await.unwrap(), (429, code.to_owned()));
    }
    let posted = tokio::spawn(posted(&bob, envelope));
    let claims = some_claims(&bob).await;
    bob.peer.acknowledge(&[claims[0].receipt]).await.unwrap();
    assert_eq!(posted.await.unwrap().0, 202, "there is room by now");
}

#[tokio::test]
async fn one_peer_neither_takes_the_room_nor_the_ids_of_another() {
    let (mut ada, mut bob) = two(HttpRules { replay_window: 1, ..HttpRules::default() }).await;
    let mut carol = process(3, HttpRules::default()).await;
    pin(&bob, "carol", identity(3).name(), &carol.address).await;
    pin(&carol, "bob", identity(2).name(), &bob.address).await;
    let id = EnvelopeId(uuid::Uuid::from_u128(7));
    let ask = || CommsCommand::request(name("bob"), "sum", json!({})).under(id);
    ada.peer.send(ask()).await.unwrap();
    let full = ada.peer.send(CommsCommand::message(name("bob"), "more")).await;
    assert_eq!(full, Err(SendError::InboxFull(name("bob"))), "as many of ada as are remembered");
    carol.peer.send(ask()).await.unwrap();
    for _ in 0..2 {
        bob.runs.next().await.text("and will answer later");
    }
    bob.peer.send(CommsCommand::response(name("ada"), id, ResponseStatus::Completed, json!(2))).await.unwrap();
    assert!(ada.runs.next().await.turn.primitive().text().contains("Status: completed"));
    // Carol still waits for an answer to the request of that id, and hears that none comes.
    bob.adapter.session(this(2)).await.unwrap().destroy().await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(30), carol.runs.next()).await.expect("before the deadline");
    assert!(told.turn.primitive().text().contains("Status: failed"));
}

/// The entries of an inbox, once there are any.
async fn some_claims(process: &Process) -> Vec<Claim> {
    let some = async {
        loop {
            let claims = process.peer.claim(9).await.unwrap();
            if !claims.is_empty() {
                return claims;
            }
            process.peer.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), some).await.expect("it comes")
}

#[tokio::test]
async fn a_sender_hears_why_a_session_does_not_take_what_it_sent() {
    let (ada, bob) = two(HttpRules::default()).await;
    for command in [
        // With its header more than a session takes, and just what another may send.
        CommsCommand::message(name("bob"), "x".repeat(1 << 20)),
        CommsCommand::request(name("bob"), "sum", json!("x".repeat(1 << 20))),
    ] {
        let Err(SendError::Refused(refusal)) = ada.peer.send(command).await else { panic!("it is not taken") };
        assert_eq!(refusal.code, "payload_too_large");
    }
    assert_eq!(bob.directory.counters().refused("payload_too_large"), 2);
    assert!(kept(&ada).await.is_empty(), "nothing is sent again, nothing waits for an answer");
}

/// How many envelopes a session keeps.
async fn kept(process: &Process) -> Vec<&'static str> {
    let entries = process.adapter.store().read(this(1), Seq::ZERO, 1_000).await.unwrap();
    let mut open = std::collections::BTreeMap::new();
    for entry in &entries {
        match &entry.record {
            Record::PeerSent(sent) => drop(open.insert(sent.id, "sent")),
            Record::PeerDelivered { id } => drop(open.insert(*id, "delivered")),
            Record::PeerGivenUp { id } => drop(open.remove(id)),
            Record::InputAccepted(accepted) => {
                // A terminal response has its request's id, if it is the session's own.
                accepted.input.header.correlation_id.map(|id| open.remove(&id));
            }
            _ => {}
        }
    }
    open.into_values().collect()
}

#[tokio::test]
async fn a_session_that_goes_away_ends_the_waits_for_its_answers() {
    for destroyed in [true, false] {
        let (mut ada, mut bob) = two(HttpRules::default()).await;
        ada.peer.send(CommsCommand::request(name("bob"), "sum", json!({}))).await.unwrap();
        bob.runs.next().await.text("and will answer later");
        let code = if destroyed {
            bob.adapter.session(this(2)).await.unwrap().destroy().await.unwrap();
            "session_state_conflict"
        } else {
            bob.adapter.update_peer_ingress_context(&this(2), false, None).await.unwrap();
            let Process { peer, adapter, .. } = bob;
            adapter.wait_comms_drain(&this(2)).await;
            drop(peer);
            "peer_offline"
        };
        let run =
            tokio::time::timeout(Duration::from_secs(30), ada.runs.next()).await.expect("long before the deadline");
        let text = run.turn.primitive().text();
        assert!(text.contains("Status: failed") && text.contains(code), "{text}");
        run.text("read");
    }
}

#[tokio::test]
async fn pinned_by_one_session_is_not_heard_by_the_next() {
    let (ada, bob) = two(HttpRules::default()).await;
    let carol = bob.directory.join(identity(4), HttpRules::default()).unwrap();
    pin(&ada, "carol", identity(4).name(), &bob.address).await;
    let sent = ada.peer.send(CommsCommand::message(name("carol"), "hi")).await;
    assert_eq!(sent, Err(SendError::PeerNotSendable(name("carol"))));
    assert!(bob.directory.join(identity(4), HttpRules::default()).is_err(), "one session a key");
    drop(carol);
    let sent = ada.peer.send(CommsCommand::message(name("carol"), "hi")).await;
    assert_eq!(sent, Err(SendError::PeerNotFound(name("carol"))));
}

#[tokio::test]
async fn a_request_to_a_peer_that_is_away_or_silent_ends_when_its_time_is_up() {
    let mut ada = process(1, HttpRules { request_deadline: Duration::from_millis(200), ..HttpRules::default() }).await;
    pin(&ada, "gone", identity(5).name(), "http://127.0.0.1:9").await;
    let message = ada.peer.send(CommsCommand::message(name("gone"), "hello")).await;
    assert!(matches!(message, Ok(SendReceipt::PeerMessageSent { acked: false, .. })), "it may be back: {message:?}");
    ada.peer.send(CommsCommand::request(name("gone"), "sum", json!({}))).await.unwrap();
    let mut told = 0;
    while told < 2 {
        let run = ada.runs.next().await;
        assert!(run.turn.primitive().text().contains("deadline_exceeded"));
        told += run.turn.inputs().len();
        run.text("read");
    }
    assert!(kept(&ada).await.is_empty());
    let unbound = ada.directory.join(identity(6), HttpRules::default()).unwrap();
    unbound
        .add_trusted_peer(TrustedPeer {
            name: name("gone"),
            key: identity(5).name().clone(),
            address: "http://127.0.0.1:9".into(),
        })
        .await
        .unwrap();
    let sent = unbound.send(CommsCommand::message(name("gone"), "hello")).await;
    assert_eq!(sent, Err(SendError::PeerOffline(name("gone"))), "without a session nothing is kept");
    let not_a_key = TrustedPeer { name: name("x"), key: name("ed25519:AAAA"), address: String::new() };
    assert!(matches!(ada.peer.add_trusted_peer(not_a_key).await, Err(SendError::Validation(_))));

    let bob = process(2, HttpRules::default()).await;
    pin(&bob, "ada", identity(1).name(), &ada.address).await;
    pin(&ada, "bob", identity(2).name(), &bob.address).await;
    ada.peer.send(CommsCommand::request(name("bob"), "sum", json!({}))).await.unwrap();
    assert!(ada.runs.next().await.turn.primitive().text().contains("deadline_exceeded"));
}

#[tokio::test]
async fn a_door_neither_leads_elsewhere_nor_answers_without_end() {
    let elsewhere = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let inside = elsewhere.local_addr().unwrap();
    let leads = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{inside}/\r\ncontent-length: 0\r\n\r\n");
    let endless = "HTTP/1.1 422 Unprocessable Content\r\ncontent-length: 1000000000000\r\n\r\n".to_owned();
    for (answer, goes_on) in [(leads, false), (endless, true)] {
        let door = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = format!("http://{}", door.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = door.accept().await.unwrap();
                let mut asked = vec![0; 1 << 16];
                assert!(stream.read(&mut asked).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
                while goes_on && stream.write_all(&asked).await.is_ok() {}
            }
        });
        let ada = process(1, HttpRules { send_limit: Duration::from_secs(5), ..HttpRules::default() }).await;
        pin(&ada, "bob", identity(2).name(), &address).await;
        let sent = ada.peer.send(CommsCommand::message(name("bob"), "secret".to_owned())).await;
        assert!(matches!(&sent, Err(SendError::Refused(refusal)) if refusal.code == "internal"), "{sent:?}");
        ada.adapter.shutdown().await;
    }
    assert!(elsewhere.into_std().unwrap().accept().is_err(), "it was led elsewhere");
}
