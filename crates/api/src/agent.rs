//! Which agents does the server have?

use serde::{Deserialize, Serialize};

/// An agent that sessions may be created with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// What it is: `builtin`, `process`, `openai`, …
    pub kind: String,
    /// Whether sessions without an agent of their own get it.
    pub default: bool,
    /// What else is to be said of it, in a sentence without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What a try of an agent came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentTest {
    /// The agent.
    pub name: String,
    /// Whether it can be used.
    pub ok: bool,
    /// What it said, or what is wrong.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}
