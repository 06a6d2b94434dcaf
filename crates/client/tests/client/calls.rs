//! Which calls are repeated, with what, and what do errors mean?

use crate::script::{Act, header, json, play, problem, with_headers};
use std::time::{Duration, Instant};
use windlass_client::{
    Client, ClientError, Paging, SendInput, SessionFilter,
    api::{Interrupt, UpdateSession, Verb},
};

const SESSION: &str = r#"{"id":"0190b8a0-1111-7222-8333-444455556666","labels":{},"state":"idle","gate":"open",
    "held":false,"open_inputs":0,"pending":false,"head":1,"created_at":"2026-11-22T10:00:00Z",
    "updated_at":"2026-11-22T10:00:00Z"}"#;
const ACCEPTED: &str = r#"{"id":"0190b8a0-1111-7222-8333-444455556667","session":"0190b8a0-1111-7222-8333-444455556666",
    "outcome":"accepted","state":"queued","durable":true}"#;
const REPORT: &str = r#"{"state":"idle","inputs_abandoned":0,"inputs_pending_drain":0,"inputs_transferred":0}"#;

fn client(url: &str) -> Client {
    Client::builder(url).build().expect("a URL")
}

#[tokio::test]
async fn a_read_is_repeated_until_it_is_answered() {
    let (url, requests) = play(vec![Act::HangUp, problem(503, "store_unavailable", true), json(200, SESSION)]).await;
    let session = client(&url).session("demo").await.expect("an answer in the end");
    assert_eq!(session.head, 1);
    let requests = requests.await.expect("three requests");
    assert!(requests.iter().all(|request| request.starts_with("GET /v1/sessions/demo HTTP/1.1")), "{requests:?}");
}

#[tokio::test]
async fn an_input_is_repeated_with_the_same_key() {
    let (url, requests) = play(vec![Act::HangUp, json(202, ACCEPTED)]).await;
    client(&url).send("demo", &SendInput::prompt("hello")).await.expect("an answer in the end");
    let requests = requests.await.expect("two requests");
    let keys: Vec<_> = requests.iter().map(|request| header(request, "idempotency-key")).collect();
    assert!(keys[0].is_some_and(|key| key.len() == 36) && keys[0] == keys[1], "{keys:?}");
    assert!(requests[1].ends_with(r#"{"kind":"prompt","text":"hello","durability":"durable"}"#), "{requests:?}");

    let (url, requests) = play(vec![json(202, ACCEPTED)]).await;
    let input = SendInput::prompt("now").steer().key("k1").create(Some("ada".into()));
    client(&url).send("a b/c", &input).await.expect("an answer");
    let request = requests.await.expect("a request").remove(0);
    assert!(request.starts_with("POST /v1/sessions/a%20b%2Fc/inputs?create=true&agent=ada HTTP/1.1"), "{request}");
    assert_eq!(header(&request, "idempotency-key"), Some("k1"));
    assert!(request.contains(r#""handling_mode":"steer""#), "{request}");
}

#[tokio::test]
async fn what_may_do_harm_twice_is_not_repeated_once_it_was_sent() {
    let (url, requests) = play(vec![Act::HangUp]).await;
    let error = client(&url).interrupt("demo", &Interrupt::default()).await.expect_err("nobody answers");
    assert!(matches!(error, ClientError::Unreachable { sent: true, .. }), "{error:?}");
    assert_eq!(requests.await.expect("one request").len(), 1);

    let (url, requests) = play(vec![problem(503, "commit_outcome_unknown", true)]).await;
    let error = client(&url).control("demo", Verb::Hold).await.expect_err("a problem");
    assert_eq!((error.code(), error.exit_code(), error.is_transient()), ("commit_outcome_unknown", 8, true));
    assert_eq!(requests.await.expect("one request").len(), 1);

    let (url, _requests) = play(vec![json(200, REPORT)]).await;
    client(&url).control("demo", Verb::Hold).await.expect("a report");
}

#[tokio::test]
async fn nobody_there_is_unreachable_soon_and_nothing_was_sent() {
    let (url, requests) = play(vec![]).await;
    requests.await.expect("nobody listens any more");
    let begun = Instant::now();
    let error = client(&url).send("demo", &SendInput::prompt("hello")).await.expect_err("nobody is there");
    assert!(matches!(error, ClientError::Unreachable { sent: false, .. }), "{error:?}");
    assert_eq!((error.code(), error.exit_code()), ("unreachable", 8));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());

    let at_once = Client::builder(&url).retry_for(Duration::ZERO).build().expect("a URL");
    let waited = at_once.send_and_wait("demo", &SendInput::prompt("hello"), Duration::from_secs(60)).await;
    assert_eq!(waited.expect_err("nobody is there").exit_code(), 8);
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it_or_is_left_alone() {
    let busy = |seconds: &str| {
        let body = r#"{"type":"t","title":"T","status":429,"code":"rate_limited","retryable":true}"#;
        with_headers(429, &format!("retry-after: {seconds}\r\n"), body)
    };
    let (url, _requests) = play(vec![busy("1"), json(200, SESSION)]).await;
    let begun = Instant::now();
    client(&url).session("demo").await.expect("an answer in the end");
    assert!(begun.elapsed() >= Duration::from_secs(1));

    let (url, _requests) = play(vec![busy("60")]).await;
    let error = client(&url).session("demo").await.expect_err("longer than we repeat");
    assert!(
        matches!(&error, ClientError::Problem { retry_after: Some(time), .. } if time.as_secs() == 60),
        "{error:?}"
    );
    assert_eq!(error.exit_code(), 6);
}

#[tokio::test]
async fn problems_have_the_exit_codes_of_the_command_line() {
    for (status, code, exit) in [
        (401, "unauthenticated", 4),
        (403, "forbidden_scope", 4),
        (404, "not_found", 3),
        (410, "gone", 3),
        (409, "session_state_conflict", 5),
        (412, "precondition_failed", 5),
        (422, "idempotency_key_reused", 5),
        (409, "rejected_by_policy", 6),
        (422, "schema_violation", 6),
        (413, "payload_too_large", 6),
        (429, "queue_full", 6),
        (500, "internal", 1),
        (507, "storage_full", 1),
        (503, "draining", 8),
    ] {
        let (url, _requests) = play(vec![problem(status, code, false)]).await;
        let error = client(&url).session("demo").await.expect_err("a problem");
        assert_eq!((error.code(), error.exit_code()), (code, exit), "{error:?}");
        assert_eq!(error.to_string(), format!("{code}: d"));
    }
    for page in ["<html>hello</html>", "{}"] {
        let (url, _requests) = play(vec![json(404, page)]).await;
        let error = client(&url).session("demo").await.expect_err("no answer of ours");
        assert_eq!((error.code(), error.exit_code()), ("not_windlass", 8), "{error:?}");
    }
}

#[tokio::test]
async fn a_problem_says_which_fields_are_wrong() {
    let body = r#"{"type":"t","title":"T","status":422,"code":"unknown_field","detail":"two fields are wrong",
        "errors":[{"pointer":"/txet","detail":"no such field"},{"parameter":"limit","detail":"not a number"}]}"#;
    let (url, _requests) = play(vec![json(422, body)]).await;
    let error = client(&url).session("demo").await.expect_err("a problem");
    let text = "unknown_field: two fields are wrong\n  at /txet: no such field\n  at limit: not a number";
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn a_token_is_sent_and_never_shown() {
    let (url, requests) = play(vec![json(200, r#"{"items":[]}"#)]).await;
    let client = Client::builder(&url).token("wl_secret".into()).build().expect("a URL");
    assert!(!format!("{client:?}").contains("wl_secret"));
    let filter = SessionFilter {
        labels: vec![("team".into(), "a&b".into())],
        state: Some("open".into()),
        ..SessionFilter::default()
    };
    assert!(client.sessions(&filter, &Paging::default()).await.expect("a page").items.is_empty());
    let request = requests.await.expect("a request").remove(0);
    assert_eq!(header(&request, "authorization"), Some("Bearer wl_secret"));
    assert!(request.starts_with("GET /v1/sessions?state=open&label=team%3Aa%26b HTTP/1.1"), "{request}");
}

#[tokio::test]
async fn a_change_may_be_meant_for_what_was_read_only() {
    let tagged = |tag: &str| with_headers(200, &format!("etag: {tag}\r\n"), SESSION);
    let acts = vec![tagged("\"one\""), tagged("\"two\""), problem(412, "precondition_failed", false)];
    let (url, requests) = play(acts).await;
    let client = client(&url);
    let (_, read) = client.session_with_tag("demo").await.expect("a session");
    let update = UpdateSession { keep_alive: Some(true), ..UpdateSession::default() };
    let (_, changed) = client.update_session_if("demo", &read, &update).await.expect("a session");
    let late = client.update_session_if("demo", &read, &update).await.expect_err("it was changed");
    assert_eq!((late.code(), late.exit_code()), ("precondition_failed", 5));
    assert_ne!(changed, read);
    let requests = requests.await.expect("three requests");
    let tags: Vec<_> = requests.iter().map(|request| header(request, "if-match")).collect();
    assert_eq!(tags, [None, Some("\"one\""), Some("\"one\"")]);
    assert!(requests[1].ends_with(r#"{"keep_alive":true}"#), "{requests:?}");
}

#[tokio::test]
async fn bytes_are_kept_and_taken_only_as_they_were_sent() {
    let stored = r#"{"blob":"ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f","bytes":5}"#;
    let (url, requests) = play(vec![json(201, stored), json(200, "hello"), json(200, "hullo")]).await;
    let client = client(&url);
    let blob = client.put_blob("hello").await.expect("an address").blob;
    assert_eq!(client.blob(blob.as_str()).await.expect("the bytes"), "hello");
    let others = client.blob(blob.as_str()).await.expect_err("other bytes");
    assert_eq!((others.code(), others.exit_code()), ("not_windlass", 8), "{others:?}");
    let requests = requests.await.expect("three requests");
    // By sha256sum.
    let digest = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    assert_eq!(header(&requests[0], "content-digest"), Some(digest));
}
