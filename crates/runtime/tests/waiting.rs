//! What do duplicates and waiters hear, and does every wait end?

mod rig;

use rig::{Rig, accept, rejected, state, text};
use std::sync::Arc;
use windlass_core::{
    AcceptOutcome, Disposition, Durability, HandlingMode, Input, InputState, OpEvent, OperationId, PeerConvention,
    ProgressPhase, RejectReason, RuntimeState, Timestamp,
};
use windlass_runtime::{
    CompletionHandle, CompletionOutcome, RuntimeControlPlane, RuntimeControlPlaneError, RuntimeDriverError,
    SessionServiceRuntimeExt, WaitError,
    store::InputRef,
    testing::{ManualExecutor, input, input_id, session},
};

fn keyed(n: u128, words: &str, key: &str) -> Input {
    input(n, words).with_key(key).unwrap()
}

fn progress(n: u128, scope: &str) -> Input {
    let convention = PeerConvention::ResponseProgress { request_id: "r".into(), phase: ProgressPhase::InProgress };
    Input::peer(input_id(n), Timestamp::ZERO, "peer", convention, format!("progress {n}")).superseding(scope).unwrap()
}

// S 46, 93; OC 93
#[tokio::test(start_paused = true)]
async fn a_duplicate_of_a_running_input_waits_with_it() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let mut handles = vec![accept(&handle, keyed(1, "a", "k")).await];
    let run = runs.next().await;
    for n in 2..5 {
        let (outcome, joined) = handle.accept_with_completion(keyed(n, "a", "k")).await.unwrap();
        let expected =
            AcceptOutcome::Deduplicated { input_id: input_id(n), existing_id: input_id(1), state: InputState::Staged };
        assert_eq!(outcome, expected);
        handles.push(joined.unwrap());
    }
    run.text("once");
    for handle in handles {
        assert_eq!(text(handle.wait().await), "once");
    }
}

// S 47, 48; OC 94
#[tokio::test(start_paused = true)]
async fn a_duplicate_of_a_finished_input_has_no_handle_and_its_outcome_can_be_had() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, keyed(1, "a", "k")).await;
    runs.next().await.text("answer");
    done.wait().await;
    let (outcome, none) = handle.accept_with_completion(keyed(2, "a", "k")).await.unwrap();
    assert!(matches!(outcome, AcceptOutcome::Deduplicated { state: InputState::Consumed, .. }));
    assert!(none.is_none());
    for by in [InputRef::Id(input_id(1)), InputRef::Key("k".to_owned().try_into_key())] {
        assert_eq!(text(handle.completion(by).await.unwrap().wait().await), "answer");
    }
    let unknown = handle.completion(InputRef::Id(input_id(9))).await;
    assert!(matches!(unknown, Err(WaitError::NoSuchInput)));
}

trait TryIntoKey {
    fn try_into_key(self) -> windlass_core::IdempotencyKey;
}

impl TryIntoKey for String {
    fn try_into_key(self) -> windlass_core::IdempotencyKey {
        windlass_core::IdempotencyKey::new(self).unwrap()
    }
}

// S 13, 44, 54, 55, 56; OC 111
#[tokio::test(start_paused = true)]
async fn refusals_and_unknown_sessions_are_told_as_the_reference_tells_them() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let (known, unknown) = (session(1), session(404));
    let derived = || input(1, "a").with_durability(Durability::Derived);

    let reason = rejected(rig.adapter.accept_input(&known, derived()).await.unwrap());
    assert!(matches!(reason, RejectReason::DurabilityViolation { .. }));
    assert_eq!((reason.code(), reason.field()), ("durability_violation", "header.durability"));
    let error = rig.adapter.accept_input_with_completion(&known, derived()).await.unwrap_err();
    assert!(matches!(error, RuntimeDriverError::ValidationFailed { code: "durability_violation", .. }));

    let error = rig.adapter.accept_input(&unknown, input(1, "a")).await.unwrap_err();
    assert!(matches!(error, RuntimeDriverError::NotReady { state: RuntimeState::Destroyed }));
    let id = windlass_core::LogicalRuntimeId("not a uuid".into());
    for id in [id, unknown.into()] {
        let error = rig.adapter.ingest(&id, input(1, "a")).await.unwrap_err();
        assert!(matches!(error, RuntimeControlPlaneError::NotFound(_)));
    }

    let news = windlass_core::OperationNews {
        operation_id: OperationId::from_uuid(uuid::Uuid::nil()),
        event: OpEvent::Completed,
    };
    let origin = windlass_core::InputOrigin::System;
    let operation = Input::durable(input_id(2), Timestamp::ZERO, origin, windlass_core::InputBody::Operation(news));
    let (outcome, none) = handle.accept_with_completion(operation).await.unwrap();
    assert!(matches!(outcome, AcceptOutcome::Accepted { state: InputState::Consumed, .. }) && none.is_none());

    handle.accept_without_wake(input(3, "patient")).await.unwrap();
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Attached);
    assert_eq!(state(&handle, input_id(3)).await, Some(InputState::Queued));
    let steer = handle.accept_without_wake(input(4, "now").with_mode(HandlingMode::Steer)).await.unwrap();
    assert!(matches!(rejected(steer), RejectReason::HandlingModeInvalid { .. }));

    // OC 97: both are handled once something wakes.
    let done = accept(&handle, input(5, "wake")).await;
    runs.next().await.text("patient");
    runs.next().await.text("wake");
    assert_eq!(text(done.wait().await), "wake");
}

// S 67, 168
#[tokio::test(start_paused = true)]
async fn waiters_of_an_absorbed_input_hear_the_newer_ones_outcome() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let older = accept(&handle, progress(1, "s")).await;
    let middle = accept(&handle, progress(2, "s")).await;
    let newer = accept(&handle, progress(3, "s")).await;
    assert_eq!(state(&handle, input_id(1)).await, Some(InputState::Coalesced));
    let prompt = accept(&handle, input(4, "go")).await;
    let run = runs.next().await;
    assert_eq!(run.turn.context().len(), 1, "S 24: one turn, the newest progress as context");
    run.text("went");
    for (handle, via) in [(older, Some(3)), (middle, Some(3)), (newer, None), (prompt, None)] {
        let completion = handle.wait_full().await;
        assert_eq!((text(completion.outcome), completion.via), ("went".into(), via.map(input_id)));
    }
    let again = handle.completion(InputRef::Id(input_id(1))).await.unwrap().wait_full().await;
    assert_eq!((text(again.outcome), again.via), ("went".into(), Some(input_id(2))));
}

// S 68
#[tokio::test(start_paused = true)]
async fn waiters_of_a_superseded_input_hear_so_at_once() {
    let policy = rig::policy(
        "version = 2\n[[row]]\nkind = 'prompt'\ndecision = { deliver = 'next_run', merge = 'supersede' }\n",
    );
    let rig = Rig::with(|builder| builder.policy(policy));
    let (handle, _, mut runs) = rig.session().await;
    handle.hold().await.unwrap();
    let scoped = |n| input(n, "draft").superseding("draft").unwrap();
    let older = accept(&handle, scoped(1)).await;
    let newer = accept(&handle, scoped(2)).await;
    assert_eq!(older.wait().await, CompletionOutcome::Superseded { by: input_id(2) });
    handle.release().await.unwrap();
    runs.next().await.text("the newer");
    assert_eq!(text(newer.wait().await), "the newer");
    assert!(runs.started().is_none());
}

// S 100, 103, 161, 162, 163, 167, 168; OC 91, 104, 107
#[tokio::test(start_paused = true)]
async fn every_way_to_end_a_session_tells_its_waiters_which() {
    type Verb = for<'a> fn(&'a Rig) -> futures_util::future::BoxFuture<'a, ()>;
    let verbs: [(&str, Verb); 4] = [
        ("runtime stopped", |rig| Box::pin(async { rig.handle().await.stop().await.map(|_| ()).unwrap() })),
        ("runtime destroyed", |rig| Box::pin(async { rig.handle().await.destroy().await.map(|_| ()).unwrap() })),
        ("runtime reset", |rig| Box::pin(async { rig.handle().await.reset(true).await.map(|_| ()).unwrap() })),
        ("runtime session unregistered", |rig| {
            Box::pin(async { rig.adapter.unregister_session(session(1)).await.unwrap() })
        }),
    ];
    for (reason, verb) in verbs {
        let rig = Rig::new();
        let (handle, executor, mut runs) = rig.session().await;
        let running = accept(&handle, input(1, "a")).await;
        let run = runs.next().await;
        let waiting = accept(&handle, input(2, "b")).await;
        verb(&rig).await;
        for handle in [running, waiting] {
            assert_eq!(handle.wait().await, CompletionOutcome::RuntimeTerminated(reason.into()));
        }
        assert!(run.turn.is_cancelled(), "{reason}");
        let told = if reason == "runtime reset" { vec![] } else { vec![reason.to_owned()] };
        tokio::task::yield_now().await;
        assert_eq!(executor.stops(), told, "an executor is told once");
    }

    let rig = Rig::new();
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    let waiting = accept(&handle, input(1, "a")).await;
    let report = handle.retire().await.unwrap();
    assert_eq!(report.inputs_abandoned, 1);
    let told = CompletionOutcome::RuntimeTerminated("retired without runtime loop".into());
    assert_eq!(waiting.wait().await, told);
}

// S 168
#[tokio::test(start_paused = true)]
async fn a_handle_can_be_resolved_before_it_is_made() {
    let handle = CompletionHandle::already_resolved(input_id(1), CompletionOutcome::CompletedWithoutResult);
    assert_eq!(handle.wait().await, CompletionOutcome::CompletedWithoutResult);
}

#[tokio::test(start_paused = true)]
async fn a_wait_can_be_taken_up_again_after_a_crash() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, keyed(1, "a", "k")).await;
    let _hanging = runs.next().await;

    let after = rig.crash();
    let (executor, mut runs) = ManualExecutor::new();
    let handle = after.attach(&executor).await;
    let key = InputRef::Key(windlass_core::IdempotencyKey::new("k").unwrap());
    let again = handle.completion(key).await.unwrap();
    let run = runs.next().await;
    assert_eq!(run.turn.attempt(), 2, "the death of the process counts as an attempt");
    run.text("after all");
    assert_eq!(text(again.wait().await), "after all");
    drop(rig);
    assert!(matches!(done.wait().await, CompletionOutcome::RuntimeTerminated(_)));
}

// S 170: for any interleaving every handle resolves exactly once.
#[test]
fn every_handle_resolves_whatever_happens() {
    use proptest::prelude::*;
    #[derive(Clone, Debug)]
    enum Move {
        Accept { key: Option<u8>, steer: bool },
        Finish,
        Fail,
        Commit,
        Cancel(bool),
        Retire,
        Reset,
        Stop,
        Register,
        Unregister,
        Crash,
    }
    let moves = prop_oneof![
        8 => (proptest::option::of(0..4u8), any::<bool>()).prop_map(|(key, steer)| Move::Accept { key, steer }),
        5 => Just(Move::Finish),
        2 => Just(Move::Fail),
        2 => Just(Move::Commit),
        1 => any::<bool>().prop_map(Move::Cancel),
        1 => Just(Move::Retire),
        1 => Just(Move::Reset),
        1 => Just(Move::Stop),
        1 => Just(Move::Register),
        1 => Just(Move::Unregister),
        1 => Just(Move::Crash),
    ];
    let config = ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(moves in proptest::collection::vec(moves, 1..40))| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::new();
            let (executor, mut runs) = ManualExecutor::new();
            rig.attach(&executor).await;
            let (mut waiting, mut old) = (Vec::new(), Vec::new());
            for (n, action) in (1..).zip(moves) {
                let id = session(1);
                match action {
                    Move::Accept { key, steer } => {
                        let mut offer = input(n, "x");
                        if let Some(key) = key { offer = offer.with_key(&format!("k{key}")).unwrap(); }
                        if steer { offer = offer.with_mode(HandlingMode::Steer); }
                        if let Ok((_, Some(handle))) = rig.adapter.accept_input_with_completion(&id, offer).await {
                            waiting.push(tokio::spawn(handle.wait()));
                        }
                    }
                    Move::Finish => if let Some(run) = runs.started() { run.text("done") },
                    Move::Fail => if let Some(run) = runs.started() { run.fail("failed") },
                    Move::Commit => if let Some(run) = runs.started() {
                        run.turn.commit(windlass_core::BoundaryOutput::default()).await.ok();
                        run.text("done");
                    },
                    Move::Cancel(requeue) => if let Ok(handle) = rig.adapter.session(id).await {
                        let disposition = if requeue { Disposition::Requeue } else { Disposition::Drop };
                        handle.cancel(None, "test", disposition).await.unwrap();
                    },
                    Move::Retire => { rig.adapter.retire_runtime(&id).await.ok(); }
                    Move::Reset => { rig.adapter.reset_runtime(&id).await.ok(); }
                    Move::Stop => if let Ok(handle) = rig.adapter.session(id).await { handle.stop().await.ok(); },
                    Move::Register => {
                        let executor = Arc::clone(&executor) as _;
                        rig.adapter.ensure_session_with_executor(id, executor).await.ok();
                    }
                    Move::Unregister => rig.adapter.unregister_session(id).await.unwrap(),
                    Move::Crash => {
                        let next = rig.crash();
                        next.adapter.ensure_session_with_executor(id, Arc::clone(&executor) as _).await.ok();
                        old.push(std::mem::replace(&mut rig, next));
                    }
                }
                tokio::task::yield_now().await;
            }
            // Whoever still waits is told when the runtimes end.
            for rig in old.iter().chain([&rig]) {
                rig.adapter.shutdown().await;
            }
            for waiter in waiting {
                waiter.await.unwrap();
            }
        });
    });
}
