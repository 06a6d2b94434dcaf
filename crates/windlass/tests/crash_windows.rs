//! Is the right answer given after a crash in every window of the ingress specification, section 11.3?
//!
//! A child process works on a real SQLite file, with notes of its own of what it was told. It is killed at the n-th
//! pass of a named point, for every n. Each death is put into its window by what stands in the store; then the session
//! is opened again, and the window's right answer is checked.
#![cfg(all(feature = "sqlite", unix))]

use base64::Engine;
use std::{
    fs::File,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use windlass::{
    BoundaryOutput, CompletionOutcome, ContentBlock, CoreApplyOutput, CoreExecutor, CoreExecutorError, Durability,
    Entry, Input, InputId, InputRef, InputState, MediaSource, ObjectBlobs, PeerConvention, ProgressPhase, Record,
    RuntimeSessionAdapter, RuntimeState, Seq, SessionHandle, SessionId, Store, Timestamp, Turn, executor_fn,
};
use windlass_sqlite::{SqliteOptions, SqliteStore, crash_point, verify};

/// Deaths before the commit leave the same; with `WINDLASS_DEEP` each of them is died.
const POINTS: &[&str] = &["before_commit", "after_commit", "before_answer", "apply", "committed"];
const MORE_POINTS: &[&str] = &["before_begin", "after_begin", "after_rows"];

/// What the child does before it dies.
const STORIES: &[&str] = &["prompt", "boundary", "failure", "retire", "coalesce", "stop", "picture"];

fn session() -> SessionId {
    SessionId::from_uuid(uuid::Uuid::from_u128(1))
}

fn id(n: u128) -> InputId {
    InputId::from_uuid(uuid::Uuid::from_u128(n))
}

fn prompt(n: u128) -> Input {
    Input::prompt(id(n), Timestamp::ZERO, format!("prompt {n}")).with_key(&format!("k{n}")).expect("a key")
}

fn progress(n: u128) -> Input {
    let convention = PeerConvention::ResponseProgress { request_id: "r".into(), phase: ProgressPhase::InProgress };
    let input = Input::peer(id(n), Timestamp::ZERO, "peer", convention, format!("progress {n}"));
    input.superseding("r").expect("a key").with_durability(Durability::Durable)
}

fn picture(n: u128) -> Input {
    let source = MediaSource::Inline { data: base64::engine::general_purpose::STANDARD.encode("pixels").into() };
    Input::prompt_from_blocks(
        id(n),
        Timestamp::ZERO,
        vec![ContentBlock::Image { media_type: "image/png".into(), source }],
    )
}

/// A folder with a store, and what was noted beside it.
struct Place(PathBuf);

impl Place {
    fn adapter(&self) -> RuntimeSessionAdapter {
        let store = SqliteStore::open(self.0.join("store.db"), SqliteOptions::default()).expect("the lock is free");
        let blobs = ObjectBlobs::in_folder(self.0.join("blobs")).expect("a folder");
        RuntimeSessionAdapter::builder().store(Arc::new(store)).blobs(Arc::new(blobs)).entries_kept(u64::MAX).build()
    }

    fn note(&self, line: &str) {
        let mut file = File::options().create(true).append(true).open(self.0.join("notes")).expect("the notes");
        file.write_all(format!("{line}\n").as_bytes()).expect("noted");
    }

    fn noted(&self, line: &str) -> bool {
        self.count(line) > 0
    }

    fn count(&self, line: &str) -> usize {
        let notes = std::fs::read_to_string(self.0.join("notes")).unwrap_or_default();
        notes.lines().filter(|noted| *noted == line).count()
    }

    /// Answers, or fails, or commits first, as the story has it; notes every start.
    fn executor(&self, story: &str) -> Arc<dyn CoreExecutor> {
        let (place, story) = (Place(self.0.clone()), story.to_owned());
        Arc::new(executor_fn(move |turn: Turn| {
            let (place, story) = (Place(place.0.clone()), story.clone());
            async move {
                place.note("started");
                crash_point("apply");
                if story == "boundary" && turn.resumes_after().is_none() {
                    turn.commit(BoundaryOutput::default()).await?;
                    place.note("committed");
                    crash_point("committed");
                }
                if story == "failure" && turn.attempt() == 1 {
                    return Err(CoreExecutorError::retryable("once"));
                }
                Ok(CoreApplyOutput::text(turn.primitive().text()))
            }
        }))
    }
}

async fn child(place: Place, story: &str) {
    let adapter = place.adapter();
    let attach = || adapter.ensure_session_with_executor(session(), place.executor(story));
    if matches!(story, "prompt" | "boundary" | "failure" | "picture") {
        attach().await.expect("attached");
    }
    let handle = adapter.register_session(session()).await.expect("registered");
    let inputs = match story {
        "retire" | "stop" => vec![prompt(1), prompt(2)],
        "coalesce" => vec![progress(1), progress(2)],
        "picture" => vec![picture(1)],
        _ => vec![prompt(1)],
    };
    let mut waiting = Vec::new();
    for input in inputs {
        let id = input.id();
        let (_, completion) = handle.accept_with_completion(input).await.expect("accepted");
        place.note(&format!("acknowledged {id}"));
        waiting.extend(completion);
    }
    match story {
        "retire" => {
            // An executor that never gets on keeps what is queued queued.
            let stands: Arc<dyn CoreExecutor> = Arc::new(executor_fn(|_| std::future::pending()));
            adapter.ensure_session_with_executor(session(), stands).await.expect("attached");
            handle.retire().await.expect("retired");
            place.note("retired");
            return;
        }
        "stop" => {
            handle.stop().await.expect("stopped");
            place.note("stopped");
            return;
        }
        "coalesce" => return,
        _ => {}
    }
    for completion in waiting {
        completion.wait().await;
        place.note("told");
    }
}

/// Not a test by itself: the life of a child, when there is one.
#[test]
fn life() {
    let (Ok(folder), Ok(story)) = (std::env::var("WINDLASS_TEST_FOLDER"), std::env::var("WINDLASS_TEST_STORY")) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(child(Place(folder.into()), &story));
    std::process::exit(0);
}

/// Lives until it dies there, or to its end. Returns whether it was killed.
fn live(folder: &Path, story: &str, crash: &str) -> bool {
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "life", "--nocapture"])
        .env("WINDLASS_TEST_FOLDER", folder)
        .env("WINDLASS_TEST_STORY", story)
        .env("WINDLASS_CRASH", crash)
        .output()
        .expect("the child ran");
    let status = output.status;
    assert!(
        status.success() || status.signal() == Some(9),
        "{story} {crash}: {status}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    status.signal() == Some(9)
}

/// What stood in the store when the process was dead.
struct Left {
    entries: Vec<Arc<Entry>>,
    rows: [Option<windlass::store::InputRow>; 2],
}

impl Left {
    async fn at(folder: &Path) -> Left {
        let file = folder.join("store.db");
        if !file.exists() {
            return Left { entries: Vec::new(), rows: [None, None] };
        }
        let store = SqliteStore::open_read_only(&file).expect("readable after a crash");
        let row = async |n| store.input(session(), &InputRef::Id(id(n))).await.expect("read");
        let rows = [row(1).await, row(2).await];
        Left { entries: store.read(session(), Seq::ZERO, 1_000).await.expect("read"), rows }
    }

    fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.record.name() == name)
    }

    fn open(&self, n: usize) -> bool {
        self.rows[n - 1].as_ref().is_some_and(|row| row.settled.is_none())
    }

    fn present(&self, n: usize) -> bool {
        self.rows[n - 1].is_some()
    }
}

/// The window that a death falls into, by what is left.
fn window(story: &str, place: &Place, left: &Left) -> &'static str {
    let acknowledged = place.noted(&format!("acknowledged {}", id(1)));
    let ended = left.entries.iter().rfind(|entry| entry.record.name() == "run_ended");
    match story {
        "picture" if !left.present(1) && place.0.join("blobs/b3").exists() => "K14",
        _ if !left.present(1) => "K1",
        "retire" if left.entries.iter().any(|entry| entry.record.name() == "gate_changed") => "K10",
        "stop" if left.has("gate_changed") => "K12",
        "coalesce" if left.present(2) => "K11",
        _ if !acknowledged && !left.has("run_ended") && !place.noted("started") => "K2",
        _ if left.has("run_started") && !place.noted("started") => "K3",
        "failure" if ended.is_some() && left.open(1) => "K9",
        _ if left.has("boundary_committed") && !left.has("run_ended") => "K5/K6",
        _ if left.has("run_ended") && !place.noted("told") => "K8",
        _ if place.noted("started") && !left.has("run_ended") => "K4",
        _ => "between windows",
    }
}

/// Opens the session again, and checks the answer that the window asks for; and, whatever the window, that everything
/// acknowledged is accounted for, once.
async fn check(window: &str, story: &str, place: &Place, left: &Left, case: &str) {
    let starts = place.count("started");
    let adapter = place.adapter();
    let handle = adapter.register_session(session()).await.expect("it opens again");
    let known = handle.input_state(id(1)).await.expect("asked").is_some();
    assert_eq!(known, left.present(1), "{case}: wholly there or wholly absent");
    match window {
        "K1" | "K14" => {
            assert!(!place.noted(&format!("acknowledged {}", id(1))), "{case}: nothing acknowledged is lost");
            if window == "K14" {
                let none = std::collections::HashSet::new();
                let orphans = adapter.blobs().expect("blobs").collect(&none, std::time::Duration::ZERO).await;
                assert_eq!(orphans.expect("collected"), 1, "{case}: only an orphan is left, and collected");
            }
        }
        "K12" => {
            assert_eq!(handle.input_state(id(1)).await.expect("asked"), Some(InputState::Abandoned), "{case}");
        }
        "K11" => {
            assert_eq!(handle.input_state(id(1)).await.expect("asked"), Some(InputState::Coalesced), "{case}");
        }
        _ => {}
    }
    if window == "K10" {
        assert_eq!(handle.state().await.expect("asked"), RuntimeState::Retired, "{case}");
    }
    let attached = adapter.ensure_session_with_executor(session(), place.executor(story)).await;
    attached.unwrap_or_else(|error| panic!("{case}: {error}"));
    for n in [1, 2] {
        if let Ok(done) = handle.completion(InputRef::Id(id(n))).await
            && left.open(n as usize)
            && story != "coalesce"
        {
            let outcome = done.wait().await;
            assert!(matches!(outcome, CompletionOutcome::Completed(_)), "{case}: input {n} ended {outcome:?}");
        }
    }
    let more = place.count("started") - starts;
    match window {
        // The whole input is run again, and the death counted as an attempt.
        "K4" => assert_eq!(more, 1, "{case}"),
        // Resumed after the boundary, which is not applied again.
        "K5/K6" => assert_eq!((more, place.count("committed").min(1)), (1, place.count("committed")), "{case}"),
        // Over is over; who waited asks by id or key.
        "K8" => {
            assert_eq!(more, 0, "{case}: no second turn");
            let key = windlass::IdempotencyKey::new(if story == "picture" { "none" } else { "k1" }).expect("a key");
            if story != "picture" {
                let done = handle.completion(InputRef::Key(key)).await.expect("found by its key").wait().await;
                assert!(matches!(done, CompletionOutcome::Completed(_)), "{case}: {done:?}");
            }
        }
        "K9" => assert_eq!(more, 1, "{case}: tried again"),
        // K2: a retry under the same key is a duplicate.
        "K2" if story == "prompt" => {
            let again = handle.accept(prompt(1)).await.expect("offered");
            assert!(matches!(again, windlass::AcceptOutcome::Deduplicated { .. }), "{case}: {again:?}");
        }
        _ => {}
    }
    settle(&handle).await;
    accounted(&handle, place, case).await;
    adapter.shutdown().await;
    drop(adapter);
    let report = verify(place.0.join("store.db")).expect("verified");
    assert!(report.is_clean(), "{case}: {report}");
}

/// Waits until nothing is left to run but what waits for company.
async fn settle(handle: &SessionHandle) {
    for (input, state) in handle.active_inputs().await.expect("asked") {
        if state != InputState::Queued {
            handle.completion(InputRef::Id(input)).await.expect("open").wait().await;
        }
    }
}

/// Each input stands in at most one receipt, and each acknowledged one is over or waits.
async fn accounted(handle: &SessionHandle, place: &Place, case: &str) {
    let mut feed = handle.feed(Seq::ZERO);
    let head = handle.status().await.expect("asked").head;
    let mut covered = Vec::new();
    while feed.position() < head {
        if let windlass::FeedItem::Entry(entry) = feed.next().await.expect("read")
            && let Some(receipt) = entry.record.receipt()
        {
            covered.extend(receipt.contributing_input_ids.iter().copied());
            assert!(!matches!(entry.record, Record::Noted { .. }));
        }
    }
    for n in [1, 2] {
        let times = covered.iter().filter(|input| **input == id(n)).count();
        assert!(times <= 1, "{case}: input {n} is in {times} receipts");
        if place.noted(&format!("acknowledged {}", id(n))) {
            let state = handle.input_state(id(n)).await.expect("asked");
            assert!(state.is_some(), "{case}: input {n} was acknowledged and is lost");
            assert_eq!(state == Some(InputState::Consumed), times == 1, "{case}: input {n} is {state:?}");
        }
    }
}

// S 159; K1 to K6, K8 to K12 and K14. K7 cannot be written by us (the core's scenarios show that it is refused), K13
// belongs to operations, and K15 is the store's lock (crates/sqlite/tests/refusals.rs).
#[tokio::test]
async fn every_crash_window_has_its_right_answer() {
    let mut seen = std::collections::BTreeSet::new();
    let deep = std::env::var_os("WINDLASS_DEEP").map_or(&[][..], |_| MORE_POINTS);
    for story in STORIES {
        for point in POINTS.iter().chain(deep) {
            for pass in 1.. {
                let folder = tempfile::tempdir().expect("a folder");
                let case = format!("{story} {point}@{pass}");
                if !live(folder.path(), story, &format!("{point}@{pass}")) {
                    break;
                }
                let place = Place(folder.path().to_owned());
                let left = Left::at(folder.path()).await;
                let window = window(story, &place, &left);
                seen.insert(window);
                check(window, story, &place, &left, &format!("{window}: {case}")).await;
            }
        }
    }
    for window in ["K1", "K2", "K4", "K5/K6", "K8", "K9", "K10", "K11", "K12", "K14"] {
        assert!(seen.contains(window), "no death fell into {window}: {seen:?}");
    }
}
