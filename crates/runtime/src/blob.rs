//! Where is content kept that is too large for a journal?
//!
//! Blobs are named by the BLAKE3 hash of their bytes, written and synced before the record that names them, and
//! verified whenever they are read.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use windlass_core::BlobId;

/// A store of blobs. Cancel-safe: a dropped call leaves a blob whole or absent, never half.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Keeps bytes under their own hash. When this returns they survive a loss of power. Putting the same bytes again
    /// is harmless, heals a damaged blob, and makes it young again for [`BlobStore::collect`].
    ///
    /// # Errors
    /// [`BlobError::Unavailable`]; nothing can be said of the blob then, and a repetition is harmless.
    async fn put(&self, bytes: Bytes) -> Result<BlobId, BlobError>;

    /// Begins to keep bytes that come in pieces: as [`BlobStore::put`], in memory that does not grow with them.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`].
    async fn writer(&self) -> Result<Box<dyn BlobWriter>, BlobError>;

    /// The bytes, verified against the hash.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Corrupt`] (never the wrong bytes), [`BlobError::Unavailable`].
    async fn get(&self, blob: &BlobId) -> Result<Bytes, BlobError>;

    /// The same in pieces, in memory that does not grow with them. All of it is verified before this returns, and again
    /// on the way: should the bytes change meanwhile, an error comes instead of the last piece.
    ///
    /// # Errors
    /// As for [`BlobStore::get`].
    async fn stream(&self, blob: &BlobId) -> Result<BlobStream, BlobError>;

    /// Whether the blob is there. Does not verify it.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`].
    async fn contains(&self, blob: &BlobId) -> Result<bool, BlobError>;

    /// Forgets every blob that `keep` does not hold and that is older than the grace time. Returns how many.
    ///
    /// A blob is written before the record that names it, so the grace time must be longer than an admission takes.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`]; some may have been collected.
    async fn collect(
        &self,
        keep: &std::collections::HashSet<BlobId>,
        grace: std::time::Duration,
    ) -> Result<u64, BlobError>;
}

/// A blob on its way in. Dropped before its end it leaves no blob.
#[async_trait]
pub trait BlobWriter: Send {
    /// Takes the next piece.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`]; begin again.
    async fn write(&mut self, piece: Bytes) -> Result<(), BlobError>;

    /// Keeps what was written, as [`BlobStore::put`] does.
    ///
    /// # Errors
    /// As for [`BlobStore::put`].
    async fn finish(self: Box<Self>) -> Result<BlobId, BlobError>;
}

/// A blob on its way out.
pub struct BlobStream {
    /// How many bytes there are in all.
    pub bytes: u64,
    /// They, in order.
    pub pieces: BoxStream<'static, Result<Bytes, BlobError>>,
}

/// Why a blob could not be kept or had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not there.
    #[error("blob_missing: {0:?} is not in the blob store")]
    Missing(BlobId),
    /// Its bytes are not those of its name.
    #[error("blob_corrupt: the bytes of {0:?} do not match their hash; restore it from a backup")]
    Corrupt(BlobId),
    /// The blob store is out of reach.
    #[error("blob_store_unavailable: {0}; try again")]
    Unavailable(Arc<str>),
}
