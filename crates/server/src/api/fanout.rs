//! How do many streams follow one session, at the cost of one?
//!
//! Each followed session has a channel: one task reads its feed and encodes each event once, into bytes that all
//! streams share. The channel keeps the last few; a stream that falls behind them, or that begins in the past, reads
//! the store from its own position until it is there. Nothing is kept for it, and no entry is ever left out: a stream
//! takes an entry from the channel only if it is the very next one.

use crate::state::AppState;
use bytes::Bytes;
use serde::Serialize;
use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    fmt,
    num::ParseIntError,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};
use tokio_util::sync::CancellationToken;
use windlass_api::{Ended, Gap, Lagged, Time};
use windlass_core::{Entry, Record, RunId, Seq, SessionId, Timestamp};
use windlass_runtime::{Clock as _, FeedItem, Progress, SessionHandle, SystemClock, store::StoreError};

/// Events that a channel keeps. With [`LARGEST`] this bounds a channel to one mebibyte.
const KEPT: usize = 64;
/// The largest event that a channel keeps, in bytes; streams read a larger entry from the store.
const LARGEST: usize = 16 * 1024;
/// Entries that a stream reads from the store at once.
const PAGE: u32 = 32;
/// After a failed read.
const RETRY: Duration = Duration::from_millis(500);

/// The channels of the sessions that are followed.
#[derive(Debug, Default)]
pub(crate) struct Channels(Mutex<HashMap<SessionId, Weak<Channel>>>);

/// What one session's streams share.
#[derive(Debug)]
pub(crate) struct Channel {
    events: broadcast::Sender<Shared>,
    /// Pieces of progress shown so far.
    shown: AtomicU64,
    /// Nothing comes any more: the session is deleted.
    over: AtomicBool,
    /// Ends the task: with the last stream, or with the session.
    end: CancellationToken,
}

/// One event in a channel.
#[derive(Clone, Debug)]
struct Shared {
    /// Pieces of progress that were shown since the channel is there, with this one: whoever missed some sees how many.
    shown: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Entry {
        mark: Mark,
        event: Encoded,
    },
    /// One that is too large to be kept.
    Large {
        seq: Seq,
    },
    /// So many pieces of progress, each an event of its own.
    Live {
        pieces: u64,
        events: Bytes,
    },
    /// Progress that nobody can be shown.
    Missed,
    Deleted,
}

/// An entry as a server-sent event.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    /// The whole event, with the entry's [`Mark`] as its id.
    whole: Bytes,
    /// Where the id begins.
    id_at: usize,
}

impl Encoded {
    /// The event of a stream of one session.
    pub(super) fn whole(&self) -> Bytes {
        self.whole.clone()
    }

    /// The event without an id and without its end.
    pub(super) fn without_id(&self) -> Bytes {
        self.whole.slice(..self.id_at)
    }
}

/// What a stream is to send next.
#[derive(Debug)]
pub(super) enum Item {
    /// An entry, and where it stands.
    Entry(Mark, Encoded),
    /// Live progress, or that some was missed.
    Live(Bytes),
    /// That entries are no longer kept.
    Gap(Bytes),
    /// The session is deleted.
    Deleted,
}

/// Where a stream is: the position of an entry, and the moment it was written at.
///
/// The moment tells entries apart that had the same position in two histories, before and after a restore or a session's
/// deletion. Written as `seq.micros`, the second in hex; a bare position is one that a person chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) seq: Seq,
    pub(super) at: Option<Timestamp>,
}

impl Mark {
    fn of(entry: &Entry) -> Mark {
        Mark { seq: entry.seq, at: Some(entry.at) }
    }

    /// Whether the entry at this position is the one that was seen. True of one that is no longer kept: the stream tells
    /// of that by itself.
    pub(super) async fn still_stands(self, state: &AppState, session: SessionId) -> Result<bool, StoreError> {
        let (Some(at), Some(before)) = (self.at, self.seq.0.checked_sub(1)) else { return Ok(true) };
        match state.store().read(session, Seq(before), 1).await {
            Ok(entries) => Ok(entries.first().is_none_or(|entry| entry.seq != self.seq || entry.at == at)),
            Err(StoreError::Pruned { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{}.{:x}", self.seq, at.as_micros().cast_unsigned()),
            None => write!(f, "{}", self.seq),
        }
    }
}

impl FromStr for Mark {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Mark, ParseIntError> {
        let (seq, at) = text.split_once('.').map_or((text, None), |(seq, at)| (seq, Some(at)));
        let at = at.map(|at| u64::from_str_radix(at, 16)).transpose()?;
        let at = at.map(|micros| Timestamp::from_micros(micros.cast_signed()));
        Ok(Mark { seq: Seq(seq.parse()?), at })
    }
}

impl Channels {
    /// Follows a session from the entry after a position.
    pub(super) fn follow(&self, state: &AppState, session: &SessionHandle, after: Seq, head: Seq) -> Follower {
        let id = session.id();
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = channels.get(&id).and_then(Weak::upgrade);
        let channel = known.filter(|channel| !channel.over.load(Ordering::Acquire)).unwrap_or_else(|| {
            channels.retain(|_, channel| channel.strong_count() > 0);
            let channel = Channel::open(state, session.clone(), head);
            channels.insert(id, Arc::downgrade(&channel));
            channel
        });
        drop(channels);
        let events = channel.events.subscribe();
        let (shown, page) = (channel.shown.load(Ordering::Acquire), VecDeque::new());
        Follower { state: state.clone(), session: id, channel, events, after, page, behind: true, shown }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Channels {
    /// The session is deleted: its streams end.
    pub(super) fn deleted(&self, session: SessionId) {
        let channel = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
        if let Some(channel) = channel.and_then(|channel| channel.upgrade()) {
            channel.finish();
        }
    }
}

impl Channel {
    /// The session is deleted: its streams end, once they have sent what they have.
    fn finish(&self) {
        self.over.store(true, Ordering::Release);
        // An error says that nobody follows.
        drop(self.events.send(Shared { shown: self.shown.load(Ordering::Acquire), what: What::Deleted }));
        self.end.cancel();
    }

    /// Entries up to `head` are committed; the task takes it from there.
    fn open(state: &AppState, session: SessionHandle, head: Seq) -> Arc<Channel> {
        let (events, _) = broadcast::channel(KEPT);
        let end = CancellationToken::new();
        let (shown, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let channel = Arc::new(Channel { events, shown, over, end: end.clone() });
        let (state, watched) = (state.clone(), Arc::downgrade(&channel));
        state.clone().tasks().spawn(async move {
            let closing = state.closing().clone();
            tokio::select! {
                () = end.cancelled() => {}
                () = closing.cancelled() => {}
                () = encode(&state, session, head, &watched) => {
                    if let Some(channel) = watched.upgrade() {
                        channel.finish();
                    }
                }
            }
        });
        channel
    }
}

/// Encodes what a session commits and shows, until it is deleted.
async fn encode(state: &AppState, session: SessionHandle, head: Seq, channel: &Weak<Channel>) {
    let id = session.id();
    let (mut feed, mut live) = (session.feed(head), Live::of(id));
    let mut ahead = None;
    loop {
        let (mut answered, mut began) = (Vec::new(), Timestamp::ZERO);
        let mut pieces = 0;
        let item = match ahead.take() {
            Some(item) => Ok(item),
            None => feed.next().await,
        };
        let what = match item {
            Ok(FeedItem::Entry(entry)) => {
                state.metrics().event_encoded();
                let mark = Mark::of(&entry);
                if let Record::RunEnded(ended) = &entry.record
                    && let Some(receipt) = ended.end.receipt().filter(|_| state.traces().are_exported())
                {
                    (answered, began) = (receipt.contributing_input_ids.clone(), SystemClock.now());
                }
                match encoded(id, &entry) {
                    event if event.whole.len() <= LARGEST => What::Entry { mark, event },
                    _ => What::Large { seq: mark.seq },
                }
            }
            Ok(FeedItem::Progress(progress)) => {
                let mut events = String::new();
                live.show(&progress, &mut events);
                pieces = 1;
                // Pieces are small and come many at once: those that are ready share what it costs to send one.
                while ahead.is_none() && events.len() < LARGEST {
                    match feed.at_hand() {
                        Some(FeedItem::Progress(next)) => {
                            let before = events.len();
                            live.show(&next, &mut events);
                            if events.len() <= LARGEST {
                                pieces += 1;
                            } else {
                                events.truncate(before);
                                ahead = Some(FeedItem::Progress(next));
                            }
                        }
                        Some(other) => ahead = Some(other),
                        None => break,
                    }
                }
                if events.len() <= LARGEST { What::Live { pieces, events: events.into() } } else { What::Missed }
            }
            Ok(FeedItem::ProgressMissed(missed)) => {
                pieces = missed;
                What::Missed
            }
            // Let go of, or deleted. In the first case whoever uses it next opens it again.
            Ok(FeedItem::Ended) => {
                tokio::time::sleep(RETRY).await;
                match state.adapter().session(id).await {
                    Ok(again) => {
                        feed = again.feed(feed.position());
                        continue;
                    }
                    Err(windlass_runtime::SessionError::NotFound(_)) => return,
                    Err(_) => continue,
                }
            }
            // Streams that are so far behind hear of the gap from their own reads.
            Err(StoreError::Pruned { oldest }) => {
                feed = session.feed(oldest);
                continue;
            }
            Err(error) => {
                tracing::warn!(session = %id, %error, "a followed session could not be read, trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let Some(channel) = channel.upgrade() else { return };
        let shown = channel.shown.fetch_add(pieces, Ordering::AcqRel) + pieces;
        // An error says that nobody follows at this moment; whoever comes reads the store first.
        drop(channel.events.send(Shared { shown, what }));
        if !answered.is_empty() {
            // Apart: streams do not wait for it, and it is told also if this was the last event.
            let state = state.clone();
            state.clone().tasks().spawn(async move {
                for input in answered {
                    state.traces().replied(&state, id, input, "event", began).await;
                }
            });
        }
    }
}

/// One stream's place in one session.
pub(super) struct Follower {
    state: AppState,
    session: SessionId,
    channel: Arc<Channel>,
    events: broadcast::Receiver<Shared>,
    after: Seq,
    page: VecDeque<Item>,
    /// Whether the store has to be read before the channel is listened to.
    behind: bool,
    /// Pieces of progress that this stream has seen, or was told that it missed.
    shown: u64,
}

impl Follower {
    /// Which session.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// What comes next. Entries come in order and without a gap, unless an event says that there is one.
    ///
    /// Cancel-safe: what was not returned comes next time.
    pub(super) async fn next(&mut self) -> Item {
        loop {
            if let Some(item) = self.at_hand() {
                return item;
            }
            if self.behind {
                match self.state.store().read(self.session, self.after, PAGE).await {
                    Ok(entries) => {
                        self.behind = !entries.is_empty();
                        let item = |entry: Arc<Entry>| Item::Entry(Mark::of(&entry), encoded(self.session, &entry));
                        self.page.extend(entries.into_iter().map(item));
                    }
                    Err(StoreError::Pruned { oldest }) => {
                        let gap = Gap { session: self.session, after: self.after.0, oldest: oldest.next().0 };
                        self.after = oldest;
                        return Item::Gap(event("gap", &gap).into());
                    }
                    Err(error) => {
                        tracing::warn!(session = %self.session, %error, "a stream could not read, trying again");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            }
            if self.events.is_empty() && self.channel.over.load(Ordering::Acquire) {
                return Item::Deleted;
            }
            let heard = self.events.recv().await;
            if let Some(item) = self.hear(heard) {
                return item;
            }
        }
    }

    /// What comes next, if the store need not be read for it, nor anything waited for.
    pub(super) fn at_hand(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.page.pop_front() {
                if let Item::Entry(mark, _) = item {
                    self.after = mark.seq;
                }
                return Some(item);
            }
            if self.behind {
                return None;
            }
            let heard = match self.events.try_recv() {
                Ok(shared) => Ok(shared),
                Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                Err(TryRecvError::Closed | TryRecvError::Empty) => return None,
            };
            if let Some(item) = self.hear(heard) {
                return Some(item);
            }
        }
    }

    /// Takes over what the channel says, into its page. Answers what is to be said before that, if anything.
    fn hear(&mut self, heard: Result<Shared, RecvError>) -> Option<Item> {
        let shared = match heard {
            Ok(shared) => shared,
            // What was missed shows at the next event, which is there: only newer ones push one out.
            Err(RecvError::Lagged(_)) => {
                self.behind = true;
                return None;
            }
            Err(RecvError::Closed) => return Some(Item::Deleted),
        };
        let own = if let What::Live { pieces, .. } = shared.what { pieces } else { 0 };
        let missed = (shared.shown - own).saturating_sub(self.shown);
        self.shown = self.shown.max(shared.shown);
        match shared.what {
            What::Entry { mark, event } if mark.seq == self.after.next() => {
                self.page.push_back(Item::Entry(mark, event));
            }
            What::Entry { mark: Mark { seq, .. }, .. } | What::Large { seq } => self.behind = seq > self.after,
            What::Live { events, .. } => self.page.push_back(Item::Live(events)),
            What::Missed => {}
            What::Deleted => self.page.push_back(Item::Deleted),
        }
        let lagged = Lagged { session: self.session, missed };
        (missed > 0).then(|| Item::Live(event("lagged", &lagged).into()))
    }
}

#[derive(Serialize)]
struct EntryData<'e> {
    session: SessionId,
    seq: u64,
    at: Time,
    r#type: &'e str,
    record: &'e Record,
}

#[derive(Serialize)]
struct LiveData {
    session: SessionId,
    live: bool,
    run: RunId,
}

fn encoded(session: SessionId, entry: &Entry) -> Encoded {
    let name = entry.record.name();
    let data = EntryData { session, seq: entry.seq.0, at: entry.at.into(), r#type: name, record: &entry.record };
    let mut text = format!("event: {name}\ndata: {}\n", line(&data));
    let id_at = text.len();
    text.push_str("id: ");
    text.push_str(&Mark::of(entry).to_string());
    text.push_str("\n\n");
    Encoded { whole: text.into(), id_at }
}

/// Writes pieces of progress as events. All of a run begin alike.
struct Live {
    session: SessionId,
    run: Option<RunId>,
    head: String,
}

impl Live {
    fn of(session: SessionId) -> Live {
        Live { session, run: None, head: String::new() }
    }

    fn show(&mut self, progress: &Progress, events: &mut String) {
        if self.run != Some(progress.run) {
            self.run = Some(progress.run);
            let data = LiveData { session: self.session, live: true, run: progress.run };
            self.head = event("progress", &data);
            // Up to the brace, where the last member follows.
            self.head.truncate(self.head.len() - "}\n\n".len());
            self.head.push_str(",\"delta\":");
        }
        events.push_str(&self.head);
        events.push_str(&one_line(progress.delta.get()));
        events.push_str("}\n\n");
    }
}

/// The event that ends a stream.
pub(super) fn ended(session: Option<SessionId>, reason: &str) -> Bytes {
    event("end", &Ended { session, reason: reason.to_owned() }).into()
}

fn event(name: &str, data: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", line(data))
}

/// JSON on one line.
fn line(data: &impl Serialize) -> String {
    let text =
        serde_json::to_string(data).unwrap_or_else(|error| format!("{{\"unreadable\":{:?}}}", error.to_string()));
    match one_line(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(line) => line,
    }
}

/// What executors commit passes through as they wrote it, line breaks and all, but not here.
fn one_line(json: &str) -> Cow<'_, str> {
    if !json.contains(['\n', '\r']) {
        return Cow::Borrowed(json);
    }
    let parsed = serde_json::from_str::<serde_json::Value>(json);
    Cow::Owned(parsed.map_or_else(|_| json.replace(['\n', '\r'], " "), |value| value.to_string()))
}
