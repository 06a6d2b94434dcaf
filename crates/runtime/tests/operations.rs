//! How is background work reported, waited for and told to the model?
//!
//! OC n names scenario n of the operations and peers in scenarios/index.toml.

mod rig;

use futures_util::future::join_all;
use rig::{Rig, SECOND, accept, text};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use windlass_core::{
    CompletionSeq, InputBody, OperationId, OperationKind, OperationResult, OperationSpec, OperationStatus,
    OperationTerminalOutcome, OpsLifecycleError, Seq, Timestamp,
};
use windlass_runtime::{
    Clock, CoreApplyOutput, ManualClock, OpsError, OpsLifecycleRegistry, Turn, executor_fn,
    testing::{faulty_store::Call, input, session},
};

fn op(n: u128) -> OperationId {
    OperationId::from_uuid(uuid::Uuid::from_u128(n))
}

fn spec(n: u128) -> OperationSpec {
    OperationSpec {
        id: op(n),
        kind: OperationKind::BackgroundToolOp,
        display_name: format!("job {n}"),
        source_label: "test".into(),
        child_session_id: None,
        expect_peer_channel: false,
        adoptable: false,
    }
}

async fn begin(ops: &OpsLifecycleRegistry, n: u128) {
    ops.register_operation(spec(n)).await.unwrap();
    ops.provisioning_succeeded(op(n)).await.unwrap();
}

async fn complete(ops: &OpsLifecycleRegistry, n: u128) {
    let result = OperationResult { content: format!("result {n}"), ..OperationResult::default() };
    ops.complete_operation(op(n), result).await.unwrap();
}

async fn registry(rig: &Rig) -> OpsLifecycleRegistry {
    rig.adapter.prepare_bindings(session(1)).await.unwrap().ops_lifecycle
}

// S 176, 177; OC 16, 18-22, 25
#[tokio::test(start_paused = true)]
async fn any_number_of_waits_end_with_the_operations_they_wait_for() {
    let rig = Rig::new();
    let ops = registry(&rig).await;
    for n in 1..=3 {
        begin(&ops, n).await;
    }
    let spawn = |ids: Vec<OperationId>| {
        let ops = ops.clone();
        tokio::spawn(async move { ops.wait_all(&ids).await.unwrap() })
    };
    let (all, some, again) = (spawn(vec![op(3), op(1)]), spawn(vec![op(2)]), spawn(vec![op(3), op(1)]));
    let any = tokio::spawn({
        let ops = ops.clone();
        async move { ops.wait_any(&[op(1), op(2)]).await.unwrap() }
    });
    tokio::task::yield_now().await;
    drop(spawn(vec![op(1), op(2), op(3)]));
    some.abort();
    complete(&ops, 2).await;
    assert_eq!(any.await.unwrap().0, op(2));
    ops.fail_operation(op(1), "broken".into()).await.unwrap();
    assert!(!all.is_finished());
    complete(&ops, 3).await;
    let expected = vec![
        (
            op(3),
            OperationTerminalOutcome::Completed(OperationResult { content: "result 3".into(), ..Default::default() }),
        ),
        (op(1), OperationTerminalOutcome::Failed { error: "broken".into() }),
    ];
    assert_eq!(all.await.unwrap(), expected, "in the order asked for");
    assert_eq!(again.await.unwrap(), expected);
    assert!(ops.wait_all(&[]).await.unwrap().is_empty());
    assert_eq!(ops.watch(op(1)).await.unwrap(), OperationTerminalOutcome::Failed { error: "broken".into() });
    let unknown = ops.wait_all(&[op(1), op(9)]).await;
    assert!(matches!(unknown, Err(OpsError::Refused(OpsLifecycleError::NotFound { id })) if id == op(9)));
    assert!(matches!(ops.wait_any(&[]).await, Err(OpsError::Refused(_))));
    let refused = ops.complete_operation(op(1), OperationResult::default()).await;
    assert!(matches!(refused, Err(OpsError::Refused(OpsLifecycleError::InvalidTransition { .. }))));
    assert_eq!(ops.snapshot(op(1)).await.unwrap().status, OperationStatus::Failed);
    assert_eq!(ops.list_operations().await.unwrap().len(), 3);
}

// OC 23: an evicted operation answers from the feed.
#[tokio::test(start_paused = true)]
async fn a_wait_over_an_evicted_operation_answers_at_once() {
    let rig = Rig::with(|builder| builder.limits(rig::limits(|limits| limits.operations_kept = 1)));
    let ops = registry(&rig).await;
    for n in 1..=3 {
        begin(&ops, n).await;
    }
    let waiting = tokio::spawn({
        let ops = ops.clone();
        async move { ops.wait_all(&[op(1), op(2), op(3)]).await.unwrap() }
    });
    for n in 1..=3 {
        complete(&ops, n).await;
    }
    assert_eq!(waiting.await.unwrap().len(), 3);
    assert!(matches!(ops.snapshot(op(1)).await, Err(OpsError::Refused(OpsLifecycleError::NotFound { .. }))));
    assert_eq!(ops.wait_all(&[op(1)]).await.unwrap()[0].0, op(1));
}

// OC 28, 29, 30
#[tokio::test(start_paused = true)]
async fn the_completion_feed_shows_every_completion_once_and_loses_no_wake_up() {
    let rig = Rig::new();
    let ops = registry(&rig).await;
    let feed = ops.completion_feed();
    let reader = tokio::spawn({
        let feed = feed.clone();
        async move {
            let (mut seen, mut after) = (Vec::new(), CompletionSeq::default());
            while seen.len() < 100 {
                feed.wait_for_advance(after).await.unwrap();
                let batch = feed.list_since(after).await.unwrap();
                assert!(batch.lagged_to.is_none());
                seen.extend(batch.entries.iter().map(|entry| entry.seq.0));
                after = batch.watermark;
            }
            seen
        }
    });
    let producers = (1..=100).map(|n| {
        let ops = ops.clone();
        tokio::spawn(async move {
            begin(&ops, n).await;
            tokio::task::yield_now().await;
            complete(&ops, n).await;
        })
    });
    join_all(producers).await;
    assert_eq!(reader.await.unwrap(), (1..=100).collect::<Vec<_>>());
    assert_eq!(feed.watermark().await.unwrap(), CompletionSeq(100));
    assert_eq!(feed.wait_for_advance(CompletionSeq(99)).await.unwrap(), CompletionSeq(100));
}

// S 120, 121; OC 43, 45, 47
#[tokio::test(start_paused = true)]
async fn a_session_is_woken_once_also_when_it_was_put_away() {
    let rig = Rig::with(|builder| builder.idle_after(SECOND));
    let (handle, _, mut runs) = rig.session().await;
    let bindings = rig.adapter.prepare_bindings(session(1)).await.unwrap();
    assert_eq!(rig.adapter.prepare_bindings(session(1)).await.unwrap().epoch_id, bindings.epoch_id);
    let ops = rig.adapter.ops_lifecycle_registry(session(1)).await.unwrap();
    let done = accept(&handle, input(1, "start jobs")).await;
    let run = runs.next().await;
    for n in 1..=2 {
        begin(&run.turn.operations(), n).await;
    }
    run.text("started");
    text(done.wait().await);
    tokio::time::sleep(10 * SECOND).await;
    complete(&ops, 1).await;
    complete(&ops, 2).await;
    let wake = runs.next().await;
    let InputBody::Continuation(told) = &wake.turn.inputs()[0].input.body else { panic!() };
    let last = told.notices.last().unwrap().seq;
    assert!(wake.turn.primitive().text().contains("job 1"));
    handle.advance_applied(last).await.unwrap();
    wake.text("seen");
    // The second may have come after the first wake began; then one more tells of it, and no more.
    tokio::time::sleep(10 * SECOND).await;
    if let Some(second) = runs.started() {
        handle.advance_applied(CompletionSeq(2)).await.unwrap();
        second.text("seen too");
    }
    tokio::time::sleep(1_000 * SECOND).await;
    assert!(runs.started().is_none());
    assert_eq!(handle.status().await.unwrap().open_inputs, 0);
}

// Decisions 14: what a closed run registers is refused.
#[tokio::test(start_paused = true)]
async fn a_cancelled_run_registers_nothing() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    handle.cancel(None, "enough", windlass_core::Disposition::Drop).await.unwrap();
    let refused = run.turn.operations().register_operation(spec(1)).await;
    assert!(matches!(refused, Err(OpsError::Refused(OpsLifecycleError::RunClosed))), "{refused:?}");
}

// S 178; OC 39
#[tokio::test(start_paused = true)]
async fn a_crash_ends_what_was_under_way_and_the_session_hears_of_it() {
    let rig = Rig::new();
    let ops = registry(&rig).await;
    for n in 1..=100 {
        begin(&ops, n).await;
    }
    join_all((1..=99).map(|n| complete(&ops, n))).await;

    let after = rig.crash();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&told);
    let executor = executor_fn(move |turn: Turn| {
        let told = Arc::clone(&kept);
        async move {
            for accepted in turn.inputs() {
                if let InputBody::Continuation(news) = &accepted.input.body {
                    told.lock().unwrap().extend(news.notices.iter().map(|entry| entry.seq.0));
                    if let Some(last) = news.notices.last() {
                        turn.applied(last.seq).await?;
                    }
                }
            }
            Ok(CoreApplyOutput::text("seen"))
        }
    });
    after.adapter.ensure_session_with_executor(session(1), Arc::new(executor)).await.unwrap();
    let ops = after.adapter.ops_lifecycle_registry(session(1)).await.unwrap();
    let lost = ops.watch(op(100)).await.unwrap();
    assert_eq!(lost, OperationTerminalOutcome::Terminated { reason: "owner lost".into() });
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(*told.lock().unwrap(), (1..=100).collect::<Vec<_>>(), "each completion once, in order");
    let entries = rig.store.as_ref();
    let entries = windlass_runtime::store::Store::read(entries, session(1), Seq::ZERO, 1_000).await.unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.record.name() == "operation_ended").count(), 100);
}

// G18, G27: a restart needs nobody to ask, also if nothing but an operation was under way.
#[tokio::test(start_paused = true)]
async fn a_restart_resumes_a_session_that_only_waits_for_an_operation() {
    let rig = Rig::new();
    begin(&registry(&rig).await, 1).await;
    let after = rig.crash();
    assert_eq!(after.adapter.resume_pending().await.unwrap(), 1);
    let entries = windlass_runtime::store::Store::read(&*rig.store, session(1), Seq::ZERO, 100).await.unwrap();
    assert_eq!(entries.last().unwrap().record.name(), "operation_ended", "nobody asked");
}

// OC 17: a wait neither spins nor hangs, whatever the session has seen before, and hears when it is let go.
#[tokio::test(start_paused = true)]
async fn a_wait_that_begins_after_other_completions_waits_and_hears_of_the_end_of_its_session() {
    let rig = Rig::new();
    let ops = registry(&rig).await;
    begin(&ops, 1).await;
    complete(&ops, 1).await;
    begin(&ops, 2).await;
    let (watching, following) = (ops.clone(), ops.completion_feed());
    let watch = tokio::spawn(async move { watching.watch(op(2)).await });
    let follow = tokio::spawn(async move { following.wait_for_advance(CompletionSeq(1)).await });
    tokio::time::sleep(10 * SECOND).await;
    assert!(!watch.is_finished() && !follow.is_finished());
    rig.adapter.unregister_session(session(1)).await.unwrap();
    assert!(watch.await.unwrap().is_err() && follow.await.unwrap().is_err(), "told, not forgotten");
}

/// A clock that counts who looks at it. Every turn of a session's loop that steps does.
#[derive(Debug)]
struct Watched {
    clock: ManualClock,
    looks: AtomicU64,
}

impl Clock for Watched {
    fn now(&self) -> Timestamp {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.clock.now()
    }
}

// CPU of an idle process: nothing turns while completions and passive inputs wait, neither in sessions that are open
// nor in those that were put away (S 125).
#[tokio::test(start_paused = true)]
async fn ten_thousand_sessions_with_pending_completions_and_nobody_to_run_them_turn_no_loops() {
    const SESSIONS: u128 = 10_000;
    let start = Timestamp::from_micros(rig::START);
    let clock = Arc::new(Watched { clock: ManualClock::starting_at(start), looks: AtomicU64::new(0) });
    let rig = Rig::with(|builder| builder.idle_after(60 * SECOND).clock(Arc::clone(&clock) as _));
    for n in 1..=SESSIONS {
        let handle = rig.adapter.register_session(session(n)).await.unwrap();
        handle.accept_without_wake(input(n, "passive")).await.unwrap();
        begin(&handle.operations(), n).await;
        complete(&handle.operations(), n).await;
    }
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let looks_within = async |time| {
        let before = clock.looks.load(Ordering::Relaxed);
        tokio::time::sleep(time).await;
        clock.looks.load(Ordering::Relaxed) - before
    };
    tokio::time::sleep(SECOND).await;
    let turns = looks_within(50 * SECOND).await;
    assert!(alive() as u128 >= SESSIONS, "every session is open");
    assert!(turns <= 2, "nothing turns but the one alarm clock: {turns}");
    tokio::time::sleep(300 * SECOND).await;
    assert!(alive() <= 2, "every session is put away: {} tasks", alive());
    let opened = rig.store.calls(Call::Open);
    let turns = looks_within(3_600 * SECOND).await;
    assert!(turns <= 200, "the alarm clock, once a minute: {turns}");
    assert_eq!(rig.store.calls(Call::Open), opened, "and nobody opens them again and again");
}
