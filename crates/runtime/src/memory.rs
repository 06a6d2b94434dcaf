//! What does a store look like that forgets everything when its process ends?
//!
//! [`MemoryStore`] keeps the records themselves, shared with their session and never encoded, and rows per input that
//! are as small as they can be: a settled input costs 48 bytes, and only the newest [`SETTLED_KEPT`] of a session
//! have one at all. No lock is ever held across an await.

use crate::{
    clock::{Clock, SystemClock},
    documents::{Document, DocumentError, Documents, checked},
    store::{
        Append, IndexChange, InputQuery, InputRef, InputRow, ListQuery, Loaded, Opened, PutSnapshot, Room, SessionRow,
        SessionStatus, Store, StoreError, Usage, about_bytes,
    },
};
use async_trait::async_trait;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use windlass_core::{
    Entry, Fence, InputId, InputState, RunBoundaryReceipt, RunId, Seq, SessionId, Snapshot, Timestamp,
};

/// How many settled inputs of one session can at least be looked up; older ones are forgotten.
pub const SETTLED_KEPT: usize = 10_000;

/// Settled rows are kept and forgotten in chunks of so many, so that growing never copies what is there.
const CHUNK: usize = 256;

/// Sessions are spread over so many locks.
const SHARDS: usize = 16;

/// A [`Store`] in the memory of its process: for tests, for demonstrations, for agents whose work may vanish.
///
/// Keeps receipts as long as the entries that hold them: what a snapshot lets it forget is gone. Listing inputs scans
/// the sessions it lists; everything else costs what it returns.
#[derive(Debug)]
pub struct MemoryStore {
    shards: [Mutex<Shard>; SHARDS],
    /// The last fence given out. One count for all sessions, so that an owner of a deleted session never comes back
    /// to life when the session does.
    fence: AtomicU64,
    keys: RandomState,
    documents: Mutex<BTreeMap<(String, String), Document>>,
}

#[derive(Debug, Default)]
struct Shard {
    sessions: BTreeMap<SessionId, Box<Journal>>,
    pending: BTreeSet<SessionId>,
}

/// One session: its entries after `pruned`, and what is derived from all of them.
#[derive(Debug, Default)]
struct Journal {
    fence: Option<Fence>,
    pruned: Seq,
    entries: VecDeque<Arc<Entry>>,
    updated_at: Timestamp,
    status: SessionStatus,
    snapshot: Option<(Seq, Arc<Snapshot>)>,
    open: BTreeMap<InputId, OpenInput>,
    settled: VecDeque<Vec<SettledInput>>,
}

#[derive(Debug)]
struct OpenInput {
    key: u64,
    accepted: Seq,
}

#[derive(Debug)]
struct SettledInput {
    input: InputId,
    key: u64,
    accepted: Seq,
    settled: Seq,
    state: InputState,
    dead: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore {
            shards: Default::default(),
            fence: AtomicU64::new(0),
            keys: RandomState::new(),
            documents: Mutex::default(),
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn shard(&self, session: SessionId) -> MutexGuard<'_, Shard> {
        let spread = session.as_uuid().as_u128() as usize % SHARDS;
        // Every change of a shard is complete before anything in it can panic, so a poisoned one is still sound.
        self.shards[spread].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at one session, if it exists.
    fn peek<T>(&self, session: SessionId, look: impl FnOnce(&Journal) -> T) -> Option<T> {
        self.shard(session).sessions.get(&session).map(|journal| look(journal))
    }

    /// The ids of all sessions for which `of` has a place, in order, after `after`, at most `limit`.
    fn ids(&self, of: impl Fn(&Shard, &mut Vec<SessionId>), limit: usize) -> Vec<SessionId> {
        let mut ids = Vec::new();
        for shard in &self.shards {
            of(&shard.lock().unwrap_or_else(PoisonError::into_inner), &mut ids);
        }
        ids.sort_unstable();
        ids.truncate(limit);
        ids
    }

    /// Never zero, which stands for "no key".
    fn hash(&self, key: &windlass_core::IdempotencyKey) -> u64 {
        self.keys.hash_one(key).max(1)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn open(&self, session: SessionId) -> Result<Opened, StoreError> {
        let mut shard = self.shard(session);
        // Taken under the session's lock, so that of two openings the later one has the higher fence.
        let number = self.fence.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let fence = Fence(NonZeroU64::new(number).expect("a sum of one and more is not zero"));
        let journal = shard.sessions.entry(session).or_default();
        journal.fence = Some(fence);
        let Loaded { snapshot, tail } = journal.load();
        Ok(Opened { fence, snapshot, snapshot_bytes: 0, tail })
    }

    async fn load(&self, session: SessionId) -> Result<Option<Loaded>, StoreError> {
        Ok(self.peek(session, Journal::load))
    }

    async fn append(&self, append: Append) -> Result<(), StoreError> {
        #[cfg(debug_assertions)]
        append.entries.iter().for_each(|entry| assert_round_trip(entry));
        let told = append.tells_profile();
        let Append { session, fence, entries, index, mut status } = append;
        let mut shard = self.shard(session);
        let shard = &mut *shard;
        let journal = shard.sessions.get_mut(&session).filter(|journal| journal.fence == Some(fence));
        let journal = journal.ok_or(StoreError::Fenced { session })?;
        let next = journal.head().next();
        if entries.iter().zip(next.0..).any(|(entry, seq)| entry.seq != Seq(seq)) {
            return Err(StoreError::Conflict { session, next });
        }
        if let Some(last) = entries.last() {
            journal.updated_at = last.at;
        }
        journal.entries.extend(entries);
        for change in index {
            journal.index(change, |key| self.hash(key));
        }
        if journal.status.is_pending() != status.is_pending() {
            if status.is_pending() {
                shard.pending.insert(session)
            } else {
                shard.pending.remove(&session)
            };
        }
        if !told {
            status.profile = Arc::clone(&journal.status.profile);
            status.created_at = journal.status.created_at;
        }
        journal.status = status;
        Ok(())
    }

    async fn read(&self, session: SessionId, after: Seq, limit: u32) -> Result<Vec<Arc<Entry>>, StoreError> {
        let read = self.peek(session, |journal| {
            if after < journal.pruned {
                return Err(StoreError::Pruned { oldest: journal.pruned });
            }
            Ok(journal.after(after).take(limit as usize).cloned().collect())
        });
        let mut entries: Vec<Arc<Entry>> = read.unwrap_or(Ok(Vec::new()))?;
        let mut room = Room::page(limit);
        // Counted after the lock is given back, and roughly: nothing is copied.
        let taken = entries.iter().take_while(|entry| room.takes(about_bytes(&entry.record))).count();
        entries.truncate(taken);
        Ok(entries)
    }

    async fn put_snapshot(&self, put: PutSnapshot) -> Result<u64, StoreError> {
        let mut shard = self.shard(put.session);
        let journal = shard.sessions.get_mut(&put.session).filter(|journal| journal.fence == Some(put.fence));
        let journal = journal.ok_or(StoreError::Fenced { session: put.session })?;
        if put.at > journal.head() {
            return Err(StoreError::Conflict { session: put.session, next: journal.head().next() });
        }
        if journal.snapshot.as_ref().is_none_or(|(at, _)| *at <= put.at) {
            journal.snapshot = Some((put.at, put.snapshot));
            journal.forget(put.keep_after.min(put.at));
        }
        Ok(0)
    }

    async fn input(&self, session: SessionId, by: &InputRef) -> Result<Option<InputRow>, StoreError> {
        let row = self.peek(session, |journal| match by {
            // An id that the session has forgotten may be admitted anew, so the latest counts here as well.
            InputRef::Id(id) => latest(journal.rows(session).filter(|(row, _)| row.input == *id)),
            InputRef::Key(key) => {
                let hash = self.hash(key);
                latest(journal.rows(session).filter(|(_, key)| *key == hash))
            }
        });
        Ok(row.flatten().map(|(row, _)| row))
    }

    async fn inputs(&self, query: InputQuery) -> Result<Vec<InputRow>, StoreError> {
        let limit = query.limit as usize;
        let sessions = match query.session {
            Some(session) => vec![session],
            None => self.ids(|shard, ids| ids.extend(shard.sessions.keys()), usize::MAX),
        };
        let mut found = Vec::new();
        for session in sessions {
            let wanted =
                |row: &InputRow| query.after.is_none_or(|after| (row.session, row.input) > after) && query.wants(row);
            let of_tenant =
                |journal: &Journal| query.tenant.as_ref().is_none_or(|tenant| *tenant == journal.status.profile.tenant);
            let rows = self.peek(session, |journal| -> Vec<InputRow> {
                if of_tenant(journal) { journal.rows(session).map(|(row, _)| row).collect() } else { Vec::new() }
            });
            let mut rows = rows.unwrap_or_default();
            rows.sort_unstable_by_key(|row| (row.input, std::cmp::Reverse(row.accepted_seq)));
            rows.dedup_by_key(|row| row.input);
            found.extend(rows.into_iter().filter(wanted));
            if found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn receipt(
        &self,
        session: SessionId,
        run: RunId,
        sequence: u64,
    ) -> Result<Option<Arc<RunBoundaryReceipt>>, StoreError> {
        let receipt = self.peek(session, |journal| {
            let mut receipts = journal.entries.iter().rev().filter_map(|entry| entry.record.receipt());
            receipts.find(|receipt| receipt.run_id == run && receipt.sequence == sequence).cloned()
        });
        Ok(receipt.flatten())
    }

    async fn session(&self, session: SessionId) -> Result<Option<SessionRow>, StoreError> {
        Ok(self.peek(session, |journal| journal.row(session)).flatten())
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<SessionRow>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let limit = query.limit as usize;
        let range = (query.after.map_or(Unbounded, Excluded), Unbounded);
        let wanted = |journal: &Journal| journal.head() > Seq::ZERO && query.wants(&journal.status);
        let ids = self.ids(
            |shard, ids| {
                if query.pending {
                    let pending = shard.pending.range(range);
                    ids.extend(pending.filter(|id| wanted(&shard.sessions[*id])).take(limit));
                } else {
                    let all = shard.sessions.range(range);
                    ids.extend(all.filter(|(_, journal)| wanted(journal)).map(|(id, _)| id).take(limit));
                }
            },
            limit,
        );
        Ok(ids.into_iter().filter_map(|id| self.peek(id, |journal| journal.row(id)).flatten()).collect())
    }

    async fn usage(&self, tenant: Option<&str>) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for journal in shard.sessions.values() {
                if journal.head() > Seq::ZERO && journal.status.profile.tenant.as_deref() == tenant {
                    usage.sessions += 1;
                    usage.open_inputs += u64::from(journal.status.open_inputs);
                }
            }
        }
        Ok(usage)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn delete(&self, session: SessionId, fence: Fence) -> Result<(), StoreError> {
        let mut shard = self.shard(session);
        if shard.sessions.get(&session).is_some_and(|journal| journal.fence != Some(fence)) {
            return Err(StoreError::Fenced { session });
        }
        shard.sessions.remove(&session);
        shard.pending.remove(&session);
        Ok(())
    }
}

impl MemoryStore {
    fn documents(&self) -> MutexGuard<'_, BTreeMap<(String, String), Document>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Documents for MemoryStore {
    async fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DocumentError> {
        Ok(self.documents().get(&(kind.to_owned(), key.to_owned())).cloned())
    }

    async fn put(&self, kind: &str, key: &str, body: Value, expected: Option<u64>) -> Result<u64, DocumentError> {
        checked(kind, key, &body)?;
        let mut documents = self.documents();
        let name = (kind.to_owned(), key.to_owned());
        let found = documents.get(&name).map_or(0, |document| document.version);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let (kind, key) = name;
            return Err(DocumentError::Conflict { kind, key, expected, found });
        }
        let (key, version, updated_at) = (key.to_owned(), found + 1, SystemClock.now());
        documents.insert(name, Document { key, version, body, updated_at });
        Ok(version)
    }

    async fn list(&self, kind: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>, DocumentError> {
        let documents = self.documents();
        let from = (kind.to_owned(), after.unwrap_or_default().to_owned());
        let of_kind = documents.range(from..).take_while(|((other, _), _)| other == kind);
        let later = of_kind.filter(|((_, key), _)| after.is_none_or(|after| key.as_str() > after));
        Ok(later.take(limit as usize).map(|(_, document)| document.clone()).collect())
    }

    async fn delete(&self, kind: &str, key: &str) -> Result<bool, DocumentError> {
        Ok(self.documents().remove(&(kind.to_owned(), key.to_owned())).is_some())
    }
}

impl Journal {
    fn head(&self) -> Seq {
        Seq(self.pruned.0 + self.entries.len() as u64)
    }

    fn load(&self) -> Loaded {
        let from = self.snapshot.as_ref().map_or(self.pruned, |(at, _)| *at);
        Loaded { snapshot: self.snapshot.clone(), tail: self.after(from).cloned().collect() }
    }

    /// The entries after a position that is not pruned.
    fn after(&self, after: Seq) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().skip((after.0 - self.pruned.0).try_into().unwrap_or(usize::MAX))
    }

    fn forget(&mut self, up_to: Seq) {
        let gone = up_to.0.saturating_sub(self.pruned.0);
        self.entries.drain(..gone as usize);
        self.pruned = self.pruned.max(up_to);
        self.entries.shrink_to(self.entries.len() * 2);
    }

    fn index(&mut self, change: IndexChange, hash: impl Fn(&windlass_core::IdempotencyKey) -> u64) {
        match change {
            IndexChange::Accepted { input, key, kind: _, seq } => {
                self.open.insert(input, OpenInput { key: key.as_ref().map_or(0, hash), accepted: seq });
            }
            IndexChange::Settled { input, state, dead, seq } => {
                if let Some(OpenInput { key, accepted }) = self.open.remove(&input) {
                    self.settle(SettledInput { input, key, accepted, settled: seq, state, dead });
                }
            }
        }
    }

    fn settle(&mut self, row: SettledInput) {
        if self.settled.back().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first chunk grows with its session, for most sessions are small.
            let room = if self.settled.is_empty() { 0 } else { CHUNK };
            self.settled.push_back(Vec::with_capacity(room));
        }
        self.settled.back_mut().expect("a chunk was just made if there was none").push(row);
        if self.settled.len() > SETTLED_KEPT / CHUNK + 2 {
            self.settled.pop_front();
        }
    }

    /// Every row that is kept, and the hash of its key.
    fn rows(&self, session: SessionId) -> impl Iterator<Item = (InputRow, u64)> {
        let open = self.open.iter().map(move |(input, row)| {
            let (input, accepted_seq) = (*input, row.accepted);
            (InputRow { session, input, settled: None, dead: false, accepted_seq, settled_seq: None }, row.key)
        });
        let settled = self.settled.iter().flatten().map(move |row| {
            let (settled, settled_seq) = (Some(row.state), Some(row.settled));
            let (input, accepted_seq, dead) = (row.input, row.accepted, row.dead);
            (InputRow { session, input, settled, dead, accepted_seq, settled_seq }, row.key)
        });
        open.chain(settled)
    }

    fn row(&self, session: SessionId) -> Option<SessionRow> {
        let (head, updated_at, status) = (self.head(), self.updated_at, self.status.clone());
        Some(SessionRow { session, fence: self.fence?, head, updated_at, status })
    }
}

fn latest(rows: impl Iterator<Item = (InputRow, u64)>) -> Option<(InputRow, u64)> {
    rows.max_by_key(|(row, _)| row.accepted_seq)
}

/// This store never encodes, so debug builds make sure that every other store can.
#[cfg(debug_assertions)]
fn assert_round_trip(entry: &Entry) {
    let text = serde_json::to_string(entry).expect("every entry can be encoded");
    let back: Entry = serde_json::from_str(&text).expect("every encoded entry can be decoded");
    assert!(back == *entry, "an entry comes back as it was written: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store_suite::{Storage, exercise};

    #[derive(Default)]
    struct Memory(Arc<MemoryStore>);

    #[async_trait]
    impl Storage for Memory {
        async fn open(&self) -> Arc<dyn Store> {
            self.0.clone()
        }

        fn keeps_receipts(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn keeps_what_every_store_promises() {
        exercise(Memory::default).await;
    }

    #[test]
    fn a_settled_input_costs_48_bytes() {
        assert_eq!(size_of::<SettledInput>(), 48);
    }
}
