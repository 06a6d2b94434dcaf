//! What happens in the narrow places: while a session is let go, while its store fails, while its owner dies?

mod rig;

use async_trait::async_trait;
use futures_util::future::join_all;
use rig::{Rig, SECOND, accept, limits, state, text};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use windlass_core::{
    AbandonReason, AcceptOutcome, BoundaryOutput, Cause, ContentBlock, Disposition, Durability, Input, InputState,
    JsonText, MediaSource, PeerConvention, ProgressPhase, RuntimeState, Seq, SessionId, Timestamp,
};
use windlass_runtime::{
    Attachment, Clock, CompletionOutcome, CoreApplyOutput, CoreExecutor, CoreExecutorError, ExecutorFactory, FeedItem,
    RuntimeControlPlane, SessionError, TurnError, executor_fn,
    memory::MemoryStore,
    store::{InputRef, Store},
    testing::{
        ManualExecutor,
        faulty_store::{Call, Fault},
        input, input_id, session,
    },
};

/// Long enough for anything that ends at all; time is paused, so it costs nothing.
async fn ends<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(3_600 * SECOND, what).await.expect("it ends")
}

/// Lets every task do what it can do without time passing.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn echo() -> Arc<dyn CoreExecutor> {
    Arc::new(executor_fn(|turn| async move { Ok(CoreApplyOutput::text(turn.primitive().text())) }))
}

fn progress(n: u128, scope: &str) -> Input {
    let convention = PeerConvention::ResponseProgress { request_id: "r".into(), phase: ProgressPhase::InProgress };
    Input::peer(input_id(n), Timestamp::ZERO, "peer", convention, format!("progress {n}")).superseding(scope).unwrap()
}

// S 110. Letting go used to open the door before the executor was gone: who came then found nobody, called a second
// owner, and the same input ran twice at once.
#[tokio::test(start_paused = true)]
async fn nobody_else_owns_a_session_until_its_last_executor_is_gone() {
    let rig = Rig::new();
    let (executor, mut runs) = ManualExecutor::deaf();
    let handle = rig.attach(&executor).await;
    handle.accept(input(1, "a")).await.unwrap();
    let _run = runs.next().await;
    let adapter = rig.adapter.clone();
    let leaving = tokio::spawn(async move { adapter.unregister_session(session(1)).await });
    settle().await;
    let early = rig.adapter.ensure_session_with_executor(session(1), Arc::clone(&executor) as _).await;
    assert!(matches!(early, Err(SessionError::Draining)), "{early:?}");
    assert!(matches!(handle.accept(input(2, "b")).await, Err(SessionError::Draining)));
    rig.adapter.unregister_session(session(1)).await.unwrap();
    assert!(leaving.is_finished(), "who lets go a second time waits with the first");
    leaving.await.unwrap().unwrap();
    rig.attach(&executor).await;
    runs.next().await.text("a");
    assert_eq!(executor.most_running(), 1);
}

// S 167. A handle that outlived its session's registration used to call an owner of its own, beside that of the next
// registration.
#[tokio::test(start_paused = true)]
async fn a_handle_names_a_session_and_keeps_none() {
    let rig = Rig::new();
    let (handle, executor, mut runs) = rig.session().await;
    rig.adapter.unregister_session(session(1)).await.unwrap();
    let opened = rig.store.calls(Call::Open);
    assert!(matches!(handle.accept(input(1, "a")).await, Err(SessionError::NotFound(_))));
    assert!(matches!(handle.state().await, Err(SessionError::NotFound(_))));
    assert_eq!(rig.store.calls(Call::Open), opened);
    rig.attach(&executor).await;
    let done = accept(&handle, input(1, "a")).await;
    runs.next().await.text("a");
    assert_eq!(text(done.wait().await), "a", "the same name, registered again");
    assert_eq!(rig.store.calls(Call::Open), opened + 1, "one owner");
}

// Letting go of a session that is put away used to open it, and to run what waited, only to let go of it.
#[tokio::test(start_paused = true)]
async fn a_session_that_is_put_away_is_let_go_without_being_opened() {
    let rig = Rig::with(|builder| builder.idle_after(SECOND));
    let (_, executor, _runs) = rig.session().await;
    tokio::time::sleep(10 * SECOND).await;
    let opened = rig.store.calls(Call::Open);
    rig.adapter.unregister_session(session(1)).await.unwrap();
    settle().await;
    assert_eq!((rig.store.calls(Call::Open), executor.stops().len()), (opened, 1));
    assert!(!rig.adapter.contains_session(session(1)).await.unwrap());
}

// An owner that lost its store waits for its executor, whose report used to wait for room in the full mailbox of that
// owner.
#[tokio::test(start_paused = true)]
async fn a_full_mailbox_does_not_keep_a_lost_session_from_coming_back() {
    let rig = Rig::new();
    let (executor, mut runs) = ManualExecutor::deaf();
    let handle = rig.attach(&executor).await;
    let done = accept(&handle, input(1, "a")).await;
    let _run = runs.next().await;
    rig.store.close_gate();
    let offers = (2..4_000).map(|n| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.accept(input(n, "more")).await })
    });
    let offers: Vec<_> = offers.collect();
    rig.store.waiting(1).await;
    settle().await;
    rig.store.fail(Call::Append, 1, Fault::Unavailable);
    rig.store.open_gate();
    ends(join_all(offers)).await;
    ends(runs.next()).await.text("a");
    assert_eq!(text(done.wait().await), "a");
    assert_eq!(executor.most_running(), 1);
}

// Decisions 19. Only a waiter kept an owner through a failure; without one the next owner took the store's failure for
// the death of a process, counted an attempt, and called the ephemeral lost.
#[tokio::test(start_paused = true)]
async fn a_failure_of_the_store_costs_no_attempt_although_nobody_waits() {
    for fault in [Fault::Full, Fault::Unavailable, Fault::UnknownNotDone] {
        let rig = Rig::with(|builder| builder.limits(limits(|limits| limits.attempts = 1)));
        let (handle, _, mut runs) = rig.session().await;
        handle.accept(input(1, "a")).await.unwrap();
        let run = runs.next().await;
        handle.accept(input(2, "b").with_durability(Durability::Ephemeral)).await.unwrap();
        handle.state().await.unwrap();
        rig.store.fail(Call::Append, 1, fault);
        run.text("a");
        let again = ends(runs.next()).await;
        assert_eq!(again.turn.primitive().text(), "a", "{fault:?}");
        again.text("a");
        ends(runs.next()).await.text("b");
        handle.state().await.unwrap();
        settle().await;
        assert_eq!(state(&handle, input_id(1)).await, Some(InputState::Consumed), "{fault:?}");
        assert_eq!(state(&handle, input_id(2)).await, Some(InputState::Consumed), "{fault:?}");
    }
}

// Each sweep used to begin anew at a tenth of a second, so a store that was down for a night was asked ten times a
// second, for each session.
#[tokio::test(start_paused = true)]
async fn a_store_that_stays_down_is_asked_less_and_less() {
    let rig = Rig::new();
    let (handle, ..) = rig.session().await;
    for nth in 2..10_000 {
        rig.store.fail(Call::Open, nth - 1, Fault::Unavailable);
    }
    rig.store.fail(Call::Append, 1, Fault::Unavailable);
    handle.accept(input(1, "a")).await.unwrap_err();
    let before = rig.store.calls(Call::Open);
    tokio::time::sleep(3_600 * SECOND).await;
    let asked = rig.store.calls(Call::Open) - before;
    assert!((30..100).contains(&asked), "asked {asked} times in an hour");
}

// Whoever waited while the runtime shut down on a dead store kept the owner, and the shutdown, for ever.
#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_although_the_store_is_down() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    for nth in 1..1_000 {
        rig.store.fail(Call::Open, nth, Fault::Unavailable);
    }
    rig.store.fail(Call::Append, 1, Fault::Unavailable);
    run.text("a");
    settle().await;
    ends(rig.adapter.shutdown()).await;
    assert_eq!(done.wait().await, CompletionOutcome::RuntimeTerminated("runtime shut down".into()));
}

#[tokio::test(start_paused = true)]
async fn a_session_can_be_unregistered_although_the_store_is_down() {
    let rig = Rig::new();
    let (handle, executor, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    rig.store.fail(Call::Append, 1, Fault::Unavailable);
    rig.store.fail(Call::Open, 1, Fault::Unavailable);
    run.text("a");
    settle().await;
    let left = ends(rig.adapter.unregister_session(session(1))).await;
    assert!(matches!(left, Err(SessionError::Store(_))), "{left:?}");
    let told = CompletionOutcome::RuntimeTerminated("runtime session unregistered".into());
    assert_eq!(done.wait().await, told);
    settle().await;
    assert_eq!(executor.stops().len(), 1);
    assert!(!rig.adapter.contains_session(session(1)).await.unwrap());
    rig.attach(&executor).await;
    ends(runs.next()).await.text("a");
    assert_eq!(executor.most_running(), 1);
}

/// Panics when it is told to, in the owner's task.
struct Bomb(Arc<windlass_runtime::ManualClock>, Arc<AtomicBool>);

impl Clock for Bomb {
    fn now(&self) -> Timestamp {
        assert!(!self.1.swap(false, Ordering::SeqCst), "boom");
        self.0.now()
    }
}

// A panic in the owner's task used to end it without a word: what waited stayed until somebody asked, the executor went
// on, and the next owner ran beside it.
#[tokio::test(start_paused = true)]
async fn an_owner_that_panics_is_replaced_and_nothing_is_left_behind() {
    let armed = Arc::new(AtomicBool::new(false));
    let manual = Arc::new(windlass_runtime::ManualClock::starting_at(Timestamp::from_micros(rig::START)));
    let clock = Arc::new(Bomb(manual, Arc::clone(&armed)));
    let rig = Rig::with(|builder| builder.clock(clock as Arc<dyn Clock>));
    let (executor, mut runs) = ManualExecutor::deaf();
    let handle = rig.attach(&executor).await;
    let done = accept(&handle, input(1, "a")).await;
    handle.accept(input(2, "b")).await.unwrap();
    let run = runs.next().await;
    armed.store(true, Ordering::SeqCst);
    let error = ends(handle.accept(input(3, "c"))).await.unwrap_err();
    assert_eq!(error.code(), "internal", "{error}");
    assert!(run.turn.is_cancelled(), "the executor is told");
    drop(run);
    let again = ends(runs.next()).await;
    assert_eq!((again.turn.attempt(), executor.most_running()), (2, 1), "counted like a death, and alone");
    again.text("a");
    assert_eq!(text(done.wait().await), "a");
    // With nobody waiting, the alarm brings it back.
    let run = ends(runs.next()).await;
    armed.store(true, Ordering::SeqCst);
    handle.note(JsonText::encode(&1).unwrap()).await.unwrap_err();
    drop(run);
    let again = ends(runs.next()).await;
    assert_eq!(again.turn.primitive().text(), "b");
    again.text("b");
}

// F133. Handles that were dropped used to keep their session open, and their number was without bound.
#[tokio::test(start_paused = true)]
async fn who_gave_up_waiting_does_not_keep_a_session_open() {
    let rig = Rig::with(|builder| builder.idle_after(SECOND));
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    drop(accept(&handle, input(1, "a")).await);
    for _ in 0..100 {
        drop(handle.completion(InputRef::Id(input_id(1))).await.unwrap());
    }
    let opened = rig.store.calls(Call::Open);
    tokio::time::sleep(10 * SECOND).await;
    handle.state().await.unwrap();
    assert_eq!(rig.store.calls(Call::Open), opened + 1, "it was put away");
}

/// Holds the session's owner in an append, so that all that is asked meanwhile shares the next one.
async fn hold_the_append(rig: &Rig) {
    rig.store.close_gate();
    let handle = rig.handle().await;
    tokio::spawn(async move { handle.note(JsonText::encode(&0).unwrap()).await });
    rig.store.waiting(1).await;
}

// S 169. The waiter of an absorbed input moves on to the newer one; if that was over too, and the answer of the store
// unknown, it waited for ever.
#[tokio::test(start_paused = true)]
async fn waiters_of_what_ended_while_the_store_failed_are_told_and_the_others_wait_on() {
    let rig = Rig::new();
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    let older = accept(&handle, progress(1, "s")).await;
    let open = accept(&handle, input(3, "stays")).await;
    hold_the_append(&rig).await;
    let newer = tokio::spawn({
        let handle = handle.clone();
        async move { handle.accept(progress(2, "s")).await }
    });
    settle().await;
    let withdrawn = tokio::spawn({
        let handle = handle.clone();
        async move { handle.withdraw(input_id(2)).await }
    });
    settle().await;
    rig.store.fail(Call::Append, 2, Fault::UnknownButDone);
    rig.store.open_gate();
    assert_eq!(newer.await.unwrap().unwrap_err().code(), "commit_outcome_unknown");
    assert_eq!(withdrawn.await.unwrap().unwrap_err().code(), "commit_outcome_unknown");
    let told = ends(older.wait_full()).await;
    assert_eq!(told.outcome, CompletionOutcome::Abandoned(AbandonReason::Withdrawn));
    assert_eq!(told.via, Some(input_id(2)));
    let (executor, mut runs) = ManualExecutor::new();
    rig.attach(&executor).await;
    ends(runs.next()).await.text("stayed");
    assert_eq!(text(ends(open.wait()).await), "stayed");
}

// An ephemeral input that ended in the append that took it used to tell its waiter that the channel was closed.
#[tokio::test(start_paused = true)]
async fn waiters_of_an_ephemeral_input_hear_its_end_even_if_it_comes_at_once() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    handle.hold().await.unwrap();
    hold_the_append(&rig).await;
    let offer = |n| {
        let handle = handle.clone();
        let fleeting = progress(n, "s").with_durability(Durability::Ephemeral);
        tokio::spawn(async move { handle.accept_with_completion(fleeting).await.unwrap().1.unwrap() })
    };
    let (older, newer) = (offer(1), offer(2));
    let prompt = tokio::spawn({
        let handle = handle.clone();
        async move { handle.accept(input(3, "go")).await }
    });
    settle().await;
    rig.store.open_gate();
    prompt.await.unwrap().unwrap();
    handle.release().await.unwrap();
    ends(runs.next()).await.text("both");
    for waiting in [older, newer] {
        assert_eq!(text(ends(waiting.await.unwrap().wait()).await), "both");
    }
}

// F107. "Never" is what people write as the longest time there is.
#[tokio::test(start_paused = true)]
async fn the_longest_and_the_shortest_times_are_times() {
    for (idle, stall) in [(Duration::MAX, Duration::MAX), (Duration::ZERO, Duration::MAX)] {
        let rig = Rig::with(|builder| {
            builder.idle_after(idle).stall_after(stall).cancel_grace(Duration::MAX).stop_limit(Duration::MAX)
        });
        let (handle, _, mut runs) = rig.session().await;
        let done = accept(&handle, input(1, "a")).await;
        let run = runs.next().await;
        tokio::time::sleep(60 * SECOND).await;
        run.text("a");
        assert_eq!(text(done.wait().await), "a");
        handle.stop().await.unwrap();
    }
}

// A stall used to be looked for only when the idle timer rang.
#[tokio::test(start_paused = true)]
async fn a_stall_is_seen_in_its_time_however_long_a_session_may_idle() {
    let rig = Rig::with(|builder| builder.stall_after(10 * SECOND).idle_after(3_600 * SECOND));
    let (handle, _, mut runs) = rig.session().await;
    handle.accept(input(1, "a")).await.unwrap();
    let (run, before) = (runs.next().await, Instant::now());
    ends(run.turn.cancelled()).await;
    assert_eq!(Instant::now() - before, 10 * SECOND);
}

// F114. Work that nobody can do used to open its session again and again, for nothing.
#[tokio::test(start_paused = true)]
async fn what_nobody_can_run_lets_its_session_sleep() {
    let rig = Rig::with(|builder| builder.idle_after(SECOND));
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    handle.accept(input(1, "a")).await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    let opened = rig.store.calls(Call::Open);
    tokio::time::sleep(3_600 * SECOND).await;
    assert_eq!(rig.store.calls(Call::Open), opened);
    let (executor, mut runs) = ManualExecutor::new();
    rig.attach(&executor).await;
    ends(runs.next()).await.text("a");
}

// An alarm used to register a session again that had been let go.
#[tokio::test(start_paused = true)]
async fn a_session_that_was_let_go_has_no_alarm() {
    let rig = Rig::with(|builder| {
        let limits = limits(|limits| (limits.backoff, limits.backoff_max) = (600 * SECOND, 600 * SECOND));
        builder.idle_after(SECOND).limits(limits)
    });
    let (handle, _, mut runs) = rig.session().await;
    handle.accept(input(1, "a")).await.unwrap();
    runs.next().await.fail("later");
    tokio::time::sleep(20 * SECOND).await;
    rig.adapter.unregister_session(session(1)).await.unwrap();
    tokio::time::sleep(3_600 * SECOND).await;
    assert!(!rig.adapter.contains_session(session(1)).await.unwrap());
}

/// Makes echoes after some trouble.
struct Troubled {
    asked: AtomicUsize,
    trouble: fn() -> futures_util::future::BoxFuture<'static, ()>,
}

#[async_trait]
impl ExecutorFactory for Troubled {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        if self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
            (self.trouble)().await;
        }
        Ok(echo())
    }
}

// G14. A factory that hung or panicked used to take its session with it.
#[tokio::test(start_paused = true)]
async fn a_factory_that_hangs_or_panics_delays_only_its_session_and_is_asked_again() {
    let troubles: [fn() -> futures_util::future::BoxFuture<'static, ()>; 2] =
        [|| Box::pin(std::future::pending()), || Box::pin(async { panic!("no executor today") })];
    for trouble in troubles {
        let factory = Arc::new(Troubled { asked: AtomicUsize::new(0), trouble });
        let rig = Rig::with(|builder| builder.factory(factory).idle_after(SECOND));
        let handle = ends(rig.adapter.create_session(session(1), Some("echo"))).await.unwrap();
        let done = accept(&handle, input(1, "a")).await;
        assert_eq!(text(ends(done.wait()).await), "a", "although somebody waits, so that it is not put away");
    }
}

/// Makes echoes while it may.
struct Moody(AtomicBool);

#[async_trait]
impl ExecutorFactory for Moody {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        if self.0.load(Ordering::SeqCst) {
            return Ok(echo());
        }
        Err(CoreExecutorError::retryable("executor_unavailable: no key"))
    }
}

// F055. What waits for an agent that cannot be made used to say no more than that there was none.
#[tokio::test(start_paused = true)]
async fn inputs_whose_agent_cannot_be_made_wait_say_why_and_run_when_it_can() {
    let factory = Arc::new(Moody(AtomicBool::new(false)));
    let made = Arc::clone(&factory);
    let rig = Rig::with(|builder| builder.factory(made).idle_after(SECOND));
    let handle = rig.adapter.create_session(session(1), Some("echo")).await.unwrap();
    rig.adapter.create_session(session(2), Some("echo")).await.unwrap();
    handle.accept(input(1, "a")).await.unwrap();
    assert_eq!(rig.adapter.sessions_without_executor(), 2);
    for rest in [0, 10] {
        tokio::time::sleep(rest * SECOND).await;
        let said = handle.explain(input_id(1)).await.unwrap();
        assert_eq!(said.cause, Cause::ExecutorUnavailable { why: "executor_unavailable: no key".into() });
        assert!(said.sentence.ends_with("executor_unavailable: no key"), "{}", said.sentence);
    }
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(rig.adapter.sessions_without_executor(), 1, "both are put away, and in one of them something waits");
    factory.0.store(true, Ordering::SeqCst);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(state(&handle, input_id(1)).await, Some(InputState::Consumed), "without anybody asking");
    assert_eq!(rig.adapter.sessions_without_executor(), 0);
}

// Decisions 17. A session with a factory that was stopped and registered again used to have no executor until it was
// put away.
#[tokio::test(start_paused = true)]
async fn a_revived_session_gets_its_executor_from_the_factory() {
    let factory = Arc::new(Troubled { asked: AtomicUsize::new(0), trouble: || Box::pin(async {}) });
    let rig = Rig::with(|builder| builder.factory(factory));
    let handle = rig.adapter.create_session(session(1), Some("echo")).await.unwrap();
    handle.stop().await.unwrap();
    rig.adapter.register_session(session(1)).await.unwrap();
    let (done, before) = (accept(&handle, input(1, "a")).await, Instant::now());
    assert_eq!(text(ends(done.wait()).await), "a");
    assert_eq!(Instant::now(), before, "at once");
}

// S 112, for an executor that a factory made.
#[tokio::test(start_paused = true)]
async fn the_executor_of_a_factory_stays_when_another_is_offered() {
    let factory = Arc::new(Troubled { asked: AtomicUsize::new(0), trouble: || Box::pin(async {}) });
    let rig = Rig::with(|builder| builder.factory(factory));
    let handle = rig.adapter.create_session(session(1), Some("echo")).await.unwrap();
    let (executor, mut runs) = ManualExecutor::new();
    let attachment = rig.adapter.ensure_session_with_executor(session(1), executor).await.unwrap();
    assert!(matches!(attachment, Attachment::AlreadyAttached(_)));
    assert_eq!(text(accept(&handle, input(1, "a")).await.wait().await), "a");
    assert!(runs.started().is_none());
}

// S 101, 115. A stop and the next registration in one append: the stop took the new executor with it, and the owner
// panicked when a run began.
#[tokio::test(start_paused = true)]
async fn an_executor_attached_right_after_a_stop_stays() {
    let rig = Rig::new();
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    let (executor, mut runs) = ManualExecutor::new();
    hold_the_append(&rig).await;
    let stop = tokio::spawn({
        let handle = handle.clone();
        async move { handle.stop().await }
    });
    settle().await;
    let attach = tokio::spawn({
        let (adapter, executor) = (rig.adapter.clone(), Arc::clone(&executor));
        async move { adapter.ensure_session_with_executor(session(1), executor).await }
    });
    settle().await;
    let offer = tokio::spawn({
        let handle = handle.clone();
        async move { handle.accept_with_completion(input(1, "a")).await }
    });
    settle().await;
    rig.store.open_gate();
    stop.await.unwrap().unwrap();
    assert!(matches!(attach.await.unwrap().unwrap(), Attachment::Attached));
    let done = offer.await.unwrap().unwrap().1.unwrap();
    ends(runs.next()).await.text("a");
    assert_eq!(text(done.wait().await), "a");
    assert_eq!(executor.stops(), Vec::<String>::new());
}

// G25. A caller that ran its own input heard that all was well although its run had been cancelled, and one that never
// came back kept the session for ever.
#[tokio::test(start_paused = true)]
async fn a_callers_run_that_is_cancelled_is_cut_off() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let inside = Arc::new(Notify::new());
    let caller = tokio::spawn({
        let (handle, inside) = (handle.clone(), Arc::clone(&inside));
        async move {
            let run = |_, _| async move {
                inside.notify_one();
                std::future::pending::<Result<CoreApplyOutput, String>>().await
            };
            handle.accept_and_run(input(1, "mine"), run).await
        }
    });
    inside.notified().await;
    let next = accept(&handle, input(2, "next")).await;
    handle.cancel(None, "enough", Disposition::Drop).await.unwrap();
    let error = ends(caller).await.unwrap().unwrap_err();
    assert_eq!(error.code(), "run_closed");
    assert_eq!(state(&handle, input_id(1)).await, Some(InputState::Abandoned));
    ends(runs.next()).await.text("next");
    assert_eq!(text(next.wait().await), "next");
}

// Progress was shown only to those who had come before the run began.
#[tokio::test(start_paused = true)]
async fn who_comes_in_the_middle_of_a_run_sees_the_rest_of_its_progress() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    handle.accept(input(1, "a")).await.unwrap();
    let run = runs.next().await;
    let mut feed = handle.feed(Seq(3));
    let next = tokio::spawn(async move { feed.next().await });
    settle().await;
    run.turn.progress(JsonText::encode(&"half-way").unwrap());
    assert!(matches!(ends(next).await.unwrap().unwrap(), FeedItem::Progress(_)));
}

// An append that was done although its answer was unknown used to be shown to followers with the next one only.
#[tokio::test(start_paused = true)]
async fn followers_see_what_was_done_although_the_answer_was_unknown() {
    let rig = Rig::new();
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    let mut feed = handle.feed(Seq(1));
    let next = tokio::spawn(async move { feed.next().await });
    settle().await;
    rig.store.fail(Call::Append, 1, Fault::UnknownButDone);
    handle.note(JsonText::encode(&"noted").unwrap()).await.unwrap_err();
    let item = ends(next).await.unwrap().unwrap();
    assert!(matches!(item, FeedItem::Entry(entry) if entry.record.name() == "noted"));
}

// S 133, 134; OC 112: a boundary is committed once. What an older attempt commits is refused and leaves the first one as it
// was; one whose answer was unknown but that was done is not committed a second time.
#[tokio::test(start_paused = true)]
async fn a_boundary_is_committed_once_whoever_tries_again() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let first = runs.next().await;
    let (run, output) = (first.turn.run(), BoundaryOutput { message_count: 1, ..BoundaryOutput::default() });
    rig.store.fail(Call::Append, 1, Fault::UnknownButDone);
    first.turn.commit(output).await.unwrap_err();
    let again = ends(runs.next()).await;
    assert_eq!((again.turn.run(), again.turn.resumes_after()), (run, Some(0)), "it was done, and stands");
    let late = first.turn.commit(BoundaryOutput { message_count: 9, ..BoundaryOutput::default() }).await;
    assert!(matches!(late, Err(TurnError::Closed(_))), "{late:?}");
    again.text("a");
    assert_eq!(text(done.wait().await), "a");
    let receipt = handle.receipt(run, 0).await.unwrap().unwrap();
    assert_eq!((receipt.message_count, &receipt.contributing_input_ids[..]), (1, &[input_id(1)][..]));
    let committed = rig.records().await.iter().filter(|name| **name == "boundary_committed").count();
    assert_eq!(committed, 1);
}

// S 138
#[tokio::test(start_paused = true)]
async fn receipts_are_dense_and_name_digest_count_and_contributors_in_order() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    handle.hold().await.unwrap();
    for n in [7, 3, 5] {
        let event = Input::external_event(input_id(n), Timestamp::ZERO, "s", "e", 1.into());
        handle.accept(event).await.unwrap();
    }
    handle.release().await.unwrap();
    let run = runs.next().await;
    let boundary = |count: u64| BoundaryOutput {
        message_count: count,
        conversation_digest: Some(format!("digest {count}").into()),
        ..BoundaryOutput::default()
    };
    for sequence in 0..2 {
        run.turn.commit(boundary(10 + sequence)).await.unwrap();
    }
    let id = run.turn.run();
    run.finish(Ok(CoreApplyOutput { boundary: boundary(12), ..CoreApplyOutput::default() }));
    settle().await;
    for sequence in 0..3 {
        let receipt = rig.adapter.load_boundary_receipt(&session(1).into(), &id, sequence).await.unwrap().unwrap();
        let contributing = if sequence == 0 { vec![input_id(7), input_id(3), input_id(5)] } else { Vec::new() };
        assert_eq!((receipt.run_id, receipt.sequence), (id, sequence));
        assert_eq!(receipt.message_count, 10 + sequence);
        assert_eq!(receipt.conversation_digest, Some(format!("digest {}", 10 + sequence).into()));
        assert_eq!(receipt.contributing_input_ids, contributing);
    }
    assert!(handle.receipt(id, 3).await.unwrap().is_none());
}

// S 14
#[tokio::test(start_paused = true)]
async fn a_prompt_made_of_video_alone_keeps_it() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let source = MediaSource::Url { url: "https://example.com/film.mp4".into() };
    let video = ContentBlock::Video { media_type: "video/mp4".into(), source };
    let prompt = Input::prompt_from_blocks(input_id(1), Timestamp::ZERO, vec![video.clone()]);
    assert!(matches!(handle.accept(prompt).await.unwrap(), AcceptOutcome::Accepted { .. }));
    let run = runs.next().await;
    assert_eq!(run.turn.inputs()[0].input.blocks().unwrap()[..], [video]);
    run.text("seen");
}

// S 142: one corrupt journal harms only its own session, whose callers are told where.
#[tokio::test(start_paused = true)]
async fn a_corrupt_session_is_left_alone_and_the_others_open() {
    let store = Arc::new(MemoryStore::new());
    let rig = Rig::on(Arc::clone(&store) as _, |builder| builder);
    for n in [1, 2] {
        let handle = rig.adapter.register_session(session(n)).await.unwrap();
        handle.accept(input(n, "a")).await.unwrap();
    }
    // The same entry once more, under the next position: what no session writes.
    let opened = store.open(session(1)).await.unwrap();
    let last = opened.tail.last().unwrap();
    let twice = Arc::new(windlass_core::Entry { seq: last.seq.next(), ..(**last).clone() });
    let status = store.session(session(1)).await.unwrap().unwrap().status;
    let append = windlass_runtime::store::Append {
        session: session(1),
        fence: opened.fence,
        entries: vec![twice],
        index: Vec::new(),
        status,
    };
    store.append(append).await.unwrap();
    let factory = Arc::new(Troubled { asked: AtomicUsize::new(0), trouble: || Box::pin(async {}) });
    let after = Rig::on(store, |builder| builder.factory(factory));
    assert_eq!(after.adapter.resume_pending().await.unwrap(), 2);
    let other = after.adapter.session(session(2)).await.unwrap();
    let done = other.completion(InputRef::Id(input_id(2))).await.unwrap();
    assert_eq!(text(ends(done.wait()).await), "a");
    let error = after.handle().await.state().await.unwrap_err();
    assert_eq!(error.code(), "store_corrupt");
    assert!(error.to_string().contains(&session(1).to_string()), "{error}");
    assert_eq!(other.state().await.unwrap(), RuntimeState::Attached);
}
