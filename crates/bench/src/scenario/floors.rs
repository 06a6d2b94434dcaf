//! What can the machine itself do? Shown for people; no targets.

use crate::{
    Bench,
    floor::{channel, disk},
    measure::on_runtime,
    report::Figure,
    scenario::{PROMPT, median},
};

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 2_000);
    let [trip, pipe, fan, sync] = bench.samples(|| {
        Ok([
            on_runtime(async move { Ok(median(channel::round_trips(n, PROMPT).await)) })?,
            on_runtime(async move { Ok(channel::pipelined(n, PROMPT).await) })?,
            on_runtime(async move { Ok(channel::fanned(n, PROMPT).await) })?,
            median(disk::appends(&bench.dir, bench.size(500, 100), 512)?),
        ])
    })?;
    Ok(vec![
        Figure::new("floors", "none", "mpsc + oneshot round trip", "us", &trip),
        Figure::new("floors", "none", format!("{n} messages to one task"), "1/s", &pipe),
        Figure::new("floors", "none", format!("one message to each of {n} tasks"), "1/s", &fan),
        Figure::new("floors", "none", "append 512 B + fdatasync", "us", &sync),
    ])
}
