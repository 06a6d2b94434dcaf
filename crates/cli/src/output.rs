//! How does data get to standard output?
//!
//! Data goes to standard output, messages to standard error. A closed pipe ends the command quietly.

use crate::failure::Failure;
use serde::Serialize;
use std::{fmt, io::Write};

/// Writes one line of data.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Writes one JSON document.
pub(crate) fn document(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    line(text)
}

/// Tells people something, where they look; nothing is lost if nobody does.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}
