//! What is an endpoint told of what was before?

use crate::exchange::Past;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use windlass_core::{Record, Seq, SessionId};
use windlass_runtime::{CoreExecutorError, Turn, store::StoreError};

/// Entries that are read at once.
const PAGE: u32 = 256;
/// The most that is told, in bytes of deltas: what is larger is not posted with every run.
const BYTES: usize = 1 << 20;

/// Tells the last boundaries of sessions.
#[derive(Debug)]
pub(super) struct History {
    /// So many of them.
    most: usize,
    /// Of each session: the position before the oldest one told last, so that the next run reads little more.
    before: Mutex<HashMap<SessionId, Seq>>,
}

impl History {
    pub(super) fn new(most: usize) -> History {
        History { most, before: Mutex::default() }
    }

    /// The last boundaries, oldest first; none of before a reset.
    pub(super) async fn last(&self, turn: &Turn) -> Result<VecDeque<Past>, CoreExecutorError> {
        let mut after = self.before().get(&turn.session()).copied().unwrap_or(Seq::ZERO);
        let (mut last, mut bytes) = (VecDeque::new(), 0);
        loop {
            let entries = match turn.history(after, PAGE).await {
                Ok(entries) if entries.is_empty() => break,
                Ok(entries) => entries,
                // What is no longer kept is no longer told.
                Err(StoreError::Pruned { oldest }) if oldest > after => {
                    after = oldest;
                    continue;
                }
                Err(error) => return Err(CoreExecutorError::retryable(error.to_string())),
            };
            for entry in &entries {
                after = entry.seq;
                if matches!(entry.record, Record::SessionReset { .. }) {
                    (last, bytes) = (VecDeque::new(), 0);
                }
                if let Some(past) = Past::of(entry) {
                    bytes += past.delta.get().len();
                    last.push_back(past);
                }
                while (last.len() > self.most || bytes > BYTES)
                    && let Some(oldest) = last.pop_front()
                {
                    bytes -= oldest.delta.get().len();
                }
            }
        }
        let before = last.front().map_or(after, |oldest| Seq(oldest.seq.0 - 1));
        self.before().insert(turn.session(), before);
        Ok(last)
    }

    /// Forgets where a session's boundaries are.
    pub(super) fn forget(&self, session: SessionId) {
        self.before().remove(&session);
    }

    fn before(&self) -> MutexGuard<'_, HashMap<SessionId, Seq>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
