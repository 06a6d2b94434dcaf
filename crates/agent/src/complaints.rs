//! What becomes of a program's standard error?
//!
//! It is logged line by line up to a limit, shown as progress, and its end is quoted in errors.

use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;
use windlass_core::JsonText;
use windlass_runtime::Turn;

/// Lines logged per run; what is beyond is counted.
const LOGGED_LINES: usize = 1000;
/// The end that errors quote, in bytes.
const TAIL: usize = 1024;

/// Lines logged in a minute, of a program that has no run.
const LOGGED_A_MINUTE: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);

/// So many lines in a minute are logged; those beyond it are counted.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    lines: usize,
}

impl Meter {
    pub(crate) fn new() -> Meter {
        Meter { began: Instant::now(), lines: 0 }
    }

    /// Takes a line: says whether to log it. `left_out` hears how many were not, in the minute that is over.
    pub(crate) fn admits(&mut self, left_out: impl FnOnce(usize)) -> bool {
        if self.began.elapsed() >= MINUTE {
            if let Some(more @ 1..) = self.lines.checked_sub(LOGGED_A_MINUTE) {
                left_out(more);
            }
            *self = Meter::new();
        }
        self.lines += 1;
        self.lines <= LOGGED_A_MINUTE
    }
}

/// What a program says on standard error during one run.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    lines: usize,
    tail: String,
}

#[derive(Serialize)]
struct Progress<'l> {
    stderr: &'l str,
}

impl Complaints {
    /// Takes a line: logs it, shows it to followers of the run, and keeps it for errors.
    pub(crate) fn hear(&mut self, turn: &Turn, line: &str) {
        self.lines += 1;
        if self.lines <= LOGGED_LINES {
            tracing::info!(target: "windlass::executor", session = %turn.session(), run = %turn.run(), "{line}");
        }
        if let Ok(progress) = JsonText::encode(&Progress { stderr: line }) {
            turn.progress(progress);
        }
        self.keep(line);
    }

    /// Keeps a line for errors, if it is among the last.
    pub(crate) fn keep(&mut self, line: &str) {
        if !self.tail.is_empty() {
            self.tail.push('\n');
        }
        self.tail.push_str(line);
        if let Some(over) = self.tail.len().checked_sub(TAIL) {
            self.tail.drain(..self.tail.ceil_char_boundary(over));
        }
    }

    /// The run is over: says how many lines were not logged.
    pub(crate) fn close(&self, turn: &Turn) {
        if let Some(more @ 1..) = self.lines.checked_sub(LOGGED_LINES) {
            tracing::info!(target: "windlass::executor", session = %turn.session(), run = %turn.run(), "{more} more lines");
        }
    }

    /// The words, and the end of what the program complained of.
    pub(crate) fn quoted(&self, words: &str) -> String {
        if self.tail.is_empty() { words.to_owned() } else { format!("{words}; it said: {}", self.tail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_without_a_run_is_logged_in_part_and_counted() {
        let mut meter = Meter::new();
        let admitted =
            |meter: &mut Meter| (0..1000).filter(|_| meter.admits(|_| unreachable!("no minute is over"))).count();
        assert_eq!(admitted(&mut meter), LOGGED_A_MINUTE);
        tokio::time::advance(MINUTE).await;
        let mut left_out = 0;
        assert!(meter.admits(|more| left_out = more));
        assert_eq!(left_out, 1000 - LOGGED_A_MINUTE);
        assert_eq!(admitted(&mut meter), LOGGED_A_MINUTE - 1);
    }

    #[test]
    fn the_end_of_what_it_complains_of_is_kept() {
        let mut complaints = Complaints::default();
        for _ in 0..1000 {
            complaints.keep("äöü");
        }
        complaints.keep("the reason");
        assert!(complaints.tail.len() <= TAIL && complaints.tail.ends_with("äöü\nthe reason"));
        assert!(complaints.quoted("x").starts_with("x; it said: "));
        assert_eq!(Complaints::default().quoted("x"), "x");
    }
}
