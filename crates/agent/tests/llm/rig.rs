//! What do the tests of the agent run it in?

use crate::provider::{Provider, Speaks};
use async_trait::async_trait;
use serde_json::Value;
use std::{fs, path::Path, sync::Arc, time::Duration};
use windlass_agent::llm::{DialectName, LlmAgent, LlmConfig, LlmDeps, ToolsConfig};
use windlass_core::{Entry, HandlingMode, Input, InputId, Record, RunEnd, Seq, SessionId, Timestamp};
use windlass_runtime::{
    CompletionHandle, CompletionOutcome, CoreExecutor, CoreExecutorError, ExecutorFactory, FeedItem,
    RuntimeSessionAdapter, SessionHandle, memory::MemoryStore, store::Store,
};

/// A clone of one agent for each session.
struct Agents(LlmAgent);

#[async_trait]
impl ExecutorFactory for Agents {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// A session of an agent on a store.
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) adapter: RuntimeSessionAdapter,
    pub(crate) session: SessionHandle,
}

pub(crate) fn session_id() -> SessionId {
    SessionId::from_uuid(uuid::Uuid::from_u128(1))
}

/// An agent of this provider, with retries that do not make a test wait.
pub(crate) fn config(speaks: Speaks, provider: &Provider) -> LlmConfig {
    let dialect = match speaks {
        Speaks::Openai => DialectName::Openai,
        Speaks::Anthropic => DialectName::Anthropic,
    };
    LlmConfig {
        base_url: Some(speaks.base(provider)),
        system: Some("Be brief.".into()),
        ..LlmConfig::new(dialect, "m")
    }
}

impl Bench {
    pub(crate) async fn new(config: &LlmConfig) -> Bench {
        Bench::over(Arc::new(MemoryStore::new()), config, LlmDeps::default()).await
    }

    pub(crate) async fn over(store: Arc<dyn Store>, config: &LlmConfig, deps: LlmDeps) -> Bench {
        Bench::keeping(100_000, store, config, deps).await
    }

    /// One that keeps so many entries behind its snapshots.
    pub(crate) async fn keeping(kept: u64, store: Arc<dyn Store>, config: &LlmConfig, deps: LlmDeps) -> Bench {
        windlass_agent::sandbox::use_launcher(env!("CARGO_BIN_EXE_windlass-launch"));
        let blobs = deps.blobs.clone();
        // Where there is no sandbox, the loop is tried without.
        let mut config = config.clone();
        config.tools.sandbox.best_effort = true;
        let agent = LlmAgent::from_config(&config, deps).expect("an agent");
        let mut builder = RuntimeSessionAdapter::builder()
            .store(Arc::clone(&store))
            .entries_kept(kept)
            .factory(Arc::new(Agents(agent)));
        if let Some(blobs) = blobs {
            builder = builder.blobs(blobs);
        }
        let adapter = builder.build();
        let session = adapter.create_session(session_id(), None).await.expect("a session");
        Bench { store, adapter, session }
    }

    /// Another process: nothing is left but the journal.
    pub(crate) async fn restarted(self, config: &LlmConfig, deps: LlmDeps) -> Bench {
        self.adapter.shutdown().await;
        Bench::over(self.store, config, deps).await
    }

    pub(crate) async fn offer(&self, text: &str, mode: HandlingMode) -> CompletionHandle {
        self.give(Input::prompt(InputId::from_uuid(uuid::Uuid::new_v4()), Timestamp::ZERO, text).with_mode(mode)).await
    }

    pub(crate) async fn give(&self, input: Input) -> CompletionHandle {
        let (answer, completion) = self.session.accept_with_completion(input).await.expect("an answer");
        completion.unwrap_or_else(|| panic!("not accepted: {answer:?}"))
    }

    pub(crate) async fn say(&self, text: &str) -> CompletionOutcome {
        let completion = self.offer(text, HandlingMode::Queue).await;
        tokio::time::timeout(Duration::from_secs(60), completion.wait()).await.expect("an outcome in time")
    }

    pub(crate) async fn hear(&self, text: &str) -> String {
        match self.say(text).await {
            CompletionOutcome::Completed(result) => result.text.clone(),
            other => panic!("to {text:?}: {other:?}"),
        }
    }

    /// The question that the run ends with.
    pub(crate) async fn asked(&self, text: &str) -> (String, Value) {
        match self.say(text).await {
            CompletionOutcome::CallbackPending(tool) => (tool.tool_name.clone(), tool.args.clone()),
            other => panic!("to {text:?}: {other:?}"),
        }
    }

    pub(crate) async fn entries(&self) -> Vec<Arc<Entry>> {
        entries(&*self.store).await
    }

    /// Answers of the model that are committed.
    pub(crate) async fn answers(&self) -> usize {
        deltas(&*self.store).await.iter().map(answers_in).sum()
    }

    /// Waits for a record.
    pub(crate) async fn record(&self, mut is: impl FnMut(&Record) -> bool) {
        let mut feed = self.session.feed(Seq::ZERO);
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let FeedItem::Entry(entry) = feed.next().await.expect("a feed")
                    && is(&entry.record)
                {
                    return;
                }
            }
        });
        waited.await.expect("the record in time");
    }
}

pub(crate) async fn entries(store: &dyn Store) -> Vec<Arc<Entry>> {
    store.read(session_id(), Seq::ZERO, 100_000).await.expect("a journal")
}

/// What was committed, in order.
pub(crate) async fn deltas(store: &dyn Store) -> Vec<Value> {
    let entries = entries(store).await;
    let delta = |entry: &Arc<Entry>| {
        let delta = match &entry.record {
            Record::BoundaryCommitted(boundary) => boundary.delta.clone(),
            Record::RunEnded(ended) => match &ended.end {
                RunEnd::Completed { delta, .. } => delta.clone(),
                _ => None,
            },
            _ => None,
        };
        delta.map(|delta| serde_json::from_str(delta.get()).expect("deltas are JSON"))
    };
    entries.iter().filter_map(delta).collect()
}

pub(crate) fn answers_in(delta: &Value) -> usize {
    let messages = delta["messages"].as_array().expect("a list");
    messages.iter().filter(|message| message["role"] == "assistant").count()
}

pub(crate) fn with_tools(speaks: Speaks, provider: &Provider, folder: &Path, tools: &[&str]) -> LlmConfig {
    let tools = ToolsConfig {
        enabled: tools.iter().map(|&name| name.to_owned()).collect(),
        workspace: Some(folder.to_owned()),
        ..ToolsConfig::default()
    };
    LlmConfig { tools, ..config(speaks, provider) }
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

pub(crate) fn input_id() -> InputId {
    InputId::from_uuid(uuid::Uuid::new_v4())
}

/// What a request says after its system prompt, a line for each part: who, what.
pub(crate) fn told(body: &Value) -> Vec<String> {
    let mut told = Vec::new();
    for message in body["messages"].as_array().expect("messages") {
        let role = message["role"].as_str().expect("a role");
        match &message["content"] {
            _ if role == "system" => {}
            Value::String(text) if role == "tool" => {
                told.push(format!("result {}: {text}", message["tool_call_id"].as_str().expect("an id")));
            }
            Value::String(text) if !text.is_empty() => told.push(format!("{role}: {text}")),
            Value::Array(parts) => told.extend(parts.iter().map(|part| match part["type"].as_str() {
                Some("text") => format!("{role}: {}", part["text"].as_str().expect("text")),
                Some("tool_use") => format!("call {}: {}", part["id"].as_str().expect("an id"), part["input"]),
                Some("tool_result") => {
                    let id = part["tool_use_id"].as_str().expect("an id");
                    format!("result {id}: {}", part["content"].as_str().expect("text"))
                }
                other => format!("{role}: {other:?}"),
            })),
            _ => {}
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let (id, arguments) = (call["id"].as_str(), call["function"]["arguments"].as_str());
            told.push(format!("call {}: {}", id.expect("an id"), arguments.expect("text")));
        }
    }
    told
}

/// Waits, by looking, for a file that ends in a line end.
pub(crate) async fn written(path: &Path) -> String {
    let looked = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    });
    looked.await.expect("it is written")
}

pub(crate) async fn gone(pid: &str) {
    let stat = format!("/proc/{pid}/stat");
    let alive = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "));
    let looked = tokio::time::timeout(Duration::from_secs(30), async {
        while alive() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    looked.await.expect("the process is killed");
}
