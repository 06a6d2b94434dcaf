//! How much memory does a session, a waiting input and a finished input take, store included?

use crate::{
    Bench, alloc,
    measure::on_runtime,
    report::{Figure, Target},
    rig::{Rig, Setup},
    scenario::{memory::accepts, prompt},
};
use std::time::Duration;
use uuid::Uuid;
use windlass_core::SessionId;

/// Per open session that has an executor and nothing to do, and per session that was put away.
pub(super) fn mem_session(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 2_000);
    let [open] = bench.samples(|| {
        on_runtime(async move {
            let rig = Rig::memory(Setup::default());
            // What the first session brings to life for all is no session's.
            let first = rig.session().await?;
            alloc::count(true);
            let sessions = rig.sessions(n).await?;
            let bytes = settled_bytes().await - (n * size_of_val(&first)) as f64;
            alloc::count(false);
            drop(sessions);
            Ok([bytes / n as f64])
        })
    })?;
    // On a disk, so that the journals of those put away are not in memory.
    let path = bench.dir.join("mem_session.db");
    let few = bench.size(1_000, 200);
    let [away] = bench.samples(|| {
        let path = path.clone();
        on_runtime(async move {
            let rig =
                Rig::sqlite(&path, Setup { put_away_after: Some(Duration::from_millis(20)), ..Setup::default() })?;
            let ids: Vec<_> = (0..few).map(|_| SessionId::from_uuid(Uuid::now_v7())).collect();
            alloc::count(true);
            for id in &ids {
                rig.adapter.create_session(*id, Some("noop")).await?.accept(prompt()).await?;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let bytes = settled_bytes().await;
            alloc::count(false);
            anyhow::ensure!(rig.runs() == few as u64, "each session ran its input before it was put away");
            Ok([bytes / few as f64])
        })
    })?;
    Ok(vec![
        Figure::new("mem_session", "memory", format!("per open idle session, of {n}"), "B", &open)
            .must(Target::AtMost(4096.0)),
        // What remains is capacity that is kept for later, shared by all.
        Figure::new("mem_session", "sqlite", format!("per session put away, of {few}"), "B", &away)
            .must(Target::AtMost(0.0)),
    ])
}

/// Per input that waits, journal included.
pub(super) fn mem_input(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 2_000);
    let [bytes, commits] = bench.samples(|| {
        on_runtime(async move {
            let rig = Rig::memory(Setup::default());
            let session = rig.session().await?;
            session.hold().await?;
            let before = rig.commits();
            alloc::count(true);
            drop(accepts(&session, n).await?);
            let bytes = settled_bytes().await;
            alloc::count(false);
            Ok([bytes / n as f64, (rig.commits() - before) as f64])
        })
    })?;
    Ok(vec![
        Figure::new("mem_input", "memory", format!("per queued input, of {n}"), "B", &bytes)
            .must(Target::AtMost(1024.0)),
        Figure::count("mem_input", "memory", "commits", &commits),
    ])
}

/// Per input that is over: remembered within the window, nothing afterwards.
pub(super) fn mem_done(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 10_000);
    let mut figures = Vec::new();
    for (what, keyed) in [("within the window", false), ("within the window, keyed", true)] {
        let [bytes, runs] = bench.samples(|| {
            on_runtime(async move {
                let rig = Rig::memory(Setup::default());
                let bytes = finished(&rig, n, n, keyed).await?;
                Ok([bytes / n as f64, rig.runs() as f64])
            })
        })?;
        figures.push(
            Figure::new("mem_done", "memory", format!("per finished input {what}, of {n}"), "B", &bytes)
                .must(Target::AtMost(150.0)),
        );
        figures.push(Figure::count("mem_done", "memory", format!("runs, {what}"), &runs));
    }
    let [after] = bench.samples(|| {
        on_runtime(async move {
            let rig = Rig::memory(Setup { settled_kept: Some(1_000), ..Setup::default() });
            // The second half pushes the first out of the window, and must not cost anything.
            let bytes = finished(&rig, n, n / 2, true).await?;
            Ok([bytes / (n / 2) as f64])
        })
    })?;
    // The store's row outlives the session's memory of the input, and is dropped later by the store's own window.
    figures.push(
        Figure::new("mem_done", "memory", "per further finished input, window full", "B", &after)
            .must(Target::AtMost(0.0)),
    );
    Ok(figures)
}

/// The bytes that the last `counted` of `n` finished inputs leave.
async fn finished(rig: &Rig, n: usize, counted: usize, keyed: bool) -> anyhow::Result<f64> {
    let session = rig.session().await?;
    for index in 0..n {
        if index == n - counted {
            settled_bytes().await;
            alloc::count(true);
        }
        let input = prompt();
        let input = if keyed { input.with_key(&format!("key-{index}"))? } else { input };
        let (_, completion) = session.accept_with_completion(input).await?;
        completion.expect("a new prompt has a completion to wait for").wait().await;
    }
    let bytes = settled_bytes().await;
    alloc::count(false);
    Ok(bytes)
}

/// Live bytes once everybody has come to rest: tasks end and drop what they hold a moment after they answered.
async fn settled_bytes() -> f64 {
    let mut before = alloc::live();
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = alloc::live();
        if now == before {
            break;
        }
        before = now;
    }
    before as f64
}
