//! Does a wait end with the right outcome, whatever happens to connections and servers meanwhile?

use crate::script::{Act, header, json, play, problem};
use std::time::{Duration, Instant};
use windlass_client::{
    Client, ClientError, SendInput,
    api::{Admission, CompletionStatus},
};

const ACCEPTED: &str = r#"{"id":"0190b8a0-1111-7222-8333-444455556667","session":"0190b8a0-1111-7222-8333-444455556666",
    "outcome":"accepted","state":"queued","durable":true}"#;
const AGAIN: &str = r#"{"id":"0190b8a0-1111-7222-8333-444455556667","session":"0190b8a0-1111-7222-8333-444455556666",
    "outcome":"deduplicated","state":"staged","durable":true}"#;
const STAGED: &str = r#"{"id":"0190b8a0-1111-7222-8333-444455556667","session":"0190b8a0-1111-7222-8333-444455556666",
    "state":"staged"}"#;
const DONE: &str = r#"{"id":"0190b8a0-1111-7222-8333-444455556667","session":"0190b8a0-1111-7222-8333-444455556666",
    "state":"consumed","result":{"status":"completed","text":"hi"}}"#;
const JOINED: &str = r#"{"id":"0190b8a0-1111-7222-8333-444455556667","session":"0190b8a0-1111-7222-8333-444455556666",
    "state":"coalesced","result":{"status":"coalesced","by":"0190b8a0-1111-7222-8333-444455556668"}}"#;

#[tokio::test]
async fn a_wait_outlives_answers_connections_and_servers() {
    let acts = vec![
        // The acceptance is lost: only the key tells that it happened.
        Act::HangUp,
        json(200, AGAIN),
        Act::HangUp,
        problem(503, "draining", true),
        json(502, "<html>a proxy</html>"),
        json(202, STAGED),
        json(200, DONE),
    ];
    let (url, requests) = play(acts).await;
    let client = Client::builder(&url).build().expect("a URL");
    let answer =
        client.send_and_wait("demo", &SendInput::prompt("hello"), Duration::from_secs(30)).await.expect("the outcome");
    assert_eq!((answer.outcome, answer.completion.status), (Admission::Deduplicated, CompletionStatus::Completed));
    assert_eq!(answer.completion.text.as_deref(), Some("hi"));
    let requests = requests.await.expect("seven requests");
    assert_eq!(header(&requests[0], "idempotency-key"), header(&requests[1], "idempotency-key"));
    let wait = "GET /v1/sessions/0190b8a0-1111-7222-8333-444455556666/inputs/\
                0190b8a0-1111-7222-8333-444455556667/wait?timeout=";
    assert!(requests[2..].iter().all(|request| request.starts_with(wait)), "{requests:?}");
}

#[tokio::test]
async fn an_input_that_joined_another_ends_as_that_one_does() {
    let (url, requests) = play(vec![json(202, ACCEPTED), json(200, JOINED), json(200, DONE)]).await;
    let client = Client::builder(&url).build().expect("a URL");
    let answer = client.send_and_wait("demo", &SendInput::prompt("hello"), Duration::from_secs(30)).await;
    assert_eq!(answer.expect("the outcome").completion.status, CompletionStatus::Completed);
    let requests = requests.await.expect("three requests");
    assert!(requests[2].contains("/inputs/0190b8a0-1111-7222-8333-444455556668/wait"), "{requests:?}");
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline_and_says_where_the_input_is() {
    let (url, requests) = play(vec![json(202, ACCEPTED), json(202, STAGED)]).await;
    let client = Client::builder(&url).retry_for(Duration::ZERO).build().expect("a URL");
    let begun = Instant::now();
    // After the script nobody listens any more, and the wait goes on all the same.
    let error = client
        .send_and_wait("demo", &SendInput::prompt("hello"), Duration::from_secs(1))
        .await
        .expect_err("it is not over");
    assert!(matches!(&error, ClientError::WaitTimedOut { state, .. } if state == "staged"), "{error:?}");
    assert_eq!((error.code(), error.exit_code()), ("wait_timed_out", 7));
    assert!((1.0..3.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    assert_eq!(requests.await.expect("two requests").len(), 2);
}

#[tokio::test]
async fn what_is_refused_is_told_at_once() {
    let (url, _requests) = play(vec![problem(409, "session_state_conflict", false)]).await;
    let client = Client::builder(&url).build().expect("a URL");
    let error = client.send_and_wait("demo", &SendInput::prompt("hello"), Duration::from_secs(60)).await;
    assert_eq!(error.expect_err("a refusal").exit_code(), 5);
    let (url, _requests) = play(vec![json(202, ACCEPTED), problem(404, "not_found", false)]).await;
    let client = Client::builder(&url).build().expect("a URL");
    let error = client.send_and_wait("demo", &SendInput::prompt("hello"), Duration::from_secs(60)).await;
    assert_eq!(error.expect_err("it was deleted meanwhile").exit_code(), 3);
}
