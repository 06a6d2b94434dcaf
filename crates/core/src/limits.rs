//! How much of everything is there room for? Reaching a limit is a typed answer, never a dropped input.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The limits of one session. They are the shell's configuration, the same for every life of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Inputs that may wait in the queue lane.
    pub queued: u32,
    /// Inputs that may wait in the steer lane: a reserve of its own, so that a full queue can still be steered.
    pub steered: u32,
    /// Inputs that may wait aside.
    pub aside: u32,
    /// How long an input may wait aside.
    pub aside_ttl: Duration,
    /// Content per input, in bytes. A longer one belongs in the blob store.
    pub payload_bytes: u32,
    /// Nesting of an input's JSON.
    pub payload_depth: u32,
    /// Inputs in one run.
    pub batch: u32,
    /// Times an input may be tried between two boundaries, process deaths included.
    pub attempts: u32,
    /// The wait after the first failure; doubles with each further one.
    pub backoff: Duration,
    /// The longest wait between two attempts.
    pub backoff_max: Duration,
    /// Settled inputs that are remembered, so that a late retry hears its first answer.
    pub settled_kept: u32,
    /// How long a settled input is remembered.
    pub settled_ttl: Duration,
    /// After how long a wait the class of a waiting input rises by one.
    pub ageing: Duration,
    /// How far past inputs of a backing-off source a run looks for one of another source.
    pub lookahead: u32,
    /// Operations that may be under way.
    pub operations: u32,
    /// Operations that are kept after their end.
    pub operations_kept: u32,
    /// Completions that the feed keeps.
    pub completions_kept: u32,
    /// How long an operation waits to be adopted after its producer's process has died.
    pub adopt_within: Duration,
    /// Envelopes of one kind that a session may have under way: messages that have not arrived, requests that wait for
    /// their answer.
    pub outgoing: u32,
    /// Silent intents of one session.
    pub silent_intents: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            queued: 10_000,
            steered: 1_000,
            aside: 1_000,
            aside_ttl: Duration::from_secs(7 * 24 * 3600),
            payload_bytes: 1024 * 1024,
            payload_depth: 64,
            batch: 1_000,
            attempts: 3,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            settled_kept: 10_000,
            settled_ttl: Duration::from_secs(7 * 24 * 3600),
            ageing: Duration::from_secs(60),
            lookahead: 256,
            operations: 1_000,
            operations_kept: 256,
            completions_kept: 1_024,
            adopt_within: Duration::from_secs(60),
            outgoing: 256,
            silent_intents: 256,
        }
    }
}
