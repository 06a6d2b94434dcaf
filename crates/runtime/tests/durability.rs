//! What survives a failing store, a dropped call and a crash?

mod rig;

use base64::Engine;
use futures_util::{FutureExt, future::BoxFuture};
use rig::{Rig, accept, rejected, state, text};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use windlass_core::{
    AbandonReason, AcceptOutcome, BlobId, BoundaryOutput, ContentBlock, Disposition, Durability, Input, InputState,
    MediaSource, Record, RejectReason, RuntimeState, Seq, Session, Timestamp,
};
use windlass_runtime::{
    CompletionOutcome, CoreApplyOutput, CoreExecutor, RuntimeSessionAdapter, SessionError, executor_fn,
    memory::MemoryStore,
    object_blobs::ObjectBlobs,
    store::{InputRef, Store},
    testing::{
        ManualExecutor,
        faulty_store::{Call, Fault},
        input, input_id, session,
    },
};

// S 128
#[tokio::test(start_paused = true)]
async fn an_input_is_in_the_store_before_its_caller_hears_so() {
    let rig = Rig::new();
    let (handle, ..) = rig.session().await;
    rig.store.close_gate();
    let asked = tokio::spawn(async move { handle.accept(input(1, "a")).await });
    rig.store.waiting(1).await;
    tokio::task::yield_now().await;
    assert!(!asked.is_finished(), "no answer before the append");
    rig.store.open_gate();
    assert!(matches!(asked.await.unwrap().unwrap(), AcceptOutcome::Accepted { durable: true, .. }));
    let row = rig.store.input(session(1), &InputRef::Id(input_id(1))).await.unwrap().unwrap();
    let entry = &rig.store.read(session(1), Seq(row.accepted_seq.0 - 1), 1).await.unwrap()[0];
    assert!(matches!(&entry.record, Record::InputAccepted(accepted) if accepted.input == input(1, "a")));
}

// S 149; decisions 9
#[tokio::test(start_paused = true)]
async fn an_ephemeral_input_is_accepted_at_once_and_lost_with_the_process() {
    let rig = Rig::new();
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    rig.store.close_gate();
    let fleeting = input(1, "a").with_durability(Durability::Ephemeral);
    let (outcome, done) = handle.accept_with_completion(fleeting).await.unwrap();
    assert!(matches!(outcome, AcceptOutcome::Accepted { durable: false, .. }), "answered before the append");
    rig.store.open_gate();
    assert_eq!(state(&handle, input_id(1)).await, Some(InputState::Queued));

    let after = rig.crash();
    let handle = after.adapter.register_session(session(1)).await.unwrap();
    assert_eq!(state(&handle, input_id(1)).await, Some(InputState::Abandoned));
    let again = handle.completion(InputRef::Id(input_id(1))).await.unwrap();
    assert_eq!(again.wait().await, CompletionOutcome::Abandoned(AbandonReason::EphemeralLost));
    drop(done);
}

fn picture(n: u128, data: &[u8]) -> Input {
    let data = base64::engine::general_purpose::STANDARD.encode(data);
    let source = MediaSource::Inline { data: data.into() };
    let image = ContentBlock::Image { media_type: "image/png".into(), source };
    Input::prompt_from_blocks(input_id(n), Timestamp::ZERO, vec![ContentBlock::text("look"), image])
}

// S 129, 131, 143
#[tokio::test(start_paused = true)]
async fn inline_media_is_moved_to_the_blob_store() {
    let rig = Rig::new();
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    handle.accept(picture(1, b"pixels")).await.unwrap();
    let stored = handle.input(&InputRef::Id(input_id(1))).await.unwrap().unwrap();
    assert!(!stored.input.has_inline_media());
    let ContentBlock::Image { source: MediaSource::Blob { blob, bytes: 6 }, .. } = &stored.input.blocks().unwrap()[1]
    else {
        panic!("{stored:?}");
    };
    let kept = rig.adapter.blobs().unwrap().get(blob).await.unwrap();
    assert_eq!(&kept[..], b"pixels");
    let duplicate = handle.accept(picture(1, b"pixels")).await.unwrap();
    assert!(matches!(duplicate, AcceptOutcome::Deduplicated { .. }), "blocks are compared by their digests");
    let other = handle.accept(picture(1, b"other pixels")).await.unwrap();
    assert!(matches!(rejected(other), RejectReason::IdConflict { .. }));
    let refused = BlobId::of(b"other pixels");
    assert!(!rig.adapter.blobs().unwrap().contains(&refused).await.unwrap(), "what is refused leaves nothing");

    let none = RuntimeSessionAdapter::persistent_without_blobs(Arc::new(MemoryStore::new()));
    let handle = none.register_session(session(1)).await.unwrap();
    assert_eq!(rejected(handle.accept(picture(1, b"x")).await.unwrap()), RejectReason::BlobStoreRequired);
    assert!(handle.active_inputs().await.unwrap().is_empty(), "nothing is left behind");
    let rig = Rig::with(|builder| builder.blobs(Arc::new(ObjectBlobs::in_memory())));
    let handle = rig.adapter.register_session(session(1)).await.unwrap();
    let reason = rejected(handle.accept(stored.input.clone()).await.unwrap());
    assert!(matches!(reason, RejectReason::BlobMissing { .. }));
}

// S 130
#[tokio::test(start_paused = true)]
async fn a_failed_append_leaves_nothing_and_the_same_input_can_be_offered_again() {
    for fault in [Fault::Full, Fault::ReadOnly, Fault::Unavailable, Fault::UnknownNotDone] {
        let rig = Rig::new();
        let (handle, _, mut runs) = rig.session().await;
        rig.store.fail(Call::Append, 1, fault);
        let error = handle.accept(input(1, "a").with_key("k").unwrap()).await.unwrap_err();
        assert!(matches!(&error, SessionError::Store(_)), "{error}");
        assert_eq!(rig.records().await, ["session_created"], "{fault:?}");
        let outcome = handle.accept(input(2, "a").with_key("k").unwrap()).await.unwrap();
        assert!(matches!(outcome, AcceptOutcome::Accepted { .. }), "{fault:?}: {outcome:?}");
        runs.next().await.text("a");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_append_is_called_unknown_and_a_retry_finds_out() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    rig.store.fail(Call::Append, 1, Fault::UnknownButDone);
    let error = handle.accept(input(1, "a").with_key("k").unwrap()).await.unwrap_err();
    assert_eq!(error.code(), "commit_outcome_unknown");
    let (outcome, done) = handle.accept_with_completion(input(2, "a").with_key("k").unwrap()).await.unwrap();
    assert!(matches!(outcome, AcceptOutcome::Deduplicated { existing_id, .. } if existing_id == input_id(1)));
    runs.next().await.text("once");
    assert_eq!(text(done.unwrap().wait().await), "once");
}

// S 97, 98, 99, 135, 136; OC 102: whatever commit fails, waiters stay, the executor is told, nothing is stuck, and the store's
// failure costs no attempt.
#[tokio::test(start_paused = true)]
async fn a_failed_commit_of_a_run_is_tried_again_and_its_waiters_stay() {
    for fault in [Fault::Full, Fault::Unavailable, Fault::UnknownNotDone, Fault::UnknownButDone] {
        for at in ["boundary", "end", "failure"] {
            let rig = Rig::with(|builder| builder.limits(rig::limits(|limits| limits.attempts = 1)));
            let (handle, executor, mut runs) = rig.session().await;
            let done = accept(&handle, input(1, "a")).await;
            let run = runs.next().await;
            rig.store.fail(Call::Append, 1, fault);
            match at {
                "boundary" => {
                    assert!(run.turn.commit(BoundaryOutput::default()).await.is_err(), "{fault:?}");
                    assert!(run.turn.is_cancelled(), "the executor is told to stop");
                }
                "end" => run.text("done"),
                _ => run.fail("failed"),
            }
            let told = tokio::spawn(done.wait());
            if !(fault == Fault::UnknownButDone && at != "boundary") {
                runs.next().await.text("done");
            }
            let outcome = told.await.unwrap();
            match (at, fault) {
                ("failure", Fault::UnknownButDone) => assert!(matches!(outcome, CompletionOutcome::Abandoned(_))),
                _ => assert_eq!(text(outcome), "done", "{fault:?} at {at}"),
            }
            assert_eq!(executor.most_running(), 1);
            assert_eq!(handle.state().await.unwrap(), RuntimeState::Attached);
        }
    }
}

// S 144; OC 44; G07
#[tokio::test(start_paused = true)]
async fn a_second_owner_fences_the_first() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    let zombie = runs.next().await;
    let after = rig.crash();
    let (executor, mut runs) = ManualExecutor::new();
    let second = after.attach(&executor).await;
    let run = runs.next().await;
    let refused = zombie.turn.commit(BoundaryOutput::default()).await;
    assert!(refused.is_err(), "what an older owner commits is refused");
    assert_eq!(done.wait().await, CompletionOutcome::RuntimeTerminated("ownership lost".into()));
    run.text("the only one");
    let once = second.completion(InputRef::Id(input_id(1))).await.unwrap();
    assert_eq!(text(once.wait().await), "the only one");
    let ends = after.records().await.iter().filter(|name| **name == "run_ended").count();
    assert_eq!(ends, 2, "the lost attempt and the good one");
}

/// Polls a future `k` times, then drops it.
struct DroppedAfter<F>(Pin<Box<F>>, u32);

impl<F: Future> Future for DroppedAfter<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.1 == 0 {
            return Poll::Ready(None);
        }
        self.1 -= 1;
        let polled = self.0.as_mut().poll(context).map(Some);
        if polled.is_pending() && self.1 == 0 {
            return Poll::Ready(None);
        }
        polled
    }
}

type Call1 = fn(Rig) -> BoxFuture<'static, ()>;

/// Every public call that can be dropped half-way.
const CALLS: &[(&str, Call1)] = &[
    ("accept", |rig| async move { drop(rig.handle().await.accept(input(7, "x")).await) }.boxed()),
    ("accept_ephemeral", |rig| {
        async move { drop(rig.handle().await.accept(input(7, "x").with_durability(Durability::Ephemeral)).await) }
            .boxed()
    }),
    ("accept_picture", |rig| async move { drop(rig.handle().await.accept(picture(7, b"pixels")).await) }.boxed()),
    ("accept_with_completion", |rig| {
        async move {
            let (_, done) = rig.handle().await.accept_with_completion(input(7, "x")).await.unwrap();
            done.unwrap().wait().await;
        }
        .boxed()
    }),
    ("accept_without_wake", |rig| {
        async move { drop(rig.handle().await.accept_without_wake(input(7, "x")).await) }.boxed()
    }),
    ("accept_and_run", |rig| {
        async move {
            rig.handle().await.hold().await.unwrap();
            let run = |_, _| async {
                tokio::task::yield_now().await;
                Ok::<_, String>(CoreApplyOutput::text("mine"))
            };
            drop(rig.handle().await.accept_and_run(input(7, "x"), run).await);
        }
        .boxed()
    }),
    ("withdraw", |rig| async move { drop(rig.handle().await.withdraw(input_id(2)).await) }.boxed()),
    ("cancel", |rig| async move { drop(rig.handle().await.cancel(None, "x", Disposition::Drop).await) }.boxed()),
    ("requeue", |rig| async move { drop(rig.handle().await.cancel(None, "x", Disposition::Requeue).await) }.boxed()),
    ("retire", |rig| async move { drop(rig.handle().await.retire().await) }.boxed()),
    ("stop", |rig| async move { drop(rig.handle().await.stop().await) }.boxed()),
    ("destroy", |rig| async move { drop(rig.handle().await.destroy().await) }.boxed()),
    ("reset", |rig| async move { drop(rig.handle().await.reset(true).await) }.boxed()),
    ("recycle", |rig| async move { drop(rig.handle().await.recycle().await) }.boxed()),
    ("hold", |rig| async move { drop(rig.handle().await.hold().await) }.boxed()),
    ("recover", |rig| async move { drop(rig.handle().await.recover().await) }.boxed()),
    ("redrive", |rig| async move { drop(rig.handle().await.redrive(input_id(1)).await) }.boxed()),
    ("completion", |rig| async move { drop(rig.handle().await.completion(InputRef::Id(input_id(1))).await) }.boxed()),
    ("register", |rig| async move { drop(rig.adapter.register_session(session(2)).await) }.boxed()),
    ("ensure", |rig| {
        async move {
            let (executor, _runs) = ManualExecutor::new();
            drop(rig.adapter.ensure_session_with_executor(session(2), executor).await);
        }
        .boxed()
    }),
    ("unregister", |rig| async move { drop(rig.adapter.unregister_session(session(1)).await) }.boxed()),
    ("resume_pending", |rig| async move { drop(rig.adapter.resume_pending().await) }.boxed()),
];

// S 132; OC 87: every call is dropped at its k-th poll, for every k; afterwards it has wholly happened or
// not at all, the session goes on, and after a crash the journal says the same.
#[test]
fn a_call_dropped_at_any_poll_has_wholly_happened_or_not_at_all() {
    for (name, call) in CALLS {
        let mut k = 1;
        loop {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let finished = runtime.block_on(dropped_after(name, *call, k));
            if finished {
                break;
            }
            k += 1;
            assert!(k < 200, "{name} never ends");
        }
    }
}

async fn dropped_after(name: &str, call: Call1, k: u32) -> bool {
    let rig = Rig::new();
    // The first run stands until the call is over, so that the call meets a session with a run and with a queue.
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let stands = Arc::clone(&gate);
    let executor: Arc<dyn CoreExecutor> = Arc::new(executor_fn(move |turn| {
        let gate = Arc::clone(&stands);
        async move {
            tokio::select! {
                passed = gate.acquire() => drop(passed),
                () = turn.cancelled() => {}
            }
            Ok(CoreApplyOutput::text(turn.primitive().text()))
        }
    }));
    rig.adapter.ensure_session_with_executor(session(1), Arc::clone(&executor)).await.unwrap();
    let handle = rig.handle().await;
    accept(&handle, input(1, "a")).await;
    accept(&handle, input(2, "b")).await;
    let shared = Rig { store: Arc::clone(&rig.store), clock: Arc::clone(&rig.clock), adapter: rig.adapter.clone() };
    let finished = DroppedAfter(Box::pin(call(shared)), k).await.is_some();
    gate.add_permits(1_000);

    // Whatever the call made of the session, it answers, and if its gate is open it runs.
    let attached = loop {
        match rig.adapter.ensure_session_with_executor(session(1), Arc::clone(&executor)).await {
            // It is being let go; the next owner takes it.
            Err(SessionError::Draining) => tokio::task::yield_now().await,
            attached => break attached,
        }
    };
    let handle = rig.adapter.session(session(1)).await.unwrap();
    if handle.status().await.unwrap().gate == windlass_core::Gate::Open {
        attached.unwrap();
        handle.release().await.unwrap();
        let probe = accept(&handle, input(99, "probe")).await;
        assert_eq!(text(probe.wait().await), "probe", "{name} dropped after {k} polls");
    }
    let live = handle.status().await.unwrap();
    let entries = rig.store.read(session(1), Seq::ZERO, 10_000).await.unwrap();
    let table = Arc::new(windlass_core::PolicyTable::reference());
    let again = Session::recover(session(1), windlass_core::Limits::default(), table, None, &entries).unwrap();
    again.check();
    let again = (again.head(), again.open_inputs());
    assert_eq!((live.head, live.open_inputs), again, "{name} dropped after {k} polls");
    finished
}
