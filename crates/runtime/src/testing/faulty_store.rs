//! How does a test make a store fail, or stand still, exactly when it wants to?
//!
//! [`FaultyStore`] passes everything on to a store of yours, but fails the calls it is told to fail, and holds
//! appends back while its gate is closed. Everything is counted and signalled, so that no test needs to sleep.

use crate::store::{
    Append, InputQuery, InputRef, InputRow, ListQuery, Loaded, Opened, PutSnapshot, SessionRow, Store, StoreError,
    Usage,
};
use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;
use windlass_core::{Entry, Fence, RunBoundaryReceipt, RunId, Seq, SessionId};

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// [`Store::open`].
    Open,
    /// [`Store::append`].
    Append,
    /// [`Store::put_snapshot`].
    PutSnapshot,
    /// [`Store::list`].
    List,
    /// [`Store::probe`].
    Probe,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`StoreError::Full`], not done.
    Full,
    /// [`StoreError::ReadOnly`], not done.
    ReadOnly,
    /// [`StoreError::Unavailable`], not done.
    Unavailable,
    /// [`StoreError::Fenced`], not done.
    Fenced,
    /// [`StoreError::Unknown`], although it was done.
    UnknownButDone,
    /// [`StoreError::Unknown`], and it was not done.
    UnknownNotDone,
}

/// What [`Fault::Fenced`] names where a call is about no session.
const NO_SESSION: SessionId = SessionId::from_uuid(uuid::Uuid::nil());

impl Fault {
    fn error(self, session: SessionId) -> StoreError {
        match self {
            Fault::Full => StoreError::Full("a scripted fault".into()),
            Fault::ReadOnly => StoreError::ReadOnly("a scripted fault".into()),
            Fault::Unavailable => StoreError::Unavailable("a scripted fault".into()),
            Fault::Fenced => StoreError::Fenced { session },
            Fault::UnknownButDone | Fault::UnknownNotDone => StoreError::Unknown("a scripted fault".into()),
        }
    }
}

/// A store that fails on demand.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use windlass_runtime::{memory::MemoryStore, store::{Store, StoreError}, testing::faulty_store::{Call, Fault, FaultyStore}};
/// let store = FaultyStore::new(Arc::new(MemoryStore::new()));
/// store.fail(Call::Open, 2, Fault::Full);
/// let session = windlass_core::SessionId::from_uuid(uuid::Uuid::from_u128(1));
/// assert!(store.open(session).await.is_ok());
/// assert!(matches!(store.open(session).await, Err(StoreError::Full(_))));
/// assert!(store.open(session).await.is_ok());
/// # });
/// ```
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    script: Mutex<Script>,
    gate: watch::Sender<Gate>,
}

#[derive(Default)]
struct Script {
    calls: BTreeMap<Call, u64>,
    faults: BTreeMap<(Call, u64), Fault>,
}

#[derive(Clone, Copy, Default)]
struct Gate {
    closed: bool,
    waiting: usize,
}

impl FaultyStore {
    /// Passes everything on, until it is told otherwise.
    pub fn new(inner: Arc<dyn Store>) -> FaultyStore {
        FaultyStore { inner, script: Mutex::default(), gate: watch::Sender::new(Gate::default()) }
    }

    /// Fails the `nth` call of this kind from now on; 1 is the next. Several may be scripted.
    pub fn fail(&self, call: Call, nth: u64, fault: Fault) {
        self.script(|script| {
            let at = script.calls.get(&call).copied().unwrap_or_default() + nth;
            script.faults.insert((call, at), fault);
        });
    }

    /// How many calls of this kind there have been, failed ones included.
    pub fn calls(&self, call: Call) -> u64 {
        self.script(|script| script.calls.get(&call).copied().unwrap_or_default())
    }

    /// Holds back every append that arrives from now on, until [`FaultyStore::open_gate`].
    pub fn close_gate(&self) {
        self.gate.send_modify(|gate| gate.closed = true);
    }

    /// Lets all appends through again, those that wait first.
    pub fn open_gate(&self) {
        self.gate.send_modify(|gate| gate.closed = false);
    }

    /// Resolves once at least `count` appends wait at the gate. Cancel-safe.
    pub async fn waiting(&self, count: usize) {
        let mut gate = self.gate.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = gate.wait_for(|gate| gate.waiting >= count).await;
    }

    fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a call, and returns how it shall fail.
    fn next(&self, call: Call) -> Option<Fault> {
        self.script(|script| {
            let count = script.calls.entry(call).or_default();
            *count += 1;
            let at = *count;
            script.faults.remove(&(call, at))
        })
    }

    async fn pass_gate(&self) {
        /// Takes the waiting append off the count also if its future is dropped.
        struct Waiting<'a>(&'a watch::Sender<Gate>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.send_modify(|gate| gate.waiting -= 1);
            }
        }
        if !self.gate.borrow().closed {
            return;
        }
        let mut gate = self.gate.subscribe();
        self.gate.send_modify(|gate| gate.waiting += 1);
        let _waiting = Waiting(&self.gate);
        // The sender lives in `self`, so waiting cannot fail.
        let _ = gate.wait_for(|gate| !gate.closed).await;
    }

    /// Does a call, or fails it as scripted.
    async fn call<T>(
        &self,
        call: Call,
        session: SessionId,
        done: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match self.next(call) {
            None => done.await,
            Some(fault) => {
                if fault == Fault::UnknownButDone {
                    done.await?;
                }
                Err(fault.error(session))
            }
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn open(&self, session: SessionId) -> Result<Opened, StoreError> {
        self.call(Call::Open, session, self.inner.open(session)).await
    }

    async fn append(&self, append: Append) -> Result<(), StoreError> {
        self.pass_gate().await;
        self.call(Call::Append, append.session, self.inner.append(append)).await
    }

    async fn load(&self, session: SessionId) -> Result<Option<Loaded>, StoreError> {
        self.inner.load(session).await
    }

    async fn read(&self, session: SessionId, after: Seq, limit: u32) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.inner.read(session, after, limit).await
    }

    async fn put_snapshot(&self, put: PutSnapshot) -> Result<u64, StoreError> {
        self.call(Call::PutSnapshot, put.session, self.inner.put_snapshot(put)).await
    }

    async fn input(&self, session: SessionId, by: &InputRef) -> Result<Option<InputRow>, StoreError> {
        self.inner.input(session, by).await
    }

    async fn inputs(&self, query: InputQuery) -> Result<Vec<InputRow>, StoreError> {
        self.inner.inputs(query).await
    }

    async fn receipt(
        &self,
        session: SessionId,
        run: RunId,
        sequence: u64,
    ) -> Result<Option<Arc<RunBoundaryReceipt>>, StoreError> {
        self.inner.receipt(session, run, sequence).await
    }

    async fn session(&self, session: SessionId) -> Result<Option<SessionRow>, StoreError> {
        self.inner.session(session).await
    }

    async fn list(&self, query: ListQuery) -> Result<Vec<SessionRow>, StoreError> {
        self.call(Call::List, NO_SESSION, self.inner.list(query)).await
    }

    async fn usage(&self, tenant: Option<&str>) -> Result<Usage, StoreError> {
        self.inner.usage(tenant).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.call(Call::Probe, NO_SESSION, self.inner.probe()).await
    }

    async fn delete(&self, session: SessionId, fence: Fence) -> Result<(), StoreError> {
        self.inner.delete(session, fence).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::MemoryStore, store::SessionStatus};
    use futures_util::{future::join, poll};
    use windlass_core::{Record, RuntimeEpochId, Timestamp};

    fn session() -> SessionId {
        SessionId::from_uuid(uuid::Uuid::from_u128(1))
    }

    async fn store() -> (FaultyStore, Append) {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let fence = store.open(session()).await.expect("opened").fence;
        let epoch = RuntimeEpochId::from_uuid(uuid::Uuid::from_u128(2));
        let record = Record::SessionCreated { epoch, agent: None };
        let entries = vec![Arc::new(Entry { seq: Seq(1), at: Timestamp::ZERO, record })];
        let status = SessionStatus::default();
        (store, Append { session: session(), fence, entries, index: Vec::new(), status })
    }

    #[tokio::test]
    async fn a_scripted_fault_happens_once_and_is_done_or_not_as_it_says() {
        for (fault, done) in [(Fault::UnknownButDone, 1), (Fault::UnknownNotDone, 0), (Fault::Full, 0)] {
            let (store, append) = store().await;
            store.fail(Call::Append, 1, fault);
            store.append(append.clone()).await.expect_err("it was told to fail");
            assert_eq!(store.read(session(), Seq::ZERO, 9).await.expect("read").len(), done, "{fault:?}");
            assert_eq!(store.append(append).await.is_ok(), done == 0, "{fault:?}");
            assert_eq!(store.calls(Call::Append), 2);
        }
    }

    #[tokio::test]
    async fn a_closed_gate_holds_appends_back_and_says_so() {
        let (store, append) = store().await;
        store.close_gate();
        let mut held = store.append(append.clone());
        assert!(poll!(&mut held).is_pending());
        store.waiting(1).await;
        drop(held);
        let another = store.waiting(1);
        let mut another = std::pin::pin!(another);
        assert!(poll!(&mut another).is_pending(), "a dropped append waits no more");
        let mut held = store.append(append);
        assert!(poll!(&mut held).is_pending());
        another.await;
        let (held, ()) = join(held, async { store.open_gate() }).await;
        held.expect("appended");
    }
}
