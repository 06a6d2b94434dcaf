//! Does a store come back from a backup, from an older version, and from nothing that is damaged?

mod common;

use common::{converse, session, store};
use rusqlite::Connection;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use windlass_core::{Control, Event, Profile, Seq, Ticket};
use windlass_runtime::{
    Observer,
    documents::Documents,
    store::{ListQuery, Store, StoreError},
};
use windlass_sqlite::{SqliteOptions, SqliteStore, restore, verify};

fn open(file: &Path) -> SqliteStore {
    SqliteStore::open(file, SqliteOptions::default()).expect("opened")
}

async fn sessions(file: &Path) -> Vec<u128> {
    let store = SqliteStore::open_read_only(file).expect("opened");
    let rows = Store::list(&store, ListQuery { limit: 99, ..ListQuery::default() }).await.expect("listed");
    rows.iter().map(|row| row.session.as_uuid().as_u128()).collect()
}

/// The names of the files in a folder, sorted.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A backup of a store with session 1 and a document, in a folder of its own.
async fn backed_up() -> (tempfile::TempDir, PathBuf) {
    let (_folder, _file, store) = store();
    converse(&store, session(1), 1..4).await;
    store.put("policy", "quiet", json!({ "version": 3 }), Some(0)).await.expect("kept");
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("copy.db");
    let report = store.backup(&copy).await.expect("copied");
    assert!(report.is_clean() && report.sessions == 1 && report.documents == 1, "{report}");
    assert_eq!(files(folder.path()), ["copy.db"], "nothing else is left behind");
    (folder, copy)
}

#[tokio::test]
async fn a_backup_becomes_a_store_again() {
    let (_backup, copy) = backed_up().await;
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("store.db");
    let report = restore(&copy, &to, false).expect("restored");
    assert!(report.is_clean() && report.sessions == 1, "{report}");
    assert_eq!(files(folder.path()), ["store.db", "store.db.lock"]);
    let store = open(&to);
    converse(&store, session(1), 7..9).await;
    let document = store.get("policy", "quiet").await.expect("read").expect("it is there");
    assert_eq!((document.version, document.body), (1, json!({ "version": 3 })));
    drop(store);
    assert!(verify(&to).expect("verified").is_clean());
}

#[tokio::test]
async fn a_store_is_replaced_only_when_told_so_and_stays_beside() {
    let (_backup, copy) = backed_up().await;
    let (folder, to, store) = store();
    converse(&store, session(2), 20..23).await;
    for overwrite in [false, true] {
        let refused = restore(&copy, &to, overwrite).expect_err("it is in use");
        assert!(matches!(refused, StoreError::Locked { .. }), "{refused:?}");
    }
    drop(store);
    let refused = restore(&copy, &to, false).expect_err("it is there");
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert_eq!(sessions(&to).await, [2], "nothing has happened");
    restore(&copy, &to, true).expect("restored");
    assert_eq!(sessions(&to).await, [1]);
    let replaced = folder.path().join("store.db.replaced");
    assert_eq!(sessions(&replaced).await, [2], "and can be had back");
    assert!(verify(&replaced).expect("verified").is_clean());
}

/// The process that wrote it died: its last commits are in the log only, which must go with it and not into the new one.
#[tokio::test]
async fn the_log_of_a_replaced_store_is_not_taken_for_the_new_ones() {
    let (_backup, copy) = backed_up().await;
    let (folder, live, store) = store();
    converse(&store, session(2), 20..23).await;
    // As a crash leaves it: the file and its log, copied from under a running store.
    let crashed = folder.path().join("crashed.db");
    for suffix in ["", "-wal"] {
        let name = |file: &Path| PathBuf::from(format!("{}{suffix}", file.display()));
        std::fs::copy(name(&live), name(&crashed)).expect("copied");
    }
    restore(&copy, &crashed, true).expect("restored");
    assert_eq!(sessions(&crashed).await, [1]);
    assert!(verify(&crashed).expect("verified").is_clean());
    assert_eq!(sessions(&folder.path().join("crashed.db.replaced")).await, [2]);
    // One that cannot be opened keeps its log beside it, untouched.
    let broken = folder.path().join("broken.db");
    std::fs::write(&broken, b"SQLite format 3\0 and then nothing that is a store of ours").expect("written");
    std::fs::write(folder.path().join("broken.db-wal"), b"its log").expect("written");
    restore(&copy, &broken, true).expect("restored");
    assert_eq!(sessions(&broken).await, [1]);
    let log = std::fs::read(folder.path().join("broken.db.replaced-wal")).expect("kept");
    assert_eq!(log, b"its log");
    // Nor is one taken whose store has gone.
    let gone = folder.path().join("gone.db");
    std::fs::copy(folder.path().join("store.db-wal"), folder.path().join("gone.db-wal")).expect("copied");
    restore(&copy, &gone, false).expect("restored");
    assert_eq!(sessions(&gone).await, [1]);
    assert!(verify(&gone).expect("verified").is_clean());
    assert!(folder.path().join("gone.db.replaced-wal").exists(), "it is kept");
}

#[tokio::test]
async fn what_is_no_good_backup_is_not_restored() {
    let (backup, copy) = backed_up().await;
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("store.db");
    let damaged = backup.path().join("damaged.db");
    for sql in [
        "UPDATE journal SET body = replace(body, 'prompt', 'Prompt') WHERE seq = 2",
        "UPDATE document SET body = replace(body, '3', '4')",
        "UPDATE document SET key = 'loud'",
        "UPDATE session SET tenant = 'thief'",
        "UPDATE session SET labels = '{\"a\":\"b\"}'",
        "UPDATE session SET created_at = created_at + 1",
        "DELETE FROM input",
    ] {
        std::fs::copy(&copy, &damaged).expect("copied");
        let changed = Connection::open(&damaged).expect("opened").execute(sql, []).expect("changed");
        assert!(changed > 0, "{sql}");
        let refused = restore(&damaged, &to, false).expect_err(sql);
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{sql}: {refused:?}");
    }
    std::fs::write(&damaged, b"dear diary").expect("written");
    assert!(matches!(restore(&damaged, &to, false), Err(StoreError::Corrupt { .. })));
    std::fs::copy(&copy, &damaged).expect("copied");
    Connection::open(&damaged).expect("opened").pragma_update(None, "user_version", 99).expect("set");
    assert!(matches!(restore(&damaged, &to, false), Err(StoreError::Newer { found: 99, .. })));
    assert!(matches!(restore(backup.path().join("none.db"), &to, false), Err(StoreError::Unavailable(_))));
    assert_eq!(files(folder.path()), ["store.db.lock"], "and nothing was made of it");
}

#[tokio::test]
async fn a_damaged_store_is_not_backed_up_as_if_it_were_whole() {
    let (folder, file, store) = store();
    converse(&store, session(1), 1..4).await;
    let other = Connection::open(&file).expect("opened");
    other.execute("UPDATE journal SET checksum = checksum + 1 WHERE seq = 2", []).expect("changed");
    let copy = folder.path().join("copy.db");
    let refused = store.backup(&copy).await.expect_err("it is damaged");
    assert!(matches!(refused, StoreError::Corrupt { at: Some(Seq(2)), .. }), "{refused:?}");
    assert!(!files(folder.path()).iter().any(|name| name.starts_with("copy")), "{:?}", files(folder.path()));
}

#[tokio::test]
async fn a_backup_taken_while_others_write_is_whole() {
    let (folder, _file, store) = store();
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 0..20 {
                converse(&store, session(1), number * 10..number * 10 + 3).await;
            }
        }
    });
    for number in 0..3 {
        let copy = folder.path().join(format!("copy-{number}.db"));
        let report = store.backup(&copy).await.expect("copied");
        assert!(report.is_clean(), "{report}");
    }
    writing.await.expect("written");
}

/// The store as the first version made it: what later versions added is taken away.
async fn of_the_first_version(folder: &Path) -> PathBuf {
    let file = folder.join("old.db");
    let store = open(&file);
    let mut kept = converse(&store, session(1), 1..5).await;
    kept.snapshot(Seq::ZERO).await.expect("kept");
    let mut pruned = converse(&store, session(2), 11..15).await;
    pruned.snapshot(Seq(3)).await.expect("kept");
    drop((kept, pruned, store));
    let old = Connection::open(&file).expect("opened");
    old.execute_batch(
        "DROP INDEX session_tenant; DROP INDEX session_name; DROP TABLE document;
         ALTER TABLE session DROP COLUMN created_at; ALTER TABLE session DROP COLUMN tenant;
         ALTER TABLE session DROP COLUMN name; ALTER TABLE session DROP COLUMN labels;
         ALTER TABLE session DROP COLUMN keep_alive; ALTER TABLE session DROP COLUMN policy;
         ALTER TABLE store DROP COLUMN probes;
         DELETE FROM refinery_schema_history WHERE version > 1; PRAGMA user_version = 1;",
    )
    .expect("taken away");
    // Snapshots of then did not say when a session was created, nor what it was told.
    let rows: Vec<(Vec<u8>, i64, String)> = old
        .prepare("SELECT session, seq, body FROM snapshot")
        .and_then(|mut select| select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect())
        .expect("read");
    for (id, seq, body) in rows {
        let mut body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let state = body.as_object_mut().expect("an object");
        assert!(state.remove("created_at").is_some() && state.remove("profile").is_some());
        let body = body.to_string();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&id).update(&seq.to_le_bytes()).update(body.as_bytes());
        let hash = hasher.finalize();
        let set = "UPDATE snapshot SET body = ?, hash = ? WHERE session = ? AND seq = ?";
        old.execute(set, rusqlite::params![body, hash.as_bytes(), id, seq]).expect("set");
    }
    file
}

#[tokio::test]
async fn a_store_of_the_first_version_is_upgraded_behind_a_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = of_the_first_version(folder.path()).await;
    let refused = SqliteStore::open_read_only(&file).expect_err("a reader upgrades nothing");
    assert!(matches!(refused, StoreError::ReadOnly(_)), "{refused:?}");
    let restored = folder.path().join("restored.db");
    let report = restore(&file, &restored, false).expect("an old backup is upgraded on the way");
    assert!(report.is_clean(), "{report}");
    let store = open(&file);
    let report = verify(&file).expect("verified");
    assert!(report.is_clean(), "{report}");
    let created = async |number| {
        let row = store.session(session(number)).await.expect("asked").expect("it is there");
        row.status.created_at.as_micros()
    };
    assert!(created(1).await > 0, "its first entry says so");
    assert_eq!(created(2).await, 0, "nothing says so any more");
    for number in [1, 2] {
        let mut owner = converse(&store, session(number), 30..33).await;
        let profile = Profile { name: Some("old".into()), ..Profile::default() };
        let verb = Control::SetProfile(Arc::new(profile));
        drop(owner.step(Event::Control { ticket: Ticket(1), verb }).await.expect("told"));
    }
    drop(store);
    assert!(verify(&file).expect("verified").is_clean());
    let names = files(folder.path());
    assert!(names.contains(&"old.db.schema-1.backup".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("partial")), "{names:?}");
}

#[tokio::test]
async fn documents_survive_reopening() {
    let (_folder, file, store) = store();
    windlass_runtime::testing::documents_suite::exercise(Arc::new(store.clone())).await;
    let before = Documents::list(&store, "policy", None, 99).await.expect("listed");
    drop(store);
    let store = SqliteStore::open_read_only(&file).expect("opened");
    assert_eq!(Documents::list(&store, "policy", None, 99).await.expect("listed"), before);
    let refused = store.put("policy", "b", json!(1), None).await.expect_err("opened for reading");
    assert_eq!(refused.code(), "store_read_only");
    assert!(verify(&file).expect("verified").is_clean());
}

#[derive(Default)]
struct Commits(Mutex<Vec<(u64, u64)>>);

impl Observer for Commits {
    fn committed(&self, entries: u64, sessions: u64, took: Duration) {
        assert!(took > Duration::ZERO);
        self.0.lock().expect("counted").push((entries, sessions));
    }
}

#[tokio::test]
async fn who_observes_hears_of_each_commit() {
    let folder = tempfile::tempdir().expect("a folder");
    let commits = Arc::new(Commits::default());
    let observer = Some(Arc::clone(&commits) as Arc<dyn Observer>);
    let options = SqliteOptions { observer, ..SqliteOptions::default() };
    let store = SqliteStore::open(folder.path().join("store.db"), options).expect("opened");
    converse(&store, session(1), 1..3).await;
    store.probe().await.expect("it takes appends");
    let (stats, commits) = (store.stats(), commits.0.lock().expect("counted"));
    let (entries, sessions) = commits.iter().fold((0, 0), |(e, s), (entries, sessions)| (e + entries, s + sessions));
    assert_eq!((entries, sessions), (stats.entries, stats.appends), "probes and openings are no commits of entries");
}
