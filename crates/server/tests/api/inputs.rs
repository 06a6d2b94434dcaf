//! Sending inputs, and hearing what became of them.

use crate::Rig;
use http::Method;
use serde_json::{Value, json};
use windlass_server::testing::{Answer, TestServer};

#[tokio::test(flavor = "multi_thread")]
async fn an_input_is_accepted_runs_once_and_is_told_everywhere_alike() {
    let rig = Rig::start().await;
    let session = rig.session("s").await;
    let said = rig.say("s", "hello").await;
    assert_eq!(said.status, 200, "{said:?}");
    assert_eq!((said.header("preference-applied"), &said.body["outcome"]), ("wait=20", &json!("accepted")));
    assert_eq!(
        (&said.body["state"], &said.body["durable"], &said.body["ahead"]),
        (&json!("consumed"), &json!(true), &json!(0))
    );
    assert_eq!(said.body["result"]["status"], "completed", "{said:?}");
    let id = said.body["id"].as_str().unwrap();
    let location = said.header("location").to_owned();
    assert_eq!(location, format!("/v1/sessions/{session}/inputs/{id}"));
    let seen = rig.get(&location).await;
    assert_eq!(
        (&seen.body["kind"], &seen.body["body"]["text"], &seen.body["result"]),
        (&json!("prompt"), &json!("hello"), &said.body["result"])
    );
    assert_eq!(seen.body["source"], json!({"type": "operator"}));
    let waited = rig.get(&format!("{location}/wait?timeout=5")).await;
    assert_eq!((waited.status, &waited.body["result"]), (200, &said.body["result"]));
    let explained = rig.get(&format!("{location}/explain")).await;
    assert_eq!((&explained.body["cause"], &explained.body["result"]), (&json!("settled"), &said.body["result"]));
    let run = said.body["result"]["run"].as_str().unwrap();
    let found = rig.get(&format!("/v1/sessions/s/runs/{run}")).await;
    assert_eq!((found.status, &found.body["complete"]), (200, &json!(true)), "{found:?}");
    assert_eq!(
        (&found.body["attempts"][0]["end"], &found.body["attempts"][0]["inputs"]),
        (&json!("completed"), &json!([id]))
    );
    let receipt = rig.get(&format!("/v1/sessions/s/runs/{run}/receipts/0")).await;
    assert_eq!(receipt.body, found.body["receipts"][0], "{receipt:?}");
    let transcript = rig.get("/v1/sessions/s/transcript").await;
    let roles: Vec<&Value> = transcript.body["items"].as_array().unwrap().iter().map(|item| &item["role"]).collect();
    assert_eq!(roles, ["user", "assistant"], "{transcript:?}");
    assert_eq!(transcript.body["items"][1]["content"], said.body["result"]["text"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_hears_the_first_answer_and_another_body_is_a_conflict() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let send = async |key: &str, text: &str| {
        let request = rig.request(Method::POST, "/v1/sessions/s/inputs").header("idempotency-key", key);
        Answer::to(request.json(&json!({"kind": "prompt", "text": text}))).await
    };
    let first = send("order-17", "hello").await;
    assert_eq!((first.status, &first.body["outcome"]), (202, &json!("accepted")), "{first:?}");
    let again = send("\"order-17\"", "hello").await;
    assert_eq!(
        (again.status, &again.body["outcome"], &again.body["id"]),
        (202, &json!("deduplicated"), &first.body["id"])
    );
    let other = send("order-17", "goodbye").await;
    assert_eq!((other.status, other.code()), (422, "idempotency_key_reused"), "{other:?}");
    for key in ["", "a b", &"k".repeat(256)] {
        let refused = send(key, "hello").await;
        assert_eq!((refused.status, refused.code()), (400, "idempotency_key_invalid"), "{key:?}");
    }
    // S 15
    let id = uuid::Uuid::now_v7();
    let send =
        async |text: &str| rig.post("/v1/sessions/s/inputs", &json!({"kind": "prompt", "text": text, "id": id})).await;
    assert_eq!(send("one").await.body["outcome"], "accepted");
    assert_eq!(send("one").await.body["outcome"], "deduplicated");
    assert_eq!(send("two").await.code(), "input_id_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_request_is_kept_with_its_input_and_a_broken_one_is_passed_over() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let [one, two] = [1, 2].map(|n| format!("00-{n:032x}-00f067aa0ba902b7-01"));
    for (sent, kept) in [
        (vec![one.as_str()], json!(one)),
        (vec![], Value::Null),
        (vec!["00-of-somebody-else"], Value::Null),
        (vec![&one, &two], Value::Null),
    ] {
        let request = rig.request(Method::POST, "/v1/sessions/s/inputs").json(&json!({"kind": "prompt", "text": "hi"}));
        let request = sent.iter().fold(request, |request, trace| request.header("traceparent", *trace));
        let admitted = Answer::to(request).await;
        assert_eq!(admitted.status, 202, "{admitted:?}");
        let seen = rig.get(admitted.header("location")).await;
        assert_eq!(seen.body["traceparent"], kept, "{sent:?}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_admitted_with_the_origin_that_the_server_gives_it() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let operation = uuid::Uuid::now_v7();
    for (body, kind, source) in [
        (
            json!({"kind": "prompt", "text": "hi", "turn_metadata": {"model": "m"}}),
            "prompt",
            json!({"type": "operator"}),
        ),
        (
            json!({"kind": "peer", "peer_id": "ada", "body": "hi", "convention": {"type": "request", "request_id": "r", "intent": "look"}}),
            "peer_request",
            json!({"type": "peer", "peer_id": "ada"}),
        ),
        (
            json!({"kind": "flow_step", "flow_id": "f", "step_index": 2, "step_id": "s", "instructions": "do"}),
            "flow_step",
            json!({"type": "flow", "flow_id": "f", "step_index": 2}),
        ),
        (
            json!({"kind": "external_event", "source_name": "cron", "event_type": "tick", "payload": {"body": "noon"}}),
            "external_event",
            json!({"type": "external", "source_name": "cron"}),
        ),
        (json!({"kind": "continuation", "reason": "go on"}), "continuation", json!({"type": "operator"})),
        (
            json!({"kind": "operation", "operation_id": operation, "event": "started"}),
            "operation",
            json!({"type": "operator"}),
        ),
    ] {
        let sent = rig.post("/v1/sessions/s/inputs", &body).await;
        assert_eq!(sent.status, 202, "{body}: {sent:?}");
        let seen = rig.get(sent.header("location")).await;
        assert_eq!((&seen.body["kind"], &seen.body["source"]), (&json!(kind), &source), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_well_formed_is_refused_with_its_place_and_stores_nothing() {
    let rig = Rig::start().await;
    rig.session("s").await;
    for (body, status, code, pointer) in [
        (json!({"text": "x"}), 422, "schema_violation", "/kind"),
        (json!({"kind": "poem", "text": "x"}), 422, "unknown_input_type", "/kind"),
        (json!({"kind": "prompt"}), 422, "schema_violation", "/text"),
        (
            json!({"kind": "prompt", "text": "x", "blocks": [{"type": "image", "media_type": "image/png", "source": {"source_type": 0, "data": ""}}]}),
            422,
            "schema_violation",
            "/blocks/0/source/source_type",
        ),
        (
            json!({"kind": "peer", "peer_id": "ada", "body": "hi", "convention": {"type": 0}}),
            422,
            "schema_violation",
            "/convention/type",
        ),
        (json!({"kind": "prompt", "text": 1}), 422, "schema_violation", "/text"),
        // S 15
        (json!({"kind": "prompt", "text": "x", "source": {"type": "system"}}), 422, "reserved_metadata", "/source"),
        (json!({"kind": "prompt", "text": "x", "tenant": "acme"}), 422, "reserved_metadata", "/tenant"),
        (json!({"kind": "continuation", "reason": "x", "notices": []}), 422, "reserved_metadata", "/notices"),
        (json!({"kind": "prompt", "text": "x", "durability": "derived"}), 422, "schema_violation", "/durability"),
        (json!({"kind": "prompt", "text": "x", "handling_mode": "fast"}), 422, "schema_violation", "/handling_mode"),
        (
            json!({"kind": "prompt", "text": "x", "turn_metadata": {"execution_kind": "content_turn"}}),
            422,
            "unknown_field",
            "/turn_metadata/execution_kind",
        ),
        (
            json!({"kind": "external_event", "source_name": "a\nb", "event_type": "x"}),
            422,
            "schema_violation",
            "/source_name",
        ),
        (
            json!({"kind": "prompt", "text": "x", "blocks": [{"type": "image", "media_type": "image/png", "source": {"source_type": "blob", "blob": "0".repeat(64), "bytes": 1}}]}),
            422,
            "blob_missing",
            "/blocks",
        ),
    ] {
        let refused = rig.post("/v1/sessions/s/inputs", &body).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{body}: {refused:?}");
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{body}: {refused:?}");
    }
    assert_eq!(rig.get("/v1/sessions/s/inputs").await.body["items"], json!([]));
    let entries = rig.get("/v1/sessions/s/journal").await.body["items"].clone();
    let names: Vec<_> = entries.as_array().unwrap().iter().map(|entry| &entry["type"]).collect();
    assert_eq!(names, ["session_created", "profile_set"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_created_by_its_first_input_if_that_is_asked_for() {
    let rig = Rig::start().await;
    let body = json!({"kind": "prompt", "text": "hello"});
    assert_eq!(rig.post("/v1/sessions/new/inputs", &body).await.code(), "not_found");
    let sent = rig.post("/v1/sessions/new/inputs?create=true&agent=builtin", &body).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    let seen = rig.get("/v1/sessions/new").await;
    assert_eq!((&seen.body["name"], &seen.body["agent"]), (&json!("new"), &json!("builtin")));
    assert_eq!(rig.post("/v1/sessions/new/inputs?create=true&agent=builtin", &body).await.status, 202);
    assert_eq!(rig.post("/v1/sessions/other/inputs?create=true&agent=nobody", &body).await.code(), "schema_violation");
    assert_eq!(rig.post("/v1/sessions/a%20b/inputs?create=true", &body).await.code(), "invalid_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_input_is_explained_waited_for_and_taken_back() {
    let rig = Rig::start().await;
    rig.session("s").await;
    rig.post("/v1/sessions/s/hold", &json!({})).await;
    let mut places = Vec::new();
    for n in 0..3 {
        let sent = rig.post("/v1/sessions/s/inputs", &json!({"kind": "prompt", "text": format!("{n}")})).await;
        assert_eq!((&sent.body["state"], &sent.body["ahead"]), (&json!("queued"), &json!(n)), "{sent:?}");
        places.push(sent.header("location").to_owned());
    }
    let why = rig.get(&format!("{}/explain", places[2])).await;
    assert_eq!((&why.body["cause"], &why.body["position"]), (&json!("held"), &json!(2)), "{why:?}");
    assert!(why.body["policy_row"].is_u64() && why.body["decision"]["deliver"] == "next_run", "{why:?}");
    let waited = rig.get(&format!("{}/wait?timeout=0", places[0])).await;
    assert_eq!((waited.status, &waited.body["state"]), (202, &json!("queued")), "{waited:?}");
    for _ in 0..2 {
        let back = rig.delete(&places[1]).await;
        assert_eq!((back.status, &back.body["state"]), (200, &json!("abandoned")), "{back:?}");
    }
    let open = rig.get("/v1/sessions/s/inputs?state=open").await;
    assert_eq!(open.body["items"].as_array().unwrap().len(), 2);
    let (path, nothing) = (format!("{}/wait?timeout=20", places[2]), json!({}));
    let (waited, released) = tokio::join!(rig.get(&path), rig.post("/v1/sessions/s/release", &nothing));
    assert_eq!((released.status, waited.status), (200, 200), "{waited:?}");
    assert_eq!(rig.delete(&places[2]).await.code(), "session_state_conflict");
    let done = rig.get("/v1/sessions/s/inputs?state=done&limit=2").await;
    assert_eq!(done.body["items"].as_array().unwrap().len(), 2);
    assert!(done.body["next_cursor"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_dead_letters_are_redriven_and_the_unknown_is_not_found() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let said = rig.say("s", "hello").await;
    let refused = rig.post(&format!("{}/redrive", said.header("location")), &json!({})).await;
    assert_eq!((refused.status, refused.code()), (409, "not_a_dead_letter"), "{refused:?}");
    let missing = uuid::Uuid::now_v7();
    for path in ["", "/wait?timeout=0", "/explain"] {
        let answer = rig.get(&format!("/v1/sessions/s/inputs/{missing}{path}")).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}: {answer:?}");
    }
    assert_eq!(rig.post(&format!("/v1/sessions/s/inputs/{missing}/redrive"), &json!({})).await.code(), "not_found");
    assert_eq!(rig.delete(&format!("/v1/sessions/s/inputs/{missing}")).await.code(), "not_found");
    assert_eq!(rig.get("/v1/sessions/s/inputs/7").await.code(), "invalid_id");
    assert_eq!(rig.get("/v1/sessions/s/runs/7").await.code(), "invalid_id");
    assert_eq!(rig.get(&format!("/v1/sessions/s/runs/{missing}")).await.code(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_may_be_named_only_by_who_may_speak_for_peers() {
    let mut rig = Rig::start().await;
    rig.session("s").await;
    let admin = rig.token("default", &["*"]).await;
    rig.server.show(Some(&admin));
    let narrow = rig.token("default", &["inputs:write"]).await;
    rig.server.show(Some(&narrow));
    let peer = json!({"kind": "peer", "peer_id": "ada", "body": "hi"});
    assert_eq!(rig.post("/v1/sessions/s/inputs", &peer).await.code(), "forbidden_scope");
    let create = rig.post("/v1/sessions/t/inputs?create=true", &json!({"kind": "prompt", "text": "x"})).await;
    assert_eq!(create.code(), "forbidden_scope", "{create:?}");
    assert_eq!(rig.post("/v1/sessions/s/inputs", &json!({"kind": "prompt", "text": "x"})).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_hears_its_first_answer_also_in_a_tenant_that_is_full() {
    let mut config = TestServer::config();
    config.limits.inputs_per_tenant = 1;
    let server = TestServer::with(TestServer::builder(config)).await;
    assert_eq!(server.post("/v1/sessions", &json!({"name": "s"})).await.status, 201);
    assert_eq!(server.post("/v1/sessions/s/hold", &json!(null)).await.status, 200);
    let send = async |key: &str| {
        let request = server.request(Method::POST, "/v1/sessions/s/inputs").header("idempotency-key", key);
        Answer::to(request.json(&json!({"kind": "prompt", "text": "hello"}))).await
    };
    let first = send("a").await;
    assert_eq!((first.status, &first.body["outcome"]), (202, &json!("accepted")), "{first:?}");
    let more = send("b").await;
    assert_eq!((more.status, more.code()), (429, "quota_exceeded"), "{more:?}");
    let again = send("a").await;
    assert_eq!((again.status, &again.body["outcome"]), (202, &json!("deduplicated")), "{again:?}");
    assert_eq!(again.body["id"], first.body["id"]);
}

// Whoever waited for the older one was not told which one had replaced it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_superseded_input_names_the_newer_one() {
    let rig = Rig::start().await;
    let newest = json!({"row": [{"decision": {"deliver": "next_run", "merge": "supersede"}}]});
    let request = rig.request(Method::PUT, "/v1/policies/newest").json(&newest);
    assert_eq!(Answer::to(request).await.status, 200);
    assert_eq!(rig.post("/v1/sessions", &json!({"name": "s", "policy": "newest"})).await.status, 201);
    assert_eq!(rig.post("/v1/sessions/s/hold", &json!({})).await.status, 200);
    let prompt = |text: &str| json!({"kind": "prompt", "text": text, "supersession_key": "status"});
    let older = rig.post("/v1/sessions/s/inputs", &prompt("older")).await.body["id"].clone();
    let path = format!("/v1/sessions/s/inputs/{}/wait?timeout=20", older.as_str().unwrap());
    let newer = async {
        let newer = prompt("newer");
        rig.post("/v1/sessions/s/inputs", &newer).await
    };
    let (waited, newer) = tokio::join!(rig.get(&path), newer);
    assert_eq!((waited.status, &waited.body["state"]), (200, &json!("superseded")), "{waited:?}");
    let result = json!({"status": "superseded", "by": newer.body["id"]});
    assert_eq!(waited.body["result"], result);
    assert_eq!(rig.get(&path).await.body["result"], result, "also afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_refused_leaves_no_session_behind() {
    let rig = Rig::start().await;
    let unknown = json!({"source_type": "blob", "blob": "0".repeat(64), "bytes": 1});
    let picture = json!({"type": "image", "media_type": "image/png", "source": unknown});
    let refused = json!({"kind": "prompt", "text": "look", "blocks": [picture]});
    let said = rig.post("/v1/sessions/new/inputs?create=true", &refused).await;
    assert_eq!((said.status, said.code()), (422, "blob_missing"), "{said:?}");
    assert_eq!(rig.get("/v1/sessions/new").await.status, 404, "nothing was made for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_write_hears_no_outcome() {
    let mut rig = Rig::start().await;
    rig.session("s").await;
    let token = async |rig: &Rig, scopes: &[&str]| {
        let made = rig.post("/v1/tokens", &json!({ "scopes": scopes })).await;
        made.body["token"].as_str().expect("a token").to_owned()
    };
    let root = token(&rig, &["*"]).await;
    rig.server.show(Some(&root));
    let writer = token(&rig, &["inputs:write"]).await;
    let reader = token(&rig, &["inputs:write", "sessions:read"]).await;
    for (token, status) in [(writer, 202), (reader, 200)] {
        rig.server.show(Some(&token));
        let said = rig.say("s", "hello").await;
        assert_eq!((said.status, said.body.get("result").is_some()), (status, status == 200), "{said:?}");
    }
}
