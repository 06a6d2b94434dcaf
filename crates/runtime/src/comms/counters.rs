//! What has come to the doors of peers, and what was turned away?

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// What came to a door since it was made: a copy, for whoever exports it. Counters only rise.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PeerCounters {
    /// Envelopes that were let in.
    pub taken: u64,
    /// Requests that were ended in the place of a receiver who did not answer.
    pub ended_for: u64,
    /// Envelopes that were turned away at the door or by their session, by stable code.
    pub refused: BTreeMap<Cow<'static, str>, u64>,
}

impl PeerCounters {
    /// How many were turned away with this code.
    pub fn refused(&self, code: &str) -> u64 {
        self.refused.get(code).copied().unwrap_or_default()
    }
}

/// Counts.
#[derive(Debug, Default)]
pub struct PeerCounts {
    taken: AtomicU64,
    ended_for: AtomicU64,
    refused: Mutex<BTreeMap<Cow<'static, str>, u64>>,
}

impl PeerCounts {
    /// One was let in.
    pub fn take(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was ended in the place of its receiver.
    pub fn end_for(&self) {
        self.ended_for.fetch_add(1, Ordering::Relaxed);
    }

    /// One was turned away. Codes are few: they are ours.
    pub fn refuse(&self, code: Cow<'static, str>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    /// How many so far.
    pub fn read(&self) -> PeerCounters {
        PeerCounters {
            taken: self.taken.load(Ordering::Relaxed),
            ended_for: self.ended_for.load(Ordering::Relaxed),
            refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
