//! How does a moment look on the wire? RFC 3339, UTC, to the microsecond.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr};
use windlass_core::Timestamp;

/// A moment.
///
/// ```
/// use windlass_api::Time;
/// let time: Time = "2026-11-22T10:00:00.5Z".parse().unwrap();
/// assert_eq!(time.to_string(), "2026-11-22T10:00:00.5Z");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Timestamp);

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Time {
        Time(at)
    }
}

impl From<Time> for Timestamp {
    fn from(time: Time) -> Timestamp {
        time.0
    }
}

impl fmt::Display for Time {
    /// Moments beyond what a calendar can say are shown as its first or last one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let last = if micros < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        jiff::Timestamp::from_microsecond(micros).unwrap_or(last).fmt(f)
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Time, jiff::Error> {
        let at: jiff::Timestamp = text.parse()?;
        Ok(Time(Timestamp::from_micros(at.as_microsecond())))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom("expected a moment as in 2026-11-22T10:00:00Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_reads_back_as_written_also_at_the_ends_of_time() {
        for micros in [0, 1, 1_700_000_000_123_456, -1] {
            let time = Time(Timestamp::from_micros(micros));
            let json = serde_json::to_string(&time).unwrap();
            assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), time, "{json}");
        }
        for micros in [i64::MAX, i64::MIN] {
            let json = serde_json::to_string(&Time(Timestamp::from_micros(micros))).unwrap();
            assert!(serde_json::from_str::<Time>(&json).is_ok(), "{json}");
        }
    }
}
