//! Is what is damaged ever acted on?

mod common;

use common::{converse, session, store};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use windlass_core::{RunId, Seq};
use windlass_runtime::store::{Store, StoreError};
use windlass_sqlite::{SqliteStore, verify};

/// A closed store: two sessions, the first with snapshots and pruned entries.
async fn written() -> (tempfile::TempDir, PathBuf) {
    let (folder, file, store) = store();
    let mut owner = converse(&store, session(1), 0..5).await;
    let keep = owner.session.head();
    owner.snapshot(Seq::ZERO).await.expect("kept");
    drop(owner);
    let mut owner = converse(&store, session(1), 5..8).await;
    owner.snapshot(keep).await.expect("kept");
    owner.accept(9).await.expect("accepted");
    converse(&store, session(2), 20..25).await;
    (folder, file)
}

/// SQL in which `#07` stands for the id that ends in 07.
fn sql(text: &str) -> String {
    let mut parts = text.split('#');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |sql, part| format!("{sql}x'{:030}{}'{}", 0, &part[..2], &part[2..]))
}

/// Does some damage with plain SQL, which must change exactly one row.
fn harm(file: &Path, text: &str) {
    let sql = &*sql(text);
    let changed = Connection::open(file).expect("opened").execute(sql, []).expect("changed");
    assert_eq!(changed, 1, "{sql}");
}

fn corrupt_at(error: &StoreError) -> Option<(u128, u64)> {
    match error {
        StoreError::Corrupt { session, at, .. } => Some((session.as_ref()?.as_uuid().as_u128(), at.as_ref()?.0)),
        _ => None,
    }
}

/// Both the report and a fault in it name session and position.
fn reported(file: &Path, session_number: u128, seq: u64) {
    let report = verify(file).expect("verified");
    let named = report
        .problems
        .iter()
        .any(|problem| problem.session == Some(session(session_number)) && problem.at == Some(Seq(seq)));
    assert!(named, "nothing names session {session_number}, position {seq}: {report}");
}

#[tokio::test]
async fn what_was_written_verifies() {
    let (_folder, file) = written().await;
    let report = verify(&file).expect("verified");
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.sessions, report.snapshots, report.inputs), (2, 2, 14));
}

#[tokio::test]
async fn a_changed_entry_is_named_when_it_is_read_and_by_verify() {
    for (what, sql) in [
        ("body", "UPDATE journal SET body = replace(body, 'prompt', 'Prompt') WHERE session = #02 AND seq = 2"),
        ("time", "UPDATE journal SET at = at + 1 WHERE session = #02 AND seq = 2"),
        ("checksum", "UPDATE journal SET checksum = checksum + 1 WHERE session = #02 AND seq = 2"),
    ] {
        let (_folder, file) = written().await;
        harm(&file, sql);
        let store = SqliteStore::open_read_only(&file).expect("opened");
        let error = store.read(session(2), Seq::ZERO, 99).await.expect_err(what);
        assert_eq!(corrupt_at(&error), Some((2, 2)), "{what}: {error:?}");
        assert!(
            store
                .read(session(1), store.session(session(1)).await.expect("asked").expect("there").head, 9)
                .await
                .is_ok()
        );
        reported(&file, 2, 2);
    }
}

#[tokio::test]
async fn a_missing_entry_is_a_gap_and_never_skipped() {
    for seq in [1, 3] {
        let (_folder, file) = written().await;
        harm(&file, &format!("DELETE FROM journal WHERE session = #02 AND seq = {seq}"));
        let store = SqliteStore::open_read_only(&file).expect("opened");
        let error = store.read(session(2), Seq::ZERO, 99).await.expect_err("a gap");
        assert_eq!(corrupt_at(&error), Some((2, seq)), "{error:?}");
        assert!(!verify(&file).expect("verified").is_clean());
    }
    let (_folder, file) = written().await;
    harm(
        &file,
        "DELETE FROM journal WHERE session = #02 AND \
         seq = (SELECT head FROM session WHERE id = #02)",
    );
    let store = SqliteStore::open_read_only(&file).expect("opened");
    assert!(store.read(session(2), Seq::ZERO, 99).await.is_err(), "the end is missing");
    assert!(!verify(&file).expect("verified").is_clean());
}

#[tokio::test]
async fn a_damaged_snapshot_costs_time_only_while_its_entries_are_kept() {
    let (_folder, file) = written().await;
    let newest = "UPDATE snapshot SET body = replace(body, 'head', 'heaD') WHERE seq = (SELECT max(seq) FROM snapshot)";
    harm(&file, newest);
    assert!(!verify(&file).expect("verified").is_clean());
    let store = SqliteStore::open(&file, windlass_sqlite::SqliteOptions::default()).expect("opened");
    let opened = store.open(session(1)).await.expect("the older snapshot and the entries after it do");
    let (at, _) = opened.snapshot.expect("the older one");
    assert_eq!(opened.tail.first().map(|entry| entry.seq), Some(at.next()));
    drop(store);
    harm(&file, "UPDATE snapshot SET hash = zeroblob(32) WHERE seq = (SELECT min(seq) FROM snapshot)");
    let store = SqliteStore::open(&file, windlass_sqlite::SqliteOptions::default()).expect("opened");
    let error = store.open(session(1)).await.expect_err("nothing stands for the entries that are gone");
    assert!(matches!(error, StoreError::Corrupt { session: Some(_), .. }), "{error:?}");
    store.open(session(2)).await.expect("the other session is well");
}

#[tokio::test]
async fn a_changed_receipt_is_detected() {
    let (_folder, file) = written().await;
    let first = "session = #01 AND seq = (SELECT min(seq) FROM receipt)";
    let run: [u8; 16] = Connection::open(&file)
        .expect("opened")
        .query_row(&sql(&format!("SELECT run FROM receipt WHERE {first} AND body IS NOT NULL")), [], |row| row.get(0))
        .expect("the first receipt has outlived its entry");
    let run = RunId::from_uuid(uuid::Uuid::from_bytes(run));
    let read = |file: PathBuf| async move {
        SqliteStore::open_read_only(file).expect("opened").receipt(session(1), run, 0).await
    };
    assert!(read(file.clone()).await.expect("read").is_some());
    harm(
        &file,
        &format!("UPDATE receipt SET body = replace(body, '\"message_count\":1', '\"message_count\":9') WHERE {first}"),
    );
    let error = read(file.clone()).await.expect_err("it was changed");
    assert!(corrupt_at(&error).is_some(), "{error:?}");
    assert!(!verify(&file).expect("verified").is_clean());
}

#[tokio::test]
async fn verify_recomputes_every_derived_row() {
    for sql in [
        "UPDATE session SET pending = 1 - pending WHERE id = #02",
        "UPDATE session SET head = head + 1 WHERE id = #02",
        "UPDATE session SET open_inputs = 9 WHERE id = #01",
        "UPDATE session SET updated_at = 1 WHERE id = #02",
        "UPDATE input SET settled = NULL WHERE id = #14",
        "UPDATE input SET dead = 1 WHERE id = #14",
        "UPDATE input SET accepted_seq = accepted_seq + 1 WHERE id = #14",
        "UPDATE input SET key = 'another' WHERE id = #09",
        "DELETE FROM input WHERE id = #14",
        "INSERT INTO input VALUES (#02, #ff, NULL, 'prompt', NULL, 0, 2, NULL)",
        "INSERT INTO input VALUES (#ff, #ff, NULL, 'prompt', NULL, 0, 2, NULL)",
        "DELETE FROM receipt WHERE seq = (SELECT max(seq) FROM receipt) AND session = #01",
        "DELETE FROM receipt WHERE seq = (SELECT min(seq) FROM receipt) AND session = #01",
        "DELETE FROM session WHERE id = #02",
    ] {
        let (_folder, file) = written().await;
        harm(&file, sql);
        assert!(!verify(&file).expect("verified").is_clean(), "not noticed: {sql}");
    }
}

/// Flips single bits all over the file: what is read is what was written, or an error.
#[tokio::test]
async fn a_flipped_bit_anywhere_is_never_read_as_the_truth() {
    let (_folder, file) = written().await;
    let good = std::fs::read(&file).expect("read");
    let read = |file: PathBuf| async move {
        let store = SqliteStore::open_read_only(&file)?;
        let head = store.session(session(1)).await?.map(|row| row.head);
        let kept = store.read(session(1), head.map_or(Seq::ZERO, |head| Seq(head.0.saturating_sub(2))), 99).await?;
        Ok::<_, StoreError>((kept, store.read(session(2), Seq::ZERO, 99).await?))
    };
    let truth = read(file.clone()).await.expect("read");
    let mut noticed = 0;
    // A prime stride visits every page, and each at other offsets.
    for at in (100..good.len()).step_by(397) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&file, &bad).expect("written");
        match read(file.clone()).await {
            // A damaged head of the first session only moves the window that this test looks at.
            Ok((kept, whole)) => {
                assert!(whole == truth.1 || whole.is_empty(), "byte {at}");
                assert!(kept.iter().all(|entry| truth.0.contains(entry)) || kept.len() > truth.0.len(), "byte {at}");
            }
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 0);
}
