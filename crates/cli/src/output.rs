//! How does data get to standard output?
//!
//! Data goes to standard output, messages to standard error. A closed pipe ends the command quietly.

use crate::failure::Failure;
use comfy_table::{Table, presets::NOTHING};
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

/// Writes one JSON document on one line: an item of a stream.
pub(crate) fn item(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string(value).map_err(Failure::failed)?)
}

/// Writes rows under their heads, aligned by spaces; nothing at all if there are no rows.
pub(crate) fn table<const N: usize>(
    heads: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heads.map(str::to_uppercase)).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    match table.row_count() {
        0 => Ok(()),
        _ => table.lines().try_for_each(|row| line(row.trim_end())),
    }
}

/// Writes what a document says, a field a line; what it does not say is left out.
pub(crate) fn fields(value: &impl Serialize) -> Result<(), Failure> {
    let value = serde_json::to_value(value).map_err(Failure::failed)?;
    for (name, value) in value.as_object().into_iter().flatten() {
        let nothing =
            value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !value.is_null() && !nothing {
            line(format_args!("{name}: {}", plain(value)))?;
        }
    }
    Ok(())
}

/// A value as people read it: texts without quotes.
pub(crate) fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A word of the API, as it is written there.
pub(crate) fn word(value: &impl Serialize) -> String {
    plain(&serde_json::to_value(value).unwrap_or_default())
}

/// Writes a text of several lines as it is.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Tells people something, where they look; nothing is lost if nobody does.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}
