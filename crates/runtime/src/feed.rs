//! How does somebody follow a session?
//!
//! The feed is the journal: every entry is an event with a dense position, resumable at any. Followers read it from
//! the store at their own pace, so nothing is buffered for the slow and nothing is dropped; only live progress, which
//! is recorded nowhere, is.

use crate::{
    handle::SessionHandle,
    store::{Store, StoreError},
};
use std::sync::Arc;
use tokio::sync::{
    broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    watch,
};
use windlass_core::{CompletionSeq, Entry, JsonText, RunId, Seq};

/// Where a session announces what it has committed. Made when somebody first follows it.
#[derive(Debug)]
pub(crate) struct FeedHub {
    reached: watch::Sender<Reached>,
    progress: broadcast::Sender<Progress>,
    completed: watch::Sender<CompletionSeq>,
}

/// How far a session has come, as far as its followers are told.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    head: Seq,
    /// Nothing more is announced here.
    ended: bool,
}

/// Live progress of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The run.
    pub run: RunId,
    /// What its executor shows.
    pub delta: JsonText,
}

/// One item of a feed.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedItem {
    /// A committed entry.
    Entry(Arc<Entry>),
    /// Live progress: not recorded, shown once, may be missed.
    Progress(Progress),
    /// Live progress that this follower was too slow for.
    ProgressMissed(u64),
    /// The session was let go of, deleted, or shut down with its runtime: nothing more will come here. Every entry up
    /// to now has been handed out. Follow it again, or stop.
    Ended,
}

/// Progress that is kept for a follower who is busy.
const PROGRESS_KEPT: usize = 64;
/// Entries that are read at once.
const PAGE: u32 = 256;

impl FeedHub {
    pub(crate) fn new() -> FeedHub {
        FeedHub {
            reached: watch::Sender::default(),
            progress: broadcast::Sender::new(PROGRESS_KEPT),
            completed: watch::Sender::default(),
        }
    }

    /// Tells followers that entries up to `head` are committed.
    pub(crate) fn committed(&self, head: Seq) {
        self.reached.send_if_modified(|known| {
            let advanced = known.head < head;
            known.head = head.max(known.head);
            advanced
        });
    }

    /// Tells those who wait for operations how far the completion feed reaches. A reset begins anew, and is told too.
    pub(crate) fn completed(&self, watermark: CompletionSeq) {
        self.completed.send_if_modified(|known| std::mem::replace(known, watermark) != watermark);
    }

    /// Tells followers that nothing more comes, and those who wait for operations to look at the session and hear so.
    pub(crate) fn let_go(&self) {
        self.reached.send_modify(|known| known.ended = true);
        self.completed.send_modify(|_| {});
    }

    /// Whether nobody follows the session.
    pub(crate) fn is_unfollowed(&self) -> bool {
        self.reached.receiver_count() == 0 && self.completed.receiver_count() == 0
    }

    /// Hears of completions from now on.
    pub(crate) fn completions(&self) -> watch::Receiver<CompletionSeq> {
        self.completed.subscribe()
    }

    pub(crate) fn progress(&self, run: RunId, delta: impl FnOnce() -> JsonText) {
        if self.progress.receiver_count() > 0 {
            // An error says that nobody follows any more, which is what progress is for.
            drop(self.progress.send(Progress { run, delta: delta() }));
        }
    }
}

/// A follower of one session. Drop it to stop following.
#[derive(Debug)]
pub struct Feed {
    store: Arc<StoreRef>,
    after: Seq,
    page: std::vec::IntoIter<Arc<Entry>>,
    /// Whether the store may have more than was read. Live progress, which comes often, is no reason to ask it.
    behind: bool,
    reached: watch::Receiver<Reached>,
    progress: broadcast::Receiver<Progress>,
    // Last, so that the session is known for as long as it is followed, and looked at when it no longer is.
    session: SessionHandle,
}

struct StoreRef(Arc<dyn Store>);

impl std::fmt::Debug for StoreRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Feed {
    pub(crate) fn new(session: SessionHandle, store: Arc<dyn Store>, after: Seq) -> Feed {
        let hub = session.hub();
        Feed {
            store: Arc::new(StoreRef(store)),
            after,
            page: Vec::new().into_iter(),
            behind: true,
            reached: hub.reached.subscribe(),
            progress: hub.progress.subscribe(),
            session,
        }
    }

    /// The position of the last entry handed out: where to resume.
    pub fn position(&self) -> Seq {
        self.after
    }

    /// The next item, waiting for one if need be. Entries come in order without a gap.
    ///
    /// Cancel-safe: an item that was not returned comes next time.
    ///
    /// # Errors
    /// [`StoreError::Pruned`] if the entries after the position are no longer kept: start from the oldest kept one.
    /// Other errors as for [`Store::read`]; ask again to go on.
    pub async fn next(&mut self) -> Result<FeedItem, StoreError> {
        loop {
            if let Some(item) = self.at_hand() {
                return Ok(item);
            }
            if self.behind {
                // Seen before it is read, so that no commit can fall between the read and the wait.
                let ended = self.reached.borrow_and_update().ended;
                let page = self.store.0.read(self.session.id(), self.after, PAGE).await?;
                if !page.is_empty() {
                    self.page = page.into_iter();
                    continue;
                }
                if ended {
                    return Ok(FeedItem::Ended);
                }
                self.behind = false;
            }
            tokio::select! {
                biased;
                progress = self.progress.recv() => match progress {
                    Ok(progress) => return Ok(FeedItem::Progress(progress)),
                    Err(RecvError::Lagged(missed)) => return Ok(FeedItem::ProgressMissed(missed)),
                    Err(RecvError::Closed) => unreachable!("the session is known while it is followed"),
                },
                changed = self.reached.changed() => {
                    changed.expect("the session is known while it is followed");
                    self.behind = true;
                }
            }
        }
    }

    /// The next item, if nothing has to be read or waited for.
    pub fn at_hand(&mut self) -> Option<FeedItem> {
        if let Some(entry) = self.page.next() {
            self.after = entry.seq;
            return Some(FeedItem::Entry(entry));
        }
        // An error says that nothing more is told; it cannot be while the session is known.
        self.behind |= self.reached.has_changed().unwrap_or(true);
        if self.behind {
            return None;
        }
        match self.progress.try_recv() {
            Ok(progress) => Some(FeedItem::Progress(progress)),
            Err(TryRecvError::Lagged(missed)) => Some(FeedItem::ProgressMissed(missed)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}
