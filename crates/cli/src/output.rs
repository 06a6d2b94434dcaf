//! How does data get to standard output?
//!
//! Data goes to standard output, messages to standard error. A closed pipe ends the command quietly.

use crate::failure::Failure;
use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;
use std::{
    fmt,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};
use windlass_client::api::Page;

/// What stands over columns.
const HEAD: Style = Style::new().bold();
/// What is as it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What deserves a look.
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub(crate) const WRONG: Style = AnsiColor::Red.on_default().bold();

/// What holds for all that a command tells.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Say nothing on standard error but errors
    #[arg(long, short, global = true, help_heading = "Output")]
    quiet: bool,
    /// Colour: auto is at a terminal that has not asked for none (NO_COLOR, CLICOLOR)
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, help_heading = "Output")]
    color: clap::ColorChoice,
}

/// Whether messages are left out. A process runs one command.
static QUIET: AtomicBool = AtomicBool::new(false);

impl Manner {
    /// From now on everything is told so.
    pub(crate) fn set(self) {
        QUIET.store(self.quiet, Ordering::Relaxed);
        match self.color {
            clap::ColorChoice::Auto => anstream::ColorChoice::Auto,
            clap::ColorChoice::Always => anstream::ColorChoice::Always,
            clap::ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// Whether people want to hear how it goes on.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether what goes to standard error is coloured.
pub(crate) fn colors_messages() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// How an answer is told.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Print one JSON document: --output json
    #[arg(long, conflicts_with = "output", help_heading = "Output")]
    json: bool,
    /// Print text for people, one JSON document, or one JSON document a line [default: text]
    #[arg(long, short, value_enum, value_name = "FORMAT", help_heading = "Output")]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
    Jsonl,
}

impl Format {
    fn output(self) -> Output {
        if self.json { Output::Json } else { self.output.unwrap_or(Output::Text) }
    }

    /// Whether people read it, and no program.
    pub(crate) fn is_text(self) -> bool {
        self.output() == Output::Text
    }

    /// Whether a program reads it, all at once.
    pub(crate) fn is_one_document(self) -> bool {
        self.output() == Output::Json
    }

    /// Tells something: as JSON with the names of the API, or to people in the words of `text`.
    pub(crate) fn tell<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self.output() {
            Output::Text => text(value),
            Output::Json => document(value),
            Output::Jsonl => item(value),
        }
    }

    /// Tells what something says, a field a line.
    pub(crate) fn fields(self, value: &impl Serialize) -> Result<(), Failure> {
        self.tell(value, fields)
    }

    /// Tells one item of a stream: never more than a line of JSON.
    pub(crate) fn item<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.is_text() { text(value) } else { item(value) }
    }

    /// Tells a page of a list, and people how to see the rest.
    pub(crate) fn page<T: Serialize, const N: usize>(
        self,
        page: &Page<T>,
        heads: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<(), Failure> {
        match self.output() {
            Output::Json => return document(page),
            Output::Jsonl => page.items.iter().try_for_each(item)?,
            Output::Text => table(heads, page.items.iter().map(row))?,
        }
        if let Some(cursor) = &page.next_cursor {
            note(format_args!("there is more: --cursor {cursor}"));
        }
        Ok(())
    }
}

/// Writes one line of data.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Writes one JSON document.
fn document(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(value).map_err(Failure::failed)?)
}

/// Writes one JSON document on one line.
fn item(value: &impl Serialize) -> Result<(), Failure> {
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
    if table.row_count() == 0 {
        return Ok(());
    }
    let mut lines = table.lines();
    if let Some(heads) = lines.next() {
        line(format_args!("{HEAD}{}{HEAD:#}", heads.trim_end()))?;
    }
    lines.try_for_each(|row| line(row.trim_end()))
}

/// Writes what a document says, a field a line; what it does not say is left out.
fn fields(value: &impl Serialize) -> Result<(), Failure> {
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

/// Tells people something, where they look, unless they asked for silence; nothing is lost if nobody looks.
pub(crate) fn note(text: impl fmt::Display) {
    if !is_quiet() {
        let _ = writeln!(anstream::stderr(), "{text}");
    }
}
