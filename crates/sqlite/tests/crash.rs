//! Does what was acknowledged survive a process that dies at the worst moment?
//!
//! A child process works on a store and notes each acknowledgement in a file of its own. It is killed at a named
//! point; the parent then compares its notes with the store, and starts the next child on what is left.

mod common;

use common::{Owner, input, session};
use futures_util::future::try_join_all;
use std::{
    fs::File,
    io::Write,
    path::Path,
    process::{Command, ExitStatus},
    sync::Arc,
    time::Instant,
};
use windlass_core::Seq;
use windlass_runtime::store::{InputRef, Store, StoreError};
use windlass_sqlite::{SqliteOptions, SqliteStore, verify};

const SESSIONS: u128 = 4;

/// Every place where a writing process can be made to die.
const POINTS: [&str; 8] = [
    "before_begin",
    "after_begin",
    "after_rows",
    "before_commit",
    "after_commit",
    "before_answer",
    "snapshot_before",
    "snapshot_after",
];

fn note(folder: &Path) -> File {
    File::options().create(true).append(true).open(folder.join("acknowledged")).expect("the notes")
}

/// What the child does: inputs into several sessions at once, each run to its end, with snapshots and pruning.
async fn work(store: &SqliteStore, folder: &Path, life: u128, rounds: u128) -> Result<(), StoreError> {
    work_in(SESSIONS, store, folder, life, rounds).await
}

/// The same, in so many sessions.
async fn work_in(
    sessions: u128,
    store: &SqliteStore,
    folder: &Path,
    life: u128,
    rounds: u128,
) -> Result<(), StoreError> {
    let session = |number: u128| {
        let store = Arc::new(store.clone());
        async move {
            let mut notes = note(folder);
            let mut owner = Owner::open(store, common::session(number)).await?;
            let run = owner.attach().await?;
            owner.drain(run).await?;
            let mut keep = Seq::ZERO;
            for round in 0..rounds {
                let id = (life << 32) | (number << 16) | round;
                let run = owner.accept(id).await?;
                // In one piece, so that a kill leaves no half line.
                notes.write_all(format!("{number} {id}\n").as_bytes()).expect("noted");
                owner.drain(run).await?;
                if round % 3 == 2 {
                    let head = owner.session.head();
                    owner.snapshot(keep).await?;
                    keep = head;
                }
            }
            Ok(())
        }
    };
    try_join_all((1..=sessions).map(session)).await.map(drop)
}

/// After a commit of unknown outcome: the store gets its file back by itself, and work goes on through the same handle.
async fn recover(store: &SqliteStore) -> Result<(), StoreError> {
    let since = Instant::now();
    let mut owner = loop {
        match Owner::open(Arc::new(store.clone()), session(1)).await {
            Err(StoreError::Unavailable(_)) if since.elapsed().as_secs() < 30 => tokio::task::yield_now().await,
            other => break other?,
        }
    };
    assert!(store.stats().reopened > 0, "an unknown outcome costs the handle");
    owner.accept(u128::MAX).await.map(drop)
}

/// After a commit of unknown outcome the file has gone as well. Nothing is made in its place, as often as it is tried.
async fn stay_lost(store: &SqliteStore, file: &Path) {
    std::fs::remove_file(file).expect("it was there");
    let since = Instant::now();
    // Long enough for several tries.
    while since.elapsed().as_secs() < 1 {
        let opened = Owner::open(Arc::new(store.clone()), session(1)).await;
        assert!(matches!(opened, Err(StoreError::Unavailable(_))), "there is no store");
        assert!(!file.exists(), "nor is one made");
        tokio::task::yield_now().await;
    }
}

/// Not a test by itself: the life of a child, when there is one. Exits with 70 if a commit had an unknown outcome and
/// the store recovered from it, with 71 if it was to stay lost and did.
#[test]
fn child() {
    let Ok(folder) = std::env::var("WINDLASS_TEST_CHILD") else { return };
    let (folder, life) = (Path::new(&folder), u128::from(std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = SqliteStore::open(folder.join("store.db"), SqliteOptions::default()).expect("opened");
    let vanishes = std::env::var_os("WINDLASS_TEST_VANISH").is_some();
    // In one session nothing else is on its way when a commit fails: what is would bring the store back at once.
    let sessions = if vanishes { 1 } else { SESSIONS };
    let code = match runtime.block_on(work_in(sessions, &store, folder, life, 1_200 / sessions)) {
        Ok(()) => 0,
        Err(StoreError::Unknown(_)) if vanishes => {
            runtime.block_on(stay_lost(&store, &folder.join("store.db")));
            71
        }
        Err(StoreError::Unknown(_)) => {
            runtime.block_on(recover(&store)).expect("recovered");
            70
        }
        Err(error) => panic!("{error}"),
    };
    drop(store);
    std::process::exit(code);
}

fn run_child(folder: &Path, prepare: impl FnOnce(&mut Command)) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "child", "--nocapture"]).env("WINDLASS_TEST_CHILD", folder);
    prepare(&mut command);
    command.output().expect("the child ran").status
}

/// Every acknowledged input is there, and everything else is as the journal says. Returns how many there are.
async fn nothing_is_lost(folder: &Path, case: &str) -> usize {
    let report = verify(folder.join("store.db")).expect("verified");
    assert!(report.is_clean(), "{case}: {report}");
    let store = SqliteStore::open_read_only(folder.join("store.db")).expect("opened");
    let notes = std::fs::read_to_string(folder.join("acknowledged")).unwrap_or_default();
    for line in notes.lines() {
        let (number, id) = line.split_once(' ').expect("two words");
        let number: u128 = number.parse().expect("a number");
        let id = input(id.parse().expect("a number"));
        let found = store.input(session(number), &InputRef::Id(id)).await.expect("asked");
        assert!(found.is_some(), "{case}: lost {line}");
    }
    notes.lines().count()
}

/// Which times of passing a point to die at; many with `WINDLASS_DEEP`.
#[cfg(unix)]
fn passes() -> Vec<u32> {
    if std::env::var_os("WINDLASS_DEEP").is_some() { (1..=40).collect() } else { vec![1, 2, 9] }
}

#[cfg(unix)]
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_at_every_point() {
    use std::os::unix::process::ExitStatusExt;
    for point in POINTS {
        let folder = tempfile::tempdir().expect("a folder");
        let mut acknowledged = 0;
        for pass in passes() {
            let case = format!("{point}@{pass}");
            let status = run_child(folder.path(), |child| {
                child.env("WINDLASS_CRASH", &case);
            });
            assert_eq!(status.signal(), Some(9), "{case}: the child was to die there, it ended with {status}");
            acknowledged = nothing_is_lost(folder.path(), &case).await;
        }
        assert!(acknowledged > 0, "{point}: there was nothing to lose");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_kill_while_the_store_is_made_leaves_none_or_a_whole_one() {
    for (point, there) in [("made", false), ("named", true)] {
        let folder = tempfile::tempdir().expect("a folder");
        let status = run_child(folder.path(), |child| {
            child.env("WINDLASS_CRASH", point);
        });
        assert!(!status.success(), "{point}: the child was to die there, it ended with {status}");
        let file = folder.path().join("store.db");
        assert_eq!(file.exists(), there, "{point}");
        let store = SqliteStore::open(&file, SqliteOptions::default()).expect("opened");
        work(&store, folder.path(), 1, 3).await.expect("and it is a store");
        drop(store);
        assert!(nothing_is_lost(folder.path(), point).await > 0);
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains(".new")), "{point}: {left:?}");
    }
}

/// A child whose log cannot grow beyond a limit, at which a commit fails.
#[cfg(unix)]
fn with_little_room(folder: &Path, prepare: impl FnOnce(&mut Command)) -> ExitStatus {
    let mut shell = Command::new("sh");
    let child = std::env::current_exe().expect("this test");
    // The limit is inherited, and so is that its signal is ignored.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 600; exec \"$0\" --exact child --nocapture"]).arg(child);
    prepare(shell.env("WINDLASS_TEST_CHILD", folder));
    shell.output().expect("the child ran").status
}

#[cfg(unix)]
#[test]
fn a_file_that_vanishes_is_not_made_anew_by_the_process_that_wrote_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let status = with_little_room(folder.path(), |child| {
        child.env("WINDLASS_TEST_VANISH", "1");
    });
    assert_eq!(status.code(), Some(71), "the store was to stay lost: {status}");
}

/// The file system refuses to let the log grow, in the middle of a commit: not "full", but an I/O error.
#[cfg(unix)]
#[tokio::test]
async fn a_commit_that_fails_is_called_unknown_and_the_truth_is_found_by_reopening() {
    let folder = tempfile::tempdir().expect("a folder");
    let status = with_little_room(folder.path(), |_| {});
    assert_eq!(status.code(), Some(70), "the child was to end with an unknown outcome: {status}");
    assert!(nothing_is_lost(folder.path(), "i/o error").await > 0);
    let store = SqliteStore::open(folder.path().join("store.db"), SqliteOptions::default()).expect("opened");
    work(&store, folder.path(), 1, 3).await.expect("and it goes on");
}
