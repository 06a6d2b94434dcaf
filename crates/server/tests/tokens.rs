//! Who is let in, and for what?

use http::Method;
use serde_json::{Value, json};
use windlass_server::testing::{Answer, TestServer};

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
