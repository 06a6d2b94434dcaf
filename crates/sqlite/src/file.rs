//! Whose file is this, who may write to it, and how is it opened?
//!
//! A file is looked at before it is opened, so that one that is not ours or newer than we are is refused without a
//! byte of it changing. Settings that durability rests on are read back, and a store that does not have them is not
//! opened.

use crate::{SqliteOptions, crash::crash_point, rows::unreadable};
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};
use std::{
    fs::{File, TryLockError},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use windlass_runtime::store::StoreError;

mod migrations {
    refinery::embed_migrations!("migrations");
}

/// `WIND`, in the header of each file of ours.
const APPLICATION_ID: i64 = 0x5749_4e44;
/// The newest schema this version knows.
const SCHEMA: u32 = 2;
/// Before this version SQLite could lose a committed transaction when the write-ahead log was reset.
const OLDEST_SQLITE: i32 = 3_051_003;
/// How long to wait for somebody who looks at the file with other tools.
const BUSY: Duration = Duration::from_secs(5);
/// The write-ahead log is cut down to this after it was larger.
const WAL_BYTES_KEPT: i64 = 64 << 20;

/// The right to write to one file; ends with this value, or with the process, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(path: &Path) -> Result<Lock, StoreError> {
        let lock = beside(path, ".lock");
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&lock);
        let mut file = opened.map_err(|error| unopened(&lock, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "(starting)" } else { pid.trim() };
                return Err(StoreError::Locked { path: path.display().to_string().into(), pid: pid.into() });
            }
            Err(TryLockError::Error(error)) => return Err(unopened(&lock, &error)),
        }
        // The file stays when the lock ends: were it deleted, two processes could hold locks on two files of its name.
        let write = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        write.map_err(|error| unopened(&lock, &error))?;
        Ok(Lock { _file: file })
    }
}

/// Whether a store could be opened for writing at this moment: asks for its lock, and lets go of it. Nothing else of the
/// store is looked at or changed.
///
/// # Errors
/// [`StoreError::Locked`] names the process that has it.
pub fn try_lock(path: impl AsRef<Path>) -> Result<(), StoreError> {
    Lock::take(path.as_ref()).map(drop)
}

pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(crate) fn unopened(path: &Path, error: &std::io::Error) -> StoreError {
    let detail: Arc<str> = format!("{}: {error}", path.display()).into();
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly(detail),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(detail),
        _ => StoreError::Unavailable(detail),
    }
}

fn foreign(path: &Path, detail: &str) -> StoreError {
    let detail = format!("{}: {detail}", path.display()).into();
    StoreError::Corrupt { session: None, at: None, detail }
}

/// The writer's connection: looked at, migrated, set up and checked.
pub(crate) fn open(path: &Path, options: &SqliteOptions) -> Result<Connection, StoreError> {
    assert!(rusqlite::version_number() >= OLDEST_SQLITE, "the bundled SQLite is at least 3.51.3");
    let found = if is_unused(path) { make(path, options)? } else { look(path)? };
    let mut connection = Connection::open_with_flags(path, writing()).map_err(|error| refused(path, error))?;
    if connection.is_readonly("main").map_err(unreadable)? {
        return Err(StoreError::ReadOnly(format!("{} is write-protected", path.display()).into()));
    }
    let wrong = set(&connection, options).map_err(|error| refused(path, error))?;
    if let Some(wrong) = wrong {
        return Err(StoreError::Unavailable(format!("{}: {wrong}, which is not durable", path.display()).into()));
    }
    if found < SCHEMA {
        migrate(path, &mut connection, found)?;
    }
    Ok(connection)
}

fn writing() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Whether nothing has this name, not even a link to nothing, nor is it the name of somebody's log: `SQLite` would play it
/// into a file that is put beside it.
fn is_unused(path: &Path) -> bool {
    let names = [path.to_owned(), beside(path, "-wal"), beside(path, "-journal")];
    names.iter().all(|name| name.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound))
}

/// Makes a new store under another name, and names it when it is whole: that takes two syncs instead of one for each of
/// its steps, and whoever is killed meanwhile leaves no half of a store. Answers its schema.
fn make(path: &Path, options: &SqliteOptions) -> Result<u32, StoreError> {
    let half = beside(path, ".new");
    let forget = || [half.clone(), beside(&half, "-wal")].iter().try_for_each(|left| remove(left));
    forget()?;
    if let Err(error) = make_aside(&half, options) {
        // Where the disk is full, every bit helps. Why it failed is what there is to tell.
        drop(forget());
        return Err(error);
    }
    crash_point("made");
    rename(&half, path)?;
    crash_point("named");
    Ok(SCHEMA)
}

/// A whole store under this name, synced at its end only.
fn make_aside(half: &Path, options: &SqliteOptions) -> Result<(), StoreError> {
    let mut connection = Connection::open_with_flags(half, writing()).map_err(|error| refused(half, error))?;
    let set = |name: &str, value: &str| connection.pragma_update(None, name, value);
    set("synchronous", "off").and_then(|()| set("journal_mode", "memory")).map_err(|error| refused(half, error))?;
    bound(&connection, options).map_err(|error| refused(half, error))?;
    run_migrations(half, &mut connection)?;
    // It is a lasting property of the file. Nothing is in the log, which ends with the connection.
    connection.pragma_update(None, "journal_mode", "wal").map_err(|error| refused(half, error))?;
    connection.close().map_err(|(_, error)| refused(half, error))?;
    let synced = File::options().write(true).open(half).and_then(|file| file.sync_all());
    synced.map_err(|error| unopened(half, &error))
}

/// A reader's connection. `path` has been looked at before.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = |path: &Path, flags| {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "mmap_size", 0)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.set_prepared_statement_cache_capacity(32);
        // The first use of the file, so that a failure shows here.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        Ok(connection)
    };
    match open(path, flags) {
        Ok(connection) => Ok(connection),
        // In a folder that nobody may write to SQLite cannot coordinate with a writer. There is none then, and if it
        // left nothing in the log, the file alone is the whole truth.
        Err(rusqlite::Error::SqliteFailure(code, _))
            if matches!(code.code, ErrorCode::CannotOpen | ErrorCode::ReadOnly)
                && std::fs::metadata(beside(path, "-wal")).map_or(true, |wal| wal.len() == 0) =>
        {
            let escaped = path.display().to_string().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            let uri = PathBuf::from(format!("file:{escaped}?immutable=1"));
            open(&uri, flags | OpenFlags::SQLITE_OPEN_URI).map_err(|error| refused(path, error))
        }
        Err(error) => Err(refused(path, error)),
    }
}

/// The schema of the file, 0 if it is yet to be made. Changes nothing.
pub(crate) fn look(path: &Path) -> Result<u32, StoreError> {
    let mut header = [0; 100];
    match File::open(path).and_then(|mut file| file.read(&mut header)) {
        Ok(0) => return Ok(0),
        Ok(100) if header.starts_with(b"SQLite format 3\0") => {}
        Ok(_) => return Err(foreign(path, "this is not a database; it was left untouched")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(unopened(path, &error)),
    }
    // The newest header may still be in the write-ahead log, so SQLite is asked as well; but only if the file does not
    // already say that it is somebody else's, for even a reader leaves files beside it.
    let word = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().expect("the header has 100 bytes"));
    judge(path, i64::from(word(68)), i64::from(word(60)), true)?;
    let reader = open_reader(path)?;
    let number = |sql| reader.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(unreadable);
    let empty = number("SELECT count(*) FROM sqlite_schema")? == 0;
    judge(path, number("PRAGMA application_id")?, number("PRAGMA user_version")?, empty)
}

/// As [`look`], for a file that must be a store that this version can read.
pub(crate) fn look_readable(path: &Path) -> Result<(), StoreError> {
    match look(path)? {
        SCHEMA => Ok(()),
        0 => Err(StoreError::Unavailable(format!("{} has no store yet", path.display()).into())),
        older => {
            let detail = format!("{} has schema {older}; open it for writing once to upgrade it", path.display());
            Err(StoreError::ReadOnly(detail.into()))
        }
    }
}

fn judge(path: &Path, application: i64, schema: i64, may_be_fresh: bool) -> Result<u32, StoreError> {
    match u32::try_from(schema) {
        Ok(0) if application == 0 && may_be_fresh => Ok(0),
        _ if application != APPLICATION_ID => {
            Err(foreign(path, "this database is not a store of Windlass; it was left untouched"))
        }
        Ok(found) if found <= SCHEMA => Ok(found),
        found => Err(StoreError::Newer { found: found.unwrap_or(u32::MAX), known: SCHEMA }),
    }
}

/// Makes the settings, and tells which of them did not stick: not every file system can do what is needed.
fn set(connection: &Connection, options: &SqliteOptions) -> rusqlite::Result<Option<String>> {
    connection.busy_timeout(BUSY)?;
    let settings: [(&str, &dyn rusqlite::ToSql, &str); 9] = [
        ("journal_mode", &"wal", "wal"),
        ("synchronous", &"full", "2"),
        ("fullfsync", &true, "1"),
        ("checkpoint_fullfsync", &true, "1"),
        ("foreign_keys", &true, "1"),
        ("mmap_size", &0, "0"),
        ("trusted_schema", &false, "0"),
        // The writer moves the log into the file itself, between two commits instead of within one.
        ("wal_autocheckpoint", &0, "0"),
        ("journal_size_limit", &WAL_BYTES_KEPT, "67108864"),
    ];
    for (name, value, expected) in settings {
        connection.pragma_update(None, name, value)?;
        let found = connection.pragma_query_value(None, name, |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                other => other.as_str().unwrap_or_default().to_owned(),
            })
        })?;
        if found != expected {
            return Ok(Some(format!("SQLite has set {name} to {found} instead of {expected}")));
        }
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    bound(connection, options)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(None)
}

/// How large the file may become.
fn bound(connection: &Connection, options: &SqliteOptions) -> rusqlite::Result<()> {
    options.max_pages.map_or(Ok(()), |pages| connection.pragma_update(None, "max_page_count", pages))
}

fn migrate(path: &Path, connection: &mut Connection, found: u32) -> Result<(), StoreError> {
    if found > 0 {
        copy(connection, &beside(path, &format!(".schema-{found}.backup")))?;
    }
    run_migrations(path, connection)?;
    // From here on the header of the file itself tells older versions to leave it alone.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(unreadable)?;
    sync_folder(path).map_err(|error| unopened(path, &error))
}

fn run_migrations(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let runner = migrations::migrations::runner().set_grouped(true);
    runner.run(connection).map(drop).map_err(|error| {
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<rusqlite::Error>());
        told(path, cause, &error)
    })
}

/// A consistent copy of the whole store, synced; readers and writers go on meanwhile. Never overwrites.
pub(crate) fn copy(connection: &Connection, to: &Path) -> Result<(), StoreError> {
    if to.exists() {
        return Err(StoreError::Unavailable(format!("{} exists already; choose another name", to.display()).into()));
    }
    let half = beside(to, ".partial");
    copy_aside(connection, to, &half)?;
    rename(&half, to)
}

/// The copy under another name, synced. What a copy before it has left there is overwritten.
pub(crate) fn copy_aside(connection: &Connection, to: &Path, half: &Path) -> Result<(), StoreError> {
    remove(half)?;
    let name = half.to_str().ok_or_else(|| StoreError::Unavailable("the backup's name is not UTF-8".into()))?;
    connection.execute("VACUUM INTO ?", [name]).map_err(|error| refused(to, error))?;
    File::open(half).and_then(|file| file.sync_all()).map_err(|error| unopened(half, &error))
}

/// Removes a file that may be there.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(unopened(path, &error)),
        _ => Ok(()),
    }
}

/// Gives a file another name, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    let renamed = std::fs::rename(from, to).and_then(|()| sync_folder(to));
    renamed.map_err(|error| unopened(to, &error))
}

/// Makes a new name in a folder survive a loss of power.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Why SQLite did not open or copy a file.
#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn refused(path: &Path, error: rusqlite::Error) -> StoreError {
    told(path, Some(&error), &error)
}

/// An error in its own words, and what SQLite says that it is.
fn told(path: &Path, cause: Option<&rusqlite::Error>, error: &dyn std::error::Error) -> StoreError {
    let detail: Arc<str> = format!("{}: {error}", path.display()).into();
    match cause.and_then(rusqlite::Error::sqlite_error_code) {
        Some(ErrorCode::DiskFull) => StoreError::Full(detail),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly(detail),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => foreign(path, &error.to_string()),
        _ => StoreError::Unavailable(detail),
    }
}
