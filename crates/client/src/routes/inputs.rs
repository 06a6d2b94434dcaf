//! Calls: inputs are sent, listed, waited for, explained, withdrawn, redriven.

use super::Paging;
use crate::{Client, ClientError, SendInput, http::Call};
use reqwest::Method;
use std::time::Duration;
use windlass_api::{Admitted, Explanation, InputPhase, InputView, Page, Waited, Withdrawn};

/// Which inputs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputFilter {
    /// Where they are in their life; all if it is not said.
    pub state: Option<InputPhase>,
}

impl Client {
    /// Sends an input. When this returns it is accounted for, and on disk unless it was sent as ephemeral.
    ///
    /// It is sent with an idempotency key, its own or a fresh one, and so repeated where that may help.
    ///
    /// # Errors
    /// What the session refuses: `queue_full`, `session_state_conflict`, `idempotency_key_reused`, … An error that is
    /// [`ClientError::is_transient`] leaves open whether it was accepted: send it again with the same key.
    pub async fn send(&self, session: &str, input: &SendInput) -> Result<Admitted, ClientError> {
        self.send_under(session, input, &input.key_or_new()).await
    }

    pub(crate) async fn send_under(
        &self,
        session: &str,
        input: &SendInput,
        key: &str,
    ) -> Result<Admitted, ClientError> {
        let call = Call::new(self, Method::POST, &["v1", "sessions", session, "inputs"]);
        let call = call.query("create", input.create.then_some(true)).query("agent", input.agent.as_deref());
        call.key(key).json(&input.input)?.read().await
    }

    /// A page of the inputs of a session.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn inputs(
        &self,
        session: &str,
        filter: &InputFilter,
        page: &Paging,
    ) -> Result<Page<InputView>, ClientError> {
        let call = Call::new(self, Method::GET, &["v1", "sessions", session, "inputs"]);
        page.of(call.query("state", filter.state.map(phase))).read().await
    }

    /// An input as it was admitted, and what became of it.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn input(&self, session: &str, input: &str) -> Result<InputView, ClientError> {
        Call::new(self, Method::GET, &["v1", "sessions", session, "inputs", input]).read().await
    }

    /// Waits until an input is over, at most so long (120 s at the most); then it says where the input is. One request:
    /// [`Client::wait`] goes on over lost connections.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn wait_input(&self, session: &str, input: &str, time: Duration) -> Result<Waited, ClientError> {
        let call = Call::new(self, Method::GET, &["v1", "sessions", session, "inputs", input, "wait"]);
        // Whole seconds, and rather a little longer than shorter: zero would not wait at all.
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        call.query("timeout", Some(seconds)).waits(time).read().await
    }

    /// Why an input is not running: exactly one cause; or how it ended.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn explain(&self, session: &str, input: &str) -> Result<Explanation, ClientError> {
        Call::new(self, Method::GET, &["v1", "sessions", session, "inputs", input, "explain"]).read().await
    }

    /// Takes an input back that does not run yet.
    ///
    /// # Errors
    /// `session_state_conflict` if it runs or is over.
    pub async fn withdraw(&self, session: &str, input: &str) -> Result<Withdrawn, ClientError> {
        Call::new(self, Method::DELETE, &["v1", "sessions", session, "inputs", input]).read().await
    }

    /// Tries a dead letter anew; twice is once.
    ///
    /// # Errors
    /// `not_a_dead_letter`.
    pub async fn redrive(&self, session: &str, input: &str) -> Result<Admitted, ClientError> {
        Call::new(self, Method::POST, &["v1", "sessions", session, "inputs", input, "redrive"]).read().await
    }

    /// A page of the dead letters of all sessions.
    ///
    /// # Errors
    /// `invalid_cursor`.
    pub async fn dead_letters(&self, page: &Paging) -> Result<Page<InputView>, ClientError> {
        page.of(Call::new(self, Method::GET, &["v1", "dead-letters"])).read().await
    }
}

fn phase(phase: InputPhase) -> &'static str {
    match phase {
        InputPhase::Open => "open",
        InputPhase::Done => "done",
        InputPhase::Dead => "dead",
    }
}
