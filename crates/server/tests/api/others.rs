//! Operations, peers, policies, blobs, agents, runs page by page.

use crate::Rig;
use http::Method;
use serde_json::{Value, json};
use windlass_runtime::store::PAGE_BYTES;
use windlass_server::testing::Answer;

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_outside_registers_reports_and_ends_its_work() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let before = rig.store.stats().appends;
    let made = rig.post("/v1/sessions/s/operations", &json!({"display_name": "index the archive"})).await;
    assert_eq!(rig.store.stats().appends, before + 1, "registered and running at once");
    assert_eq!((made.status, &made.body["status"]), (201, &json!("running")), "{made:?}");
    let place = made.header("location").to_owned();
    let told = rig.post(&format!("{place}/progress"), &json!({"message": "half", "percent": 50.0})).await;
    assert_eq!((told.status, &told.body["progress_count"]), (200, &json!(1)), "{told:?}");
    let early = rig.get(&format!("{place}/wait?timeout=0")).await;
    assert_eq!((early.status, &early.body["status"]), (202, &json!("running")));
    let wait = format!("{place}/wait?timeout=20");
    let body = json!({"content": "42 documents"});
    let path = format!("{place}/complete");
    let (waited, ended) = tokio::join!(rig.get(&wait), rig.post(&path, &body));
    assert_eq!((ended.status, &ended.body["status"]), (200, &json!("completed")), "{ended:?}");
    assert_eq!((waited.status, &waited.body["detail"]), (200, &json!("42 documents")), "{waited:?}");
    for (verb, body) in [
        ("complete", json!({})),
        ("fail", json!({"error": "x"})),
        ("cancel", json!({})),
        ("progress", json!({"message": "x"})),
    ] {
        let late = rig.post(&format!("{place}/{verb}"), &body).await;
        assert_eq!(late.status, 409, "{verb}: {late:?}");
    }
    let listed = rig.get("/v1/sessions/s/operations").await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 1);
    let id = &made.body["id"];
    assert_eq!(rig.post("/v1/sessions/s/operations", &json!({"display_name": "x", "id": id})).await.status, 409);
    let missing = uuid::Uuid::now_v7();
    assert_eq!(rig.get(&format!("/v1/sessions/s/operations/{missing}")).await.code(), "not_found");
    assert_eq!(rig.post(&format!("{place}/progress"), &json!({"message": "x", "percent": 101})).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_write_to_each_other_and_the_receiver_knows_who_it_was() {
    let rig = Rig::start().await;
    rig.session("writer").await;
    rig.session("reader").await;
    let peers = rig.get("/v1/sessions/writer/peers").await;
    assert_eq!(peers.body["items"], json!([{"name": "reader", "reachable": true}]));
    let sent = rig.post("/v1/sessions/writer/peers/messages", &json!({"to": "reader", "body": "good evening"})).await;
    assert_eq!((sent.status, &sent.body["kind"]), (202, &json!("message")), "{sent:?}");
    let asked = json!({"to": "reader", "kind": "request", "body": "review", "params": {"draft": 3}});
    assert_eq!(rig.post("/v1/sessions/writer/peers/messages", &asked).await.status, 202);
    let inputs = rig.get("/v1/sessions/reader/inputs").await;
    let kinds: Vec<_> = inputs.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| (&input["kind"], &input["source"]["peer_id"]))
        .collect();
    assert_eq!(kinds, [(&json!("peer_message"), &json!("writer")), (&json!("peer_request"), &json!("writer"))]);
    for (body, code) in [
        (json!({"to": "nobody", "body": "x"}), "peer_unknown"),
        (json!({"to": "reader", "body": ""}), "schema_violation"),
        (json!({"to": "reader", "body": "x", "params": {}}), "schema_violation"),
        (json!({"to": "reader", "body": "DISMISS"}), "schema_violation"),
        (json!({"to": "reader", "body": "x", "kind": "request", "params": 3}), "schema_violation"),
        (json!({"to": "reader", "body": "x", "kind": "response"}), "schema_violation"),
        (json!({"to": "reader", "body": "x", "status": "failed"}), "schema_violation"),
        (json!({"to": "reader", "body": "x", "in_reply_to": uuid::Uuid::now_v7()}), "schema_violation"),
        (
            json!({"to": "reader", "body": "x", "kind": "response", "status": "accepted", "handling_mode": "queue", "in_reply_to": uuid::Uuid::now_v7()}),
            "schema_violation",
        ),
    ] {
        let refused = rig.post("/v1/sessions/writer/peers/messages", &body).await;
        assert_eq!(refused.code(), code, "{body}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_a_session_ends_once_and_by_whom_it_was_made_to() {
    let rig = Rig::start().await;
    for name in ["writer", "reader", "other"] {
        rig.session(name).await;
    }
    let send =
        async |from: &str, message: Value| rig.post(&format!("/v1/sessions/{from}/peers/messages"), &message).await;
    let asked = send("writer", json!({"to": "reader", "kind": "request", "body": "review"})).await;
    assert_eq!((asked.status, &asked.body["delivered"]), (202, &json!(true)), "{asked:?}");
    let answer = |status: &str| json!({"to": "writer", "kind": "response", "in_reply_to": asked.body["id"], "status": status, "body": "fine"});
    assert_eq!(send("other", answer("completed")).await.code(), "session_state_conflict", "nobody asked it");
    assert_eq!(send("reader", answer("accepted")).await.status, 202);
    assert_eq!(send("reader", answer("completed")).await.status, 202);
    assert_eq!(send("reader", answer("failed")).await.code(), "session_state_conflict", "it is over");
    let kinds = async |session: &str| {
        let inputs = rig.get(&format!("/v1/sessions/{session}/inputs")).await;
        let kinds =
            inputs.body["items"].as_array().unwrap().iter().map(|input| input["kind"].as_str().unwrap().to_owned());
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(kinds("writer").await, ["peer_response_progress", "peer_response_terminal"]);
    // What a peer does not take is told at once, and not again later.
    rig.post("/v1/sessions/reader/stop", &json!({})).await;
    assert_eq!(
        send("writer", json!({"to": "reader", "kind": "request", "body": "x"})).await.code(),
        "session_state_conflict"
    );
    assert_eq!(kinds("writer").await.len(), 2);
    let gone = async |entry: &str| {
        let journal = rig.get("/v1/sessions/writer/journal").await;
        journal.body["items"].as_array().unwrap().iter().filter(|row| row.to_string().contains(entry)).count()
    };
    assert_eq!((gone("peer_sent").await, gone("peer_given_up").await), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_peer_is_sent_once_under_its_key() {
    let rig = Rig::start().await;
    for name in ["writer", "reader", "other"] {
        rig.session(name).await;
    }
    let send = async |key: &str, message: Value| {
        let request = rig.request(Method::POST, "/v1/sessions/writer/peers/messages").header("idempotency-key", key);
        Answer::to(request.json(&message)).await
    };
    let first = send("k", json!({"to": "reader", "body": "hello"})).await;
    let again = send("\"k\"", json!({"to": "reader", "body": "hello"})).await;
    assert_eq!((first.status, &first.body), (202, &again.body), "{again:?}");
    for other in [
        json!({"to": "reader", "body": "good bye"}),
        json!({"to": "other", "body": "hello"}),
        json!({"to": "reader", "body": "hello", "kind": "request"}),
        json!({"to": "reader", "body": "hello", "handling_mode": "steer"}),
    ] {
        let reused = send("k", other.clone()).await;
        assert_eq!((reused.status, reused.code()), (422, "idempotency_key_reused"), "{other}");
    }
    assert_ne!(send("k2", json!({"to": "reader", "body": "hello"})).await.body["id"], first.body["id"]);
    assert_eq!(send("", json!({"to": "reader", "body": "hello"})).await.code(), "idempotency_key_invalid");
    assert_eq!(rig.get("/v1/sessions/reader/inputs").await.body["items"].as_array().unwrap().len(), 2);
    assert_eq!(rig.get("/v1/sessions/other/inputs").await.body["items"], json!([]));
    // The peer is told nothing twice, also when it takes nothing any more.
    rig.post("/v1/sessions/reader/stop", &json!({})).await;
    assert_eq!(send("k", json!({"to": "reader", "body": "hello"})).await.body, first.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_kept_by_version_asked_and_tried_out() {
    let rig = Rig::start().await;
    let put = async |name: &str, media: &str, text: &str| {
        let request = rig.request(Method::PUT, &format!("/v1/policies/{name}")).header("content-type", media);
        Answer::to(request.body(text.to_owned())).await
    };
    let toml = "[[row]]\nkind = \"prompt\"\ndecision = { deliver = \"next_run\", priority = 3 }\n";
    let first = put("eager", "application/toml", toml).await;
    assert_eq!(
        (first.status, &first.body["version"], &first.body["changed"]),
        (200, &json!(1), &json!(true)),
        "{first:?}"
    );
    let same = put(
        "eager",
        "application/json",
        r#"{"row": [{"kind": "prompt", "decision": {"deliver": "next_run", "priority": 3}}]}"#,
    )
    .await;
    assert_eq!((&same.body["version"], &same.body["changed"]), (&json!(1), &json!(false)), "{same:?}");
    let second = put("eager", "application/json", r#"{"row": []}"#).await;
    assert_eq!(second.body["version"], 2, "{second:?}");
    for (name, media, text, status, code) in [
        ("x", "application/toml", "[[row]", 422, "policy_invalid"),
        (
            "x",
            "application/toml",
            "[[row]]\nkind = \"poem\"\ndecision = { deliver = \"next_run\" }",
            422,
            "policy_invalid",
        ),
        ("x", "application/json", r#"{"row": [{"decision": {"deliver": "ignore"}}]}"#, 422, "policy_invalid"),
        ("x", "application/json", r#"{"rows": []}"#, 422, "unknown_field"),
        ("x", "application/json", r#"{"row": [], "version": -1}"#, 422, "schema_violation"),
        ("x", "application/json", r#"{"row": [], "version": 1.5}"#, 422, "schema_violation"),
        ("x", "application/json", r#"{"row": [], "version": "1"}"#, 422, "schema_violation"),
        ("x", "text/plain", "", 415, "unsupported_media_type"),
        ("a%20b", "application/json", r#"{"row": []}"#, 400, "invalid_id"),
        ("default", "application/json", r#"{"row": []}"#, 409, "settings_conflict"),
    ] {
        let refused = put(name, media, text).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{text}: {refused:?}");
    }
    let listed = rig.get("/v1/policies").await;
    let names: Vec<_> = listed.body["items"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["default", "eager"], "{listed:?}");
    assert_eq!(rig.get("/v1/policies/eager@1").await.body["table"]["row"][0]["kind"], "prompt");
    assert_eq!(rig.get("/v1/policies/eager@9").await.code(), "not_found");
    let asked = json!({"kind": "prompt"});
    let says = rig.post("/v1/policies/eager@1/explain", &asked).await;
    assert_eq!((&says.body["row"], &says.body["decision"]["priority"]), (&json!(0), &json!(3)), "{says:?}");
    let created = rig.post("/v1/sessions", &json!({"name": "s", "policy": "eager@1"})).await;
    assert_eq!((created.status, &created.body["policy"]), (201, &json!("eager@1")), "{created:?}");
    let sent = rig.say("s", "hello").await;
    assert_eq!(sent.body["decision"]["priority"], 3, "{sent:?}");
    let tried = rig.post("/v1/policies/default/replay", &json!({"session": "s"})).await;
    assert_eq!(
        (&tried.body["decisions"], tried.body["differences"].as_array().unwrap().len()),
        (&json!(1), 1),
        "{tried:?}"
    );
    assert_eq!(tried.body["differences"][0]["recorded"]["priority"], 3);
    let tried = rig.post("/v1/policies/eager@1/replay", &json!({"session": "s"})).await;
    assert_eq!(tried.body["differences"], json!([]), "the same policy decides the same: {tried:?}");
    let changed = rig.patch("/v1/sessions/s", &json!({"policy": null})).await;
    assert_eq!((changed.status, changed.body.get("policy")), (200, None), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_named_by_their_bytes_and_belong_to_who_sent_them() {
    let mut rig = Rig::start().await;
    let admin = rig.token("default", &["*"]).await;
    rig.server.show(Some(&admin));
    let sent = Answer::to(rig.request(Method::POST, "/v1/blobs").body(vec![7u8; 1000])).await;
    assert_eq!((sent.status, &sent.body["bytes"]), (201, &json!(1000)), "{sent:?}");
    let place = sent.header("location").to_owned();
    assert_eq!(place, format!("/v1/blobs/{}", blake3::hash(&[7u8; 1000]).to_hex()));
    let got = rig.request(Method::GET, &place).send().await.unwrap();
    let (headers, bytes) = (got.headers().clone(), got.bytes().await.unwrap());
    assert_eq!(&bytes[..], [7u8; 1000]);
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("x-content-type-options", "nosniff"),
        ("content-length", "1000"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let head = rig.request(Method::HEAD, &place).send().await.unwrap();
    assert_eq!((head.status(), head.headers()["content-length"].to_str().unwrap()), (http::StatusCode::OK, "1000"));
    let known = rig.request(Method::GET, &place).header("if-none-match", headers["etag"].clone()).send().await.unwrap();
    assert_eq!(known.status(), 304);
    assert_eq!(rig.get("/v1/blobs/xyz").await.code(), "invalid_id");
    assert_eq!(rig.get(&format!("/v1/blobs/{}", "0".repeat(64))).await.code(), "not_found");
    let picture = json!({"kind": "prompt", "text": "look", "blocks": [{"type": "image", "media_type": "image/png", "source": {"source_type": "inline", "data": "AAECAw=="}}]});
    rig.session("s").await;
    assert_eq!(rig.post("/v1/sessions/s/inputs", &picture).await.status, 202);
    let inline = format!("/v1/blobs/{}", blake3::hash(&[0, 1, 2, 3]).to_hex());
    assert_eq!(rig.request(Method::GET, &inline).send().await.unwrap().status(), 200);
    let theirs = rig.token("acme", &["*"]).await;
    rig.server.show(Some(&theirs));
    for place in [&place, &inline] {
        assert_eq!(rig.get(place).await.code(), "not_found", "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_are_listed_and_tried() {
    let rig = Rig::start().await;
    let agents = rig.get("/v1/agents").await;
    assert_eq!(
        (&agents.body["items"][0]["name"], &agents.body["items"][0]["default"]),
        (&json!("builtin"), &json!(true))
    );
    let tried = rig.post("/v1/agents/builtin/test", &json!({})).await;
    assert_eq!((tried.status, &tried.body["ok"]), (200, &json!(true)), "{tried:?}");
    assert_eq!(rig.post("/v1/agents/nobody/test", &json!({})).await.code(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_at_an_address_inside_is_told_of_by_its_code() {
    let rig = Rig::with(|config| {
        // A name; an address that is written into the URL is refused with the configuration.
        let inside = json!({"kind": "http", "url": "https://localhost:8443/"});
        config.agents.insert("inside".into(), serde_json::from_value(inside).unwrap());
    })
    .await;
    let tried = rig.post("/v1/agents/inside/test", &json!({})).await;
    assert_eq!((tried.status, &tried.body["ok"]), (200, &json!(false)), "{tried:?}");
    let detail = tried.body["detail"].as_str().unwrap();
    assert!(detail.contains("url_not_allowed: localhost is at "), "{detail}");
    rig.post("/v1/sessions", &json!({"name": "s", "agent": "inside"})).await;
    let said = rig.say("s", "hello").await;
    let error = said.body["result"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("url_not_allowed: localhost is at "), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_transcript_and_journal_come_page_by_page_and_whole() {
    let rig = Rig::start().await;
    let session = rig.session("s").await;
    for n in 0..5 {
        assert_eq!(rig.say("s", &format!("number {n}")).await.status, 200);
    }
    for (path, whole) in [("runs", 5), ("transcript", 10), ("inputs", 5)] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = rig.get(&format!("/v1/sessions/s/{path}?limit=3{cursor}")).await;
            assert_eq!(page.status, 200, "{path}: {page:?}");
            let items = page.body["items"].as_array().unwrap();
            assert!(items.len() <= 3, "{path}");
            seen.extend(items.iter().cloned());
            pages += 1;
            let Some(next) = page.body["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((seen.len(), pages > 1), (whole, true), "{path}: {seen:?}");
        seen.dedup();
        assert_eq!(seen.len(), whole, "{path} repeats nothing");
    }
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = rig.get(&format!("/v1/sessions/s/journal?limit=4&after={after}")).await;
        seen.extend(page.body["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()));
        assert!(page.body["items"].as_array().unwrap().iter().all(|item| item["session"] == *session));
        let Some(next) = page.body["next_after"].as_u64() else { break };
        after = next;
    }
    let head = rig.get("/v1/sessions/s").await.body["head"].as_u64().unwrap();
    assert_eq!(seen, (1..=head).collect::<Vec<_>>());
    assert_eq!(rig.get("/v1/sessions/s/journal?after=-1").await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_items_come_in_short_pages_and_each_comes_once() {
    const ASKED: usize = 12;
    let rig = Rig::start().await;
    rig.session("s").await;
    let long = "long ".repeat(80_000);
    for n in 0..ASKED {
        assert_eq!(rig.say("s", &format!("{n} {long}")).await.status, 200);
    }
    for (path, next, key) in
        [("journal", "next_after", "seq"), ("inputs", "next_cursor", "id"), ("transcript", "next_cursor", "seq")]
    {
        let (mut seen, mut from, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = rig.get(&format!("/v1/sessions/s/{path}?limit=500{from}")).await;
            let items = page.body["items"].as_array().unwrap();
            let bytes = page.body.to_string().len();
            assert!(bytes < PAGE_BYTES + 4096 || items.len() == 1, "{path}: {} items, {bytes} bytes", items.len());
            seen.extend(items.iter().map(|item| (item[key].to_string(), item["role"].to_string())));
            pages += 1;
            from = match &page.body[next] {
                Value::Null => break,
                Value::Number(after) => format!("&after={after}"),
                cursor => format!("&cursor={}", cursor.as_str().unwrap()),
            };
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all, "{path} repeats nothing");
        assert!(all >= ASKED && pages > 2, "{path}: {all} in {pages} pages");
    }
}
