//! Does the built-in agent show what the runtime does? In paused time, on the memory store.

use std::{sync::Arc, time::Duration};
use windlass_agent::{BuiltinFactory, transcript::notices};
use windlass_core::{
    AbandonReason, CancelOutcome, CompletionSeq, Disposition, Entry, ExternalEvent, HandlingMode, Input, InputBody,
    InputId, OperationStatus, Record, RunEnd, Seq, SessionId, Terminal, Timestamp,
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
        Bench::idle_after(Duration::from_secs(60), store).await
    }

    async fn idle_after(idle: Duration, store: Arc<MemoryStore>) -> Bench {
        let adapter = RuntimeSessionAdapter::builder()
            .store(store.clone())
            .idle_after(idle)
            .entries_kept(10_000)
            .factory(Arc::new(BuiltinFactory::default()))
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

    /// What the first `n` wakes said.
    async fn told(&self, n: usize) -> Vec<String> {
        let (mut wakes, mut runs, mut told) = (Vec::new(), Vec::new(), Vec::new());
        let mut feed = self.session.feed(Seq::ZERO);
        while told.len() < n {
            let FeedItem::Entry(entry) = feed.next().await.expect("a feed") else { continue };
            match &entry.record {
                Record::InputAccepted(accepted) if !notices(&accepted.input).is_empty() => {
                    wakes.push(accepted.input.id());
                }
                Record::RunStarted(started) if started.inputs.iter().all(|input| wakes.contains(input)) => {
                    runs.push(started.run);
                }
                Record::RunEnded(ended) if runs.contains(&ended.run) => {
                    if let RunEnd::Completed { terminal: Terminal::Result(result), .. } = &ended.end {
                        told.push(result.text.clone());
                    }
                }
                _ => {}
            }
        }
        told
    }

    /// Long after everything: how many records of this name there are.
    async fn recorded(&self, name: &str) -> usize {
        tokio::time::sleep(Duration::from_secs(1_000)).await;
        self.entries().await.iter().filter(|entry| entry.record.name() == name).count()
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
    assert!(bench.hear("/dance").await.contains("Try: /help"));
    assert_eq!(bench.adapter.session(session_id()).await.map(|session| session.id()).ok(), Some(session_id()));
}

/// The boundary that would have covered the steering is lost with its store handle; the steering must not be.
#[tokio::test(start_paused = true)]
async fn steering_heard_before_a_lost_boundary_is_heard_again_and_answered_once() {
    let inner = Arc::new(MemoryStore::new());
    let store = Arc::new(FaultyStore::new(inner));
    let adapter =
        RuntimeSessionAdapter::builder().store(store.clone()).factory(Arc::new(BuiltinFactory::default())).build();
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

#[tokio::test(start_paused = true)]
async fn background_work_is_begun_at_once_and_told_of_when_it_is_done() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.hear("/ops").await, "Nothing is done in the background. Try: /bg 5 tea");
    let begun = tokio::time::Instant::now();
    assert_eq!(bench.hear("/bg 3 green tea").await, "Started “green tea”, 3 s in the background. I will tell you.");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(bench.hear("/ops").await, "“green tea”: running");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(bench.hear("/ops").await, "“green tea”: running, 2 of 3 s");
    assert_eq!(bench.told(1).await, ["“green tea” is done: 3 s of work."]);
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(bench.hear("/ops").await, "“green tea”: completed, 3 s of work");
    assert_eq!(bench.recorded("completions_applied").await, 1);
    let continuations = bench.entries().await.iter().filter(|entry| tells(entry)).count();
    assert_eq!(continuations, 1, "what was applied is not told again");
    assert_eq!(bench.hear("/echo still here").await, "still here");
}

fn tells(entry: &Entry) -> bool {
    matches!(&entry.record, Record::InputAccepted(accepted) if !notices(&accepted.input).is_empty())
}

#[tokio::test(start_paused = true)]
async fn what_ends_while_it_works_is_woven_in() {
    let mut bench = Bench::new().await;
    bench.hear("/bg 1 tea").await;
    let slow = bench.hear("/slow 3").await;
    assert_eq!(slow, "That took 3 s, one boundary each. “tea” is done: 1 s of work.");
    assert_eq!(bench.recorded("run_started").await, 2, "nobody had to be woken");
    assert_eq!(bench.recorded("completions_applied").await, 1);
    // A process that dies between the boundary that covers the news and the end still tells them.
    bench.hear("/bg 1 toast").await;
    let slow = bench.offer("/slow 4", HandlingMode::Queue).await;
    boundary(&bench.session, 2 + 3).await;
    bench.adapter.shutdown().await;
    drop(slow);
    let bench = Bench::over(bench.store).await;
    let resumed = bench.session.completion(InputRef::Id(InputId::from_uuid(uuid::Uuid::from_u128(4)))).await;
    let CompletionOutcome::Completed(result) = resumed.expect("it is open").wait().await else { panic!("completes") };
    assert_eq!(result.text, "That took 4 s, one boundary each. “toast” is done: 1 s of work.");
    assert_eq!(bench.recorded("completions_applied").await, 2);
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_while_the_session_is_put_away_and_wakes_it() {
    let mut bench = Bench::idle_after(Duration::from_millis(100), Arc::new(MemoryStore::new())).await;
    bench.hear("/bg 3 tea").await;
    bench.hear("/bg 3 toast").await;
    assert_eq!(bench.recorded("operation_ended").await, 2);
    let wakes = bench.entries().await.iter().filter(|entry| tells(entry)).count();
    let told = bench.told(wakes).await.join(" ");
    assert_eq!(told.matches("“tea” is done").count(), 1, "{told}");
    assert_eq!(told.matches("“toast” is done").count(), 1, "{told}");
}

#[tokio::test(start_paused = true)]
async fn what_died_with_its_process_is_said_to_be_lost() {
    let mut bench = Bench::new().await;
    bench.hear("/bg 60 tea").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.adapter.shutdown().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks, 1, "the alarm clock of the runtime is left, and no worker");
    let mut bench = Bench { made: 100, ..Bench::over(bench.store).await };
    assert_eq!(bench.told(1).await, ["“tea” was lost before it was done: owner lost."]);
    assert_eq!(bench.hear("/ops").await, "“tea”: terminated, owner lost");
    assert_eq!(bench.recorded("operation_ended").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_question_outlives_the_news_between_it_and_its_answer() {
    let mut bench = Bench::new().await;
    bench.hear("/bg 1 tea").await;
    let CompletionOutcome::CallbackPending(_) = bench.say("/ask Milk?").await else { panic!("it asks") };
    bench.told(1).await;
    assert_eq!(bench.hear("yes please").await, "Thank you. I asked: Milk? You answered: yes please");
}

#[tokio::test(start_paused = true)]
async fn work_ends_with_its_session() {
    let mut bench = Bench::new().await;
    bench.hear("/bg 60 tea").await;
    let working = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    bench.session.stop().await.expect("it stops");
    assert!(tokio::runtime::Handle::current().metrics().num_alive_tasks() < working);
    let tea = bench.session.operations().list_operations().await.expect("a list");
    assert_eq!(tea[0].status, OperationStatus::Terminated);
    bench.adapter.register_session(session_id()).await.expect("it is revived");
    assert_eq!(bench.told(1).await, ["“tea” was lost before it was done: stopped."]);
    // Without an end in the journal, because whoever unregisters leaves it as it is.
    bench.hear("/bg 60 toast").await;
    bench.adapter.unregister_session(session_id()).await.expect("it is let go");
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.session = bench.adapter.register_session(session_id()).await.expect("it is registered again");
    bench.hear("/echo hello").await;
    assert_eq!(bench.told(2).await[1], "“toast” failed: its worker was let go.");
}

/// The end of the run that began it is lost with the store handle: the next attempt finds the work begun.
#[tokio::test(start_paused = true)]
async fn work_is_begun_once_whatever_becomes_of_the_attempt() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let adapter =
        RuntimeSessionAdapter::builder().store(store.clone()).factory(Arc::new(BuiltinFactory::default())).build();
    let session = adapter.create_session(session_id(), None).await.expect("a session");
    // The acceptance, the operation, its beginning, and then the end of the run.
    store.fail(Call::Append, 4, Fault::UnknownNotDone);
    let bg = Input::prompt(InputId::from_uuid(uuid::Uuid::from_u128(1)), Timestamp::ZERO, "/bg 3 tea");
    session.accept(bg).await.expect("an answer");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let entries = store.read(session_id(), Seq::ZERO, 1_000).await.expect("a journal");
    let count = |name| entries.iter().filter(|entry| entry.record.name() == name).count();
    assert_eq!(count("run_started"), 3, "two attempts and the wake: {entries:#?}");
    assert_eq!((count("operation_registered"), count("operation_ended"), count("completions_applied")), (1, 1, 1));
    assert_eq!(session.operations().completion_feed().watermark().await.expect("a feed"), CompletionSeq(1));
}
