//! What does a session say of its background work, and is anything still to come?
//!
//! Folded from the session's feed. Most answers belong to a prompt, and whoever sent it waits for them; those of wakes
//! belong to nobody.

use crate::failure::Failure;
use std::{collections::BTreeSet, sync::Arc};
use windlass::{
    CompletionSeq, Entry, Feed, FeedItem, InputId, InputRef, OperationId, OperationKind, Record, RunEnd, RunId, Seq,
    SessionHandle, Terminal, agent::transcript::notices,
};

/// The background work of one session, as far as its feed was read.
pub(crate) struct Wakes {
    handle: SessionHandle,
    feed: Feed,
    /// Taken from the feed, and not folded yet.
    entry: Option<Arc<Entry>>,
    under_way: BTreeSet<OperationId>,
    /// The last completion that wakes, and the last that was told.
    ended: CompletionSeq,
    applied: CompletionSeq,
    /// The run that is on, if it answers a wake and nothing else.
    run: Option<RunId>,
}

impl Wakes {
    /// Follows a session from the entry after this position.
    pub(crate) fn after(handle: SessionHandle, seq: Seq) -> Wakes {
        let feed = handle.feed(seq);
        let (ended, applied) = Default::default();
        Wakes { handle, feed, entry: None, under_way: BTreeSet::new(), ended, applied, run: None }
    }

    /// Reads one entry; if a wake ends with it, that is what the wake came to. Cancel-safe: an entry leaves only when it
    /// is folded.
    pub(crate) async fn read(&mut self) -> Result<Option<Terminal>, Failure> {
        let entry = loop {
            if let Some(entry) = &self.entry {
                break Arc::clone(entry);
            }
            match self.feed.next().await? {
                FeedItem::Entry(entry) => self.entry = Some(entry),
                FeedItem::Ended => return Err(Failure::failed("the session was let go of")),
                FeedItem::Progress(_) | FeedItem::ProgressMissed(_) => {}
            }
        };
        let told = self.fold(&entry.record).await?;
        self.entry = None;
        Ok(told)
    }

    /// Whether nothing is under way and nothing is still to be told, and all that happened was read.
    pub(crate) async fn rest(&self) -> Result<bool, Failure> {
        let rests = self.under_way.is_empty() && self.ended <= self.applied && self.run.is_none();
        Ok(rests && self.entry.is_none() && self.feed.position() >= self.handle.status().await?.head)
    }

    /// Whether an input is a wake.
    pub(crate) async fn is_wake(&self, input: InputId) -> Result<bool, Failure> {
        let accepted = self.handle.input(&InputRef::Id(input)).await?;
        Ok(accepted.is_some_and(|accepted| !notices(&accepted.input).is_empty()))
    }

    async fn are_wakes(&self, inputs: &[InputId]) -> Result<bool, Failure> {
        for input in inputs {
            if !self.is_wake(*input).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Awaits before it changes anything, so that it can be dropped and begun again.
    async fn fold(&mut self, record: &Record) -> Result<Option<Terminal>, Failure> {
        match record {
            Record::OperationRegistered { spec, .. } => drop(self.under_way.insert(spec.id)),
            Record::OperationEnded(entry) => {
                self.under_way.remove(&entry.operation_id);
                if entry.kind == OperationKind::BackgroundToolOp {
                    self.ended = entry.seq;
                }
            }
            Record::CompletionsApplied { seq } => self.applied = *seq,
            Record::SessionReset { .. } => {
                self.under_way.clear();
                (self.ended, self.applied) = Default::default();
            }
            Record::RunStarted(started) => {
                // A run that resumes without inputs has committed a boundary, as no answer to a wake does.
                let wakes = !started.inputs.is_empty() && self.are_wakes(&started.inputs).await?;
                self.run = wakes.then_some(started.run);
            }
            // Whoever joined the run waits for its answer.
            Record::RunSteered { run, inputs } if self.run == Some(*run) => {
                self.run = self.are_wakes(inputs).await?.then_some(*run);
            }
            Record::RunEnded(ended) if self.run == Some(ended.run) => {
                self.run = None;
                if let RunEnd::Completed { terminal, .. } = &ended.end {
                    return Ok(Some(terminal.clone()));
                }
            }
            _ => {}
        }
        Ok(None)
    }
}
