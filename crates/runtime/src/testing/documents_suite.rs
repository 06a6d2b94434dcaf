//! What do [`Documents`] promise, and do yours keep it?

use crate::documents::{Document, DocumentError, Documents, MAX_BODY_BYTES, MAX_KEY_BYTES, MAX_KIND_BYTES};
use serde_json::{Value, json};
use std::sync::Arc;

/// Sees to every promise, on documents of which there are none yet.
///
/// # Panics
/// If one is not kept.
pub async fn exercise(documents: Arc<dyn Documents>) {
    changes_are_compare_and_set(&*documents).await;
    kinds_are_apart_and_pages_in_order(&*documents).await;
    what_has_no_room_is_refused(&*documents).await;
    of_many_writers_one_wins(&documents).await;
}

async fn get(documents: &dyn Documents, kind: &str, key: &str) -> Option<(u64, Value)> {
    let document: Option<Document> = documents.get(kind, key).await.expect("read");
    document.map(|document| {
        assert_eq!(document.key, key);
        (document.version, document.body)
    })
}

async fn changes_are_compare_and_set(documents: &dyn Documents) {
    let put = async |body: Value, expected| documents.put("token", "a", body, expected).await;
    let conflict = |result: Result<u64, DocumentError>| match result {
        Err(DocumentError::Conflict { expected, found, .. }) => (expected, found),
        other => panic!("a conflict, not {other:?}"),
    };
    assert_eq!(get(documents, "token", "a").await, None);
    assert_eq!(conflict(put(json!(0), Some(1)).await), (1, 0));
    assert_eq!(put(json!({ "ä": [1, null, "\u{0}"] }), Some(0)).await.expect("new"), 1);
    assert_eq!(conflict(put(json!(2), Some(0)).await), (0, 1));
    assert_eq!(get(documents, "token", "a").await, Some((1, json!({ "ä": [1, null, "\u{0}"] }))));
    assert_eq!(put(json!(2), Some(1)).await.expect("the next"), 2);
    assert_eq!(put(json!(3), None).await.expect("whatever is there"), 3);
    assert_eq!(conflict(put(json!(4), Some(2)).await), (2, 3));
    assert_eq!(get(documents, "token", "a").await, Some((3, json!(3))));
    assert!(documents.delete("token", "a").await.expect("deleted"));
    assert!(!documents.delete("token", "a").await.expect("deleted once"));
    assert_eq!(get(documents, "token", "a").await, None);
    assert_eq!(put(json!(5), Some(0)).await.expect("new again"), 1);
}

async fn kinds_are_apart_and_pages_in_order(documents: &dyn Documents) {
    let keys = ["B", "a", "a/b", "b", "ä"];
    for key in keys.iter().rev() {
        documents.put("policy", key, json!(key), Some(0)).await.expect("kept");
        documents.put("policy ", key, json!("another kind"), Some(0)).await.expect("kept");
    }
    let page = async |after: Option<&str>, limit| -> Vec<String> {
        let listed = documents.list("policy", after, limit).await.expect("listed");
        for document in &listed {
            assert_eq!(document.body, json!(document.key));
        }
        listed.into_iter().map(|document| document.key).collect()
    };
    assert_eq!(page(None, 9).await, keys);
    assert_eq!(page(None, 2).await, ["B", "a"]);
    assert_eq!(page(Some("a"), 2).await, ["a/b", "b"]);
    assert_eq!(page(Some("aa"), 9).await, ["b", "ä"], "from where a key would be");
    assert_eq!(page(Some("ä"), 9).await, [""; 0]);
    assert_eq!(documents.list("polic", None, 9).await.expect("listed"), []);
}

async fn what_has_no_room_is_refused(documents: &dyn Documents) {
    let long = |bytes: usize| "x".repeat(bytes);
    for (kind, key) in [(String::new(), long(1)), (long(1), String::new())]
        .into_iter()
        .chain([(long(MAX_KIND_BYTES + 1), long(1)), (long(1), long(MAX_KEY_BYTES + 1))])
    {
        let refused = documents.put(&kind, &key, json!(1), None).await;
        assert!(matches!(refused, Err(DocumentError::NoName { .. })), "{refused:?}");
    }
    let refused = documents.put("large", "a", json!(long(MAX_BODY_BYTES)), None).await;
    assert!(matches!(refused, Err(DocumentError::TooLarge { .. })), "{refused:?}");
    documents
        .put("large", &long(MAX_KEY_BYTES), json!(long(MAX_BODY_BYTES - 2)), None)
        .await
        .expect("all there is room for");
}

async fn of_many_writers_one_wins(documents: &Arc<dyn Documents>) {
    let put = |n: u32| {
        let documents = Arc::clone(documents);
        async move { documents.put("race", "a", json!(n), Some(0)).await }
    };
    let results = futures_util::future::join_all((0..16).map(put)).await;
    let won = results.iter().filter(|result| matches!(result, Ok(1)));
    assert_eq!(won.count(), 1);
    let lost = results.iter().filter(|result| matches!(result, Err(DocumentError::Conflict { found: 1, .. })));
    assert_eq!(lost.count(), 15);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    #[tokio::test]
    async fn memory_keeps_what_documents_promise() {
        exercise(Arc::new(MemoryStore::new())).await;
    }
}
