//! How long until a store's work goes on after a restart?

use crate::{
    Bench,
    floor::sqlite::remove,
    measure::on_runtime,
    report::{Figure, Sample, Target},
    rig::{Rig, Setup},
    scenario::core::Driver,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use windlass_core::{Limits, PolicyTable, Record, Seq, Session, SessionId, Snapshot};
use windlass_runtime::store::{PutSnapshot, Store};
use windlass_sqlite::{SqliteOptions, SqliteStore};

/// Sessions that resume at once, before the others do: what an adapter does unless it is told otherwise.
const AT_ONCE: u64 = 16;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figures = long_queue(bench)?;
    figures.extend(many_sessions(bench)?);
    Ok(figures)
}

/// Opening one session in which many inputs wait.
fn long_queue(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 2_000);
    let mut figures = Vec::new();
    for snapshot in [false, true] {
        let path = bench.dir.join("recover.db");
        let session = on_runtime({
            let path = path.clone();
            async move {
                remove(&path)?;
                let store = SqliteStore::open(&path, SqliteOptions::default())?;
                let driver = Driver::holding(n);
                let at = Seq(driver.session.head().0 - 1_000);
                let kept = snapshot.then(|| snapshot_at(&driver, at)).transpose()?;
                keep(&store, &driver, kept.map(|kept| (at, kept))).await?;
                Ok(driver.session.id())
            }
        })?;
        let [floor, value] = bench.samples(|| {
            let floor = read_and_decode(&path, session)?;
            let path = path.clone();
            let value = on_runtime(async move {
                let rig = Rig::on_sqlite(&path, Setup::default())?;
                let start = Instant::now();
                let handle = rig.adapter.register_session(session).await?;
                let took = start.elapsed().as_secs_f64() * 1e3;
                let open = handle.active_inputs().await?.len();
                anyhow::ensure!(open == n, "all {n} inputs wait again, not {open}");
                rig.close().await;
                Ok(took)
            })?;
            Ok([floor, value])
        })?;
        let from = if snapshot { "snapshot + 1000 records" } else { "the journal alone" };
        figures.push(
            Figure::new("recover", "sqlite", format!("{n} pending inputs from {from}"), "ms", &value)
                .against("bare read + decode", &floor)
                .must(Target::AtMost(3.0)),
        );
    }
    Ok(figures)
}

/// Starting on a store of many sessions.
fn many_sessions(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (stored, pending) = (bench.size(100_000, 10_000), bench.size(1_000, 200));
    let (none, many) = (bench.dir.join("recover_none.db"), bench.dir.join("recover_many.db"));
    on_runtime({
        let (none, many) = (none.clone(), many.clone());
        async move {
            fill(&none, 0, false).await?;
            fill(&many, stored, false).await
        }
    })?;
    let [empty, full] = bench.samples(|| Ok([start(&none)?, start(&many)?]))?;
    let mut figures = vec![
        Figure::new("recover", "sqlite", format!("start with {stored} stored sessions"), "ms", &full)
            .against("start with none", &empty)
            .must(Target::AtMost(2.0)),
    ];
    let (mut first, mut all) = (Sample::default(), Sample::default());
    for _ in 0..bench.runs {
        let many = many.clone();
        let (soon, late) = on_runtime(async move {
            fill(&many, pending, true).await?;
            let begun = Instant::now();
            let rig = Rig::on_sqlite(&many, Setup::default())?;
            let adapter = rig.adapter.clone();
            let resume = tokio::spawn(async move { adapter.resume_pending().await });
            let mut times = [0.0, 0.0];
            for (time, runs) in times.iter_mut().zip([AT_ONCE, pending as u64]) {
                while rig.runs() < runs {
                    anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "only {} resumed", rig.runs());
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
                *time = begun.elapsed().as_secs_f64() * 1e3;
            }
            resume.await??;
            rig.close().await;
            Ok((times[0], times[1]))
        })?;
        first.0.push(soon);
        all.0.push(late);
    }
    let of = format!("of {pending} pending among {stored}");
    figures.push(Figure::new("recover", "sqlite", format!("until {AT_ONCE} run, {of}"), "ms", &first));
    figures.push(Figure::new("recover", "sqlite", format!("until all have run, {of}"), "ms", &all));
    Ok(figures)
}

/// Milliseconds from nothing to an adapter that has looked for work.
fn start(path: &Path) -> anyhow::Result<f64> {
    let path = path.to_owned();
    on_runtime(async move {
        let begun = Instant::now();
        let rig = Rig::on_sqlite(&path, Setup::default())?;
        let resumed = rig.adapter.resume_pending().await?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        anyhow::ensure!(resumed == 0, "nothing is pending");
        rig.close().await;
        Ok(took)
    })
}

/// Adds sessions, each with a prompt that waits if they are to be pending.
async fn fill(path: &Path, n: usize, pending: bool) -> anyhow::Result<()> {
    if !pending {
        remove(path)?;
    }
    let store = SqliteStore::open(path, SqliteOptions::default())?;
    let sessions = stream::iter((0..n).map(|_| {
        let mut driver = Driver::unattended(Some("noop".into()));
        if pending {
            driver.accepts(1);
        }
        let store = &store;
        async move { keep(store, &driver, None).await }
    }));
    sessions.buffer_unordered(1_024).try_collect().await
}

/// Keeps a driven session as its owner would have.
async fn keep(store: &SqliteStore, driver: &Driver, snapshot: Option<(Seq, Snapshot)>) -> anyhow::Result<()> {
    let session = driver.session.id();
    let fence = store.open(session).await?.fence;
    store.append(driver.append(fence, driver.journal.clone())).await?;
    if let Some((at, snapshot)) = snapshot {
        let put = PutSnapshot { session, fence, at, snapshot: Arc::new(snapshot), keep_after: Seq::ZERO };
        store.put_snapshot(put).await?;
    }
    Ok(())
}

fn snapshot_at(driver: &Driver, at: Seq) -> anyhow::Result<Snapshot> {
    let limits = Limits { queued: 100_000, ..Limits::default() };
    let entries = driver.journal.iter().filter(|entry| entry.seq <= at);
    let table = Arc::new(PolicyTable::reference());
    Ok(Session::recover(driver.session.id(), limits, table, None, entries)?.snapshot())
}

/// Milliseconds to read the same rows and decode what stands in them.
fn read_and_decode(path: &Path, session: SessionId) -> anyhow::Result<f64> {
    let connection = rusqlite::Connection::open(path)?;
    let id = session.as_uuid().as_bytes();
    let begun = Instant::now();
    let mut snapshots =
        connection.prepare("SELECT seq, body FROM snapshot WHERE session = ? ORDER BY seq DESC LIMIT 1")?;
    let mut rows = snapshots.query([id])?;
    let mut after = 0;
    if let Some(row) = rows.next()? {
        after = row.get::<_, i64>(0)?;
        std::hint::black_box(serde_json::from_str::<Snapshot>(row.get_ref(1)?.as_str()?)?);
    }
    let mut journal = connection.prepare("SELECT body FROM journal WHERE session = ? AND seq > ? ORDER BY seq")?;
    let mut rows = journal.query(rusqlite::params![id, after])?;
    while let Some(row) = rows.next()? {
        std::hint::black_box(serde_json::from_str::<Record>(row.get_ref(0)?.as_str()?)?);
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
