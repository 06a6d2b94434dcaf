//! Does a service keep its promises, alone and under the runtime?

use crate::common::{abandoned, adapter, offer, prompt, result_text, session};
use async_trait::async_trait;
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::{Notify, Semaphore};
use windlass_agent::service::{
    Appended, ConversationAgent, ConversationQuery, CreateSession, EphemeralSessionService, Floor, ServiceError,
    ServiceExecutor, SessionService, StartTurn, SystemContext, TurnEvent,
};
use windlass_core::{
    CancelOutcome, Disposition, Entry, ExecutionKind, Input, InputId, JsonText, PendingTool, Record, RunEnd, RunResult,
    Seq, SessionId, Terminal, Timestamp,
};
use windlass_runtime::{
    CompletionOutcome, RuntimeSessionAdapter,
    memory::MemoryStore,
    store::Store,
    testing::faulty_store::{Call, Fault, FaultyStore},
};

/// Answers with how many messages it knows; waits, fails or asks where it is told to.
#[derive(Clone)]
struct Counting {
    /// Somebody works on `wait`.
    working: Arc<Notify>,
    /// Lets `wait` go on.
    go: Arc<Semaphore>,
    /// How often `wait` went on: what a tool would have done.
    effects: Arc<AtomicUsize>,
}

impl Default for Counting {
    fn default() -> Counting {
        Counting { working: Arc::default(), go: Arc::new(Semaphore::new(0)), effects: Arc::default() }
    }
}

fn message(role: &str, content: &str) -> JsonText {
    JsonText::encode(&json!({ "role": role, "content": content })).expect("JSON")
}

fn text(message: &JsonText) -> String {
    let message: Value = serde_json::from_str(message.get()).expect("JSON");
    message["content"].as_str().unwrap_or_default().to_owned()
}

#[async_trait]
impl ConversationAgent for Counting {
    async fn answer(
        &self,
        past: &[JsonText],
        new: &[JsonText],
        request: &StartTurn,
        floor: &Floor<'_>,
    ) -> Result<(Vec<JsonText>, Terminal), ServiceError> {
        let said = new.last().or(past.last()).map(text).unwrap_or_default();
        match said.as_str() {
            "wait" => {
                self.working.notify_one();
                self.go.acquire().await.expect("open").forget();
                self.effects.fetch_add(1, Ordering::SeqCst);
            }
            "step" => {
                floor.commit(request, vec![message("tool", "half")]).await?;
                self.working.notify_one();
                self.go.acquire().await.expect("open").forget();
            }
            "burst" => (0..10_000).for_each(|number| floor.show(request, JsonText::encode(&number).expect("JSON"))),
            "fail" => return Err(ServiceError::Agent { error: "no".into(), is_retryable: false }),
            "ask" => {
                let tool = PendingTool { tool_name: "ask_human".into(), args: json!({}) };
                return Ok((Vec::new(), Terminal::CallbackPending(Arc::new(tool))));
            }
            _ => {}
        }
        let words = format!("{} messages", past.len() + new.len());
        Ok((vec![message("assistant", &words)], Terminal::Result(Arc::new(RunResult::text(words)))))
    }
}

type Service = EphemeralSessionService<Counting>;

fn id(number: u128) -> SessionId {
    SessionId::from_uuid(uuid::Uuid::from_u128(0xa000 + number))
}

/// A service with one conversation, and its agent.
async fn service() -> (Arc<Service>, Counting) {
    let agent = Counting::default();
    let service = Arc::new(EphemeralSessionService::new(agent.clone(), 10));
    service.create_session(CreateSession::new(id(1))).await.expect("created");
    (service, agent)
}

async fn said(service: &Service, words: &str) -> Result<String, ServiceError> {
    let output = service.start_turn(id(1), StartTurn::text(words)).await?;
    Ok(text(output.messages.last().expect("an answer")))
}

/// Begins a turn that waits, in a task of its own.
async fn waiting(service: &Arc<Service>, agent: &Counting) -> tokio::task::JoinHandle<Result<String, ServiceError>> {
    let running = tokio::spawn({
        let service = Arc::clone(service);
        async move { said(&service, "wait").await }
    });
    agent.working.notified().await;
    running
}

// OC 113
#[tokio::test]
async fn of_two_turns_one_runs() {
    let (service, agent) = service().await;
    let first = waiting(&service, &agent).await;
    assert_eq!(said(&service, "hello").await, Err(ServiceError::Busy));
    agent.go.add_permits(1);
    assert_eq!(first.await.expect("a task").as_deref(), Ok("1 messages"));
    assert_eq!(said(&service, "hello").await.as_deref(), Ok("3 messages"));
}

// OC 114
#[tokio::test]
async fn a_dropped_turn_leaves_the_conversation_idle_and_as_it_was() {
    let (service, agent) = service().await;
    tokio::select! {
        biased;
        _ = said(&service, "wait") => unreachable!("it waits"),
        () = agent.working.notified() => {}
    }
    assert_eq!(service.interrupt(id(1)).await, Err(ServiceError::NotRunning));
    assert_eq!(said(&service, "hello").await.as_deref(), Ok("1 messages"));
}

// OC 115
#[tokio::test]
async fn an_interrupt_is_never_lost() {
    let (service, agent) = service().await;
    assert_eq!(service.interrupt(id(1)).await, Err(ServiceError::NotRunning));
    assert_eq!(service.interrupt(id(2)).await, Err(ServiceError::NotFound));
    let running = waiting(&service, &agent).await;
    assert_eq!(service.interrupt(id(1)).await, Ok(()));
    assert_eq!(running.await.expect("a task"), Err(ServiceError::Interrupted));
    assert_eq!(agent.effects.load(Ordering::SeqCst), 0);
    assert_eq!(service.interrupt(id(1)).await, Err(ServiceError::NotRunning));
}

// OC 116, 121
#[tokio::test]
async fn a_slow_follower_delays_nobody_and_is_told_what_it_missed() {
    let (service, _) = service().await;
    let mut events = service.subscribe(id(1)).expect("live");
    assert_eq!(said(&service, "burst").await.as_deref(), Ok("1 messages"));
    let Some(TurnEvent::Missed(missed)) = events.next().await else { panic!("it was too slow") };
    let mut shown = 0;
    loop {
        match events.next().await {
            Some(TurnEvent::Shown(_)) => shown += 1,
            Some(TurnEvent::Ended(messages)) => break assert_eq!(messages.len(), 2),
            other => panic!("{other:?}"),
        }
    }
    // With the beginning, which was among those missed.
    assert_eq!(missed + shown, 10_001);
    service.archive(id(1)).await.expect("live");
    assert_eq!(events.next().await, None);
}

// OC 117
#[tokio::test]
async fn only_what_is_pending_is_resumed() {
    let (service, _) = service().await;
    let resume = || StartTurn { execution_kind: ExecutionKind::ResumePending, ..StartTurn::text("") };
    assert_eq!(service.start_turn(id(1), resume()).await, Err(ServiceError::NoPendingBoundary));
    said(&service, "hello").await.expect("an answer");
    assert_eq!(service.start_turn(id(1), resume()).await, Err(ServiceError::NoPendingBoundary));
    service.start_turn(id(1), StartTurn::text("ask")).await.expect("a question");
    let resumed = service.start_turn(id(1), resume()).await.expect("the last word was not the agent's");
    assert_eq!((resumed.messages.len(), resumed.message_count), (0, 3));
}

// OC 118
#[tokio::test]
async fn there_are_never_more_conversations_than_allowed_and_none_after_a_failed_beginning() {
    let service = EphemeralSessionService::new(Counting::default(), 1);
    let (one, two) = tokio::join!(
        service.create_session(CreateSession::new(id(1))),
        service.create_session(CreateSession::new(id(2)))
    );
    assert_eq!((one, two), (Ok(None), Err(ServiceError::Full { limit: 1 })));
    service.archive(id(1)).await.expect("live");
    let failing = CreateSession { first_turn: Some(StartTurn::text("fail")), ..CreateSession::new(id(3)) };
    assert!(matches!(service.create_session(failing).await, Err(ServiceError::Agent { .. })));
    assert!(!service.has_live_session(id(3)).await);
    let asking = CreateSession { first_turn: Some(StartTurn::text("ask")), ..CreateSession::new(id(4)) };
    let asked = service.create_session(asking).await.expect("there is room").expect("a turn");
    assert!(matches!(asked.terminal, Terminal::CallbackPending(_)) && service.has_live_session(id(4)).await);
}

// OC 119
#[tokio::test]
async fn nothing_happens_after_a_conversation_is_archived() {
    let (service, agent) = service().await;
    let running = waiting(&service, &agent).await;
    service.archive(id(1)).await.expect("live");
    agent.go.add_permits(1);
    assert_eq!(running.await.expect("a task"), Err(ServiceError::Interrupted));
    assert_eq!(agent.effects.load(Ordering::SeqCst), 0);
    assert_eq!(service.archive(id(1)).await, Err(ServiceError::NotFound));
}

// OC 120
#[tokio::test]
async fn reads_do_not_wait_behind_a_turn() {
    let (service, agent) = service().await;
    said(&service, "hello").await.expect("an answer");
    let labelled = BTreeMap::from([("of".to_owned(), "me".to_owned())]);
    let other = CreateSession { labels: labelled.clone(), ..CreateSession::new(id(2)) };
    service.create_session(other).await.expect("there is room");
    let running = waiting(&service, &agent).await;
    let seen = service.read(id(1)).now_or_never().expect("at once").expect("live");
    assert!(seen.summary.is_running && seen.messages.len() == 2);
    let all = service.list(ConversationQuery::default()).now_or_never().expect("at once").expect("a list");
    assert_eq!(all.len(), 2);
    let query = ConversationQuery { labels: labelled, ..ConversationQuery::default() };
    let mine = service.list(query).now_or_never().expect("at once").expect("a list");
    assert_eq!(mine.iter().map(|summary| summary.session).collect::<Vec<_>>(), [id(2)]);
    assert!(service.has_live_session(id(1)).now_or_never().expect("at once"));
    running.abort();
}

#[tokio::test]
async fn context_is_appended_once_and_staged_while_a_turn_is_on() {
    let (service, agent) = service().await;
    let context = |key: &str, text: &str| SystemContext { key: key.into(), text: text.into() };
    let append = |key, text| service.append_system_context(id(1), context(key, text));
    assert!(matches!(append("a", "it rains").await, Ok(Appended::Applied(new)) if new.len() == 1));
    assert_eq!(append("a", "it rains").await, Ok(Appended::Duplicate));
    assert_eq!(append("a", "it snows").await, Err(ServiceError::Conflict { key: "a".into() }));
    let running = waiting(&service, &agent).await;
    assert_eq!(append("b", "it stopped").await, Ok(Appended::Staged));
    agent.go.add_permits(1);
    assert_eq!(running.await.expect("a task").as_deref(), Ok("2 messages"));
    let output = service.start_turn(id(1), StartTurn::text("hello")).await.expect("an answer");
    assert_eq!(output.messages.iter().map(text).collect::<Vec<_>>(), ["it stopped", "hello", "5 messages"]);
}

fn under(service: &Arc<Service>) -> RuntimeSessionAdapter {
    adapter(Arc::new(ServiceExecutor::new(Arc::clone(service) as Arc<dyn SessionService>)))
}

#[tokio::test]
async fn a_turn_costs_what_it_adds_however_long_the_conversation_is() {
    let service = Arc::new(EphemeralSessionService::new(Counting::default(), 10));
    let adapter = under(&service);
    let session = session(&adapter, 1).await;
    let mut costs = Vec::new();
    let mut after = Seq::ZERO;
    for turn in 0..300 {
        // As many digits in each answer, so that bytes can be compared.
        if turn == 50 || turn == 299 {
            after = last(&adapter, after).await.0;
        }
        offer(&session, turn, "hello").await.wait().await;
        if turn == 50 || turn == 299 {
            costs.push(last(&adapter, after).await);
        }
    }
    let of = |cost: &(Seq, usize, usize)| (cost.1, cost.2);
    assert_eq!(of(&costs[0]), of(&costs[1]), "entries and bytes of turn 50 and turn 299");
    let seen = service.read(id(1)).await.expect("live");
    assert_eq!(seen.summary.message_count, 600, "made live once, and extended by each turn");
}

/// The last position of session 1, and how many entries and bytes of deltas lie after a position.
async fn last(adapter: &RuntimeSessionAdapter, mut after: Seq) -> (Seq, usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    loop {
        let entries = adapter.store().read(id(1), after, 1_000).await.expect("entries");
        let Some(last) = entries.last() else { return (after, count, bytes) };
        after = last.seq;
        count += entries.len();
        for entry in entries {
            if let Record::RunEnded(ended) = &entry.record
                && let RunEnd::Completed { delta: Some(delta), .. } = &ended.end
            {
                bytes += delta.get().len();
            }
        }
    }
}

#[tokio::test]
async fn a_conversation_that_is_not_live_is_made_again_from_its_boundaries() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    for turn in 0..3_u128 {
        // Another process each time: nothing but the store is left.
        let service = Arc::new(EphemeralSessionService::new(Counting::default(), 10));
        let adapter = RuntimeSessionAdapter::builder().store(Arc::clone(&store)).build();
        let executor = Arc::new(ServiceExecutor::new(service as Arc<dyn SessionService>));
        adapter.ensure_session_with_executor(id(1), executor).await.expect("attached");
        let session = adapter.session(id(1)).await.expect("there");
        let expected = format!("{} messages", 2 * turn + 1);
        assert_eq!(result_text(offer(&session, turn, "hello").await.wait().await), expected);
        adapter.shutdown().await;
    }
}

// OC 122, 123
#[tokio::test]
async fn what_was_not_committed_is_not_known_to_the_next_attempt() {
    let faults = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let agent = Counting::default();
    let service = Arc::new(EphemeralSessionService::new(agent.clone(), 10));
    let executor = Arc::new(ServiceExecutor::new(Arc::clone(&service) as Arc<dyn SessionService>));
    let adapter = RuntimeSessionAdapter::builder().store(Arc::clone(&faults) as Arc<dyn Store>).build();
    adapter.ensure_session_with_executor(id(1), executor).await.expect("attached");
    let session = adapter.session(id(1)).await.expect("there");
    assert_eq!(result_text(offer(&session, 1, "hello").await.wait().await), "1 messages");
    let second = offer(&session, 2, "wait").await;
    agent.working.notified().await;
    // The turn will be part of the live conversation; its boundary will not be part of the journal.
    faults.fail(Call::Append, 1, Fault::Full);
    agent.go.add_permits(1);
    // Tried again, from what is committed: with the live conversation it would be five messages.
    agent.working.notified().await;
    agent.go.add_permits(1);
    drop(second);
    let of = windlass_runtime::store::InputRef::Id(prompt(2, "").id());
    let ended = session.completion(of).await.expect("known").wait().await;
    assert_eq!(result_text(ended), "3 messages");
    assert_eq!(agent.effects.load(Ordering::SeqCst), 2);
    assert_eq!(service.read(id(1)).await.expect("live").summary.message_count, 4);
}

// OC 115
#[tokio::test]
async fn a_cancelled_run_interrupts_the_turn_and_leaves_nothing_of_it() {
    let agent = Counting::default();
    let service = Arc::new(EphemeralSessionService::new(agent.clone(), 10));
    let adapter = under(&service);
    let session = session(&adapter, 1).await;
    assert_eq!(result_text(offer(&session, 1, "hello").await.wait().await), "1 messages");
    let waiting = offer(&session, 2, "wait").await;
    agent.working.notified().await;
    let cancelled = session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    assert!(matches!(cancelled, CancelOutcome::Cancelled { .. }), "{cancelled:?}");
    assert!(matches!(waiting.wait().await, CompletionOutcome::Abandoned(_)));
    assert_eq!(result_text(offer(&session, 3, "hello").await.wait().await), "3 messages");
    assert_eq!(agent.effects.load(Ordering::SeqCst), 0);
    let failed = offer(&session, 4, "fail").await.wait().await;
    assert_eq!(abandoned(failed), "agent_error: no");
    let CompletionOutcome::CallbackPending(tool) = offer(&session, 5, "ask").await.wait().await else {
        panic!("it asks")
    };
    assert_eq!(tool.tool_name, "ask_human");
}

// OC 124
#[tokio::test]
async fn context_that_is_not_kept_is_known_to_nobody() {
    let policy = windlass_runtime::policy_from_toml(
        r#"
        version = 7
        [[row]]
        kind = "external_event"
        decision = { deliver = "context", wake = false }
        [[row]]
        decision = { deliver = "next_run" }
        "#,
    );
    let faults = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let service = Arc::new(EphemeralSessionService::new(Counting::default(), 10));
    let executor = Arc::new(ServiceExecutor::new(Arc::clone(&service) as Arc<dyn SessionService>));
    let adapter = RuntimeSessionAdapter::builder()
        .store(Arc::clone(&faults) as Arc<dyn Store>)
        .policy(policy.expect("a good policy"))
        .build();
    adapter.ensure_session_with_executor(id(1), executor).await.expect("attached");
    let session = adapter.session(id(1)).await.expect("there");
    assert_eq!(result_text(offer(&session, 1, "hello").await.wait().await), "1 messages");
    let rain = |number: u128| {
        let id = InputId::from_uuid(uuid::Uuid::from_u128(number));
        Input::external_event(id, Timestamp::ZERO, "sky", "rain", json!({ "body": "it rains" }))
    };
    faults.fail(Call::Append, 1, Fault::Full);
    session.accept(rain(7)).await.expect_err("it cannot be kept");
    assert_eq!(service.read(id(1)).await.expect("live").summary.message_count, 2);
    assert_eq!(result_text(offer(&session, 2, "hello").await.wait().await), "3 messages");
    session.accept(rain(8)).await.expect("it is kept");
    assert_eq!(result_text(offer(&session, 3, "hello").await.wait().await), "6 messages");
}

#[tokio::test]
async fn a_step_that_is_committed_is_not_taken_again() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let process = async || {
        let agent = Counting::default();
        let service = Arc::new(EphemeralSessionService::new(agent.clone(), 10));
        let executor = Arc::new(ServiceExecutor::new(Arc::clone(&service) as Arc<dyn SessionService>));
        let adapter = RuntimeSessionAdapter::builder().store(Arc::clone(&store)).build();
        adapter.ensure_session_with_executor(id(1), executor).await.expect("attached");
        let session = adapter.session(id(1)).await.expect("there");
        (agent, service, adapter, session)
    };
    let (agent, _, adapter, session) = process().await;
    drop(offer(&session, 1, "step").await);
    agent.working.notified().await;
    drop(session);
    adapter.shutdown().await;
    // Another process goes on after the step.
    let (_, service, adapter, session) = process().await;
    let of = windlass_runtime::store::InputRef::Id(prompt(1, "").id());
    let ended = session.completion(of).await.expect("known").wait().await;
    assert_eq!(result_text(ended), "2 messages");
    assert_eq!(result_text(offer(&session, 2, "hello").await.wait().await), "4 messages");
    let seen = service.read(id(1)).await.expect("live");
    let words: Vec<String> = seen.messages.iter().map(text).collect();
    assert_eq!(words, ["step", "half", "2 messages", "hello", "4 messages"], "each once");
    assert_eq!(deltas(&adapter).await, [vec!["step", "half"], vec!["2 messages"], vec!["hello", "4 messages"]]);
}

#[tokio::test]
async fn a_turn_with_steps_leaves_the_live_conversation_as_it_is_committed() {
    let agent = Counting::default();
    let service = Arc::new(EphemeralSessionService::new(agent.clone(), 10));
    let adapter = under(&service);
    let session = session(&adapter, 1).await;
    let first = offer(&session, 1, "step").await;
    agent.working.notified().await;
    agent.go.add_permits(1);
    assert_eq!(result_text(first.wait().await), "1 messages");
    // Cut off after its step, of which the next turn knows.
    let cut = offer(&session, 2, "step").await;
    agent.working.notified().await;
    let cancelled = session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    assert!(matches!(cancelled, CancelOutcome::Cancelled { .. }), "{cancelled:?}");
    assert!(matches!(cut.wait().await, CompletionOutcome::Cancelled { .. }));
    assert_eq!(result_text(offer(&session, 3, "hello").await.wait().await), "6 messages");
    assert_eq!(service.read(id(1)).await.expect("live").summary.message_count, 7);
}

/// What each boundary of session 1 adds, in words.
async fn deltas(adapter: &RuntimeSessionAdapter) -> Vec<Vec<String>> {
    let entries = adapter.store().read(id(1), Seq::ZERO, 1_000).await.expect("entries");
    let delta = |entry: &Arc<Entry>| match &entry.record {
        Record::BoundaryCommitted(boundary) => boundary.delta.clone(),
        Record::RunEnded(ended) => match &ended.end {
            RunEnd::Completed { delta, .. } => delta.clone(),
            _ => None,
        },
        _ => None,
    };
    let words = |delta: JsonText| {
        let delta: Value = serde_json::from_str(delta.get()).expect("JSON");
        let messages = delta["messages"].as_array().expect("a list").clone();
        messages.iter().map(|message| message["content"].as_str().unwrap_or_default().to_owned()).collect()
    };
    entries.iter().filter_map(delta).map(words).collect()
}
