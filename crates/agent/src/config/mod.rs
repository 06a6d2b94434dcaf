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
pub(crate) mod keys;
mod process;

pub use agents::{AgentDescription, AgentReport, Agents};
pub use http::HttpConfig;
pub use process::{ProcessConfig, ProcessMode};

use crate::{
    Egress, EgressRules, ProcessExecutor,
    llm::{LlmAgent, LlmConfig, LlmDeps},
};
use agents::Maker;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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
    /// A language model with tools.
    Llm(Box<LlmConfig>),
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
    /// `builtin`, `process`, `http`, `llm`.
    pub fn kind(&self) -> &'static str {
        match self {
            AgentConfig::Builtin(_) => "builtin",
            AgentConfig::Process(_) => "process",
            AgentConfig::Http(_) => "http",
            AgentConfig::Llm(_) => "llm",
        }
    }

    /// What it does, in a line without secrets.
    fn summary(&self) -> String {
        match self {
            AgentConfig::Builtin(_) => "answers offline".into(),
            AgentConfig::Process(process) => process.summary(),
            AgentConfig::Http(http) => http.summary(),
            AgentConfig::Llm(llm) => match &llm.tools.enabled[..] {
                [] => format!("asks {}", llm.model),
                tools => format!("asks {}, which may use {}", llm.model, tools.join(", ")),
            },
        }
    }

    /// What is wrong with it as it is written; keys, folders and servers are looked for when it is used.
    fn check(&self) -> Result<(), String> {
        match self {
            AgentConfig::Builtin(_) => Ok(()),
            AgentConfig::Llm(llm) => llm.check().map_err(|error| error.to_string()),
            AgentConfig::Process(process) => process.check(),
            AgentConfig::Http(http) => http.endpoint().map(drop),
        }
    }

    /// Whether the keys that it names are there.
    fn look_for_keys(&self) -> Result<(), String> {
        match self {
            AgentConfig::Builtin(_) => Ok(()),
            AgentConfig::Process(process) => process.keys().map(drop),
            AgentConfig::Http(http) => http.with_keys().map(drop),
            AgentConfig::Llm(llm) => {
                llm.key().map_err(|error| error.to_string())?;
                look_for_keys_of_mcp(llm)
            }
        }
    }

    /// What makes its executors.
    async fn maker(&self, deps: &LlmDeps) -> Result<Maker, String> {
        Ok(match self {
            AgentConfig::Builtin(_) => Maker::Builtin,
            AgentConfig::Process(process) => match process.mode {
                ProcessMode::Once => Maker::One(Arc::new(ProcessExecutor::new(process.program()?))),
                ProcessMode::Worker => Maker::One(Arc::new(process.worker()?)),
            },
            AgentConfig::Http(http) => Maker::Http(Arc::new(http.executor()?)),
            AgentConfig::Llm(llm) => {
                let mut deps = with_mcp(llm, deps.clone()).await?;
                let allow = &llm.tools.fetch_allow;
                let is_open = deps.egress.is_some() && allow.is_empty();
                if !is_open && llm.tools.enabled.iter().any(|tool| tool == "fetch") {
                    let egress = Egress::new(EgressRules { allow: allow.clone() });
                    deps.egress = Some(egress.map_err(|error| format!("there is no TLS here: {error}"))?);
                }
                let agent = LlmAgent::from_config(llm, deps).map_err(|error| error.to_string())?;
                Maker::Llm(Box::new(agent))
            }
        })
    }
}

/// What an agent is given, with the tools of its MCP servers.
#[cfg(feature = "mcp")]
async fn with_mcp(llm: &LlmConfig, mut deps: LlmDeps) -> Result<LlmDeps, String> {
    for (name, config) in &llm.tools.mcp {
        let server = crate::mcp::McpServer::new(name, config.clone());
        deps.tools.extend(server.tools().await.map_err(|error| error.to_string())?);
    }
    Ok(deps)
}

#[cfg(feature = "mcp")]
fn look_for_keys_of_mcp(llm: &LlmConfig) -> Result<(), String> {
    let lacks = |name: &str, problem| format!("tools.mcp.{name}: {problem}");
    llm.tools.mcp.iter().try_for_each(|(name, server)| server.look_for_keys().map_err(|problem| lacks(name, problem)))
}

#[cfg(not(feature = "mcp"))]
fn look_for_keys_of_mcp(_: &LlmConfig) -> Result<(), String> {
    Ok(())
}

/// What an agent is given: without the feature `mcp` there is nothing to add.
#[cfg(not(feature = "mcp"))]
fn with_mcp(_: &LlmConfig, deps: LlmDeps) -> std::future::Ready<Result<LlmDeps, String>> {
    std::future::ready(Ok(deps))
}
