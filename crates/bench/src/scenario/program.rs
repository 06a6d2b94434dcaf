//! How large is the program that people get, and how soon does it serve?
//!
//! The real binary, built beside this one: started on an empty folder and on one that it has used before, against its own
//! `--version`, which is what the system takes to start it, and against syncs of the same disk.

use crate::{
    Bench,
    floor::disk,
    report::{Figure, Sample, Target},
    scenario::median,
};
use anyhow::Context as _;
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

/// Syncs that a start may take besides: on an empty folder, and on a store that is there.
const SYNCS: (f64, f64) = (12.0, 4.0);

/// From the start of the process until it says that it listens.
pub(super) fn start(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(15, 5);
    let folder = bench.dir.join("start");
    let [version, sync, empty, existing, floor_empty, floor_existing] = bench.samples(|| {
        let (mut alone, mut empty, mut existing) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..n {
            let start = Instant::now();
            let done = Command::new(&bench.program).arg("--version").stdout(Stdio::null()).status();
            anyhow::ensure!(done.with_context(|| missing(&bench.program))?.success(), "--version failed");
            alone.push(milliseconds(start));
            if folder.exists() {
                std::fs::remove_dir_all(&folder)?;
            }
            empty.push(until_ready(&bench.program, &folder)?);
            existing.push(until_ready(&bench.program, &folder)?);
        }
        let (alone, sync) = (median(alone), median(disk::appends(&bench.dir, bench.size(500, 100), 512)?) / 1e3);
        let floor = |syncs| 3.0 * alone + syncs * sync;
        Ok([alone, sync, median(empty), median(existing), floor(SYNCS.0), floor(SYNCS.1)])
    })?;
    let against = |syncs| format!("3 x --version + {syncs} syncs");
    Ok(vec![
        Figure::new("start", "sqlite", "until ready, on an empty folder", "ms", &empty)
            .against(against(SYNCS.0), &floor_empty)
            .must(Target::AtMost(1.0)),
        Figure::new("start", "sqlite", "until ready, on a store that is there", "ms", &existing)
            .against(against(SYNCS.1), &floor_existing)
            .must(Target::AtMost(1.0)),
        Figure::new("start", "none", "windlass --version", "ms", &version),
        Figure::new("start", "none", "append 512 B + fdatasync", "ms", &sync),
    ])
}

/// What a release build makes, without its symbols. `--program` names another, for example of the profile `dist`.
pub(super) fn size(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let stripped = bench.dir.join("windlass.stripped");
    let strip = Command::new("strip").arg("-o").args([&stripped, &bench.program]).status();
    let strip = strip.context("`strip` is not here; it comes with binutils")?;
    anyhow::ensure!(strip.success(), missing(&bench.program));
    let megabytes = std::fs::metadata(&stripped)?.len() as f64 / 1e6;
    std::fs::remove_file(&stripped)?;
    let sample = Sample(vec![megabytes]);
    Ok(vec![Figure::new("size", "none", "the program, stripped", "MB", &sample).must(Target::AtMost(30.0))])
}

fn missing(program: &Path) -> String {
    format!("{} cannot be used; `cargo xtask bench` builds it, --program names another", program.display())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Milliseconds until a server on this folder says where it listens. It is killed then.
fn until_ready(program: &Path, folder: &Path) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut command = Command::new(program);
    command.args(["serve", "--listen", "127.0.0.1:0", "--dir"]).arg(folder);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut server = Killed(child.with_context(|| missing(program))?);
    let stdout = server.0.stdout.take().context("its output is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let took = milliseconds(start);
    anyhow::ensure!(line.starts_with("listening on "), "it said {line:?} instead of where it listens");
    Ok(took)
}

/// Ends with this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // An error says that it has ended already.
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}
