//! `windlass chat`: how does one talk with an agent that survives being killed?
//!
//! Each line of standard input is a prompt, durable before it is run; each answer is a line of standard output. A
//! prompt that a killed chat left behind is answered first. At a terminal, what is typed while the agent works steers
//! it; from a pipe, each line waits for the answer to the one before, and the end for what is done in the background.

use crate::{
    failure::{Exit, Failure},
    output,
    place::{Place, blob_folder, session_id, store_file},
    wakes::Wakes,
};
use std::{collections::VecDeque, ffi::OsString, io::IsTerminal, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::Instant,
};
use windlass::{
    AbandonReason, AcceptOutcome, Clock, CompletionOutcome, Disposition, ExecutorFactory, HandlingMode, Input, InputId,
    InputRef, ObjectBlobs, RunResult, RuntimeSessionAdapter, Seq, SessionHandle, SqliteOptions, SqliteStore, Store,
    SystemClock, Terminal,
    agent::{BuiltinFactory, ProcessFactory, Program},
};

/// What the agent knows of the conversation is what the journal keeps of it.
const REMEMBERED: u64 = 100_000;

/// Talk with an agent; durable, so it goes on after a kill
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: a name or an id
    #[arg(long, default_value = "chat", value_name = "NAME")]
    session: String,
    #[command(flatten)]
    place: Place,
    /// After the end of input that is no terminal's: how long to wait for what is done in the background
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    linger: u32,
    /// Let the program of --exec see this variable of ours, or give it one; it sees PATH, HOME, LANG, LC_*, TMPDIR
    /// and TZ anyway
    #[arg(long, value_name = "NAME[=VALUE]", requires = "exec")]
    env: Vec<String>,
    /// Answer by this program and its arguments, one execution per run [default: the built-in agent]
    #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true)]
    exec: Option<Vec<OsString>>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let runtime = crate::runtime()?;
    let ended = runtime.block_on(chat(args));
    // A thread may still wait for a line that nobody types.
    runtime.shutdown_background();
    ended
}

async fn chat(args: Args) -> Result<(), Failure> {
    let folder = args.place.folder()?;
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::config(format!("{}: {error}", folder.display())).hint("another --dir"))?;
    let hint = if args.exec.is_none() { "Say something, or /help." } else { "Say something." };
    let factory: Arc<dyn ExecutorFactory> = match args.exec {
        Some(program) => {
            let env = args.env.iter().filter_map(|variable| variable_of(variable)).collect();
            Arc::new(ProcessFactory::new(Program { env, ..Program::new(program) }))
        }
        None => Arc::new(BuiltinFactory::default()),
    };
    let blobs = ObjectBlobs::in_folder(blob_folder(&folder)).map_err(Failure::failed)?;
    let store = Arc::new(SqliteStore::open(store_file(&folder), SqliteOptions::default())?);
    let session = session_id(&args.session);
    // Before the session is opened, which may have something to tell at once.
    let head = store.session(session).await?.map_or(Seq::ZERO, |row| row.head);
    let adapter = RuntimeSessionAdapter::builder()
        .store(store)
        .blobs(Arc::new(blobs))
        .factory(factory)
        .entries_kept(REMEMBERED)
        .build();
    let handle = adapter.create_session(session, None).await?;
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        output::note(format!("Session {} in {}. {hint} Ctrl-D ends.", args.session, folder.display()));
    }
    let mut chat = Chat {
        wakes: Wakes::after(handle.clone(), head),
        handle,
        interactive,
        linger: Duration::from_secs(args.linger.into()),
        waiting: VecDeque::new(),
        said: None,
        worst: None,
        cancelled: false,
    };
    let ended = chat.converse().await;
    adapter.shutdown().await;
    ended?;
    chat.worst.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
}

/// The end of an accepted prompt, to come.
type Waiting = Pin<Box<dyn Future<Output = CompletionOutcome> + Send>>;

struct Chat {
    handle: SessionHandle,
    /// What nobody asked for now: the news of background work.
    wakes: Wakes,
    interactive: bool,
    linger: Duration,
    /// What was accepted and not answered yet, in order.
    waiting: VecDeque<Waiting>,
    /// The last answer; inputs that shared a run share it, and it is said once.
    said: Option<Arc<RunResult>>,
    /// The first thing that went wrong: what the chat ends with.
    worst: Option<Exit>,
    /// Whether the run that is on was told to stop.
    cancelled: bool,
}

impl Chat {
    async fn converse(&mut self) -> Result<(), Failure> {
        for (input, _) in self.handle.active_inputs().await? {
            if !self.wakes.is_wake(input).await? {
                let completion = self.handle.completion(InputRef::Id(input)).await?;
                self.waiting.push_back(Box::pin(completion.wait()));
            }
        }
        let mut lines = lines();
        let mut reading = true;
        let mut leave_at = None;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        loop {
            let busy = reading || !self.waiting.is_empty();
            if !busy && (self.interactive || self.wakes.rest().await?) {
                return Ok(());
            }
            let listens = reading && (self.interactive || self.waiting.is_empty());
            let end = *leave_at.get_or_insert_with(|| Instant::now() + self.linger);
            if busy {
                leave_at = None;
            }
            tokio::select! {
                biased;
                _ = interrupt.recv() => self.interrupt().await?,
                _ = terminate.recv() => return Err(Failure::silent(Exit::Terminated)),
                outcome = next(&mut self.waiting) => self.tell(outcome)?,
                news = self.wakes.read() => self.tell_news(news?)?,
                line = lines.recv(), if listens => match line {
                    Some(line) => self.hear(line).await?,
                    None => reading = false,
                },
                () = tokio::time::sleep_until(end), if !busy => return Err(self.too_late().await),
            }
        }
    }

    /// Whatever is not done by now ends with us, and the next chat hears so.
    async fn too_late(&self) -> Failure {
        let operations = self.handle.operations().list_operations().await.unwrap_or_default();
        let names = operations.iter().filter(|operation| !operation.status.is_terminal());
        let names: Vec<String> = names.map(|operation| format!("“{}”", operation.spec.display_name)).collect();
        let waited = self.linger.as_secs();
        Failure::new(Exit::TimedOut, format!("left background work after {waited} s: {}", names.join(", ")))
            .hint("--linger SECONDS; the next chat hears what was lost")
    }

    async fn hear(&mut self, line: std::io::Result<String>) -> Result<(), Failure> {
        let text = match line {
            Ok(text) if text.trim().is_empty() => return Ok(()),
            Ok(text) => text,
            Err(error) => {
                output::note(format!("error: this line cannot be read: {error}\n  try: text in UTF-8"));
                self.note(Exit::Rejected);
                return Ok(());
            }
        };
        let mut input = Input::prompt(InputId::from_uuid(uuid::Uuid::now_v7()), SystemClock.now(), text);
        if !self.waiting.is_empty() {
            input = input.with_mode(HandlingMode::Steer);
        }
        match self.handle.accept_with_completion(input).await? {
            (AcceptOutcome::Rejected { reason }, _) => {
                Failure::from(reason).report();
                self.note(Exit::Rejected);
            }
            (_, Some(completion)) => self.waiting.push_back(Box::pin(completion.wait())),
            (_, None) => {}
        }
        Ok(())
    }

    fn tell(&mut self, outcome: CompletionOutcome) -> Result<(), Failure> {
        self.cancelled = false;
        match outcome {
            CompletionOutcome::Completed(result) => {
                let again = self.said.as_ref().is_some_and(|said| Arc::ptr_eq(said, &result));
                if !again {
                    say(&words(&result))?;
                }
                self.said = Some(result);
                Ok(())
            }
            CompletionOutcome::CompletedWithoutResult => say(""),
            CompletionOutcome::CallbackPending(tool) => match tool.args.get("question").and_then(|q| q.as_str()) {
                Some(question) => say(question),
                None => say(&format!("waits for {}: {}", tool.tool_name, tool.args)),
            },
            CompletionOutcome::Cancelled { .. } | CompletionOutcome::Abandoned(AbandonReason::Cancelled) => {
                output::note("cancelled");
                Ok(())
            }
            other => {
                output::note(format!("error: {}", failed(&other)));
                self.note(Exit::RunFailed);
                Ok(())
            }
        }
    }

    fn tell_news(&mut self, news: Option<Terminal>) -> Result<(), Failure> {
        match news {
            Some(Terminal::Result(result)) => self.tell(CompletionOutcome::Completed(result)),
            Some(Terminal::CallbackPending(tool)) => self.tell(CompletionOutcome::CallbackPending(tool)),
            Some(Terminal::NoResult) | None => Ok(()),
        }
    }

    /// The first interrupt stops what runs, the second the chat.
    async fn interrupt(&mut self) -> Result<(), Failure> {
        if self.waiting.is_empty() || self.cancelled {
            return Err(Failure::silent(Exit::Interrupted));
        }
        self.cancelled = true;
        output::note("cancelling; once more to leave");
        self.handle.cancel(None, "interrupted at the terminal", Disposition::Drop).await?;
        Ok(())
    }

    fn note(&mut self, exit: Exit) {
        self.worst.get_or_insert(exit);
    }
}

/// One answer, one line: whoever reads a pipe counts on it.
fn say(text: &str) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() { output::line(text) } else { output::line(text.replace('\n', "\\n")) }
}

/// The next outcome, in the order of acceptance; never, if nothing is awaited.
///
/// Cancel-safe: a handle leaves the queue only with its outcome.
async fn next(waiting: &mut VecDeque<Waiting>) -> CompletionOutcome {
    match waiting.front_mut() {
        Some(first) => {
            let outcome = first.await;
            waiting.pop_front();
            outcome
        }
        None => std::future::pending().await,
    }
}

/// `NAME=VALUE` as it stands, `NAME` as we have it ourselves, if we do.
fn variable_of(text: &str) -> Option<(OsString, OsString)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.into(), value.into())),
        None => std::env::var_os(text).map(|value| (text.into(), value)),
    }
}

fn failed(outcome: &CompletionOutcome) -> String {
    match outcome {
        CompletionOutcome::Abandoned(AbandonReason::Failed { error }) => error.to_string(),
        CompletionOutcome::Abandoned(AbandonReason::MaxAttemptsExhausted { attempts, error }) => {
            format!("given up after {attempts} attempts: {error}")
        }
        CompletionOutcome::Abandoned(reason) => format!("abandoned: {}", reason.code()),
        CompletionOutcome::Failed { after, error } => format!("failed after boundary {after}: {error}"),
        CompletionOutcome::RuntimeTerminated(reason) => reason.clone(),
        other => format!("{other:?}"),
    }
}

fn words(result: &RunResult) -> String {
    match &result.structured {
        Some(structured) if result.text.is_empty() => structured.to_string(),
        _ => result.text.clone(),
    }
}

/// The lines of standard input, read by a thread of their own, one ahead at most.
fn lines() -> mpsc::Receiver<std::io::Result<String>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
