//! What do the tests of the agent run it in?

use crate::provider::{Provider, Speaks};
use async_trait::async_trait;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use windlass_agent::llm::{DialectName, LlmAgent, LlmConfig, LlmDeps};
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
        windlass_agent::sandbox::use_launcher(env!("CARGO_BIN_EXE_windlass-launch"));
        let blobs = deps.blobs.clone();
        let agent = LlmAgent::from_config(config, deps).expect("an agent");
        let mut builder = RuntimeSessionAdapter::builder()
            .store(Arc::clone(&store))
            .entries_kept(100_000)
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
