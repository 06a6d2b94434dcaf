//! How are sessions followed, without a hole, over connections that break?
//!
//! A stream remembers the id of the last entry that it handed out, and asks for what came after it whenever it has to
//! connect anew. Progress is live: what was missed is said by `lagged`, and is nothing that matters.

use crate::{
    Client, ClientError,
    http::{Call, retry_after},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::{Method, StatusCode, header::ACCEPT};
use serde::{Serialize, de::DeserializeOwned};
use sse_stream::{Sse, SseByteStream};
use std::{io, pin::Pin, time::Duration};
use tokio::time::{Instant, sleep, timeout};
use windlass_api::{Ended, Gap, Lagged, Progress};

/// A server says something, if only a comment, every 15 s. Longer silence is a dead connection.
const SILENCE: Duration = Duration::from_secs(45);
/// The pauses before connecting anew: the first, unless the server says how long it is, doubled up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// What a server says is believed up to this.
const LONGEST_FIRST_PAUSE: Duration = Duration::from_secs(60);

type Body = Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>;

/// Something seen by who follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Event {
    /// An entry was written. Each is handed out exactly once, in order.
    Entry(windlass_api::Event),
    /// A run is on, and so far. Shown once, kept nowhere.
    Progress(Progress),
    /// Some progress was missed. Entries are not.
    Lagged(Lagged),
    /// Entries that were asked for are no longer kept; the oldest that is follows.
    Gap(Gap),
    /// A session was deleted, or the right to follow it has ended. Nothing comes after it for one session.
    End(Ended),
}

/// What to follow, and from where.
#[derive(Clone, Debug, Default)]
pub struct Follow {
    sessions: Vec<String>,
    after: Option<String>,
    progress: bool,
    patience: Option<Duration>,
}

impl Follow {
    /// One session, by id or name.
    pub fn session(session: impl Into<String>) -> Follow {
        Follow::sessions([session])
    }

    /// Several sessions in one stream.
    pub fn sessions(sessions: impl IntoIterator<Item = impl Into<String>>) -> Follow {
        Follow { sessions: sessions.into_iter().map(Into::into).collect(), progress: true, ..Follow::default() }
    }

    /// Begins after this position; with what comes from then on if it is never said. A position is the id of an event, which for
    /// one session is the sequence number of its entry.
    #[must_use]
    pub fn after(mut self, position: impl Into<String>) -> Follow {
        self.after = Some(position.into());
        self
    }

    /// Leaves out live progress.
    #[must_use]
    pub fn without_progress(mut self) -> Follow {
        self.progress = false;
        self
    }

    /// How long the server may be out of reach before the stream ends with an error; for ever unless said.
    #[must_use]
    pub fn patience(mut self, time: Duration) -> Follow {
        self.patience = Some(time);
        self
    }
}

/// Events as they come; made by [`Client::events`].
pub struct EventStream {
    client: Client,
    follow: Follow,
    body: Option<Body>,
    /// Since when nobody has answered.
    out_of_reach: Option<Instant>,
    /// How long to wait before the next attempt. It grows until an event comes, so that a server which takes connections
    /// and drops them is not called without end.
    pause: Duration,
    /// The first pause.
    first_pause: Duration,
    over: bool,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("follow", &self.follow).field("over", &self.over).finish_non_exhaustive()
    }
}

impl Client {
    /// Follows sessions. Connects with the first [`EventStream::next`].
    ///
    /// ```no_run
    /// # async fn example(client: windlass_client::Client) -> Result<(), windlass_client::ClientError> {
    /// use windlass_client::{Event, Follow};
    /// let mut events = client.events(Follow::session("demo"));
    /// while let Some(event) = events.next().await? {
    ///     match event {
    ///         Event::Entry(entry) => println!("{}", entry.name),
    ///         Event::Gap(gap) => println!("entries before {:?} are no longer kept", gap.oldest),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self, follow: Follow) -> EventStream {
        EventStream {
            client: self.clone(),
            follow,
            body: None,
            out_of_reach: None,
            pause: Duration::ZERO,
            first_pause: PAUSES.0,
            over: false,
        }
    }
}

impl EventStream {
    /// Where the stream is: the position to give to [`Follow::after`] to go on from here in another process.
    pub fn position(&self) -> Option<&str> {
        self.follow.after.as_deref()
    }

    /// The next event; none if what is followed has ended for good. Connects anew by itself after a lost connection
    /// and a restart of the server.
    ///
    /// Cancel-safe: an event is handed out or still to come.
    ///
    /// # Errors
    /// [`ClientError::Problem`] if the server refuses the stream, [`ClientError::Unreachable`] if the patience is used
    /// up. After an error the stream may be asked again.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        while !self.over {
            let Some(body) = &mut self.body else {
                self.connect().await?;
                continue;
            };
            let Some(Ok(block)) = body.next().await else {
                self.lost();
                continue;
            };
            if let Some(event) = self.read(&block)? {
                self.pause = Duration::ZERO;
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// One attempt, after the pause that is due. Changes nothing until it has an answer.
    async fn connect(&mut self) -> Result<(), ClientError> {
        sleep(jittered(self.pause)).await;
        match self.call().stream().await {
            // Nothing more will come: how a stream tells a client not to come back.
            Ok(response) if response.status() == StatusCode::NO_CONTENT => self.over = true,
            Ok(response) => {
                self.out_of_reach = None;
                let bytes = Box::pin(response.bytes_stream());
                let heard = stream::unfold(bytes, |mut bytes| async move {
                    let chunk: io::Result<Bytes> = match timeout(SILENCE, bytes.next()).await {
                        Ok(chunk) => chunk?.map_err(io::Error::other),
                        Err(silence) => Err(silence.into()),
                    };
                    Some((chunk, bytes))
                });
                self.body = Some(Box::pin(SseByteStream::new(Box::pin(heard))));
            }
            Err(error) => {
                let since = *self.out_of_reach.get_or_insert_with(Instant::now);
                let impatient = self.follow.patience.is_some_and(|patience| since.elapsed() + self.pause > patience);
                if !error.is_transient() || impatient {
                    (self.out_of_reach, self.pause) = (None, Duration::ZERO);
                    return Err(error);
                }
                self.pause = longer(self.pause, self.first_pause).max(retry_after(&error).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// The connection is gone, and another one is to be made after a pause.
    fn lost(&mut self) {
        self.body = None;
        self.out_of_reach.get_or_insert_with(Instant::now);
        self.pause = longer(self.pause, self.first_pause);
    }

    /// What a block says; none if it is for the stream itself, or of a kind that is not known yet.
    fn read(&mut self, block: &Sse) -> Result<Option<Event>, ClientError> {
        if let Some(pause) = block.retry.map(Duration::from_millis) {
            self.first_pause = pause.clamp(PAUSES.0, LONGEST_FIRST_PAUSE);
        }
        let Some(data) = &block.data else {
            // Where the stream begins: it may be cut before its first event.
            if let Some(id) = &block.id {
                self.follow.after = Some(id.clone());
            }
            return Ok(None);
        };
        let event = match block.event.as_deref() {
            Some("progress") => Event::Progress(self.parse(data)?),
            Some("lagged") => Event::Lagged(self.parse(data)?),
            Some("gap") => Event::Gap(self.parse(data)?),
            Some("end") => {
                let ended: Ended = self.parse(data)?;
                if ended.reason == "draining" {
                    // The server leaves and may come back: so may the stream.
                    self.lost();
                    return Ok(None);
                }
                // Of several sessions, the others go on.
                self.over = ended.session.is_none() || self.follow.sessions.len() == 1;
                Event::End(ended)
            }
            // Whatever else has an id is an entry, named as its record is.
            _ if block.id.is_some() => Event::Entry(self.parse(data)?),
            _ => return Ok(None),
        };
        if let Some(id) = &block.id {
            self.follow.after = Some(id.clone());
        }
        Ok(Some(event))
    }

    fn parse<T: DeserializeOwned>(&self, data: &str) -> Result<T, ClientError> {
        serde_json::from_str(data).map_err(|error| self.call().not_windlass(None, &error))
    }

    fn call(&self) -> Call<'_> {
        let call = match self.follow.sessions.as_slice() {
            [session] => Call::new(&self.client, Method::GET, &["v1", "sessions", session, "events"]),
            sessions => {
                let all = Call::new(&self.client, Method::GET, &["v1", "events"]);
                sessions.iter().fold(all, |call, session| call.query("session", Some(session)))
            }
        };
        let call = call.header(ACCEPT.as_str(), "text/event-stream").query("progress", Some(self.follow.progress));
        match &self.follow.after {
            Some(position) => call.header("last-event-id", position),
            None => call,
        }
    }
}

/// The pause after this one.
fn longer(pause: Duration, first: Duration) -> Duration {
    (pause * 2).min(PAUSES.1).max(first)
}

/// Between half of a pause and all of it, so that those who lost one server do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::now_v7().as_u128() as u16;
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u16::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_what_the_server_says_and_are_never_alike() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        for (first, expected) in [
            (ms(100), [ms(100), ms(200), ms(400), ms(800)]),
            (ms(2_000), [ms(2_000), ms(4_000), s(5), s(5)]),
            (s(10), [s(10), s(10), s(10), s(10)]),
        ] {
            let mut pause = Duration::ZERO;
            let pauses = [(); 4].map(|()| {
                pause = longer(pause, first);
                pause
            });
            assert_eq!(pauses, expected);
        }
        let some: Vec<_> = (0..100).map(|_| jittered(s(10))).collect();
        assert!(some.iter().all(|pause| (s(5)..=s(10)).contains(pause)));
        assert!(some.iter().any(|pause| *pause != some[0]));
    }
}
