//! How are agents declared in a configuration file, and what is wrong with a declaration?
//!
//! ```
//! use std::collections::BTreeMap;
//! use windlass_agent::config::{AgentConfig, Agents};
//!
//! let agents: BTreeMap<String, AgentConfig> = toml::from_str(r#"
//!     [words]
//!     kind = "process"
//!     mode = "worker"
//!     command = ["python3", "examples/agents/python/worker.py"]
//!
//!     [hook]
//!     kind = "http"
//!     url = "https://agents.example.com/run"
//!     secret_env = "HOOK_SECRET"
//! "#)?;
//! let agents = Agents::new(agents)?;
//! assert_eq!(agents.names(), ["builtin", "hook", "words"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod agents;
mod http;
mod keys;
mod process;

pub use agents::{AgentDescription, AgentReport, Agents};
pub use http::HttpConfig;
pub use process::{ProcessConfig, ProcessMode};

use crate::ProcessExecutor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use windlass_runtime::CoreExecutor;

/// An agent, as `[agents.NAME]` declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AgentConfig {
    /// The built-in agent, which answers offline.
    Builtin(BuiltinConfig),
    /// A program: one execution per run, or a few long-lived processes.
    Process(ProcessConfig),
    /// An endpoint.
    Http(HttpConfig),
}

/// The built-in agent has no settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltinConfig {}

/// What is wrong with a declaration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("agents.{agent}: {problem}")]
pub struct AgentInvalid {
    /// The agent's name.
    pub agent: String,
    /// Which setting, what about it, and what would be right.
    pub problem: String,
}

impl AgentConfig {
    /// `builtin`, `process`, `http`.
    pub fn kind(&self) -> &'static str {
        match self {
            AgentConfig::Builtin(_) => "builtin",
            AgentConfig::Process(_) => "process",
            AgentConfig::Http(_) => "http",
        }
    }

    /// What it does, in a line without secrets.
    fn summary(&self) -> String {
        match self {
            AgentConfig::Builtin(_) => "answers offline".into(),
            AgentConfig::Process(process) => process.summary(),
            AgentConfig::Http(http) => http.summary(),
        }
    }

    /// What is wrong with it as it is written; keys are looked for when it is used.
    fn check(&self) -> Result<(), String> {
        match self {
            AgentConfig::Builtin(_) => Ok(()),
            AgentConfig::Process(process) => process.check(),
            AgentConfig::Http(http) => http.endpoint().map(drop),
        }
    }

    /// Its executor, for all its sessions; none for the built-in agent, which has one for each.
    fn executor(&self) -> Result<Option<Arc<dyn CoreExecutor>>, String> {
        Ok(match self {
            AgentConfig::Builtin(_) => None,
            AgentConfig::Process(process) => Some(match process.mode {
                ProcessMode::Once => Arc::new(ProcessExecutor::new(process.program()?)),
                ProcessMode::Worker => Arc::new(process.worker()?),
            }),
            AgentConfig::Http(http) => Some(Arc::new(http.executor()?)),
        })
    }
}
