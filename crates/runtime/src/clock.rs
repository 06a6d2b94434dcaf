//! What time is it, and how can a test say so?

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;
use windlass_core::Timestamp;

/// The wall clock that the runtime stamps records with. Waiting is tokio's business.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A clock that tests set: moves with tokio's time (so a paused runtime drives it), and jumps where it is told to.
#[derive(Debug)]
pub struct ManualClock {
    epoch: Instant,
    offset: AtomicI64,
}

impl ManualClock {
    /// Starts at `at`, moving with tokio's time from now on.
    pub fn starting_at(at: Timestamp) -> ManualClock {
        ManualClock { epoch: Instant::now(), offset: AtomicI64::new(at.as_micros()) }
    }

    /// Moves the wall clock, without any waiting becoming shorter. May go back.
    pub fn jump(&self, micros: i64) {
        self.offset.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let passed = Instant::now().duration_since(self.epoch);
        Timestamp::from_micros(self.offset.load(Ordering::Relaxed)) + passed
    }
}
