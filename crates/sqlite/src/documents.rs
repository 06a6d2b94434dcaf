//! How are documents kept, that belong to no session?

use crate::{
    SqliteStore,
    rows::{Read, unreadable},
    writer::{Change, DocumentRow},
};
use async_trait::async_trait;
use rusqlite::{Row, params};
use serde_json::Value;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use windlass_core::Timestamp;
use windlass_runtime::{
    Clock, SystemClock,
    documents::{Document, DocumentError, Documents, checked},
    store::StoreError,
};

#[async_trait]
impl Documents for SqliteStore {
    async fn get(&self, kind: &str, key: &str) -> Result<Option<Document>, DocumentError> {
        let (kind, key) = (kind.to_owned(), key.to_owned());
        let found = self.look(move |connection| {
            let sql = concat!("SELECT ", document_columns!(), " FROM document WHERE kind = ? AND key = ?");
            let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
            let mut rows = select.query([&kind, &key]).map_err(unreadable)?;
            rows.next().map_err(unreadable)?.map(document).transpose()
        });
        Ok(found.await?)
    }

    async fn put(&self, kind: &str, key: &str, body: Value, expected: Option<u64>) -> Result<u64, DocumentError> {
        let json = checked(kind, key, &body)?;
        let (kind, key) = (kind.to_owned(), key.to_owned());
        let found = Arc::new(AtomicU64::new(0));
        let row = DocumentRow {
            kind: kind.clone(),
            key: key.clone(),
            body: json,
            expected,
            updated_at: SystemClock.now(),
            found: Arc::clone(&found),
        };
        match (self.write(Change::PutDocument(Box::new(row))).await?, expected) {
            (0, Some(expected)) => {
                Err(DocumentError::Conflict { kind, key, expected, found: found.load(Ordering::Relaxed) })
            }
            (version, _) => Ok(version),
        }
    }

    async fn list(&self, kind: &str, after: Option<&str>, limit: u32) -> Result<Vec<Document>, DocumentError> {
        // No key is empty, so all come after it.
        let (kind, after) = (kind.to_owned(), after.unwrap_or_default().to_owned());
        let found = self.look(move |connection| {
            let sql = concat!(
                "SELECT ",
                document_columns!(),
                " FROM document WHERE kind = ? AND key > ? ORDER BY key LIMIT ?"
            );
            let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
            let mut rows = select.query(params![kind, after, limit]).map_err(unreadable)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next().map_err(unreadable)? {
                found.push(document(row)?);
            }
            Ok(found)
        });
        Ok(found.await?)
    }

    async fn delete(&self, kind: &str, key: &str) -> Result<bool, DocumentError> {
        let (kind, key) = (kind.to_owned(), key.to_owned());
        Ok(self.write(Change::DeleteDocument { kind, key }).await? > 0)
    }
}

// The columns that `document` reads.
macro_rules! document_columns {
    () => {
        "kind, key, version, updated_at, body, checksum"
    };
}
pub(crate) use document_columns;

/// A document in its row, verified.
pub(crate) fn document(row: &Row<'_>) -> Read<Document> {
    let kind: String = row.get(0).map_err(unreadable)?;
    let key: String = row.get(1).map_err(unreadable)?;
    let damaged = || {
        let detail = format!("document {kind}/{key} does not match its checksum").into();
        StoreError::Corrupt { session: None, at: None, detail }
    };
    let version = row.get::<_, i64>(2).map_err(unreadable)? as u64;
    let updated_at = Timestamp::from_micros(row.get(3).map_err(unreadable)?);
    let body = row.get_ref(4).and_then(|body| Ok(body.as_bytes()?)).map_err(unreadable)?;
    let checksum: i64 = row.get(5).map_err(unreadable)?;
    if checksum != document_checksum(&kind, &key, version, updated_at, body) {
        return Err(damaged());
    }
    let body = serde_json::from_slice(body).map_err(|_| damaged())?;
    Ok(Document { key, version, body, updated_at })
}

/// The first 8 bytes of BLAKE3 over all that makes up a document, each part after its length.
pub(crate) fn document_checksum(kind: &str, key: &str, version: u64, updated_at: Timestamp, body: &[u8]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    let (version, updated_at) = (version.to_le_bytes(), updated_at.as_micros().to_le_bytes());
    for part in [kind.as_bytes(), key.as_bytes(), &version, &updated_at, body] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    i64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes"))
}
