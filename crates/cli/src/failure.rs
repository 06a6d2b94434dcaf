//! How does the command say that it did not do what it was asked?
//!
//! `error: …` and `  try: …` on standard error, and an exit code from one table.

use crate::output;
use std::{fmt, io, process::ExitCode};
use windlass::{RejectReason, SessionError, StoreError, WaitError};
use windlass_client::ClientError;

/// The table of exit codes, as `--help` shows it.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 usage; 3 not found; 4 not authorised; 5 conflict; 6 rejected; 7 wait timed out; \
8 unreachable; 10 the awaited run failed; 70 the store was lost; 78 configuration, or a store of another version; \
130, 143 ended by a signal.";

/// What went wrong, for people and for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

/// The exit codes in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Unauthorised = 4,
    Conflict = 5,
    Rejected = 6,
    TimedOut = 7,
    Unreachable = 8,
    RunFailed = 10,
    StoreLost = 70,
    Config = 78,
    Interrupted = 130,
    Terminated = 143,
    /// Whoever read our output has heard enough.
    Done = 0,
}

impl Exit {
    /// The code that the library gives; 1 for one that is not in the table.
    pub(crate) fn of(code: u8) -> Exit {
        const ALL: [Exit; 14] = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::Unauthorised,
            Exit::Conflict,
            Exit::Rejected,
            Exit::TimedOut,
            Exit::Unreachable,
            Exit::RunFailed,
            Exit::StoreLost,
            Exit::Config,
            Exit::Interrupted,
            Exit::Terminated,
        ];
        ALL.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Failed)
    }
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Failure {
        Failure { exit, message: message.to_string(), hint: None }
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    pub(crate) fn not_found(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::NotFound, message)
    }

    pub(crate) fn config(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Config, message)
    }

    /// From a text of the library, `…; do this`: an error and its advice.
    pub(crate) fn told(exit: Exit, text: &str) -> Failure {
        with_hint(exit, text)
    }

    /// The exit code alone; what there was to say has been said.
    pub(crate) fn silent(exit: Exit) -> Failure {
        Failure::new(exit, "")
    }

    /// The same with something to try.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Failure {
        self.hint = Some(hint.to_string());
        self
    }

    /// The message and the advice.
    pub(crate) fn parts(&self) -> (&str, Option<&str>) {
        (&self.message, self.hint.as_deref())
    }

    /// Tells it.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            // Nothing can be done about a standard error that is closed.
            let _ = self.write(&mut anstream::stderr());
        }
        ExitCode::from(self.exit as u8)
    }

    fn write(&self, to: &mut impl io::Write) -> io::Result<()> {
        let (wrong, note) = (output::WRONG, output::NOTE);
        writeln!(to, "{wrong}error:{wrong:#} {}", self.message)?;
        match &self.hint {
            Some(hint) => writeln!(to, "  {note}try:{note:#} {hint}"),
            None => Ok(()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::silent(Exit::Done),
            _ => Failure::failed(error),
        }
    }
}

/// An error and its advice are one text in the library, `…; do this`; here they are two lines.
fn split(text: &str) -> (&str, Option<&str>) {
    text.rsplit_once("; ").map_or((text, None), |(message, hint)| (message, Some(hint)))
}

fn with_hint(exit: Exit, text: &str) -> Failure {
    let (message, hint) = split(text);
    let failure = Failure::new(exit, message);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let exit = match &error {
            // A file that is no store of ours at all: a wrong --dir, or damage from its first page on.
            StoreError::Corrupt { session: None, at: None, detail } => {
                return Failure::config(format!("{}: {detail}", error.code()))
                    .hint("another --dir, or restore a backup");
            }
            StoreError::Newer { .. } => Exit::Config,
            StoreError::Locked { .. } | StoreError::Fenced { .. } | StoreError::Conflict { .. } => Exit::Conflict,
            StoreError::Unavailable(_) => Exit::Unreachable,
            _ => Exit::Failed,
        };
        with_hint(exit, &error.to_string())
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        let exit = match error {
            SessionError::Store(error) => return error.into(),
            SessionError::NotFound(_) => Exit::NotFound,
            SessionError::Refused(_) => Exit::Conflict,
            SessionError::Draining => Exit::Unreachable,
            _ => Exit::Failed,
        };
        with_hint(exit, &error.to_string())
    }
}

impl From<WaitError> for Failure {
    fn from(error: WaitError) -> Failure {
        match error {
            WaitError::NoSuchInput => Failure::not_found(error),
            WaitError::Session(error) => error.into(),
        }
    }
}

impl From<RejectReason> for Failure {
    fn from(reason: RejectReason) -> Failure {
        with_hint(Exit::Rejected, &format!("{}: {reason}", reason.code()))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let exit = Exit::of(error.exit_code());
        let failure = with_hint(exit, &error.to_string());
        match (&error, exit) {
            (ClientError::Unreachable { .. }, _) => Failure::new(exit, format!("unreachable: {error}"))
                .hint("windlass serve, or another --url; windlass doctor"),
            (ClientError::WaitTimedOut { input, .. }, _) => {
                failure.hint(format!("windlass wait SESSION {input}: it goes on, and can be waited for again"))
            }
            (_, Exit::Unauthorised) if failure.hint.is_none() => {
                failure.hint("WINDLASS_TOKEN, --token-file or --profile; windlass token create makes one")
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_its_advice_another() {
        let newer = Failure::from(StoreError::Newer { found: 9, known: 1 });
        let mut text = anstream::StripStream::new(Vec::new());
        newer.write(&mut text).expect("memory takes every byte");
        let text = text.into_inner();
        let text = String::from_utf8(text).expect("text");
        assert_eq!(newer.exit, Exit::Config);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("error: store_newer: ") && lines[1].starts_with("  try: "), "{text}");
    }
}
