//! When is an executor called in its session's own task, and does everything else still hold then?

mod rig;

use rig::{Rig, accept, session_id, text};
use std::sync::{Arc, Mutex};
use tokio::task::Id;
use windlass_core::{BoundaryOutput, RuntimeState};
use windlass_runtime::{
    CoreApplyOutput, SessionHandle, executor_fn,
    testing::{
        faulty_store::{Call, Fault},
        input,
    },
};

/// The tasks in which an executor was polled, run by run: where it began, and where it ended.
type Places = Arc<Mutex<Vec<(Id, Id)>>>;

/// A session whose executor does what the input says, and remembers where.
async fn session(rig: &Rig) -> (SessionHandle, Places) {
    let places = Places::default();
    let executor = executor_fn({
        let (places, adapter) = (Arc::clone(&places), rig.adapter.clone());
        move |turn| {
            let (places, adapter) = (Arc::clone(&places), adapter.clone());
            async move {
                let began = tokio::task::id();
                let said = turn.primitive().text();
                match said.as_str() {
                    "yield" => tokio::task::yield_now().await,
                    "call back" => {
                        let own = adapter.session(turn.session()).await.expect("it is running");
                        assert_eq!(own.state().await.expect("the store works"), RuntimeState::Running);
                        turn.checkpoint().await?;
                        turn.commit(BoundaryOutput::default()).await?;
                    }
                    "compute" => {
                        let clock = std::time::Instant::now();
                        while clock.elapsed().as_micros() < 200 {
                            std::hint::spin_loop();
                        }
                    }
                    "panic" if turn.attempt() == 1 => {
                        places.lock().unwrap().push((began, began));
                        panic!("oh no")
                    }
                    _ => {}
                }
                places.lock().unwrap().push((began, tokio::task::id()));
                Ok(CoreApplyOutput::text(said))
            }
        }
    });
    rig.adapter.ensure_session_with_executor(session_id(1), Arc::new(executor)).await.unwrap();
    (rig.handle().await, places)
}

/// What the places are called: `session` is the one task that several runs began in.
fn named(places: &Places) -> Vec<&'static str> {
    let places = places.lock().unwrap();
    let session = |id: Id| places.iter().filter(|(began, _)| *began == id).count() > 1;
    let name = |(began, ended): &(Id, Id)| match (session(*began), began == ended) {
        (true, true) => "session",
        (true, false) => "session, then own",
        (false, _) => "own",
    };
    places.iter().map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_was_done_at_once_is_next_called_in_the_sessions_task() {
    let script: &[(&str, &[&str])] = &[
        ("now", &["own"]),
        ("now", &["session"]),
        ("now", &["session"]),
        // What waits goes on in a task of its own, whatever it waits for, and the next one begins in its own.
        ("yield", &["session, then own"]),
        ("now", &["own"]),
        ("call back", &["session, then own"]),
        ("call back", &["own"]),
        ("now", &["own"]),
        // A panic is contained there as well.
        ("panic", &["session", "session"]),
        ("now", &["session"]),
    ];
    let rig = Rig::new();
    let (handle, places) = session(&rig).await;
    for (n, (said, _)) in (1..).zip(script) {
        let done = accept(&handle, input(n, said)).await;
        assert_eq!(text(done.wait().await), *said);
    }
    let expected: Vec<_> = script.iter().flat_map(|(_, places)| *places).copied().collect();
    assert_eq!(named(&places), expected);
}

// Time is not paused: it is what is measured.
#[tokio::test]
async fn an_executor_that_computes_keeps_a_task_of_its_own() {
    let rig = Rig::new();
    let (handle, places) = session(&rig).await;
    for n in 1..=5 {
        assert_eq!(text(accept(&handle, input(n, "compute")).await.wait().await), "compute");
    }
    assert_eq!(named(&places), ["own"; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_of_such_runs_does_not_keep_its_session_from_answering() {
    let rig = Rig::new();
    let (handle, places) = session(&rig).await;
    handle.hold().await.unwrap();
    let mut last = None;
    for n in 1..=1_000 {
        last = Some(accept(&handle, input(n, "now")).await);
    }
    handle.release().await.unwrap();
    let open = handle.status().await.unwrap().open_inputs;
    assert!(open > 500, "only {open} are left");
    handle.stop().await.unwrap();
    last.expect("a thousand were accepted").wait().await;
    let ran = places.lock().unwrap().len();
    assert!(ran < 1_000, "stopped on the way, after {ran}");
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_of_a_run_whose_end_could_not_be_kept() {
    let rig = Rig::new();
    let (handle, places) = session(&rig).await;
    accept(&handle, input(1, "now")).await.wait().await;
    // The first append starts the run, the second one ends it.
    rig.store.fail(Call::Append, 2, Fault::Unavailable);
    let done = accept(&handle, input(2, "now")).await;
    assert_eq!(text(done.wait().await), "now");
    assert_eq!(places.lock().unwrap().len(), 3, "the run was run again");
    let ends = rig.records().await.into_iter().filter(|name| *name == "run_ended").count();
    assert_eq!(ends, 3, "one of them says that it was let go");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_cut_off_with_the_append_that_starts_it_calls_nobody() {
    let rig = Rig::new();
    let (handle, places) = session(&rig).await;
    // Both are in the mailbox before the session looks into it.
    let (accepted, stopped) = tokio::join!(handle.accept_with_completion(input(1, "now")), handle.stop());
    stopped.unwrap();
    accepted.unwrap();
    assert!(places.lock().unwrap().is_empty());
    assert_eq!(handle.state().await.unwrap(), RuntimeState::Stopped);

    let (handle, places) = session(&rig).await;
    let (_, reset) = tokio::join!(handle.accept(input(2, "now")), handle.reset(true));
    reset.unwrap();
    assert!(places.lock().unwrap().is_empty());
    assert_eq!(text(accept(&handle, input(3, "now")).await.wait().await), "now", "and the next one runs");
}
