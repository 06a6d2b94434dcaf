//! How fast does bare SQLite keep the same rows?
//!
//! One writer thread takes ready-made rows, puts all that wait into one transaction and answers when it is committed:
//! group commit and nothing else. The rows are read back from the database that the figure has just written, so that
//! neither side writes more than the other.

use anyhow::Context as _;
use rusqlite::{Connection, OpenFlags, params};
use std::{collections::BTreeMap, path::Path, sync::Arc, thread::JoinHandle, time::Instant};
use tokio::sync::{mpsc, oneshot};

const SCHEMA: &str = include_str!("../../../sqlite/migrations/V1__journals.sql");

/// What one append writes: some entries of one session, and the rows derived from them.
#[derive(Default)]
pub struct Rows {
    session: Vec<u8>,
    journal: Vec<(i64, i64, String, i64)>,
    accepted: Vec<(Vec<u8>, Option<String>, String, i64)>,
    settled: Vec<(Vec<u8>, String, i64)>,
    receipts: Vec<(Vec<u8>, i64, i64)>,
}

/// What opens and holds a session is written before anything is measured.
const OPENING: [&str; 3] = ["\"session_created\"", "\"hold_changed\"", "\"woken\""];

/// Reads every session's rows back, without those that opened it, cut into appends: a new one begins at each entry
/// that `begins` recognises.
///
/// # Errors
/// The database cannot be read.
pub fn read_back(path: &Path, begins: fn(&str) -> bool) -> anyhow::Result<Vec<Vec<Arc<Rows>>>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut sessions: BTreeMap<Vec<u8>, Vec<Rows>> = BTreeMap::new();
    let mut journal =
        connection.prepare("SELECT session, seq, at, body, checksum FROM journal ORDER BY session, seq")?;
    let mut rows = journal.query([])?;
    while let Some(row) = rows.next()? {
        let session: Vec<u8> = row.get(0)?;
        let entry: (i64, i64, String, i64) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        if OPENING.iter().any(|name| entry.2.contains(name)) {
            continue;
        }
        let appends = sessions.entry(session.clone()).or_default();
        if appends.is_empty() || begins(&entry.2) {
            appends.push(Rows { session, ..Rows::default() });
        }
        appends.last_mut().expect("one was pushed if there was none").journal.push(entry);
    }
    // The append that holds an entry also writes the rows derived from it.
    let mut holder = |session: &[u8], seq: i64, put: &mut dyn FnMut(&mut Rows)| {
        let Some(appends) = sessions.get_mut(session) else { return };
        let after = appends.partition_point(|rows| rows.journal[0].0 <= seq);
        if let Some(rows) = after.checked_sub(1).and_then(|index| appends.get_mut(index)) {
            put(rows);
        }
    };
    let mut inputs =
        connection.prepare("SELECT session, id, key, kind, settled, accepted_seq, settled_seq FROM input")?;
    let mut rows = inputs.query([])?;
    while let Some(row) = rows.next()? {
        let (session, id): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let accepted = (id.clone(), row.get(2)?, row.get(3)?, row.get(5)?);
        holder(&session, accepted.3, &mut |rows| rows.accepted.push(accepted.clone()));
        if let (Some(state), Some(seq)) = (row.get::<_, Option<String>>(4)?, row.get(6)?) {
            holder(&session, seq, &mut |rows| rows.settled.push((id.clone(), state.clone(), seq)));
        }
    }
    let mut receipts = connection.prepare("SELECT session, run, sequence, seq FROM receipt")?;
    let mut rows = receipts.query([])?;
    while let Some(row) = rows.next()? {
        let receipt: (Vec<u8>, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        holder(&row.get::<_, Vec<u8>>(0)?, receipt.2, &mut |rows| rows.receipts.push(receipt.clone()));
    }
    Ok(sessions.into_values().map(|appends| appends.into_iter().map(Arc::new).collect()).collect())
}

type Request = (Arc<Rows>, oneshot::Sender<()>);

/// The writer thread's address.
pub struct Writer {
    requests: mpsc::Sender<Request>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    /// Makes a new database and starts its writer.
    ///
    /// # Errors
    /// The database cannot be made.
    pub fn start(path: &Path) -> anyhow::Result<Writer> {
        remove(path)?;
        let mut connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA mmap_size = 0;
             PRAGMA wal_autocheckpoint = 4096;",
        )?;
        connection.execute_batch(SCHEMA)?;
        connection.set_prepared_statement_cache_capacity(16);
        let (requests, mut waiting) = mpsc::channel::<Request>(4096);
        let thread = std::thread::spawn(move || {
            while let Some(first) = waiting.blocking_recv() {
                let mut group = vec![first];
                while group.len() < 4096 {
                    let Ok(next) = waiting.try_recv() else { break };
                    group.push(next);
                }
                let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                for (rows, _) in &group {
                    write(&transaction, rows)?;
                }
                transaction.commit()?;
                for (_, answer) in group {
                    // A caller that has gone away needs no answer.
                    let _ = answer.send(());
                }
            }
            Ok(())
        });
        Ok(Writer { requests, thread })
    }

    /// Writes each session's appends, one after the other, from `submitters` tasks. Returns the microseconds that each
    /// append took, and the seconds that all took.
    ///
    /// # Errors
    /// The writer failed.
    pub async fn submit(self, sessions: Vec<Vec<Arc<Rows>>>, submitters: usize) -> anyhow::Result<(Vec<f64>, f64)> {
        let mut shares: Vec<Vec<Arc<Rows>>> = (0..submitters).map(|_| Vec::new()).collect();
        for (index, appends) in sessions.into_iter().enumerate() {
            shares[index % submitters].extend(appends);
        }
        let start = Instant::now();
        let tasks: Vec<_> = shares
            .into_iter()
            .map(|appends| {
                let requests = self.requests.clone();
                tokio::spawn(async move {
                    let mut times = Vec::with_capacity(appends.len());
                    for rows in appends {
                        let (answer, answered) = oneshot::channel();
                        let start = Instant::now();
                        requests.send((rows, answer)).await.ok().context("the bare writer ended early")?;
                        answered.await.context("the bare writer ended early")?;
                        times.push(start.elapsed().as_secs_f64() * 1e6);
                    }
                    anyhow::Ok(times)
                })
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await??);
        }
        let took = start.elapsed().as_secs_f64();
        drop(self.requests);
        tokio::task::spawn_blocking(|| self.thread.join().expect("the bare writer does not panic")).await??;
        Ok((times, took))
    }
}

fn write(connection: &Connection, rows: &Rows) -> rusqlite::Result<()> {
    let run = |sql, params: &[&dyn rusqlite::ToSql]| connection.prepare_cached(sql)?.execute(params).map(drop);
    let session = &rows.session;
    for (seq, at, body, checksum) in &rows.journal {
        run("INSERT INTO journal VALUES (?1, ?2, ?3, ?4, ?5)", params![session, seq, at, body, checksum])?;
    }
    for (id, key, kind, seq) in &rows.accepted {
        run("INSERT INTO input VALUES (?1, ?2, ?3, ?4, NULL, 0, ?5, NULL)", params![session, id, key, kind, seq])?;
    }
    for (id, state, seq) in &rows.settled {
        let sql = "UPDATE input SET settled = ?3, settled_seq = ?4 WHERE session = ?1 AND id = ?2";
        run(sql, params![session, id, state, seq])?;
    }
    for (id, sequence, seq) in &rows.receipts {
        run("INSERT INTO receipt VALUES (?1, ?2, ?3, ?4, NULL, NULL)", params![session, id, sequence, seq])?;
    }
    let (head, at) = rows.journal.last().map_or((0, 0), |entry| (entry.0, entry.1));
    run(
        "INSERT INTO session VALUES (?1, 1, ?2, 0, ?3, 'open', 0, 1, 0, 1, NULL, NULL)
         ON CONFLICT (id) DO UPDATE SET head = ?2, updated_at = ?3",
        params![session, head, at],
    )
}

/// Removes a database with the files beside it.
///
/// # Errors
/// One is there and cannot be removed.
pub fn remove(path: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_back_and_written_again_is_the_same() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("from.db"), dir.path().join("to.db"));
        let made = Connection::open(&from)?;
        made.execute_batch(SCHEMA)?;
        let rows = Rows {
            session: vec![7; 16],
            journal: vec![(1, 10, "accepted".into(), 1), (2, 11, "ended".into(), 2)],
            accepted: vec![(vec![1; 16], None, "prompt".into(), 1)],
            settled: vec![(vec![1; 16], "consumed".into(), 2)],
            receipts: vec![(vec![2; 16], 0, 2)],
        };
        write(&made, &rows)?;
        drop(made);
        let sessions = read_back(&from, |body| body == "ended")?;
        assert_eq!(sessions[0].len(), 2, "cut before the end");
        assert_eq!((sessions[0][0].accepted.len(), sessions[0][1].settled.len()), (1, 1));
        let times = crate::measure::on_runtime({
            let to = to.clone();
            async move { Ok(Writer::start(&to)?.submit(sessions, 1).await?.0) }
        })?;
        assert_eq!(times.len(), 2);
        let settled: String =
            Connection::open(&to)?
                .query_row("SELECT settled FROM input WHERE settled_seq = 2", [], |row| row.get(0))?;
        assert_eq!(settled, "consumed");
        Ok(())
    }
}
