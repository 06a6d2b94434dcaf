//! How is a session made, changed and shown?

use crate::Time;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use windlass_core::{Gate, RunId, RuntimeState, SessionId};

/// A session to create. Repeating the request answers the same session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// Its id. Absent: made from the name, or new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SessionId>))]
    pub id: Option<SessionId>,
    /// Its name, from which its id is made: it may be used wherever the id may. Not with `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::SessionName>))]
    pub name: Option<String>,
    /// Who runs it: the name of an agent of the server. Absent: the default agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Name>))]
    pub agent: Option<String>,
    /// Your own marks, to find it by: at most 64, names of 1 to 64 bytes, values of at most 256.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Labels, required = false))]
    pub labels: BTreeMap<String, String>,
    /// Peer requests with these intents start no runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::schema::Word>, max_items = 256, required = false))]
    pub silent_intents: Vec<String>,
    /// Whether its peers are heard while it has no executor.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = false))]
    pub keep_alive: bool,
    /// The policy that decides what becomes of its inputs: a name, or `name@version`. Absent: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::PolicyRef>))]
    pub policy: Option<String>,
}

/// What is to be different about a session. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateSession {
    /// All its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Labels>))]
    pub labels: Option<BTreeMap<String, String>>,
    /// All its silent intents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::schema::Word>>, max_items = 256))]
    pub silent_intents: Option<Vec<String>>,
    /// Whether its peers are heard while it has no executor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<bool>,
    /// Its policy; `null` for the built-in one. Holds for what is admitted from now on.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::PolicyRef>))]
    pub policy: Option<Option<String>>,
}

/// Tells `null` from absent.
#[expect(clippy::option_option, reason = "absent, null and a name are three things")]
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A session at one glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionView {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SessionId))]
    pub id: SessionId,
    /// The name that its id was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Peer requests with these intents start no runs. Left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_intents: Option<Vec<String>>,
    /// Whether its peers are heard while it has no executor.
    #[serde(default)]
    pub keep_alive: bool,
    /// Its policy, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What it is doing. Lists do not open sessions: there, one that has nothing to do is `idle`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RuntimeState))]
    pub state: RuntimeState,
    /// Whether it takes inputs.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Gate))]
    pub gate: Gate,
    /// Whether waiting inputs are kept but not run.
    pub held: bool,
    /// The run that is on or suspended. Left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::RunId>))]
    pub run: Option<RunId>,
    /// Inputs that are not over.
    pub open_inputs: u32,
    /// Whether there is something to do now.
    pub pending: bool,
    /// When there is something to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Time>,
    /// The last position of its journal.
    pub head: u64,
    /// When it was created.
    pub created_at: Time,
    /// When its last entry was written.
    pub updated_at: Time,
}
