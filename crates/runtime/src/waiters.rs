//! Who waits for the end of which input?

use crate::{
    completion::{Completion, CompletionOutcome},
    observer::{Counted, Observer},
};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::oneshot;
use windlass_core::{InputId, InputState, Outcome};

/// Those who wait for the end of inputs. They outlive a failure of the store.
pub(crate) struct Waiters {
    by_input: HashMap<InputId, Vec<Waiter>>,
    observer: Option<Arc<dyn Observer>>,
}

struct Waiter {
    sender: oneshot::Sender<Completion>,
    via: Option<InputId>,
    _counted: Counted,
}

impl Waiters {
    pub(crate) fn new(observer: Option<Arc<dyn Observer>>) -> Waiters {
        Waiters { by_input: HashMap::new(), observer }
    }

    /// Whether nobody waits any more. Forgets those who gave up.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.by_input.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.sender.is_closed());
            !waiters.is_empty()
        });
        self.by_input.is_empty()
    }

    pub(crate) fn add(&mut self, input: InputId, sender: oneshot::Sender<Completion>) {
        let waiters = self.by_input.entry(input).or_default();
        // Who asks again and again with a time limit leaves waiters behind; they make room before the list grows.
        if waiters.len() == waiters.capacity() {
            waiters.retain(|waiter| !waiter.sender.is_closed());
        }
        waiters.push(Waiter { sender, via: None, _counted: Counted::waiter(self.observer.as_ref()) });
    }

    /// Tells the waiters of an input how it ended. Those of an absorbed input go on waiting for the newer one.
    pub(crate) fn settle(&mut self, input: InputId, outcome: &Outcome) {
        let Some(waiters) = self.by_input.remove(&input) else { return };
        if let Outcome::Coalesced { into } = outcome {
            let moved = waiters.into_iter().map(|waiter| Waiter { via: Some(*into), ..waiter });
            self.by_input.entry(*into).or_default().extend(moved);
            return;
        }
        let told = Completion::told(outcome);
        for Waiter { sender, via, _counted } in waiters {
            // An error says that the waiter is gone.
            drop(sender.send(Completion { via, ..told.clone() }));
        }
    }

    /// Tells everybody that the session ended under them.
    pub(crate) fn terminate(&mut self, reason: &str) {
        for Waiter { sender, via, _counted } in self.by_input.drain().flat_map(|(_, waiters)| waiters) {
            let ended = Completion::of(CompletionOutcome::RuntimeTerminated(reason.into()));
            drop(sender.send(Completion { via, ..ended }));
        }
    }

    /// Tells the waiters of an input that it is over, and no more.
    pub(crate) fn forget(&mut self, input: InputId, state: Option<InputState>) {
        let outcome = match state {
            Some(state) => CompletionOutcome::Forgotten(state),
            None => CompletionOutcome::RuntimeTerminated("input lost".into()),
        };
        for Waiter { sender, via, _counted } in self.by_input.remove(&input).into_iter().flatten() {
            drop(sender.send(Completion { via, ..Completion::of(outcome.clone()) }));
        }
    }

    pub(crate) fn inputs(&self) -> impl Iterator<Item = InputId> {
        self.by_input.keys().copied()
    }
}
