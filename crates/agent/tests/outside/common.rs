//! What do the tests of executors have in common?

use async_trait::async_trait;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use windlass_agent::Program;
use windlass_core::{AbandonReason, Input, InputId, Limits, SessionId, Timestamp};
use windlass_runtime::{
    CompletionHandle, CompletionOutcome, CoreExecutor, CoreExecutorError, ExecutorFactory, RuntimeSessionAdapter,
    SessionHandle, memory::MemoryStore,
};

/// The same executor for every session.
pub(crate) struct One(pub(crate) Arc<dyn CoreExecutor>);

#[async_trait]
impl ExecutorFactory for One {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::clone(&self.0))
    }
}

/// Sessions in memory that retry at once.
pub(crate) fn adapter(executor: Arc<dyn CoreExecutor>) -> RuntimeSessionAdapter {
    with_factory(Arc::new(One(executor)))
}

/// Programs are started by a launcher, as the command's are.
pub(crate) fn launched() {
    windlass_agent::sandbox::use_launcher(env!("CARGO_BIN_EXE_windlass-launch"));
}

/// Sessions in memory that retry at once, with these executors.
pub(crate) fn with_factory(factory: Arc<dyn ExecutorFactory>) -> RuntimeSessionAdapter {
    launched();
    let limits = Limits { backoff: Duration::from_millis(1), ..Limits::default() };
    RuntimeSessionAdapter::builder().store(Arc::new(MemoryStore::new())).factory(factory).limits(limits).build()
}

pub(crate) async fn session(adapter: &RuntimeSessionAdapter, number: u128) -> SessionHandle {
    let id = SessionId::from_uuid(uuid::Uuid::from_u128(0xa000 + number));
    adapter.create_session(id, None).await.expect("a session")
}

pub(crate) fn prompt(number: u128, text: &str) -> Input {
    Input::prompt(InputId::from_uuid(uuid::Uuid::from_u128(0xb000 + number)), Timestamp::ZERO, text)
}

pub(crate) async fn offer(session: &SessionHandle, number: u128, text: &str) -> CompletionHandle {
    let (answer, completion) = session.accept_with_completion(prompt(number, text)).await.expect("an answer");
    completion.unwrap_or_else(|| panic!("{answer:?}"))
}

/// What was said at the end.
pub(crate) fn result_text(outcome: CompletionOutcome) -> String {
    match outcome {
        CompletionOutcome::Completed(result) => result.text.clone(),
        other => panic!("{other:?}"),
    }
}

/// Why it did not end well.
pub(crate) fn abandoned(outcome: CompletionOutcome) -> String {
    match outcome {
        CompletionOutcome::Abandoned(
            AbandonReason::Failed { error } | AbandonReason::MaxAttemptsExhausted { error, .. },
        ) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn sh(script: &str) -> Program {
    Program::new(["/bin/sh", "-c", script])
}

/// Whether there is such a program here.
///
/// # Panics
/// If there is not although `WINDLASS_JUDGES=required`.
pub(crate) fn has(program: &str) -> bool {
    let asked = std::process::Command::new(program).arg("--version").output();
    let is_there = asked.is_ok_and(|output| output.status.success());
    let may_lack = std::env::var_os("WINDLASS_JUDGES").is_none_or(|judges| judges != "required");
    assert!(is_there || may_lack, "there is no {program} here");
    is_there
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Looks again and again, because another process gives no signal.
pub(crate) async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let looked = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    looked.await.expect("it is seen in time")
}

/// The process ids in a file, when it is there.
pub(crate) async fn pids(file: &Path) -> Vec<String> {
    let text = until(|| fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'))).await;
    text.split_whitespace().map(str::to_owned).collect()
}

/// Waits until these processes are no more.
pub(crate) async fn gone(pids: &[String]) {
    for pid in pids {
        let stat = format!("/proc/{pid}/stat");
        until(|| fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(())).await;
    }
}
