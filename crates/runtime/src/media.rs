//! How does media get out of an input and into the blob store, before the input is admitted?
//!
//! First it is detached: inline media becomes a reference by hash, so that the session can tell a duplicate. Only if
//! the session would take the input is the media kept: synced before the entry that names it is written. An input that
//! is refused or repeated leaves nothing in the blob store.

use crate::{
    blob::{BlobError, BlobStore},
    error::SessionError,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use windlass_core::{BlobId, ContentBlock, Input, MediaSource, RejectReason};

/// The bytes that one piece of media may have.
const MEDIA_BYTES: u32 = 64 * 1024 * 1024;

/// What an input refers to.
#[derive(Default)]
pub(crate) struct Media {
    /// What came with it.
    carried: Vec<Bytes>,
    /// What must be there already.
    named: Vec<BlobId>,
}

pub(crate) enum MediaError {
    /// The input is refused.
    Rejected(RejectReason),
    /// The blob store failed.
    Blob(BlobError),
    /// The session could not be asked.
    Session(SessionError),
}

/// Replaces inline media by references, and tells what they refer to. Linear in the media: not for an async thread.
pub(crate) fn detach(input: &mut Input, has_store: bool) -> Result<Media, RejectReason> {
    let mut media = Media::default();
    for block in input.blocks_mut().into_iter().flatten() {
        let (ContentBlock::Image { source, .. } | ContentBlock::Video { source, .. }) = block else { continue };
        match source {
            MediaSource::Url { .. } => continue,
            MediaSource::Blob { blob, .. } => media.named.push(blob.clone()),
            MediaSource::Inline { data } => {
                let bytes = data.len() as u64 / 4 * 3;
                if bytes > u64::from(MEDIA_BYTES) {
                    return Err(RejectReason::PayloadTooLarge { bytes, limit: MEDIA_BYTES });
                }
                let decoded = STANDARD.decode(data.as_bytes()).map_err(|_| RejectReason::InvalidMedia)?;
                *source = MediaSource::Blob { blob: BlobId::of(&decoded), bytes: decoded.len() as u64 };
                media.carried.push(decoded.into());
            }
        }
        if !has_store {
            return Err(RejectReason::BlobStoreRequired);
        }
    }
    Ok(media)
}

impl Media {
    pub(crate) fn is_empty(&self) -> bool {
        self.carried.is_empty() && self.named.is_empty()
    }

    /// Keeps what was carried, and sees that what was named is there.
    pub(crate) async fn keep(self, blobs: &dyn BlobStore) -> Result<(), MediaError> {
        for bytes in self.carried {
            blobs.put(bytes).await.map_err(MediaError::Blob)?;
        }
        for blob in self.named {
            if !blobs.contains(&blob).await.map_err(MediaError::Blob)? {
                let blob = blob.as_str().to_owned();
                return Err(MediaError::Rejected(RejectReason::BlobMissing { blob }));
            }
        }
        Ok(())
    }
}
