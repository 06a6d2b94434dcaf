//! How do runs start, end, fail, stall and get cancelled?

mod rig;

use futures_util::FutureExt as _;
use rig::{Rig, SECOND, accept, limits, state, text};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use windlass_core::{
    AbandonReason, BoundaryOutput, CancelOutcome, Disposition, InputState, JsonText, RuntimeState, Terminal,
};
use windlass_runtime::{
    CompletionOutcome, CoreApplyOutput, CoreExecutorError, TurnError,
    testing::{ManualExecutor, input, input_id},
};

// S 91
#[tokio::test(start_paused = true)]
async fn an_accepted_input_is_executed() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "hello")).await;
    let run = runs.next().await;
    assert_eq!(run.turn.primitive().text(), "hello");
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Running);
    run.text("hi");
    assert_eq!(text(done.wait().await), "hi");
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Attached);
    assert!(handle.active_inputs().await.unwrap().is_empty());
    assert_eq!(rig.records().await, ["session_created", "input_accepted", "run_started", "run_ended"]);
}

// S 92
#[tokio::test(start_paused = true)]
async fn waiters_hear_what_the_run_came_to_and_batch_members_share_it() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;

    let done = accept(&handle, input(1, "a")).await;
    runs.next().await.finish(Ok(CoreApplyOutput::default()));
    assert_eq!(done.wait().await, CompletionOutcome::CompletedWithoutResult);

    let done = accept(&handle, input(2, "b")).await;
    let tool = Arc::new(windlass_core::PendingTool { tool_name: "ask".into(), args: 7.into() });
    let terminal = Terminal::CallbackPending(Arc::clone(&tool));
    runs.next().await.finish(Ok(CoreApplyOutput { terminal, ..CoreApplyOutput::default() }));
    assert_eq!(done.wait().await, CompletionOutcome::CallbackPending(tool));

    handle.hold().await.unwrap();
    let event =
        |n| windlass_core::Input::external_event(input_id(n), windlass_core::Timestamp::ZERO, "s", "e", 1.into());
    let (third, fourth) = (accept(&handle, event(3)).await, accept(&handle, event(4)).await);
    handle.release().await.unwrap();
    runs.next().await.text("both");
    assert_eq!((text(third.wait().await), text(fourth.wait().await)), ("both".into(), "both".into()));
}

// S 93, 94, 95
#[tokio::test(start_paused = true)]
async fn a_failed_input_is_tried_again_by_itself_and_its_waiter_stays() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let first = runs.next().await;
    let (run, started) = (first.turn.run(), Instant::now());
    first.fail("no luck");
    let second = runs.next().await;
    assert_eq!((second.turn.run(), second.turn.attempt()), (run, 2), "a run keeps its id over attempts");
    let waited = Instant::now() - started;
    assert!(waited >= SECOND / 2 && waited <= SECOND, "backed off {waited:?}");
    second.fail("no luck again");
    runs.next().await.text("at last");
    assert_eq!(text(done.wait().await), "at last");
}

// S 70, 95, 155; OC 100
#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_and_their_exhaustion_is_told() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "poison")).await;
    for _ in 0..3 {
        runs.next().await.fail("poison");
    }
    let reason = AbandonReason::MaxAttemptsExhausted { attempts: 3, error: "poison".into() };
    assert_eq!(done.wait().await, CompletionOutcome::Abandoned(reason));
    assert_eq!(state(&handle, input_id(1)).await, Some(InputState::Abandoned));
    tokio::time::sleep(SECOND * 1_000).await;
    assert!(runs.started().is_none(), "it never runs again");
}

#[tokio::test(start_paused = true)]
async fn a_final_failure_is_not_tried_again() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    runs.next().await.finish(Err(CoreExecutorError::fatal("never")));
    assert_eq!(done.wait().await, CompletionOutcome::Abandoned(AbandonReason::Failed { error: "never".into() }));
}

// S 96
#[tokio::test(start_paused = true)]
async fn an_input_behind_a_failed_one_is_run_in_order() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let (first, second) = (accept(&handle, input(1, "a")).await, accept(&handle, input(2, "b")).await);
    runs.next().await.finish(Err(CoreExecutorError::fatal("bad")));
    let run = runs.next().await;
    assert_eq!(run.turn.primitive().text(), "b");
    run.text("fine");
    assert_eq!(text(second.wait().await), "fine");
    assert!(matches!(first.wait().await, CompletionOutcome::Abandoned(_)));
}

// S 104; OC 108
#[tokio::test(start_paused = true)]
async fn a_cancel_ends_the_run_promptly() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    let (cancelled, before) = (run.turn.clone(), Instant::now());
    let outcome = handle.cancel(None, "enough", Disposition::Drop).await.unwrap();
    assert_eq!(outcome, CancelOutcome::Cancelled { run: cancelled.run(), last_committed: None });
    assert_eq!(done.wait().await, CompletionOutcome::Abandoned(AbandonReason::Cancelled));
    cancelled.cancelled().await;
    assert_eq!(Instant::now(), before, "nothing waited");
    assert!(matches!(cancelled.commit(BoundaryOutput::default()).await, Err(TurnError::Closed(_))));
    assert!(matches!(cancelled.checkpoint().await, Err(TurnError::Closed(_))));
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Attached);
}

// S 105; OC 108
#[tokio::test(start_paused = true)]
async fn a_late_cancel_does_not_touch_the_next_run() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let first = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    let old = run.turn.run();
    run.text("done");
    first.wait().await;
    let second = accept(&handle, input(2, "b")).await;
    let run = runs.next().await;
    let late = handle.cancel(Some(old), "late", Disposition::Drop).await.unwrap();
    assert_eq!(late, CancelOutcome::TooLate { run: old });
    assert!(!run.turn.is_cancelled());
    run.text("untouched");
    assert_eq!(text(second.wait().await), "untouched");
    let older = handle.cancel(Some(old), "later still", Disposition::Drop).await.unwrap();
    assert_eq!(older, CancelOutcome::TooLate { run: old }, "receipts remember runs that the session forgot");
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_ignores_a_cancel_is_dropped_and_nothing_runs_beside_it() {
    let rig = Rig::with(|builder| builder.cancel_grace(5 * SECOND));
    let (executor, mut runs) = ManualExecutor::deaf();
    let handle = rig.attach(&executor).await;
    accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    let next = accept(&handle, input(2, "b")).await;
    let before = Instant::now();
    handle.cancel(None, "enough", Disposition::Drop).await.unwrap();
    let second = runs.next().await;
    assert_eq!(Instant::now() - before, 5 * SECOND, "the grace time");
    assert_eq!(executor.most_running(), 1);
    drop(run);
    second.text("b");
    assert_eq!(text(next.wait().await), "b");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_may_go_back_to_its_place_at_no_cost() {
    let rig = Rig::with(|builder| builder.limits(limits(|limits| limits.attempts = 1)));
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    accept(&handle, input(2, "b")).await;
    let run = runs.next().await;
    handle.cancel(Some(run.turn.run()), "later", Disposition::Requeue).await.unwrap();
    let again = runs.next().await;
    assert_eq!(again.turn.primitive().text(), "a", "at the head, although only one attempt is allowed");
    again.text("a");
    assert_eq!(text(done.wait().await), "a");
}

// S 106; OC 101
#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_and_the_session_lives_on() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    for _ in 0..3 {
        runs.next().await.panic("oh no");
    }
    let error: Arc<str> = "executor_panic: oh no".into();
    let reason = AbandonReason::MaxAttemptsExhausted { attempts: 3, error };
    assert_eq!(done.wait().await, CompletionOutcome::Abandoned(reason));
    let next = accept(&handle, input(2, "b")).await;
    runs.next().await.text("fine");
    assert_eq!(text(next.wait().await), "fine");
}

#[tokio::test(start_paused = true)]
async fn a_run_without_progress_is_ended_and_one_with_progress_is_not() {
    let rig = Rig::with(|builder| builder.stall_after(60 * SECOND).cancel_grace(SECOND));
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    let delta = JsonText::encode(&"alive").unwrap();
    for _ in 0..10 {
        tokio::time::sleep(50 * SECOND).await;
        run.turn.progress(delta.clone());
    }
    assert!(!run.turn.is_cancelled());
    let silent = Instant::now();
    run.turn.cancelled().await;
    assert_eq!(Instant::now() - silent, 60 * SECOND);
    let second = runs.next().await;
    assert_eq!(second.turn.attempt(), 2, "a stall is a failure");
    second.text("fine");
    assert_eq!(text(done.wait().await), "fine");
}

// S 108
#[tokio::test(start_paused = true)]
async fn inputs_accepted_during_a_run_follow_it() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    let done = accept(&handle, input(2, "b")).await;
    assert!(runs.started().is_none());
    run.text("a");
    runs.next().await.text("b");
    assert_eq!(text(done.wait().await), "b");
}

#[tokio::test(start_paused = true)]
async fn boundaries_are_kept_over_a_failure_and_nothing_is_said_twice() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    assert_eq!(run.turn.effect_key().to_string(), format!("{}/{}/0/0", handle.id(), run.turn.run()));
    let delta = Some(JsonText::encode(&["step one"]).unwrap());
    let receipt =
        run.turn.commit(BoundaryOutput { message_count: 1, delta, ..BoundaryOutput::default() }).await.unwrap();
    assert_eq!((receipt.sequence, &receipt.contributing_input_ids[..]), (0, &[input_id(1)][..]));
    assert_eq!(state(&handle, input_id(1)).await, Some(InputState::AppliedPendingConsumption));
    assert_eq!(run.turn.effect_key().boundary, 1);
    let id = run.turn.run();
    run.fail("dropped the ball");
    let again = runs.next().await;
    assert_eq!((again.turn.run(), again.turn.resumes_after()), (id, Some(0)));
    assert!(again.turn.inputs().is_empty(), "what a boundary covers is not said again");
    assert_eq!(again.turn.kind(), windlass_core::ExecutionKind::ResumePending);
    again.text("done");
    assert_eq!(text(done.wait().await), "done");
    let last = handle.receipt(id, 1).await.unwrap().expect("dense receipts");
    assert!(last.contributing_input_ids.is_empty(), "each input is in exactly one receipt");
    assert!(handle.receipt(id, 2).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn steering_joins_the_running_run_at_its_checkpoint() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    accept(&handle, input(1, "a")).await;
    let run = runs.next().await;
    let turn = run.turn.clone();
    // Where nothing has come nobody is asked, so that it is known at once.
    let nothing = || turn.checkpoint().now_or_never().expect("at once").unwrap().is_empty();
    assert!(nothing());
    let steer = input(2, "left, please").with_mode(windlass_core::HandlingMode::Steer);
    let steered = accept(&handle, steer).await;
    let joined = turn.checkpoint().await.unwrap();
    assert_eq!(joined.len(), 1);
    assert_eq!(state(&handle, input_id(2)).await, Some(InputState::Staged));
    assert!(nothing(), "it was handed over");
    run.text("went left");
    assert_eq!(text(steered.wait().await), "went left");
    assert!(matches!(turn.checkpoint().await, Err(TurnError::Closed(_))), "the run is over");
}

#[tokio::test(start_paused = true)]
async fn a_run_of_the_caller_ends_with_the_caller() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;

    // S 118; OC 98
    let (_, result) = handle
        .accept_and_run(input(1, "mine"), |_, primitive| async move {
            Ok::<_, String>(CoreApplyOutput::text(primitive.text()))
        })
        .await
        .unwrap();
    assert_eq!(result.unwrap().unwrap(), CoreApplyOutput::text("mine"));
    assert_eq!(state(&handle, input_id(1)).await, Some(InputState::Consumed));

    // S 119; OC 98, 99
    let (entered, inside) = tokio::sync::oneshot::channel();
    let task = tokio::spawn({
        let handle = handle.clone();
        async move {
            let run = |_, _| async move {
                entered.send(()).unwrap();
                std::future::pending::<Result<CoreApplyOutput, String>>().await
            };
            handle.accept_and_run(input(2, "never ends"), run).await
        }
    });
    inside.await.unwrap();
    let joined = handle.completion(windlass_runtime::store::InputRef::Id(input_id(2))).await.unwrap();
    let behind = accept(&handle, input(3, "behind")).await;
    let refused = handle.accept_and_run(input(4, "busy"), |_, _| async { Ok::<_, String>(CoreApplyOutput::default()) });
    assert!(refused.await.unwrap().1.is_none(), "not while another run is on");
    task.abort();
    assert_eq!(joined.wait().await, CompletionOutcome::Abandoned(AbandonReason::CallerGone));
    runs.next().await.text("woken");
    assert_eq!(text(behind.wait().await), "woken");

    let failed = handle.accept_and_run(input(5, "fails"), |_, _| async { Err("broken") }).await.unwrap();
    assert_eq!(failed.1.unwrap().unwrap_err(), "broken");
    assert_eq!(state(&handle, input_id(5)).await, Some(InputState::Abandoned));
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(runs.started().is_none(), "never run again");
}
