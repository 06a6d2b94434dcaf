//! Is everything in a file what was written, and is everything derived what it is derived from?
//!
//! Reads only, in one transaction, so it may run beside a writer. Every journal is folded once more through
//! [`Session`], and every row that was derived from it is compared with what the fold says.

use crate::{
    documents::{document, document_columns},
    file,
    rows::{
        bytes, entry, input_columns, input_row, kept_receipt, run_id, seq, session_columns, session_row, snapshots,
        unreadable,
    },
};
use rusqlite::{Connection, params};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};
use windlass_core::{
    ChainHash, Entry, InputId, Limits, PolicyTable, Record, RunId, Seq, Session, SessionId, Settlement, Snapshot,
};
use windlass_runtime::store::{InputRow, SessionRow, SessionStatus, StoreError};

/// A report names at most so many problems; one is bad enough.
const MOST_PROBLEMS: usize = 1_000;

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Sessions looked at.
    pub sessions: u64,
    /// Journal entries read, checked and folded.
    pub entries: u64,
    /// Rows of inputs compared.
    pub inputs: u64,
    /// Receipts compared and chained.
    pub receipts: u64,
    /// Snapshots compared.
    pub snapshots: u64,
    /// Documents checked.
    pub documents: u64,
    /// What is wrong, at most a thousand of it.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyReport { sessions, entries, inputs, receipts, snapshots, documents, problems } = self;
        write!(
            f,
            "{sessions} sessions, {entries} entries, {inputs} inputs, {receipts} receipts, {snapshots} snapshots, \
             {documents} documents"
        )?;
        if problems.is_empty() {
            return write!(f, ": all is as it was written");
        }
        problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

/// One thing that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The session, if it concerns one.
    pub session: Option<SessionId>,
    /// The position in its journal, if it has one.
    pub at: Option<Seq>,
    /// What is wrong.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.session, self.at) {
            (Some(session), Some(at)) => write!(f, "session {session}, position {at}: {}", self.detail),
            (Some(session), None) => write!(f, "session {session}: {}", self.detail),
            (None, _) => f.write_str(&self.detail),
        }
    }
}

/// As [`verify_with`], for a store whose runtime has the default limits.
///
/// # Errors
/// As [`verify_with`].
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport, StoreError> {
    verify_with(path, &Limits::default())
}

/// Checks a store without changing it: checksums, positions, the fold of every journal and all that is derived from it.
///
/// Rows are recomputed with `limits`, which must be those that the runtime runs with. Blocks; costs as much as reading
/// everything.
///
/// # Errors
/// [`StoreError::Newer`], [`StoreError::Corrupt`] and [`StoreError::Unavailable`] if the file cannot be read as a store
/// at all. What is wrong within it is in the report.
pub fn verify_with(path: impl AsRef<Path>, limits: &Limits) -> Result<VerifyReport, StoreError> {
    file::look_readable(path.as_ref())?;
    let mut connection = file::open_reader(path.as_ref())?;
    let transaction = connection.transaction().map_err(unreadable)?;
    let mut check = Check { connection: &transaction, limits, report: VerifyReport::default() };
    check.pages()?;
    check.sessions()?;
    check.documents()?;
    check.orphans()?;
    Ok(check.report)
}

struct Check<'c> {
    connection: &'c Connection,
    limits: &'c Limits,
    report: VerifyReport,
}

/// What the fold of one session says should be stored.
#[derive(Default)]
struct Expected {
    inputs: BTreeMap<InputId, InputRow>,
    receipts: BTreeMap<(RunId, u64), Seq>,
}

impl Check<'_> {
    fn problem(
        &mut self,
        session: impl Into<Option<SessionId>>,
        at: impl Into<Option<Seq>>,
        detail: impl Into<String>,
    ) {
        if self.report.problems.len() < MOST_PROBLEMS {
            self.report.problems.push(Problem { session: session.into(), at: at.into(), detail: detail.into() });
        }
    }

    /// Reports damage, and passes on what is not damage but a failure to read.
    fn damage(&mut self, error: StoreError) -> Result<(), StoreError> {
        match error {
            StoreError::Corrupt { session, at, detail } => {
                self.problem(session, at, &*detail);
                Ok(())
            }
            other => Err(other),
        }
    }

    /// SQLite's own look at its pages and indexes.
    fn pages(&mut self) -> Result<(), StoreError> {
        let mut select = self.connection.prepare("PRAGMA integrity_check(100)").map_err(unreadable)?;
        let mut rows = select.query([]).map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            let line: String = row.get(0).map_err(unreadable)?;
            if line != "ok" {
                self.problem(None, None, line);
            }
        }
        Ok(())
    }

    fn sessions(&mut self) -> Result<(), StoreError> {
        let sql = concat!("SELECT ", session_columns!(), " FROM session ORDER BY id");
        let mut select = self.connection.prepare(sql).map_err(unreadable)?;
        let mut rows = select.query([]).map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            self.report.sessions += 1;
            // One damaged session says nothing about the others.
            let checked = session_row(row).and_then(|(row, pruned)| self.session(&row, pruned));
            checked.or_else(|error| self.damage(error))?;
        }
        Ok(())
    }

    fn session(&mut self, row: &SessionRow, pruned: Seq) -> Result<(), StoreError> {
        let id = row.session;
        let mut stored = BTreeMap::new();
        for (at, _, snapshot) in snapshots(self.connection, id)? {
            self.report.snapshots += 1;
            match snapshot {
                Ok(snapshot) if snapshot.head() == at && at <= row.head => drop(stored.insert(at, snapshot)),
                Ok(_) => self.problem(id, at, "the snapshot was taken elsewhere"),
                Err(error) => self.damage(error)?,
            }
        }
        self.receipts(id, pruned)?;
        // Fold from as far back as possible, so that the snapshots are checked as well.
        let start = if pruned == Seq::ZERO { None } else { stored.range(pruned..).next() };
        if pruned > Seq::ZERO && start.is_none() {
            self.problem(id, pruned, "no snapshot stands for the entries that are no longer kept");
            return Ok(());
        }
        let start = start.map(|(_, snapshot)| &**snapshot);
        let folded = catch_unwind(AssertUnwindSafe(|| self.fold(row, start, &stored)));
        folded.unwrap_or_else(|_| {
            self.problem(id, None, "the fold of its journal breaks an invariant");
            Ok(())
        })
    }

    fn fold(
        &mut self,
        row: &SessionRow,
        start: Option<&Snapshot>,
        stored: &BTreeMap<Seq, Arc<Snapshot>>,
    ) -> Result<(), StoreError> {
        let id = row.session;
        let policy = Arc::new(PolicyTable::reference());
        let recovered = Session::recover(id, self.limits.clone(), policy, start, Vec::<Arc<Entry>>::new());
        let mut session = match recovered {
            Ok(session) => session,
            Err(error) => {
                self.problem(id, error.at, error.detail);
                return Ok(());
            }
        };
        let whole = start.is_none();
        let mut expected = Expected::default();
        let mut settled = Vec::new();
        let sql = "SELECT seq, at, body, checksum FROM journal WHERE session = ? AND seq > ? ORDER BY seq";
        let mut select = self.connection.prepare_cached(sql).map_err(unreadable)?;
        let mut rows = select.query(params![bytes(&id), session.head().0 as i64]).map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            self.report.entries += 1;
            let entry = entry(id, row)?;
            if let Err(error) = session.replay(&entry, &mut settled) {
                self.problem(id, error.at, error.detail);
                return Ok(());
            }
            expected.note(id, &entry, settled.drain(..));
            if stored.get(&entry.seq).is_some_and(|snapshot| **snapshot != session.snapshot()) {
                self.problem(id, entry.seq, "the snapshot is not what the journal comes to");
            }
        }
        session.check();
        let recomputed = (session.head(), session.last_at(), SessionStatus::of(&session));
        if recomputed != (row.head, row.updated_at, row.status.clone()) {
            let detail = format!("the session row is not what the journal comes to: {recomputed:?}, stored {row:?}");
            self.problem(id, session.head(), detail);
        }
        self.inputs(id, &session, expected.inputs, whole)?;
        self.receipt_rows(id, expected.receipts)
    }

    /// Compares the rows of inputs. Those of entries that are gone can only be compared if they are still open.
    fn inputs(
        &mut self,
        id: SessionId,
        session: &Session,
        mut expected: BTreeMap<InputId, InputRow>,
        whole: bool,
    ) -> Result<(), StoreError> {
        let sql = concat!("SELECT ", input_columns!(), ", key FROM input WHERE session = ? ORDER BY id");
        let mut select = self.connection.prepare_cached(sql).map_err(unreadable)?;
        let mut rows = select.query([bytes(&id)]).map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            self.report.inputs += 1;
            let (found, at) = match input_row(row) {
                Ok(found) => (found.clone(), found.settled_seq.unwrap_or(found.accepted_seq)),
                Err(error) => {
                    self.damage(error)?;
                    continue;
                }
            };
            let open = session.active_input(found.input);
            let key: Option<String> = row.get(6).map_err(unreadable)?;
            let right = match expected.remove(&found.input) {
                // Its admission is no longer kept: only its end is known.
                Some(ended) if ended.accepted_seq == Seq::ZERO => {
                    (found.settled, found.dead, found.settled_seq) == (ended.settled, ended.dead, ended.settled_seq)
                }
                Some(row) => row == found,
                None => !whole && found.settled.is_none() == open.is_some(),
            };
            let own_key = open.is_none_or(|open| {
                open.input.header.idempotency_key.as_ref().map(windlass_core::IdempotencyKey::as_str) == key.as_deref()
            });
            if !right || !own_key {
                self.problem(id, at, format!("the row of input {} is not what the journal comes to", found.input));
            }
        }
        for (input, row) in expected {
            self.problem(id, row.accepted_seq, format!("input {input} has no row"));
        }
        Ok(())
    }

    /// Compares the rows of receipts whose entries are kept.
    fn receipt_rows(&mut self, id: SessionId, expected: BTreeMap<(RunId, u64), Seq>) -> Result<(), StoreError> {
        let sql = "SELECT seq FROM receipt WHERE session = ? AND run = ? AND sequence = ?";
        let mut select = self.connection.prepare_cached(sql).map_err(unreadable)?;
        for ((run, sequence), at) in expected {
            let key = params![bytes(&id), run.as_uuid().as_bytes(), sequence as i64];
            let mut rows = select.query(key).map_err(unreadable)?;
            let found = rows.next().map_err(unreadable)?.map(|row| seq(row, 0)).transpose().map_err(unreadable)?;
            if found != Some(at) {
                self.problem(id, at, format!("receipt {sequence} of run {run} has no row"));
            }
        }
        Ok(())
    }

    /// Follows the chain of all receipts ever, also of those that have outlived their entries.
    fn receipts(&mut self, id: SessionId, pruned: Seq) -> Result<(), StoreError> {
        let sql = "SELECT r.seq, r.body, r.checksum, r.run, r.sequence, j.body FROM receipt r \
                   LEFT JOIN journal j ON j.session = r.session AND j.seq = r.seq WHERE r.session = ? ORDER BY r.seq";
        let mut select = self.connection.prepare_cached(sql).map_err(unreadable)?;
        let mut rows = select.query([bytes(&id)]).map_err(unreadable)?;
        let mut last = ChainHash::default();
        while let Some(row) = rows.next().map_err(unreadable)? {
            self.report.receipts += 1;
            let at = seq(row, 0).map_err(unreadable)?;
            let kept = match kept_receipt(id, at, row) {
                Ok(kept) => kept.map(Arc::new),
                Err(error) => return self.damage(error),
            };
            let journaled = || {
                let body: Option<String> = row.get(5).ok()?;
                let record: Record = serde_json::from_str(&body?).ok()?;
                record.receipt().cloned()
            };
            let Some(receipt) = kept.or_else(journaled) else {
                // If the entry is damaged, the fold says so; if it is gone, the receipt should be here.
                if at <= pruned {
                    self.problem(id, at, "the receipt is gone with its entry");
                }
                return Ok(());
            };
            let name = (run_id(row, 3).map_err(unreadable)?, row.get::<_, i64>(4).map_err(unreadable)? as u64);
            if name != (receipt.run_id, receipt.sequence) {
                self.problem(id, at, "the receipt is kept under another name");
            }
            if receipt.chain != receipt.chain_after(last) {
                self.problem(id, at, "the chain of receipts is broken");
            }
            last = receipt.chain;
        }
        Ok(())
    }

    /// Documents belong to nothing that they could be recomputed from; their checksums tell whether they are whole.
    fn documents(&mut self) -> Result<(), StoreError> {
        let sql = concat!("SELECT ", document_columns!(), " FROM document ORDER BY kind, key");
        let mut select = self.connection.prepare(sql).map_err(unreadable)?;
        let mut rows = select.query([]).map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            self.report.documents += 1;
            document(row).map(drop).or_else(|error| self.damage(error))?;
        }
        Ok(())
    }

    /// Rows of sessions that do not exist.
    fn orphans(&mut self) -> Result<(), StoreError> {
        for table in ["journal", "input", "receipt", "snapshot"] {
            let sql = format!("SELECT DISTINCT session FROM {table} WHERE session NOT IN (SELECT id FROM session)");
            let mut select = self.connection.prepare(&sql).map_err(unreadable)?;
            let mut rows = select.query([]).map_err(unreadable)?;
            while let Some(row) = rows.next().map_err(unreadable)? {
                let id = crate::rows::session_id(row, 0).ok();
                self.problem(id, None, format!("{table} rows of a session that does not exist"));
            }
        }
        Ok(())
    }
}

impl Expected {
    fn note(&mut self, session: SessionId, entry: &Entry, settled: impl Iterator<Item = Settlement>) {
        if let Record::InputAccepted(accepted) = &entry.record {
            let input = accepted.input.id();
            let (accepted_seq, settled_seq) = (entry.seq, None);
            let row = InputRow { session, input, settled: None, dead: false, accepted_seq, settled_seq };
            self.inputs.insert(input, row);
        }
        for Settlement { input, seq, admitted_at: _, outcome } in settled {
            let row =
                InputRow { session, input, settled: None, dead: false, accepted_seq: Seq::ZERO, settled_seq: None };
            let row = self.inputs.entry(input).or_insert(row);
            row.settled = Some(outcome.state());
            row.dead = outcome.is_dead_letter();
            row.settled_seq = Some(seq);
        }
        if let Some(receipt) = entry.record.receipt() {
            self.receipts.insert((receipt.run_id, receipt.sequence), entry.seq);
        }
    }
}
