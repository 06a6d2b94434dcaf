//! Who may watch what the runtime does, to count and to time it?

use std::{sync::Arc, time::Duration};
use windlass_core::{InputKind, InputState};

/// Hears of what has happened, after it is durable. Every method does nothing unless you write it.
///
/// Called from the tasks of sessions and from the thread that commits: count and return, never wait.
pub trait Observer: Send + Sync + 'static {
    /// An input was offered and answered: `accepted`, `deduplicated`, or the code of the refusal.
    fn admitted(&self, kind: InputKind, outcome: &'static str) {
        let _ = (kind, outcome);
    }

    /// An input is over, so long after its admission.
    fn settled(&self, state: InputState, waited: Duration) {
        let _ = (state, waited);
    }

    /// An executor was called; `attempt` counts the starts of this work.
    fn run_started(&self, attempt: u32) {
        let _ = attempt;
    }

    /// An attempt ended so long after its start: `completed`, `failed`, `cancelled` or `released`.
    fn run_ended(&self, how: &'static str, ran: Duration) {
        let _ = (how, ran);
    }

    /// So many more sessions are in memory, or fewer.
    fn sessions_open(&self, delta: i64) {
        let _ = delta;
    }

    /// So many more wait for the end of an input, or fewer.
    fn waiters(&self, delta: i64) {
        let _ = delta;
    }

    /// So many more sessions have no executor because theirs cannot be made, or fewer.
    fn sessions_without_executor(&self, delta: i64) {
        let _ = delta;
    }

    /// A store has made entries durable, of so many sessions in one transaction, in so much time.
    fn committed(&self, entries: u64, sessions: u64, took: Duration) {
        let _ = (entries, sessions, took);
    }

    /// An input became a dead letter.
    fn dead_letter(&self) {}
}

/// One more of something, and one fewer when it is dropped. Costs nothing where nobody observes.
pub(crate) struct Counted(Option<(Arc<dyn Observer>, What)>);

#[derive(Clone, Copy)]
enum What {
    Session,
    Unattended,
    Waiter,
}

impl Counted {
    pub(crate) fn session(observer: Option<&Arc<dyn Observer>>) -> Counted {
        Counted::new(observer, What::Session)
    }

    pub(crate) fn unattended(observer: Option<&Arc<dyn Observer>>) -> Counted {
        Counted::new(observer, What::Unattended)
    }

    pub(crate) fn waiter(observer: Option<&Arc<dyn Observer>>) -> Counted {
        Counted::new(observer, What::Waiter)
    }

    fn new(observer: Option<&Arc<dyn Observer>>, what: What) -> Counted {
        let counted = Counted(observer.map(|observer| (Arc::clone(observer), what)));
        counted.tell(1);
        counted
    }

    fn tell(&self, delta: i64) {
        match &self.0 {
            Some((observer, What::Session)) => observer.sessions_open(delta),
            Some((observer, What::Unattended)) => observer.sessions_without_executor(delta),
            Some((observer, What::Waiter)) => observer.waiters(delta),
            None => {}
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tell(-1);
    }
}
