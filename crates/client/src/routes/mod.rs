//! Which calls are there? One per route of the API, a file per subject.

mod control;
mod inputs;
mod operations;
mod policies;
mod runs;
mod server;
mod sessions;

pub use inputs::InputFilter;
pub use sessions::{SessionFilter, Tag};

use crate::http::Call;

/// Which page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// At most so many items, 500 at the most; the server's default if it is not said.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before; the first page if it is not said.
    pub cursor: Option<String>,
}

impl Paging {
    fn of<'c>(&self, call: Call<'c>) -> Call<'c> {
        call.query("limit", self.limit).query("cursor", self.cursor.as_deref())
    }
}
