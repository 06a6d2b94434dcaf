//! Where are small things kept that belong to no session: tokens, policies?
//!
//! A [`Document`] is JSON under a kind and a key, with a version that rises with each change. Changing one is a
//! compare-and-set on that version, so two writers never overwrite each other unseen.

use crate::store::StoreError;
use async_trait::async_trait;
use serde_json::Value;
use windlass_core::Timestamp;

/// Named JSON documents, kept beside the journals by the same store.
///
/// Every method is cancel-safe: a call whose future is dropped has either wholly happened or not at all.
#[async_trait]
pub trait Documents: Send + Sync + 'static {
    /// One document; none if there is none of this name.
    ///
    /// # Errors
    /// [`DocumentError::Store`], as for any read.
    async fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DocumentError>;

    /// Keeps a document under its name and returns its version: 1 if it is new, one more than before if not. When this
    /// returns it survives a loss of power.
    ///
    /// With `expected`, only if the version is that one; 0: only if there is none.
    ///
    /// # Errors
    /// [`DocumentError::Conflict`], [`DocumentError::NoName`], [`DocumentError::TooLarge`]: nothing was changed.
    /// [`DocumentError::Store`] as for an append; after [`StoreError::Unknown`] read it again.
    async fn put(&self, kind: &str, key: &str, body: Value, expected: Option<u64>) -> Result<u64, DocumentError>;

    /// The documents of one kind after a key, in the order of the bytes of their keys, at most `limit`.
    ///
    /// # Errors
    /// As for [`Documents::get`].
    async fn list(&self, kind: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>, DocumentError>;

    /// Forgets a document. Returns whether there was one. A later one of its name begins at version 1 again.
    ///
    /// # Errors
    /// [`DocumentError::Store`], as for [`Documents::put`].
    async fn delete(&self, kind: &str, key: &str) -> Result<bool, DocumentError>;
}

/// A document as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its name within its kind.
    pub key: String,
    /// Counts its changes, from 1.
    pub version: u64,
    /// What it says.
    pub body: Value,
    /// When it was last changed, by the store's clock.
    pub updated_at: Timestamp,
}

/// Why a document could not be kept or had.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Somebody else has changed it meanwhile. Nothing was changed.
    #[error("precondition_failed: {kind}/{key} is at version {found}, not {expected}; read it again")]
    Conflict {
        /// The kind.
        kind: String,
        /// The key.
        key: String,
        /// The version that was expected.
        expected: u64,
        /// The version that is there; 0: there is none.
        found: u64,
    },
    /// The kind or the key is empty, or longer than there is room for.
    #[error("schema_violation: {field}: {bytes} bytes given, 1 to {limit} are kept; use another name")]
    NoName {
        /// `kind` or `key`.
        field: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// It says too much.
    #[error("payload_too_large: {bytes} bytes of JSON, at most {limit} are kept; make it smaller")]
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// The store did not do it; its error says whether it may have.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DocumentError {
    /// Its stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            DocumentError::Conflict { .. } => "precondition_failed",
            DocumentError::NoName { .. } => "schema_violation",
            DocumentError::TooLarge { .. } => "payload_too_large",
            DocumentError::Store(error) => error.code(),
        }
    }
}

/// The longest kind, in bytes.
pub const MAX_KIND_BYTES: usize = 64;
/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// The longest document, in bytes of JSON.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// What every store checks before it keeps a document: its name and its size. Returns the JSON to be kept.
///
/// # Errors
/// [`DocumentError::NoName`], [`DocumentError::TooLarge`].
pub fn checked(kind: &str, key: &str, body: &Value) -> Result<String, DocumentError> {
    for (field, text, limit) in [("kind", kind, MAX_KIND_BYTES), ("key", key, MAX_KEY_BYTES)] {
        if text.is_empty() || text.len() > limit {
            return Err(DocumentError::NoName { field, bytes: text.len(), limit });
        }
    }
    let json = body.to_string();
    if json.len() > MAX_BODY_BYTES {
        return Err(DocumentError::TooLarge { bytes: json.len(), limit: MAX_BODY_BYTES });
    }
    Ok(json)
}
