//! How does an executor say that it is alive while it only waits?

use serde_json::json;
use std::{pin::pin, time::Duration};
use windlass_core::JsonText;
use windlass_runtime::Turn;

/// How often a wait says so, well within the runtime's stall time.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Waits, and says meanwhile that it is alive. What is waited for has a time limit of its own.
///
/// Cancel-safe if what is waited for is.
pub(crate) async fn alive<T>(turn: &Turn, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(SIGN_OF_LIFE) => {
                turn.progress(JsonText::encode(&json!({ "type": "waiting" })).expect("words are always JSON"));
            }
        }
    }
}
