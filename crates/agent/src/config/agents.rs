//! Which agent does a session get by its name, and does it answer?

use super::{AgentConfig, AgentInvalid, BuiltinConfig};
use crate::{
    BuiltinFactory, HttpExecutor,
    llm::{LlmAgent, LlmDeps},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;
use windlass_core::{AcceptOutcome, Input, InputId, Limits, SessionId, Timestamp};
use windlass_runtime::{
    CompletionOutcome, CoreExecutor, CoreExecutorError, ExecutorFactory, RuntimeSessionAdapter, memory::MemoryStore,
};

/// The agent that is always there.
const BUILTIN: &str = "builtin";
/// The agent of sessions that name none, if there is one of this name.
const DEFAULT: &str = "default";
/// The longest name, in bytes.
const NAME: usize = 64;
/// How long an agent may take for a greeting.
const GREETING: Duration = Duration::from_secs(60);

/// The agents of a configuration, by name. Gives sessions their executors.
///
/// Sessions that name no agent get the one named `default`; without that the only one there is; else the built-in
/// agent. `builtin` is always there.
#[derive(Debug)]
pub struct Agents {
    by_name: BTreeMap<String, Agent>,
    default: String,
    builtin: BuiltinFactory,
    deps: LlmDeps,
}

#[derive(Debug)]
struct Agent {
    config: AgentConfig,
    /// Made at first use, so that a missing key harms nobody else; asked for again after an error.
    maker: OnceCell<Maker>,
}

/// What makes the executors of an agent's sessions.
pub(super) enum Maker {
    /// The built-in agent, one for each session.
    Builtin,
    /// One executor for all sessions.
    One(Arc<dyn CoreExecutor>),
    /// An endpoint, for all sessions.
    Http(Arc<HttpExecutor>),
    /// A clone for each session, which remembers it.
    Llm(Box<LlmAgent>),
}

impl std::fmt::Debug for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Maker::Builtin => "Builtin",
            Maker::One(_) => "One",
            Maker::Http(_) => "Http",
            Maker::Llm(_) => "Llm",
        })
    }
}

/// What an agent is, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentDescription {
    /// Its name.
    pub name: String,
    /// `builtin`, `process`, `http`, `llm`.
    pub kind: String,
    /// What it does, in a line without secrets.
    pub summary: String,
    /// Whether sessions that name no agent get it.
    pub is_default: bool,
}

/// What came of greeting an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Its name.
    pub agent: String,
    /// Whether it answered as an agent does.
    pub ok: bool,
    /// What it said, if it said something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What went wrong, beginning with a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub took_ms: u64,
}

impl Agents {
    /// These agents, and the built-in one.
    ///
    /// # Errors
    /// [`AgentInvalid`] says which setting of which agent is wrong. Keys are not looked for yet.
    pub fn new(configs: BTreeMap<String, AgentConfig>) -> Result<Agents, AgentInvalid> {
        Agents::with(configs, LlmDeps::default())
    }

    /// As [`Agents::new`]; the models' tools get these to work with.
    ///
    /// # Errors
    /// As there.
    pub fn with(configs: BTreeMap<String, AgentConfig>, deps: LlmDeps) -> Result<Agents, AgentInvalid> {
        let default = match (configs.keys().next(), configs.len()) {
            _ if configs.contains_key(DEFAULT) => DEFAULT,
            (Some(only), 1) => only,
            _ => BUILTIN,
        };
        let default = default.to_owned();
        let mut by_name = BTreeMap::new();
        for (name, config) in configs {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let checked = if name.is_empty() || name.len() > NAME || !name.bytes().all(is_plain) {
                Err(format!("a name is 1 to {NAME} letters, digits, - and _"))
            } else if name == BUILTIN && !matches!(config, AgentConfig::Builtin(_)) {
                Err("this name is the built-in agent's; choose another".into())
            } else {
                config.check()
            };
            checked.map_err(|problem| AgentInvalid { agent: name.clone(), problem })?;
            by_name.insert(name, Agent { config, maker: OnceCell::new() });
        }
        let builtin = || Agent { config: AgentConfig::Builtin(BuiltinConfig {}), maker: OnceCell::new() };
        by_name.entry(BUILTIN.to_owned()).or_insert_with(builtin);
        Ok(Agents { by_name, default, builtin: BuiltinFactory::default(), deps })
    }

    /// All names, in alphabetical order.
    pub fn names(&self) -> Vec<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }

    /// The agent of sessions that name none.
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// What an agent is; none if there is none of this name.
    pub fn describe(&self, name: &str) -> Option<AgentDescription> {
        let (name, Agent { config, .. }) = self.by_name.get_key_value(name)?;
        Some(AgentDescription {
            name: name.clone(),
            kind: config.kind().to_owned(),
            summary: config.summary(),
            is_default: *name == self.default,
        })
    }

    /// The agents whose keys are not there, with what is missing. They cannot be used until it is.
    pub fn without_keys(&self) -> Vec<AgentInvalid> {
        let looked = self.by_name.iter().map(|(name, agent)| (name, agent.config.look_for_keys()));
        let missing = |(name, looked): (&String, Result<(), String>)| {
            looked.err().map(|problem| AgentInvalid { agent: name.clone(), problem })
        };
        looked.filter_map(missing).collect()
    }

    /// Greets an agent in a session of its own, which is kept nowhere. Takes at most a minute; the agent really works,
    /// so a model is really asked, and so is an endpoint that has said before that it is gone: if it answers, it is asked
    /// again from now on.
    ///
    /// Cancel-safe: dropped, it ends what it began.
    pub async fn test(&self, name: &str) -> AgentReport {
        let begun = Instant::now();
        let (text, error) = match self.greet(name).await {
            Ok(text) => (text, None),
            Err(error) => (None, Some(error)),
        };
        let took_ms = begun.elapsed().as_millis() as u64;
        AgentReport { agent: name.to_owned(), ok: error.is_none(), text, error, took_ms }
    }

    async fn greet(&self, name: &str) -> Result<Option<String>, String> {
        let session = SessionId::from_uuid(uuid::Uuid::nil());
        let executor = self.executor(session, Some(name)).await.map_err(|error| error.to_string())?;
        if let Some(Maker::Http(endpoint)) = self.by_name.get(name).and_then(|agent| agent.maker.get()) {
            endpoint.ask_again();
        }
        let limits = Limits { attempts: 1, ..Limits::default() };
        let adapter = RuntimeSessionAdapter::builder().store(Arc::new(MemoryStore::new())).limits(limits).build();
        let greeting = Input::prompt(InputId::from_uuid(uuid::Uuid::nil()), Timestamp::ZERO, "hello");
        let greeted = async {
            adapter.ensure_session_with_executor(session, executor).await.map_err(|error| error.to_string())?;
            let handle = adapter.session(session).await.map_err(|error| error.to_string())?;
            match handle.accept_with_completion(greeting).await.map_err(|error| error.to_string())? {
                (_, Some(completion)) => Ok(completion.wait().await),
                (AcceptOutcome::Rejected { reason }, None) => Err(format!("{reason:?}")),
                (outcome, None) => Err(format!("{outcome:?}")),
            }
        };
        let outcome = tokio::time::timeout(GREETING, greeted).await;
        adapter.shutdown().await;
        match outcome {
            Err(_) => Err(format!("executor_timed_out: there was no answer within {GREETING:?}")),
            Ok(Err(error)) => Err(error),
            Ok(Ok(CompletionOutcome::Completed(result))) => Ok(Some(result.text.clone())),
            Ok(Ok(CompletionOutcome::CompletedWithoutResult)) => Ok(None),
            Ok(Ok(CompletionOutcome::CallbackPending(tool))) => Ok(Some(format!("waits for {}", tool.tool_name))),
            Ok(Ok(CompletionOutcome::Abandoned(reason))) => Err(match reason {
                windlass_core::AbandonReason::Failed { error }
                | windlass_core::AbandonReason::MaxAttemptsExhausted { error, .. } => error.to_string(),
                other => format!("{other:?}"),
            }),
            Ok(Ok(other)) => Err(format!("{other:?}")),
        }
    }
}

#[async_trait]
impl ExecutorFactory for Agents {
    async fn executor(
        &self,
        session: SessionId,
        agent: Option<&str>,
    ) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        let name = agent.unwrap_or(&self.default);
        let Some(Agent { config, maker }) = self.by_name.get(name) else {
            let known = self.names().join(", ");
            return Err(CoreExecutorError::fatal(format!(
                "unknown_agent: no agent is named {name:?}; there are {known}"
            )));
        };
        let not_ready = |problem: String| {
            let invalid = AgentInvalid { agent: name.to_owned(), problem };
            CoreExecutorError::retryable(format!("executor_unavailable: {invalid}"))
        };
        match maker.get_or_try_init(|| async { config.maker(&self.deps).await.map_err(not_ready) }).await? {
            Maker::Builtin => self.builtin.executor(session, None).await,
            Maker::One(executor) => Ok(Arc::clone(executor)),
            Maker::Http(endpoint) => Ok(Arc::clone(endpoint) as Arc<dyn CoreExecutor>),
            Maker::Llm(agent) => Ok(Arc::new(LlmAgent::clone(agent))),
        }
    }
}
