//! Is what the runtime writes what `verify` recomputes?

mod common;

use common::{input, session, store};
use std::{sync::Arc, time::Duration};
use windlass_core::{BoundaryOutput, Disposition, Input, JsonText, Limits, Timestamp};
use windlass_runtime::{
    CoreApplyOutput, CoreExecutor, CoreExecutorError, RuntimeSessionAdapter, Turn, executor_fn,
    store::{InputQuery, Store},
};
use windlass_sqlite::{SqliteOptions, SqliteStore, verify};

/// Says what it was told, with a boundary before; fails or hangs if it is told so.
fn executor() -> Arc<dyn CoreExecutor> {
    Arc::new(executor_fn(|turn: Turn| async move {
        let text = turn.primitive().text();
        if text.contains("commit") {
            let committed = turn.commit(BoundaryOutput { message_count: 1, ..BoundaryOutput::default() }).await;
            committed.map_err(|error| CoreExecutorError::fatal(error.to_string()))?;
        }
        if text.contains("fatal") {
            return Err(CoreExecutorError::fatal("told to"));
        }
        if text.contains("hang") {
            turn.cancelled().await;
        }
        Ok(CoreApplyOutput::text(text))
    }))
}

fn prompt(number: u128, text: &str) -> Input {
    Input::prompt(input(number), Timestamp::ZERO, text)
}

fn runtime(store: &SqliteStore) -> RuntimeSessionAdapter {
    let store: Arc<dyn Store> = Arc::new(store.clone());
    RuntimeSessionAdapter::builder().store(store).entries_kept(50).limits(Limits::default()).build()
}

#[tokio::test]
async fn everything_the_runtime_does_verifies() {
    let (_folder, file, store) = store();
    let adapter = runtime(&store);
    for number in 1..=6 {
        adapter.ensure_session_with_executor(session(number), executor()).await.expect("attached");
    }
    // A long history, so that snapshots are taken and entries pruned.
    let long = adapter.session(session(1)).await.expect("open");
    for number in 0..700 {
        let text = if number % 3 == 0 { "commit" } else { "plain" };
        let keyed = prompt(number, text).with_key(&format!("k{number}")).expect("a good key");
        let (_, completion) = long.accept_with_completion(keyed).await.expect("accepted");
        completion.expect("it waits").wait().await;
    }
    // Dead letters, cancels, notes.
    let rough = adapter.session(session(2)).await.expect("open");
    for (number, text) in [(1_000, "fatal"), (1_001, "commit, then fatal"), (1_002, "plain")] {
        let (_, completion) = rough.accept_with_completion(prompt(number, text)).await.expect("accepted");
        completion.expect("it waits").wait().await;
    }
    for (number, disposition) in [(1_003, Disposition::Drop), (1_004, Disposition::Requeue)] {
        rough.accept(prompt(number, "hang")).await.expect("accepted");
        rough.cancel(None, "changed my mind", disposition).await.expect("cancelled");
    }
    rough.note(JsonText::encode(&"a note").expect("text is JSON")).await.expect("noted");
    // The verbs.
    let held = adapter.session(session(3)).await.expect("open");
    held.hold().await.expect("held");
    for number in 1_100..1_105 {
        held.accept(prompt(number, "waits")).await.expect("accepted");
    }
    held.withdraw(input(1_102)).await.expect("withdrawn");
    adapter.session(session(4)).await.expect("open").retire().await.expect("retired");
    let stopped = adapter.session(session(5)).await.expect("open");
    stopped.accept(prompt(1_200, "hang")).await.expect("accepted");
    stopped.stop().await.expect("stopped");
    let reset = adapter.session(session(6)).await.expect("open");
    reset.accept(prompt(1_300, "hang")).await.expect("accepted");
    reset.reset(true).await.expect("reset");
    let clean = || {
        let report = verify(&file).expect("verified");
        assert!(report.is_clean(), "{report}");
        report
    };
    clean();
    adapter.shutdown().await;
    let report = clean();
    assert!(report.snapshots >= 1, "the long history was to be snapshot");
    let read = store.read(session(1), windlass_core::Seq::ZERO, 9).await;
    assert!(read.is_err(), "and pruned");
    let dead = InputQuery { dead: true, limit: 9, ..InputQuery::default() };
    assert_eq!(store.inputs(dead).await.expect("listed").len(), 2);
    drop((long, rough, held, stopped, reset, adapter, store));
    // A second life picks all of it up.
    let store = SqliteStore::open(&file, SqliteOptions::default()).expect("opened by the next life");
    let adapter = runtime(&store);
    adapter.ensure_session_with_executor(session(3), executor()).await.expect("attached");
    let held = adapter.session(session(3)).await.expect("open");
    held.release().await.expect("released");
    let (_, last) = held.accept_with_completion(prompt(1_106, "plain")).await.expect("accepted");
    tokio::time::timeout(Duration::from_secs(30), last.expect("it waits").wait()).await.expect("it ends");
    assert!(verify(&file).expect("verified").is_clean());
    adapter.shutdown().await;
}
