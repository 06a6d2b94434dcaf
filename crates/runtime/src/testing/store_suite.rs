//! What does every store promise, and does yours keep it?
//!
//! [`exercise`] runs all of [`PROPERTIES`] against storage of yours, each on fresh storage, and names those that fail.

use crate::store::{
    Append, IndexChange, InputQuery, InputRef, InputRow, ListQuery, Opened, PAGE_BYTES, PutSnapshot, SessionStatus,
    Store, StoreError, Usage,
};
use async_trait::async_trait;
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use std::{panic::AssertUnwindSafe, sync::Arc};
use uuid::Uuid;
use windlass_core::{
    Boundary, Entry, Fence, Gate, IdempotencyKey, InputId, InputKind, InputState, JsonText, Limits, PolicyTable,
    Profile, Record, RunApplyBoundary, RunBoundaryReceipt, RunId, RuntimeEpochId, Seq, Session, SessionId, Snapshot,
    Timestamp,
};

/// Storage that a store can be opened on.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Opens a store on the storage. The one opened before has been dropped, if there was one.
    async fn open(&self) -> Arc<dyn Store>;

    /// Whether receipts outlive the entries that hold them, as they do on disk.
    fn keeps_receipts(&self) -> bool {
        true
    }
}

/// A promise, as a sentence, and how to see whether it is kept.
pub type Property = (&'static str, fn(Arc<dyn Storage>) -> BoxFuture<'static, ()>);

/// Runs every property, each on storage that `make` has just made.
///
/// # Panics
/// If any does not hold; the message names all that do not.
pub async fn exercise<S: Storage>(make: impl Fn() -> S) {
    let mut broken = Vec::new();
    for (name, property) in PROPERTIES {
        if AssertUnwindSafe(property(Arc::new(make()))).catch_unwind().await.is_err() {
            broken.push(*name);
        }
    }
    assert!(broken.is_empty(), "the store does not keep these promises (what was seen stands above): {broken:#?}");
}

macro_rules! properties {
    ($($name:ident),+ $(,)?) => {
        /// All that a store promises.
        pub const PROPERTIES: &[Property] = &[$((stringify!($name), |storage| $name(storage).boxed())),+];
    };
}

properties! {
    a_session_that_was_never_opened_does_not_exist,
    an_opening_makes_a_session_and_raises_its_fence,
    entries_come_back_as_they_were_appended,
    an_append_with_an_old_fence_changes_nothing,
    an_append_without_an_opening_changes_nothing,
    an_append_that_is_not_next_changes_nothing,
    an_append_without_entries_changes_the_status_only,
    a_refused_append_leaves_no_rows_behind,
    sessions_are_apart,
    reading_resumes_anywhere,
    a_page_is_bounded_by_its_bytes,
    reading_beyond_the_head_is_empty,
    an_input_is_found_by_id_and_by_its_latest_key,
    an_id_that_is_admitted_again_has_one_row,
    inputs_are_listed_in_order_and_in_pages,
    dead_letters_are_listed_across_sessions,
    a_receipt_is_found_by_run_and_sequence,
    sessions_are_listed_in_order_and_in_pages,
    only_sessions_with_something_to_do_are_pending,
    a_session_without_entries_is_not_listed,
    a_profile_comes_with_the_record_that_says_it,
    sessions_are_listed_by_what_they_were_told,
    inputs_are_listed_by_tenant_and_state,
    usage_counts_a_tenants_sessions_and_open_inputs,
    a_probe_is_answered,
    what_is_loaded_is_what_an_owner_would_begin_with,
    a_snapshot_shortens_the_tail,
    a_snapshot_of_a_former_owner_is_dropped,
    an_older_snapshot_never_replaces_a_newer_one,
    pruned_entries_are_said_to_be_gone,
    receipts_and_rows_outlive_pruned_entries,
    a_deleted_session_is_gone,
    only_the_owner_deletes,
    an_owner_of_a_deleted_session_stays_fenced,
    many_sessions_append_at_once,
    of_two_appends_at_one_position_one_wins,
    a_dropped_append_is_whole_or_absent,
    reopening_keeps_everything,
}

fn session(number: u128) -> SessionId {
    SessionId::from_uuid(Uuid::from_u128(number))
}

fn input(number: u128) -> InputId {
    InputId::from_uuid(Uuid::from_u128(number))
}

fn run(number: u128) -> RunId {
    RunId::from_uuid(Uuid::from_u128(number))
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::new(text).expect("a good key")
}

fn at(seq: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + seq as i64)
}

/// The entry that a journal has at this position: a session that is created and then only takes notes.
fn entry(seq: u64) -> Arc<Entry> {
    let record = if seq == 1 {
        Record::SessionCreated {
            epoch: RuntimeEpochId::from_uuid(Uuid::from_u128(9)),
            agent: Some("ä \" agent".into()),
        }
    } else {
        Record::Noted { note: JsonText::encode(&format!("note {seq} ∞")).expect("text is JSON") }
    };
    Arc::new(Entry { seq: Seq(seq), at: at(seq), record })
}

fn entries(seqs: std::ops::RangeInclusive<u64>) -> Vec<Arc<Entry>> {
    seqs.map(entry).collect()
}

/// The state after the entries up to here.
fn snapshot(id: SessionId, seq: u64) -> Arc<Snapshot> {
    let policy = Arc::new(PolicyTable::reference());
    let session = Session::recover(id, Limits::default(), policy, None, entries(1..=seq)).expect("a good journal");
    Arc::new(session.snapshot())
}

fn append(session: SessionId, fence: Fence, seqs: std::ops::RangeInclusive<u64>) -> Append {
    let status = SessionStatus { open_inputs: *seqs.end() as u32, ..SessionStatus::default() };
    Append { session, fence, entries: entries(seqs), index: Vec::new(), status }
}

fn put(session: SessionId, fence: Fence, at: u64, keep_after: u64) -> PutSnapshot {
    PutSnapshot { session, fence, at: Seq(at), snapshot: snapshot(session, at), keep_after: Seq(keep_after) }
}

fn accepted(number: u128, key: Option<&str>, seq: u64) -> IndexChange {
    IndexChange::Accepted { input: input(number), key: key.map(self::key), kind: InputKind::Prompt, seq: Seq(seq) }
}

fn settled(number: u128, dead: bool, seq: u64) -> IndexChange {
    let state = if dead { InputState::Abandoned } else { InputState::Consumed };
    IndexChange::Settled { input: input(number), state, dead, seq: Seq(seq) }
}

fn boundary(seq: u64, run: RunId, sequence: u64) -> Arc<Entry> {
    let receipt = Arc::new(RunBoundaryReceipt {
        run_id: run,
        sequence,
        boundary: RunApplyBoundary::RunStart,
        contributing_input_ids: vec![input(1)],
        conversation_digest: None,
        message_count: sequence + 1,
        chain: windlass_core::ChainHash([sequence as u8; 32]),
    });
    let record = Record::BoundaryCommitted(Arc::new(Boundary { receipt, delta: None }));
    Arc::new(Entry { seq: Seq(seq), at: at(seq), record })
}

async fn open(store: &Arc<dyn Store>, session: SessionId) -> Opened {
    store.open(session).await.expect("the session opens")
}

/// Opens a session and appends its first entries.
async fn begin(store: &Arc<dyn Store>, session: SessionId, length: u64) -> Fence {
    let fence = open(store, session).await.fence;
    store.append(append(session, fence, 1..=length)).await.expect("appended");
    fence
}

async fn journal(store: &Arc<dyn Store>, session: SessionId) -> Vec<Arc<Entry>> {
    store.read(session, Seq::ZERO, u32::MAX).await.expect("read")
}

async fn ids(store: &Arc<dyn Store>, query: InputQuery) -> Vec<(SessionId, InputId)> {
    let rows = store.inputs(query).await.expect("listed");
    rows.into_iter().map(|row| (row.session, row.input)).collect()
}

async fn a_session_that_was_never_opened_does_not_exist(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    assert_eq!(store.session(session(1)).await.expect("asked"), None);
    assert_eq!(journal(&store, session(1)).await, []);
    assert_eq!(store.input(session(1), &InputRef::Id(input(1))).await.expect("asked"), None);
    assert_eq!(store.receipt(session(1), run(1), 0).await.expect("asked"), None);
}

async fn an_opening_makes_a_session_and_raises_its_fence(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let first = open(&store, session(1)).await;
    assert!(first.snapshot.is_none() && first.tail.is_empty());
    let second = open(&store, session(1)).await;
    assert!(second.fence > first.fence);
    let row = store.session(session(1)).await.expect("asked").expect("it exists");
    assert_eq!((row.fence, row.head, row.status), (second.fence, Seq::ZERO, SessionStatus::default()));
}

async fn entries_come_back_as_they_were_appended(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 2).await;
    let status = SessionStatus {
        gate: windlass_core::Gate::Retired,
        held: true,
        open_inputs: 7,
        running: true,
        pending: true,
        due_at: Some(at(77)),
        agent: Some("an agent".into()),
        ..SessionStatus::default()
    };
    let last = Append { status: status.clone(), ..append(session(1), fence, 3..=5) };
    store.append(last).await.expect("appended");
    assert_eq!(journal(&store, session(1)).await, entries(1..=5));
    let row = store.session(session(1)).await.expect("asked").expect("it exists");
    assert_eq!((row.head, row.updated_at, row.status), (Seq(5), at(5), status));
    assert_eq!(open(&store, session(1)).await.tail, entries(1..=5));
}

async fn an_append_with_an_old_fence_changes_nothing(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let old = begin(&store, session(1), 1).await;
    open(&store, session(1)).await;
    let refused = store.append(append(session(1), old, 2..=2)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { session: id }) if id == session(1)), "{refused:?}");
    assert_eq!(journal(&store, session(1)).await, entries(1..=1));
}

async fn an_append_without_an_opening_changes_nothing(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = open(&store, session(1)).await.fence;
    let refused = store.append(append(session(2), fence, 1..=1)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    assert_eq!(store.session(session(2)).await.expect("asked"), None);
}

async fn an_append_that_is_not_next_changes_nothing(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 2).await;
    for seqs in [1..=1, 2..=3, 4..=4] {
        let refused = store.append(append(session(1), fence, seqs)).await;
        assert!(matches!(refused, Err(StoreError::Conflict { next: Seq(3), .. })), "{refused:?}");
    }
    let gap = Append { entries: vec![entry(3), entry(5)], ..append(session(1), fence, 3..=3) };
    assert!(matches!(store.append(gap).await, Err(StoreError::Conflict { .. })));
    assert_eq!(journal(&store, session(1)).await, entries(1..=2));
    store.append(append(session(1), fence, 3..=3)).await.expect("the next one is taken");
}

async fn an_append_without_entries_changes_the_status_only(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 2).await;
    let status = SessionStatus { pending: true, ..SessionStatus::default() };
    let change = Append { entries: Vec::new(), status: status.clone(), ..append(session(1), fence, 3..=3) };
    store.append(change).await.expect("appended");
    let row = store.session(session(1)).await.expect("asked").expect("it exists");
    assert_eq!((row.head, row.updated_at, row.status), (Seq(2), at(2), status));
}

async fn a_refused_append_leaves_no_rows_behind(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let old = begin(&store, session(1), 1).await;
    let new = open(&store, session(1)).await.fence;
    let status = SessionStatus { pending: true, ..SessionStatus::default() };
    let index = vec![accepted(1, Some("k"), 2)];
    let entries = vec![boundary(2, run(1), 0)];
    let fenced = Append { session: session(1), fence: old, entries, index, status };
    assert!(store.append(fenced.clone()).await.is_err());
    let conflict = Append { fence: new, entries: vec![boundary(3, run(1), 0)], ..fenced };
    assert!(store.append(conflict).await.is_err());
    assert_eq!(store.input(session(1), &InputRef::Id(input(1))).await.expect("asked"), None);
    assert_eq!(store.input(session(1), &InputRef::Key(key("k"))).await.expect("asked"), None);
    assert_eq!(store.receipt(session(1), run(1), 0).await.expect("asked"), None);
    assert!(
        store.list(ListQuery { pending: true, limit: 9, ..ListQuery::default() }).await.expect("listed").is_empty()
    );
}

async fn sessions_are_apart(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let one = begin(&store, session(1), 1).await;
    let two = begin(&store, session(2), 3).await;
    let same = |fence, seq, session| Append {
        index: vec![accepted(7, Some("same"), seq)],
        ..append(session, fence, seq..=seq)
    };
    // Both have an input of the same id and key, and one is fenced while the other is not.
    store.append(same(one, 2, session(1))).await.expect("appended");
    open(&store, session(1)).await;
    assert!(store.append(append(session(1), one, 3..=3)).await.is_err());
    store.append(same(two, 4, session(2))).await.expect("appended");
    assert_eq!(journal(&store, session(1)).await, entries(1..=2));
    assert_eq!(journal(&store, session(2)).await, entries(1..=4));
    for (id, seq) in [(session(1), Seq(2)), (session(2), Seq(4))] {
        let row = store.input(id, &InputRef::Key(key("same"))).await.expect("asked").expect("it is there");
        assert_eq!((row.session, row.accepted_seq), (id, seq));
    }
}

async fn reading_resumes_anywhere(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    begin(&store, session(1), 10).await;
    let mut seen = Vec::new();
    loop {
        let page = store.read(session(1), Seq(seen.len() as u64), 3).await.expect("read");
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, entries(1..=10));
}

async fn a_page_is_bounded_by_its_bytes(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 1).await;
    // Of a page: nearly all, twice a third of what two may have together, more than all, and little.
    let shares = [90, 30, 30, 30, 250, 1, 1].map(|percent| PAGE_BYTES * percent / 100);
    let long = |(seq, bytes)| {
        let record = Record::Noted { note: JsonText::encode(&"x".repeat(bytes)).expect("text is JSON") };
        Arc::new(Entry { seq: Seq(seq), at: at(seq), record })
    };
    let written: Vec<_> = (2..).zip(shares).map(long).collect();
    store.append(Append { entries: written.clone(), ..append(session(1), fence, 2..=2) }).await.expect("appended");
    let (mut seen, mut pages) = (Vec::new(), Vec::new());
    loop {
        let after = seen.last().map_or(Seq(1), |entry: &Arc<Entry>| entry.seq);
        let page = store.read(session(1), after, 9).await.expect("read");
        if page.is_empty() {
            break;
        }
        pages.push(page.len());
        seen.extend(page);
    }
    assert_eq!(pages, [1, 3, 1, 2], "each takes what it can, and one entry at least");
    assert!(seen == written);
    // Whoever opens the session needs all of it.
    assert_eq!(open(&store, session(1)).await.tail.len(), 1 + written.len());
}

async fn reading_beyond_the_head_is_empty(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    begin(&store, session(1), 2).await;
    assert_eq!(store.read(session(1), Seq(2), 5).await.expect("read"), []);
    assert_eq!(store.read(session(1), Seq(99), 5).await.expect("read"), []);
    assert_eq!(store.read(session(1), Seq::ZERO, 0).await.expect("read"), []);
}

async fn an_input_is_found_by_id_and_by_its_latest_key(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 1).await;
    let index = vec![accepted(1, Some("k"), 2), settled(1, false, 3), accepted(2, Some("k"), 4), accepted(3, None, 4)];
    store.append(Append { index, ..append(session(1), fence, 2..=4) }).await.expect("appended");
    let by = async |by: InputRef| store.input(session(1), &by).await.expect("asked");
    let first = InputRow {
        session: session(1),
        input: input(1),
        settled: Some(InputState::Consumed),
        dead: false,
        accepted_seq: Seq(2),
        settled_seq: Some(Seq(3)),
    };
    let second = InputRow { input: input(2), settled: None, accepted_seq: Seq(4), settled_seq: None, ..first.clone() };
    let third = InputRow { input: input(3), ..second.clone() };
    assert_eq!(by(InputRef::Id(input(1))).await, Some(first));
    assert_eq!(by(InputRef::Key(key("k"))).await, Some(second));
    assert_eq!(by(InputRef::Id(input(3))).await, Some(third));
    assert_eq!(by(InputRef::Id(input(4))).await, None);
    assert_eq!(by(InputRef::Key(key("K"))).await, None);
    // The older one still has the key when the newer one is over.
    store
        .append(Append { index: vec![settled(2, true, 5)], ..append(session(1), fence, 5..=5) })
        .await
        .expect("appended");
    let latest = by(InputRef::Key(key("k"))).await.expect("found");
    assert_eq!((latest.input, latest.dead, latest.settled), (input(2), true, Some(InputState::Abandoned)));
}

/// A session remembers ids for a while only; what it has forgotten it may admit again.
async fn an_id_that_is_admitted_again_has_one_row(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 1).await;
    let index = vec![accepted(1, Some("old"), 2), settled(1, true, 2), accepted(1, None, 3), settled(1, false, 4)];
    store.append(Append { index, ..append(session(1), fence, 2..=4) }).await.expect("appended");
    let row = store.input(session(1), &InputRef::Id(input(1))).await.expect("asked").expect("it is there");
    assert_eq!((row.accepted_seq, row.settled_seq, row.dead), (Seq(3), Some(Seq(4)), false));
    let all = InputQuery { limit: 9, ..InputQuery::default() };
    assert_eq!(store.inputs(all.clone()).await.expect("listed"), [row]);
    assert_eq!(ids(&store, InputQuery { dead: true, ..all }).await, []);
}

async fn inputs_are_listed_in_order_and_in_pages(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    for number in [3, 1, 2] {
        let fence = begin(&store, session(number), 1).await;
        let index = vec![accepted(9, None, 2), accepted(4, None, 2), accepted(6, None, 2), settled(6, false, 2)];
        store.append(Append { index, ..append(session(number), fence, 2..=2) }).await.expect("appended");
    }
    let all: Vec<_> = [1, 2, 3].into_iter().flat_map(|s| [4, 6, 9].map(|i| (session(s), input(i)))).collect();
    let mut seen = Vec::new();
    loop {
        let after = seen.last().copied();
        let page = ids(&store, InputQuery { after, limit: 2, ..InputQuery::default() }).await;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, all);
    let of_two = InputQuery { session: Some(session(2)), limit: 9, ..InputQuery::default() };
    assert_eq!(ids(&store, of_two.clone()).await, all[3..6]);
    assert_eq!(ids(&store, InputQuery { after: Some(all[3]), ..of_two.clone() }).await, all[4..6]);
    assert_eq!(ids(&store, InputQuery { after: Some(all[8]), ..of_two.clone() }).await, []);
    assert_eq!(ids(&store, InputQuery { open: Some(true), ..of_two.clone() }).await, [all[3], all[5]]);
    assert_eq!(ids(&store, InputQuery { open: Some(false), ..of_two }).await, [all[4]]);
}

async fn dead_letters_are_listed_across_sessions(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    for number in [2, 1] {
        let fence = begin(&store, session(number), 1).await;
        let index = vec![accepted(1, None, 2), settled(1, true, 3), accepted(2, None, 2), settled(2, false, 3)];
        store.append(Append { index, ..append(session(number), fence, 2..=3) }).await.expect("appended");
    }
    let dead = InputQuery { dead: true, limit: 9, ..InputQuery::default() };
    assert_eq!(ids(&store, dead.clone()).await, [(session(1), input(1)), (session(2), input(1))]);
    assert_eq!(ids(&store, InputQuery { session: Some(session(2)), ..dead }).await, [(session(2), input(1))]);
}

async fn a_receipt_is_found_by_run_and_sequence(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 1).await;
    let entries = vec![boundary(2, run(1), 0), boundary(3, run(1), 1), boundary(4, run(2), 0)];
    store.append(Append { entries: entries.clone(), ..append(session(1), fence, 2..=4) }).await.expect("appended");
    for (entry, (run, sequence)) in entries.iter().zip([(run(1), 0), (run(1), 1), (run(2), 0)]) {
        let found = store.receipt(session(1), run, sequence).await.expect("asked");
        assert_eq!(found.as_ref(), entry.record.receipt());
    }
    assert_eq!(store.receipt(session(1), run(1), 2).await.expect("asked"), None);
    assert_eq!(store.receipt(session(2), run(1), 0).await.expect("asked"), None);
}

async fn listed(store: &Arc<dyn Store>, query: ListQuery) -> Vec<SessionId> {
    store.list(query).await.expect("listed").into_iter().map(|row| row.session).collect()
}

async fn sessions_are_listed_in_order_and_in_pages(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    for number in [5, 1, 4, 2, 3] {
        begin(&store, session(number), 1).await;
    }
    let mut seen = Vec::new();
    loop {
        let page = listed(&store, ListQuery { after: seen.last().copied(), limit: 2, ..ListQuery::default() }).await;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, [1, 2, 3, 4, 5].map(session));
}

async fn only_sessions_with_something_to_do_are_pending(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let now = SessionStatus { pending: true, ..SessionStatus::default() };
    let later = SessionStatus { due_at: Some(at(9)), ..SessionStatus::default() };
    let never = SessionStatus::default();
    let mut fences = Vec::new();
    for (number, status) in [(1, &now), (2, &never), (3, &later), (4, &now)] {
        let fence = open(&store, session(number)).await.fence;
        let append = Append { status: status.clone(), ..append(session(number), fence, 1..=1) };
        store.append(append).await.expect("appended");
        fences.push(fence);
    }
    let pending = |after, limit| ListQuery { pending: true, after, limit, ..ListQuery::default() };
    assert_eq!(listed(&store, pending(None, 9)).await, [1, 3, 4].map(session));
    assert_eq!(listed(&store, pending(None, 2)).await, [1, 3].map(session));
    assert_eq!(listed(&store, pending(Some(session(1)), 9)).await, [3, 4].map(session));
    let done = Append { status: never, ..append(session(1), fences[0], 2..=2) };
    store.append(done).await.expect("appended");
    let begun = Append { status: now, ..append(session(2), fences[1], 2..=2) };
    store.append(begun).await.expect("appended");
    assert_eq!(listed(&store, pending(None, 9)).await, [2, 3, 4].map(session));
}

async fn a_session_without_entries_is_not_listed(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    open(&store, session(1)).await;
    begin(&store, session(2), 1).await;
    assert_eq!(listed(&store, ListQuery { limit: 9, ..ListQuery::default() }).await, [session(2)]);
    assert_eq!(store.usage(None).await.expect("counted").sessions, 1);
}

/// A new session that is told this, with so many open inputs and this gate.
async fn told(store: &Arc<dyn Store>, number: u128, agent: &str, gate: Gate, open_inputs: u32, profile: Profile) {
    let id = session(number);
    let fence = open(store, id).await.fence;
    let profile = Arc::new(profile);
    let record = Record::ProfileSet { profile: Arc::clone(&profile) };
    let entries = vec![entry(1), Arc::new(Entry { seq: Seq(2), at: at(2), record })];
    let agent = Some(agent.into());
    let status = SessionStatus { gate, open_inputs, agent, profile, created_at: at(1), ..SessionStatus::default() };
    store.append(Append { session: id, fence, entries, index: Vec::new(), status }).await.expect("appended");
}

fn profile(tenant: &str, name: &str, labels: &[(&str, &str)]) -> Profile {
    let text = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Profile { tenant: text(tenant), name: text(name), labels, ..Profile::default() }
}

async fn a_profile_comes_with_the_record_that_says_it(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let said = Profile { keep_alive: true, policy: Some("p@2".into()), ..profile("acme", "näme", &[("k \" ", "{}")]) };
    told(&store, 1, "a", Gate::Open, 3, said.clone()).await;
    let fence = open(&store, session(1)).await.fence;
    let unsaid = SessionStatus { open_inputs: 4, profile: Arc::default(), ..SessionStatus::default() };
    store.append(Append { status: unsaid, ..append(session(1), fence, 3..=3) }).await.expect("appended");
    drop(store);
    let row = storage.open().await.session(session(1)).await.expect("asked").expect("it exists");
    assert_eq!((&*row.status.profile, row.status.created_at), (&said, at(1)));
    assert_eq!((row.status.open_inputs, row.status.agent), (4, None), "the rest is as the last append said");
}

async fn sessions_are_listed_by_what_they_were_told(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let (red, both) = ([("colour", "red")], [("colour", "red"), ("size", "")]);
    told(&store, 5, "echo", Gate::Open, 0, profile("", "five", &red)).await;
    told(&store, 4, "echo", Gate::Retired, 0, profile("acme", "four", &both)).await;
    told(&store, 3, "other", Gate::Open, 0, profile("acme", "", &red)).await;
    told(&store, 2, "other", Gate::Open, 0, profile("acme", "four", &[])).await;
    told(&store, 1, "echo", Gate::Open, 0, profile("default", "", &[("colour", "blue"), ("red", "colour")])).await;
    let all = || ListQuery { limit: 9, ..ListQuery::default() };
    let tenant = |name: &str| Some((!name.is_empty()).then(|| Arc::from(name)));
    let labels = |labels: &[(&str, &str)]| -> Vec<(String, String)> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let cases: Vec<(&str, ListQuery, Vec<u128>)> = vec![
        ("all", all(), vec![1, 2, 3, 4, 5]),
        ("of the default tenant", ListQuery { tenant: tenant(""), ..all() }, vec![5]),
        ("of a tenant called default", ListQuery { tenant: tenant("default"), ..all() }, vec![1]),
        ("of a tenant", ListQuery { tenant: tenant("acme"), ..all() }, vec![2, 3, 4]),
        ("of a tenant, a page", ListQuery { tenant: tenant("acme"), limit: 2, ..all() }, vec![2, 3]),
        ("of a tenant, the next", ListQuery { tenant: tenant("acme"), after: Some(session(3)), ..all() }, vec![4]),
        ("of nobody", ListQuery { tenant: tenant("acm"), ..all() }, vec![]),
        ("of an agent", ListQuery { agent: Some("echo".into()), ..all() }, vec![1, 4, 5]),
        ("of a name", ListQuery { name: Some("four".into()), ..all() }, vec![2, 4]),
        ("of a name and a tenant", ListQuery { name: Some("five".into()), tenant: tenant("acme"), ..all() }, vec![]),
        ("with a label", ListQuery { labels: labels(&red), ..all() }, vec![3, 4, 5]),
        ("with two labels", ListQuery { labels: labels(&both), ..all() }, vec![4]),
        (
            "with a label that has two values",
            ListQuery { labels: labels(&[("colour", "red"), ("colour", "blue")]), ..all() },
            vec![],
        ),
        ("with a label twice", ListQuery { labels: labels(&[red[0], red[0]]), ..all() }, vec![3, 4, 5]),
        ("with a gate", ListQuery { gate: Some(Gate::Retired), ..all() }, vec![4]),
        (
            "with all of it",
            ListQuery {
                tenant: tenant("acme"),
                agent: Some("other".into()),
                labels: labels(&red),
                gate: Some(Gate::Open),
                ..all()
            },
            vec![3],
        ),
        ("pending", ListQuery { pending: true, tenant: tenant("acme"), ..all() }, vec![]),
    ];
    for (case, query, expected) in cases {
        let expected: Vec<_> = expected.into_iter().map(session).collect();
        assert_eq!(listed(&store, query).await, expected, "{case}");
    }
}

async fn inputs_are_listed_by_tenant_and_state(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    for (number, tenant) in [(1, "acme"), (2, ""), (3, "acme")] {
        told(&store, number, "a", Gate::Open, 0, profile(tenant, "", &[])).await;
        let fence = open(&store, session(number)).await.fence;
        let index = vec![
            accepted(1, None, 3),
            accepted(2, None, 3),
            settled(2, true, 3),
            accepted(3, None, 3),
            settled(3, false, 3),
        ];
        store.append(Append { index, ..append(session(number), fence, 3..=3) }).await.expect("appended");
    }
    let of =
        |tenant: Option<&str>| InputQuery { tenant: Some(tenant.map(Arc::from)), limit: 9, ..InputQuery::default() };
    let pairs = |pairs: &[(u128, u128)]| -> Vec<_> { pairs.iter().map(|(s, i)| (session(*s), input(*i))).collect() };
    assert_eq!(ids(&store, InputQuery { dead: true, ..of(Some("acme")) }).await, pairs(&[(1, 2), (3, 2)]));
    assert_eq!(ids(&store, InputQuery { dead: true, ..of(None) }).await, pairs(&[(2, 2)]));
    assert_eq!(ids(&store, of(Some("nobody"))).await, []);
    let stranger = InputQuery { session: Some(session(1)), ..of(None) };
    assert_eq!(ids(&store, stranger).await, [], "a session of another tenant has no inputs");
    for (state, expected) in [
        (InputState::Queued, &[(2, 1)][..]),
        (InputState::Abandoned, &[(2, 2)]),
        (InputState::Consumed, &[(2, 3)]),
        (InputState::Coalesced, &[]),
    ] {
        let listed = ids(&store, InputQuery { state: Some(state), ..of(None) }).await;
        assert_eq!(listed, pairs(expected), "{state:?}");
    }
    let neither = InputQuery { state: Some(InputState::Queued), open: Some(false), ..of(None) };
    assert_eq!(ids(&store, neither).await, []);
}

async fn usage_counts_a_tenants_sessions_and_open_inputs(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    for (number, tenant, open_inputs) in [(1, "acme", 3), (2, "", 5), (3, "acme", 4)] {
        told(&store, number, "a", Gate::Open, open_inputs, profile(tenant, "", &[])).await;
    }
    for (tenant, sessions, open_inputs) in [(Some("acme"), 2, 7), (None, 1, 5), (Some("nobody"), 0, 0)] {
        assert_eq!(store.usage(tenant).await.expect("counted"), Usage { sessions, open_inputs }, "{tenant:?}");
    }
    let fence = open(&store, session(1)).await.fence;
    store.delete(session(1), fence).await.expect("deleted");
    let left = Usage { sessions: 1, open_inputs: 4 };
    assert_eq!(store.usage(Some("acme")).await.expect("counted"), left);
}

async fn a_probe_is_answered(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    begin(&store, session(1), 2).await;
    for _ in 0..3 {
        store.probe().await.expect("it takes appends");
    }
    assert_eq!(journal(&store, session(1)).await, entries(1..=2));
}

async fn what_is_loaded_is_what_an_owner_would_begin_with(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    assert!(store.load(session(1)).await.expect("loaded").is_none());
    let fence = begin(&store, session(1), 6).await;
    store.put_snapshot(put(session(1), fence, 4, 2)).await.expect("put");
    let loaded = store.load(session(1)).await.expect("loaded").expect("it exists");
    store.append(append(session(1), fence, 7..=7)).await.expect("loading raised no fence");
    assert_eq!((loaded.snapshot, loaded.tail), (Some((Seq(4), snapshot(session(1), 4))), entries(5..=6)));
}

async fn a_snapshot_shortens_the_tail(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 6).await;
    store.put_snapshot(put(session(1), fence, 4, 0)).await.expect("put");
    let opened = open(&store, session(1)).await;
    assert_eq!(opened.snapshot, Some((Seq(4), snapshot(session(1), 4))));
    assert_eq!(opened.tail, entries(5..=6));
    assert_eq!(journal(&store, session(1)).await, entries(1..=6), "nothing was pruned");
    store.append(append(session(1), opened.fence, 7..=7)).await.expect("appended");
    store.put_snapshot(put(session(1), opened.fence, 7, 4)).await.expect("put");
    let opened = open(&store, session(1)).await;
    assert_eq!(opened.snapshot, Some((Seq(7), snapshot(session(1), 7))));
    assert_eq!(opened.tail, []);
}

async fn a_snapshot_of_a_former_owner_is_dropped(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let old = begin(&store, session(1), 4).await;
    open(&store, session(1)).await;
    let refused = store.put_snapshot(put(session(1), old, 4, 4)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    assert_eq!(open(&store, session(1)).await.tail, entries(1..=4));
}

async fn an_older_snapshot_never_replaces_a_newer_one(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 6).await;
    store.put_snapshot(put(session(1), fence, 5, 0)).await.expect("put");
    store.put_snapshot(put(session(1), fence, 3, 0)).await.expect("put");
    let opened = open(&store, session(1)).await;
    assert_eq!(opened.snapshot.map(|(at, _)| at), Some(Seq(5)));
    let beyond = store.put_snapshot(PutSnapshot { at: Seq(9), ..put(session(1), opened.fence, 6, 0) }).await;
    assert!(beyond.is_err(), "a snapshot covers committed entries only");
}

async fn pruned_entries_are_said_to_be_gone(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 6).await;
    store.put_snapshot(put(session(1), fence, 5, 3)).await.expect("put");
    for after in [0, 2] {
        let gone = store.read(session(1), Seq(after), 9).await;
        assert!(matches!(gone, Err(StoreError::Pruned { oldest: Seq(3) })), "{gone:?}");
    }
    assert_eq!(store.read(session(1), Seq(3), 9).await.expect("read"), entries(4..=6));
    store.append(append(session(1), fence, 7..=7)).await.expect("appended");
    assert_eq!(open(&store, session(1)).await.tail, entries(6..=7));
}

async fn receipts_and_rows_outlive_pruned_entries(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 1).await;
    let entries = vec![boundary(2, run(1), 0), boundary(3, run(1), 1)];
    let index = vec![accepted(1, Some("k"), 2), settled(1, false, 3)];
    let noted = Append { entries: entries.clone(), index, ..append(session(1), fence, 2..=3) };
    store.append(noted).await.expect("appended");
    let taken = PutSnapshot { at: Seq(3), ..put(session(1), fence, 1, 3) };
    store.put_snapshot(PutSnapshot { keep_after: Seq(3), ..taken }).await.expect("put");
    assert!(store.input(session(1), &InputRef::Key(key("k"))).await.expect("asked").is_some());
    let found = store.receipt(session(1), run(1), 1).await.expect("asked");
    let expected = storage.keeps_receipts().then(|| entries[1].record.receipt()).flatten();
    assert_eq!(found.as_ref(), expected);
}

async fn a_deleted_session_is_gone(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = open(&store, session(1)).await.fence;
    let status = SessionStatus { pending: true, ..SessionStatus::default() };
    let entries = vec![entry(1), boundary(2, run(1), 0)];
    let index = vec![accepted(1, Some("k"), 2), settled(1, true, 2)];
    store.append(Append { session: session(1), fence, entries, index, status }).await.expect("appended");
    store.delete(session(1), fence).await.expect("deleted");
    store.delete(session(1), fence).await.expect("deleting twice is fine");
    a_session_that_was_never_opened_does_not_exist_in(&store).await;
    assert!(listed(&store, ListQuery { pending: true, limit: 9, ..ListQuery::default() }).await.is_empty());
    assert!(listed(&store, ListQuery { limit: 9, ..ListQuery::default() }).await.is_empty());
    assert!(ids(&store, InputQuery { dead: true, limit: 9, ..InputQuery::default() }).await.is_empty());
    assert!(open(&store, session(1)).await.tail.is_empty());
}

async fn a_session_that_was_never_opened_does_not_exist_in(store: &Arc<dyn Store>) {
    assert_eq!(store.session(session(1)).await.expect("asked"), None);
    assert_eq!(journal(store, session(1)).await, []);
    assert_eq!(store.input(session(1), &InputRef::Key(key("k"))).await.expect("asked"), None);
    assert_eq!(store.receipt(session(1), run(1), 0).await.expect("asked"), None);
}

async fn only_the_owner_deletes(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let old = begin(&store, session(1), 1).await;
    let new = open(&store, session(1)).await.fence;
    assert!(matches!(store.delete(session(1), old).await, Err(StoreError::Fenced { .. })));
    assert_eq!(journal(&store, session(1)).await, entries(1..=1));
    store.delete(session(1), new).await.expect("deleted");
}

async fn an_owner_of_a_deleted_session_stays_fenced(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    // It has opened and not appended yet, so its next position fits the new session as well.
    let old = open(&store, session(1)).await.fence;
    store.delete(session(1), old).await.expect("deleted");
    let new = open(&store, session(1)).await.fence;
    assert!(new > old, "a fence is never given out twice");
    assert!(matches!(store.append(append(session(1), old, 1..=1)).await, Err(StoreError::Fenced { .. })));
}

async fn many_sessions_append_at_once(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let work = (1..=32).map(|number| {
        let store = store.clone();
        async move {
            let fence = open(&store, session(number)).await.fence;
            for seq in 1..=8 {
                store.append(append(session(number), fence, seq..=seq)).await.expect("appended");
            }
        }
    });
    join_all(work).await;
    for number in 1..=32 {
        assert_eq!(journal(&store, session(number)).await, entries(1..=8));
    }
}

async fn of_two_appends_at_one_position_one_wins(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 1).await;
    let results = join_all((0..8).map(|_| store.append(append(session(1), fence, 2..=2)))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let others = results.iter().filter(|result| matches!(result, Err(StoreError::Conflict { next: Seq(3), .. })));
    assert_eq!(others.count(), 7);
    assert_eq!(journal(&store, session(1)).await, entries(1..=2));
}

async fn a_dropped_append_is_whole_or_absent(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let mut fence = begin(&store, session(1), 1).await;
    let mut head = 1;
    for polls in 0..4 {
        let mut appending = store.append(append(session(1), fence, head + 1..=head + 3));
        for _ in 0..polls {
            if futures_util::poll!(&mut appending).is_ready() {
                break;
            }
        }
        drop(appending);
        // The opening stands behind whatever the dropped call has left in the store's queue.
        let opened = open(&store, session(1)).await;
        let found = opened.tail.len() as u64;
        assert_eq!(opened.tail, entries(1..=found));
        assert!(found == head || found == head + 3 && polls > 0, "{found} entries after {head}");
        (fence, head) = (opened.fence, found);
    }
}

async fn reopening_keeps_everything(storage: Arc<dyn Storage>) {
    let store = storage.open().await;
    let fence = begin(&store, session(1), 1).await;
    let index = vec![accepted(1, Some("k"), 2), settled(1, true, 3), accepted(2, None, 2)];
    let status = SessionStatus { pending: true, open_inputs: 1, ..SessionStatus::default() };
    let entries = vec![entry(2), boundary(3, run(1), 0)];
    store.append(Append { session: session(1), fence, entries, index, status }).await.expect("appended");
    store.put_snapshot(put(session(1), fence, 1, 0)).await.expect("put");
    let everything = |store: Arc<dyn Store>| async move {
        (
            journal(&store, session(1)).await,
            store.session(session(1)).await.expect("asked"),
            store.inputs(InputQuery { limit: 9, ..InputQuery::default() }).await.expect("listed"),
            store.receipt(session(1), run(1), 0).await.expect("asked"),
            store.list(ListQuery { pending: true, limit: 9, ..ListQuery::default() }).await.expect("listed"),
        )
    };
    let before = everything(store.clone()).await;
    drop(store);
    let store = storage.open().await;
    assert_eq!(everything(store.clone()).await, before);
    let opened = open(&store, session(1)).await;
    assert!(opened.fence > fence, "fences go on rising");
    assert_eq!(opened.snapshot.map(|(at, _)| at), Some(Seq(1)));
    assert_eq!(opened.tail.len(), 2);
    assert!(store.append(append(session(1), fence, 4..=4)).await.is_err(), "the owner before is fenced");
}
