//! How does media get out of an input and into the blob store, before the input is admitted?

use crate::blob::{BlobError, BlobStore};
use base64::{Engine, engine::general_purpose::STANDARD};
use windlass_core::{ContentBlock, Input, MediaSource, RejectReason};

/// The bytes that one piece of media may have.
pub(crate) const MEDIA_BYTES: u32 = 64 * 1024 * 1024;

pub(crate) enum MediaError {
    /// The input is refused.
    Rejected(RejectReason),
    /// The blob store failed.
    Blob(BlobError),
}

/// Replaces inline media by references, and checks that referenced blobs are there. Blobs are synced before the entry
/// that names them is written; one whose input is then refused is collected later.
pub(crate) async fn externalise(blobs: Option<&dyn BlobStore>, input: &mut Input) -> Result<(), MediaError> {
    let rejected = |reason| Err(MediaError::Rejected(reason));
    for block in input.blocks_mut().into_iter().flatten() {
        let (ContentBlock::Image { source, .. } | ContentBlock::Video { source, .. }) = block else { continue };
        match source {
            MediaSource::Url { .. } => {}
            MediaSource::Inline { data } => {
                let Some(blobs) = blobs else { return rejected(RejectReason::BlobStoreRequired) };
                if data.len() / 4 * 3 > MEDIA_BYTES as usize {
                    let bytes = data.len() as u64 / 4 * 3;
                    return rejected(RejectReason::PayloadTooLarge { bytes, limit: MEDIA_BYTES });
                }
                let Ok(decoded) = STANDARD.decode(data.as_bytes()) else {
                    return rejected(RejectReason::InvalidMedia);
                };
                let bytes = decoded.len() as u64;
                let blob = blobs.put(decoded.into()).await.map_err(MediaError::Blob)?;
                *source = MediaSource::Blob { blob, bytes };
            }
            MediaSource::Blob { blob, .. } => {
                let Some(blobs) = blobs else { return rejected(RejectReason::BlobStoreRequired) };
                if !blobs.contains(blob).await.map_err(MediaError::Blob)? {
                    return rejected(RejectReason::BlobMissing { blob: blob.as_str().to_owned() });
                }
            }
        }
    }
    Ok(())
}
