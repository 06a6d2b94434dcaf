//! Who is let in, and for what?

use http::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use windlass_core::Timestamp;
use windlass_runtime::{Clock, ManualClock, documents::Documents, memory::MemoryStore};
use windlass_server::{
    Code, Scope, Scopes,
    auth::{NewToken, Tokens},
    testing::{Answer, TestServer},
};

async fn token(server: &TestServer, wanted: Value) -> (String, String) {
    let made = server.post("/v1/tokens", &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    let text = |key: &str| made.body[key].as_str().expect("a text").to_owned();
    assert_eq!(made.header("location"), format!("/v1/tokens/{}", text("id")));
    (text("token"), text("id"))
}

#[tokio::test]
async fn a_local_caller_needs_no_token_until_there_is_one() {
    let mut server = TestServer::start().await;
    assert_eq!(server.get("/v1/tokens").await.status, 200);

    // A first token that could make no other would lock everybody out.
    let useless = server.post("/v1/tokens", &json!({"scopes": ["inputs:write"]})).await;
    assert_eq!((useless.status, useless.code()), (422, "schema_violation"));

    let (root, id) = token(&server, json!({"scopes": ["*"], "name": "root"})).await;
    let refused = server.get("/v1/tokens").await;
    assert_eq!((refused.status, refused.code()), (401, "unauthenticated"));
    assert_eq!(refused.header("www-authenticate"), "Bearer");

    server.show(Some(&root));
    let listed = server.get("/v1/tokens").await;
    assert_eq!(listed.body["items"][0]["id"], id);
    assert!(!listed.body.to_string().contains(root.rsplit('_').next().expect("the secret")), "a list shows no secret");
    // Revoking the last one does not open the door again.
    assert_eq!(server.delete(&format!("/v1/tokens/{id}")).await.status, 204);
    assert_eq!(server.get("/v1/tokens").await.code(), "token_revoked");
    server.show(None);
    assert_eq!(server.get("/v1/tokens").await.code(), "unauthenticated");
}

#[tokio::test]
async fn a_local_caller_needs_a_token_where_somebody_issues_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, r#"{"keys":[]}"#).expect("written");
    let mut config = TestServer::config();
    config.auth.jwt_issuer = Some("https://issuer.example".into());
    config.auth.jwt_audience = Some("windlass".into());
    config.auth.jwt_keys = Some(keys.display().to_string());
    let server = TestServer::with(TestServer::builder(config)).await;
    assert_eq!(server.get("/v1/sessions").await.code(), "unauthenticated");
}

#[tokio::test]
async fn the_server_tells_of_itself() {
    let server = TestServer::start().await;
    for path in ["/livez", "/readyz", "/version"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let metrics = server.get("/metrics").await;
    assert!(metrics.body.as_str().expect("text").contains("windlass_http_requests_total"), "{metrics:?}");
}

#[tokio::test]
async fn what_is_no_route_is_a_problem() {
    let server = TestServer::start().await;
    let missing = server.get("/v2/anything").await;
    assert_eq!((missing.status, missing.code()), (404, "not_found"));
    assert_eq!(missing.header("content-type"), "application/problem+json");
    assert_eq!(missing.body["request_id"], missing.header("x-request-id"));
    let wrong = Answer::to(server.request(Method::PUT, "/v1/tokens")).await;
    assert_eq!((wrong.status, wrong.code()), (405, "method_not_allowed"));
    assert_eq!(wrong.header("allow"), "POST,GET,HEAD");
}

/// A server with a root token, which is shown.
async fn with_root() -> TestServer {
    let mut server = TestServer::start().await;
    let (root, _) = token(&server, json!({"scopes": ["*"]})).await;
    server.show(Some(&root));
    server
}

#[tokio::test]
async fn a_token_that_is_none_is_told_so_and_no_more() {
    let mut server = with_root().await;
    let expired = server.server().state().tokens().create(NewToken {
        scopes: Scopes::all(),
        expires_at: Some(Timestamp::from_micros(1)),
        ..NewToken::default()
    });
    let (_, expired) = expired.await.unwrap();
    let expired = expired.expose_secret().to_owned();
    let (revoked, id) = token(&server, json!({"scopes": ["*"]})).await;
    assert_eq!(server.delete(&format!("/v1/tokens/{id}")).await.status, 204);
    assert_eq!(server.delete(&format!("/v1/tokens/{id}")).await.status, 204, "revoking is idempotent");
    let swap = |token: &str| {
        let (head, secret) = token.rsplit_once('_').unwrap();
        let other = if secret.starts_with('A') { "B" } else { "A" };
        format!("{head}_{other}{}", &secret[1..])
    };
    for (shown, code) in
        [(expired.clone(), "token_expired"), (revoked.clone(), "token_revoked"), (swap(&revoked), "unauthenticated")]
    {
        server.show(Some(&shown));
        let refused = server.get("/v1/tokens").await;
        assert_eq!((refused.status, refused.code()), (401, code), "{shown}");
    }
}

#[tokio::test]
async fn wrong_tokens_of_one_address_are_counted_and_a_good_one_is_let_in_all_the_same() {
    let mut server = with_root().await;
    let (good, _) = token(&server, json!({"scopes": ["*"]})).await;
    for text in [
        "",
        "wl_",
        "wl_aaaaaaaaaaaaaaaa_AAAA",
        "Basic eA==",
        "wl_aaaaaaaaaaaaaaaa_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        server.show(Some(text));
        let refused = server.get("/v1/tokens").await;
        assert!(["token_malformed", "unauthenticated"].contains(&refused.code()), "{text:?}: {refused:?}");
    }
    let limited = server.get("/v1/tokens").await;
    assert_eq!((limited.status, limited.code()), (429, "rate_limited"));
    assert!(limited.header("retry-after").parse::<u64>().is_ok_and(|wait| (1..=60).contains(&wait)), "{limited:?}");
    server.show(Some(&good));
    assert_eq!(server.get("/v1/tokens").await.status, 200);
}

#[tokio::test]
async fn every_route_asks_for_its_scope() {
    let mut server = with_root().await;
    let table = windlass_server::routes();
    let mut tokens = BTreeMap::new();
    for scope in Scope::ALL {
        let scopes: Vec<&str> = Scope::ALL.iter().filter(|other| *other != scope).map(|scope| scope.as_str()).collect();
        let new = NewToken { scopes: scopes.join(" ").parse().unwrap(), ..NewToken::default() };
        let (_, made) = server.server().state().tokens().create(new).await.unwrap();
        tokens.insert(*scope, made.expose_secret().to_owned());
    }
    for route in table.table().iter().filter(|route| route.scope != Scope::Public) {
        let path = route.path.replace(['{', '}'], "");
        server.show(Some(&tokens[&route.scope]));
        let refused = Answer::to(server.request(route.method.clone(), &path)).await;
        assert_eq!((refused.status, refused.code()), (403, "forbidden_scope"), "{route:?}");
        server.show(None);
        let refused = Answer::to(server.request(route.method.clone(), &path)).await;
        assert_eq!((refused.status, refused.code()), (401, "unauthenticated"), "{route:?}");
    }
}

#[tokio::test]
async fn nobody_gives_what_he_does_not_have_and_a_foreign_token_is_as_good_as_none() {
    let mut server = with_root().await;
    let (root, foreign) = token(&server, json!({"scopes": ["tokens:admin"], "tenant": "other"})).await;
    assert!(root.starts_with("wl_"));
    let (plain, own) = token(&server, json!({"scopes": ["tokens:admin", "inputs:write"]})).await;
    server.show(Some(&plain));
    for (wanted, status, code) in [
        (json!({"scopes": ["inputs:write"], "session_prefix": "app-1"}), 201, ""),
        (json!({"scopes": ["sessions:read"], "session_prefix": "app-1"}), 403, "forbidden_scope"),
        (json!({"scopes": ["*"]}), 403, "forbidden_scope"),
        (json!({"scopes": ["tokens:admin"], "session_prefix": "app-1"}), 422, "schema_violation"),
        (json!({"scopes": ["inputs:write"], "session_prefix": "app-1", "tenant": "other"}), 403, "forbidden_scope"),
        (json!({"scopes": []}), 422, "schema_violation"),
        (json!({"scopes": vec!["inputs:write"; 65]}), 422, "schema_violation"),
        (json!({"scopes": ["inputs:write tokens:admin"]}), 422, "schema_violation"),
    ] {
        let answer = server.post("/v1/tokens", &wanted).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{wanted}: {answer:?}");
    }
    let listed = server.get("/v1/tokens").await.body.to_string();
    assert!(listed.contains(&own) && !listed.contains(&foreign), "{listed}");
    let same = |mut answer: Answer| {
        answer.body["request_id"] = Value::Null;
        (answer.status, answer.body)
    };
    let (theirs, missing) = (
        same(server.delete(&format!("/v1/tokens/{foreign}")).await),
        same(server.delete("/v1/tokens/aaaaaaaaaaaaaaaa").await),
    );
    assert_eq!(theirs, missing);
    assert_eq!(theirs.0, 404);
}

// A token of a few sessions listed and revoked every token of its tenant, and changed its policies.
#[tokio::test]
async fn a_token_that_is_bound_to_a_prefix_administers_nothing() {
    let server = with_root().await;
    for scope in ["tokens:admin", "executors:admin", "peers:admin", "tenant:admin", "*"] {
        let refused = server.post("/v1/tokens", &json!({"scopes": [scope], "session_prefix": "app-"})).await;
        assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (422, &json!("/scopes")), "{refused:?}");
    }
    // Nor one that was kept before that was refused.
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(1)));
    let tokens = || Tokens::load(Arc::clone(&store) as Arc<dyn Documents>, Arc::clone(&clock) as Arc<dyn Clock>);
    let (row, secret) =
        tokens().await.unwrap().create(NewToken { scopes: Scopes::all(), ..NewToken::default() }).await.unwrap();
    let kept = store.get("token", &row.id.to_string()).await.unwrap().unwrap();
    let mut body = kept.body;
    body["prefix"] = json!("app-");
    store.put("token", &row.id.to_string(), body, None).await.unwrap();
    let principal = tokens().await.unwrap().authenticate(secret.expose_secret()).unwrap();
    assert!(principal.may(Scope::InputsWrite).is_ok());
    assert_eq!(principal.may(Scope::TokensAdmin).unwrap_err().code(), Code::ForbiddenScope);
}

#[tokio::test]
async fn a_token_may_call_only_so_often_and_lists_come_in_pages() {
    let server = with_root().await;
    for _ in 0..3 {
        token(&server, json!({"scopes": ["inputs:write"]})).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/tokens?limit=2".to_owned());
    loop {
        let page = server.get(&path).await;
        seen.extend(page.body["items"].as_array().expect("items").iter().map(|item| item["id"].to_string()));
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/tokens?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), 4);

    let mut limited = 0;
    for _ in 0..40 {
        let answer = server.get("/v1/tokens").await;
        if answer.status == 429 {
            assert_eq!(answer.code(), "rate_limited");
            assert_eq!(answer.header("retry-after"), "1");
            limited += 1;
        }
    }
    assert!(limited > 0, "administration has a rate of twenty a second");
}

#[tokio::test]
async fn tokens_outlive_the_server_and_their_use_is_noted() {
    let store = Arc::new(MemoryStore::new());
    let load = || {
        Tokens::load(
            Arc::clone(&store) as _,
            Arc::new(ManualClock::starting_at(Timestamp::from_micros(1_700_000_000_000_000))),
        )
    };
    let tokens = load().await.unwrap();
    let (row, text) = tokens.create(NewToken { scopes: Scopes::all(), ..NewToken::default() }).await.unwrap();
    assert!(row.last_used_at.is_none());
    tokens.authenticate(text.expose_secret()).unwrap();
    assert_eq!(tokens.note_uses().await.unwrap(), 1);
    assert_eq!(tokens.note_uses().await.unwrap(), 0, "not for every use");
    let again = load().await.unwrap();
    again.authenticate(text.expose_secret()).unwrap();
    assert!(again.get(&row.id).unwrap().last_used_at.is_some());
    assert!(!format!("{tokens:?} {text:?}").contains(text.expose_secret()), "secrets are not printed");
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_prefix_writes_to_no_other_session_by_its_id_either() {
    let mut server = TestServer::start().await;
    let id = async |server: &TestServer, settings: Value| {
        let made = server.post("/v1/sessions", &settings).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["id"].as_str().expect("an id").to_owned()
    };
    let unnamed = id(&server, json!({})).await;
    let other = id(&server, json!({"name": "other"})).await;
    // Ids are texts of hex digits too, and each of these begins like one.
    let prefixes = [&unnamed[..1], &other[..1]];
    let (root, _) = token(&server, json!({"scopes": ["*"]})).await;
    server.show(Some(&root));
    for (prefix, to) in prefixes.into_iter().zip([&unnamed, &other]) {
        let own = format!("{prefix}-own");
        let beside = id(&server, json!({"name": format!("{prefix}-beside")})).await;
        id(&server, json!({"name": own})).await;
        let (bound, _) = token(&server, json!({"scopes": ["peers:send"], "session_prefix": prefix})).await;
        server.show(Some(&bound));
        let messages = format!("/v1/sessions/{own}/peers/messages");
        let foreign = server.post(&messages, &json!({"to": to, "body": "hello"})).await;
        assert_eq!(foreign.code(), "peer_unknown", "{foreign:?}");
        let allowed = server.post(&messages, &json!({"to": beside, "body": "hello"})).await;
        assert_eq!(allowed.status, 202, "{allowed:?}");
        server.show(Some(&root));
    }
}
