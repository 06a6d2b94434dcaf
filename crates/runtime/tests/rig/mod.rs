//! What do the tests of the runtime share? Time is paused, so nothing sleeps and every wait is exact.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{sync::Arc, time::Duration};
use windlass_core::{
    AcceptOutcome, Input, InputId, InputState, Limits, PolicyTable, RejectReason, Seq, SessionId, Timestamp,
};
use windlass_runtime::{
    Attachment, CompletionHandle, CompletionOutcome, FeedItem, ManualClock, RuntimeBuilder, RuntimeSessionAdapter,
    SessionHandle,
    memory::MemoryStore,
    object_blobs::ObjectBlobs,
    store::Store,
    testing::{ManualExecutor, Runs, faulty_store::FaultyStore, session},
};

pub const START: i64 = 1_700_000_000_000_000;

/// A runtime on a store that outlives it.
pub struct Rig {
    pub store: Arc<FaultyStore>,
    pub clock: Arc<ManualClock>,
    pub adapter: RuntimeSessionAdapter,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::on(Arc::new(MemoryStore::new()), |builder| builder)
    }

    pub fn with(change: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Rig {
        Rig::on(Arc::new(MemoryStore::new()), change)
    }

    pub fn on(store: Arc<dyn Store>, change: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Rig {
        let store = Arc::new(FaultyStore::new(store));
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_micros(START)));
        let builder = RuntimeSessionAdapter::builder()
            .store(Arc::clone(&store) as Arc<dyn Store>)
            .blobs(Arc::new(ObjectBlobs::in_memory()))
            .clock(Arc::clone(&clock) as Arc<dyn windlass_runtime::Clock>)
            .entries_kept(u64::MAX);
        Rig { store, clock, adapter: change(builder).build() }
    }

    /// As after a crash: another runtime on the same store, while the old one is left where it stood.
    pub fn crash(&self) -> Rig {
        Rig::on(Arc::clone(&self.store) as Arc<dyn Store>, |builder| builder)
    }

    /// A session with an executor in the hands of the test.
    pub async fn session(&self) -> (SessionHandle, Arc<ManualExecutor>, Runs) {
        let (executor, runs) = ManualExecutor::new();
        let handle = self.attach(&executor).await;
        (handle, executor, runs)
    }

    pub async fn attach(&self, executor: &Arc<ManualExecutor>) -> SessionHandle {
        let attachment = self.adapter.ensure_session_with_executor(session(1), Arc::clone(executor) as _).await;
        assert!(matches!(attachment, Ok(Attachment::Attached)), "{attachment:?}");
        self.handle().await
    }

    pub async fn handle(&self) -> SessionHandle {
        self.adapter.session(session(1)).await.expect("a session that was registered")
    }

    /// Names of the records of session 1.
    pub async fn records(&self) -> Vec<&'static str> {
        let entries = self.store.read(session(1), Seq::ZERO, 10_000).await.expect("a memory store can be read");
        entries.iter().map(|entry| entry.record.name()).collect()
    }
}

/// Accepts and keeps the handle to wait with.
pub async fn accept(handle: &SessionHandle, input: Input) -> CompletionHandle {
    let (outcome, completion) = handle.accept_with_completion(input).await.expect("the store works");
    assert!(matches!(outcome, AcceptOutcome::Accepted { .. }), "{outcome:?}");
    completion.expect("an input that waits has a handle")
}

pub fn rejected(outcome: AcceptOutcome) -> RejectReason {
    match outcome {
        AcceptOutcome::Rejected { reason } => reason,
        outcome => panic!("{outcome:?}"),
    }
}

pub fn text(outcome: CompletionOutcome) -> String {
    match outcome {
        CompletionOutcome::Completed(result) => result.text.clone(),
        outcome => panic!("{outcome:?}"),
    }
}

pub async fn state(handle: &SessionHandle, input: InputId) -> Option<InputState> {
    handle.input_state(input).await.expect("the store works")
}

pub fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

pub fn policy(toml: &str) -> PolicyTable {
    windlass_runtime::policy_from_toml(toml).expect("a good policy")
}

/// Entries of the feed until `count` have come.
pub async fn follow(handle: &SessionHandle, after: Seq, count: usize) -> Vec<&'static str> {
    let mut feed = handle.feed(after);
    let mut names = Vec::new();
    while names.len() < count {
        if let FeedItem::Entry(entry) = feed.next().await.expect("the store works") {
            names.push(entry.record.name());
        }
    }
    names
}

pub const SECOND: Duration = Duration::from_secs(1);

pub fn session_id(n: u128) -> SessionId {
    session(n)
}
