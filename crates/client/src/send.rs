//! How does whoever sent an input hear how it ended, whatever happens in between?
//!
//! Sending carries a key, so it may be repeated; waiting names the input, so it may be begun again. Neither is tied to a
//! connection, nor to a life of the server.

use crate::{Client, ClientError, http::retry_after};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use windlass_api::{Admission, Completion, CompletionStatus, NewInput};
use windlass_core::{HandlingMode, InputId, InputState, SessionId};

/// How long one request waits; shorter than what proxies cut off.
const STRETCH: Duration = Duration::from_secs(50);
/// The pauses while the server is away: the first, doubled up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// An input to send, and how.
#[derive(Clone, Debug)]
pub struct SendInput {
    pub(crate) input: NewInput,
    pub(crate) key: Option<String>,
    pub(crate) create: bool,
    pub(crate) agent: Option<String>,
}

impl SendInput {
    /// An input of any kind.
    pub fn new(input: NewInput) -> SendInput {
        SendInput { input, key: None, create: false, agent: None }
    }

    /// Words for the agent.
    pub fn prompt(text: impl Into<String>) -> SendInput {
        SendInput::new(NewInput::prompt(text))
    }

    /// Joins the run that is on, if one is. Only prompts, peer messages, flow steps, events and continuations steer.
    #[must_use]
    pub fn steer(mut self) -> SendInput {
        let mode = Some(HandlingMode::Steer);
        match &mut self.input {
            NewInput::Prompt(input) => input.handling_mode = mode,
            NewInput::Peer(input) => input.handling_mode = mode,
            NewInput::FlowStep(input) => input.handling_mode = mode,
            NewInput::ExternalEvent(input) => input.handling_mode = mode,
            NewInput::Continuation(input) => input.handling_mode = mode,
            NewInput::Operation(_) => {}
        }
        self
    }

    /// Makes a repetition recognisable, after a restart and from another process too: 1 to 255 visible ASCII
    /// characters. Without one, each call makes its own.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> SendInput {
        self.key = Some(key.into());
        self
    }

    /// Creates the session if it does not exist, run by this agent; by the server's default one if none is named.
    #[must_use]
    pub fn create(mut self, agent: Option<String>) -> SendInput {
        (self.create, self.agent) = (true, agent);
        self
    }

    pub(crate) fn key_or_new(&self) -> String {
        self.key.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string())
    }
}

/// An input that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The input; of a duplicate, the one that was there.
    pub id: InputId,
    /// Its session.
    pub session: SessionId,
    /// Whether this call brought it in.
    pub outcome: Admission,
    /// How it ended. May be no success: look at its status.
    pub completion: Completion,
}

impl Client {
    /// Sends an input and waits until it is over, over lost connections and restarts of the server.
    ///
    /// Dropping the future drops the wait, not the input.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] at once if nobody answers to begin with. Once it may have arrived it is sent again, under
    /// its key, until the server says what became of it, or until the deadline, with what was heard last. An admitted
    /// input that is not over at the deadline is [`ClientError::WaitTimedOut`]. What the session refuses, as for
    /// [`Client::send`].
    pub async fn send_and_wait(&self, session: &str, input: &SendInput, time: Duration) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + time;
        let key = input.key_or_new();
        let mut away = Away::default();
        let admitted = loop {
            match self.send_under(session, input, &key).await {
                Ok(admitted) => break admitted,
                // Somebody was there: only the key can tell whether it was accepted.
                Err(error) if error.passes() && (away.was || !error.nothing_happened()) => {
                    away.pause(&error, deadline).await.ok_or(error)?;
                }
                Err(error) => return Err(error),
            }
        };
        let completion = match admitted.result {
            Some(completion) => completion,
            None => self.wait_from(admitted.session, admitted.id, admitted.state, deadline).await?,
        };
        Ok(Answer { id: admitted.id, session: admitted.session, outcome: admitted.outcome, completion })
    }

    /// Waits until an input is over, over lost connections and restarts of the server.
    ///
    /// # Errors
    /// [`ClientError::WaitTimedOut`] at the deadline; `not_found`.
    pub async fn wait(&self, session: SessionId, input: InputId, time: Duration) -> Result<Completion, ClientError> {
        self.wait_from(session, input, InputState::Accepted, Instant::now() + time).await
    }

    async fn wait_from(
        &self,
        session: SessionId,
        mut input: InputId,
        mut state: InputState,
        deadline: Instant,
    ) -> Result<Completion, ClientError> {
        let session = session.to_string();
        let mut away = Away::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timed_out = || ClientError::WaitTimedOut { input: input.to_string(), state: word(state) };
            if left.is_zero() {
                return Err(timed_out());
            }
            match self.wait_input(&session, &input.to_string(), left.min(STRETCH)).await {
                Ok(waited) => {
                    away = Away::default();
                    state = waited.state;
                    match waited.result {
                        // It goes on as a part of another one, whose end is its own.
                        Some(Completion { status: CompletionStatus::Coalesced, by: Some(by), .. }) => input = by,
                        Some(completion) => return Ok(completion),
                        None => {}
                    }
                }
                Err(error) if error.is_transient() => away.pause(&error, deadline).await.ok_or_else(timed_out)?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The server is away, or too busy.
#[derive(Default)]
struct Away {
    was: bool,
    pause: Duration,
}

impl Away {
    /// Pauses before the next attempt; none if the deadline comes first.
    async fn pause(&mut self, error: &ClientError, deadline: Instant) -> Option<()> {
        self.was = true;
        self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
        let until = Instant::now() + self.pause.max(retry_after(error).unwrap_or_default());
        sleep_until(until.min(deadline)).await;
        (until < deadline).then_some(())
    }
}

fn word(state: InputState) -> String {
    windlass_core::notation::input_state(state)
}
