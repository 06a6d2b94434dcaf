//! Calls: a session as a whole is held, retired, emptied, stopped, and its runs are interrupted.

use crate::{Client, ClientError, http::Call};
use reqwest::Method;
use windlass_api::{ControlReport, Interrupt, Interrupted, Reset, Verb};

impl Client {
    /// Does one of the verbs that take nothing but the session.
    ///
    /// # Errors
    /// `not_found`; `session_state_conflict` if the session's state does not allow it.
    pub async fn control(&self, session: &str, verb: Verb) -> Result<ControlReport, ClientError> {
        let path = ["v1", "sessions", session, verb.as_str()];
        Call::new(self, Method::POST, &path).read().await
    }

    /// Empties a session; its inputs are abandoned, its operations ended.
    ///
    /// # Errors
    /// `session_state_conflict` if a run is on and it is not forced.
    pub async fn reset(&self, session: &str, reset: &Reset) -> Result<ControlReport, ClientError> {
        Call::new(self, Method::POST, &["v1", "sessions", session, "reset"]).json(reset)?.read().await
    }

    /// Cancels a run. The answer is exact: after `cancelled` nothing of it commits.
    ///
    /// # Errors
    /// `not_found` if there is no such session; no such run is an answer.
    pub async fn interrupt(&self, session: &str, interrupt: &Interrupt) -> Result<Interrupted, ClientError> {
        Call::new(self, Method::POST, &["v1", "sessions", session, "interrupt"]).json(interrupt)?.read().await
    }
}
