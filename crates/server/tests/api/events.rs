//! Following sessions by server-sent events.

use crate::{PATIENCE, Rig};
use http::Method;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use windlass_core::{JsonText, Limits, PolicyTable, Seq, Session, SessionId};
use windlass_runtime::{CoreExecutor, CoreExecutorError, ExecutorFactory, store::PutSnapshot, testing::ManualExecutor};
use windlass_server::testing::{Answer, TestServer};

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// A stream that is read event by event.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(server: &TestServer, path: &str, last: Option<&str>) -> Stream {
        let request = server.request(Method::GET, path);
        let request = match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Stream { response, text: String::new() }
    }

    /// The id that the stream begins with, before any event.
    async fn beginning(mut self) -> String {
        while !self.text.contains("\n\n") {
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("an opening in time");
            self.text.push_str(std::str::from_utf8(&chunk.unwrap().expect("the stream goes on")).unwrap());
        }
        let (opening, _) = self.text.split_once("\n\n").unwrap();
        opening.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned()
    }

    /// The next event, or none when the stream is over.
    async fn next(&mut self) -> Option<Event> {
        let reading = async {
            loop {
                if let Some((block, rest)) = self.text.split_once("\n\n") {
                    let mut event = Event::default();
                    for line in block.lines() {
                        match line.split_once(": ") {
                            Some(("event", name)) => event.name = name.to_owned(),
                            Some(("id", id)) => event.id = id.to_owned(),
                            Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                            _ => {}
                        }
                    }
                    self.text = rest.to_owned();
                    if !event.name.is_empty() {
                        return Some(event);
                    }
                    continue;
                }
                match self.response.chunk().await.unwrap() {
                    Some(chunk) => self.text.push_str(std::str::from_utf8(&chunk).unwrap()),
                    None => return None,
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("an event in time")
    }

    /// The next entries, passing over what is live.
    async fn entries(&mut self, count: usize) -> Vec<Event> {
        let mut entries = Vec::new();
        while entries.len() < count {
            let event = self.next().await.expect("the stream goes on");
            if !event.id.is_empty() {
                entries.push(event);
            }
        }
        entries
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_comes_once_in_order_wherever_a_stream_was_cut() {
    let rig = Rig::start().await;
    rig.session("s").await;
    rig.say("s", "hello").await;
    rig.say("s", "again").await;
    let head = rig.get("/v1/sessions/s").await.body["head"].as_u64().unwrap() as usize;
    let journal = rig.get("/v1/sessions/s/journal?limit=500").await.body["items"].clone();
    let whole = Stream::open(&rig, "/v1/sessions/s/events?after=0", None).await.entries(head).await;
    for (at, event) in whole.iter().enumerate() {
        assert_eq!(event.id.split_once('.').map(|(seq, _)| seq), Some(&*(at + 1).to_string()));
        assert_eq!(event.data, journal[at], "the same as in the journal");
        assert_eq!(event.data["type"], event.name.as_str());
    }
    for cut in 0..head - 1 {
        let id = cut.checked_sub(1).map_or("0", |seen| &whole[seen].id);
        let rest = Stream::open(&rig, "/v1/sessions/s/events?after=0", Some(id)).await.entries(head - cut).await;
        assert_eq!(rest, whole[cut..], "cut after {cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_before_its_first_event_goes_on_where_it_began() {
    let rig = Rig::start().await;
    rig.session("a").await;
    rig.session("b").await;
    for path in ["/v1/sessions/a/events", "/v1/events?session=a&session=b"] {
        let begun = Stream::open(&rig, path, None).await.beginning().await;
        rig.say("a", "said while nobody followed").await;
        let rest = Stream::open(&rig, path, Some(&begun)).await.entries(1).await;
        assert_eq!(rest[0].name, "input_accepted", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_now_is_shown_now_and_live_progress_is_marked() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let mut live = Stream::open(&rig, "/v1/sessions/s/events", None).await;
    let mut quiet = Stream::open(&rig, "/v1/sessions/s/events?progress=false", None).await;
    rig.say("s", "hello").await;
    let mut names = Vec::new();
    loop {
        let event = live.next().await.unwrap();
        if event.name == "progress" {
            assert_eq!((event.id.as_str(), &event.data["live"]), ("", &json!(true)), "{event:?}");
        } else {
            names.push(event.name.clone());
        }
        if event.name == "run_ended" {
            break;
        }
    }
    let expected = ["input_accepted", "run_started", "run_ended"];
    assert_eq!(names, expected);
    for name in expected {
        assert_eq!(quiet.next().await.unwrap().name, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_over_several_sessions_goes_on_from_its_cursor() {
    let rig = Rig::start().await;
    rig.session("a").await;
    rig.session("b").await;
    let path = "/v1/events?session=a&session=b&progress=false";
    let mut stream = Stream::open(&rig, path, None).await;
    rig.say("a", "one").await;
    let first = stream.entries(2).await;
    drop(stream);
    rig.say("b", "two").await;
    let mut again = Stream::open(&rig, path, Some(&first[1].id)).await;
    let rest = again.entries(4).await;
    let mut seen: Vec<_> = first
        .iter()
        .chain(&rest)
        .map(|event| (event.data["session"].to_string(), event.data["seq"].as_u64().unwrap()))
        .collect();
    seen.sort();
    let both = [windlass_api::session_id(None, "a"), windlass_api::session_id(None, "b")];
    let mut expected: Vec<_> = both.iter().flat_map(|id| (3..=5).map(move |seq| (format!("\"{id}\""), seq))).collect();
    expected.sort();
    assert_eq!(seen, expected);
    let other = rig.request(Method::GET, "/v1/events?session=a").header("last-event-id", &first[1].id);
    assert_eq!(Answer::to(other).await.code(), "invalid_cursor", "the cursor of other sessions");
    assert_eq!(rig.get("/v1/events?session=a&session=nobody").await.code(), "not_found");
    assert_eq!(rig.get("/v1/events").await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_ahead_of_the_journal_is_refused_not_begun_anew() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let ahead = rig.get("/v1/sessions/s/events?after=99").await;
    assert_eq!((ahead.status, ahead.code()), (400, "cursor_ahead"), "{ahead:?}");
    let wrong = rig.request(Method::GET, "/v1/sessions/s/events").header("last-event-id", "x");
    assert_eq!(Answer::to(wrong).await.code(), "invalid_cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_session_and_with_the_server() {
    let rig = Rig::start().await;
    rig.session("s").await;
    rig.session("t").await;
    let mut deleted = Stream::open(&rig, "/v1/sessions/s/events", None).await;
    let mut drained = Stream::open(&rig, "/v1/sessions/t/events", None).await;
    rig.post("/v1/sessions/s/destroy", &json!({})).await;
    assert_eq!(rig.delete("/v1/sessions/s").await.status, 204);
    let last = loop {
        let event = deleted.next().await.expect("an end is told");
        if event.name == "end" {
            break event;
        }
    };
    assert_eq!(last.data["reason"], "deleted");
    assert_eq!(deleted.next().await, None);
    let Rig { server, store: _, folder: _folder } = rig;
    let ending = tokio::spawn(server.into_server().shutdown());
    let last = drained.next().await.expect("an end is told");
    assert_eq!((last.name.as_str(), &last.data["reason"]), ("end", &json!("draining")));
    assert_eq!(drained.next().await, None);
    tokio::time::timeout(PATIENCE, ending).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_holds_so_many_streams_and_each_entry_is_encoded_once_for_all() {
    let rig = Rig::start().await;
    rig.session("s").await;
    let limit = rig.server().state().config().limits.streams_per_token;
    let mut streams = Vec::new();
    for _ in 0..limit {
        let mut stream = Stream::open(&rig, "/v1/sessions/s/events?after=0&progress=false", None).await;
        assert_eq!(stream.entries(2).await[0].name, "session_created");
        streams.push(stream);
    }
    let refused = rig.get("/v1/sessions/s/events").await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_streams"), "{refused:?}");
    rig.say("s", "hello").await;
    for stream in &mut streams {
        assert_eq!(stream.entries(3).await[2].name, "run_ended");
    }
    let metrics = rig.get("/metrics").await;
    let encoded = metrics.body.as_str().unwrap().lines().find(|line| line.starts_with("windlass_events_encoded"));
    assert!(encoded.is_some_and(|line| line.ends_with(" 3")), "{encoded:?}");
    drop(streams);
    tokio::time::timeout(PATIENCE, async {
        while rig.request(Method::GET, "/v1/sessions/s/events").send().await.unwrap().status() != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("places are given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_no_longer_kept_are_told_as_a_gap() {
    let rig = Rig::start().await;
    rig.session("s").await;
    rig.say("s", "hello").await;
    let id = windlass_api::session_id(None, "s");
    let store = rig.server().state().store();
    let opened = store.open(id).await.unwrap();
    let policy = Arc::new(PolicyTable::reference());
    let session = Session::recover(id, Limits::default(), policy, None, &opened.tail).unwrap();
    let (at, keep_after) = (session.head(), Seq(3));
    let snapshot = Arc::new(session.snapshot());
    store.put_snapshot(PutSnapshot { session: id, fence: opened.fence, at, snapshot, keep_after }).await.unwrap();
    for (path, after) in [
        ("/v1/sessions/s/events?after=0", 0),
        ("/v1/sessions/s/events?after=2", 2),
        ("/v1/sessions/s/events?after=0&progress=false", 0),
    ] {
        let mut stream = Stream::open(&rig, path, None).await;
        let gap = stream.next().await.unwrap();
        assert_eq!((gap.name.as_str(), gap.id.as_str()), ("gap", ""), "{gap:?}");
        assert_eq!((&gap.data["after"], &gap.data["oldest"]), (&json!(after), &json!(4)), "{gap:?}");
        assert_eq!(stream.entries(1).await[0].data["seq"], 4, "it goes on with the oldest that is kept");
    }
    let whole = Stream::open(&rig, "/v1/sessions/s/events?after=3", None).await.next().await.unwrap();
    assert_eq!(whole.data["seq"], 4, "nothing of it is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_of_another_history_is_refused() {
    let rig = Rig::start().await;
    rig.session("s").await;
    rig.say("s", "hello").await;
    let seen = Stream::open(&rig, "/v1/sessions/s/events?after=0", None).await.entries(3).await;
    rig.post("/v1/sessions/s/destroy", &json!({})).await;
    assert_eq!(rig.delete("/v1/sessions/s").await.status, 204);
    rig.session("s").await;
    rig.say("s", "hello").await;
    // As after a restore: the position is there, and another entry stands at it.
    for path in ["/v1/sessions/s/events", "/v1/sessions/s/events?progress=false"] {
        let again = rig.request(Method::GET, path).header("last-event-id", &seen[2].id);
        let again = Answer::to(again).await;
        assert_eq!((again.status, again.code()), (409, "incarnation_changed"), "{again:?}");
    }
    let chosen = Stream::open(&rig, "/v1/sessions/s/events", Some("2")).await.entries(1).await;
    assert_eq!(chosen[0].data["seq"], 3, "a number that a person chose");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_several_goes_on_without_one_that_was_deleted_meanwhile() {
    let rig = Rig::start().await;
    rig.session("a").await;
    rig.session("b").await;
    let path = "/v1/events?session=a&session=b";
    let seen = Stream::open(&rig, path, None).await.beginning().await;
    rig.say("b", "hello").await;
    rig.post("/v1/sessions/a/destroy", &json!({})).await;
    assert_eq!(rig.delete("/v1/sessions/a").await.status, 204);
    let mut again = Stream::open(&rig, path, Some(&seen)).await;
    let (mut ends, mut entries) = (Vec::new(), Vec::new());
    while entries.len() < 3 || ends.is_empty() {
        let event = again.next().await.expect("the other one goes on");
        if event.name == "end" { ends.push(event) } else { entries.push(event.data["seq"].as_u64().unwrap()) }
    }
    let deleted = json!({ "session": windlass_api::session_id(None, "a"), "reason": "deleted" });
    assert_eq!((ends.len(), &ends[0].data), (1, &deleted));
    assert_eq!(entries, [3, 4, 5]);
    assert_eq!(rig.get(path).await.code(), "not_found", "whoever begins has followed nothing");
}

/// Gives every session the same executor.
struct One(Arc<ManualExecutor>);

#[async_trait::async_trait]
impl ExecutorFactory for One {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::clone(&self.0) as _)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_that_was_missed_is_told_and_entries_are_not_missed() {
    let (executor, mut runs) = ManualExecutor::new();
    let agents = Arc::new(windlass_agent::config::Agents::new(BTreeMap::new()).unwrap());
    let builder = TestServer::builder(TestServer::config()).agents(Arc::new(One(executor)), agents);
    let server = TestServer::with(builder).await;
    server.post("/v1/sessions", &json!({ "name": "s" })).await;
    let mut stream = Stream::open(&server, "/v1/sessions/s/events", None).await;
    server.post("/v1/sessions/s/inputs", &json!({ "kind": "prompt", "text": "hello" })).await;
    let run = runs.next().await;
    let begun: Vec<_> = stream.entries(2).await.into_iter().map(|event| event.name).collect();
    assert_eq!(begun, ["input_accepted", "run_started"]);

    // One that is too large to be kept for anybody.
    run.turn.progress(JsonText::encode(&"x".repeat(20_000)).unwrap());
    let lagged = stream.next().await.unwrap();
    assert_eq!((lagged.name.as_str(), lagged.id.as_str(), &lagged.data["missed"]), ("lagged", "", &json!(1)));

    // More than are kept, faster than anybody is told of them.
    let shown = 10_000;
    (0..shown).for_each(|nth| run.turn.progress(JsonText::encode(&nth).unwrap()));
    run.text("done");
    let (mut seen, mut missed, mut over) = (Vec::new(), 0, false);
    while !over || seen.len() as u64 + missed < shown {
        let event = stream.next().await.unwrap();
        match event.name.as_str() {
            "progress" => seen.push(event.data["delta"].as_u64().unwrap()),
            "lagged" => missed += event.data["missed"].as_u64().unwrap(),
            last => {
                assert_eq!((last, over), ("run_ended", false));
                over = true;
            }
        }
    }
    assert_eq!(seen.len() as u64 + missed, shown, "{missed} missed");
    assert!(seen.is_sorted() && missed > 0, "{missed} missed");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_soon_after_its_token_and_others_go_on() {
    let mut server = TestServer::start().await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let made = server.post("/v1/tokens", &json!({ "scopes": ["*"] })).await.body;
        tokens.push((made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned()));
        server.show(Some(&tokens[0].1));
    }
    server.post("/v1/sessions", &json!({ "name": "s" })).await;
    let mut follow = async |path: &str, token: &str| {
        server.show(Some(token));
        let answer = server.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer
    };
    let (mut good, mut revoked) = (Vec::new(), Vec::new());
    for path in ["/v1/sessions/s/events", "/v1/events?session=s"] {
        good.push(tokio::spawn(follow(path, &tokens[1].1).await.text()));
        revoked.push(tokio::spawn(follow(path, &tokens[2].1).await.text()));
    }
    server.show(Some(&tokens[0].1));
    assert_eq!(server.delete(&format!("/v1/tokens/{}", tokens[2].0)).await.status, 204);
    let begun = Instant::now();
    for stream in revoked {
        let text = stream.await.unwrap().unwrap();
        assert!(text.ends_with("event: end\ndata: {\"reason\":\"auth_expired\"}\n\n"), "{text}");
    }
    assert!(begun.elapsed() <= Duration::from_secs(60), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(good.iter().all(|stream| !stream.is_finished()), "a good token's streams go on");
}
