//! How is a store copied while it is in use, and how does it come back from a copy?
//!
//! A copy gets its name only when it is complete, synced and verified. A restore takes the store's lock, so it can not
//! happen under a running server, and replaces the file in one step: whenever it is cut off, either the old store is
//! there or the new one.

use crate::{
    SqliteOptions, VerifyReport,
    file::{self, beside, remove, unopened},
    verify::verify,
};
use rusqlite::Connection;
use std::path::Path;
use windlass_runtime::store::StoreError;

/// Copies a store to a new name that it gets only if all in it is as it was written.
pub(crate) fn copy_verified(connection: &Connection, to: &Path) -> Result<VerifyReport, StoreError> {
    if to.exists() {
        return Err(taken(to));
    }
    let half = beside(to, ".partial");
    let copied = file::copy_aside(connection, to, &half).and_then(|()| verified(&half));
    let report = finished(&half, copied)?;
    file::rename(&half, to)?;
    Ok(report)
}

/// Makes a store of a backup. Blocks while it copies and verifies.
///
/// A store that is there is replaced only with `overwrite`, and stays beside as `<to>.replaced`. The backup itself is
/// not changed; one of an older schema is upgraded on the way.
///
/// # Errors
/// [`StoreError::Locked`] names the process that writes to `to` now. [`StoreError::Unavailable`] if `to` exists and
/// `overwrite` is not set, or there is no backup at `from`. [`StoreError::Corrupt`] if the backup is not as it was
/// written, [`StoreError::Newer`] if a newer version wrote it. `to` is untouched in all these cases.
pub fn restore(from: impl AsRef<Path>, to: impl AsRef<Path>, overwrite: bool) -> Result<VerifyReport, StoreError> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let schema = file::look(from)?;
    if schema == 0 {
        return Err(StoreError::Unavailable(format!("{} is no backup; choose another file", from.display()).into()));
    }
    let _lock = file::Lock::take(to)?;
    if to.exists() && !overwrite {
        return Err(taken(to));
    }
    let half = beside(to, ".partial");
    // What upgrading would keep of an older one is the backup itself.
    let before = beside(&half, &format!(".schema-{schema}.backup"));
    remove(&before)?;
    let made = file::open_reader(from).and_then(|reader| file::copy_aside(&reader, to, &half)).and_then(|()| {
        // Upgraded before it is verified; closing it writes its log into the file.
        drop(file::open(&half, &SqliteOptions::default())?);
        verified(&half)
    });
    remove(&before)?;
    let report = finished(&half, made)?;
    if to.exists() {
        set_aside(to)?;
    } else {
        forget_logs(to)?;
    }
    file::rename(&half, to)?;
    Ok(report)
}

/// Keeps the store that is to be replaced, so that nothing of it can be taken for the new one's.
fn set_aside(to: &Path) -> Result<(), StoreError> {
    // What is still in its log goes into the file, if it can still be opened; a damaged one keeps its log beside it.
    let whole = file::open(to, &SqliteOptions::default()).and_then(|connection| {
        let cut = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        cut.map_err(crate::rows::unreadable)
    });
    let replaced = beside(to, ".replaced");
    remove(&replaced)?;
    let kept = std::fs::hard_link(to, &replaced).or_else(|_| std::fs::copy(to, &replaced).map(drop));
    kept.map_err(|error| unopened(&replaced, &error))?;
    let log = beside(to, "-wal");
    if matches!(whole, Ok(0)) {
        remove(&log)?;
    }
    forget_logs(to)
}

/// A log that is left lies no longer where `SQLite` would play it into the next file of this name; it is kept beside.
fn forget_logs(to: &Path) -> Result<(), StoreError> {
    let log = beside(to, "-wal");
    if log.exists() {
        file::rename(&log, &beside(&beside(to, ".replaced"), "-wal"))?;
    }
    remove(&beside(to, "-shm"))?;
    remove(&beside(to, "-journal"))
}

/// Whether all in a copy is as it was written.
fn verified(copy: &Path) -> Result<VerifyReport, StoreError> {
    let report = verify(copy)?;
    let Some(problem) = report.problems.first() else { return Ok(report) };
    let detail = format!("{problem}; run `windlass verify` to see all").into();
    Err(StoreError::Corrupt { session: problem.session, at: problem.at, detail })
}

/// Leaves one file of a good copy, and nothing of a bad one. Reading has left an empty log beside it.
fn finished(copy: &Path, made: Result<VerifyReport, StoreError>) -> Result<VerifyReport, StoreError> {
    remove(&beside(copy, "-wal"))?;
    remove(&beside(copy, "-shm"))?;
    if made.is_err() {
        remove(copy)?;
    }
    made
}

fn taken(path: &Path) -> StoreError {
    StoreError::Unavailable(format!("{} exists already; choose another name", path.display()).into())
}
