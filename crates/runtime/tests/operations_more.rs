//! What else do the operations of a session promise to those who report, watch and wait?
//!
//! OC n names scenario n of the operations and peers in scenarios/index.toml.

mod rig;

use futures_util::future::join_all;
use rig::{Rig, SECOND, accept, text};
use std::sync::Arc;
use windlass_core::{
    LogicalRuntimeId, OperationId, OperationKind, OperationResult, OperationSpec, OperationTerminalOutcome,
    OpsLifecycleError, RuntimeState,
};
use windlass_runtime::{
    CompletionOutcome, OpsError, OpsLifecycleRegistry, RuntimeControlPlane, RuntimeControlPlaneError, SessionError,
    memory::MemoryStore,
    testing::{
        ManualExecutor,
        faulty_store::{Call, Fault},
        input, session,
    },
};

fn op(n: u128) -> OperationId {
    OperationId::from_uuid(uuid::Uuid::from_u128(n))
}

async fn begin(ops: &OpsLifecycleRegistry, n: u128) -> Result<(), OpsError> {
    let spec = OperationSpec {
        id: op(n),
        kind: OperationKind::BackgroundToolOp,
        display_name: format!("job {n}"),
        source_label: "test".into(),
        child_session_id: None,
        expect_peer_channel: false,
        adoptable: false,
    };
    ops.register_operation(spec).await?;
    ops.provisioning_succeeded(op(n)).await
}

async fn complete(ops: &OpsLifecycleRegistry, n: u128) -> Result<(), OpsError> {
    ops.complete_operation(op(n), OperationResult::default()).await
}

fn completed() -> OperationTerminalOutcome {
    OperationTerminalOutcome::Completed(OperationResult::default())
}

async fn registry(rig: &Rig) -> OpsLifecycleRegistry {
    rig.adapter.prepare_bindings(session(1)).await.unwrap().ops_lifecycle
}

// OC 15, 16
#[tokio::test(start_paused = true)]
async fn every_watcher_hears_the_one_outcome() {
    let rig = Rig::new();
    let ops = registry(&rig).await;
    begin(&ops, 1).await.unwrap();
    let watchers = [(); 3].map(|()| {
        let ops = ops.clone();
        tokio::spawn(async move { ops.watch(op(1)).await.unwrap() })
    });
    tokio::task::yield_now().await;
    ops.fail_operation(op(1), "broken".into()).await.unwrap();
    let broken = OperationTerminalOutcome::Failed { error: "broken".into() };
    for watcher in join_all(watchers).await {
        assert_eq!(watcher.unwrap(), broken);
    }
    assert_eq!(ops.watch(op(1)).await.unwrap(), broken, "and whoever comes later");
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_the_sessions_stay_in_memory() {
    let rig = Rig::with(|builder| builder.idle_after(SECOND));
    let ops = registry(&rig).await;
    begin(&ops, 1).await.unwrap();
    let watch = tokio::spawn({
        let ops = ops.clone();
        async move { ops.watch(op(1)).await }
    });
    tokio::time::sleep(10 * SECOND).await;
    complete(&ops, 1).await.unwrap();
    assert_eq!(watch.await.unwrap().unwrap(), completed());
}

// OC 21
#[tokio::test(start_paused = true)]
async fn a_refused_wait_leaves_nothing_and_the_same_id_twice_is_one() {
    let rig = Rig::new();
    let ops = registry(&rig).await;
    begin(&ops, 1).await.unwrap();
    let unknown = ops.wait_all(&[op(1), op(9)]).await;
    assert!(matches!(unknown, Err(OpsError::Refused(OpsLifecycleError::NotFound { id })) if id == op(9)));
    let twice = [op(1), op(1)];
    let (both, done) = tokio::join!(ops.wait_all(&twice), complete(&ops, 1));
    done.unwrap();
    assert_eq!(both.unwrap(), [(op(1), completed()), (op(1), completed())]);
}

// OC 22, 24
#[tokio::test(start_paused = true)]
async fn a_wait_that_nobody_polls_misses_nothing_and_its_drop_harms_nobody() {
    let rig = Rig::new();
    let ops = registry(&rig).await;
    begin(&ops, 1).await.unwrap();
    begin(&ops, 2).await.unwrap();
    let ids = [op(1)];
    let (unpolled, dropped) = (ops.wait_all(&ids), ops.wait_all(&ids));
    let other = tokio::spawn({
        let ops = ops.clone();
        async move { ops.wait_all(&[op(2)]).await.unwrap() }
    });
    complete(&ops, 1).await.unwrap();
    drop(dropped);
    assert_eq!(unpolled.await.unwrap(), [(op(1), completed())]);
    complete(&ops, 2).await.unwrap();
    assert_eq!(other.await.unwrap(), [(op(2), completed())]);
}

// OC 41
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_loses_no_completion_that_it_confirmed() {
    for fault in [Fault::Full, Fault::Unavailable, Fault::UnknownNotDone, Fault::UnknownButDone] {
        let rig = Rig::new();
        let ops = registry(&rig).await;
        for n in 1..=100 {
            begin(&ops, n).await.unwrap();
        }
        rig.store.fail(Call::Append, 1, fault);
        let reports = join_all((1..=100).map(|n| {
            let ops = ops.clone();
            async move { while complete_again(&ops, n).await.is_err() {} }
        }));
        tokio::time::timeout(3_600 * SECOND, reports).await.expect("the store works again");
        let ops = registry(&rig.crash()).await;
        let all = join_all((1..=100).map(|n| ops.snapshot(op(n)))).await;
        let kept = all.into_iter().all(|operation| operation.unwrap().completion.is_some());
        assert!(kept, "{fault:?}");
        let feed = ops.completion_feed().list_since(windlass_core::CompletionSeq(0)).await.unwrap();
        assert_eq!(feed.entries.len(), 100, "{fault:?}: once each");
    }
}

/// Reports until it stands. A producer that heard "unknown" and then "not possible any more" knows that it was done.
async fn complete_again(ops: &OpsLifecycleRegistry, n: u128) -> Result<(), OpsError> {
    match complete(ops, n).await {
        Err(OpsError::Refused(OpsLifecycleError::InvalidTransition { .. })) => Ok(()),
        Err(error) => {
            tokio::time::sleep(SECOND).await;
            Err(error)
        }
        done => done,
    }
}

// OC 42, 92
#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_read_is_not_replaced_by_an_empty_one() {
    let memory = Arc::new(MemoryStore::new());
    let epoch = Rig::on(Arc::clone(&memory) as _, |builder| builder).adapter;
    let epoch = epoch.prepare_bindings(session(1)).await.unwrap().epoch_id;
    let rig = Rig::on(memory, |builder| builder);
    rig.store.fail(Call::Open, 1, Fault::ReadOnly);
    rig.store.fail(Call::Open, 2, Fault::ReadOnly);
    let error = rig.adapter.prepare_bindings(session(1)).await.expect_err("the store says why");
    assert!(matches!(error, SessionError::Store(_)), "{error:?}");
    let (executor, _runs) = ManualExecutor::new();
    let error = rig.adapter.ensure_session_with_executor(session(1), executor).await.expect_err("so also here");
    assert!(matches!(error, SessionError::Store(_)), "{error:?}");
    assert_eq!(rig.adapter.prepare_bindings(session(1)).await.unwrap().epoch_id, epoch, "no silent new order");
}

// OC 44
#[tokio::test(start_paused = true)]
async fn the_completions_of_an_older_owner_replace_nothing() {
    let rig = Rig::new();
    let old = registry(&rig).await;
    begin(&old, 1).await.unwrap();
    let after = rig.crash();
    let new = registry(&after).await;
    begin(&new, 2).await.unwrap();
    complete(&new, 2).await.unwrap();
    // The older owner is fenced: it hears so, and its session is read anew or lost, never written from old memory.
    let late = complete(&old, 1).await;
    assert!(late.is_err(), "{late:?}");
    let lost = OperationTerminalOutcome::Terminated { reason: "owner lost".into() };
    let third = registry(&after.crash()).await;
    assert_eq!(third.watch(op(1)).await.unwrap(), lost);
    assert_eq!(third.watch(op(2)).await.unwrap(), completed());
}

// OC 88
#[tokio::test(start_paused = true)]
async fn who_attaches_to_a_closed_session_hears_so() {
    let rig = Rig::new();
    let (executor, mut runs) = ManualExecutor::new();
    let handle = rig.attach(&executor).await;
    let waiting = accept(&handle, input(1, "a")).await;
    handle.retire().await.unwrap();
    runs.next().await.text("drained");
    assert_eq!(text(waiting.wait().await), "drained");
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Retired);

    handle.destroy().await.unwrap();
    let refused = rig.adapter.ensure_session_with_executor(session(1), executor).await;
    assert!(matches!(refused, Err(SessionError::Refused(_))), "{refused:?}");
}

// OC 107, 109
#[tokio::test(start_paused = true)]
async fn stop_and_destroy_need_no_executor() {
    for (reason, state) in [("runtime stopped", RuntimeState::Stopped), ("runtime destroyed", RuntimeState::Destroyed)]
    {
        let rig = Rig::new();
        let handle = rig.adapter.register_session(session(1)).await.unwrap();
        let waiting = accept(&handle, input(1, "a")).await;
        let report = if state == RuntimeState::Stopped { handle.stop().await } else { handle.destroy().await };
        assert_eq!(report.unwrap().inputs_abandoned, 1);
        assert_eq!(waiting.wait().await, CompletionOutcome::RuntimeTerminated(reason.into()));
        assert_eq!(handle.state().await.unwrap(), state);
        let late = rig::rejected(handle.accept(input(2, "b")).await.unwrap());
        assert_eq!(late, windlass_core::RejectReason::NotReady { state });
    }
}

// OC 111
#[tokio::test(start_paused = true)]
async fn an_id_that_cannot_be_one_is_not_found_by_any_control_call() {
    let rig = Rig::new();
    let (adapter, id) = (&rig.adapter, LogicalRuntimeId("not a uuid".into()));
    let run = windlass_core::RunId::from_uuid(uuid::Uuid::nil());
    let errors = [
        adapter.ingest(&id, input(1, "a")).await.err(),
        RuntimeControlPlane::retire(adapter, &id).await.err(),
        adapter.recycle(&id).await.err(),
        RuntimeControlPlane::reset(adapter, &id).await.err(),
        adapter.recover(&id).await.err(),
        adapter.destroy(&id).await.err(),
        RuntimeControlPlane::runtime_state(adapter, &id).await.err(),
        adapter.load_boundary_receipt(&id, &run, 0).await.err(),
    ];
    for (at, error) in errors.into_iter().enumerate() {
        assert!(matches!(error, Some(RuntimeControlPlaneError::NotFound(_))), "{at}: {error:?}");
    }
}
