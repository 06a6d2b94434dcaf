//! How do these tests write real journals without the runtime?
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::sync::Arc;
use uuid::Uuid;
use windlass_core::{
    AcceptOptions, BoundaryOutput, Effect, Event, Fence, Incarnation, Input, InputId, Limits, PolicyTable, Record,
    RunReport, RunStart, Seq, Session, SessionId, Step, Terminal, Ticket, Timestamp,
};
use windlass_runtime::store::{Append, IndexChange, PutSnapshot, SessionStatus, Store, StoreError};
use windlass_sqlite::{SqliteOptions, SqliteStore};

pub(crate) fn session(number: u128) -> SessionId {
    SessionId::from_uuid(Uuid::from_u128(number))
}

pub(crate) fn input(number: u128) -> InputId {
    InputId::from_uuid(Uuid::from_u128(number))
}

/// A folder and a store in it.
pub(crate) fn store() -> (tempfile::TempDir, std::path::PathBuf, SqliteStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.db");
    let store = SqliteStore::open(&file, SqliteOptions::default()).expect("a store");
    (folder, file, store)
}

/// The owner of one session: steps it, and commits what it decides.
pub(crate) struct Owner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) session: Session,
    pub(crate) fence: Fence,
}

impl Owner {
    pub(crate) async fn open(store: Arc<dyn Store>, id: SessionId) -> Result<Owner, StoreError> {
        let opened = store.open(id).await?;
        let snapshot = opened.snapshot.as_ref().map(|(_, snapshot)| &**snapshot);
        let policy = Arc::new(PolicyTable::reference());
        let session = Session::recover(id, Limits::default(), policy, snapshot, opened.tail).expect("a good journal");
        let mut owner = Owner { store, session, fence: opened.fence };
        let incarnation = Incarnation::from_uuid(Uuid::from_u128(1));
        drop(owner.step(Event::Opened { incarnation, agent: None, same_process: false }).await?);
        Ok(owner)
    }

    pub(crate) async fn step(&mut self, event: Event) -> Result<Step, StoreError> {
        let now = Timestamp::from_micros(1_700_000_000_000_000 + self.session.head().0 as i64);
        let step = self.session.step(now, event);
        let mut index = Vec::new();
        for entry in &step.entries {
            if let Record::InputAccepted(accepted) = &entry.record {
                let (input, key) = (accepted.input.id(), accepted.input.header.idempotency_key.clone());
                index.push(IndexChange::Accepted { input, key, kind: accepted.input.kind(), seq: entry.seq });
            }
        }
        for ended in &step.settled {
            let (state, dead) = (ended.outcome.state(), ended.outcome.is_dead_letter());
            index.push(IndexChange::Settled { input: ended.input, state, dead, seq: ended.seq });
        }
        if !step.entries.is_empty() {
            let (session, fence, status) = (self.session.id(), self.fence, SessionStatus::of(&self.session));
            self.store.append(Append { session, fence, entries: step.entries.clone(), index, status }).await?;
        }
        Ok(step)
    }

    /// Admits a prompt. It is durable when this returns.
    pub(crate) async fn accept(&mut self, number: u128) -> Result<Option<RunStart>, StoreError> {
        let prompt = Input::prompt(input(number), Timestamp::ZERO, format!("prompt {number}"));
        let prompt = prompt.with_key(&format!("key-{number}")).expect("a good key");
        let options = AcceptOptions::default();
        let accept = Event::Accept { ticket: Ticket(1), input: Box::new(prompt), options };
        self.step(accept).await.map(started)
    }

    pub(crate) async fn attach(&mut self) -> Result<Option<RunStart>, StoreError> {
        self.step(Event::Attach { wakes: true }).await.map(started)
    }

    /// Runs what there is to run, with one intermediate boundary each, until nothing is left.
    pub(crate) async fn drain(&mut self, mut run: Option<RunStart>) -> Result<(), StoreError> {
        while let Some(start) = run {
            let output = BoundaryOutput { message_count: 1, ..BoundaryOutput::default() };
            let boundary = Event::Boundary { ticket: Ticket(2), attempt: start.attempt, output };
            drop(self.step(boundary).await?);
            let output = BoundaryOutput { message_count: 2, ..BoundaryOutput::default() };
            let report = RunReport::Done { output, terminal: Terminal::NoResult };
            run = started(self.step(Event::RunEnded { attempt: start.attempt, report }).await?);
        }
        Ok(())
    }

    pub(crate) async fn snapshot(&mut self, keep_after: Seq) -> Result<u64, StoreError> {
        let snapshot = Arc::new(self.session.snapshot());
        let (session, fence, at) = (self.session.id(), self.fence, self.session.head());
        self.store.put_snapshot(PutSnapshot { session, fence, at, snapshot, keep_after }).await
    }
}

fn started(step: Step) -> Option<RunStart> {
    step.effects.into_iter().find_map(|effect| match effect {
        Effect::StartRun(start) => Some(start),
        _ => None,
    })
}

/// A session that has run these prompts.
pub(crate) async fn converse(store: &SqliteStore, id: SessionId, prompts: std::ops::Range<u128>) -> Owner {
    let mut owner = Owner::open(Arc::new(store.clone()), id).await.expect("opened");
    let run = owner.attach().await.expect("attached");
    owner.drain(run).await.expect("run");
    for number in prompts {
        let run = owner.accept(number).await.expect("accepted");
        owner.drain(run).await.expect("run");
    }
    owner
}
