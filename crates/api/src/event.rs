//! What does somebody see who follows a session?

use crate::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_core::{Entry, RunId, SessionId};

/// An entry of a session's journal: one event of a stream, one line of a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// The session.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// Its position: dense, from 1.
    pub seq: u64,
    /// When it was decided.
    pub at: Time,
    /// The name of the record, for example `run_started`. Also the name of the server-sent event.
    #[serde(rename = "type")]
    pub name: String,
    /// The record as it stands in the journal, an object whose one member is named as `type` says. Moments within it
    /// are microseconds since the Unix epoch.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub record: Value,
}

impl Event {
    /// The entry of this session.
    ///
    /// # Errors
    /// If the record cannot be written as JSON, which none is known to do.
    pub fn of(session: SessionId, entry: &Entry) -> serde_json::Result<Event> {
        Ok(Event {
            session,
            seq: entry.seq.0,
            at: entry.at.into(),
            name: entry.record.name().to_owned(),
            record: serde_json::to_value(&entry.record)?,
        })
    }
}

/// Live progress of a run: the event `progress`. Recorded nowhere, shown once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Progress {
    /// The session.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// Always true: this is no entry of the journal.
    pub live: bool,
    /// The run.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RunId))]
    pub run: RunId,
    /// What its executor shows.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub delta: Value,
}

/// Live progress was missed, because this stream was too slow for it: the event `lagged`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lagged {
    /// The session.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// How many pieces of progress, at most. Entries are never missed.
    pub missed: u64,
}

/// Entries are no longer kept: the event `gap`. The stream goes on with the oldest that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gap {
    /// The session.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub session: SessionId,
    /// Everything after this position was asked for.
    pub after: u64,
    /// The oldest position that is kept.
    pub oldest: u64,
}

/// The stream ends in good order: the event `end`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ended {
    /// The session that was deleted, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SessionId>))]
    pub session: Option<SessionId>,
    /// Why: `deleted`, `draining` (connect again), `auth_expired`.
    pub reason: String,
}
