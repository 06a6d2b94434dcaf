//! How are blobs kept in a folder, or in a bucket?
//!
//! [`ObjectBlobs`] puts them under `b3/<2>/<2>/<64 hex digits>` of any [`ObjectStore`]: a folder, S3, GCS, Azure, or
//! memory. The path is the hash of the content, so writing twice writes the same, and reading proves itself. What comes
//! in pieces is written under `unfinished/` until its hash is known.

use crate::blob::{BlobError, BlobStore, BlobStream, BlobWriter};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt, TryStreamExt, future,
    stream::{self, BoxStream},
};
use object_store::{
    Error, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory,
    path::Path,
};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::RwLock;
use windlass_core::BlobId;

/// A [`BlobStore`] over an [`ObjectStore`].
#[derive(Clone, Debug)]
pub struct ObjectBlobs {
    objects: Arc<dyn ObjectStore>,
    /// What is written or read at once, in bytes.
    part: usize,
    /// Held together by all who give a blob its name, alone by who deletes it: between its last look at the age of a blob
    /// and the deletion nobody makes it young. Shared by all clones.
    naming: Arc<[RwLock<()>; LOCKS]>,
}

/// More than there are writers at once, as a rule; which one is a blob's is in its name.
const LOCKS: usize = 64;
/// The smallest part that S3 takes.
const PART: usize = 5 * 1024 * 1024;
/// A folder takes any.
const PART_OF_FILE: usize = 1024 * 1024;
/// Where blobs are.
const KEPT: &str = "b3";
/// Where those are whose hash is not known yet.
const UNFINISHED: &str = "unfinished";
/// What a process that died left unfinished is deleted after so long. A folder does not list it.
const LEFT_BEHIND: Duration = Duration::from_hours(24);

impl ObjectBlobs {
    /// Blobs in a folder, which is created if need be. Each write is synced, the folder that names it too. What was left
    /// unfinished a day ago is deleted.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] if the folder cannot be had.
    pub fn in_folder(folder: impl AsRef<std::path::Path>) -> Result<ObjectBlobs, BlobError> {
        let folder = folder.as_ref();
        let failed = |error: std::io::Error| BlobError::Unavailable(error.to_string().into());
        let unfinished = folder.join(UNFINISHED);
        std::fs::create_dir_all(&unfinished).map_err(failed)?;
        for file in std::fs::read_dir(&unfinished).map_err(failed)? {
            let file = file.map_err(failed)?;
            let age = file.metadata().and_then(|about| about.modified()).ok().and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age > LEFT_BEHIND) {
                match std::fs::remove_file(file.path()) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
            }
        }
        let files = LocalFileSystem::new_with_prefix(folder).map_err(unavailable)?;
        Ok(ObjectBlobs { part: PART_OF_FILE, ..ObjectBlobs::over(Arc::new(files.with_fsync(true))) })
    }

    /// Blobs that vanish with the process.
    pub fn in_memory() -> ObjectBlobs {
        ObjectBlobs::over(Arc::new(InMemory::new()))
    }

    /// Blobs in an object store of yours. Its writes must be durable when they return: a `LocalFileSystem` of yours
    /// needs `with_fsync(true)`. Let a bucket delete multipart uploads that nobody completed.
    ///
    /// One value and its clones collect from a place and put into it, as one process at a time owns a store. Where several
    /// do, a blob that is put again while another one deletes it for its age may be lost.
    pub fn over(objects: Arc<dyn ObjectStore>) -> ObjectBlobs {
        ObjectBlobs { objects, part: PART, naming: Arc::new(std::array::from_fn(|_| RwLock::default())) }
    }

    fn naming(&self, blob: &BlobId) -> &RwLock<()> {
        let byte = u8::from_str_radix(&blob.as_str()[..2], 16).expect("a blob's name begins with hex digits");
        &self.naming[usize::from(byte) % LOCKS]
    }

    /// Deletes a blob if it is still old: a list takes its time, and one that was put again meanwhile is young. Tells whether
    /// it did.
    async fn forget(&self, blob: &BlobId, is_old: impl Fn(&ObjectMeta) -> bool) -> Result<bool, BlobError> {
        let _nobody_puts_it = self.naming(blob).write().await;
        let path = path(blob);
        if !self.objects.head(&path).await.is_ok_and(|now| is_old(&now)) {
            return Ok(false);
        }
        self.objects.delete(&path).await.map_err(unavailable)?;
        Ok(true)
    }

    /// The bytes as they are read; an error instead of the last piece if they are not those of the name.
    fn pieces(&self, blob: &BlobId, bytes: u64) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let (objects, blob, part) = (Arc::clone(&self.objects), blob.clone(), self.part as u64);
        let read = move |(at, mut hasher): (u64, blake3::Hasher)| {
            let (objects, blob) = (Arc::clone(&objects), blob.clone());
            async move {
                if at == bytes {
                    return Ok(None);
                }
                let end = bytes.min(at + part);
                let piece = objects.get_range(&path(&blob), at..end).await.map_err(|error| unread(&blob, error))?;
                hasher.update(&piece);
                if end == bytes && hasher.finalize().to_hex().as_str() != blob.as_str() {
                    return Err(BlobError::Corrupt(blob));
                }
                Ok(Some((piece, (end, hasher))))
            }
        };
        stream::try_unfold((0, blake3::Hasher::new()), read).boxed()
    }
}

fn path(blob: &BlobId) -> Path {
    let hex = blob.as_str();
    Path::from_iter([KEPT, &hex[..2], &hex[2..4], hex])
}

fn unread(blob: &BlobId, error: Error) -> BlobError {
    match error {
        Error::NotFound { .. } => BlobError::Missing(blob.clone()),
        error => unavailable(error),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn unavailable(error: Error) -> BlobError {
    BlobError::Unavailable(error.to_string().into())
}

#[async_trait]
impl BlobStore for ObjectBlobs {
    async fn put(&self, bytes: Bytes) -> Result<BlobId, BlobError> {
        let blob = BlobId::of(&bytes);
        let _nobody_deletes_it = self.naming(&blob).read().await;
        // One that is there is written once more. Left alone it could be damaged, or not yet be synced by whoever writes
        // it just now, or be old enough to be collected before the record that will name it is written.
        self.objects.put(&path(&blob), bytes.into()).await.map_err(unavailable)?;
        Ok(blob)
    }

    async fn writer(&self) -> Result<Box<dyn BlobWriter>, BlobError> {
        let (rest, hasher) = (BytesMut::new(), blake3::Hasher::new());
        Ok(Box::new(Writer { blobs: self.clone(), hasher, rest, upload: None }))
    }

    async fn get(&self, blob: &BlobId) -> Result<Bytes, BlobError> {
        let found = self.objects.get(&path(blob)).await.map_err(|error| unread(blob, error))?;
        let bytes = found.bytes().await.map_err(unavailable)?;
        if BlobId::of(&bytes) == *blob { Ok(bytes) } else { Err(BlobError::Corrupt(blob.clone())) }
    }

    async fn stream(&self, blob: &BlobId) -> Result<BlobStream, BlobError> {
        let bytes = self.objects.head(&path(blob)).await.map_err(|error| unread(blob, error))?.size;
        if bytes == 0 && *blob != BlobId::of(b"") {
            return Err(BlobError::Corrupt(blob.clone()));
        }
        let (mut verified, mut last) = (self.pieces(blob, bytes), Bytes::new());
        while let Some(piece) = verified.try_next().await? {
            last = piece;
        }
        let is_whole = last.len() as u64 == bytes;
        let pieces = if is_whole { stream::once(future::ok(last)).boxed() } else { self.pieces(blob, bytes) };
        Ok(BlobStream { bytes, pieces })
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
        let is_old = move |object: &ObjectMeta| object.last_modified.timestamp_millis() <= old;
        // One that was finished and has no name yet is nobody's if it stays so.
        let mut unfinished = self.objects.list(Some(&Path::from(UNFINISHED)));
        while let Some(object) = unfinished.try_next().await.map_err(unavailable)? {
            if is_old(&object) {
                self.objects.delete(&object.location).await.map_err(unavailable)?;
            }
        }
        let mut objects = self.objects.list(Some(&Path::from(KEPT)));
        let mut collected = 0;
        while let Some(object) = objects.try_next().await.map_err(unavailable)? {
            let blob = object.location.filename().and_then(|name| BlobId::try_from(name.to_owned()).ok());
            // What is not named like a blob is not ours to delete.
            let Some(blob) = blob.filter(|blob| !keep.contains(blob) && is_old(&object)) else { continue };
            // A deletion that was begun goes on when the sweep is dropped; so does what keeps others from the blob.
            let blobs = self.clone();
            let forgotten = tokio::spawn(async move { blobs.forget(&blob, is_old).await }).await;
            collected += u64::from(forgotten.map_err(|error| BlobError::Unavailable(error.to_string().into()))??);
        }
        Ok(collected)
    }
}

/// A blob on its way in: nothing but its rest is in memory.
struct Writer {
    blobs: ObjectBlobs,
    hasher: blake3::Hasher,
    /// What is no whole part yet.
    rest: BytesMut,
    /// Where the parts go, once there are any.
    upload: Option<(Path, Box<dyn MultipartUpload>)>,
}

impl Writer {
    /// Writes the rest as a part.
    async fn part(&mut self) -> Result<(), BlobError> {
        let (_, upload) = match &mut self.upload {
            Some(upload) => upload,
            none => {
                let path = Path::from_iter([UNFINISHED, &uuid::Uuid::new_v4().to_string()]);
                let upload = self.blobs.objects.put_multipart(&path).await.map_err(unavailable)?;
                none.insert((path, upload))
            }
        };
        upload.put_part(self.rest.split().freeze().into()).await.map_err(unavailable)
    }
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.hasher.update(&piece);
        self.rest.extend_from_slice(&piece);
        if self.rest.len() >= self.blobs.part { self.part().await } else { Ok(()) }
    }

    async fn finish(mut self: Box<Self>) -> Result<BlobId, BlobError> {
        let hash = self.hasher.finalize().to_hex().to_string();
        let blob = BlobId::try_from(hash).expect("a BLAKE3 hash in hex names a blob");
        let to = path(&blob);
        if self.upload.is_some() && !self.rest.is_empty() {
            self.part().await?;
        }
        if let Some((_, upload)) = &mut self.upload {
            upload.complete().await.map_err(unavailable)?;
        }
        let _nobody_deletes_it = self.blobs.naming(&blob).read().await;
        let objects = &self.blobs.objects;
        match &self.upload {
            Some((from, _)) => {
                objects.rename(from, &to).await.map_err(unavailable)?;
            }
            None => drop(objects.put(&to, self.rest.split().freeze().into()).await.map_err(unavailable)?),
        }
        Ok(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    };
    use std::task::Poll;
    use tokio::sync::Semaphore;

    async fn written(blobs: &ObjectBlobs, pieces: &[Bytes]) -> BlobId {
        let mut writer = blobs.writer().await.expect("a writer");
        for piece in pieces {
            writer.write(piece.clone()).await.expect("written");
        }
        writer.finish().await.expect("kept")
    }

    async fn streamed(blobs: &ObjectBlobs, blob: &BlobId) -> Result<Vec<Bytes>, BlobError> {
        let BlobStream { bytes, pieces } = blobs.stream(blob).await?;
        let pieces: Vec<Bytes> = pieces.try_collect().await?;
        assert_eq!(pieces.iter().map(|piece| piece.len() as u64).sum::<u64>(), bytes);
        Ok(pieces)
    }

    #[tokio::test]
    async fn what_comes_in_pieces_is_the_same_blob_and_goes_out_in_pieces() {
        let folder = tempfile::tempdir().expect("a folder");
        for blobs in [ObjectBlobs::in_folder(folder.path()).expect("blobs"), ObjectBlobs::in_memory()] {
            for bytes in [0, 1, blobs.part - 1, blobs.part, blobs.part + 1, 3 * blobs.part + 7] {
                let whole: Bytes = (0..bytes).map(|n| (n % 251) as u8).collect();
                let pieces: Vec<Bytes> = whole.chunks(100_000).map(Bytes::copy_from_slice).collect();
                let blob = written(&blobs, &pieces).await;
                assert_eq!(blob, BlobId::of(&whole), "{bytes}");
                assert!(blobs.get(&blob).await.expect("got") == whole, "{bytes}");
                let pieces = streamed(&blobs, &blob).await.expect("streamed");
                assert!(pieces.iter().all(|piece| piece.len() <= blobs.part), "{bytes}");
                assert!(pieces.concat() == whole, "{bytes}");
            }
        }
        let unfinished = std::fs::read_dir(folder.path().join(UNFINISHED)).expect("the folder").count();
        assert_eq!(unfinished, 0, "nothing is left of the way there");
    }

    #[tokio::test]
    async fn a_writer_holds_no_more_than_a_part_and_one_that_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = ObjectBlobs::in_folder(folder.path()).expect("blobs");
        let unfinished = || std::fs::read_dir(folder.path().join(UNFINISHED)).expect("the folder");
        let mut writer = blobs.writer().await.expect("a writer");
        for n in 1..=40 {
            writer.write(Bytes::from(vec![7; 100_000])).await.expect("written");
            let on_disk: u64 = unfinished().map(|file| file.expect("a file").metadata().expect("its size").len()).sum();
            assert!(n * 100_000 - on_disk < blobs.part as u64, "{n}: {on_disk}");
        }
        drop(writer);
        // The file goes on a thread of its own.
        let gone = async {
            while unfinished().count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.expect("gone");
        assert!(!folder.path().join(KEPT).exists());
    }

    #[tokio::test]
    async fn a_damaged_blob_is_told_of_before_its_first_piece() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = ObjectBlobs::in_folder(folder.path()).expect("blobs");
        let whole = Bytes::from(vec![1; 2 * blobs.part + 5]);
        let blob = written(&blobs, std::slice::from_ref(&whole)).await;
        let file = folder.path().join(path(&blob).as_ref());
        let damaged = |at: usize| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1;
            bytes
        };
        for bytes in [damaged(0), damaged(whole.len() - 1), whole[..blobs.part].to_vec(), Vec::new()] {
            std::fs::write(&file, &bytes).expect("damaged");
            assert!(matches!(blobs.stream(&blob).await, Err(BlobError::Corrupt(_))), "{} bytes", bytes.len());
        }
        // Damaged under way, the last piece is kept back.
        std::fs::write(&file, &whole).expect("healed");
        let mut pieces = blobs.stream(&blob).await.expect("sound").pieces;
        assert!(pieces.next().await.is_some_and(|piece| piece.is_ok()));
        std::fs::write(&file, damaged(whole.len() - 1)).expect("damaged");
        let rest: Vec<_> = pieces.collect().await;
        assert!(matches!(&rest[..], [Ok(_), Err(BlobError::Corrupt(_))]));
        let absent = BlobId::of(b"absent");
        assert!(matches!(blobs.stream(&absent).await, Err(BlobError::Missing(_))));
    }

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

    /// Objects whose heads are told when the test says so.
    #[derive(Debug)]
    struct LateHeads {
        objects: InMemory,
        asked: Semaphore,
        told: Semaphore,
    }

    impl LateHeads {
        fn new() -> LateHeads {
            LateHeads { objects: InMemory::new(), asked: Semaphore::new(0), told: Semaphore::new(0) }
        }
    }

    impl std::fmt::Display for LateHeads {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{self:?}")
        }
    }

    #[async_trait]
    impl ObjectStore for LateHeads {
        async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult, Error> {
            self.objects.put_opts(to, payload, options).await
        }

        async fn put_multipart_opts(
            &self,
            to: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>, Error> {
            self.objects.put_multipart_opts(to, options).await
        }

        async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult, Error> {
            let is_head = options.head;
            let found = self.objects.get_opts(from, options).await;
            if is_head {
                self.asked.add_permits(1);
                self.told.acquire().await.expect("never closed").forget();
            }
            found
        }

        fn delete_stream(
            &self,
            paths: BoxStream<'static, Result<Path, Error>>,
        ) -> BoxStream<'static, Result<Path, Error>> {
            self.objects.delete_stream(paths)
        }

        fn list(&self, below: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta, Error>> {
            self.objects.list(below)
        }

        async fn list_with_delimiter(&self, below: Option<&Path>) -> Result<ListResult, Error> {
            self.objects.list_with_delimiter(below).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<(), Error> {
            self.objects.copy_opts(from, to, options).await
        }
    }

    /// The collector had looked at the age for the last time; the same bytes came, and went with the old ones.
    #[tokio::test]
    async fn what_is_put_again_while_the_old_one_is_deleted_is_there_afterwards() {
        for in_pieces in [false, true] {
            let objects = Arc::new(LateHeads::new());
            let blobs = ObjectBlobs::over(Arc::clone(&objects) as _);
            let bytes = Bytes::from(vec![7; if in_pieces { blobs.part + 1 } else { 1 }]);
            let blob = blobs.put(bytes.clone()).await.expect("put");
            let (nothing, collector) = (HashSet::new(), blobs.clone());
            let sweep = tokio::spawn(async move { collector.collect(&nothing, Duration::ZERO).await });
            objects.asked.acquire().await.expect("never closed").forget();
            let mut again = std::pin::pin!(async {
                if in_pieces { written(&blobs, &[bytes]).await } else { blobs.put(bytes).await.expect("put") }
            });
            // As far as it comes; nothing else can move meanwhile.
            let early = futures_util::poll!(&mut again);
            objects.told.add_permits(9);
            assert_eq!(sweep.await.expect("no panic").expect("collected"), 1);
            let put = match early {
                Poll::Ready(put) => put,
                Poll::Pending => again.await,
            };
            assert_eq!(put, blob);
            assert!(blobs.contains(&blob).await.expect("asked"), "in pieces: {in_pieces}");
        }
    }

    /// A sweep that is dropped, as by a shutdown, had let go of the blob while its deletion was still on its way.
    #[tokio::test]
    async fn a_sweep_that_is_dropped_within_a_deletion_ends_it_before_anybody_puts_the_blob_again() {
        let objects = Arc::new(LateHeads::new());
        let blobs = ObjectBlobs::over(Arc::clone(&objects) as _);
        let blob = blobs.put(Bytes::from_static(b"hello")).await.expect("put");
        {
            let nothing = HashSet::new();
            let mut sweep = std::pin::pin!(blobs.collect(&nothing, Duration::ZERO));
            tokio::select! {
                biased;
                asked = objects.asked.acquire() => asked.expect("never closed").forget(),
                _ = &mut sweep => unreachable!("it has not been told"),
            }
        }
        objects.told.add_permits(9);
        blobs.put(Bytes::from_static(b"hello")).await.expect("put");
        assert!(blobs.contains(&blob).await.expect("asked"));
    }
}
