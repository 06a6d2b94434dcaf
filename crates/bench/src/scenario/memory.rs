//! How fast is it when nothing is slow: on the memory store, against bare channels?

use crate::{
    Bench,
    floor::channel,
    measure::{on_runtime, per_second},
    report::{Figure, Target},
    rig::{Rig, Setup},
    scenario::{PROMPT, median, prompt},
};
use futures_util::{StreamExt as _, stream};
use std::time::Instant;
use windlass_runtime::SessionHandle;

/// One session, one input after the other, from accept to completion.
pub(super) fn rtt(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (early, late) = (400, bench.size(10_000, 4_000));
    let [floor, first, last, runs, commits] = bench.samples(|| {
        let floor = on_runtime(async move { Ok(median(channel::round_trips(late, PROMPT).await)) })?;
        let (times, runs, commits) = on_runtime(async move {
            let rig = Rig::memory(Setup::default());
            let session = rig.session().await?;
            let before = rig.commits();
            let times = round_trips(&session, late + 200).await?;
            Ok((times, rig.runs(), rig.commits() - before))
        })?;
        let around = |at: usize| median(times[at - 200..at + 200].to_vec());
        Ok([floor, around(early), around(late), runs as f64, commits as f64])
    })?;
    Ok(vec![
        Figure::new("rtt", "memory", format!("accept to completion, after {early}"), "us", &first)
            .against("mpsc + oneshot", &floor)
            .must(Target::AtMost(15.0)),
        Figure::new("rtt", "memory", format!("accept to completion, after {late}"), "us", &last)
            .against(format!("after {early}"), &first)
            .must(Target::AtMost(1.2)),
        Figure::count("rtt", "memory", "runs", &runs),
        Figure::count("rtt", "memory", "commits", &commits),
    ])
}

/// Microseconds of each of `n` round trips.
pub(super) async fn round_trips(session: &SessionHandle, n: usize) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(n);
    for _ in 0..n {
        let input = prompt();
        let start = Instant::now();
        let (_, completion) = session.accept_with_completion(input).await?;
        completion.expect("a new prompt has a completion to wait for").wait().await;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// Many inputs at once to one session, then all completions.
pub(super) fn pipe(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 2_000);
    at_once("pipe", bench, n, 1, 8.0)
}

/// One input to each of many sessions, then all completions.
pub(super) fn fan(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 2_000);
    at_once("fan", bench, n, n, 3.0)
}

fn at_once(name: &'static str, bench: &Bench, n: usize, sessions: usize, at_least: f64) -> anyhow::Result<Vec<Figure>> {
    let [floor, rate, runs, commits] = bench.samples(|| {
        let floor = on_runtime(async move {
            Ok(if sessions == 1 { channel::pipelined(n, PROMPT).await } else { channel::fanned(n, PROMPT).await })
        })?;
        let (rate, runs, commits) = on_runtime(async move {
            let rig = Rig::memory(Setup::default());
            let sessions = rig.sessions(sessions).await?;
            let inputs: Vec<_> = (0..n).map(|_| prompt()).collect();
            let before = rig.commits();
            let rate = per_second(n, async {
                let mut accepts = Vec::with_capacity(n);
                for (input, session) in inputs.into_iter().zip(sessions.iter().cycle()) {
                    accepts.push(session.accept_with_completion(input));
                }
                // As a surface does that takes many requests: it does not wait for one answer before the next.
                let mut accepted = stream::iter(accepts).buffered(1_024);
                let mut completions = Vec::with_capacity(n);
                while let Some(accepted) = accepted.next().await {
                    completions.push(accepted.expect("the session is open").1.expect("a new prompt waits for its end"));
                }
                for completion in completions {
                    completion.wait().await;
                }
            })
            .await;
            Ok((rate, rig.runs(), rig.commits() - before))
        })?;
        Ok([floor, rate, runs as f64, commits as f64])
    })?;
    let (what, floor_name) = match sessions {
        1 => (format!("{n} inputs to one session"), "messages to one task"),
        _ => (format!("one input to each of {n} sessions"), "messages over as many tasks"),
    };
    Ok(vec![
        Figure::new(name, "memory", what, "1/s", &rate)
            .against(floor_name, &floor)
            .must(Target::AtLeast(1.0 / at_least)),
        Figure::count(name, "memory", "runs", &runs),
        Figure::count(name, "memory", "commits", &commits),
    ])
}

/// Accept into a session in which many inputs wait.
pub(super) fn queued(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(1_000, 400);
    let mut figures = Vec::new();
    for depth in [0, 1_000, 10_000] {
        let [floor, accept, commits] = bench.samples(|| {
            let floor = on_runtime(async move { Ok(median(channel::round_trips(n, PROMPT).await)) })?;
            let (accept, commits) = on_runtime(async move {
                let rig = Rig::memory(Setup::default());
                let session = rig.session().await?;
                session.hold().await?;
                accepts(&session, depth).await?;
                let before = rig.commits();
                let times = accepts(&session, n).await?;
                anyhow::ensure!(rig.runs() == 0, "a held session runs nothing");
                Ok((median(times), rig.commits() - before))
            })?;
            Ok([floor, accept, commits as f64])
        })?;
        figures.push(
            Figure::new("queued", "memory", format!("accept with {depth} waiting"), "us", &accept)
                .against("mpsc + oneshot", &floor)
                .must(Target::AtMost(8.0)),
        );
        figures.push(Figure::count("queued", "memory", format!("commits with {depth} waiting"), &commits));
    }
    Ok(figures)
}

/// Microseconds of each of `n` accepts.
pub(super) async fn accepts(session: &SessionHandle, n: usize) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(n);
    for _ in 0..n {
        let input = prompt();
        let start = Instant::now();
        session.accept(input).await?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}
