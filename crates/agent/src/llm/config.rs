//! What can be said of an LLM agent in a configuration file?

use super::{client::address, structured::Shape};
use crate::{
    AllowedHost,
    config::keys,
    sandbox::{Profile, Sandbox},
    tools::toolbox::BUILT_IN,
};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// An agent that asks a language model and lets it use tools.
///
/// ```
/// let agent: windlass_agent::llm::LlmConfig = toml::from_str(r#"
///     dialect = "openai"
///     base_url = "http://127.0.0.1:11434/v1"
///     model = "qwen3"
///     system = "You keep a small garden."
///     tools.enabled = ["read_file", "list_files", "ask_human"]
///     tools.workspace = "/srv/garden"
///     budget.steps = 20
/// "#).unwrap();
/// assert_eq!(agent.model, "qwen3");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmConfig {
    /// The wire format that the provider speaks.
    pub dialect: DialectName,
    /// Where the provider is. For OpenAI's dialect it ends in `/v1` as a rule, for Anthropic's it does not. Default: the
    /// vendor's own address.
    #[serde(default)]
    pub base_url: Option<String>,
    /// The model's name, as the provider knows it.
    pub model: String,
    /// The environment variable that holds the key; where it is not set, the file that `NAME_FILE` names. Without this
    /// and `api_key_file`, no key is sent.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// The file that holds the key; white space around it does not count.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// Headers sent with each request; they replace ours of the same name. They are shown wherever the configuration is:
    /// a secret belongs into `api_key_env` or `api_key_file`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What the model is told before all else.
    #[serde(default)]
    pub system: Option<String>,
    /// The most tokens of one answer. Anthropic's dialect needs a number: 8,192 unless told.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// How freely the model chooses its words.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Further members of the request, sent as they are; they replace ours of the same name.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// The JSON schema that the last answer of a run obeys. What does not obey is sent back for repair.
    #[serde(default)]
    pub schema: Option<Value>,
    /// How often a run sends back an answer that does not obey the schema.
    #[serde(default = "two")]
    pub schema_repairs: u32,
    /// What the model may do.
    #[serde(default)]
    pub tools: ToolsConfig,
    /// After how much the agent asks whether to go on.
    #[serde(default)]
    pub budget: Budget,
    /// How long is waited for the provider, and how often.
    #[serde(default)]
    pub limits: CallLimits,
    /// When old messages are replaced by a summary. Default: never.
    #[serde(default)]
    pub compaction: Option<Compaction>,
    /// What tokens cost, for the budget.
    #[serde(default)]
    pub price: Option<Price>,
}

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialectName {
    /// Chat completions: `POST {base_url}/chat/completions`. OpenAI, Ollama, llama.cpp, vLLM and most gateways.
    #[serde(alias = "openai-chat")]
    Openai,
    /// Messages: `POST {base_url}/v1/messages`. Anthropic, Ollama, llama.cpp and some gateways.
    #[serde(alias = "anthropic-messages")]
    Anthropic,
}

/// What the model may do, and within which bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolsConfig {
    /// Names of built-in tools: `shell`, `read_file`, `write_file`, `list_files`, `fetch`, `job_start`, `job_status`,
    /// `job_cancel`, `ask_human`, `send_peer`.
    pub enabled: Vec<String>,
    /// The folder that files are read from and written to, and programs run in. Needed by tools that touch files.
    pub workspace: Option<PathBuf>,
    /// Tools of which each call is approved by a person first.
    pub approve: Vec<String>,
    /// What is done about a call of which a crash hides whether it took effect.
    pub on_ambiguous: OnAmbiguous,
    /// Variables of our environment that programs see, beside the usual harmless ones.
    pub env: Vec<String>,
    /// The most calls that one answer may make. The model is told of those that were not made.
    pub calls_per_answer: usize,
    /// The most bytes of a result that the model is shown.
    pub output_limit: usize,
    /// Hosts that `fetch` may reach although they are not public, or over http: `wiki.internal`, `localhost:8080`.
    pub fetch_allow: Vec<AllowedHost>,
    /// How long a program or a fetch may take, in seconds.
    pub timeout_s: u64,
    /// What programs may do that the model starts (`shell`, `job_start`). Default: the profile `workspace`.
    pub sandbox: Sandbox,
    /// MCP servers whose tools the model may use too, by name. Their tools are called `NAME__TOOL`.
    #[cfg(feature = "mcp")]
    pub mcp: BTreeMap<String, crate::mcp::McpConfig>,
}

impl Default for ToolsConfig {
    fn default() -> ToolsConfig {
        ToolsConfig {
            enabled: Vec::new(),
            workspace: None,
            approve: Vec::new(),
            on_ambiguous: OnAmbiguous::Ask,
            env: Vec::new(),
            calls_per_answer: 64,
            output_limit: 64 * 1024,
            fetch_allow: Vec::new(),
            timeout_s: 120,
            sandbox: Sandbox::default(),
            #[cfg(feature = "mcp")]
            mcp: BTreeMap::new(),
        }
    }
}

impl ToolsConfig {
    /// The walls around programs that the model starts.
    pub(crate) fn walls(&self) -> Sandbox {
        self.sandbox.or(Profile::Workspace)
    }

    /// What is wrong with it as it is written, or on this machine. Folders and servers are looked for when it is used.
    pub(crate) fn check(&self) -> Result<(), LlmConfigError> {
        for name in &self.enabled {
            let Some(known) = BUILT_IN.iter().find(|known| known.name == name) else {
                let known = BUILT_IN.map(|tool| tool.name).join(", ");
                let problem = format!("there is no built-in tool {name:?}; there are {known}");
                return Err(LlmConfigError::invalid("tools.enabled", problem));
            };
            if known.needs_folder && self.workspace.is_none() {
                return Err(LlmConfigError::invalid("tools.workspace", format!("{name} needs a folder to work in")));
            }
        }
        self.check_walls()
    }

    /// Whether the walls can be had, if they are needed.
    fn check_walls(&self) -> Result<(), LlmConfigError> {
        let starts_programs = self.enabled.iter().any(|tool| tool == "shell" || tool == "job_start");
        match &self.workspace {
            Some(workspace) if starts_programs => self
                .walls()
                .check(Some(workspace))
                .map_err(|error| LlmConfigError::invalid("tools.sandbox", error.to_string())),
            _ => Ok(()),
        }
    }
}

/// What is done about a call of which a crash hides whether it took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnAmbiguous {
    /// A person decides.
    #[default]
    Ask,
    /// It is called again with the same effect key: for tools that recognise the key.
    Retry,
    /// The model is told that nobody knows.
    GiveUp,
}

/// After how much the agent asks whether to go on, counted from the last words of a person. Absent: no bound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Answers of the model.
    pub steps: Option<u32>,
    /// Tokens read and written. Estimated where the provider does not count them.
    pub tokens: Option<u64>,
    /// US dollars, by [`LlmConfig::price`].
    pub cost_usd: Option<f64>,
    /// Seconds spent on the model and on tools.
    pub seconds: Option<u64>,
}

impl Default for Budget {
    /// Fifty steps: most work is done by then, and what runs in circles costs little.
    fn default() -> Budget {
        Budget { steps: Some(50), tokens: None, cost_usd: None, seconds: None }
    }
}

/// How long is waited for the provider, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallLimits {
    /// Seconds until a connection must stand.
    pub connect_s: u64,
    /// Seconds that a connection may be silent. Local models may need long for the first word.
    pub idle_s: u64,
    /// Seconds that one answer may take.
    pub answer_s: u64,
    /// The most bytes of one answer on the wire.
    pub answer_bytes: usize,
    /// How often a failed request is repeated within one attempt of a run.
    pub retries: u32,
    /// The longest pause between two, in seconds. A provider that asks for more is asked again by the next attempt.
    pub retry_wait_s: u64,
}

impl Default for CallLimits {
    fn default() -> CallLimits {
        CallLimits {
            connect_s: 10,
            idle_s: 120,
            answer_s: 900,
            answer_bytes: 16 * 1024 * 1024,
            retries: 4,
            retry_wait_s: 60,
        }
    }
}

impl CallLimits {
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_s)
    }

    pub(crate) fn answer(&self) -> Duration {
        Duration::from_secs(self.answer_s)
    }

    pub(crate) fn retry_wait(&self) -> Duration {
        Duration::from_secs(self.retry_wait_s)
    }
}

/// When old messages are replaced by a summary, which the model writes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compaction {
    /// As soon as the conversation has this many tokens.
    pub at_tokens: u64,
    /// So many of the last messages stay as they are.
    #[serde(default = "eight")]
    pub keep_messages: usize,
}

/// US dollars for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of tokens that the model reads.
    pub input: f64,
    /// Of tokens that the model writes.
    pub output: f64,
}

fn two() -> u32 {
    2
}

fn eight() -> usize {
    8
}

/// Why a configuration makes no agent.
#[derive(Debug, thiserror::Error)]
pub enum LlmConfigError {
    /// A setting cannot be used.
    #[error("invalid_setting: {field}: {problem}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// Why, and what would be right.
        problem: String,
    },
    /// The key is not where it should be.
    #[error("missing_key: {field}: {problem}")]
    MissingKey {
        /// The setting that says where.
        field: &'static str,
        /// Where it was looked for.
        problem: String,
    },
}

impl LlmConfigError {
    pub(crate) fn invalid(field: &'static str, problem: impl Into<String>) -> LlmConfigError {
        LlmConfigError::Invalid { field, problem: problem.into() }
    }

    /// Stable.
    pub const fn code(&self) -> &'static str {
        match self {
            LlmConfigError::Invalid { .. } => "invalid_setting",
            LlmConfigError::MissingKey { .. } => "missing_key",
        }
    }
}

impl LlmConfig {
    /// An agent of a model, with nothing but defaults.
    pub fn new(dialect: DialectName, model: impl Into<String>) -> LlmConfig {
        LlmConfig {
            dialect,
            base_url: None,
            model: model.into(),
            api_key_env: None,
            api_key_file: None,
            headers: BTreeMap::new(),
            system: None,
            max_tokens: None,
            temperature: None,
            params: Map::new(),
            schema: None,
            schema_repairs: two(),
            tools: ToolsConfig::default(),
            budget: Budget::default(),
            limits: CallLimits::default(),
            compaction: None,
            price: None,
        }
    }

    /// What is wrong with it as it is written, or on this machine. Keys, folders and servers are looked for when its agent
    /// is made.
    ///
    /// # Errors
    /// [`LlmConfigError::Invalid`] names the setting.
    pub(crate) fn check(&self) -> Result<(), LlmConfigError> {
        if self.model.trim().is_empty() {
            return Err(LlmConfigError::invalid("model", "it is empty; give the name that the provider knows"));
        }
        if self.budget.cost_usd.is_some() && self.price.is_none() {
            return Err(LlmConfigError::invalid("budget.cost_usd", "it needs price.input and price.output"));
        }
        address(self)?;
        self.schema.as_ref().map(Shape::new).transpose()?;
        self.tools.check()
    }

    /// The key, from where the configuration says; none if it says nothing.
    ///
    /// # Errors
    /// [`LlmConfigError::MissingKey`] if there is none, or an empty one; [`LlmConfigError::Invalid`] if it cannot be sent.
    pub fn key(&self) -> Result<Option<SecretString>, LlmConfigError> {
        let (field, found) = match (&self.api_key_env, &self.api_key_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(LlmConfigError::invalid("api_key_file", "give this or api_key_env, not both"));
            }
            (Some(name), None) => ("api_key_env", keys::variable(name).map(|key| key.expose_secret().to_owned())),
            (None, Some(path)) => ("api_key_file", keys::content(path).map(|key| key.expose_secret().to_owned())),
        };
        match found.map(|key| key.trim().to_owned()) {
            Ok(key) if key.is_empty() => Err(LlmConfigError::MissingKey { field, problem: "it is empty".into() }),
            Ok(key) if HeaderValue::from_str(&key).is_err() => Err(LlmConfigError::invalid(
                field,
                "the key holds characters that a header cannot; is it all of one line?",
            )),
            Ok(key) => Ok(Some(key.into())),
            Err(problem) => Err(LlmConfigError::MissingKey { field, problem }),
        }
    }
}
