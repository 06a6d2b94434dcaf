//! Is exactly what nobody names forgotten, whatever happens meanwhile?

mod rig;

use async_trait::async_trait;
use bytes::Bytes;
use rig::{Rig, SECOND, accept, rejected};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use windlass_core::{
    BlobId, BoundaryOutput, ContentBlock, Input, InputBody, JsonText, MediaSource, RejectReason, Terminal,
};
use windlass_runtime::{
    CoreApplyOutput,
    blob::{BlobError, BlobStore, BlobStream, BlobWriter},
    object_blobs::ObjectBlobs,
    store::{PutSnapshot, Store},
    testing::{input, session},
};

/// An input that names this blob.
fn naming(n: u128, blob: &BlobId) -> Input {
    let mut input = input(n, "look");
    let InputBody::Prompt(prompt) = &mut input.body else { unreachable!("made above") };
    let source = MediaSource::Blob { blob: blob.clone(), bytes: 1 };
    prompt.blocks = Some(vec![ContentBlock::Image { media_type: "image/png".into(), source }]);
    input
}

async fn put(blobs: &ObjectBlobs, text: &'static str) -> BlobId {
    blobs.put(Bytes::from_static(text.as_bytes())).await.unwrap()
}

async fn left(blobs: &ObjectBlobs, named: &[(&'static str, &BlobId)]) -> Vec<&'static str> {
    let mut left = Vec::new();
    for (name, blob) in named {
        if blobs.contains(blob).await.unwrap() {
            left.push(*name);
        }
    }
    left
}

#[tokio::test(start_paused = true)]
async fn what_entries_snapshots_and_conversations_name_is_kept() {
    let blobs = ObjectBlobs::in_memory();
    let (open, over, said, nobody) =
        (put(&blobs, "open").await, put(&blobs, "over").await, put(&blobs, "said").await, put(&blobs, "nobody").await);
    let rig = Rig::with(|builder| builder.blobs(Arc::new(blobs.clone())));
    let (handle, _executor, mut runs) = rig.session().await;
    let done = accept(&handle, naming(1, &over)).await;
    let delta = JsonText::encode(&serde_json::json!({ "shown": format!("blob:{}", said.as_str()) })).unwrap();
    let boundary = BoundaryOutput { message_count: 1, delta: Some(delta), ..BoundaryOutput::default() };
    runs.next().await.finish(Ok(CoreApplyOutput { boundary, terminal: Terminal::NoResult }));
    done.wait().await;
    handle.hold().await.unwrap();
    handle.accept(naming(2, &open)).await.unwrap();
    let named = [("open", &open), ("over", &over), ("said", &said), ("nobody", &nobody)];
    assert_eq!(rig.adapter.collect_blobs(Duration::from_hours(1)).await.unwrap(), 0, "all are young");
    assert_eq!(rig.adapter.collect_blobs(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(left(&blobs, &named).await, ["open", "over", "said"]);
    // The entries go; what waits is in the snapshot.
    let head = handle.status().await.unwrap().head;
    let fence = rig.store.session(session(1)).await.unwrap().unwrap().fence;
    let tail = rig.store.load(session(1)).await.unwrap().unwrap().tail;
    let policy = Arc::new(windlass_core::PolicyTable::reference());
    let folded = windlass_core::Session::recover(session(1), windlass_core::Limits::default(), policy, None, tail);
    let snapshot = Arc::new(folded.unwrap().snapshot());
    let gone = PutSnapshot { session: session(1), fence, at: head, snapshot, keep_after: head };
    rig.store.put_snapshot(gone).await.unwrap();
    assert_eq!(rig.adapter.collect_blobs(Duration::ZERO).await.unwrap(), 2);
    assert_eq!(left(&blobs, &named).await, ["open"]);
}

// An input that names an old blob was admitted between the reading of the journals and the forgetting.
#[tokio::test(start_paused = true)]
async fn an_input_on_its_way_keeps_what_it_names() {
    let blobs = ObjectBlobs::in_memory();
    let old = put(&blobs, "old").await;
    let rig = Rig::with(|builder| builder.blobs(Arc::new(blobs.clone())));
    let handle = rig.adapter.create_session(session(1), None).await.unwrap();
    rig.store.close_gate();
    let accepting = tokio::spawn({
        let input = naming(1, &old);
        async move { handle.accept(input).await.unwrap() }
    });
    rig.store.waiting(1).await;
    let sweeping = tokio::spawn({
        let adapter = rig.adapter.clone();
        async move { adapter.collect_blobs(Duration::ZERO).await.unwrap() }
    });
    tokio::time::sleep(SECOND).await;
    assert!(!sweeping.is_finished(), "it waits for the entry");
    rig.store.open_gate();
    assert_eq!(sweeping.await.unwrap(), 0);
    accepting.await.unwrap();
    assert!(blobs.contains(&old).await.unwrap());
}

/// Forgets only when it is let.
struct Hesitant {
    blobs: ObjectBlobs,
    let_go: Semaphore,
}

#[async_trait]
impl BlobStore for Hesitant {
    async fn put(&self, bytes: Bytes) -> Result<BlobId, BlobError> {
        self.blobs.put(bytes).await
    }

    async fn writer(&self) -> Result<Box<dyn BlobWriter>, BlobError> {
        self.blobs.writer().await
    }

    async fn get(&self, blob: &BlobId) -> Result<Bytes, BlobError> {
        self.blobs.get(blob).await
    }

    async fn stream(&self, blob: &BlobId) -> Result<BlobStream, BlobError> {
        self.blobs.stream(blob).await
    }

    async fn contains(&self, blob: &BlobId) -> Result<bool, BlobError> {
        self.blobs.contains(blob).await
    }

    async fn collect(&self, keep: &HashSet<BlobId>, grace: Duration) -> Result<u64, BlobError> {
        self.let_go.acquire().await.unwrap().forget();
        self.blobs.collect(keep, grace).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_input_that_comes_while_blobs_are_forgotten_waits_and_hears_the_truth() {
    let hesitant = Arc::new(Hesitant { blobs: ObjectBlobs::in_memory(), let_go: Semaphore::new(0) });
    let old = put(&hesitant.blobs, "old").await;
    let rig = Rig::with(|builder| builder.blobs(Arc::clone(&hesitant) as Arc<dyn BlobStore>));
    let handle = rig.adapter.create_session(session(1), None).await.unwrap();
    let sweep = |adapter: windlass_runtime::RuntimeSessionAdapter| {
        tokio::spawn(async move { adapter.collect_blobs(Duration::ZERO).await.unwrap() })
    };
    let sweeping = sweep(rig.adapter.clone());
    tokio::time::sleep(SECOND).await;
    let accepting = tokio::spawn({
        let (handle, input) = (handle.clone(), naming(1, &old));
        async move { handle.accept(input).await.unwrap() }
    });
    handle.accept(input(2, "without media")).await.expect("whoever names nothing does not wait");
    tokio::time::sleep(SECOND).await;
    assert!(!accepting.is_finished());
    hesitant.let_go.add_permits(1);
    assert_eq!(sweeping.await.unwrap(), 1);
    let missing = rejected(accepting.await.unwrap());
    assert_eq!(missing, RejectReason::BlobMissing { blob: old.as_str().to_owned() });
    // A sweep that is given up keeps nobody waiting.
    let sweeping = sweep(rig.adapter.clone());
    tokio::time::sleep(SECOND).await;
    sweeping.abort();
    assert!(sweeping.await.unwrap_err().is_cancelled());
    let again = put(&hesitant.blobs, "old").await;
    handle.accept(naming(3, &again)).await.unwrap();
    hesitant.let_go.add_permits(1);
    assert_eq!(rig.adapter.collect_blobs(Duration::ZERO).await.unwrap(), 0);
}
