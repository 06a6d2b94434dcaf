//! How fast is background work reported, waited for, and told to its session?

use crate::{
    Bench,
    floor::{channel, sqlite},
    measure::{on_runtime, per_second},
    report::{Figure, Target},
    rig::{Rig, Setup},
    scenario::{PROMPT, median},
};
use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use std::{sync::Arc, time::Instant};
use tokio::sync::mpsc;
use uuid::Uuid;
use windlass_core::{InputBody, OperationId, OperationKind, OperationResult, OperationSpec, RuntimeState, SessionId};
use windlass_runtime::{CoreApplyOutput, OpsError, OpsLifecycleRegistry, Turn, executor_fn};

/// Registers an operation and says that it runs.
async fn begin(ops: &OpsLifecycleRegistry, id: OperationId) -> Result<(), OpsError> {
    let spec = OperationSpec {
        id,
        kind: OperationKind::BackgroundToolOp,
        display_name: "shell:cargo test".into(),
        source_label: "shell_job".into(),
        child_session_id: None,
        expect_peer_channel: false,
        adoptable: false,
    };
    ops.register_operation(spec).await?;
    ops.provisioning_succeeded(id).await
}

async fn complete(ops: &OpsLifecycleRegistry, id: OperationId) -> Result<(), OpsError> {
    ops.complete_operation(id, OperationResult { content: PROMPT.into(), ..OperationResult::default() }).await
}

/// An operation's whole life: three reports.
async fn live(ops: &OpsLifecycleRegistry) -> Result<(), OpsError> {
    let id = OperationId::from_uuid(Uuid::now_v7());
    begin(ops, id).await?;
    complete(ops, id).await
}

/// Register, run and complete many operations: in memory, and on a disk.
pub(super) fn ops(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 2_000);
    let [floor, rate, commits] = bench.samples(|| {
        let floor = on_runtime(async move { Ok(channel::pipelined(n, PROMPT).await) })?;
        let (rate, commits) = on_runtime(async move {
            let rig = Rig::memory(Setup::default());
            let session = rig.session().await?;
            // What a held session is told wakes nobody: only the reports are measured.
            session.hold().await?;
            let (ops, before) = (session.operations(), rig.commits());
            let rate = per_second(n, async {
                let mut lives = stream::iter((0..n).map(|_| live(&ops))).buffer_unordered(512);
                while let Some(done) = lives.next().await {
                    done.expect("a new operation may live");
                }
            })
            .await;
            Ok((rate, rig.commits() - before))
        })?;
        Ok([floor, rate, commits as f64])
    })?;
    let mut figures = vec![
        Figure::new("ops", "memory", format!("{n} operations, three reports each"), "1/s", &rate)
            .against("messages to one task", &floor)
            .must(Target::AtLeast(1.0 / 8.0)),
        Figure::count("ops", "memory", "commits", &commits),
    ];
    figures.extend(durable(bench, n)?);
    Ok(figures)
}

fn durable(bench: &Bench, n: usize) -> anyhow::Result<Vec<Figure>> {
    let sessions = 64;
    let each = n / sessions;
    let (from, to) = (bench.dir.join("ops.db"), bench.dir.join("floor.db"));
    let [floor, rate, commits] = bench.samples(|| {
        let (rate, commits) = on_runtime({
            let path = from.clone();
            async move {
                let rig = Rig::sqlite(&path, Setup::default())?;
                let handles = rig.sessions(sessions).await?;
                for session in &handles {
                    session.hold().await?;
                }
                let before = rig.commits();
                let start = Instant::now();
                let tasks = handles.into_iter().map(|session| {
                    tokio::spawn(async move {
                        let ops = session.operations();
                        for _ in 0..each {
                            live(&ops).await?;
                        }
                        anyhow::Ok(())
                    })
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await??;
                }
                let rate = (sessions * each) as f64 / start.elapsed().as_secs_f64();
                let done = (rate, rig.commits() - before);
                rig.close().await;
                Ok(done)
            }
        })?;
        // Each report was an append of its own.
        let rows = sqlite::read_back(&from, |_| true)?;
        let to = to.clone();
        let (_, took) = on_runtime(async move { sqlite::Writer::start(&to)?.submit(rows, sessions).await })?;
        Ok([(sessions * each) as f64 / took, rate, commits as f64])
    })?;
    Ok(vec![
        Figure::new("ops", "sqlite", format!("{} operations in {sessions} sessions", sessions * each), "1/s", &rate)
            .against("bare SQLite writer", &floor)
            .must(Target::AtLeast(0.6)),
        Figure::count("ops", "sqlite", "commits", &commits),
    ])
}

/// Waiting for many operations: how long it takes when they are over, and what it adds to their ends.
pub(super) fn wait_all(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(1_000, 500);
    let [floor, over, alone, waited] = bench.samples(|| {
        let floor = on_runtime(async move { Ok(median(channel::round_trips(n, PROMPT).await)) })?;
        let (_, alone) = on_runtime(barrier(n, false))?;
        let (over, waited) = on_runtime(barrier(n, true))?;
        Ok([floor, over, alone, waited])
    })?;
    Ok(vec![
        Figure::new("wait_all", "memory", format!("over {n} that have ended"), "us", &over)
            .against("mpsc + oneshot", &floor),
        Figure::new("wait_all", "memory", format!("{n} ends and the wait for them"), "us", &waited)
            .against("the ends alone", &alone),
    ])
}

/// Microseconds of a wait over `n` operations that have ended, and of their ends with or without a wait.
async fn barrier(n: usize, wait: bool) -> anyhow::Result<(f64, f64)> {
    let rig = Rig::memory(Setup { operations_kept: Some(100_000), ..Setup::default() });
    let session = rig.session().await?;
    session.hold().await?;
    let ops = session.operations();
    let ids: Vec<_> = (0..n).map(|_| OperationId::from_uuid(Uuid::now_v7())).collect();
    for id in &ids {
        begin(&ops, *id).await?;
    }
    let waiting = tokio::spawn({
        let (ops, ids) = (ops.clone(), ids.clone());
        async move { if wait { ops.wait_all(&ids).await.map(drop) } else { Ok(()) } }
    });
    // The wait looks at the operations before the first of them ends.
    session.state().await?;
    tokio::task::yield_now().await;
    let start = Instant::now();
    for id in &ids {
        complete(&ops, *id).await?;
    }
    waiting.await??;
    let ends = start.elapsed().as_secs_f64() * 1e6;
    let start = Instant::now();
    ops.wait_all(&ids).await?;
    Ok((start.elapsed().as_secs_f64() * 1e6, ends))
}

/// From the completion's report to its executor's start, in a session that is quiet.
pub(super) fn wake(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(2_000, 500);
    let [floor, wake, runs] = bench.samples(|| {
        let floor = on_runtime(async move { Ok(median(channel::round_trips(n, PROMPT).await)) })?;
        let (times, runs) = on_runtime(wakes(n))?;
        Ok([floor, median(times), runs as f64])
    })?;
    Ok(vec![
        Figure::new("wake", "memory", "completion to executor started", "us", &wake)
            .against("mpsc + oneshot", &floor)
            .must(Target::AtMost(40.0)),
        Figure::count("wake", "memory", "runs", &runs),
    ])
}

async fn wakes(n: usize) -> anyhow::Result<(Vec<f64>, usize)> {
    let rig = Rig::memory(Setup { by_hand: true, ..Setup::default() });
    let (sender, mut started) = mpsc::unbounded_channel();
    let executor = executor_fn(move |turn: Turn| {
        // Nobody listens any more once the last wake is measured.
        let _ = sender.send(Instant::now());
        async move {
            for accepted in turn.inputs() {
                if let InputBody::Continuation(told) = &accepted.input.body
                    && let Some(last) = told.notices.last()
                {
                    turn.applied(last.seq).await?;
                }
            }
            Ok(CoreApplyOutput::default())
        }
    });
    let id = SessionId::from_uuid(Uuid::now_v7());
    rig.adapter.ensure_session_with_executor(id, Arc::new(executor)).await?;
    let session = rig.adapter.session(id).await?;
    let ops = session.operations();
    let (mut times, mut runs) = (Vec::with_capacity(n), 0);
    for _ in 0..n {
        let id = OperationId::from_uuid(Uuid::now_v7());
        begin(&ops, id).await?;
        let start = Instant::now();
        complete(&ops, id).await?;
        let at = started.recv().await.context("the executor lives as long as its session")?;
        times.push(at.duration_since(start).as_secs_f64() * 1e6);
        runs += 1;
        // Quiet again before the next completion.
        while session.state().await? == RuntimeState::Running {
            tokio::task::yield_now().await;
        }
    }
    anyhow::ensure!(started.is_empty(), "one wake for each completion");
    Ok((times, runs))
}
