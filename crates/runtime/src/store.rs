//! What must a store promise, so that an accepted input is accounted for?
//!
//! A store keeps journals, one per session, and beside them rows that are derived from the journals in the same
//! transaction: one per input, one per receipt, one per session. Nothing but records is truth;
//! [`store_suite`](crate::testing::store_suite) is what every implementation passes.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use windlass_core::{
    Entry, Fence, Gate, IdempotencyKey, InputId, InputKind, InputState, JsonText, Profile, Record, RunBoundaryReceipt,
    RunEnd, RunId, Seq, Session, SessionId, Snapshot, Terminal, Timestamp,
};

/// Where journals are kept. One store serves many sessions and any number of callers at once.
///
/// Implementations group what arrives together into one transaction (group commit, as Gray and Reuter describe it):
/// callers simply await [`Store::append`], each on its own.
///
/// Every method is cancel-safe in this sense: a call whose future is dropped has either wholly happened or not at all.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Becomes the owner of a session, which is created if it does not exist: raises its fence durably, and returns
    /// the latest snapshot that can be read and every entry after it.
    ///
    /// From then on an append with an older fence is refused. The tail is read after the fence is raised, so an
    /// append of the former owner is either in the tail or will be refused; there is no third case.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the journal has a gap or fails its checksum (only this session is affected), or any
    /// other [`StoreError`].
    async fn open(&self, session: SessionId) -> Result<Opened, StoreError>;

    /// Appends entries to one session, with the rows derived from them, in one transaction.
    ///
    /// # To ensure correctness
    /// When this returns `Ok` the entries survive a crash of the process and a loss of power. The fence and the first
    /// position are checked inside the committing transaction. `Ok` for one session never depends on another.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Conflict`], [`StoreError::Full`], [`StoreError::ReadOnly`] and
    /// [`StoreError::Unavailable`]: nothing was written. [`StoreError::Unknown`]: it may have been; reopen to find out.
    async fn append(&self, append: Append) -> Result<(), StoreError>;

    /// What [`Store::open`] would give an owner to begin with, without becoming one: for looks while nothing can be
    /// written. None if there is no such session.
    ///
    /// # Errors
    /// As for any read.
    async fn load(&self, session: SessionId) -> Result<Option<Loaded>, StoreError>;

    /// The next entries after a position, in order: a [`Room`] of at most `limit`. A page may be short while there is
    /// more; an empty one is the end. Reads committed entries only, raises no fence.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] if entries after `after` are no longer kept; otherwise as for any read.
    async fn read(&self, session: SessionId, after: Seq, limit: u32) -> Result<Vec<Arc<Entry>>, StoreError>;

    /// Keeps a snapshot of the state after entry `at`, and forgets entries at or before `keep_after`.
    ///
    /// Losing a snapshot costs only time, as long as the entries before it are kept. Receipts of forgotten entries are
    /// kept by stores on disk. Returns the bytes that the snapshot takes; zero if it shares the caller's memory.
    ///
    /// # Errors
    /// Any [`StoreError`]; the entries are then kept.
    async fn put_snapshot(&self, put: PutSnapshot) -> Result<u64, StoreError>;

    /// The row of one input, for look-ups after the session has forgotten it and for waits that re-attach.
    ///
    /// # Errors
    /// As for any read.
    async fn input(&self, session: SessionId, by: &InputRef) -> Result<Option<InputRow>, StoreError>;

    /// Rows of inputs, by session and id, filtered: what is open, what is dead.
    ///
    /// # Errors
    /// As for any read.
    async fn inputs(&self, query: InputQuery) -> Result<Vec<InputRow>, StoreError>;

    /// One receipt, exactly. Works on sessions that are not open.
    ///
    /// # Errors
    /// As for any read.
    async fn receipt(
        &self,
        session: SessionId,
        run: RunId,
        sequence: u64,
    ) -> Result<Option<Arc<RunBoundaryReceipt>>, StoreError>;

    /// The row of one session; none if it does not exist.
    ///
    /// # Errors
    /// As for any read.
    async fn session(&self, session: SessionId) -> Result<Option<SessionRow>, StoreError>;

    /// Rows of sessions, by id, filtered: for people, and to resume work at start. A session that was opened and never
    /// written to is not listed.
    ///
    /// # Errors
    /// As for any read.
    async fn list(&self, query: ListQuery) -> Result<Vec<SessionRow>, StoreError>;

    /// What a tenant's sessions take together; none: the default tenant. Costs as much as the tenant has sessions, so
    /// ask now and then, not with each request.
    ///
    /// # Errors
    /// As for any read.
    async fn usage(&self, tenant: Option<&str>) -> Result<Usage, StoreError>;

    /// Commits something of no meaning, durably: whether this answers `Ok` is whether the store takes appends.
    ///
    /// # Errors
    /// What an append would be answered now.
    async fn probe(&self) -> Result<(), StoreError>;

    /// Forgets a session wholly. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if somebody else owns it by now, otherwise as for [`Store::append`].
    async fn delete(&self, session: SessionId, fence: Fence) -> Result<(), StoreError>;
}

/// A page of a list takes no more bytes than this, unless its first item alone does.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// What still fits on a page: so many items, and no more than [`PAGE_BYTES`] of them as JSON, but at least one.
#[derive(Debug)]
pub struct Room {
    items: u32,
    bytes: usize,
    is_empty: bool,
}

impl Room {
    /// The room of a page of at most `limit` items.
    pub const fn page(limit: u32) -> Room {
        Room { items: limit, bytes: PAGE_BYTES, is_empty: true }
    }

    /// Room for whatever there is.
    pub const fn unlimited() -> Room {
        Room { items: u32::MAX, bytes: usize::MAX, is_empty: true }
    }

    /// How many more items fit, if they are small.
    pub const fn items(&self) -> u32 {
        self.items
    }

    /// Whether an item of so many bytes is still taken. After the first that is not, none is.
    pub fn takes(&mut self, bytes: usize) -> bool {
        if self.items == 0 || (bytes > self.bytes && !self.is_empty) {
            self.items = 0;
            return false;
        }
        self.is_empty = false;
        self.items -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// About how many bytes a record takes in a journal, without writing it.
pub(crate) fn about_bytes(record: &Record) -> usize {
    let len = |delta: &Option<JsonText>| delta.as_ref().map_or(0, |delta| delta.get().len());
    let said = |terminal: &Terminal| match terminal {
        Terminal::Result(result) => result.text.len() + result.structured.as_ref().map_or(0, json_bytes),
        Terminal::CallbackPending(_) | Terminal::NoResult => 0,
    };
    200 + match record {
        Record::InputAccepted(accepted) => 400 + accepted.input.payload_bytes(),
        Record::BoundaryCommitted(boundary) => len(&boundary.delta),
        Record::RunEnded(ended) => match &ended.end {
            RunEnd::Completed { delta, terminal, .. } => 300 + len(delta) + said(terminal),
            RunEnd::Failed { .. } | RunEnd::Cancelled { .. } | RunEnd::Released { .. } => 300,
        },
        Record::Noted { note } => note.get().len(),
        _ => 0,
    }
}

/// How many bytes something takes as JSON.
pub fn json_bytes(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        // Called for every few bytes; the usual one is a loop.
        fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
            self.0 += bytes.len();
            Ok(())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What cannot be encoded takes nothing; whoever encodes it will say so.
    serde_json::to_writer(&mut count, value).map_or(0, |()| count.0)
}

/// What an owner gets to begin with.
#[derive(Debug)]
pub struct Opened {
    /// Its fence, higher than all before.
    pub fence: Fence,
    /// The latest readable snapshot and the position it was taken at.
    pub snapshot: Option<(Seq, Arc<Snapshot>)>,
    /// What the store charged for that snapshot, in bytes.
    pub snapshot_bytes: u64,
    /// Every entry after the snapshot, in order.
    pub tail: Vec<Arc<Entry>>,
}

/// What is kept of a session.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The latest readable snapshot and the position it was taken at.
    pub snapshot: Option<(Seq, Arc<Snapshot>)>,
    /// Every entry after the snapshot, in order.
    pub tail: Vec<Arc<Entry>>,
}

/// Entries for one session, and the rows derived from them.
#[derive(Clone, Debug)]
pub struct Append {
    /// The session.
    pub session: SessionId,
    /// The owner's fence: refused if another owner has opened since.
    pub fence: Fence,
    /// The entries, dense and in order; the first must be the next position. Shared, so that nothing is copied.
    pub entries: Vec<Arc<Entry>>,
    /// What changes in the rows of inputs, in order.
    pub index: Vec<IndexChange>,
    /// The session's row after these entries. Its profile and its creation are taken over only if the entries hold the
    /// record that said so, since they cost a store more to change than the rest.
    pub status: SessionStatus,
}

impl Append {
    /// Whether the entries say what [`SessionStatus::profile`] and [`SessionStatus::created_at`] are now.
    pub fn tells_profile(&self) -> bool {
        let tells = |record: &Record| matches!(record, Record::SessionCreated { .. } | Record::ProfileSet { .. });
        self.entries.iter().any(|entry| tells(&entry.record))
    }
}

/// One change of an input's row. There are two in its life.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexChange {
    /// It was admitted.
    Accepted {
        /// Its id.
        input: InputId,
        /// Its key, if it has one.
        key: Option<IdempotencyKey>,
        /// Its kind.
        kind: InputKind,
        /// The entry that admitted it.
        seq: Seq,
    },
    /// It ended.
    Settled {
        /// Its id.
        input: InputId,
        /// How it ended.
        state: InputState,
        /// Whether it is a dead letter.
        dead: bool,
        /// The entry that ended it, where the whole outcome stands.
        seq: Seq,
    },
}

/// What can be told of a session without opening it; derived from its records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its gate.
    pub gate: Gate,
    /// Whether waiting inputs are kept but not run.
    pub held: bool,
    /// Inputs that are not over.
    pub open_inputs: u32,
    /// Whether a run is on or suspended.
    pub running: bool,
    /// Whether there is something to do now, were an executor there.
    pub pending: bool,
    /// When there is something to do next, were an executor there.
    pub due_at: Option<Timestamp>,
    /// The agent that runs it.
    pub agent: Option<Arc<str>>,
    /// When it was created; [`Timestamp::ZERO`] if that is no longer known.
    pub created_at: Timestamp,
    /// What it was told about itself.
    pub profile: Arc<Profile>,
}

impl SessionStatus {
    /// Whether there is something to do, now or later, were an executor there.
    pub fn is_pending(&self) -> bool {
        self.pending || self.due_at.is_some()
    }

    /// What can be told of this session.
    pub fn of(session: &Session) -> SessionStatus {
        SessionStatus {
            gate: session.gate(),
            held: session.is_held(),
            open_inputs: session.open_inputs(),
            running: session.current_run().is_some(),
            // What is under way dies with its process, and then the session is to hear of it.
            pending: session.is_pending() || session.active_operations() > 0,
            due_at: session.pending_at(),
            agent: session.agent().cloned(),
            created_at: session.created_at(),
            profile: Arc::clone(session.profile()),
        }
    }
}

/// A session's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The session.
    pub session: SessionId,
    /// The fence of its last owner.
    pub fence: Fence,
    /// Its last position.
    pub head: Seq,
    /// When its last entry was decided.
    pub updated_at: Timestamp,
    /// What can be told of it.
    pub status: SessionStatus,
}

/// An input's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputRow {
    /// The session.
    pub session: SessionId,
    /// The input.
    pub input: InputId,
    /// `None` while it is open; its terminal state afterwards.
    pub settled: Option<InputState>,
    /// Whether it is a dead letter.
    pub dead: bool,
    /// The entry that admitted it.
    pub accepted_seq: Seq,
    /// The entry that ended it.
    pub settled_seq: Option<Seq>,
}

/// How an input is named in a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputRef {
    /// By its id.
    Id(InputId),
    /// By its idempotency key; if several inputs had the key in their time, the latest.
    Key(IdempotencyKey),
}

/// Which inputs to list, in the order of (session, id).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputQuery {
    /// Only of this session.
    pub session: Option<SessionId>,
    /// Only of this tenant's sessions (`Some(None)`: of the default tenant's).
    pub tenant: Option<Option<Arc<str>>>,
    /// Only those that are open (`Some(false)`: only those that are over).
    pub open: Option<bool>,
    /// Only those in this terminal state. Of the other states a store knows only that such an input is open, and lists
    /// all that are.
    pub state: Option<InputState>,
    /// Only dead letters.
    pub dead: bool,
    /// Only after this one.
    pub after: Option<(SessionId, InputId)>,
    /// At most so many.
    pub limit: u32,
}

/// Which sessions to list, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only those with something to do, now or later. Answered from an index: costs what it returns.
    pub pending: bool,
    /// Only this tenant's (`Some(None)`: the default tenant's). Answered from an index.
    pub tenant: Option<Option<Arc<str>>>,
    /// Only those of this agent.
    pub agent: Option<Arc<str>>,
    /// Only those of this name. Answered from an index.
    pub name: Option<Arc<str>>,
    /// Only those that have each of these labels, key and value.
    pub labels: Vec<(String, String)>,
    /// Only those with this gate.
    pub gate: Option<Gate>,
    /// Only after this one.
    pub after: Option<SessionId>,
    /// At most so many.
    pub limit: u32,
}

impl InputQuery {
    /// Whether a row is wanted, but for its tenant, its place and the limit.
    pub(crate) fn wants(&self, row: &InputRow) -> bool {
        self.open.is_none_or(|open| row.settled.is_none() == open)
            && self.state.is_none_or(|state| row.settled == Some(state).filter(|state| state.is_terminal()))
            && (!self.dead || row.dead)
    }
}

impl ListQuery {
    /// Whether a session is wanted, but for its place and the limit.
    pub(crate) fn wants(&self, status: &SessionStatus) -> bool {
        let profile = &*status.profile;
        (!self.pending || status.is_pending())
            && self.tenant.as_ref().is_none_or(|tenant| *tenant == profile.tenant)
            && self.agent.as_ref().is_none_or(|agent| status.agent.as_ref() == Some(agent))
            && self.name.as_ref().is_none_or(|name| profile.name.as_ref() == Some(name))
            && self.labels.iter().all(|(key, value)| profile.labels.get(key) == Some(value))
            && self.gate.is_none_or(|gate| status.gate == gate)
    }
}

/// What a tenant's sessions take together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Its sessions.
    pub sessions: u64,
    /// The inputs of all of them that are not over.
    pub open_inputs: u64,
}

/// A snapshot to keep.
#[derive(Clone, Debug)]
pub struct PutSnapshot {
    /// The session.
    pub session: SessionId,
    /// The owner's fence: a snapshot of a former owner is dropped, and so is its pruning.
    pub fence: Fence,
    /// The position it was taken at. Never beyond the last committed entry.
    pub at: Seq,
    /// The state.
    pub snapshot: Arc<Snapshot>,
    /// Entries at or before this position may be forgotten. Never beyond `at`; [`Seq::ZERO`] keeps all.
    pub keep_after: Seq,
}

/// Why a store did not do what it was asked. Each variant tells the caller what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else owns the session: stop. Nothing was written.
    #[error("stale_epoch: session {session} is owned by a later opening; this owner must stop")]
    Fenced {
        /// The session.
        session: SessionId,
    },
    /// The first position is not the next one: reopen. Nothing was written.
    #[error("conflict: session {session} continues at {next}; reopen it")]
    Conflict {
        /// The session.
        session: SessionId,
        /// The next position.
        next: Seq,
    },
    /// It may or may not have been written: reopen to find out.
    #[error("commit_outcome_unknown: {0}; retry with the same idempotency key to find out")]
    Unknown(Arc<str>),
    /// No room. Nothing was written; try again when there is.
    #[error("storage_full: {0}; free some space, writing resumes by itself")]
    Full(Arc<str>),
    /// Not writable. Nothing was written; try again when it is.
    #[error("store_read_only: {0}; make it writable, writing resumes by itself")]
    ReadOnly(Arc<str>),
    /// What is stored is not what was written. The session is left alone.
    #[error(
        "store_corrupt: session {session:?}, position {at:?}: {detail}; run `windlass verify` and restore a backup"
    )]
    Corrupt {
        /// The session, if one.
        session: Option<SessionId>,
        /// The position, if one.
        at: Option<Seq>,
        /// What is wrong.
        detail: Arc<str>,
    },
    /// Written by a newer Windlass. Not a byte was changed.
    #[error(
        "store_newer: schema {found} was written by a newer windlass, this one knows {known}; upgrade, or restore the backup made before the upgrade"
    )]
    Newer {
        /// The schema found.
        found: u32,
        /// The newest schema known.
        known: u32,
    },
    /// Another process writes here.
    #[error("store_locked: {path} is being written by process {pid}; stop it first, or use a reading verb")]
    Locked {
        /// The file.
        path: Arc<str>,
        /// The process.
        pid: Arc<str>,
    },
    /// The entries asked for are no longer kept.
    #[error("cursor_expired: entries up to {oldest} are no longer kept; start from the session's snapshot")]
    Pruned {
        /// The last position that is no longer kept.
        oldest: Seq,
    },
    /// Out of reach for now. Nothing was written; try again.
    #[error("store_unavailable: {0}; try again")]
    Unavailable(Arc<str>),
}

impl StoreError {
    /// Its stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            StoreError::Fenced { .. } => "stale_epoch",
            StoreError::Conflict { .. } => "conflict",
            StoreError::Unknown(_) => "commit_outcome_unknown",
            StoreError::Full(_) => "storage_full",
            StoreError::ReadOnly(_) => "store_read_only",
            StoreError::Corrupt { .. } => "store_corrupt",
            StoreError::Newer { .. } => "store_newer",
            StoreError::Locked { .. } => "store_locked",
            StoreError::Pruned { .. } => "cursor_expired",
            StoreError::Unavailable(_) => "store_unavailable",
        }
    }
}
