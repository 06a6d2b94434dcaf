//! How are the arguments written that several verbs take?

use crate::{completion, connection::Connection, failure::Failure, output::Format};
use serde::Serialize;
use std::time::Duration;
use windlass::InputId;
use windlass_client::{Client, Paging, api::Page};

/// A question to a server: to which one, and how the answer is told.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) format: Format,
}

impl Ask {
    /// Asks, and hears the whole answer.
    pub(crate) fn of<T, E: Into<Failure>>(
        &self,
        question: impl AsyncFnOnce(Client) -> Result<T, E>,
    ) -> Result<T, Failure> {
        let client = self.connection.client()?;
        block_on(async { question(client).await.map_err(Into::into) })
    }

    /// Asks, and tells what the answer says, a field a line.
    pub(crate) fn tell<T: Serialize, E: Into<Failure>>(
        &self,
        question: impl AsyncFnOnce(Client) -> Result<T, E>,
    ) -> Result<(), Failure> {
        self.format.fields(&self.of(question)?)
    }
}

/// A question about one session.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct OfSession {
    /// The session: its id or name
    #[arg(add = completion::sessions())]
    pub(crate) session: String,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// A question about one input.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct OfInput {
    /// The session: its id or name
    #[arg(add = completion::sessions())]
    pub(crate) session: String,
    /// The input's id
    #[arg(add = completion::inputs(), value_parser = input_id)]
    pub(crate) input: InputId,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// Which page of a list.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Paged {
    /// At most so many, 500 at the most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: Option<u32>,
    /// Go on where the page before ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

impl Paged {
    pub(crate) fn paging(&self) -> Paging {
        Paging { limit: self.limit, cursor: self.cursor.clone() }
    }
}

/// A question whose answer is a page of a list.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Listing {
    #[command(flatten)]
    page: Paged,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

impl Listing {
    /// Asks for the page, and tells it.
    pub(crate) fn tell<T: Serialize, E: Into<Failure>, const N: usize>(
        &self,
        question: impl AsyncFnOnce(Client, Paging) -> Result<Page<T>, E>,
        heads: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<(), Failure> {
        let page = self.ask.of(async |client| question(client, self.page.paging()).await)?;
        self.ask.format.page(&page, heads, row)
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

/// The id of an input.
pub(crate) fn input_id(text: &str) -> Result<InputId, String> {
    text.parse()
        .map_err(|_| "an input is named by its id, which `send` prints and `windlass inputs SESSION` lists".into())
}

/// `NAME=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Does what a verb is there for, to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
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
