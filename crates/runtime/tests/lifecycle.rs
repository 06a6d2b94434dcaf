//! How are sessions registered, attached, controlled, put away, resumed and let go?

mod rig;

use async_trait::async_trait;
use rig::{Rig, SECOND, accept, follow, rejected, state, text};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};
use windlass_core::{
    AcceptOutcome, BoundaryOutput, Disposition, HandlingMode, InputState, JsonText, LogicalRuntimeId, RejectReason,
    RuntimeState, Seq, SessionId,
};
use windlass_runtime::{
    Attachment, CompletionOutcome, CoreApplyOutput, CoreExecutor, CoreExecutorError, ExecutorFactory, FeedItem,
    RunControlCommand, RuntimeControlPlane, RuntimeDriverError, RuntimeMode, RuntimeSessionAdapter, SessionError,
    SessionServiceRuntimeExt, Turn, executor_fn,
    store::{InputRef, ListQuery, Store, StoreError},
    testing::{ManualExecutor, input, input_id, session},
};

/// Makes echoes, and counts how many it was asked for.
#[derive(Default)]
struct Echoes(AtomicUsize);

#[async_trait]
impl ExecutorFactory for Echoes {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(echo()))
    }
}

fn echo() -> impl CoreExecutor {
    executor_fn(|turn: Turn| async move { Ok(CoreApplyOutput::text(turn.primitive().text())) })
}

// S 112, 115, 117; OC 85, 86
#[tokio::test(start_paused = true)]
async fn the_first_executor_stays_and_only_one_ever_runs() {
    let rig = Rig::new();
    assert!(!rig.adapter.session_has_executor(&session(1)));
    rig.adapter.register_session(session(1)).await.unwrap();
    assert!(!rig.adapter.session_has_executor(&session(1)));
    let executors: Vec<_> = (0..8).map(|_| ManualExecutor::new()).collect();
    let attached = executors.iter().map(|(executor, _)| {
        let (adapter, executor) = (rig.adapter.clone(), Arc::clone(executor));
        tokio::spawn(async move { adapter.register_session_with_executor(session(1), executor).await.unwrap() })
    });
    let attached = futures_util::future::join_all(attached).await;
    let first = attached.into_iter().filter(|result| matches!(result, Ok(Attachment::Attached))).count();
    assert_eq!(first, 1);
    assert!(rig.adapter.session_has_executor(&session(1)));
    let handle = rig.handle().await;
    let done = accept(&handle, input(1, "a")).await;
    let (mut started, mut runs) = (0, executors.into_iter().map(|(_, runs)| runs).collect::<Vec<_>>());
    tokio::task::yield_now().await;
    for run in runs.iter_mut().filter_map(windlass_runtime::testing::Runs::started) {
        started += 1;
        run.text("one");
    }
    assert_eq!((started, text(done.wait().await)), (1, "one".to_owned()));
}

// S 113, 158; OC 84
#[tokio::test(start_paused = true)]
async fn what_waited_runs_when_an_executor_is_attached() {
    let rig = Rig::new();
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    let done = accept(&handle, input(1, "a")).await;
    handle.accept_without_wake(input(2, "b")).await.unwrap();
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Idle);
    let (executor, mut runs) = ManualExecutor::new();
    rig.attach(&executor).await;
    runs.next().await.text("a");
    assert_eq!(text(done.wait().await), "a");
    runs.next().await.text("attaching makes everything due");
}

// S 116; OC 95
#[test]
fn an_input_accepted_while_attaching_never_waits_for_other_traffic() {
    for yields in 0..40 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new();
            rig.adapter.register_session(session(1)).await.unwrap();
            let adapter = rig.adapter.clone();
            let attaching = tokio::spawn(async move {
                adapter.ensure_session_with_executor(session(1), Arc::new(echo())).await.unwrap();
            });
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
            let done = accept(&rig.handle().await, input(1, "seen")).await;
            assert_eq!(text(done.wait().await), "seen");
            attaching.await.unwrap();
        });
    }
}

// S 110, 114; OC 90, 91, 96
#[tokio::test(start_paused = true)]
async fn a_session_that_is_registered_again_never_runs_twice_at_once() {
    let rig = Rig::new();
    let (handle, executor, mut runs) = rig.session().await;
    let first = accept(&handle, input(1, "a")).await;
    let _run = runs.next().await;
    rig.adapter.unregister_session(session(1)).await.unwrap();
    let told = CompletionOutcome::RuntimeTerminated("runtime session unregistered".into());
    assert_eq!(first.wait().await, told);
    assert!(!rig.adapter.contains_session(session(1)).await.unwrap());
    let error = rig.adapter.accept_input(&session(1), input(2, "b")).await.unwrap_err();
    assert!(matches!(error, RuntimeDriverError::NotReady { state: RuntimeState::Destroyed }));
    rig.adapter.unregister_session(session(1)).await.unwrap();

    let handle = rig.attach(&executor).await;
    let again = runs.next().await;
    assert_eq!(again.turn.primitive().text(), "a", "the store was not touched");
    again.text("a");
    let done = handle.completion(InputRef::Id(input_id(1))).await.unwrap();
    assert_eq!(text(done.wait().await), "a");
    assert_eq!(executor.most_running(), 1);
}

// S 107, 102; OC 110; L-05
#[tokio::test(start_paused = true)]
async fn an_executor_may_unregister_its_own_session_when_it_is_stopped() {
    struct Leaving(RuntimeSessionAdapter, Arc<Mutex<Vec<String>>>);
    #[async_trait]
    impl CoreExecutor for Leaving {
        async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
            turn.cancelled().await;
            Err(CoreExecutorError::retryable("stopped"))
        }
        async fn stopped(&self, session: SessionId, reason: &str) {
            self.1.lock().unwrap().push(reason.to_owned());
            self.0.unregister_session(session).await.unwrap();
        }
    }
    let rig = Rig::new();
    let stops = Arc::new(Mutex::new(Vec::new()));
    let executor = Arc::new(Leaving(rig.adapter.clone(), Arc::clone(&stops)));
    rig.adapter.ensure_session_with_executor(session(1), executor).await.unwrap();
    let done = accept(&rig.handle().await, input(1, "a")).await;
    let stop = RunControlCommand::StopRuntimeExecutor { reason: "test".into() };
    rig.adapter.stop_runtime_executor(&session(1), stop).await.unwrap();
    assert_eq!(done.wait().await, CompletionOutcome::RuntimeTerminated("runtime stopped".into()));
    assert_eq!(*stops.lock().unwrap(), ["runtime stopped"], "told once, and done before the stop was answered");
    assert!(!rig.adapter.contains_session(session(1)).await.unwrap());
}

// S 101, 103, 153; decisions 17
#[tokio::test(start_paused = true)]
async fn a_stopped_session_is_revived_by_registering_it_again() {
    let rig = Rig::new();
    let (handle, executor, mut runs) = rig.session().await;
    let running = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    let waiting = accept(&handle, input(2, "b")).await;
    handle.stop().await.unwrap();
    handle.stop().await.unwrap();
    drop((running, waiting, run));
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Stopped);
    assert!(runs.started().is_none(), "queued work is not executed");
    let refused = rejected(handle.accept(input(3, "c")).await.unwrap());
    assert_eq!(refused, RejectReason::NotReady { state: RuntimeState::Stopped });

    let after = rig.crash();
    assert_eq!(after.adapter.session(session(1)).await.unwrap().state().await.unwrap(), RuntimeState::Stopped);
    let handle = after.adapter.register_session(session(1)).await.unwrap();
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Idle);
    after.attach(&executor).await;
    let done = accept(&handle, input(3, "c")).await;
    runs.next().await.text("c");
    assert_eq!(text(done.wait().await), "c");
    let cancel = RunControlCommand::CancelCurrentRun { reason: "x".into() };
    let none = after.adapter.stop_runtime_executor(&session(1), cancel).await.unwrap_err();
    assert!(matches!(none, RuntimeDriverError::NotReady { state: RuntimeState::Attached }));
}

// S 109, 151, 160; OC 88, 103
#[tokio::test(start_paused = true)]
async fn a_retired_session_drains_also_after_a_restart() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    accept(&handle, input(1, "a")).await;
    accept(&handle, input(2, "b")).await;
    let report = handle.retire().await.unwrap();
    assert_eq!((report.inputs_abandoned, report.inputs_pending_drain), (0, 2));
    assert_eq!(handle.retire().await.unwrap().inputs_pending_drain, 2, "S 89: idempotent");
    let refused = rejected(handle.accept(input(3, "c")).await.unwrap());
    assert_eq!(refused, RejectReason::NotReady { state: RuntimeState::Retired });
    runs.next().await.text("a");
    let _hanging = runs.next().await;

    let after = rig.crash();
    let (executor, mut runs) = ManualExecutor::new();
    let handle = after.attach(&executor).await;
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Retired);
    let done = handle.completion(InputRef::Id(input_id(2))).await.unwrap();
    runs.next().await.text("b");
    assert_eq!(text(done.wait().await), "b");
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Retired);
    assert!(handle.active_inputs().await.unwrap().is_empty());
}

// S 88, 105, 162, 164, 165, 166; OC 105, 106
#[tokio::test(start_paused = true)]
async fn reset_empties_recycle_keeps_and_both_leave_the_executor_attached() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let id = LogicalRuntimeId::from(session(1));
    accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    assert!(matches!(handle.reset(false).await, Err(SessionError::Refused(_))), "S 86: not while running");
    assert!(matches!(handle.recycle().await, Err(SessionError::Refused(_))));
    run.text("a");
    handle.hold().await.unwrap();
    let kept = accept(&handle, input(2, "b")).await;
    assert_eq!(rig.adapter.recycle(&id).await.unwrap().inputs_transferred, 1);
    handle.release().await.unwrap();
    runs.next().await.text("b");
    assert_eq!(text(kept.wait().await), "b", "its waiter stayed");

    handle.hold().await.unwrap();
    let lost = accept(&handle, input(3, "c")).await;
    assert_eq!(RuntimeControlPlane::reset(&rig.adapter, &id).await.unwrap().inputs_abandoned, 1);
    assert_eq!(lost.wait().await, CompletionOutcome::RuntimeTerminated("runtime reset".into()));
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Attached);
    handle.release().await.unwrap();
    handle.retire().await.unwrap();
    handle.reset(false).await.unwrap();
    let again = accept(&handle, input(4, "d")).await;
    let run = runs.next().await;
    assert_eq!(run.turn.primitive().text(), "d", "the executor never saw what was reset");
    run.text("d");
    assert_eq!(text(again.wait().await), "d");
}

// S 139, 157
#[tokio::test(start_paused = true)]
async fn recover_compares_memory_with_the_journal_and_refuses_during_a_run() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let other = rig.adapter.register_session(session(2)).await.unwrap();
    accept(&other, input(1, "elsewhere")).await;
    handle.hold().await.unwrap();
    accept(&handle, input(1, "a")).await;
    accept(&handle, input(2, "b")).await;
    for _ in 0..2 {
        assert_eq!(handle.recover().await.unwrap().inputs_transferred, 2, "idempotent");
    }
    assert_eq!(other.active_inputs().await.unwrap().len(), 1, "runtimes do not see each other");
    handle.release().await.unwrap();
    let run = runs.next().await;
    assert!(matches!(handle.recover().await, Err(SessionError::Refused(_))));
    run.text("a");
}

// S 111; OC 89
#[tokio::test(start_paused = true)]
async fn a_session_whose_owner_was_put_away_is_opened_by_its_next_use() {
    let rig = Rig::with(|builder| builder.idle_after(SECOND));
    let (handle, _, mut runs) = rig.session().await;
    let opened = rig.store.calls(windlass_runtime::testing::faulty_store::Call::Open);
    tokio::time::sleep(10 * SECOND).await;
    let done = accept(&handle, input(1, "a")).await;
    runs.next().await.text("the executor attached by hand stays");
    text(done.wait().await);
    assert_eq!(rig.store.calls(windlass_runtime::testing::faulty_store::Call::Open), opened + 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_factory_costs_nothing_when_it_is_put_away() {
    let factory = Arc::new(Echoes::default());
    let made = Arc::clone(&factory);
    let rig = Rig::with(|builder| builder.idle_after(SECOND).factory(factory));
    rig.adapter.create_session(session(1), Some("echo")).await.unwrap();
    let done = accept(&rig.handle().await, input(1, "a")).await;
    assert_eq!(text(done.wait().await), "a");
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(format!("{:?}", rig.adapter), "RuntimeSessionAdapter { sessions: 0, .. }");
    assert!(rig.adapter.contains_session(session(1)).await.unwrap());
    let again = rig.adapter.accept_input_with_completion(&session(1), input(2, "b")).await.unwrap().1.unwrap();
    assert_eq!(text(again.wait().await), "b");
    assert_eq!(made.0.load(Ordering::SeqCst), 2, "one executor per opening");
    assert_eq!(rig.handle().await.status().await.unwrap().agent.as_deref(), Some("echo"));
}

#[tokio::test(start_paused = true)]
async fn a_restart_resumes_pending_work_with_no_one_asking() {
    let rig = Rig::new();
    for n in 1..=40 {
        let handle = rig.adapter.register_session(session(n)).await.unwrap();
        handle.accept(input(n, "pending")).await.unwrap();
    }
    rig.adapter.register_session(session(99)).await.unwrap();
    let after =
        Rig::on(Arc::clone(&rig.store) as Arc<dyn Store>, |builder| builder.factory(Arc::new(Echoes::default())));
    assert_eq!(after.adapter.resume_pending().await.unwrap(), 40);
    for n in 1..=40 {
        let handle = after.adapter.session(session(n)).await.unwrap();
        let done = handle.completion(InputRef::Id(input_id(n))).await.unwrap();
        assert_eq!(text(done.wait().await), "pending");
    }
    let query = ListQuery { pending: true, limit: 100, ..ListQuery::default() };
    assert!(after.adapter.list_sessions(query).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_due_later_wakes_a_session_that_was_put_away() {
    let rig = Rig::with(|builder| {
        let limits = rig::limits(|limits| {
            limits.backoff = 600 * SECOND;
            limits.backoff_max = 3_600 * SECOND;
        });
        builder.idle_after(SECOND).limits(limits)
    });
    let (handle, _, mut runs) = rig.session().await;
    handle.accept(input(1, "a")).await.unwrap();
    runs.next().await.fail("later");
    tokio::time::sleep(20 * SECOND).await;
    let again = runs.next().await;
    assert_eq!(again.turn.attempt(), 2);
    again.text("a");
}

#[tokio::test(start_paused = true)]
async fn shutdown_releases_runs_at_no_cost_and_ends() {
    let rig = Rig::with(|builder| builder.limits(rig::limits(|limits| limits.attempts = 1)));
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let _run = runs.next().await;
    rig.adapter.shutdown().await;
    assert_eq!(done.wait().await, CompletionOutcome::RuntimeTerminated("runtime shut down".into()));
    assert!(matches!(handle.accept(input(2, "b")).await, Err(SessionError::Draining)));
    let after = Rig::on(Arc::clone(&rig.store) as Arc<dyn Store>, |builder| {
        builder.limits(rig::limits(|limits| limits.attempts = 1))
    });
    let (executor, mut runs) = ManualExecutor::new();
    let handle = after.attach(&executor).await;
    let done = handle.completion(InputRef::Id(input_id(1))).await.unwrap();
    runs.next().await.text("only one attempt was allowed, and none was counted");
    text(done.wait().await);
}

#[tokio::test(start_paused = true)]
async fn runs_are_finished_and_no_other_begins_whoever_asks() {
    let rig = Rig::new();
    let (handle, executor, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    let behind = accept(&handle, input(2, "b")).await;
    let finished = tokio::spawn({
        let adapter = rig.adapter.clone();
        async move { adapter.finish_runs().await }
    });
    tokio::time::sleep(SECOND).await;
    assert!(!finished.is_finished(), "a run is on");
    run.text("A");
    finished.await.unwrap();
    assert_eq!(text(done.wait().await), "A");
    // Not by an executor that is attached, nor in a session that is opened now.
    rig.adapter.ensure_session_with_executor(session(1), Arc::clone(&executor) as _).await.unwrap();
    rig.adapter.ensure_session_with_executor(session(2), executor).await.unwrap();
    rig.adapter.session(session(2)).await.unwrap().accept(input(3, "c")).await.unwrap();
    assert_eq!(state(&handle, input_id(2)).await, Some(InputState::Queued), "admitted, and kept");
    tokio::time::sleep(600 * SECOND).await;
    assert!(runs.started().is_none());
    rig.adapter.finish_runs().await;
    rig.adapter.shutdown().await;
    assert_eq!(behind.wait().await, CompletionOutcome::RuntimeTerminated("runtime shut down".into()));
}

#[tokio::test(start_paused = true)]
async fn a_destroyed_session_stays_so_until_it_is_deleted() {
    let rig = Rig::new();
    let (handle, executor, _runs) = rig.session().await;
    assert!(matches!(rig.adapter.delete_session(session(1)).await, Err(SessionError::Refused(_))));
    rig.adapter.destroy(&session(1).into()).await.unwrap();
    handle.destroy().await.unwrap();
    assert_eq!(
        RuntimeControlPlane::runtime_state(&rig.adapter, &session(1).into()).await.unwrap(),
        RuntimeState::Destroyed
    );
    let refused = rig.adapter.ensure_session_with_executor(session(1), executor).await;
    assert!(matches!(refused, Err(SessionError::Refused(_))), "{refused:?}");
    rig.adapter.delete_session(session(1)).await.unwrap();
    rig.adapter.delete_session(session(1)).await.unwrap();
    assert!(matches!(rig.adapter.session(session(1)).await, Err(SessionError::NotFound(_))));
}

// S 57; the feed is the journal.
#[tokio::test(start_paused = true)]
async fn the_feed_resumes_anywhere_and_shows_progress_live() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let mut live = handle.feed(Seq::ZERO);
    let done = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    for expected in ["session_created", "input_accepted", "run_started"] {
        let FeedItem::Entry(entry) = live.next().await.unwrap() else { panic!() };
        assert_eq!(entry.record.name(), expected);
    }
    let waiting = tokio::spawn(async move { (live.next().await.unwrap(), live) });
    tokio::task::yield_now().await;
    run.turn.progress(JsonText::encode(&"half-way").unwrap());
    let (item, mut live) = waiting.await.unwrap();
    assert!(matches!(item, FeedItem::Progress(progress) if progress.delta.get() == "\"half-way\""));
    run.turn.commit(BoundaryOutput::default()).await.unwrap();
    run.text("a");
    done.wait().await;
    handle.note(JsonText::encode(&"noted").unwrap()).await.unwrap();
    for expected in ["boundary_committed", "run_ended", "noted"] {
        let FeedItem::Entry(entry) = live.next().await.unwrap() else { panic!() };
        assert_eq!(entry.record.name(), expected);
    }
    assert_eq!(follow(&handle, Seq(4), 2).await, ["run_ended", "noted"]);
}

// S 140, 141, 180 in small: what is kept is bounded, and a feed that is too old is told so.
#[tokio::test(start_paused = true)]
async fn journals_are_pruned_behind_their_snapshots_and_keys_are_still_known() {
    let rig = Rig::with(|builder| builder.entries_kept(0));
    rig.adapter.ensure_session_with_executor(session(1), Arc::new(echo())).await.unwrap();
    let handle = rig.handle().await;
    for n in 1..=1_000 {
        let done = accept(&handle, input(n, "x").with_key(&format!("k{n}")).unwrap()).await;
        done.wait().await;
    }
    let head = handle.status().await.unwrap().head;
    let oldest = match rig.store.read(session(1), Seq::ZERO, 1).await {
        Err(StoreError::Pruned { oldest }) => oldest,
        kept => panic!("{kept:?}"),
    };
    assert!(head.0 - oldest.0 <= 1_100, "entries after {oldest} of {head} are kept");
    let pruned = handle.feed(Seq::ZERO).next().await;
    assert!(matches!(pruned, Err(StoreError::Pruned { .. })), "{pruned:?}");
    let duplicate = handle.accept(input(9_999, "x").with_key("k1").unwrap()).await.unwrap();
    assert!(matches!(duplicate, AcceptOutcome::Deduplicated { existing_id, .. } if existing_id == input_id(1)));
    let forgotten = handle.completion(InputRef::Id(input_id(1))).await.unwrap().wait().await;
    assert_eq!(forgotten, CompletionOutcome::Forgotten(InputState::Consumed));

    let after = rig.crash();
    let handle = after.adapter.register_session(session(1)).await.unwrap();
    assert_eq!(state(&handle, input_id(500)).await, Some(InputState::Consumed), "the snapshot remembers");
    let duplicate = handle.accept(input(9_999, "x").with_key("k1000").unwrap()).await.unwrap();
    assert!(matches!(duplicate, AcceptOutcome::Deduplicated { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_redriven_once() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    accept(&handle, input(1, "a").with_key("k").unwrap()).await;
    runs.next().await.finish(Err(CoreExecutorError::fatal("broken")));
    while state(&handle, input_id(1)).await != Some(InputState::Abandoned) {
        tokio::task::yield_now().await;
    }
    let (outcome, done) = handle.redrive(input_id(1)).await.unwrap();
    assert!(matches!(outcome, AcceptOutcome::Accepted { .. }), "{outcome:?}");
    let twice = handle.redrive(input_id(1)).await.unwrap().0;
    assert!(matches!(twice, AcceptOutcome::Deduplicated { .. }), "{twice:?}");
    let run = runs.next().await;
    assert_eq!(run.turn.primitive().text(), "a");
    run.text("mended");
    assert_eq!(text(done.unwrap().wait().await), "mended");
    let alive = handle.redrive(input_id(404)).await.unwrap().0;
    assert_eq!(rejected(alive), RejectReason::NotADeadLetter { input: input_id(404) });
}

#[tokio::test(start_paused = true)]
async fn the_references_names_do_what_they_say() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let (adapter, id) = (&rig.adapter, session(1));
    assert_eq!(adapter.runtime_mode(), RuntimeMode::V9Compliant);
    adapter.set_session_silent_intents(&id, vec!["b".into(), "a".into(), "b".into()]).await.unwrap();
    adapter.accept_input_without_wake(&id, input(1, "a")).await.unwrap();
    assert_eq!(SessionServiceRuntimeExt::runtime_state(adapter, &id).await.unwrap(), RuntimeState::Attached);
    assert_eq!(adapter.input_state(&id, &input_id(1)).await.unwrap(), Some(InputState::Queued));
    assert_eq!(adapter.list_active_inputs(&id).await.unwrap(), [input_id(1)]);
    assert_eq!(adapter.reset_runtime(&id).await.unwrap().inputs_abandoned, 1);
    let ran = adapter
        .accept_input_and_run(&id, input(2, "b"), |_, _| async { Ok::<_, String>(CoreApplyOutput::text("b")) })
        .await
        .unwrap();
    assert_eq!(ran.unwrap(), CoreApplyOutput::text("b"));
    let twice =
        adapter.accept_input_and_run(&id, input(2, "b"), |_, _| async { Ok::<_, String>(CoreApplyOutput::default()) });
    assert!(matches!(twice.await, Err(RuntimeDriverError::ValidationFailed { code: "duplicate_input", .. })));
    let done = accept(&handle, input(3, "c").with_mode(HandlingMode::Steer)).await;
    let run = runs.next().await;
    let (run_id, cancelled) = (run.turn.run(), adapter.interrupt_current_run(&id).await.unwrap());
    assert!(matches!(cancelled, windlass_core::CancelOutcome::Cancelled { run, .. } if run == run_id));
    done.wait().await;
    let none = handle.cancel(None, "x", Disposition::Drop).await.unwrap();
    assert_eq!(none, windlass_core::CancelOutcome::NoSuchRun);
    adapter.publish_event(&id.into(), JsonText::encode(&1).unwrap()).await.unwrap();
    adapter.recover(&id.into()).await.unwrap();
    assert!(adapter.load_boundary_receipt(&id.into(), &run_id, 0).await.unwrap().is_none());
    RuntimeControlPlane::retire(adapter, &id.into()).await.unwrap();
    assert_eq!(adapter.retire_runtime(&id).await.unwrap().inputs_pending_drain, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_suspended_run_said_is_kept_until_it_is_over() {
    let rig = Rig::with(|builder| {
        let limits = rig::limits(|limits| limits.backoff = 300 * SECOND);
        builder.idle_after(SECOND).entries_kept(0).limits(limits)
    });
    let (handle, _, mut runs) = rig.session().await;
    handle.accept(input(1, "a")).await.unwrap();
    let run = runs.next().await;
    let delta = Some(JsonText::encode(&"step one").unwrap());
    run.turn.commit(BoundaryOutput { delta, ..BoundaryOutput::default() }).await.unwrap();
    run.fail("later");
    let again = runs.next().await;
    let history = again.turn.history(Seq(2), 10).await.unwrap();
    let names: Vec<_> = history.iter().map(|entry| entry.record.name()).collect();
    assert_eq!(names, ["run_started", "boundary_committed", "run_ended", "run_started"]);
    again.text("a");
}
