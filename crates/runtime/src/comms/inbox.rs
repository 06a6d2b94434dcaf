//! Where does what peers send wait until a session has it on disk?

use super::candidate::PeerInputCandidate;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// How much an inbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxRoom {
    /// Entries.
    pub entries: usize,
    /// Bytes of content.
    pub bytes: usize,
}

impl Default for InboxRoom {
    fn default() -> Self {
        // As many entries as the reference, and no more memory than a few hundred of them need.
        InboxRoom { entries: 1024, bytes: 64 << 20 }
    }
}

/// A bounded inbox in memory: entries stay, in order, until they are acknowledged.
#[derive(Debug)]
pub struct Inbox {
    room: InboxRoom,
    entries: Mutex<Entries>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    last: u64,
    waiting: VecDeque<Claim>,
    bytes: usize,
    closed: bool,
}

/// Names an entry of one inbox; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(pub u64);

/// An entry that was claimed: it is still there.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Names it.
    pub receipt: Receipt,
    /// What it is.
    pub candidate: Arc<PeerInputCandidate>,
}

/// Why nothing was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {
    /// There is no room.
    #[error("queue_full: the inbox is full; try again when it has been read")]
    Full,
    /// Nobody reads it ever again.
    #[error("session_state_conflict: the inbox is closed")]
    Closed,
}

impl Inbox {
    /// An empty inbox.
    pub fn new(room: InboxRoom) -> Inbox {
        Inbox { room, entries: Mutex::default(), news: Notify::new() }
    }

    /// Puts an entry in.
    ///
    /// # Errors
    /// [`InboxError`]: it is not there.
    pub fn offer(&self, candidate: PeerInputCandidate) -> Result<Receipt, InboxError> {
        self.put(candidate, true)
    }

    /// Puts an entry in for which there is room whatever else waits: the answer to something asked, whose number is
    /// limited where it is asked.
    ///
    /// # Errors
    /// [`InboxError::Closed`].
    pub fn offer_awaited(&self, candidate: PeerInputCandidate) -> Result<Receipt, InboxError> {
        self.put(candidate, false)
    }

    fn put(&self, candidate: PeerInputCandidate, limited: bool) -> Result<Receipt, InboxError> {
        let bytes = candidate.interaction.bytes();
        let mut entries = self.entries();
        if entries.closed {
            return Err(InboxError::Closed);
        }
        let full = entries.waiting.len() >= self.room.entries || entries.bytes + bytes > self.room.bytes;
        if limited && full {
            return Err(InboxError::Full);
        }
        entries.last += 1;
        entries.bytes += bytes;
        let receipt = Receipt(entries.last);
        entries.waiting.push_back(Claim { receipt, candidate: Arc::new(candidate) });
        drop(entries);
        self.news.notify_one();
        Ok(receipt)
    }

    /// The first entries, in order. They stay.
    pub fn claim(&self, most: usize) -> Vec<Claim> {
        self.entries().waiting.iter().take(most).cloned().collect()
    }

    /// Takes entries out and hands out what was there; unknown ones are passed over.
    pub fn acknowledge(&self, receipts: &[Receipt]) -> Vec<Claim> {
        let mut entries = self.entries();
        let mut taken = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            // Receipts rise along the queue.
            if let Ok(at) = entries.waiting.binary_search_by_key(receipt, |entry| entry.receipt)
                && let Some(entry) = entries.waiting.remove(at)
            {
                entries.bytes -= entry.candidate.interaction.bytes();
                taken.push(entry);
            }
        }
        taken
    }

    /// Returns when something may have been put in since the last claim began. Cancel-safe. For one waiter.
    pub async fn notified(&self) {
        self.news.notified().await;
    }

    /// Takes nothing any more, and hands out what waited.
    pub fn close(&self) -> Vec<Claim> {
        let mut entries = self.entries();
        entries.closed = true;
        entries.bytes = 0;
        entries.waiting.drain(..).collect()
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.entries().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comms::{PeerName, PlainEvent};

    fn event(words: &str) -> PeerInputCandidate {
        PlainEvent::new(PeerName::new("test").unwrap(), words).candidate()
    }

    fn words(claims: &[Claim]) -> Vec<&str> {
        claims.iter().map(|claim| claim.candidate.interaction.rendered_text.as_str()).collect()
    }

    #[test]
    fn entries_stay_in_order_until_they_are_acknowledged() {
        let inbox = Inbox::new(InboxRoom::default());
        for n in ["a", "b", "c"] {
            inbox.offer(event(n)).unwrap();
        }
        let first = inbox.claim(2);
        assert_eq!(words(&first), ["[EVENT via test] a", "[EVENT via test] b"]);
        assert_eq!(words(&inbox.claim(2)), words(&first), "claimed again");
        inbox.acknowledge(&[first[1].receipt, Receipt(99)]);
        assert_eq!(words(&inbox.claim(9)), ["[EVENT via test] a", "[EVENT via test] c"]);
        inbox.acknowledge(&[first[1].receipt]);
        assert_eq!(inbox.len(), 2, "acknowledging twice takes nothing else");
    }

    // OC 67
    #[test]
    fn a_full_or_closed_inbox_says_so() {
        let inbox = Inbox::new(InboxRoom { entries: 2, bytes: 1 << 20 });
        inbox.offer(event("a")).unwrap();
        inbox.offer(event("b")).unwrap();
        assert_eq!(inbox.offer(event("c")), Err(InboxError::Full));
        inbox.offer_awaited(event("an answer has room")).unwrap();
        assert_eq!(inbox.close().len(), 3);
        assert_eq!(inbox.offer(event("d")), Err(InboxError::Closed));

        let narrow = Inbox::new(InboxRoom { entries: 9, bytes: 40 });
        narrow.offer(event("a")).unwrap();
        assert_eq!(narrow.offer(event(&"x".repeat(40))), Err(InboxError::Full));
        narrow.acknowledge(&[narrow.claim(1)[0].receipt]);
        assert_eq!(narrow.offer(event("b")).map(|_| ()), Ok(()), "room comes back");
    }

    #[tokio::test]
    async fn news_from_between_the_claim_and_the_wait_are_not_lost() {
        let inbox = Inbox::new(InboxRoom::default());
        assert!(inbox.claim(1).is_empty());
        inbox.offer(event("between")).unwrap();
        inbox.notified().await;
        // A waiter that is dropped leaves the news to the next one.
        inbox.offer(event("another")).unwrap();
        drop(inbox.notified());
        inbox.notified().await;
    }
}
