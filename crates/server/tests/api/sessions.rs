//! Making, finding, changing, controlling and forgetting sessions.

use crate::Rig;
use http::Method;
use serde_json::json;
use windlass_server::testing::Answer;

#[tokio::test(flavor = "multi_thread")]
async fn creating_twice_is_creating_once_and_other_settings_are_a_conflict() {
    let rig = Rig::start().await;
    let wanted = json!({"name": "chat", "agent": "builtin", "labels": {"team": "a"}, "silent_intents": ["ping"]});
    let created = rig.post("/v1/sessions", &wanted).await;
    assert_eq!(created.status, 201, "{created:?}");
    let id = created.body["id"].as_str().unwrap();
    assert_eq!(id, windlass_api::session_id(None, "chat").to_string());
    assert_eq!(created.header("location"), format!("/v1/sessions/{id}"));
    let again = rig.post("/v1/sessions", &wanted).await;
    assert_eq!((again.status, &again.body["id"]), (200, &created.body["id"]), "{again:?}");
    for other in [json!({"name": "chat"}), json!({"id": id, "agent": "builtin"})] {
        let refused = rig.post("/v1/sessions", &other).await;
        assert_eq!((refused.status, refused.code()), (409, "settings_conflict"), "{other}");
    }
    for by in ["chat", id] {
        let found = rig.get(&format!("/v1/sessions/{by}")).await;
        assert_eq!((found.status, &found.body["labels"]), (200, &json!({"team": "a"})), "{found:?}");
        assert_eq!(found.body["silent_intents"], json!(["ping"]));
        assert!(found.body["created_at"].as_str().unwrap().ends_with('Z'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_the_id_of_a_name_that_somebody_else_may_want() {
    let mut rig = Rig::start().await;
    let ours = rig.token("default", &["*"]).await;
    rig.server.show(Some(&ours));
    let other = rig.token("acme", &["*"]).await;
    rig.server.show(Some(&other));
    let id = windlass_api::session_id(None, "chat");
    let taken = rig.post("/v1/sessions", &json!({ "id": id })).await;
    assert_eq!((taken.status, taken.code()), (409, "settings_conflict"), "{taken:?}");
    let prompt = json!({"kind": "prompt", "text": "hello"});
    let taken = rig.post(&format!("/v1/sessions/{id}/inputs?create=true"), &prompt).await;
    assert_eq!((taken.status, taken.code()), (409, "settings_conflict"), "{taken:?}");
    rig.server.show(Some(&ours));
    assert_eq!(rig.session("chat").await, id.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_deleted_is_made_anew() {
    let rig = Rig::start().await;
    let id = rig.session("chat").await;
    assert_eq!(rig.post("/v1/sessions/chat/destroy", &json!(null)).await.status, 200);
    // As by a request whose client goes away before its answer.
    rig.server.server().state().adapter().delete_session(id.parse().unwrap()).await.unwrap();
    assert_eq!(rig.session("chat").await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_revives_nothing() {
    let rig = Rig::start().await;
    rig.session("chat").await;
    assert_eq!(rig.post("/v1/sessions/chat/stop", &json!(null)).await.status, 200);
    let refused = rig.post("/v1/sessions", &json!({"name": "chat", "keep_alive": true})).await;
    assert_eq!((refused.status, refused.code()), (409, "settings_conflict"), "{refused:?}");
    assert_eq!(rig.get("/v1/sessions/chat").await.body["gate"], "stopped");
    let revived = rig.post("/v1/sessions", &json!({"name": "chat"})).await;
    assert_eq!((revived.status, &revived.body["gate"]), (200, &json!("open")), "{revived:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_cannot_be_is_refused_with_its_place_and_leaves_nothing() {
    let rig = Rig::start().await;
    let many: serde_json::Map<_, _> = (0..65).map(|n| (format!("l{n}"), json!("v"))).collect();
    for (body, status, code, pointer) in [
        (json!({"nam": "x"}), 422, "unknown_field", "/nam"),
        (json!({"name": "a b"}), 422, "schema_violation", "/name"),
        (json!({"name": 7}), 422, "schema_violation", "/name"),
        (json!({"name": "x", "id": uuid::Uuid::now_v7()}), 422, "schema_violation", "/id"),
        (json!({"agent": "nobody"}), 422, "schema_violation", "/agent"),
        (json!({"policy": "none"}), 422, "schema_violation", "/policy"),
        (json!({"policy": "any/default"}), 422, "schema_violation", "/policy"),
        (json!({"labels": {"k": "v".repeat(65)}}), 422, "schema_violation", "/labels/k"),
        (json!({"labels": many}), 422, "schema_violation", "/labels"),
        (json!({"silent_intents": [""]}), 422, "schema_violation", "/silent_intents/0"),
        (json!([]), 422, "schema_violation", ""),
    ] {
        let refused = rig.post("/v1/sessions", &body).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{body}: {refused:?}");
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{body}: {refused:?}");
    }
    assert_eq!(rig.get("/v1/sessions").await.body["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged_and_their_cursors_fit_no_other_list() {
    let rig = Rig::start().await;
    for n in 0..5 {
        let labels = json!({"team": if n % 2 == 0 { "even" } else { "odd" }});
        let made = rig.post("/v1/sessions", &json!({"name": format!("s{n}"), "labels": labels})).await;
        assert_eq!(made.status, 201);
    }
    rig.post("/v1/sessions/s4/retire", &json!(null)).await;
    for (filter, count) in [
        ("", 5),
        ("&label=team:even", 3),
        ("&label=team:even&label=team:odd", 0),
        ("&name=s1", 1),
        ("&state=retired", 1),
        ("&agent=nobody", 0),
    ] {
        let (mut seen, mut cursor) = (std::collections::BTreeSet::new(), String::new());
        loop {
            let page = rig.get(&format!("/v1/sessions?limit=2{filter}{cursor}")).await;
            assert_eq!(page.status, 200, "{page:?}");
            seen.extend(page.body["items"].as_array().unwrap().iter().map(|item| item["id"].to_string()));
            let Some(next) = page.body["next_cursor"].as_str() else { break };
            let other = rig.get(&format!("/v1/sessions?name=zzz&cursor={next}")).await;
            assert_eq!((other.status, other.code()), (400, "invalid_cursor"), "{filter}");
            let other = rig.get(&format!("/v1/sessions/s1/inputs?cursor={next}")).await;
            assert_eq!(other.code(), "invalid_cursor");
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen.len(), count, "{filter}");
    }
    for (query, code) in [
        ("limit=0", "schema_violation"),
        ("limit=501", "schema_violation"),
        ("label=x", "schema_violation"),
        (&["label=a:b"; 65].join("&"), "schema_violation"),
        ("colour=red", "unknown_field"),
    ] {
        let refused = rig.get(&format!("/v1/sessions?{query}")).await;
        assert_eq!((refused.status, refused.code()), (422, code), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_absent_from_a_change_stays() {
    let rig = Rig::start().await;
    rig.post("/v1/sessions", &json!({"name": "s", "labels": {"a": "1"}, "keep_alive": true})).await;
    let changed = rig.patch("/v1/sessions/s", &json!({"labels": {"b": "2"}})).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!((&changed.body["labels"], &changed.body["keep_alive"]), (&json!({"b": "2"}), &json!(true)));
    let changed = rig.patch("/v1/sessions/s", &json!({"silent_intents": ["z", "a", "z"], "keep_alive": false})).await;
    assert_eq!((&changed.body["silent_intents"], &changed.body["keep_alive"]), (&json!(["a", "z"]), &json!(false)));
    assert_eq!(rig.patch("/v1/sessions/s", &json!({"name": "t"})).await.code(), "unknown_field");
    assert_eq!(rig.patch("/v1/sessions/s", &json!({"policy": "none"})).await.code(), "schema_violation");
    assert_eq!(rig.patch("/v1/sessions/nobody", &json!({})).await.status, 404);
}

/// A PATCH read what was there, and wrote all of it with its change: of two at once, one was undone by the other.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_at_once_none_undoes_the_other() {
    let rig = Rig::start().await;
    rig.session("s").await;
    for round in 0..20 {
        let labels = json!({"round": round.to_string()});
        let (one, other, third) = (
            json!({ "labels": labels }),
            json!({"keep_alive": round % 2 == 0}),
            json!({"silent_intents": [format!("intent {round}")]}),
        );
        let answers = tokio::join!(
            rig.patch("/v1/sessions/s", &one),
            rig.patch("/v1/sessions/s", &other),
            rig.patch("/v1/sessions/s", &third)
        );
        assert_eq!((answers.0.status, answers.1.status, answers.2.status), (200, 200, 200));
        let now = rig.get("/v1/sessions/s").await.body;
        assert_eq!((&now["labels"], &now["keep_alive"]), (&labels, &other["keep_alive"]), "round {round}");
        assert_eq!(now["silent_intents"], third["silent_intents"], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_meant_for_what_was_read_comes_too_late_or_is_made() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let read = rig.get("/v1/sessions/s").await.header("etag").to_owned();
    rig.say("s", "hello").await;
    assert_eq!(rig.get("/v1/sessions/s").await.header("etag"), read, "what it does changes nothing of what it is told");
    let whole = Answer::to(rig.request(Method::GET, "/v1/sessions/s").header("if-none-match", &read)).await;
    assert_eq!(
        (whole.status, whole.header("cache-control")),
        (200, "no-store"),
        "it has done something since: {whole:?}"
    );
    let change = async |tags: &str, labels: &str| {
        let request = rig.request(Method::PATCH, "/v1/sessions/s").header("if-match", tags);
        Answer::to(request.json(&json!({"labels": {"is": labels}}))).await
    };
    let made = change(&read, "one").await;
    assert_eq!((made.status, &made.body["labels"]["is"]), (200, &json!("one")), "{made:?}");
    let tag = made.header("etag").to_owned();
    assert_ne!(tag, read);
    for stale in [read.as_str(), "\"\"", "nonsense", &format!("W/{tag}")] {
        let late = change(stale, "two").await;
        assert_eq!((late.status, late.code()), (412, "precondition_failed"), "{stale}: {late:?}");
    }
    assert_eq!(rig.get("/v1/sessions/s").await.body["labels"]["is"], "one");
    for (tags, labels) in [(format!("\"other\", {tag}"), "two"), ("*".to_owned(), "three")] {
        assert_eq!(change(&tags, labels).await.body["labels"]["is"], labels);
    }
    // Nothing can be changed of a session that is over, and nothing to change is no change.
    rig.post("/v1/sessions/s/destroy", &json!({})).await;
    for (body, status) in [(json!({"labels": {}}), 409), (json!({}), 200)] {
        let answer = Answer::to(rig.request(Method::PATCH, "/v1/sessions/s").json(&body)).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_report_and_refusals_are_conflicts() {
    let rig = Rig::start().await;
    rig.session("s").await;
    for (verb, body, status, state) in [
        ("hold", json!(null), 200, "attached"),
        ("hold", json!(null), 200, "attached"),
        ("release", json!(null), 200, "attached"),
        ("recycle", json!(null), 200, "attached"),
        ("recover", json!(null), 200, "attached"),
        ("reset", json!({"force": true}), 200, "attached"),
        ("retire", json!(null), 200, "retired"),
        ("hold", json!(null), 409, ""),
        ("stop", json!(null), 200, "stopped"),
        ("reset", json!({}), 409, ""),
    ] {
        let path = format!("/v1/sessions/s/{verb}");
        let done = if body.is_null() {
            windlass_server::testing::Answer::to(rig.request(http::Method::POST, &path)).await
        } else {
            rig.post(&path, &body).await
        };
        assert_eq!(done.status, status, "{verb}: {done:?}");
        match status {
            200 => {
                assert_eq!((&done.body["state"], &done.body["inputs_abandoned"]), (&json!(state), &json!(0)), "{verb}");
            }
            _ => assert_eq!(done.code(), "session_state_conflict", "{verb}"),
        }
    }
    let revived = rig.post("/v1/sessions", &json!({"name": "s"})).await;
    assert_eq!((revived.status, &revived.body["gate"]), (200, &json!("open")), "{revived:?}");
    assert_eq!(rig.delete("/v1/sessions/s").await.code(), "session_state_conflict");
    assert_eq!(rig.post("/v1/sessions/s/destroy", &json!({})).await.status, 200);
    assert_eq!(rig.delete("/v1/sessions/s").await.status, 204);
    assert_eq!(rig.delete("/v1/sessions/s").await.code(), "not_found");
    let anew = rig.post("/v1/sessions", &json!({"name": "s"})).await;
    assert_eq!(anew.status, 201, "{anew:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_says_what_it_found() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let idle = rig.post("/v1/sessions/s/interrupt", &json!({"reason": "stop it"})).await;
    assert_eq!((idle.status, &idle.body["outcome"]), (200, &json!("no_such_run")), "{idle:?}");
    let said = rig.say("s", "hello").await;
    let run = &said.body["result"]["run"];
    let late = rig.post("/v1/sessions/s/interrupt", &json!({"run": run})).await;
    assert_eq!((&late.body["outcome"], &late.body["run"]), (&json!("too_late"), run), "{late:?}");
    assert_eq!(rig.post("/v1/sessions/s/interrupt", &json!({"run": "x"})).await.code(), "schema_violation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_another_tenant_is_answered_like_one_that_is_not_there() {
    let mut rig = Rig::start().await;
    let admin = rig.token("default", &["*"]).await;
    rig.server.show(Some(&admin));
    let ours = rig.session("ours").await;
    let said = rig.say("ours", "hello").await;
    let (input, run) = (said.body["id"].as_str().unwrap(), said.body["result"]["run"].as_str().unwrap());
    let theirs = rig.token("acme", &["*"]).await;
    rig.server.show(Some(&theirs));
    let missing = uuid::Uuid::now_v7().to_string();
    let (post, get, delete) = (http::Method::POST, http::Method::GET, http::Method::DELETE);
    for (method, path) in [
        (&get, ""),
        (&delete, ""),
        (&get, "/inputs"),
        (&get, "/inputs/{input}"),
        (&get, "/inputs/{input}/wait"),
        (&get, "/inputs/{input}/explain"),
        (&delete, "/inputs/{input}"),
        (&post, "/inputs/{input}/redrive"),
        (&post, "/stop"),
        (&post, "/interrupt"),
        (&get, "/runs"),
        (&get, "/runs/{run}"),
        (&get, "/runs/{run}/receipts/0"),
        (&get, "/transcript"),
        (&get, "/journal"),
        (&get, "/operations"),
        (&get, "/peers"),
        (&get, "/events"),
    ] {
        let path = path.replace("{input}", input).replace("{run}", run);
        let mut answers = Vec::new();
        for session in [&ours, &missing] {
            let request = rig.request(method.clone(), &format!("/v1/sessions/{session}{path}"));
            let answer = windlass_server::testing::Answer::to(request.header("x-request-id", "the-same")).await;
            answers.push((answer.status, answer.body));
        }
        assert_eq!(answers[0], answers[1], "{method} {path}");
        assert_eq!(answers[0].0, 404, "{method} {path}");
    }
    let named = rig.get("/v1/sessions/ours").await;
    assert_eq!(named.status, 404, "a name is a tenant's own: {named:?}");
    assert_eq!(rig.get("/v1/sessions").await.body["items"], json!([]));
    assert_eq!(rig.get("/v1/dead-letters").await.body["items"], json!([]));
    let taken = rig.post("/v1/sessions", &json!({"id": ours})).await;
    assert_eq!(taken.code(), "settings_conflict", "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_session_is_made_as_a_whole_or_refused_as_a_whole() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let many: Vec<_> = (0..257).map(|n| format!("intent {n}")).collect();
    let refused = rig.patch("/v1/sessions/s", &json!({"labels": {"stage": "two"}, "silent_intents": many})).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    let repeated = rig.patch("/v1/sessions/s", &json!({"silent_intents": vec!["ping"; 257]})).await;
    assert_eq!((repeated.status, &repeated.body["errors"][0]["pointer"]), (422, &json!("/silent_intents")));
    let session = rig.get("/v1/sessions/s").await;
    assert_eq!((&session.body["labels"], &session.body["silent_intents"]), (&json!({}), &json!([])));
    let before = rig.store.stats().appends;
    let good = json!({"labels": {"stage": "two"}, "silent_intents": ["ping"]});
    let changed = rig.patch("/v1/sessions/s", &good).await;
    assert_eq!((&changed.body["labels"], &changed.body["silent_intents"]), (&good["labels"], &good["silent_intents"]));
    assert_eq!(rig.store.stats().appends, before + 1);
}
