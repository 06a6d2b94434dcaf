//! How are blobs kept in a folder, or in a bucket?
//!
//! [`ObjectBlobs`] puts them under `b3/<2>/<2>/<64 hex digits>` of any [`ObjectStore`]: a folder, S3, GCS, Azure, or
//! memory. The path is the hash of the content, so writing twice writes the same, and reading proves itself.

use crate::blob::{BlobError, BlobStore};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{
    Error, ObjectMeta, ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path,
};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use windlass_core::BlobId;

/// A [`BlobStore`] over an [`ObjectStore`].
#[derive(Clone, Debug)]
pub struct ObjectBlobs {
    objects: Arc<dyn ObjectStore>,
}

impl ObjectBlobs {
    /// Blobs in a folder, which is created if need be. Each write is synced, the folder that names it too.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] if the folder cannot be had.
    pub fn in_folder(folder: impl AsRef<std::path::Path>) -> Result<ObjectBlobs, BlobError> {
        std::fs::create_dir_all(&folder).map_err(|error| BlobError::Unavailable(error.to_string().into()))?;
        let files = LocalFileSystem::new_with_prefix(folder).map_err(unavailable)?;
        Ok(ObjectBlobs::over(Arc::new(files.with_fsync(true))))
    }

    /// Blobs that vanish with the process.
    pub fn in_memory() -> ObjectBlobs {
        ObjectBlobs::over(Arc::new(InMemory::new()))
    }

    /// Blobs in an object store of yours. Its writes must be durable when they return: a `LocalFileSystem` of yours
    /// needs `with_fsync(true)`.
    pub fn over(objects: Arc<dyn ObjectStore>) -> ObjectBlobs {
        ObjectBlobs { objects }
    }
}

fn path(blob: &BlobId) -> Path {
    let hex = blob.as_str();
    Path::from_iter(["b3", &hex[..2], &hex[2..4], hex])
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn unavailable(error: Error) -> BlobError {
    BlobError::Unavailable(error.to_string().into())
}

#[async_trait]
impl BlobStore for ObjectBlobs {
    async fn put(&self, bytes: Bytes) -> Result<BlobId, BlobError> {
        let blob = BlobId::of(&bytes);
        // One that is there is written once more. Left alone it could be damaged, or not yet be synced by whoever writes
        // it just now, or be old enough to be collected before the record that will name it is written.
        self.objects.put(&path(&blob), bytes.into()).await.map_err(unavailable)?;
        Ok(blob)
    }

    async fn get(&self, blob: &BlobId) -> Result<Bytes, BlobError> {
        let bytes = match self.objects.get(&path(blob)).await {
            Ok(found) => found.bytes().await.map_err(unavailable)?,
            Err(Error::NotFound { .. }) => return Err(BlobError::Missing(blob.clone())),
            Err(error) => return Err(unavailable(error)),
        };
        if BlobId::of(&bytes) == *blob { Ok(bytes) } else { Err(BlobError::Corrupt(blob.clone())) }
    }

    async fn contains(&self, blob: &BlobId) -> Result<bool, BlobError> {
        match self.objects.head(&path(blob)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn collect(&self, keep: &HashSet<BlobId>, grace: Duration) -> Result<u64, BlobError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let old = i64::try_from(now.saturating_sub(grace).as_millis()).unwrap_or(i64::MAX);
        let is_old = |object: &ObjectMeta| object.last_modified.timestamp_millis() <= old;
        let mut objects = self.objects.list(Some(&Path::from("b3")));
        let mut collected = 0;
        while let Some(object) = objects.try_next().await.map_err(unavailable)? {
            let blob = object.location.filename().and_then(|name| BlobId::try_from(name.to_owned()).ok());
            // What is not named like a blob is not ours to delete.
            let forgotten = blob.is_some_and(|blob| !keep.contains(&blob));
            // A list takes its time: one that was put again meanwhile is young now.
            if forgotten && is_old(&object) && self.objects.head(&object.location).await.is_ok_and(|now| is_old(&now)) {
                self.objects.delete(&object.location).await.map_err(unavailable)?;
                collected += 1;
            }
        }
        Ok(collected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_comes_back_and_may_be_put_again() {
        let folder = tempfile::tempdir().expect("a folder");
        for blobs in [ObjectBlobs::in_folder(folder.path()).expect("blobs"), ObjectBlobs::in_memory()] {
            let blob = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
            assert_eq!(blobs.put(Bytes::from_static(b"hello")).await.expect("put again"), blob);
            assert_eq!(blobs.get(&blob).await.expect("get"), "hello");
            assert!(blobs.contains(&blob).await.expect("asked"));
            let other = BlobId::of(b"other");
            assert!(!blobs.contains(&other).await.expect("asked"));
            assert!(matches!(blobs.get(&other).await, Err(BlobError::Missing(_))));
        }
    }

    #[tokio::test]
    async fn changed_bytes_are_never_handed_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = ObjectBlobs::in_folder(folder.path()).expect("blobs");
        let blob = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
        std::fs::write(folder.path().join(path(&blob).as_ref()), b"hellO").expect("written");
        assert!(matches!(blobs.get(&blob).await, Err(BlobError::Corrupt(_))));
        blobs.put(Bytes::from_static(b"hello")).await.expect("put again");
        assert_eq!(blobs.get(&blob).await.expect("got"), "hello", "putting it again heals it");
    }

    #[tokio::test]
    async fn only_old_forgotten_blobs_are_collected() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = ObjectBlobs::in_folder(folder.path()).expect("blobs");
        let kept = blobs.put(Bytes::from_static(b"kept")).await.expect("put");
        let gone = blobs.put(Bytes::from_static(b"gone")).await.expect("put");
        let keep = HashSet::from([kept.clone()]);
        assert_eq!(blobs.collect(&keep, Duration::from_hours(1)).await.expect("collected"), 0);
        assert_eq!(blobs.collect(&keep, Duration::ZERO).await.expect("collected"), 1);
        assert!(blobs.contains(&kept).await.expect("asked"));
        assert!(!blobs.contains(&gone).await.expect("asked"));
    }
}
