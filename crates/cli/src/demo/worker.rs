//! What does the demo's worker do until it is killed?
//!
//! Opens the store like any program would, does what it is told, and stops dead where it is told to: in the middle of
//! a write, by way of a store that passes everything on to the real one.

use super::{
    exchange::exchange,
    protocol::{News, Order, Point},
};
use crate::{
    failure::Failure,
    output,
    place::{blob_folder, session_id, store_file},
    wakes::Wakes,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use windlass::{
    AcceptOutcome, CompletionOutcome, Decision, Disposition, Entry, Fence, InputId, InputKind, Merge, OnBusy,
    PolicyTable, Record, Row, RunBoundaryReceipt, RunEnd, RunId, RuntimeSessionAdapter, Seq, SessionHandle, SessionId,
    SqliteOptions, SqliteStore, Terminal,
    store::{
        Append, InputQuery, InputRef, InputRow, ListQuery, Loaded, Opened, PutSnapshot, SessionRow, Store, StoreError,
        Usage,
    },
};

/// So short that sessions are put away while the tour goes on.
const IDLE_AFTER: Duration = Duration::from_millis(250);

#[derive(clap::Args)]
pub(crate) struct Args {
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let worked = crate::runtime()?.block_on(work(&args.dir));
    if let Err(failure) = &worked {
        say(&News::Trouble { error: format!("{failure:?}") });
    }
    worked
}

async fn work(dir: &Path) -> Result<(), Failure> {
    let store = Arc::new(StandingStore {
        inner: SqliteStore::open(store_file(dir), SqliteOptions::default())?,
        stand: Mutex::new(None),
        opened: Mutex::default(),
    });
    let blobs = windlass::ObjectBlobs::in_folder(blob_folder(dir)).map_err(Failure::failed)?;
    let adapter = RuntimeSessionAdapter::builder()
        .store(store.clone())
        .blobs(Arc::new(blobs))
        .factory(Arc::new(windlass::agent::BuiltinFactory::default()))
        .policy(policy())
        .entries_kept(u64::MAX)
        .idle_after(IDLE_AFTER)
        .build();
    let resumed = adapter.resume_pending().await?;
    say(&News::Ready { resumed });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line).map_err(Failure::failed)? {
            Order::Accept { session, input } => {
                let id = input.id();
                let handle = open(&adapter, &session).await?;
                let outcome = handle.accept(*input).await?;
                let awaited = match &outcome {
                    AcceptOutcome::Accepted { input_id, .. } => Some(*input_id),
                    AcceptOutcome::Deduplicated { existing_id, .. } => Some(*existing_id),
                    AcceptOutcome::Rejected { .. } => None,
                };
                say(&News::Answer { session, input: id, outcome });
                if let Some(input) = awaited {
                    await_end(&handle, input).await?;
                }
            }
            Order::Await { session, input } => await_end(&open(&adapter, &session).await?, input).await?,
            Order::Cancel { session } => {
                let handle = open(&adapter, &session).await?;
                let outcome = handle.cancel(None, "the tour wants to show it", Disposition::Drop).await;
                say(&News::Cancelled { outcome: outcome? });
            }
            Order::Stand { session, at } => {
                *store.stand.lock().unwrap_or_else(PoisonError::into_inner) = Some((session_id(&session), at));
            }
            Order::Rest { session } => {
                let wakes = Wakes::after(open(&adapter, &session).await?, Seq::ZERO);
                tokio::spawn(await_rest(session, wakes, Arc::clone(&store)));
            }
            Order::Exchange { from, to } => {
                let (answer, heard) = exchange(&adapter, &from, &to).await?;
                say(&News::Exchanged { answer, heard });
            }
            Order::Leave => break,
        }
    }
    adapter.shutdown().await;
    Ok(())
}

async fn open(adapter: &RuntimeSessionAdapter, name: &str) -> Result<SessionHandle, Failure> {
    Ok(adapter.create_session(session_id(name), None).await?)
}

/// The reference table, with two rows of our own: newer events of a scope replace older ones, and flow steps are
/// refused while a run is on.
fn policy() -> PolicyTable {
    let mut table = PolicyTable::reference();
    let row = |kind, busy, decision| Row { kind: Some(kind), mode: None, source: None, busy, decision };
    let supersede = Decision { merge: Merge::Supersede, ..Decision::QUEUE };
    let refuse = Decision { on_busy: OnBusy::Reject, ..Decision::QUEUE };
    table.rows.insert(0, row(InputKind::FlowStep, Some(true), refuse));
    table.rows.insert(0, row(InputKind::ExternalEvent, Some(true), supersede));
    table.version = 2;
    table
}

/// Tells the parent when this input ends; if it is over already, at once.
async fn await_end(handle: &SessionHandle, input: InputId) -> Result<(), Failure> {
    let completion = handle.completion(InputRef::Id(input)).await?;
    tokio::spawn(async move {
        let (how, text) = match completion.wait().await {
            CompletionOutcome::Completed(result) => ("completed", result.text.clone()),
            CompletionOutcome::CompletedWithoutResult => ("completed", "without a result".into()),
            CompletionOutcome::Abandoned(reason) => ("abandoned", reason.code().into()),
            CompletionOutcome::Superseded { by } => ("superseded", format!("by {by}")),
            other => ("ended", format!("{other:?}")),
        };
        say(&News::Ended { input, how: how.into(), text });
    });
    Ok(())
}

/// Tells the parent when nothing of a session is in the background any more. A follower does not keep it open.
async fn await_rest(session: String, mut wakes: Wakes, store: Arc<StandingStore>) {
    let mut told = Vec::new();
    let rested = async {
        while !wakes.rest().await? {
            if let Some(Terminal::Result(result)) = wakes.read().await? {
                told.push(result.text.clone());
            }
        }
        Ok::<_, Failure>(())
    };
    match rested.await {
        Ok(()) => {
            let opened = store.opened(session_id(&session));
            say(&News::Rests { session, told, opened });
        }
        Err(failure) => say(&News::Trouble { error: format!("{failure:?}") }),
    }
}

/// Tells the parent. If it is gone there is nobody to work for, and the closed standard input ends the worker.
fn say(news: &News) {
    if let Ok(line) = serde_json::to_string(news) {
        let _ = output::line(line);
    }
}

/// The real store, with a place to stand in the middle of its appends.
struct StandingStore {
    inner: SqliteStore,
    stand: Mutex<Option<(SessionId, Point)>>,
    /// How often each session was opened.
    opened: Mutex<BTreeMap<SessionId, u32>>,
}

impl StandingStore {
    fn opened(&self, session: SessionId) -> u32 {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(&session).copied().unwrap_or_default()
    }

    /// Where to stand during this append: before it, or after it.
    fn point(&self, append: &Append) -> Option<Point> {
        let (session, at) = (*self.stand.lock().unwrap_or_else(PoisonError::into_inner))?;
        let meets = |entry: &Arc<Entry>| match (at, &entry.record) {
            (Point::BeforeAcceptance | Point::AfterAcceptance, Record::InputAccepted(_))
            | (Point::AfterBoundary, Record::BoundaryCommitted(_)) => true,
            (Point::BeforeBoundary, record) => record.receipt().is_some(),
            (Point::BeforeEnd, Record::RunEnded(ended)) => matches!(ended.end, RunEnd::Completed { .. }),
            _ => false,
        };
        (append.session == session && append.entries.iter().any(meets)).then_some(at)
    }
}

#[windlass::async_trait]
impl Store for StandingStore {
    async fn append(&self, append: Append) -> Result<(), StoreError> {
        let stand = |at| async move {
            say(&News::Standing { at });
            std::future::pending::<()>().await;
        };
        match self.point(&append) {
            None => self.inner.append(append).await,
            Some(at @ (Point::AfterAcceptance | Point::AfterBoundary)) => {
                self.inner.append(append).await?;
                stand(at).await;
                unreachable!("nobody leaves where he stands");
            }
            Some(at) => {
                stand(at).await;
                unreachable!("nobody leaves where he stands");
            }
        }
    }

    async fn open(&self, session: SessionId) -> Result<Opened, StoreError> {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner).entry(session).or_default() += 1;
        self.inner.open(session).await
    }

    async fn load(&self, session: SessionId) -> Result<Option<Loaded>, StoreError> {
        self.inner.load(session).await
    }

    async fn read(&self, session: SessionId, after: Seq, limit: u32) -> Result<Vec<Arc<Entry>>, StoreError> {
        self.inner.read(session, after, limit).await
    }

    async fn put_snapshot(&self, put: PutSnapshot) -> Result<u64, StoreError> {
        self.inner.put_snapshot(put).await
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
        self.inner.list(query).await
    }

    async fn usage(&self, tenant: Option<&str>) -> Result<Usage, StoreError> {
        self.inner.usage(tenant).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }

    async fn delete(&self, session: SessionId, fence: Fence) -> Result<(), StoreError> {
        self.inner.delete(session, fence).await
    }
}
