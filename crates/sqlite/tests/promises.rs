//! Does the store keep what every store promises, and what it promises by itself?

mod common;

use async_trait::async_trait;
use common::{Owner, converse, input, session, store};
use futures_util::future::join_all;
use std::{path::PathBuf, sync::Arc};
use windlass_core::Seq;
use windlass_runtime::{
    store::{InputQuery, Store, StoreError},
    testing::store_suite::{Storage, exercise},
};
use windlass_sqlite::{SqliteOptions, SqliteStore, verify};

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

#[async_trait]
impl Storage for File {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.path, SqliteOptions::default()).expect("opened"))
    }
}

#[tokio::test]
async fn keeps_what_every_store_promises() {
    exercise(|| {
        let folder = tempfile::tempdir().expect("a folder");
        File { path: folder.path().join("store.db"), _folder: folder }
    })
    .await;
}

#[tokio::test]
async fn what_waits_together_is_committed_together() {
    let (_folder, file, store) = store();
    let open = |number| Owner::open(Arc::new(store.clone()), session(number));
    let mut owners = join_all((1..=64).map(open)).await.into_iter().collect::<Result<Vec<_>, _>>().expect("opened");
    let before = store.stats();
    // While another tool holds the file, everything waits.
    let other = rusqlite::Connection::open(&file).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("held");
    let mut waiting = join_all(owners.iter_mut().zip(0..).map(|(owner, number)| owner.accept(number)));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    other.execute_batch("COMMIT").expect("let go");
    for accepted in waiting.await {
        accepted.expect("accepted");
    }
    let (after, appends) = (store.stats(), 64);
    assert_eq!((after.appends - before.appends, after.entries - before.entries), (appends, appends));
    let transactions = after.transactions - before.transactions;
    // The first may have been on its way alone.
    assert!(transactions <= 2, "{appends} appends took {transactions} transactions");
}

/// A receipt of the same name twice cannot be written; those who share the transaction must not suffer for it.
#[tokio::test]
async fn one_impossible_append_harms_no_other_in_its_group() {
    let (_folder, file, store) = store();
    let mut good = converse(&store, session(1), 1..3).await;
    let bad = converse(&store, session(2), 3..5).await;
    let journal = store.read(session(2), Seq::ZERO, 99).await.expect("read");
    let again = journal.iter().find(|entry| entry.record.receipt().is_some()).expect("it ran");
    let entry = windlass_core::Entry { seq: bad.session.head().next(), ..(**again).clone() };
    let append = windlass_runtime::store::Append {
        session: session(2),
        fence: bad.fence,
        entries: vec![Arc::new(entry)],
        index: Vec::new(),
        status: windlass_runtime::store::SessionStatus::of(&bad.session),
    };
    let other = rusqlite::Connection::open(&file).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("held");
    let mut both = std::pin::pin!(futures_util::future::join(store.append(append), good.accept(9)));
    assert!(futures_util::poll!(&mut both).is_pending());
    other.execute_batch("COMMIT").expect("let go");
    let (impossible, possible) = both.await;
    assert!(matches!(impossible, Err(StoreError::Corrupt { session: Some(id), .. }) if id == session(2)));
    possible.expect("the other is written");
    assert!(verify(&file).expect("verified").is_clean());
}

#[tokio::test]
async fn a_reader_beside_a_writer_sees_commits_and_changes_nothing() {
    let (_folder, file, store) = store();
    let mut owner = converse(&store, session(1), 1..3).await;
    let reader = SqliteStore::open_read_only(&file).expect("opened beside the writer");
    let before = reader.read(session(1), Seq::ZERO, 99).await.expect("read");
    owner.accept(3).await.expect("the writer goes on");
    let after = reader.read(session(1), Seq::ZERO, 99).await.expect("read");
    assert!(after.len() > before.len());
    assert!(matches!(reader.open(session(1)).await, Err(StoreError::ReadOnly(_))));
    assert!(matches!(reader.delete(session(1), owner.fence).await, Err(StoreError::ReadOnly(_))));
    owner.accept(4).await.expect("and was not fenced");
}

#[tokio::test]
async fn a_backup_is_a_whole_store() {
    let (folder, _file, store) = store();
    converse(&store, session(1), 1..4).await;
    let copy = folder.path().join("copy.db");
    store.backup(&copy).await.expect("copied");
    let again = store.backup(&copy).await;
    assert!(matches!(again, Err(StoreError::Unavailable(_))), "a backup overwrites nothing: {again:?}");
    converse(&store, session(2), 4..6).await;
    let report = verify(&copy).expect("verified");
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.sessions, 1);
    let restored = SqliteStore::open(&copy, SqliteOptions::default()).expect("opened");
    let read = |store: SqliteStore| async move { store.read(session(1), Seq::ZERO, 99).await.expect("read") };
    assert_eq!(read(restored.clone()).await, read(store).await);
    converse(&restored, session(1), 7..8).await;
}

#[tokio::test]
async fn a_full_store_says_so_reads_on_and_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.db");
    let options = SqliteOptions { max_pages: Some(64), ..SqliteOptions::default() };
    let store = SqliteStore::open(&file, options).expect("opened");
    let first = converse(&store, session(1), 0..20).await;
    let mut second = converse(&store, session(2), 20..21).await;
    let mut accepted = Vec::new();
    let refused = loop {
        let number = 100 + accepted.len() as u128;
        match second.accept(number).await {
            Ok(_) => accepted.push(input(number)),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    for id in &accepted {
        let by = windlass_runtime::store::InputRef::Id(*id);
        assert!(store.input(session(2), &by).await.expect("reads go on").is_some());
    }
    store.delete(session(1), first.fence).await.expect("deleting makes room");
    // The owner reopens, as after any failure, and goes on.
    let mut second = Owner::open(Arc::new(store.clone()), session(2)).await.expect("reopened");
    second.accept(1_000).await.expect("there is room again");
    let open = InputQuery { session: Some(session(2)), open: Some(true), limit: 10_000, ..InputQuery::default() };
    assert_eq!(store.inputs(open).await.expect("listed").len(), second.session.open_inputs() as usize);
    drop((store, first, second));
    let report = verify(&file).expect("verified");
    assert!(report.is_clean(), "{report}");
}

// It was told as unavailable, which a supervisor waits out.
#[test]
fn a_store_that_there_is_no_room_for_says_so_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = SqliteOptions { max_pages: Some(4), ..SqliteOptions::default() };
    let refused = SqliteStore::open(folder.path().join("store.db"), options).expect_err("no room");
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("listed").map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["store.db.lock"]);
}

#[tokio::test]
async fn a_long_history_with_snapshots_and_pruning_verifies() {
    let (_folder, file, store) = store();
    let mut owner = converse(&store, session(1), 0..10).await;
    owner.snapshot(Seq::ZERO).await.expect("kept");
    let keep = owner.session.head();
    for number in 10..20 {
        let run = owner.accept(number).await.expect("accepted");
        owner.drain(run).await.expect("run");
    }
    owner.accept(20).await.expect("accepted");
    owner.snapshot(keep).await.expect("kept");
    owner.accept(21).await.expect("accepted");
    let report = verify(&file).expect("verified beside the writer");
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.sessions, report.inputs, report.receipts, report.snapshots), (1, 22, 40, 2));
}

#[tokio::test]
async fn the_log_is_moved_into_the_file_and_one_file_is_left_behind() {
    let (folder, file, store) = store();
    let mut owner = converse(&store, session(1), 0..1).await;
    let mut number = 100;
    while store.stats().checkpoints == 0 {
        assert!(number < 100_000, "the log grows for ever");
        let many = (number..number + 50).map(input).collect::<Vec<_>>();
        for _ in many {
            number += 1;
            owner.accept(number).await.expect("accepted");
        }
    }
    drop((owner, store));
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|f| f.expect("f").file_name()).collect();
    names.sort();
    assert_eq!(names, ["store.db", "store.db.lock"]);
    assert!(verify(&file).expect("verified").is_clean());
}
