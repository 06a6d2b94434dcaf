//! How often does an input make the disk sync, counted on the real process?
//!
//! The work is done by a child of this program, once with and once without its inputs, under `strace`; the difference is
//! the inputs'. Without `strace` the store's own count of commits and checkpoints is taken, and the metric says so.

use crate::{
    Bench,
    measure::on_runtime,
    report::{Figure, Sample, Target},
    rig::{Rig, Setup},
    scenario::memory::{accepts, round_trips},
};
use anyhow::Context as _;
use std::{path::Path, process::Command};

/// The work of a child: so many round trips, or so many accepts by each of 64 submitters.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// One session, one after the other.
    RoundTrips,
    /// 64 held sessions at once.
    Accepts,
}

const SUBMITTERS: usize = 64;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (trips, each) = (bench.size(500, 100), bench.size(200, 50));
    let mut figures = Vec::new();
    for (work, n, inputs, what, most) in [
        (Work::RoundTrips, trips, trips, "per durable round trip".to_owned(), 2.0),
        (Work::Accepts, each, each * SUBMITTERS, format!("per accept, {SUBMITTERS} submitters"), 0.1),
    ] {
        let mut how = "";
        let sample: Sample = (0..bench.runs)
            .map(|_| {
                let path = bench.dir.join("syncs.db");
                let (with, by) = syncs(&path, work, n)?;
                let (without, _) = syncs(&path, work, 0)?;
                how = by;
                // Two commits a trip, and now and then a snapshot or a checkpoint, which make it 2 and a little.
                anyhow::Ok((with - without) / inputs as f64)
            })
            .collect::<anyhow::Result<_>>()?;
        figures.push(
            Figure::new("syncs", "sqlite", format!("fsync + fdatasync {what}, {how}"), "syncs", &sample)
                .must(Target::AtMost(most)),
        );
        figures.push(Figure::count("syncs", "sqlite", format!("inputs {what}"), &Sample(vec![inputs as f64])));
    }
    Ok(figures)
}

/// How many syncs a child made, and who counted.
fn syncs(path: &Path, work: Work, n: usize) -> anyhow::Result<(f64, &'static str)> {
    let child = |command: &mut Command| -> anyhow::Result<std::process::Output> {
        let work = clap::ValueEnum::to_possible_value(&work).expect("no work is hidden");
        let output =
            command.args(["--child", work.get_name(), "--count", &n.to_string(), "--dir"]).arg(path).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    };
    let us = std::env::current_exe()?;
    if Command::new("strace").arg("-V").output().is_ok() {
        let trace = path.with_extension("strace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-U", "calls,name", "-e", "trace=fsync,fdatasync", "-o"]).arg(&trace).arg(&us);
        child(&mut strace)?;
        let text = std::fs::read_to_string(&trace)?;
        let calls = |line: &str| {
            let mut words = line.split_whitespace();
            let (calls, name) = (words.next()?.parse::<f64>().ok()?, words.next()?);
            ["fsync", "fdatasync"].contains(&name).then_some(calls)
        };
        return Ok((text.lines().filter_map(calls).sum(), "by strace"));
    }
    let output = child(&mut Command::new(us))?;
    let commits = String::from_utf8(output.stdout)?.trim().parse().context("the child says how often it committed")?;
    Ok((commits, "by the store's own count of commits"))
}

/// What the child does: the work, then it prints its commits.
///
/// # Errors
/// The store at `path` does not work.
pub fn child(path: &Path, work: Work, n: usize) -> anyhow::Result<u64> {
    let path = path.to_owned();
    on_runtime(async move {
        let rig = Rig::sqlite(&path, Setup::default())?;
        match work {
            Work::RoundTrips => drop(round_trips(&rig.session().await?, n).await?),
            Work::Accepts => {
                let sessions = rig.sessions(SUBMITTERS).await?;
                for session in &sessions {
                    session.hold().await?;
                }
                let submit = |session| tokio::spawn(async move { accepts(&session, n).await.map(drop) });
                for task in sessions.into_iter().map(submit).collect::<Vec<_>>() {
                    task.await??;
                }
            }
        }
        Ok(rig.commits())
    })
}
