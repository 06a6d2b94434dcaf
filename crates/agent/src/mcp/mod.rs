//! How does a model use the tools of MCP servers, and what if they die or lie?
//!
//! A server is a program that speaks over its standard input and output, or an endpoint. Its tools become
//! [`Tool`](crate::tools::Tool)s named `SERVER__TOOL`.
//!
//! | what a server does | what becomes of it |
//! |---|---|
//! | does not start, or does not answer in time | the agent is not ready; asked again at its next use |
//! | offers a tool without a usable name or schema (one that refers to itself, or unfolds without end), or too many | that tool is left out, and logged |
//! | dies, or ends our session | started or reached again at the next call, at most once a second |
//! | dies in the middle of a call | a call that may be repeated is repeated once; of another one nobody knows whether it took effect, and the model is told so |
//! | offers something else after that | calls of tools whose schema, description or effect has changed are refused: the model was told something different |
//! | answers what its own schema forbids, or too much | an error for the model; what is too long is cut |
//! | never answers | the call ends with its time |
//!
//! Hints: `readOnlyHint` is [`Effect::ReadOnly`](crate::tools::Effect), `idempotentHint` is `Idempotent`, all else is `Once`.
//! A tool that claims to be read-only and destructive is not believed. Hints are claims: `trust_hints = false` believes none.

mod schema;
mod server;
mod tool;

pub use server::{McpServer, McpUnavailable};

use crate::{
    config::keys::{either, handed_on},
    egress::AllowedHost,
    sandbox::Sandbox,
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// An MCP server, as a configuration file declares it: either `command` or `url`.
///
/// ```
/// let server: windlass_agent::mcp::McpConfig = toml::from_str(r#"command = ["uvx", "mcp-server-time"]"#)?;
/// assert_eq!(server.timeout_seconds, 60);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpConfig {
    /// The program and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// Where it runs. Default: where Windlass runs.
    pub dir: Option<PathBuf>,
    /// Variables set for it. It sees no others, but for the usual harmless ones.
    pub env: BTreeMap<String, String>,
    /// Names of variables handed on to it; where `NAME` is not set, the content of the file that `NAME_FILE` names.
    pub env_from: Vec<String>,
    /// What the program may do. Default: what its user may; it dies with Windlass.
    pub sandbox: Sandbox,
    /// The endpoint: https to a public address, unless `allow` says otherwise.
    pub url: Option<String>,
    /// The variable that holds the token sent as `Authorization: Bearer`; or the file that `NAME_FILE` names.
    pub token_env: Option<String>,
    /// The file that holds it.
    pub token_file: Option<PathBuf>,
    /// Hosts that may be reached although they are not public, or over http.
    pub allow: Vec<AllowedHost>,
    /// Which of its tools are offered. Default: all.
    pub tools: Vec<String>,
    /// How long a call may take, in seconds.
    pub timeout_seconds: u64,
    /// Whether what a tool says of its effects is believed.
    pub trust_hints: bool,
}

impl McpConfig {
    /// Whether the keys that it names are there.
    pub(crate) fn look_for_keys(&self) -> Result<(), String> {
        handed_on(&self.env_from)?;
        self.token().map(drop)
    }

    /// What is shown to the endpoint.
    pub(crate) fn token(&self) -> Result<Option<SecretString>, String> {
        either(self.token_env.as_deref(), self.token_file.as_deref(), "token")
    }
}

impl Default for McpConfig {
    fn default() -> McpConfig {
        McpConfig {
            command: Vec::new(),
            dir: None,
            env: BTreeMap::new(),
            env_from: Vec::new(),
            sandbox: Sandbox::default(),
            url: None,
            token_env: None,
            token_file: None,
            allow: Vec::new(),
            tools: Vec::new(),
            timeout_seconds: 60,
            trust_hints: true,
        }
    }
}
