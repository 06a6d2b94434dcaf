//! How is an entry of a journal shown at a terminal?
//!
//! In the notation of the scenario files, with the moment before it, and after an input the beginning of what it says.

use windlass::{Entry, Outcome, Record, Timestamp, agent::transcript::said, notation};

/// The most of a text that is shown on its line, in characters.
const EXCERPT: usize = 60;

/// Ids as they are, moments as people write them.
struct Readable;

impl notation::Names for Readable {
    fn moment(&self, at: Timestamp) -> String {
        moment(at)
    }
}

/// The entry on one line.
pub(crate) fn entry(entry: &Entry) -> String {
    let line = format!("{} {}", moment(entry.at), notation::entry(entry, &Readable));
    match &entry.record {
        Record::InputAccepted(accepted) => format!("{line} {}", excerpt(&said(&accepted.input))),
        _ => line,
    }
}

/// How an input ended, on one line.
pub(crate) fn end(outcome: &Outcome) -> String {
    notation::outcome(outcome, &Readable)
}

/// The text in quotes, on one line, cut if long.
fn excerpt(text: &str) -> String {
    let cut: String = text.chars().take(EXCERPT).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{:?}", format!("{cut}{more}"))
}

/// The moment as RFC 3339 in UTC, to the microsecond.
pub(crate) fn moment(at: Timestamp) -> String {
    let micros = at.as_micros();
    let seconds = micros.div_euclid(1_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The civil calendar in eras of 400 years that begin in March, so that leap days are last (Hinnant, "chrono-
    // Compatible Low-Level Date Algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", micros.rem_euclid(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_people_write_them() {
        for (micros, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_827_696_789_012, "2000-02-29T12:34:56.789012Z"),
            (1_795_000_000_000_001, "2026-11-18T11:06:40.000001Z"),
            (4_102_444_799_999_999, "2099-12-31T23:59:59.999999Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(moment(Timestamp::from_micros(micros)), expected);
        }
    }

    #[test]
    fn long_texts_are_cut_and_stay_on_their_line() {
        assert_eq!(excerpt("two\nlines"), r#""two\nlines""#);
        assert_eq!(excerpt(&"ä".repeat(100)).chars().count(), EXCERPT + 3);
    }
}
