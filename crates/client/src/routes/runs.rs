//! Calls: what has been run, what was said, what was written.

use super::Paging;
use crate::{Client, ClientError, http::Call};
use reqwest::Method;
use windlass_api::{Attempt, JournalPage, Message, Page, Receipt, RunView};

impl Client {
    /// A page of the attempts at runs.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn runs(&self, session: &str, page: &Paging) -> Result<Page<Attempt>, ClientError> {
        page.of(Call::new(self, Method::GET, &["v1", "sessions", session, "runs"])).read().await
    }

    /// A run with its attempts and receipts.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn run(&self, session: &str, run: &str) -> Result<RunView, ClientError> {
        Call::new(self, Method::GET, &["v1", "sessions", session, "runs", run]).read().await
    }

    /// The receipt of one boundary.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn receipt(&self, session: &str, run: &str, sequence: u64) -> Result<Receipt, ClientError> {
        let sequence = sequence.to_string();
        let path = ["v1", "sessions", session, "runs", run, "receipts", &sequence];
        Call::new(self, Method::GET, &path).read().await
    }

    /// A page of the conversation.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn transcript(&self, session: &str, page: &Paging) -> Result<Page<Message>, ClientError> {
        page.of(Call::new(self, Method::GET, &["v1", "sessions", session, "transcript"])).read().await
    }

    /// A page of the journal: the entries after a position.
    ///
    /// # Errors
    /// `not_found`; `cursor_expired` if entries after the position are no longer kept.
    pub async fn journal(&self, session: &str, after: u64, limit: Option<u32>) -> Result<JournalPage, ClientError> {
        let call = Call::new(self, Method::GET, &["v1", "sessions", session, "journal"]);
        call.query("after", Some(after)).query("limit", limit).read().await
    }
}
