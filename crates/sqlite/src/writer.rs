//! How does everything that waits become durable with one sync?
//!
//! One thread writes. It takes all that waits, writes it in one transaction, commits once, and answers everybody: the
//! group commit of Gray and Reuter, without a timer, for a queue forms by itself while the disk syncs.

use crate::{
    SqliteOptions, SqliteStats,
    crash::crash_point,
    documents::document_checksum,
    file,
    rows::{Rows, bytes, corrupt, gate_name, json, session_by_id, state_name},
};
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, params};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use windlass_core::{Fence, RunId, Seq, SessionId, Timestamp};
use windlass_runtime::store::{IndexChange, StoreError};

/// So many requests share a transaction at most, so that none waits for an endless one.
const GROUP: usize = 1_024;
/// The log is moved into the file whenever it has grown by so many pages (16 MiB) and nobody waits…
const CHECKPOINT_PAGES: i32 = 4_096;
/// …or by so many more, and somebody does.
const CHECKPOINT_PATIENCE: i32 = 12_288;
/// How long to wait between attempts to get a lost file back, at first and at most.
const REOPEN_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A change, encoded and ready to be written.
pub(crate) enum Change {
    /// Raise the fence of a session, making it if need be. Answer: the fence.
    Open(SessionId),
    Append(Box<Rows>),
    Snapshot(Box<SnapshotRow>),
    Delete(SessionId, Fence),
    /// Keep a document. Answer: its version, or 0 and the version that is there in `found`.
    PutDocument(Box<DocumentRow>),
    /// Forget a document. Answer: 1 if there was one.
    DeleteDocument {
        kind: String,
        key: String,
    },
    /// Change something of no meaning.
    Probe,
}

pub(crate) struct SnapshotRow {
    pub(crate) session: SessionId,
    pub(crate) fence: Fence,
    pub(crate) at: Seq,
    pub(crate) body: String,
    pub(crate) hash: [u8; 32],
    pub(crate) keep_after: Seq,
    /// The receipts in the entries that go: run, sequence, body, checksum.
    pub(crate) receipts: Vec<(RunId, u64, String, i64)>,
}

pub(crate) struct DocumentRow {
    pub(crate) kind: String,
    pub(crate) key: String,
    pub(crate) body: String,
    pub(crate) expected: Option<u64>,
    pub(crate) updated_at: Timestamp,
    /// The version that is there, if it is not the expected one.
    pub(crate) found: Arc<AtomicU64>,
}

type Answer = Result<u64, StoreError>;
type Job = (Change, oneshot::Sender<Answer>);

/// What the store has done so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) transactions: AtomicU64,
    pub(crate) appends: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) reopened: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> SqliteStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SqliteStats {
            transactions: read(&self.transactions),
            appends: read(&self.appends),
            entries: read(&self.entries),
            checkpoints: read(&self.checkpoints),
            reopened: read(&self.reopened),
        }
    }
}

/// The handle on the thread that writes. Dropping it waits for the thread to finish what it was given.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) counters: Arc<Counters>,
}

impl Writer {
    pub(crate) fn start(path: &Path, options: SqliteOptions) -> Result<Writer, StoreError> {
        let lock = file::Lock::take(path)?;
        let connection = file::open(path, &options)?;
        let counters = Arc::new(Counters::default());
        let (queue, jobs) = mpsc::channel(options.queue);
        let mut thread = Thread {
            path: path.to_owned(),
            options,
            connection: None,
            wal_pages: Arc::new(AtomicI32::new(0)),
            checkpoint_at: CHECKPOINT_PAGES,
            retry: (Instant::now(), REOPEN_AFTER.0),
            counters: counters.clone(),
        };
        thread.use_connection(connection).map_err(|error| known(None, &error))?;
        let run = move || {
            thread.run(jobs);
            // In this order: nobody may get the lock while the file is still open.
            drop(thread);
            drop(lock);
        };
        let spawned = std::thread::Builder::new().name("windlass-sqlite".into()).spawn(run);
        let handle = spawned.map_err(|error| StoreError::Unavailable(error.to_string().into()))?;
        Ok(Writer { queue: Some(queue), thread: Some(handle), counters })
    }

    /// Has a change written. Cancel-safe: until it is queued nothing happens, afterwards all of it does.
    pub(crate) async fn write(&self, change: Change) -> Answer {
        let gone = || StoreError::Unavailable("the writing thread has ended".into());
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.send((change, answer)).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(StoreError::Unknown("the writing thread has ended".into())))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // It panics only where a bug is; that has been reported, and this may be an unwinding already.
            let _ = thread.join();
        }
    }
}

struct Thread {
    path: PathBuf,
    options: SqliteOptions,
    /// None after a commit whose outcome is unknown, until the file is opened anew.
    connection: Option<Connection>,
    wal_pages: Arc<AtomicI32>,
    /// How long the log may become before it is moved into the file.
    checkpoint_at: i32,
    /// When to try to get the file back, and how long to wait after that.
    retry: (Instant, Duration),
    counters: Arc<Counters>,
}

/// Why a group was not written.
enum Failed {
    /// Nothing is written: this went wrong before the commit, or the commit said so.
    NotDone(rusqlite::Error),
    /// The commit failed in a way that leaves its outcome open.
    Unknown(rusqlite::Error),
}

impl Thread {
    fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut group = Vec::new();
        while let Some(job) = jobs.blocking_recv() {
            group.push(job);
            while group.len() < GROUP
                && let Ok(job) = jobs.try_recv()
            {
                group.push(job);
            }
            self.commit(&mut group);
            let pages = self.wal_pages.load(Ordering::Relaxed);
            if pages < CHECKPOINT_PAGES {
                // The log has begun anew.
                self.checkpoint_at = CHECKPOINT_PAGES;
            }
            let patience = if jobs.is_empty() { 0 } else { CHECKPOINT_PATIENCE };
            if pages >= self.checkpoint_at + patience {
                self.checkpoint();
            }
        }
    }

    /// Writes a group, answers everybody in it, and leaves it empty.
    fn commit(&mut self, group: &mut Vec<Job>) {
        let Some(connection) = self.connect() else {
            let lost = StoreError::Unavailable("the store lost its file and is getting it back".into());
            return group.drain(..).for_each(|(_, answer)| drop(answer.send(Err(lost.clone()))));
        };
        let began = Instant::now();
        let error = match write(connection, group) {
            Ok(answers) => {
                self.observe(group, &answers, began);
                self.counters.transactions.fetch_add(1, Ordering::Relaxed);
                for ((change, answer), result) in group.drain(..).zip(answers) {
                    if let (Change::Append(rows), Ok(_)) = (&change, &result) {
                        self.counters.appends.fetch_add(1, Ordering::Relaxed);
                        self.counters.entries.fetch_add(rows.entries.len() as u64, Ordering::Relaxed);
                    }
                    // Whoever has gone does not want to know.
                    let _ = answer.send(result);
                }
                return;
            }
            Err(Failed::Unknown(error)) => {
                self.lose();
                StoreError::Unknown(error.to_string().into())
            }
            Err(Failed::NotDone(_)) if group.len() > 1 => {
                // One of them is at fault. Written one by one, each gets its own answer.
                return group.drain(..).for_each(|job| self.commit(&mut vec![job]));
            }
            Err(Failed::NotDone(error)) => {
                if matches!(error.sqlite_error_code(), Some(ErrorCode::SystemIoFailure)) {
                    self.lose();
                }
                known(group.first().and_then(|(change, _)| change.session()), &error)
            }
        };
        group.drain(..).for_each(|(_, answer)| drop(answer.send(Err(error.clone()))));
    }

    /// Tells who observes what this transaction was about.
    fn observe(&self, group: &[Job], answers: &[Answer], began: Instant) {
        let Some(observer) = &self.options.observer else { return };
        let appended = group.iter().zip(answers).filter_map(|((change, _), answer)| match change {
            Change::Append(rows) if answer.is_ok() => Some(rows.entries.len() as u64),
            _ => None,
        });
        let (entries, sessions) = appended.fold((0, 0), |(entries, sessions), more| (entries + more, sessions + 1));
        if sessions > 0 {
            observer.committed(entries, sessions, began.elapsed());
        }
    }

    /// Gives the file up, so that nothing is ever committed on top of a commit whose outcome is unknown.
    fn lose(&mut self) {
        self.connection = None;
        self.retry = (Instant::now(), REOPEN_AFTER.0);
    }

    /// The connection, which is got back first if it was lost and the time has come to try.
    fn connect(&mut self) -> Option<&mut Connection> {
        if self.connection.is_none() && Instant::now() >= self.retry.0 {
            // A file that has gone is not made anew: what was acknowledged stands in it.
            let opened = self.path.exists().then(|| file::open(&self.path, &self.options).ok()).flatten();
            if opened.is_none_or(|connection| self.use_connection(connection).is_err()) {
                self.connection = None;
                self.retry = (Instant::now() + self.retry.1, (self.retry.1 * 2).min(REOPEN_AFTER.1));
            } else {
                self.counters.reopened.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.connection.as_mut()
    }

    /// Begins to write through a connection, with a commit of its own: whatever a failed one has left in the log is
    /// overwritten by it, or stands, before anybody is told which. A log that could not grow is emptied first.
    fn use_connection(&mut self, mut connection: Connection) -> rusqlite::Result<()> {
        let pages = self.wal_pages.clone();
        let hook = move |_: &mut rusqlite::hooks::Wal, count: std::ffi::c_int| {
            pages.store(count, Ordering::Relaxed);
            Ok(())
        };
        connection.wal_hook(Some(hook))?;
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        connection.execute("UPDATE store SET reopened = reopened + 1", [])?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Moves the log into the file, as far as no reader is in the way. It begins anew with the next commit that finds
    /// no reader in it; until then there is nothing to gain before it has grown by as much again.
    fn checkpoint(&mut self) {
        let Some(connection) = &self.connection else { return };
        self.checkpoint_at = self.wal_pages.load(Ordering::Relaxed) + CHECKPOINT_PAGES;
        self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        match connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            Ok(()) => {}
            // The log still has everything. A full disk heals; anything else is a reason to open the file anew.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {}
            Err(_) => self.lose(),
        }
    }
}

impl Change {
    const fn session(&self) -> Option<SessionId> {
        match self {
            Change::Open(session) | Change::Delete(session, _) => Some(*session),
            Change::Append(rows) => Some(rows.session),
            Change::Snapshot(row) => Some(row.session),
            Change::PutDocument(_) | Change::DeleteDocument { .. } | Change::Probe => None,
        }
    }
}

/// Writes a group in one transaction. Refusals change nothing and are answers; a failure undoes the whole group.
fn write(connection: &mut Connection, group: &[Job]) -> Result<Vec<Answer>, Failed> {
    crash_point("before_begin");
    connection.execute_batch("BEGIN IMMEDIATE").map_err(Failed::NotDone)?;
    crash_point("after_begin");
    let written = Statements::prepare(connection)
        .and_then(|mut statements| group.iter().map(|(change, _)| statements.write(change)).collect());
    let outcome = match written {
        Ok(answers) => {
            crash_point("before_commit");
            match connection.execute_batch("COMMIT") {
                Ok(()) => {
                    crash_point("after_commit");
                    crash_point("before_answer");
                    return Ok(answers);
                }
                // These are reported before a commit mark is written; of everything else nothing is known.
                Err(error) if is_known(&error) => Failed::NotDone(error),
                Err(error) => Failed::Unknown(error),
            }
        }
        Err(error) => Failed::NotDone(error),
    };
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        return Err(Failed::Unknown(error));
    }
    Err(outcome)
}

fn is_known(error: &rusqlite::Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, ReadOnly};
    matches!(error.sqlite_error_code(), Some(DiskFull | ReadOnly | DatabaseBusy | DatabaseLocked))
}

/// The answer to a change that is known not to be done.
fn known(session: Option<SessionId>, error: &rusqlite::Error) -> StoreError {
    let detail: Arc<str> = error.to_string().into();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(detail),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreError::ReadOnly(detail),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { session: None, at: None, detail }
        }
        // Two entries, inputs or receipts of one name: what is stored is not what the session thinks is stored.
        Some(ErrorCode::ConstraintViolation) => StoreError::Corrupt { session, at: None, detail },
        _ => StoreError::Unavailable(detail),
    }
}

/// The statements of the hot path, looked up once for each group.
struct Statements<'c> {
    connection: &'c Connection,
    advance: CachedStatement<'c>,
    journal: CachedStatement<'c>,
    receipt: CachedStatement<'c>,
    accept: CachedStatement<'c>,
    settle: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> rusqlite::Result<Statements<'c>> {
        Ok(Statements {
            connection,
            // Fence and position are part of what is updated: if either is not as expected, nothing is.
            advance: connection.prepare_cached(
                "UPDATE session SET head = coalesce(?4, head), updated_at = coalesce(?5, updated_at), gate = ?6, \
                 held = ?7, open_inputs = ?8, running = ?9, pending = ?10, due_at = ?11, agent = ?12 \
                 WHERE id = ?1 AND fence = ?2 AND head = coalesce(?3, head)",
            )?,
            journal: connection.prepare_cached("INSERT INTO journal VALUES (?, ?, ?, ?, ?)")?,
            receipt: connection.prepare_cached("INSERT INTO receipt VALUES (?, ?, ?, ?, NULL, NULL)")?,
            // An id that the session has forgotten may be admitted anew.
            accept: connection.prepare_cached("INSERT OR REPLACE INTO input VALUES (?, ?, ?, ?, NULL, 0, ?, NULL)")?,
            settle: connection.prepare_cached(
                "UPDATE input SET settled = ?, dead = ?, settled_seq = ? WHERE session = ? AND id = ?",
            )?,
        })
    }

    fn write(&mut self, change: &Change) -> rusqlite::Result<Answer> {
        match change {
            Change::Open(session) => self.open(*session),
            Change::Append(rows) => self.append(rows),
            Change::Snapshot(row) => self.snapshot(row),
            Change::Delete(session, fence) => self.delete(*session, *fence),
            Change::PutDocument(row) => self.put_document(row),
            Change::DeleteDocument { kind, key } => {
                let forget = "DELETE FROM document WHERE kind = ? AND key = ?";
                self.connection.prepare_cached(forget)?.execute([kind, key]).map(|gone| Ok(gone as u64))
            }
            Change::Probe => {
                let change = "UPDATE store SET probes = probes + 1";
                self.connection.prepare_cached(change)?.execute([]).map(|_| Ok(0))
            }
        }
    }

    /// Fences are numbered over all sessions, so that an owner of a deleted session never comes back to life with it.
    fn open(&self, session: SessionId) -> rusqlite::Result<Answer> {
        let raise = "UPDATE store SET fence = fence + 1 RETURNING fence";
        let fence: i64 = self.connection.prepare_cached(raise)?.query_row([], |row| row.get(0))?;
        let own = "INSERT INTO session (id, fence, head, pruned, updated_at, gate, held, open_inputs, running, pending) \
                   VALUES (?, ?, 0, 0, 0, 'open', 0, 0, 0, 0) ON CONFLICT DO UPDATE SET fence = excluded.fence";
        self.connection.prepare_cached(own)?.execute(params![bytes(&session), fence])?;
        Ok(Ok(fence as u64))
    }

    fn append(&mut self, rows: &Rows) -> rusqlite::Result<Answer> {
        let (id, status) = (bytes(&rows.session), &rows.status);
        let last = rows.entries.last();
        let advanced = self.advance.execute(params![
            id,
            number(rows.fence),
            rows.base.map(|seq| seq.0 as i64),
            last.map(|row| row.seq.0 as i64),
            last.map(|row| row.at.as_micros()),
            gate_name(status.gate),
            status.held,
            status.open_inputs,
            status.running,
            status.pending,
            status.due_at.map(windlass_core::Timestamp::as_micros),
            status.agent.as_deref(),
        ])?;
        if advanced == 0 {
            return Ok(Err(self.refusal(rows.session, rows.fence)));
        }
        if rows.tells_profile {
            self.tell_profile(rows)?;
        }
        for row in &rows.entries {
            self.journal.execute(params![id, row.seq.0 as i64, row.at.as_micros(), row.body, row.checksum])?;
        }
        for (run, sequence, seq) in &rows.receipts {
            self.receipt.execute(params![id, run.as_uuid().as_bytes(), *sequence as i64, seq.0 as i64])?;
        }
        for change in &rows.index {
            match change {
                IndexChange::Accepted { input, key, kind, seq } => {
                    let key = key.as_ref().map(windlass_core::IdempotencyKey::as_str);
                    let input = input.as_uuid().as_bytes();
                    self.accept.execute(params![id, input, key, kind.as_str(), seq.0 as i64])?;
                }
                IndexChange::Settled { input, state, dead, seq } => {
                    let input = input.as_uuid().as_bytes();
                    self.settle.execute(params![state_name(*state), dead, seq.0 as i64, id, input])?;
                }
            }
        }
        crash_point("after_rows");
        Ok(Ok(0))
    }

    /// Apart from the row's other columns, because these are in indexes that an append would have to rewrite.
    fn tell_profile(&self, rows: &Rows) -> rusqlite::Result<()> {
        let (profile, created_at) = (&rows.status.profile, rows.status.created_at);
        let sql = "UPDATE session SET created_at = ?, tenant = ?, name = ?, labels = ?, keep_alive = ?, policy = ? \
                   WHERE id = ?";
        self.connection.prepare_cached(sql)?.execute(params![
            created_at.as_micros(),
            profile.tenant.as_deref(),
            profile.name.as_deref(),
            json(&profile.labels),
            profile.keep_alive,
            profile.policy.as_deref(),
            bytes(&rows.session),
        ])?;
        Ok(())
    }

    fn put_document(&self, row: &DocumentRow) -> rusqlite::Result<Answer> {
        let DocumentRow { kind, key, body, expected, updated_at, found } = row;
        let version = "SELECT version FROM document WHERE kind = ? AND key = ?";
        let version = self.connection.prepare_cached(version)?.query_row([kind, key], |row| row.get::<_, i64>(0));
        let version = version.optional()?.unwrap_or(0) as u64;
        if expected.is_some_and(|expected| expected != version) {
            found.store(version, Ordering::Relaxed);
            return Ok(Ok(0));
        }
        let checksum = document_checksum(kind, key, version + 1, *updated_at, body.as_bytes());
        let keep = "INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?, ?, ?)";
        let values = params![kind, key, (version + 1) as i64, updated_at.as_micros(), body, checksum];
        self.connection.prepare_cached(keep)?.execute(values)?;
        Ok(Ok(version + 1))
    }

    /// Why a change of a session did not apply.
    fn refusal(&self, session: SessionId, fence: Fence) -> StoreError {
        match session_by_id(self.connection, session) {
            Ok(Some((row, _))) if row.fence == fence => StoreError::Conflict { session, next: row.head.next() },
            Ok(_) => StoreError::Fenced { session },
            Err(error) => error,
        }
    }

    fn snapshot(&self, row: &SnapshotRow) -> rusqlite::Result<Answer> {
        crash_point("snapshot_before");
        let (id, at, keep_after) = (bytes(&row.session), row.at.0 as i64, row.keep_after.0 as i64);
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| self.connection.prepare_cached(sql)?.execute(values);
        let prune = "UPDATE session SET pruned = max(pruned, ?1) WHERE id = ?2 AND fence = ?3 AND head >= ?4";
        if run(prune, params![keep_after, id, number(row.fence), at])? == 0 {
            return Ok(Err(self.refusal(row.session, row.fence)));
        }
        for (run_id, sequence, body, checksum) in &row.receipts {
            let keep = "UPDATE receipt SET body = ?, checksum = ? WHERE session = ? AND run = ? AND sequence = ?";
            run(keep, params![body, checksum, id, run_id.as_uuid().as_bytes(), *sequence as i64])?;
        }
        run("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?)", params![id, at, row.body, row.hash])?;
        // Two are kept, so that a damaged one costs time only, as long as the entries after the other are there.
        let old = "DELETE FROM snapshot WHERE session = ?1 AND seq NOT IN \
                   (SELECT seq FROM snapshot WHERE session = ?1 ORDER BY seq DESC LIMIT 2)";
        run(old, params![id])?;
        run("DELETE FROM journal WHERE session = ? AND seq <= ?", params![id, keep_after])?;
        crash_point("snapshot_after");
        Ok(Ok(row.body.len() as u64))
    }

    fn delete(&self, session: SessionId, fence: Fence) -> rusqlite::Result<Answer> {
        let id = bytes(&session);
        match session_by_id(self.connection, session) {
            Ok(Some((row, _))) if row.fence == fence => {}
            Ok(None) => return Ok(Ok(0)),
            Ok(Some(_)) => return Ok(Err(StoreError::Fenced { session })),
            Err(_) => return Ok(Err(corrupt(session, None, "its session row makes no sense"))),
        }
        for sql in [
            "DELETE FROM journal WHERE session = ?",
            "DELETE FROM input WHERE session = ?",
            "DELETE FROM receipt WHERE session = ?",
            "DELETE FROM snapshot WHERE session = ?",
            "DELETE FROM session WHERE id = ?",
        ] {
            self.connection.prepare_cached(sql)?.execute([id])?;
        }
        Ok(Ok(0))
    }
}

const fn number(fence: Fence) -> i64 {
    fence.0.get() as i64
}
