//! When is a snapshot due, and what is kept behind it?

use super::Actor;
use crate::store::PutSnapshot;
use std::sync::Arc;
use tokio::sync::oneshot;
use windlass_core::Seq;

pub(super) struct SinceSnapshot {
    pub(super) at: Seq,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// What the store charged for the last one.
    pub(super) cost: u64,
    pub(super) under_way: Option<oneshot::Receiver<u64>>,
}

impl Actor {
    /// A snapshot is due after 1,000 records or four times the last one's size, whichever is later (decisions 5): so
    /// that writing them costs a fraction of the journal, and reading the journal since is bounded by it.
    pub(super) fn snapshot_if_due(&mut self) {
        if let Some(under_way) = &mut self.since_snapshot.under_way {
            match under_way.try_recv() {
                Ok(cost) => (self.since_snapshot.cost, self.since_snapshot.under_way) = (cost, None),
                Err(oneshot::error::TryRecvError::Closed) => self.since_snapshot.under_way = None,
                Err(oneshot::error::TryRecvError::Empty) => return,
            }
        }
        let since = &self.since_snapshot;
        let records = if since.cost == 0 && since.at > Seq::ZERO { SHARED_SNAPSHOT_RECORDS } else { SNAPSHOT_RECORDS };
        // Copying what is open is paid for by as many records as it has inputs.
        let records = records.max(u64::from(self.session.open_inputs()));
        if since.records < records || since.bytes < 4 * since.cost {
            return;
        }
        let put = self.snapshot();
        let store = Arc::clone(&self.shared.store);
        let (done, under_way) = oneshot::channel();
        self.since_snapshot.under_way = Some(under_way);
        self.shared.tasks.spawn(async move {
            if let Some(cost) = keep_snapshot(&*store, put).await {
                done.send(cost).ok();
            }
        });
    }

    /// So that the next opening is quick, and nothing of an idle session is kept twice.
    pub(super) async fn snapshot_at_leave(&mut self) {
        let since = &self.since_snapshot;
        let worth_it = since.records >= SNAPSHOT_RECORDS / 10 || since.cost == 0 && since.records > 0;
        if worth_it && since.under_way.is_none() && self.step.entries.is_empty() {
            let put = self.snapshot();
            keep_snapshot(&*self.shared.store, put).await;
        }
    }

    pub(super) fn snapshot(&mut self) -> PutSnapshot {
        let at = self.session.head();
        (self.since_snapshot.at, self.since_snapshot.records, self.since_snapshot.bytes) = (at, 0, 0);
        let kept = Seq(at.0.saturating_sub(self.shared.options.entries_kept));
        let keep_after = self.session.needed_after().map_or(kept, |needed| needed.min(kept));
        let snapshot = Arc::new(self.session.snapshot());
        PutSnapshot { session: self.slot.id, fence: self.fence, at, snapshot, keep_after }
    }
}

const SNAPSHOT_RECORDS: u64 = 1_000;
/// A store that shares the snapshot's memory gets one sooner: it costs little, and the journal before it is let go.
const SHARED_SNAPSHOT_RECORDS: u64 = 250;

async fn keep_snapshot(store: &dyn crate::store::Store, put: PutSnapshot) -> Option<u64> {
    let session = put.session;
    match store.put_snapshot(put).await {
        Ok(cost) => Some(cost),
        Err(error) => {
            // The journal before it is kept then, so nothing is lost but time; the next one is due like this one was.
            tracing::warn!(%session, %error, "a snapshot could not be kept");
            None
        }
    }
}
