//! How is a number taken?

use std::{future::Future, time::Instant};

/// Runs `work` in a task of a fresh runtime: multi-threaded, two workers. Floors and figures alike run here, as tasks,
/// so that none of them is woken across the thread that blocks.
///
/// # Errors
/// Whatever `work` returns.
pub fn on_runtime<T: Send + 'static>(
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async { tokio::spawn(work).await.expect("a measurement neither panics nor is cancelled") })
}

/// What `work` came to, and the microseconds it took.
pub async fn micros<T>(work: impl Future<Output = T>) -> (f64, T) {
    let start = Instant::now();
    let value = work.await;
    (start.elapsed().as_secs_f64() * 1e6, value)
}

/// How many of `n` things are done per second when `work` does them all.
pub async fn per_second(n: usize, work: impl Future<Output = ()>) -> f64 {
    let (took, ()) = micros(work).await;
    n as f64 / (took / 1e6)
}
