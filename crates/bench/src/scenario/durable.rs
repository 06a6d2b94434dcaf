//! How fast is it when every answer waits for a disk?

use crate::{
    Bench,
    floor::{disk, sqlite},
    measure::on_runtime,
    report::{Figure, Sample, Target},
    rig::{Rig, Setup},
    scenario::{
        median,
        memory::{accepts, round_trips},
        prompt,
    },
};
use futures_util::{StreamExt as _, stream};
use std::{path::Path, time::Instant};

fn ends_a_run(body: &str) -> bool {
    body.contains("\"run_ended\"")
}

fn accepts_an_input(body: &str) -> bool {
    body.contains("\"input_accepted\"")
}

/// One session, one input after the other, from accept to completion.
pub(super) fn durable_rtt(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (early, late) = (bench.size(400, 100), bench.size(4_000, 400));
    let path = bench.dir.join("durable_rtt.db");
    let [floor, all, first, last, runs, commits] = bench.samples(|| {
        let (times, runs, commits) = on_runtime({
            let path = path.clone();
            async move {
                let rig = Rig::sqlite(&path, Setup::default())?;
                let session = rig.session().await?;
                let before = rig.commits();
                let times = round_trips(&session, late).await?;
                let done = (times, rig.runs(), rig.commits() - before);
                rig.close().await;
                Ok(done)
            }
        })?;
        let bytes = bytes_per_round_trip(&path)?;
        let floor = 2.0 * median(disk::appends(&bench.dir, bench.size(400, 100), bytes / 2)?);
        let (first, last) = (median(times[..early].to_vec()), median(times[late - early..].to_vec()));
        Ok([floor, median(times), first, last, runs as f64, commits as f64])
    })?;
    Ok(vec![
        Figure::new("durable_rtt", "sqlite", format!("accept to completion, {late} in a row"), "us", &all)
            .against("two append + fdatasync", &floor)
            .must(Target::AtMost(2.5)),
        // Dearer than the rest: until its first checkpoint the log grows, afterwards it is written over.
        Figure::new("durable_rtt", "sqlite", format!("accept to completion, first {early}"), "us", &first)
            .against("two append + fdatasync", &floor),
        Figure::new("durable_rtt", "sqlite", format!("accept to completion, last {early} of {late}"), "us", &last)
            .against(format!("first {early}"), &first)
            .must(Target::AtMost(1.2)),
        Figure::count("durable_rtt", "sqlite", "runs", &runs),
        Figure::count("durable_rtt", "sqlite", "commits", &commits),
    ])
}

/// The journal's bytes for one input, from what is stored.
fn bytes_per_round_trip(path: &Path) -> anyhow::Result<usize> {
    let connection = rusqlite::Connection::open(path)?;
    // The last thousand entries are never pruned; an input makes three or so, found by counting its first.
    let sql = "SELECT sum(length(body)) / sum(body LIKE '%\"input_accepted\"%') FROM journal";
    Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))? as usize)
}

/// From accept to acknowledgement, into sessions that are held.
pub(super) fn durable_admit(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (submitters, each) in [(1, bench.size(1_000, 200)), (64, bench.size(500, 50))] {
        let (from, to) = (bench.dir.join("durable_admit.db"), bench.dir.join("floor.db"));
        let [floor, rate, commits] = bench.samples(|| {
            let (rate, commits) = on_runtime({
                let path = from.clone();
                async move {
                    let rig = Rig::sqlite(&path, Setup::default())?;
                    let sessions = rig.sessions(submitters).await?;
                    for session in &sessions {
                        session.hold().await?;
                    }
                    let before = rig.commits();
                    let start = Instant::now();
                    let tasks: Vec<_> = sessions
                        .into_iter()
                        .map(|session| tokio::spawn(async move { accepts(&session, each).await.map(drop) }))
                        .collect();
                    for task in tasks {
                        task.await??;
                    }
                    let rate = (submitters * each) as f64 / start.elapsed().as_secs_f64();
                    let done = (rate, rig.commits() - before);
                    rig.close().await;
                    Ok(done)
                }
            })?;
            let rows = sqlite::read_back(&from, accepts_an_input)?;
            let to = to.clone();
            let (_, took) = on_runtime(async move { sqlite::Writer::start(&to)?.submit(rows, submitters).await })?;
            Ok([(submitters * each) as f64 / took, rate, commits as f64])
        })?;
        figures.push(
            Figure::new("durable_admit", "sqlite", format!("accepts, {submitters} submitters"), "1/s", &rate)
                .against("bare SQLite writer", &floor)
                .must(Target::AtLeast(0.6)),
        );
        figures.push(Figure::count("durable_admit", "sqlite", format!("commits, {submitters} submitters"), &commits));
    }
    Ok(figures)
}

/// One session, many queued prompts, from the first start to the last completion.
pub(super) fn durable_chain(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 500);
    let (from, to) = (bench.dir.join("durable_chain.db"), bench.dir.join("floor.db"));
    let [floor, rate, runs, commits] = bench.samples(|| {
        let (rate, runs, commits) = on_runtime({
            let path = from.clone();
            async move {
                let rig = Rig::sqlite(&path, Setup::default())?;
                let session = rig.session().await?;
                session.hold().await?;
                let accepted = stream::iter((0..n).map(|_| session.accept_with_completion(prompt()))).buffered(1_024);
                let accepted: Vec<_> = accepted.collect().await;
                let before = rig.commits();
                let start = Instant::now();
                session.release().await?;
                for accepted in accepted {
                    accepted?.1.expect("a new prompt has a completion to wait for").wait().await;
                }
                let rate = n as f64 / start.elapsed().as_secs_f64();
                let done = (rate, rig.runs(), rig.commits() - before);
                rig.close().await;
                Ok(done)
            }
        })?;
        let mut rows = sqlite::read_back(&from, ends_a_run)?;
        for appends in &mut rows {
            appends.drain(..appends.len().saturating_sub(500));
        }
        let to = to.clone();
        let (times, _) = on_runtime(async move { sqlite::Writer::start(&to)?.submit(rows, 1).await })?;
        Ok([1e6 / median(times), rate, runs as f64, commits as f64])
    })?;
    Ok(vec![
        Figure::new("durable_chain", "sqlite", format!("{n} queued prompts, one session"), "1/s", &rate)
            .against("1 / bare commit", &floor)
            .must(Target::AtLeast(0.7)),
        Figure::count("durable_chain", "sqlite", "runs", &runs),
        Figure::count("durable_chain", "sqlite", "commits", &commits),
    ])
}

/// What one pass over many sessions came to, ours and the floor's.
struct Fan {
    rate: Sample,
    floor: Sample,
    bytes: Sample,
    floor_bytes: Sample,
    runs: Sample,
    commits: Sample,
    what: String,
}

fn fan(bench: &Bench) -> anyhow::Result<Fan> {
    let (sessions, each) = (bench.size(1_000, 200), 10);
    let n = sessions * each;
    let (from, to) = (bench.dir.join("durable_fan.db"), bench.dir.join("floor.db"));
    let [floor, rate, floor_bytes, bytes, runs, commits] = bench.samples(|| {
        let (rate, written, runs, commits) = on_runtime({
            let path = from.clone();
            async move {
                let rig = Rig::sqlite(&path, Setup::default())?;
                let sessions = rig.sessions(sessions).await?;
                let (before, written) = (rig.commits(), bytes_written());
                let start = Instant::now();
                let tasks: Vec<_> = sessions
                    .into_iter()
                    .map(|session| {
                        tokio::spawn(async move {
                            let accepts = (0..each).map(|_| session.accept_with_completion(prompt()));
                            let accepted: Vec<_> = stream::iter(accepts).buffered(each).collect().await;
                            for accepted in accepted {
                                accepted?.1.expect("a new prompt has a completion to wait for").wait().await;
                            }
                            anyhow::Ok(())
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await??;
                }
                let rate = n as f64 / start.elapsed().as_secs_f64();
                let (runs, commits) = (rig.runs(), rig.commits() - before);
                rig.close().await;
                Ok((rate, written, runs, commits))
            }
        })?;
        // With the runtime gone the file is closed, and its log moved: all that the work costs is written.
        let bytes = bytes_written() - written;
        let rows = sqlite::read_back(&from, ends_a_run)?;
        let (to, submitters) = (to.clone(), rows.len());
        let (took, floor_bytes) = on_runtime(async move {
            let written = bytes_written();
            let (_, took) = sqlite::Writer::start(&to)?.submit(rows, submitters).await?;
            Ok((took, bytes_written() - written))
        })?;
        let per_input = |bytes: u64| bytes as f64 / n as f64;
        Ok([n as f64 / took, rate, per_input(floor_bytes), per_input(bytes), runs as f64, commits as f64])
    })?;
    let what = format!("{sessions} sessions x {each} prompts");
    Ok(Fan { rate, floor, bytes, floor_bytes, runs, commits, what })
}

/// Many sessions, ten prompts each, from the first accept to the last completion.
pub(super) fn durable_fan(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let fan = fan(bench)?;
    Ok(vec![
        Figure::new("durable_fan", "sqlite", fan.what, "1/s", &fan.rate)
            .against("bare SQLite writer", &fan.floor)
            .must(Target::AtLeast(0.5)),
        Figure::count("durable_fan", "sqlite", "runs", &fan.runs),
        Figure::count("durable_fan", "sqlite", "commits", &fan.commits),
    ])
}

/// What the same writes.
pub(super) fn durable_bytes(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let fan = fan(bench)?;
    Ok(vec![
        Figure::new("durable_bytes", "sqlite", format!("per input, {}", fan.what), "B", &fan.bytes)
            .against("bare SQLite writer", &fan.floor_bytes)
            .must(Target::AtMost(3.0)),
        Figure::count("durable_bytes", "sqlite", "runs", &fan.runs),
        Figure::count("durable_bytes", "sqlite", "commits", &fan.commits),
    ])
}

/// Bytes that this process has handed to write calls, as Linux counts them; zero elsewhere.
fn bytes_written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    written.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
