//! How are lists handed out? Page by page, by a cursor that only the server reads.

use crate::Event;
use serde::{Deserialize, Serialize};

/// One page of a list. A page may be short, even empty, while there is a next one: go on until `next_cursor` is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// Where the next page begins: pass it as `cursor`, with the same other parameters. Absent: this was the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One page of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JournalPage {
    /// In order, without a gap.
    pub items: Vec<Event>,
    /// The position to pass as `after` for the next page. Absent: nothing was written after these yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}
