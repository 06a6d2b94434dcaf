//! Blobs in pieces: large ones, ones that break off, too many at once, ones that nobody names.

use crate::{PATIENCE, Rig};
use http::Method;
use serde_json::json;
use std::{path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use windlass_server::{config::Seconds, testing::Answer};

/// More than is ever held of a blob in memory.
const LARGE: usize = 5 * 1024 * 1024 + 77;

fn large() -> Vec<u8> {
    (0..LARGE).map(|n| (n % 251) as u8).collect()
}

async fn upload(rig: &Rig, bytes: Vec<u8>) -> Answer {
    Answer::to(rig.request(Method::POST, "/v1/blobs").body(bytes)).await
}

/// Asks until it is so.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let asked = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Every file of the blob store.
fn files(rig: &Rig) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![rig.folder.path().join("blobs")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            match entry.unwrap().path() {
                path if path.is_dir() => folders.push(path),
                path => found.push(path),
            }
        }
    }
    found
}

/// Begins an upload: says that it is large, and sends its first half.
async fn half(rig: &Rig, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(rig.server.server().address()).await.unwrap();
    let head = format!(
        "POST /v1/blobs HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-length: {LARGE}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&large()[..LARGE / 2]).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_comes_back_whole_and_a_damaged_one_not_at_all() {
    let rig = Rig::start().await;
    let sent = upload(&rig, large()).await;
    assert_eq!((sent.status, &sent.body["bytes"]), (201, &json!(LARGE)), "{sent:?}");
    let place = sent.header("location").to_owned();
    let got = rig.request(Method::GET, &place).send().await.unwrap();
    assert_eq!(got.headers()["content-length"], LARGE.to_string());
    assert!(got.bytes().await.unwrap() == large());
    let [file] = &files(&rig)[..] else { panic!("one blob is one file") };
    let mut damaged = large();
    damaged[LARGE - 1] ^= 1;
    std::fs::write(file, damaged).unwrap();
    let refused = rig.get(&place).await;
    assert_eq!((refused.status, refused.code()), (500, "blob_corrupt"), "{refused:?}");
    assert_eq!(upload(&rig, large()).await.status, 201);
    assert_eq!(rig.request(Method::GET, &place).send().await.unwrap().status(), 200, "sending it again heals it");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_what_their_sender_says_are_not_kept() {
    let rig = Rig::start().await;
    // SHA-256 of "hello" and of "hello!", by sha256sum.
    let (hello, other) =
        ("LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=", "zgYJL7lI2f+sfRo3bkBLJrdXW8wR7gWkYV/vT+w6MIs=");
    let upload = async |digests: &[&str], bytes: Vec<u8>| {
        let request = rig.request(Method::POST, "/v1/blobs").body(bytes);
        Answer::to(digests.iter().fold(request, |request, digest| request.header("content-digest", *digest))).await
    };
    for wrong in [format!("sha-256=:{other}:"), format!("sha-256=:{hello}:, sha-256=:{other}:")] {
        let refused = upload(&[&wrong], b"hello".to_vec()).await;
        assert_eq!((refused.status, refused.code()), (422, "blob_hash_mismatch"), "{wrong}: {refused:?}");
    }
    for unread in ["sha-256", "sha-256=", "sha-256=::", "sha-256=:AAAA:", &format!("sha-256={hello}"), "crc32c=:AAAA:"]
    {
        let refused = upload(&[unread], b"hello".to_vec()).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_header"), "{unread}: {refused:?}");
    }
    let large = upload(&[&format!("sha-256=:{hello}:")], large()).await;
    assert_eq!(large.code(), "blob_hash_mismatch", "{large:?}");
    // The file goes on a thread of its own; no other has a name.
    until("nothing is left", async || files(&rig).is_empty()).await;
    for right in [
        &[format!("sha-256=:{hello}:")][..],
        &["crc32c=:AAAA:".into(), format!("sha-256=:{hello}:;of=me")],
        &[format!("sha-256=:{other}:, crc32c=:AAAA:;of=\"a, \\\", sha-256=:{other}:\" , sha-256=:{hello}:;of=\"b,c\"")],
    ] {
        let right: Vec<&str> = right.iter().map(String::as_str).collect();
        let kept = upload(&right, b"hello".to_vec()).await;
        assert_eq!((kept.status, &kept.body["bytes"]), (201, &json!(5)), "{right:?}: {kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_uploads_so_many_at_once_and_what_breaks_off_leaves_nothing() {
    let mut rig = Rig::with(|config| config.limits.uploads_per_token = 1).await;
    let admin = rig.token("default", &["*"]).await;
    rig.server.show(Some(&admin));
    let other = rig.token("default", &["blobs:write"]).await;
    let mut begun = half(&rig, &admin).await;
    // Then it has its place.
    until("the first half is on disk", || async { !files(&rig).is_empty() }).await;
    let refused = upload(&rig, vec![1; 10]).await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_streams"), "{refused:?}");
    rig.server.show(Some(&other));
    assert_eq!(upload(&rig, vec![2; 10]).await.status, 201, "others have places of their own");
    begun.write_all(&large()[LARGE / 2..]).await.unwrap();
    let mut answer = [0; 12];
    begun.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201");
    let kept = files(&rig).len();
    assert_eq!(kept, 2);
    let broken = half(&rig, &admin).await;
    until("the first half is on disk", || async { files(&rig).len() > kept }).await;
    drop(broken);
    until("it is gone", || async { files(&rig).len() == kept }).await;
    rig.server.show(Some(&admin));
    until("its place is free", || async { upload(&rig, vec![1; 10]).await.status == 201 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_names_is_forgotten_after_its_grace_and_the_rest_stays() {
    let soon = Seconds(Duration::from_millis(50));
    let rig = Rig::with(|config| (config.store.sweep_seconds, config.store.sweep_grace_seconds) = (soon, soon)).await;
    rig.session("s").await;
    let source = json!({"source_type": "inline", "data": "AAECAw=="});
    let picture = json!({"type": "image", "media_type": "image/png", "source": source});
    let named = json!({"kind": "prompt", "text": "look", "blocks": [picture]});
    assert_eq!(rig.post("/v1/sessions/s/inputs", &named).await.status, 202);
    let place = format!("/v1/blobs/{}", blake3::hash(&[0, 1, 2, 3]).to_hex());
    let sent = upload(&rig, vec![7; 1000]).await;
    let nobodys = sent.header("location").to_owned();
    until("it is forgotten", || async { rig.get(&nobodys).await.status == 404 }).await;
    assert_eq!(rig.request(Method::GET, &place).send().await.unwrap().status(), 200);
    assert_eq!(files(&rig).len(), 1);
    until("it is counted", || async {
        let metrics = rig.get("/metrics").await.body;
        let swept = metrics.as_str().unwrap().lines().find(|line| line.starts_with("windlass_blobs_swept_total"));
        swept.is_some_and(|line| line.ends_with(" 1"))
    })
    .await;
}
