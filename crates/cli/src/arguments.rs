//! How are the arguments written that several verbs take?

use crate::failure::Failure;
use std::time::Duration;
use windlass_client::Paging;

/// Which page of a list.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Page {
    /// At most so many, 500 at the most
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Go on where the page before ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

impl Page {
    pub(crate) fn paging(&self) -> Paging {
        Paging { limit: self.limit, cursor: self.cursor.clone() }
    }
}

/// Tells people how to see the rest of a list.
pub(crate) fn more(next_cursor: Option<&String>) {
    if let Some(cursor) = next_cursor {
        crate::output::note(format!("there is more: --cursor {cursor}"));
    }
}

/// A time as people write it: `30`, `30s`, `1.5m`, `2h`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is wanted, for example 30s, 500ms, 5m or 1h".into()),
    };
    let seconds = number.parse::<f64>().map_err(|_| "a time is wanted, for example 30s or 5m")? * unit;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// `NAME=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Does what a verb asks of a server, to its end.
pub(crate) fn ask<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, millis) in [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("1.5m", 90_000), ("2h", 7_200_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "5 minutes", "-1", "1d", "1e999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
