//! How is a store kept in one SQLite file?
//!
//! [`SqliteStore`] is the embedded default: one file, one writing process, one thread that commits everything waiting
//! with one sync, and readers that never wait for it. `writer.rs` is the group commit, `file.rs` opens and guards the
//! file, `rows.rs` encodes and checks, `verify.rs` recomputes everything offline.

mod crash;
mod documents;
mod file;
mod query;
mod restore;
mod rows;
mod verify;
mod writer;

pub use crash::crash_point;
pub use file::try_lock;
pub use restore::restore;
pub use verify::{Problem, VerifyReport, verify, verify_with};

use async_trait::async_trait;
use rows::{
    Rows, bytes, corrupt, entries, input_columns, input_row, receipt, receipt_checksum, session_by_id, snapshots,
    unreadable,
};
use rusqlite::{Connection, params};
use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Semaphore;
use windlass_core::{Entry, Fence, RunBoundaryReceipt, RunId, Seq, SessionId};
use windlass_runtime::Observer;
use windlass_runtime::store::{
    Append, InputQuery, InputRef, InputRow, ListQuery, Loaded, Opened, PutSnapshot, Room, SessionRow, Store,
    StoreError, Usage,
};
use writer::{Change, SnapshotRow, Writer};

/// What can be chosen about a store. The default suits everybody but tests.
#[derive(Clone)]
pub struct SqliteOptions {
    /// The file has at most so many pages of 4 KiB; beyond them it is [`StoreError::Full`]. None: as the disk allows.
    pub max_pages: Option<u32>,
    /// So many reads go on at once; more wait. At least 1.
    pub readers: usize,
    /// So many changes wait for the writer; more callers wait to be let in. At least 1.
    pub queue: usize,
    /// Who hears of commits. None: nobody, which costs nothing.
    pub observer: Option<Arc<dyn Observer>>,
}

impl std::fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SqliteOptions { max_pages, readers, queue, observer } = self;
        f.debug_struct("SqliteOptions")
            .field("max_pages", max_pages)
            .field("readers", readers)
            .field("queue", queue)
            .field("observer", &observer.is_some())
            .finish()
    }
}

impl Default for SqliteOptions {
    fn default() -> Self {
        SqliteOptions { max_pages: None, readers: 4, queue: 4_096, observer: None }
    }
}

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SqliteStats {
    /// Transactions committed, each with one sync of the log.
    pub transactions: u64,
    /// Appends made durable; many share a transaction.
    pub appends: u64,
    /// Entries made durable.
    pub entries: u64,
    /// How often the log was moved into the file.
    pub checkpoints: u64,
    /// How often the file was lost to an I/O error and opened anew.
    pub reopened: u64,
}

/// A [`Store`] on one SQLite file. Cheap to clone; dropping the last clone writes what waits and closes the file.
///
/// Refuses to share the writing with another process: a lock on `<file>.lock` holds as long as the store is open.
/// Reading verbs open the same file with [`SqliteStore::open_read_only`] beside it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use windlass_runtime::store::{Store, StoreError};
/// use windlass_sqlite::{SqliteOptions, SqliteStore, verify};
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("store.db");
/// let store = SqliteStore::open(&file, SqliteOptions::default())?;
/// let session = windlass_core::SessionId::from_uuid(uuid::Uuid::from_u128(1));
/// let opened = store.open(session).await?;
/// assert!(opened.tail.is_empty());
///
/// // Another writer is refused, a reader is welcome, and both may verify.
/// assert!(matches!(SqliteStore::open(&file, SqliteOptions::default()), Err(StoreError::Locked { .. })));
/// assert!(SqliteStore::open_read_only(&file)?.session(session).await?.is_some());
/// assert!(verify(&file)?.is_clean());
/// # Ok::<_, StoreError>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct SqliteStore {
    // In this order: the writer closes last, and leaves one file behind.
    readers: Arc<Readers>,
    writer: Option<Arc<Writer>>,
}

impl SqliteStore {
    /// Opens a store for writing, making the file if it does not exist, upgrading it if it is older.
    ///
    /// An older file is copied beside itself first, as `<file>.schema-N.backup`. Blocks while it does all this.
    ///
    /// # Errors
    /// [`StoreError::Locked`] names the process that writes here already. [`StoreError::Newer`], and
    /// [`StoreError::Corrupt`] if this is no store of ours: not a byte was changed. [`StoreError::ReadOnly`],
    /// [`StoreError::Full`], [`StoreError::Unavailable`] as the file system says.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<SqliteStore, StoreError> {
        let path = path.as_ref();
        let readers = Arc::new(Readers::new(path, options.readers));
        Ok(SqliteStore { writer: Some(Arc::new(Writer::start(path, options)?)), readers })
    }

    /// Opens a store for reading, beside whoever writes it. Takes no lock, raises no fence; whatever would change
    /// something answers [`StoreError::ReadOnly`].
    ///
    /// # Errors
    /// As for [`SqliteStore::open`]; [`StoreError::Unavailable`] if there is no store yet.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<SqliteStore, StoreError> {
        file::look_readable(path.as_ref())?;
        let readers = Arc::new(Readers::new(path.as_ref(), SqliteOptions::default().readers));
        Ok(SqliteStore { writer: None, readers })
    }

    /// Copies the whole store to a new file, which is complete, synced and verified when this returns. Reading and
    /// writing go on meanwhile; what is committed after the call may be missing in the copy.
    ///
    /// Dropping the future does not stop the copy; a half one is named `<to>.partial`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if `to` exists; [`StoreError::Corrupt`] if what was copied is not as it was written,
    /// with the first problem: nothing is left at `to` then, run [`verify`] to see all. Otherwise as the file system
    /// says.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<VerifyReport, StoreError> {
        let to = to.as_ref().to_owned();
        self.with_reader(move |connection| restore::copy_verified(connection, &to)).await
    }

    /// What the store has done since it was opened.
    pub fn stats(&self) -> SqliteStats {
        self.writer.as_ref().map(|writer| writer.counters.read()).unwrap_or_default()
    }

    async fn write(&self, change: Change) -> Result<u64, StoreError> {
        match &self.writer {
            Some(writer) => writer.write(change).await,
            None => Err(StoreError::ReadOnly("the store was opened for reading".into())),
        }
    }

    /// Reads within one transaction, so that all it sees belongs together.
    async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.with_reader(move |connection| read(&*connection.transaction().map_err(unreadable)?)).await
    }

    /// Uses one of the readers' connections, off the async threads.
    async fn with_reader<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = self.readers.clone();
        let permit = readers.permits.clone().acquire_owned().await;
        let permit = permit.expect("the permits are never closed");
        let blocking = tokio::task::spawn_blocking(move || {
            let mut connection = readers.take()?;
            let result = read(&mut connection);
            if !matches!(result, Err(StoreError::Unavailable(_) | StoreError::Corrupt { .. })) {
                readers.put_back(connection);
            }
            drop(permit);
            result
        });
        blocking.await.map_err(|error| StoreError::Unavailable(error.to_string().into()))?
    }

    /// The snapshot as a row, and what must outlive the entries that go.
    async fn snapshot_row(&self, put: PutSnapshot) -> Result<SnapshotRow, StoreError> {
        let PutSnapshot { session, fence, at, snapshot, keep_after } = put;
        let keep_after = keep_after.min(at);
        self.look(move |connection| {
            let body = rows::json(&*snapshot);
            let hash = rows::hash(session, at, None, body.as_bytes());
            let mut after = session_by_id(connection, session)?.map_or(Seq::ZERO, |(_, pruned)| pruned);
            let receipt = |entry: &Arc<Entry>| {
                let receipt = entry.record.receipt()?;
                let body = rows::json(&**receipt);
                let checksum = receipt_checksum(session, entry.seq, body.as_bytes());
                Some((receipt.run_id, receipt.sequence, body, checksum))
            };
            let mut receipts = Vec::new();
            while after < keep_after {
                let going = u32::try_from(keep_after.0 - after.0).unwrap_or(u32::MAX);
                let page = entries(connection, session, after, Room::page(going))?;
                receipts.extend(page.iter().filter_map(receipt));
                after = page.last().map_or(keep_after, |entry| entry.seq);
            }
            Ok(SnapshotRow { session, fence, at, body, hash, keep_after, receipts })
        })
        .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn open(&self, session: SessionId) -> Result<Opened, StoreError> {
        let fence = self.write(Change::Open(session)).await?;
        let fence = Fence(NonZeroU64::new(fence).expect("fences are counted from one"));
        self.look(move |connection| {
            let (Loaded { snapshot, tail }, snapshot_bytes) = load(connection, session)?.unwrap_or_default();
            Ok(Opened { fence, snapshot, snapshot_bytes, tail })
        })
        .await
    }

    async fn load(&self, session: SessionId) -> Result<Option<Loaded>, StoreError> {
        self.look(move |connection| Ok(load(connection, session)?.map(|(loaded, _)| loaded))).await
    }

    async fn append(&self, append: Append) -> Result<(), StoreError> {
        // Encoded here, so that many callers encode at once and the writer only writes.
        let rows = Rows::encode(append)?;
        self.write(Change::Append(Box::new(rows))).await.map(drop)
    }

    async fn read(&self, session: SessionId, after: Seq, limit: u32) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.look(move |connection| entries(connection, session, after, Room::page(limit))).await
    }

    async fn put_snapshot(&self, put: PutSnapshot) -> Result<u64, StoreError> {
        let row = self.snapshot_row(put).await?;
        self.write(Change::Snapshot(Box::new(row))).await
    }

    async fn input(&self, session: SessionId, by: &InputRef) -> Result<Option<InputRow>, StoreError> {
        let by = by.clone();
        self.look(move |connection| {
            let (sql, name): (_, &dyn rusqlite::ToSql) = match &by {
                InputRef::Id(id) => (
                    concat!("SELECT ", input_columns!(), " FROM input WHERE session = ? AND id = ?"),
                    id.as_uuid().as_bytes(),
                ),
                InputRef::Key(key) => (
                    concat!(
                        "SELECT ",
                        input_columns!(),
                        " FROM input WHERE session = ? AND key = ? ORDER BY accepted_seq DESC LIMIT 1"
                    ),
                    &key.as_str(),
                ),
            };
            let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
            let mut rows = select.query(params![bytes(&session), name]).map_err(unreadable)?;
            rows.next().map_err(unreadable)?.map(input_row).transpose()
        })
        .await
    }

    async fn inputs(&self, query: InputQuery) -> Result<Vec<InputRow>, StoreError> {
        self.look(move |connection| query::inputs(connection, &query)).await
    }

    async fn receipt(
        &self,
        session: SessionId,
        run: RunId,
        sequence: u64,
    ) -> Result<Option<Arc<RunBoundaryReceipt>>, StoreError> {
        self.look(move |connection| receipt(connection, session, run, sequence)).await
    }

    async fn session(&self, session: SessionId) -> Result<Option<SessionRow>, StoreError> {
        self.look(move |connection| Ok(session_by_id(connection, session)?.map(|(row, _)| row))).await
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<SessionRow>, StoreError> {
        self.look(move |connection| query::sessions(connection, &query)).await
    }

    async fn usage(&self, tenant: Option<&str>) -> Result<Usage, StoreError> {
        let tenant = tenant.map(str::to_owned);
        self.look(move |connection| query::usage(connection, tenant.as_deref())).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.write(Change::Probe).await.map(drop)
    }

    async fn delete(&self, session: SessionId, fence: Fence) -> Result<(), StoreError> {
        self.write(Change::Delete(session, fence)).await.map(drop)
    }
}

/// What is kept of a session, from its latest readable snapshot on, and the size of that.
fn load(connection: &Connection, session: SessionId) -> rows::Read<Option<(Loaded, u64)>> {
    let Some((_, pruned)) = session_by_id(connection, session)? else { return Ok(None) };
    let mut damaged = None;
    for (at, size, snapshot) in snapshots(connection, session)? {
        match snapshot {
            Ok(snapshot) => {
                let tail = entries(connection, session, at, Room::unlimited())?;
                return Ok(Some((Loaded { snapshot: Some((at, snapshot)), tail }, size)));
            }
            Err(error) => damaged = damaged.or(Some(error)),
        }
    }
    match damaged {
        // The snapshot was all there was of what it stood for.
        Some(error) if pruned > Seq::ZERO => Err(error),
        _ if pruned > Seq::ZERO => Err(corrupt(session, Some(pruned), "the snapshot is missing")),
        _ => {
            let tail = entries(connection, session, Seq::ZERO, Room::unlimited())?;
            Ok(Some((Loaded { snapshot: None, tail }, 0)))
        }
    }
}

/// Connections for reading: opened when first needed, kept for the next.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    fn new(path: &Path, most: usize) -> Readers {
        Readers { path: path.to_owned(), idle: Mutex::default(), permits: Arc::new(Semaphore::new(most)) }
    }

    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| file::open_reader(&self.path), Ok)
    }

    fn put_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
