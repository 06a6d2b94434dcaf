//! Calls: background work is registered, reported and waited for, and peers are written to.

use super::Paging;
use crate::{Client, ClientError, http::Call};
use reqwest::Method;
use std::time::Duration;
use windlass_api::{
    CancelOperation, CompleteOperation, FailOperation, NewPeerMessage, OperationView, OperationWaited, Page,
    PeerMessageSent, PeerPage, ProgressOperation, RegisterOperation,
};

impl Client {
    /// A page of the operations that a session waits to hear of, or has heard of.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn operations(&self, session: &str, page: &Paging) -> Result<Page<OperationView>, ClientError> {
        page.of(Call::new(self, Method::GET, &["v1", "sessions", session, "operations"])).read().await
    }

    /// One operation.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn operation(&self, session: &str, operation: &str) -> Result<OperationView, ClientError> {
        Call::new(self, Method::GET, &["v1", "sessions", session, "operations", operation]).read().await
    }

    /// Registers background work, for a producer outside the server. With an id of your own a repetition is
    /// recognised.
    ///
    /// # Errors
    /// `operation_conflict` if the id is taken.
    pub async fn register_operation(
        &self,
        session: &str,
        operation: &RegisterOperation,
    ) -> Result<OperationView, ClientError> {
        Call::new(self, Method::POST, &["v1", "sessions", session, "operations"]).json(operation)?.read().await
    }

    /// Says that background work ended well.
    ///
    /// # Errors
    /// `operation_conflict` if it is over.
    pub async fn complete_operation(
        &self,
        session: &str,
        operation: &str,
        result: &CompleteOperation,
    ) -> Result<OperationView, ClientError> {
        self.report(session, operation, "complete", result).await
    }

    /// Says that background work ended badly.
    ///
    /// # Errors
    /// `operation_conflict` if it is over.
    pub async fn fail_operation(
        &self,
        session: &str,
        operation: &str,
        failure: &FailOperation,
    ) -> Result<OperationView, ClientError> {
        self.report(session, operation, "fail", failure).await
    }

    /// Says how far background work is.
    ///
    /// # Errors
    /// `operation_conflict` if it is over.
    pub async fn progress_operation(
        &self,
        session: &str,
        operation: &str,
        progress: &ProgressOperation,
    ) -> Result<OperationView, ClientError> {
        self.report(session, operation, "progress", progress).await
    }

    /// Calls background work off.
    ///
    /// # Errors
    /// `operation_conflict` if it is over.
    pub async fn cancel_operation(
        &self,
        session: &str,
        operation: &str,
        cancel: &CancelOperation,
    ) -> Result<OperationView, ClientError> {
        self.report(session, operation, "cancel", cancel).await
    }

    async fn report(
        &self,
        session: &str,
        operation: &str,
        what: &str,
        body: &impl serde::Serialize,
    ) -> Result<OperationView, ClientError> {
        let path = ["v1", "sessions", session, "operations", operation, what];
        Call::new(self, Method::POST, &path).json(body)?.read().await
    }

    /// Waits until background work is over, at most so long (120 s at the most); then it says where it is.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn wait_operation(
        &self,
        session: &str,
        operation: &str,
        time: Duration,
    ) -> Result<OperationWaited, ClientError> {
        let call = Call::new(self, Method::GET, &["v1", "sessions", session, "operations", operation, "wait"]);
        call.query("timeout", Some(time.as_secs())).waits(time).read().await
    }

    /// The peers that a session may write to: a page of those on its server, and the other servers.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn peers(&self, session: &str, page: &Paging) -> Result<PeerPage, ClientError> {
        page.of(Call::new(self, Method::GET, &["v1", "sessions", session, "peers"])).read().await
    }

    /// Writes to a peer in the name of a session. The key makes a repetition recognisable, from another process too;
    /// without one, each call makes its own.
    ///
    /// # Errors
    /// `peer_unknown`, `loop_detected`, `idempotency_key_reused`; what the peer's session refuses it for.
    pub async fn send_to_peer(
        &self,
        session: &str,
        message: &NewPeerMessage,
        key: Option<&str>,
    ) -> Result<PeerMessageSent, ClientError> {
        let key = key.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned);
        let call = Call::new(self, Method::POST, &["v1", "sessions", session, "peers", "messages"]);
        call.key(&key).json(message)?.read().await
    }
}
