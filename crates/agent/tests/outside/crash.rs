//! Does an agent in Python lose anything when it, or the whole process around it, is killed at any moment?
//!
//! A child process runs the example worker over a store on disk. The child notes each acknowledged input, the worker each
//! step that it begins and each that was committed, both in files of their own. The parent kills one or the other after
//! so many notes, and at the end compares the notes with what the store says.

use crate::common::{gone, has, prompt, repository, result_text, until};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use windlass_agent::{Crew, ProcessWorker, Program};
use windlass_core::{AcceptOutcome, Limits, SessionId};
use windlass_runtime::{
    CoreExecutor, CoreExecutorError, ExecutorFactory, RuntimeSessionAdapter, SessionHandle, store::InputRef,
};
use windlass_sqlite::{SqliteOptions, SqliteStore};

const SESSIONS: u128 = 2;
const KILLS: u64 = 16;
const WORDS: &str = "one two three four five";

/// The example, which notes what it does.
fn worker(folder: &Path) -> Program {
    let mut source = fs::read_to_string(repository().join("examples/agents/python/worker.py")).expect("the example");
    for (what, with) in [
        (
            "import json, sys\n",
            "import json, os, sys\nLOG = os.open(sys.argv[1], os.O_APPEND | os.O_CREAT | os.O_WRONLY)\n\
             def note(words):\n    os.write(LOG, (words + '\\n').encode())\nnote(f'pid {os.getpid()}')\n",
        ),
        (
            "        state[\"done\"].append(word.upper())  # the work\n",
            "        note(f\"begun {run['run']} {len(state['done'])}\")\n        state[\"done\"].append(word.upper())\n",
        ),
        ("  # never done again\n", "\n            note(f\"committed {run['run']} {len(state['done']) - 1}\")\n"),
    ] {
        assert!(source.contains(what), "the example has changed: {what}");
        source = source.replace(what, with);
    }
    let file = folder.join("worker.py");
    fs::write(&file, source).expect("written");
    Program::new(["python3".into(), file.into_os_string(), folder.join("steps").into_os_string()])
}

struct Workers(Arc<dyn CoreExecutor>);

#[async_trait::async_trait]
impl ExecutorFactory for Workers {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::clone(&self.0))
    }
}

/// Sessions on the store of a folder, which go on with what they find.
async fn open(folder: &Path) -> (RuntimeSessionAdapter, Vec<SessionHandle>) {
    let store = SqliteStore::open(folder.join("store.db"), SqliteOptions::default()).expect("a store");
    // So many attempts as there may be kills in the same step.
    let limits = Limits { backoff: Duration::from_millis(1), attempts: KILLS as u32 + 1, ..Limits::default() };
    let executor = Arc::new(ProcessWorker::new(worker(folder), Crew::default()));
    let adapter = RuntimeSessionAdapter::builder()
        .store(Arc::new(store))
        .factory(Arc::new(Workers(executor)))
        .limits(limits)
        .build();
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let id = SessionId::from_uuid(uuid::Uuid::from_u128(0xa000 + number));
        sessions.push(adapter.create_session(id, None).await.expect("a session"));
    }
    adapter.resume_pending().await.expect("what waits");
    (adapter, sessions)
}

/// Not a test by itself: the life of a child, when there is one.
#[test]
fn child() {
    let Ok(folder) = std::env::var("WINDLASS_TEST_AGENT_CHILD") else { return };
    let (folder, life) = (Path::new(&folder), u128::from(std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (_adapter, sessions) = open(folder).await;
        let offers = sessions.iter().enumerate().map(|(number, session)| async move {
            let mut notes = File::options().create(true).append(true).open(folder.join("acknowledged")).expect("notes");
            for round in 0..u128::from(u16::MAX) {
                let input = prompt((life << 32) | ((number as u128) << 16) | round, WORDS);
                let id = input.id();
                let (answer, completion) = session.accept_with_completion(input).await.expect("an answer");
                assert!(matches!(answer, AcceptOutcome::Accepted { durable: true, .. }), "{answer:?}");
                // In one piece, so that a kill leaves no half line.
                notes.write_all(format!("{number} {id}\n").as_bytes()).expect("noted");
                completion.expect("it is accepted").wait().await;
            }
        });
        futures_util::future::join_all(offers).await;
    });
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "crash::child", "--nocapture"])
        .env("WINDLASS_TEST_AGENT_CHILD", folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("a child")
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn an_agent_killed_at_any_moment_loses_nothing_and_repeats_nothing_committed() {
    if !has("python3") {
        eprintln!("not shown: there is no python3");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (folder, steps) = (dir.path(), dir.path().join("steps"));
    let mut child = spawn(folder);
    for kill in 0..KILLS {
        // "At random", but the same each time: after 1 to 23 further notes of the worker.
        let until_then = lines(&steps).len() + 1 + (kill * 7 % 23) as usize;
        let noted = until(|| Some(lines(&steps)).filter(|noted| noted.len() >= until_then)).await;
        let pids: Vec<&str> = noted.iter().filter_map(|line| line.strip_prefix("pid ")).collect();
        if kill % 2 == 0 {
            child.kill().expect("it lives");
            child.wait().expect("it ends");
            // Its workers hear the end of their input, and leave.
            gone(&pids.iter().map(|pid| (*pid).to_owned()).collect::<Vec<_>>()).await;
            child = spawn(folder);
        } else {
            // The one that was started last may have ended by itself meanwhile.
            drop(Command::new("kill").args(["-9", pids.last().expect("there is one")]).status());
        }
    }
    child.kill().expect("it lives");
    child.wait().expect("it ends");

    let (_adapter, sessions) = open(folder).await;
    let acknowledged = lines(&folder.join("acknowledged"));
    for line in &acknowledged {
        let (number, id) = line.split_once(' ').expect("two words");
        let session = &sessions[number.parse::<usize>().expect("a number")];
        let id = windlass_core::InputId::from_uuid(id.parse().expect("an id"));
        let ended = session.completion(InputRef::Id(id)).await.expect("it is known").wait().await;
        assert_eq!(result_text(ended), WORDS.to_uppercase(), "{line}");
    }
    assert!(acknowledged.len() as u64 > KILLS, "{} inputs", acknowledged.len());
    let mut committed = BTreeSet::new();
    let mut repeated = 0;
    let mut begun = BTreeSet::new();
    for line in lines(&steps) {
        if let Some(step) = line.strip_prefix("begun ") {
            assert!(!committed.contains(step), "begun again although it was committed: {step}");
            repeated += usize::from(!begun.insert(step.to_owned()));
        } else if let Some(step) = line.strip_prefix("committed ") {
            committed.insert(step.to_owned());
        }
    }
    assert!(committed.len() as u64 > KILLS && repeated as u64 <= 2 * KILLS, "{} and {repeated}", committed.len());
}
