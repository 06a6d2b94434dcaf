//! What does the server say to a body that is not what it takes?

use http::Method;
use serde_json::Value;
use windlass_server::testing::{Answer, TestServer};

async fn send(server: &TestServer, media: &str, body: Vec<u8>) -> Answer {
    Answer::to(server.request(Method::POST, "/v1/tokens").header("content-type", media).body(body)).await
}

#[tokio::test]
async fn a_bad_body_has_a_code_and_a_place_and_leaves_nothing() {
    let server = TestServer::start().await;
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let bottomless = "[".repeat(100_000);
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(512 * 1024 + 1));
    let wide = format!(r#"{{"scopes":[{}]}}"#, vec!["1"; 10_001].join(","));
    let keys = format!("{{{}}}", (0..257).map(|i| format!(r#""k{i}":1"#)).collect::<Vec<_>>().join(","));
    let keyed = format!(r#"{{"{}":1}}"#, "k".repeat(512 * 1024 + 1));
    let table: Vec<(&[u8], u16, &str, Option<&str>)> = vec![
        (b"", 400, "invalid_json", None),
        (b"{", 400, "invalid_json", None),
        (b"{} {}", 400, "invalid_json", None),
        (b"{\"scopes\": [\"*\"],}", 400, "invalid_json", None),
        (b"\xef\xbb\xbf{}", 400, "invalid_json", None),
        (b"{\"scopes\": 1e999}", 400, "invalid_json", None),
        (b"{\"scopes\": NaN}", 400, "invalid_json", None),
        (b"{\"name\": \"\\ud800\"}", 400, "invalid_json", None),
        (b"{\"name\": \"\xff\"}", 400, "invalid_utf8", None),
        (deep.as_bytes(), 400, "json_too_deep", None),
        (bottomless.as_bytes(), 400, "json_too_deep", None),
        (b"{\"scopes\": [], \"scopes\": []}", 400, "duplicate_key", Some("/scopes")),
        (b"{\"a\": {\"b/c\": 1, \"b/c\": 2}}", 400, "duplicate_key", Some("/a/b~1c")),
        (b"{\"scopes\": [\"*\"], \"admin\": true}", 422, "unknown_field", Some("/admin")),
        (b"{\"scopes\": [\"*\"], \"a/b~\": true}", 422, "unknown_field", Some("/a~1b~0")),
        (b"{}", 422, "schema_violation", Some("/scopes")),
        (b"[]", 422, "schema_violation", None),
        (b"null", 422, "schema_violation", None),
        (b"{\"scopes\": \"*\"}", 422, "schema_violation", Some("/scopes")),
        (b"{\"scopes\": [\"*\", 1]}", 422, "schema_violation", Some("/scopes/1")),
        (b"{\"scopes\": [\"nothing:write\"]}", 422, "schema_violation", Some("/scopes")),
        (b"{\"scopes\": [\"*\"], \"expires_in\": -1}", 422, "schema_violation", Some("/expires_in")),
        (b"{\"scopes\": [\"*\"], \"expires_in\": 0}", 422, "schema_violation", Some("/expires_in")),
        (b"{\"scopes\": [\"*\"], \"expires_in\": 99999999999999999999}", 422, "schema_violation", Some("/expires_in")),
        (b"{\"scopes\": [\"*\"], \"tenant\": \"../x\"}", 422, "schema_violation", Some("/tenant")),
        (long.as_bytes(), 422, "schema_violation", Some("/name")),
        (wide.as_bytes(), 422, "schema_violation", Some("/scopes")),
        (keys.as_bytes(), 422, "schema_violation", None),
        (keyed.as_bytes(), 422, "schema_violation", None),
    ];
    for (body, status, code, pointer) in table {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = send(&server, "application/json", body.to_vec()).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{shown}: {answer:?}");
        if let Some(pointer) = pointer {
            assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{shown}: {answer:?}");
        }
        assert!(answer.body.to_string().len() < 2_000, "an error quotes nothing long");
    }
    assert_eq!(server.get("/v1/tokens").await.body["items"], Value::Array(Vec::new()), "nothing was stored");
}

#[tokio::test]
async fn only_json_in_utf_8_is_json() {
    let server = TestServer::start().await;
    for (media, status) in [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=latin1", 415),
        ("application/jsonp", 415),
        ("application/json", 422),
        ("Application/JSON; charset=\"UTF-8\"", 422),
    ] {
        let answer = send(&server, media, b"{}".to_vec()).await;
        assert_eq!(answer.status, status, "{media}: {answer:?}");
    }
    let none = Answer::to(server.request(Method::POST, "/v1/tokens").body("{}")).await;
    assert_eq!((none.status, none.code()), (415, "unsupported_media_type"));
}

#[tokio::test]
async fn a_query_is_read_by_the_letter_too() {
    let server = TestServer::start().await;
    for (query, status, code, pointer) in [
        ("", 200, "", ""),
        ("limit=1", 200, "", ""),
        ("limit=0", 422, "schema_violation", ""),
        ("limit=501", 422, "schema_violation", ""),
        ("limit=x", 422, "schema_violation", "/limit"),
        ("limit=1&limit=2", 422, "schema_violation", "/limit"),
        ("limits=1", 422, "unknown_field", "/limits"),
        ("cursor=%00", 400, "invalid_cursor", ""),
        ("cursor=..%2F..", 400, "invalid_cursor", ""),
    ] {
        let answer = server.get(&format!("/v1/tokens?{query}")).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{query}: {answer:?}");
        if !pointer.is_empty() {
            assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{query}: {answer:?}");
        }
    }
    let long = server.delete("/v1/tokens/not-an-id").await;
    assert_eq!((long.status, long.code()), (400, "invalid_id"));
}
