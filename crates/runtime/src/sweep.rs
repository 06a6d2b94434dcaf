//! Which blobs are still named, and how are the others forgotten without a race?
//!
//! A blob is kept before the entry that names it is written. One that an input brings along is young then, and the
//! grace time protects it. One that an input only names may be old: so while blobs are being forgotten, inputs with
//! media are not admitted, and what was named since the sweep began is kept.

use crate::{
    adapter::RuntimeSessionAdapter,
    error::SessionError,
    store::{ListQuery, Loaded, StoreError},
};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use windlass_core::{BlobId, Entry, Record, Seq, SessionId, Snapshot};

/// Keeps sweeps and admissions of media from each other.
#[derive(Debug, Default)]
pub(crate) struct Naming {
    /// Read while an input with media is on its way into its journal, written while blobs are forgotten.
    gate: Arc<RwLock<()>>,
    /// What was named since the sweep that is on began.
    since: Mutex<Option<HashSet<BlobId>>>,
    /// One sweep at a time.
    sweeping: tokio::sync::Mutex<()>,
}

/// While it lives nothing is forgotten that was named with it.
pub(crate) type Named = OwnedRwLockReadGuard<()>;

/// A sweep that is on.
struct Sweep<'n> {
    naming: &'n Naming,
    _alone: tokio::sync::MutexGuard<'n, ()>,
}

impl Naming {
    /// From now on these blobs are not forgotten, neither by the sweep that is on.
    pub(crate) async fn name<'b>(&self, blobs: impl Iterator<Item = &'b BlobId>) -> Named {
        let named = Arc::clone(&self.gate).read_owned().await;
        if let Some(since) = &mut *self.since() {
            since.extend(blobs.cloned());
        }
        named
    }

    async fn sweep(&self) -> Sweep<'_> {
        let sweep = Sweep { _alone: self.sweeping.lock().await, naming: self };
        *self.since() = Some(HashSet::new());
        // Whoever was on his way before has written his entry when this is his turn, so that it will be read.
        drop(self.gate.write().await);
        sweep
    }

    fn since(&self) -> MutexGuard<'_, Option<HashSet<BlobId>>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        *self.naming.since() = None;
    }
}

impl RuntimeSessionAdapter {
    /// Forgets every blob that no kept entry names and that is older than `grace`: longer than it takes from an upload to
    /// the input that names it. Returns how many. Call it now and then; of several calls at
    /// once each waits for the one before.
    ///
    /// Reads every journal that is kept, at the pace of the store. Only while the blobs themselves are deleted, inputs
    /// with media wait to be admitted. Dropping the future is harmless.
    ///
    /// # Errors
    /// [`SessionError`] if a journal or the blob store cannot be read; nothing, or only a part, was forgotten then.
    pub async fn collect_blobs(&self, grace: Duration) -> Result<u64, SessionError> {
        let Some(blobs) = &self.shared.blobs else { return Ok(0) };
        let sweep = self.shared.naming.sweep().await;
        let mut keep = self.named_blobs().await?;
        let _nobody_names = sweep.naming.gate.write().await;
        keep.extend(sweep.naming.since().take().unwrap_or_default());
        Ok(blobs.collect(&keep, grace).await?)
    }

    async fn named_blobs(&self) -> Result<HashSet<BlobId>, SessionError> {
        let (mut named, mut after) = (HashSet::new(), None);
        loop {
            let query = ListQuery { after, limit: SESSIONS, ..ListQuery::default() };
            let rows = self.shared.store.list(query).await?;
            let Some(last) = rows.last() else { return Ok(named) };
            after = Some(last.session);
            for row in &rows {
                self.named_by(row.session, &mut named).await?;
            }
        }
    }

    /// What one session names: in the entries that are kept, and in what its snapshot says of those that are not.
    async fn named_by(&self, session: SessionId, named: &mut HashSet<BlobId>) -> Result<(), SessionError> {
        let store = &self.shared.store;
        let mut after = Seq::ZERO;
        loop {
            match store.read(session, after, ENTRIES).await {
                Ok(entries) => {
                    let Some(last) = entries.last() else { return Ok(()) };
                    after = last.seq;
                    for entry in &entries {
                        note(entry, named);
                    }
                }
                Err(StoreError::Pruned { oldest }) if oldest > after => {
                    if let Some(Loaded { snapshot: Some((_, snapshot)), .. }) = store.load(session).await? {
                        named.extend(Snapshot::blobs(&snapshot).cloned());
                    }
                    after = oldest;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn note(entry: &Entry, named: &mut HashSet<BlobId>) {
    named.extend(entry.record.blobs().cloned());
    let delta = match &entry.record {
        Record::BoundaryCommitted(boundary) => boundary.delta.as_ref(),
        Record::RunEnded(ended) => match &ended.end {
            windlass_core::RunEnd::Completed { delta, .. } => delta.as_ref(),
            _ => None,
        },
        _ => None,
    };
    // What an executor adds to the conversation is its own affair, but whatever looks like a blob's name may be one.
    let words = delta.into_iter().flat_map(|delta| delta.get().split(|c: char| !c.is_ascii_hexdigit()));
    named.extend(words.filter_map(|word| BlobId::try_from(word.to_owned()).ok()));
}

/// Sessions and entries that are read at once.
const SESSIONS: u32 = 256;
const ENTRIES: u32 = 1_024;
