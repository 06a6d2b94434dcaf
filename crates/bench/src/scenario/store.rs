//! What does the store cost by itself: appends of accepted inputs, with no runtime before it? Shown for people.

use crate::{
    Bench,
    floor::sqlite,
    measure::on_runtime,
    report::Figure,
    scenario::{core::Driver, median, prompt},
};
use std::{sync::Arc, time::Instant};
use windlass_runtime::store::Store;
use windlass_sqlite::{SqliteOptions, SqliteStore};

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (submitters, each) in [(1, bench.size(1_000, 200)), (64, bench.size(500, 50))] {
        let (from, to) = (bench.dir.join("store.db"), bench.dir.join("floor.db"));
        let [floor, rate, floor_time, time] = bench.samples(|| {
            let path = from.clone();
            let (times, took) = on_runtime(async move {
                sqlite::remove(&path)?;
                let store = Arc::new(SqliteStore::open(&path, SqliteOptions::default())?);
                let mut drivers = Vec::new();
                for _ in 0..submitters {
                    let driver = Driver::holding(0);
                    let fence = store.open(driver.session.id()).await?.fence;
                    store.append(driver.append(fence, driver.journal.clone())).await?;
                    drivers.push((driver, fence));
                }
                let start = Instant::now();
                let submit = |(mut driver, fence): (Driver, _)| {
                    let store = store.clone();
                    tokio::spawn(async move {
                        let mut times = Vec::with_capacity(each);
                        for _ in 0..each {
                            let start = Instant::now();
                            let step = driver.accept(prompt());
                            store.append(driver.append(fence, step)).await?;
                            times.push(start.elapsed().as_secs_f64() * 1e6);
                        }
                        anyhow::Ok(times)
                    })
                };
                let mut times = Vec::new();
                for task in drivers.into_iter().map(submit).collect::<Vec<_>>() {
                    times.extend(task.await??);
                }
                Ok((times, start.elapsed().as_secs_f64()))
            })?;
            let rows = sqlite::read_back(&from, |body| body.contains("\"input_accepted\""))?;
            let to = to.clone();
            let (floor_times, floor) =
                on_runtime(async move { sqlite::Writer::start(&to)?.submit(rows, submitters).await })?;
            let n = (submitters * each) as f64;
            Ok([n / floor, n / took, median(floor_times), median(times)])
        })?;
        let metric = |what| format!("{what}, {submitters} submitters");
        figures.push(
            Figure::new("store", "sqlite", metric("accepts"), "1/s", &rate).against("bare SQLite writer", &floor),
        );
        figures.push(
            Figure::new("store", "sqlite", metric("accept"), "us", &time).against("bare SQLite writer", &floor_time),
        );
    }
    Ok(figures)
}
