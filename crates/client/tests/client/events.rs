//! Does a stream go on where it was, and say everything that is to be said?

use crate::script::{Act, header, play, problem, stream};
use std::time::{Duration, Instant};
use windlass_client::{Client, Event, Follow};

const SESSION: &str = "0190b8a0-1111-7222-8333-444455556666";

fn entry(seq: u64) -> String {
    format!(
        "id: {seq}\nevent: hold_changed\ndata: {{\"session\":\"{SESSION}\",\"seq\":{seq},\"at\":\"2026-11-22T10:00:00Z\",\
         \"type\":\"hold_changed\",\"record\":{{\"hold_changed\":{{\"held\":true}}}}}}\n\n"
    )
}

fn live(name: &str, rest: &str) -> String {
    format!("event: {name}\ndata: {{\"session\":\"{SESSION}\",{rest}}}\n\n")
}

/// What a stream hands out, in short.
fn short(event: &Event) -> String {
    match event {
        Event::Entry(entry) => format!("{} {}", entry.seq, entry.name),
        Event::Progress(progress) => format!("progress {}", progress.delta),
        Event::Lagged(lagged) => format!("lagged {}", lagged.missed),
        Event::Gap(gap) => format!("gap to {}", gap.oldest),
        Event::End(end) => format!("end {}", end.reason),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_that_it_handed_out() {
    let progress =
        live("progress", "\"live\":true,\"run\":\"0190b8a0-1111-7222-8333-444455556669\",\"delta\":{\"n\":1}");
    let acts = vec![
        stream(&[": hello\n\nretry: 10\n\n", &live("gap", "\"after\":1,\"oldest\":5"), &entry(5), &progress]),
        Act::HangUp,
        problem(503, "draining", true),
        stream(&[&live("lagged", "\"missed\":3"), &entry(6), "event: later invention\ndata: {}\n\n"]),
        stream(&[&live("end", "\"reason\":\"draining\"")]),
        stream(&[&entry(7), &live("end", "\"reason\":\"deleted\"")]),
    ];
    let (url, requests) = play(acts).await;
    let client = Client::builder(&url).build().expect("a URL");
    let mut events = client.events(Follow::session("demo").after("1"));
    let mut told = Vec::new();
    while let Some(event) = events.next().await.expect("a stream") {
        told.push(short(&event));
    }
    assert_eq!(
        told,
        [
            "gap to 5",
            "5 hold_changed",
            "progress {\"n\":1}",
            "lagged 3",
            "6 hold_changed",
            "7 hold_changed",
            "end deleted"
        ]
    );
    assert_eq!(events.next().await.expect("still over"), None);
    let requests = requests.await.expect("six requests");
    let positions: Vec<_> = requests.iter().map(|request| header(request, "last-event-id").expect("one")).collect();
    assert_eq!(positions, ["1", "5", "5", "5", "6", "6"]);
    assert!(requests[0].starts_with("GET /v1/sessions/demo/events?progress=true HTTP/1.1"), "{requests:?}");
}

#[tokio::test]
async fn several_sessions_share_a_stream_and_its_cursor() {
    let block = entry(9).replacen("id: 9", "id: opaque~1", 1);
    let deleted = live("end", "\"reason\":\"deleted\"");
    // The first one ends before anything happened.
    let acts = vec![stream(&["retry: 20\nid: opaque~0\n\n"]), stream(&[&block, &deleted]), stream(&[&block])];
    let (url, requests) = play(acts).await;
    let client = Client::builder(&url).build().expect("a URL");
    let mut events = client.events(Follow::sessions(["a", "b"]).without_progress());
    for expected in ["9 hold_changed", "end deleted", "9 hold_changed"] {
        assert_eq!(events.next().await.expect("a stream").as_ref().map(short).as_deref(), Some(expected));
    }
    assert_eq!(events.position(), Some("opaque~1"));
    let requests = requests.await.expect("three requests");
    assert!(requests[0].starts_with("GET /v1/events?session=a&session=b&progress=false HTTP/1.1"), "{requests:?}");
    let positions: Vec<_> = requests.iter().map(|request| header(request, "last-event-id")).collect();
    assert_eq!(positions, [None, Some("opaque~0"), Some("opaque~1")]);
}

// A stream that was cut before its first event was asked for again at once, without end.
#[tokio::test]
async fn a_stream_that_is_cut_again_and_again_is_asked_for_ever_more_rarely() {
    let cut = || stream(&["retry: 200\n\n", ": still here\n\n"]);
    let (url, requests) = play(vec![cut(), cut(), cut(), stream(&[&entry(1)])]).await;
    let client = Client::builder(&url).build().expect("a URL");
    let (mut events, began) = (client.events(Follow::session("demo")), Instant::now());
    let event = events.next().await.expect("a stream").as_ref().map(short);
    assert_eq!(event.as_deref(), Some("1 hold_changed"));
    // Half of 200, 400 and 800 ms at least.
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    requests.await.expect("four requests");
}

#[tokio::test]
async fn a_refused_stream_is_an_error_and_so_is_a_server_that_stays_away() {
    let (url, requests) = play(vec![problem(404, "not_found", false)]).await;
    let client = Client::builder(&url).build().expect("a URL");
    let mut events = client.events(Follow::session("demo").patience(Duration::from_millis(300)));
    assert_eq!(events.next().await.expect_err("a refusal").exit_code(), 3);
    requests.await.expect("one request");
    assert_eq!(events.next().await.expect_err("nobody is there").exit_code(), 8);
}
