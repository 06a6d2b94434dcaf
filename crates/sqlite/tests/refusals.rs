//! Is a file that is not for us to write left exactly as it is?

mod common;

use common::{converse, session, store};
use rusqlite::Connection;
use std::path::Path;
use windlass_runtime::store::{Store, StoreError};
use windlass_sqlite::{SqliteOptions, SqliteStore, verify};

fn open(file: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(file, SqliteOptions::default())
}

fn bytes(file: &Path) -> Vec<u8> {
    std::fs::read(file).expect("the file can be read")
}

/// Every way to open the file refuses it, and not a byte changes.
fn check(case: &str, file: &Path, refused: impl Fn(&StoreError) -> bool) {
    let before = bytes(file);
    for error in [open(file).err(), SqliteStore::open_read_only(file).err(), verify(file).err()] {
        let error = error.unwrap_or_else(|| panic!("{case}: it is opened"));
        assert!(refused(&error), "{case}: {error:?}");
    }
    assert!(bytes(file) == before, "{case}: the file was changed");
}

fn foreign(error: &StoreError) -> bool {
    matches!(error, StoreError::Corrupt { session: None, .. })
}

#[tokio::test]
async fn a_newer_store_is_refused_and_left_alone() {
    let (_folder, file, store) = store();
    converse(&store, session(1), 0..2).await;
    drop(store);
    Connection::open(&file).expect("opened").pragma_update(None, "user_version", 3).expect("set");
    check("newer", &file, |error| matches!(error, StoreError::Newer { found: 3, known: 2 }));
    // The header of the file itself may be older than the log beside it.
    let connection = Connection::open(&file).expect("opened");
    connection.pragma_update(None, "user_version", 2).expect("set");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("moved");
    connection.pragma_update(None, "wal_autocheckpoint", 0).expect("set");
    connection.pragma_update(None, "user_version", 7).expect("set");
    check("newer in the log only", &file, |error| matches!(error, StoreError::Newer { found: 7, known: 2 }));
}

#[test]
fn what_is_not_a_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    for (case, content) in [("text", &b"dear diary"[..]), ("noise", &[0xa5; 8_192][..]), ("zeroes", &[0; 4_096][..])] {
        std::fs::write(&file, content).expect("written");
        check(case, &file, foreign);
    }
    std::fs::remove_file(&file).expect("removed");
    let connection = Connection::open(&file).expect("opened");
    connection.execute_batch("CREATE TABLE diary (day TEXT)").expect("made");
    check("a database of somebody else", &file, foreign);
    connection.pragma_update(None, "application_id", 0x1234).expect("set");
    check("a database of another application", &file, foreign);
    connection.pragma_update(None, "journal_mode", "wal").expect("set");
    connection.execute_batch("INSERT INTO diary VALUES ('monday')").expect("written");
    check("one that is being written", &file, foreign);
}

#[test]
fn an_empty_file_becomes_a_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.db");
    std::fs::write(&file, []).expect("written");
    assert!(matches!(SqliteStore::open_read_only(&file), Err(StoreError::Unavailable(_))));
    drop(open(&file).expect("opened"));
    assert!(verify(&file).expect("verified").is_clean());
}

#[test]
fn a_log_that_was_left_alone_is_not_played_into_a_new_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, log) = (folder.path().join("store.db"), folder.path().join("store.db-wal"));
    let other = rusqlite::Connection::open(folder.path().join("other.db")).expect("opened");
    other.pragma_update(None, "journal_mode", "wal").expect("set");
    other.execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)").expect("written");
    std::fs::copy(folder.path().join("other.db-wal"), &log).expect("copied");
    drop(open(&file).expect("a new store"));
    assert!(windlass_sqlite::verify(&file).expect("verified").is_clean());
    let store = rusqlite::Connection::open(&file).expect("opened");
    let theirs =
        store.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'theirs'", [], |row| row.get::<_, i64>(0));
    assert_eq!(theirs.expect("counted"), 0);
}

#[tokio::test]
async fn a_second_writer_is_refused_by_pid() {
    let (_folder, file, store) = store();
    let refused = open(&file).expect_err("it is locked");
    let StoreError::Locked { path, pid } = &refused else { panic!("{refused:?}") };
    assert_eq!((&**path, &**pid), (&*file.display().to_string(), &*std::process::id().to_string()));
    // Reading is not writing.
    SqliteStore::open_read_only(&file).expect("readers are welcome");
    drop(store);
    open(&file).expect("the lock ends with the store");
}

#[tokio::test]
async fn a_write_protected_store_can_be_read() {
    let (folder, file, store) = store();
    converse(&store, session(1), 0..2).await;
    drop(store);
    let protect = |path: &Path, protected: bool| {
        let mut permissions = std::fs::metadata(path).expect("it is there").permissions();
        permissions.set_readonly(protected);
        std::fs::set_permissions(path, permissions).expect("set");
    };
    protect(&file, true);
    // An administrator may write anyway.
    let root = std::fs::File::options().append(true).open(&file).is_ok();
    if !root {
        assert!(matches!(open(&file), Err(StoreError::ReadOnly(_))));
        protect(folder.path(), true);
    }
    let reader = SqliteStore::open_read_only(&file).expect("opened");
    let read = reader.read(session(1), windlass_core::Seq::ZERO, 99).await;
    protect(folder.path(), false);
    assert!(!read.expect("read").is_empty());
}
