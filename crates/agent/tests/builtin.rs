//! Does the built-in agent show what the runtime does? In paused time, on the memory store.

use std::{sync::Arc, time::Duration};
use windlass_agent::BuiltinFactory;
use windlass_core::{
    AbandonReason, CancelOutcome, Disposition, Entry, ExternalEvent, HandlingMode, Input, InputBody, InputId, Record,
    RunEnd, Seq, SessionId, Timestamp,
};
use windlass_runtime::{
    CompletionHandle, CompletionOutcome, FeedItem, ManualClock, RuntimeSessionAdapter, SessionHandle,
    memory::MemoryStore,
    store::{InputRef, Store},
    testing::faulty_store::{Call, Fault, FaultyStore},
};

struct Bench {
    store: Arc<MemoryStore>,
    adapter: RuntimeSessionAdapter,
    session: SessionHandle,
    made: u128,
}

fn session_id() -> SessionId {
    SessionId::from_uuid(uuid::Uuid::from_u128(1))
}

impl Bench {
    async fn over(store: Arc<MemoryStore>) -> Bench {
        let adapter = RuntimeSessionAdapter::builder()
            .store(store.clone())
            .entries_kept(10_000)
            .factory(Arc::new(BuiltinFactory))
            .clock(Arc::new(ManualClock::starting_at(Timestamp::from_micros(1_700_000_000_000_000))))
            .build();
        let session = adapter.create_session(session_id(), None).await.expect("a session");
        Bench { store, adapter, session, made: 0 }
    }

    async fn new() -> Bench {
        Bench::over(Arc::new(MemoryStore::new())).await
    }

    async fn offer(&mut self, text: &str, mode: HandlingMode) -> CompletionHandle {
        self.made += 1;
        let id = InputId::from_uuid(uuid::Uuid::from_u128(self.made));
        let input = Input::prompt(id, Timestamp::ZERO, text).with_mode(mode);
        let (_, completion) = self.session.accept_with_completion(input).await.expect("an answer");
        completion.expect("it is accepted")
    }

    async fn say(&mut self, text: &str) -> CompletionOutcome {
        self.offer(text, HandlingMode::Queue).await.wait().await
    }

    async fn hear(&mut self, text: &str) -> String {
        match self.say(text).await {
            CompletionOutcome::Completed(result) => result.text.clone(),
            other => panic!("to {text:?}: {other:?}"),
        }
    }

    async fn entries(&self) -> Vec<Arc<Entry>> {
        self.store.read(session_id(), Seq::ZERO, 10_000).await.expect("a journal")
    }
}

/// Waits for the n-th intermediate boundary.
async fn boundary(session: &SessionHandle, n: usize) {
    let mut feed = session.feed(Seq::ZERO);
    let mut seen = 0;
    while seen < n {
        if let FeedItem::Entry(entry) = feed.next().await.expect("a feed") {
            seen += usize::from(matches!(entry.record, Record::BoundaryCommitted(_)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_talks_and_remembers_what_it_committed() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.hear("My name is Ada").await, "Pleased to meet you, Ada. What is on your mind?");
    assert_eq!(bench.hear("My job is dull").await, "How long has that been so with your job?");
    bench.adapter.shutdown().await;
    // Another process: nothing is left but the journal.
    let mut bench = Bench { made: 100, ..Bench::over(bench.store).await };
    assert!(bench.hear("What is my name?").await.starts_with("You are Ada."));
    assert!(bench.hear("Whatever").await.contains("Earlier you said: your job is dull."));
}

#[tokio::test(start_paused = true)]
async fn slow_commits_each_second_and_weaves_in_what_is_said_meanwhile() {
    let mut bench = Bench::new().await;
    let slow = bench.offer("/slow 3", HandlingMode::Queue).await;
    boundary(&bench.session, 1).await;
    let steering = bench.offer("hurry up", HandlingMode::Steer).await;
    let CompletionOutcome::Completed(result) = slow.wait().await else { panic!("it completes") };
    assert_eq!(result.text, "That took 3 s, one boundary each. You said meanwhile: “hurry up”.");
    assert_eq!(steering.wait().await, CompletionOutcome::Completed(result));
    let entries = bench.entries().await;
    let boundaries = entries.iter().filter(|entry| matches!(entry.record, Record::BoundaryCommitted(_))).count();
    assert_eq!(boundaries, 2, "the third second ends the run");
    let last = entries.iter().rev().find_map(|entry| entry.record.receipt().cloned()).expect("a receipt");
    assert_eq!(last.message_count, 3, "two were said to it, one by it");
}

#[tokio::test(start_paused = true)]
async fn slow_goes_on_after_the_last_boundary() {
    let mut bench = Bench::new().await;
    let slow = bench.offer("/slow 3", HandlingMode::Queue).await;
    boundary(&bench.session, 2).await;
    bench.adapter.shutdown().await;
    assert!(matches!(slow.wait().await, CompletionOutcome::RuntimeTerminated(_)));
    let bench = Bench::over(bench.store).await;
    let id = InputId::from_uuid(uuid::Uuid::from_u128(1));
    let begun = tokio::time::Instant::now();
    let resumed = bench.session.completion(InputRef::Id(id)).await.expect("it is open");
    let CompletionOutcome::Completed(result) = resumed.wait().await else { panic!("it completes") };
    assert_eq!(result.text, "That took 3 s, one boundary each.");
    assert!(begun.elapsed() < Duration::from_millis(1_900), "only the last second is worked again");
}

#[tokio::test(start_paused = true)]
async fn fail_fails_as_often_as_it_is_told() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.hear("/fail").await, "It worked at attempt 2.");
    assert_eq!(bench.hear("/fail 2").await, "It worked at attempt 3.");
    let given_up = bench.say("/fail always").await;
    let CompletionOutcome::Abandoned(AbandonReason::MaxAttemptsExhausted { attempts: 3, .. }) = given_up else {
        panic!("{given_up:?}")
    };
    assert_eq!(bench.hear("/echo still here").await, "still here");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_contained() {
    let mut bench = Bench::new().await;
    let outcome = bench.say("/panic").await;
    assert!(matches!(outcome, CompletionOutcome::Abandoned(AbandonReason::MaxAttemptsExhausted { .. })), "{outcome:?}");
    assert_eq!(bench.hear("/echo still here").await, "still here");
}

#[tokio::test(start_paused = true)]
async fn a_question_ends_the_run_and_the_next_prompt_answers_it() {
    let mut bench = Bench::new().await;
    let CompletionOutcome::CallbackPending(tool) = bench.say("/ask Tea?").await else { panic!("it asks") };
    assert_eq!((tool.tool_name.as_str(), &tool.args["question"]), ("ask_human", &"Tea?".into()));
    assert_eq!(bench.hear("yes please").await, "Thank you. I asked: Tea? You answered: yes please");
    assert_ne!(bench.hear("yes please").await, "Thank you. I asked: Tea? You answered: yes please");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_honoured_at_once() {
    let mut bench = Bench::new().await;
    let slow = bench.offer("/slow 60", HandlingMode::Queue).await;
    let begun = tokio::time::Instant::now();
    let cancelled = bench.session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    assert!(matches!(cancelled, CancelOutcome::Cancelled { .. }), "{cancelled:?}");
    let outcome = slow.wait().await;
    assert_eq!(outcome, CompletionOutcome::Abandoned(AbandonReason::Cancelled));
    assert_eq!(bench.hear("/echo next").await, "next");
    assert!(begun.elapsed() < Duration::from_secs(1), "nothing waited for the cancelled run");
    let cancels = bench.entries().await;
    assert!(cancels.iter().any(
        |entry| matches!(&entry.record, Record::RunEnded(ended) if matches!(ended.end, RunEnd::Cancelled { .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn news_is_taken_note_of() {
    let mut bench = Bench::new().await;
    let id = InputId::from_uuid(uuid::Uuid::from_u128(77));
    let mut event = Input::external_event(id, Timestamp::ZERO, "ci", "build_failed", serde_json::json!({}));
    if let InputBody::ExternalEvent(ExternalEvent { payload, .. }) = &mut event.body {
        *payload = serde_json::json!({ "body": "the build is red" });
    }
    let (_, completion) = bench.session.accept_with_completion(event).await.expect("an answer");
    let CompletionOutcome::Completed(result) = completion.expect("accepted").wait().await else { panic!("completes") };
    assert_eq!(result.text, "I have taken note: “the build is red”.");
    assert!(bench.hear("/bg 3").await.contains("not in this build"));
    assert!(bench.hear("/dance").await.contains("Try: /help"));
    assert_eq!(bench.adapter.session(session_id()).await.map(|session| session.id()).ok(), Some(session_id()));
}

/// The boundary that would have covered the steering is lost with its store handle; the steering must not be.
#[tokio::test(start_paused = true)]
async fn steering_heard_before_a_lost_boundary_is_heard_again_and_answered_once() {
    let inner = Arc::new(MemoryStore::new());
    let store = Arc::new(FaultyStore::new(inner));
    let adapter = RuntimeSessionAdapter::builder().store(store.clone()).factory(Arc::new(BuiltinFactory)).build();
    let session = adapter.create_session(session_id(), None).await.expect("a session");
    let prompt = |n, text| Input::prompt(InputId::from_uuid(uuid::Uuid::from_u128(n)), Timestamp::ZERO, text);
    session.accept(prompt(1, "/slow 3")).await.expect("an answer");
    boundary(&session, 1).await;
    session.accept(prompt(2, "hurry up").with_mode(HandlingMode::Steer)).await.expect("an answer");
    // Next: the steering is handed over, and then the boundary.
    store.fail(Call::Append, 2, Fault::UnknownNotDone);
    let slow = loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let session = adapter.session(session_id()).await.expect("it is known");
        let waiting = session.completion(InputRef::Id(InputId::from_uuid(uuid::Uuid::from_u128(1)))).await;
        match waiting.expect("it is known").wait().await {
            CompletionOutcome::RuntimeTerminated(_) => {}
            outcome => break outcome,
        }
    };
    let CompletionOutcome::Completed(result) = slow else { panic!("{slow:?}") };
    assert_eq!(result.text, "That took 3 s, one boundary each. You said meanwhile: “hurry up”.");
    let entries = store.read(session_id(), Seq::ZERO, 1_000).await.expect("a journal");
    let steered = entries.iter().filter(|entry| matches!(entry.record, Record::RunSteered { .. })).count();
    let lost = entries.iter().filter(|entry| matches!(entry.record, Record::BoundaryCommitted(_))).count();
    assert!(steered >= 1 && lost == 2, "{entries:#?}");
}
