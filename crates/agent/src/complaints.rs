//! What becomes of a program's standard error?
//!
//! It is logged line by line up to a limit, shown as progress, and its end is quoted in errors.

use crate::secrets::given::hidden;
use secrecy::SecretString;
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

/// Logs so many lines in a minute, and counts those beyond them.
pub(crate) struct Meter<L: Fn(&str)> {
    log: L,
    began: Instant,
    lines: usize,
}

impl<L: Fn(&str)> Meter<L> {
    pub(crate) fn new(log: L) -> Meter<L> {
        Meter { log, began: Instant::now(), lines: 0 }
    }

    /// Takes a line.
    pub(crate) fn hear(&mut self, line: &str) {
        if self.began.elapsed() >= MINUTE {
            self.close();
            (self.began, self.lines) = (Instant::now(), 0);
        }
        self.lines += 1;
        if self.lines <= LOGGED_A_MINUTE {
            (self.log)(line);
        }
    }

    /// The minute is over: says how many lines were not logged.
    fn close(&self) {
        if let Some(more @ 1..) = self.lines.checked_sub(LOGGED_A_MINUTE) {
            (self.log)(&format!("{more} more lines"));
        }
    }
}

impl<L: Fn(&str)> Drop for Meter<L> {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a program says on standard error during one run.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    secrets: Vec<SecretString>,
    lines: usize,
    tail: String,
}

#[derive(Serialize)]
struct Progress<'l> {
    stderr: &'l str,
}

impl Complaints {
    /// Those of a program that was given these secrets, which are hidden.
    pub(crate) fn of(secrets: Vec<SecretString>) -> Complaints {
        Complaints { secrets, ..Complaints::default() }
    }

    /// Takes a line: logs it, shows it to followers of the run, and keeps it for errors.
    pub(crate) fn hear(&mut self, turn: &Turn, line: &str) {
        let line = hidden(line, &self.secrets);
        self.lines += 1;
        if self.lines <= LOGGED_LINES {
            tracing::info!(target: "windlass::executor", session = %turn.session(), run = %turn.run(), "{line}");
        }
        if let Ok(progress) = JsonText::encode(&Progress { stderr: &line }) {
            turn.progress(progress);
        }
        self.keep(&line);
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
    use std::sync::Mutex;

    #[tokio::test(start_paused = true)]
    async fn a_flood_without_a_run_is_logged_in_part_and_counted() {
        let logged = Mutex::new(Vec::new());
        let mut meter = Meter::new(|line| logged.lock().expect("nobody panics").push(line.to_owned()));
        for _ in 0..1000 {
            meter.hear("x");
        }
        assert_eq!(logged.lock().expect("nobody panics").len(), LOGGED_A_MINUTE);
        tokio::time::advance(MINUTE).await;
        for _ in 0..=LOGGED_A_MINUTE {
            meter.hear("y");
        }
        drop(meter);
        let logged = logged.into_inner().expect("nobody panics");
        let counts: Vec<&String> = logged.iter().filter(|line| line.len() > 1).collect();
        assert_eq!(counts, ["900 more lines", "1 more lines"]);
        assert_eq!(logged.len(), 2 * LOGGED_A_MINUTE + 2);
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
