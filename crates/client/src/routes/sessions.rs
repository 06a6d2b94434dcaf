//! Calls: sessions are created, listed, changed and deleted.

use super::Paging;
use crate::{Client, ClientError, http::Call};
use reqwest::{Method, StatusCode, header::ETAG};
use windlass_api::{CreateSession, Page, SessionView, UpdateSession};

/// Which sessions to list. Everything that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Run by this agent.
    pub agent: Option<String>,
    /// Of exactly this name.
    pub name: Option<String>,
    /// With these labels.
    pub labels: Vec<(String, String)>,
    /// In this state: `open`, `retired`, `stopped` or `destroyed`.
    pub state: Option<String>,
}

/// Names what a session was told about itself when it was read. What it does does not change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(String);

impl Tag {
    async fn of(call: Call<'_>) -> Result<(SessionView, Tag), ClientError> {
        let (_, headers, view) = call.read_with_head().await?;
        // Without one nothing matches, and nothing is overwritten.
        let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or("\"\"");
        Ok((view, Tag(tag.to_owned())))
    }
}

impl Client {
    /// Creates a session; says whether it is new. Asked again with the same settings it answers the same session.
    ///
    /// # Errors
    /// `settings_conflict` if it exists with other settings.
    pub async fn create_session(&self, session: &CreateSession) -> Result<(SessionView, bool), ClientError> {
        let call = Call::new(self, Method::POST, &["v1", "sessions"]).json(session)?;
        let (status, _, view) = call.read_with_head().await?;
        Ok((view, status == StatusCode::CREATED))
    }

    /// A page of the sessions of the token's tenant.
    ///
    /// # Errors
    /// `invalid_cursor` if the cursor is not of such a list.
    pub async fn sessions(&self, filter: &SessionFilter, page: &Paging) -> Result<Page<SessionView>, ClientError> {
        let call = Call::new(self, Method::GET, &["v1", "sessions"])
            .query("agent", filter.agent.as_deref())
            .query("name", filter.name.as_deref())
            .query("state", filter.state.as_deref());
        let labels = filter.labels.iter();
        let call = labels.fold(call, |call, (name, value)| call.query("label", Some(format!("{name}:{value}"))));
        page.of(call).read().await
    }

    /// A session, by id or name.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn session(&self, session: &str) -> Result<SessionView, ClientError> {
        Call::new(self, Method::GET, &["v1", "sessions", session]).read().await
    }

    /// Changes what a session is told about itself.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn update_session(&self, session: &str, update: &UpdateSession) -> Result<SessionView, ClientError> {
        Call::new(self, Method::PATCH, &["v1", "sessions", session]).json(update)?.read().await
    }

    /// A session, by id or name, and the tag of what it is told about itself.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn session_with_tag(&self, session: &str) -> Result<(SessionView, Tag), ClientError> {
        Tag::of(Call::new(self, Method::GET, &["v1", "sessions", session])).await
    }

    /// Changes what a session is told about itself, if that is still what had this tag. Answers the tag of what it is now.
    ///
    /// # Errors
    /// `precondition_failed` if it was changed since: read it again. `not_found`.
    pub async fn update_session_if(
        &self,
        session: &str,
        tag: &Tag,
        update: &UpdateSession,
    ) -> Result<(SessionView, Tag), ClientError> {
        let call = Call::new(self, Method::PATCH, &["v1", "sessions", session]).header("if-match", &tag.0);
        Tag::of(call.json(update)?).await
    }

    /// Removes a destroyed session and all that was written of it.
    ///
    /// # Errors
    /// `not_found`; `session_state_conflict` if it is not destroyed.
    pub async fn delete_session(&self, session: &str) -> Result<(), ClientError> {
        Call::new(self, Method::DELETE, &["v1", "sessions", session]).done().await
    }
}
