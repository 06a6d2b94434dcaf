//! What is a moment to a machine that has no clock? A number the shell hands in.

use serde::{Deserialize, Serialize};
use std::{fmt, ops::Add, time::Duration};

/// A moment, in microseconds since the Unix epoch.
///
/// The core never asks for one: every [`Session::step`](crate::Session::step) is told `now`. Within a session
/// time never goes back, whatever the wall clock does (`now` is clamped to the latest moment seen).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const ZERO: Timestamp = Timestamp(0);

    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, never negative: what a UUIDv7 carries.
    pub const fn as_millis(self) -> u64 {
        if self.0 < 0 { 0 } else { self.0 as u64 / 1_000 }
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        if micros <= 0 { Duration::ZERO } else { Duration::from_micros(micros as u64) }
    }
}

/// Saturates at the end of time, so that no delay, however absurd, wraps into the past.
impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, delay: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_an_absurd_delay_saturates() {
        assert_eq!(Timestamp::from_micros(5) + Duration::MAX, Timestamp::from_micros(i64::MAX));
    }

    #[test]
    fn since_a_later_moment_is_zero() {
        assert_eq!(Timestamp::ZERO.since(Timestamp::from_micros(9)), Duration::ZERO);
    }
}
