//! Calls: policies are kept, asked and tried out; blobs are kept; tokens are made.

use super::Paging;
use crate::{Client, ClientError, http::Call};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::Method;
use sha2::{Digest as _, Sha256};
use windlass_api::{
    CreateToken, CreatedToken, ExplainPolicy, Page, PolicyExplained, PolicyReplayed, PolicySaved, PolicyView,
    ReplayPolicy, StoredBlob, TokenView,
};

impl Client {
    /// Keeps a policy table, written in TOML, under a name; the same table again keeps its version.
    ///
    /// # Errors
    /// `policy_invalid` says where the table cannot be used.
    pub async fn upload_policy(&self, name: &str, toml: impl Into<Bytes>) -> Result<PolicySaved, ClientError> {
        let call = Call::new(self, Method::PUT, &["v1", "policies", name]);
        call.bytes("application/toml", toml.into()).read().await
    }

    /// A page of the policies.
    ///
    /// # Errors
    /// `invalid_cursor`.
    pub async fn policies(&self, page: &Paging) -> Result<Page<PolicyView>, ClientError> {
        page.of(Call::new(self, Method::GET, &["v1", "policies"])).read().await
    }

    /// A policy with its rows, by name or `name@version`.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn policy(&self, name: &str) -> Result<PolicyView, ClientError> {
        Call::new(self, Method::GET, &["v1", "policies", name]).read().await
    }

    /// Asks what a policy would do with such an input.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn explain_policy(&self, name: &str, question: &ExplainPolicy) -> Result<PolicyExplained, ClientError> {
        // Asking changes nothing, so it may be repeated; the body is why it is no GET.
        Call::new(self, Method::POST, &["v1", "policies", name, "explain"]).json(question)?.read().await
    }

    /// Says what a policy would have decided otherwise over a recorded span.
    ///
    /// # Errors
    /// `not_found`, also for the session.
    pub async fn replay_policy(&self, name: &str, span: &ReplayPolicy) -> Result<PolicyReplayed, ClientError> {
        Call::new(self, Method::POST, &["v1", "policies", name, "replay"]).json(span)?.read().await
    }

    /// Keeps bytes; at most 64 MiB. The same bytes have the same address. Nothing is kept but what was sent.
    ///
    /// # Errors
    /// `payload_too_large`; `blob_hash_mismatch` if the bytes were damaged on the way.
    pub async fn put_blob(&self, bytes: impl Into<Bytes>) -> Result<StoredBlob, ClientError> {
        let bytes = bytes.into();
        let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&bytes)));
        let call = Call::new(self, Method::POST, &["v1", "blobs"]).header("content-digest", &digest);
        call.bytes("application/octet-stream", bytes).read().await
    }

    /// The bytes of a blob, verified here as well as by the server.
    ///
    /// # Errors
    /// `not_found`; `blob_corrupt` if they are not what was written; [`ClientError::NotWindlass`] if others came.
    pub async fn blob(&self, blob: &str) -> Result<Bytes, ClientError> {
        Call::new(self, Method::GET, &["v1", "blobs", blob]).header("accept", "*/*").blob(blob).await
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// Only what keeps the question from being answered.
    pub async fn has_blob(&self, blob: &str) -> Result<bool, ClientError> {
        match Call::new(self, Method::HEAD, &["v1", "blobs", blob]).done().await {
            Ok(()) => Ok(true),
            // The answer to HEAD has no body, and so no problem document.
            Err(ClientError::NotWindlass { status: Some(404), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a token. Its secret is in this answer and nowhere else.
    ///
    /// # Errors
    /// `forbidden_scope` if the asking token may not make tokens.
    pub async fn create_token(&self, token: &CreateToken) -> Result<CreatedToken, ClientError> {
        Call::new(self, Method::POST, &["v1", "tokens"]).json(token)?.read().await
    }

    /// A page of the tokens, without their secrets.
    ///
    /// # Errors
    /// `forbidden_scope`.
    pub async fn tokens(&self, page: &Paging) -> Result<Page<TokenView>, ClientError> {
        page.of(Call::new(self, Method::GET, &["v1", "tokens"])).read().await
    }

    /// Ends a token.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn revoke_token(&self, token: &str) -> Result<(), ClientError> {
        Call::new(self, Method::DELETE, &["v1", "tokens", token]).done().await
    }
}
