//! What becomes of a program's standard error?
//!
//! It is logged line by line up to a limit, shown as progress, and its end is quoted in errors.

use serde::Serialize;
use windlass_core::JsonText;
use windlass_runtime::Turn;

/// Lines logged per run; what is beyond is counted.
const LOGGED_LINES: usize = 1000;
/// The end that errors quote, in bytes.
const TAIL: usize = 1024;

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
