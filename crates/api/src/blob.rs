//! What is said of a blob?

use serde::{Deserialize, Serialize};
use windlass_core::BlobId;

/// A blob that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StoredBlob {
    /// Its address: the BLAKE3 hash of its bytes, in lower-case hex.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::BlobId))]
    pub blob: BlobId,
    /// Its length.
    pub bytes: u64,
}
