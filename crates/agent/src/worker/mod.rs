//! How do long-lived programs run the turns of many sessions?
//!
//! [`ProcessWorker`] keeps a few processes of one program and gives each run to one of them, speaking JSON lines over
//! standard input and output; docs/guide/process-protocol.md says which. A process runs one run at a time, of any
//! session; the one that had the session last is preferred, so that what it remembers is of use.
//!
//! | what happens | what becomes of the run | and of the process |
//! |---|---|---|
//! | `result` | completed | kept |
//! | `failed` | retryable or final, as it says | kept |
//! | it exits or crashes, closes its output | retryable, `executor_failed`; final `executor_refused` for exit 65, 78 | gone |
//! | a line that is no JSON, no UTF-8, of an unknown type or a wrong shape | final, `executor_protocol_error` | killed |
//! | a line longer than allowed | final, `result_too_large` | killed |
//! | longer than its time limit | retryable, `executor_timed_out` | killed |
//! | not to be started | as for [`ProcessExecutor`](crate::ProcessExecutor), `executor_spawn_failed` | |
//! | cancelled | nothing it still says is taken | kept if it ends the run within 2 s, else killed |
//!
//! Killed means: with all that it has started.

mod keeper;
mod link;
mod protocol;
mod works;

use crate::{alive::alive, complaints::Complaints, process::failure, program::Program};
use async_trait::async_trait;
use keeper::{Keeper, Order};
use link::Link;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    task::JoinSet,
};
use windlass_core::SessionId;
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, Turn};

/// How many processes there may be, and how long an idle one stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crew {
    /// The most processes, and so the most runs at a time. None is started before it is needed.
    pub processes: usize,
    /// A process that has had nothing to do for this long is ended, unless it works in the background.
    pub idle_after: Duration,
}

impl Default for Crew {
    fn default() -> Crew {
        Crew { processes: 4, idle_after: Duration::from_secs(300) }
    }
}

/// Runs each run on one of a few long-lived processes. Cheap to clone; clones share the processes, which die with the
/// last of them.
#[derive(Clone, Debug)]
pub struct ProcessWorker {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    program: Program,
    crew: Crew,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    keepers: Mutex<JoinSet<()>>,
}

/// A process that waits for work.
#[derive(Debug)]
struct Idle {
    order: oneshot::Sender<Order>,
    /// Whose run it had last.
    last: SessionId,
}

impl ProcessWorker {
    /// Runs this program. Its `time_limit` is for one run, its `stdout_limit` for one line.
    pub fn new(program: Program, crew: Crew) -> ProcessWorker {
        let free = Arc::new(Semaphore::new(crew.processes.clamp(1, Semaphore::MAX_PERMITS)));
        let (idle, keepers) = (Mutex::default(), Mutex::default());
        ProcessWorker { pool: Arc::new(Pool { program, crew, free, idle, keepers }) }
    }
}

#[async_trait]
impl CoreExecutor for ProcessWorker {
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        let cancelled = || CoreExecutorError::retryable("cancelled");
        let Some(permit) = self.pool.turn_comes(&turn).await else { return Err(cancelled()) };
        let (reply, answer) = oneshot::channel();
        self.pool.give(Order { turn, reply });
        // Dropping this future closes the channel, by which the keeper knows to kill the process.
        let answer = answer.await;
        drop(permit);
        answer.unwrap_or_else(|_| Err(CoreExecutorError::retryable("executor_failed: its process is gone")))
    }
}

impl Pool {
    /// Waits until a process is free for it; none if the run was cancelled meanwhile.
    async fn turn_comes(&self, turn: &Turn) -> Option<SemaphorePermit<'_>> {
        tokio::select! {
            biased;
            () = turn.cancelled() => None,
            permit = alive(turn, self.free.acquire()) => permit.ok(),
        }
    }

    /// Gives a run to an idle process, or to a new one.
    fn give(self: &Arc<Self>, mut order: Order) {
        while let Some(idle) = self.take_idle(order.turn.session()) {
            match idle.order.send(order) {
                Ok(()) => return,
                // It died in this moment.
                Err(back) => order = back,
            }
        }
        let link = match Link::open(&self.program) {
            Ok(link) => link,
            Err(error) => {
                drop(order.reply.send(Err(failure(&error, &Complaints::default()))));
                return;
            }
        };
        let keeper = Keeper::new(link, self);
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        while keepers.try_join_next().is_some() {}
        keepers.spawn(keeper.keep(order));
    }

    fn take_idle(&self, session: SessionId) -> Option<Idle> {
        let mut idle = self.idle();
        idle.retain(|idle| !idle.order.is_closed());
        match idle.iter().position(|idle| idle.last == session) {
            Some(at) => Some(idle.remove(at)),
            None => idle.pop(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
