//! How does a test run a run by hand?

use crate::{CoreApplyOutput, CoreExecutor, CoreExecutorError, Turn};
use async_trait::async_trait;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::{mpsc, oneshot};
use windlass_core::SessionId;

/// An executor that hands each run to the test and does what the test says.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use windlass_runtime::{RuntimeSessionAdapter, CoreApplyOutput, testing::{ManualExecutor, input, session}};
/// let (executor, mut runs) = ManualExecutor::new();
/// let adapter = RuntimeSessionAdapter::ephemeral();
/// adapter.ensure_session_with_executor(session(1), executor).await.unwrap();
/// let handle = adapter.session(session(1)).await.unwrap();
/// let (_, completion) = handle.accept_with_completion(input(1, "hello")).await.unwrap();
///
/// let run = runs.next().await;
/// assert_eq!(run.turn.primitive().text(), "hello");
/// run.finish(Ok(CoreApplyOutput::text("hi")));
/// completion.unwrap().wait().await;
/// # }
/// ```
pub struct ManualExecutor {
    runs: mpsc::UnboundedSender<ManualRun>,
    /// Whether runs go on when they are cancelled.
    deaf: bool,
    running: AtomicUsize,
    most_running: AtomicUsize,
    stops: Mutex<Vec<String>>,
}

/// The runs of a [`ManualExecutor`], in the order in which they start.
pub struct Runs(mpsc::UnboundedReceiver<ManualRun>);

/// A run in the hands of a test. Dropped without an end, it hangs.
pub struct ManualRun {
    /// What an executor holds.
    pub turn: Turn,
    end: Option<oneshot::Sender<End>>,
}

enum End {
    Return(Result<CoreApplyOutput, CoreExecutorError>),
    Panic(String),
    Hang,
}

impl ManualExecutor {
    /// One whose runs return when they are cancelled.
    pub fn new() -> (Arc<ManualExecutor>, Runs) {
        Self::with(false)
    }

    /// One whose runs go on when they are cancelled.
    pub fn deaf() -> (Arc<ManualExecutor>, Runs) {
        Self::with(true)
    }

    fn with(deaf: bool) -> (Arc<ManualExecutor>, Runs) {
        let (runs, receiver) = mpsc::unbounded_channel();
        let counts = || AtomicUsize::new(0);
        let stops = Mutex::new(Vec::new());
        let executor = ManualExecutor { runs, deaf, running: counts(), most_running: counts(), stops };
        (Arc::new(executor), Runs(receiver))
    }

    /// How many runs were ever on at the same time.
    pub fn most_running(&self) -> usize {
        self.most_running.load(Ordering::SeqCst)
    }

    /// The reasons it was told to clean up for.
    pub fn stops(&self) -> Vec<String> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts a run until it ends or is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl CoreExecutor for ManualExecutor {
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        let _counted = Counted(&self.running);
        self.most_running.fetch_max(now, Ordering::SeqCst);
        let (end, ended) = oneshot::channel();
        if self.runs.send(ManualRun { turn: turn.clone(), end: Some(end) }).is_err() {
            return Err(CoreExecutorError::fatal("the test is over"));
        }
        let ended = async { ended.await.unwrap_or(End::Hang) };
        let end = tokio::select! {
            biased;
            end = ended => end,
            () = turn.cancelled(), if !self.deaf => return Err(CoreExecutorError::retryable("cancelled")),
        };
        match end {
            End::Return(result) => result,
            End::Panic(text) => panic!("{text}"),
            End::Hang if self.deaf => std::future::pending().await,
            End::Hang => {
                turn.cancelled().await;
                Err(CoreExecutorError::retryable("cancelled"))
            }
        }
    }

    async fn stopped(&self, _session: SessionId, reason: &str) {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).push(reason.to_owned());
    }
}

impl Runs {
    /// The next run to start.
    ///
    /// # Panics
    /// If the executor is gone, so that none will ever start.
    pub async fn next(&mut self) -> ManualRun {
        self.0.recv().await.expect("an executor that may still be called")
    }

    /// The next run, if one has started.
    pub fn started(&mut self) -> Option<ManualRun> {
        self.0.try_recv().ok()
    }
}

impl ManualRun {
    /// Ends the run.
    pub fn finish(mut self, result: Result<CoreApplyOutput, CoreExecutorError>) {
        self.end_with(End::Return(result));
    }

    /// Ends the run well, with words.
    pub fn text(self, text: &str) {
        self.finish(Ok(CoreApplyOutput::text(text)));
    }

    /// Fails the run; another try may help.
    pub fn fail(self, error: &str) {
        self.finish(Err(CoreExecutorError::retryable(error)));
    }

    /// Makes the executor panic.
    pub fn panic(mut self, text: &str) {
        self.end_with(End::Panic(text.to_owned()));
    }

    fn end_with(&mut self, end: End) {
        if let Some(sender) = self.end.take() {
            // An error says that the run has been dropped meanwhile.
            sender.send(end).ok();
        }
    }
}
