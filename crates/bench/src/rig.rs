//! What do all scenarios drive: sessions with an executor that does nothing, on a store that counts.

use crate::floor::sqlite::remove;
use async_trait::async_trait;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;
use windlass_core::{Entry, Fence, Limits, RunBoundaryReceipt, RunId, Seq, SessionId};
use windlass_runtime::{
    CoreApplyOutput, CoreExecutor, CoreExecutorError, ENTRIES_KEPT, ExecutorFactory, RuntimeSessionAdapter,
    SessionHandle, Turn,
    memory::MemoryStore,
    store::{
        Append, InputQuery, InputRef, InputRow, ListQuery, Loaded, Opened, PutSnapshot, SessionRow, Store, StoreError,
        Usage,
    },
};
use windlass_sqlite::{SqliteOptions, SqliteStore};

/// An adapter, its executor, and how often either did something.
pub struct Rig {
    /// The adapter.
    pub adapter: RuntimeSessionAdapter,
    executor: Arc<Noop>,
    commits: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// How a rig is set up.
#[derive(Clone, Copy, Default)]
pub struct Setup {
    /// Sessions get their executor from a factory, and are put away after so long.
    pub put_away_after: Option<Duration>,
    /// Settled inputs that are remembered, if not the default.
    pub settled_kept: Option<u32>,
    /// Operations that are kept after their end, if not the default.
    pub operations_kept: Option<u32>,
    /// There is no factory: whoever opens a session brings its executor.
    pub by_hand: bool,
}

impl Rig {
    /// On the memory store; a commit is an append.
    pub fn memory(setup: Setup) -> Rig {
        let store = Arc::new(Counted { store: MemoryStore::new(), appends: AtomicU64::new(0) });
        let commits = store.clone();
        Rig::new(store, 0, setup, Arc::new(move || commits.appends.load(Ordering::Relaxed)))
    }

    /// On a new SQLite file; a commit is a transaction.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn sqlite(path: &Path, setup: Setup) -> anyhow::Result<Rig> {
        remove(path)?;
        Rig::on_sqlite(path, setup)
    }

    /// On an existing SQLite file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn on_sqlite(path: &Path, setup: Setup) -> anyhow::Result<Rig> {
        let store = SqliteStore::open(path, SqliteOptions::default())?;
        let counted = store.clone();
        Ok(Rig::new(Arc::new(store), ENTRIES_KEPT, setup, Arc::new(move || counted.stats().transactions)))
    }

    fn new(store: Arc<dyn Store>, kept: u64, setup: Setup, commits: Arc<dyn Fn() -> u64 + Send + Sync>) -> Rig {
        let mut limits = Limits { queued: 100_000, operations: 100_000, ..Limits::default() };
        limits.settled_kept = setup.settled_kept.unwrap_or(limits.settled_kept);
        limits.operations_kept = setup.operations_kept.unwrap_or(limits.operations_kept);
        let executor = Arc::new(Noop::default());
        let mut builder = RuntimeSessionAdapter::builder().store(store).entries_kept(kept).limits(limits);
        if !setup.by_hand {
            builder = builder.factory(Arc::new(Factory(executor.clone())));
        }
        if let Some(after) = setup.put_away_after {
            builder = builder.idle_after(after);
        }
        Rig { adapter: builder.build(), executor, commits }
    }

    /// A new session with the executor attached by hand.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn session(&self) -> anyhow::Result<SessionHandle> {
        let id = SessionId::from_uuid(Uuid::now_v7());
        self.adapter.ensure_session_with_executor(id, self.executor.clone()).await?;
        Ok(self.adapter.session(id).await?)
    }

    /// So many of them.
    ///
    /// # Errors
    /// One cannot be opened.
    pub async fn sessions(&self, n: usize) -> anyhow::Result<Vec<SessionHandle>> {
        let mut sessions = Vec::with_capacity(n);
        for _ in 0..n {
            sessions.push(self.session().await?);
        }
        Ok(sessions)
    }

    /// Lets go of every session in good order.
    pub async fn close(self) {
        self.adapter.shutdown().await;
    }

    /// Runs so far.
    pub fn runs(&self) -> u64 {
        self.executor.runs.load(Ordering::Relaxed)
    }

    /// Commits so far.
    pub fn commits(&self) -> u64 {
        (self.commits)()
    }
}

/// The executor of every scenario.
#[derive(Default)]
struct Noop {
    runs: AtomicU64,
}

#[async_trait]
impl CoreExecutor for Noop {
    async fn apply(&self, _turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        Ok(CoreApplyOutput::default())
    }
}

struct Factory(Arc<Noop>);

#[async_trait]
impl ExecutorFactory for Factory {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(self.0.clone())
    }
}

/// Counts appends; everything else is the store's.
struct Counted<S> {
    store: S,
    appends: AtomicU64,
}

#[async_trait]
impl<S: Store> Store for Counted<S> {
    async fn open(&self, session: SessionId) -> Result<Opened, StoreError> {
        self.store.open(session).await
    }

    async fn append(&self, append: Append) -> Result<(), StoreError> {
        self.appends.fetch_add(1, Ordering::Relaxed);
        self.store.append(append).await
    }

    async fn load(&self, session: SessionId) -> Result<Option<Loaded>, StoreError> {
        self.store.load(session).await
    }

    async fn read(&self, session: SessionId, after: Seq, limit: u32) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.store.read(session, after, limit).await
    }

    async fn put_snapshot(&self, put: PutSnapshot) -> Result<u64, StoreError> {
        self.store.put_snapshot(put).await
    }

    async fn input(&self, session: SessionId, by: &InputRef) -> Result<Option<InputRow>, StoreError> {
        self.store.input(session, by).await
    }

    async fn inputs(&self, query: InputQuery) -> Result<Vec<InputRow>, StoreError> {
        self.store.inputs(query).await
    }

    async fn receipt(
        &self,
        session: SessionId,
        run: RunId,
        sequence: u64,
    ) -> Result<Option<Arc<RunBoundaryReceipt>>, StoreError> {
        self.store.receipt(session, run, sequence).await
    }

    async fn session(&self, session: SessionId) -> Result<Option<SessionRow>, StoreError> {
        self.store.session(session).await
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<SessionRow>, StoreError> {
        self.store.list(query).await
    }

    async fn usage(&self, tenant: Option<&str>) -> Result<Usage, StoreError> {
        self.store.usage(tenant).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }

    async fn delete(&self, session: SessionId, fence: Fence) -> Result<(), StoreError> {
        self.store.delete(session, fence).await
    }
}
