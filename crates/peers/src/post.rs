//! How is an envelope posted, and what does the door's answer mean?

use crate::{directory::DOOR, identity::Identity, wire::SignedEnvelope};
use std::time::Duration;
use windlass_core::Timestamp;
use windlass_runtime::comms::{Envelope, EnvelopeBody, MAX_HOPS, PeerName, Refusal, SendError};

/// The most of a door's answer that is read. What is longer is none.
const ANSWER_BYTES: usize = 64 << 10;

/// Posts envelopes to the doors of peers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Postman {
    client: reqwest::Client,
    limit: Duration,
}

/// What a door says when it does not let something in.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
}

impl Postman {
    /// `limit` is how long one attempt may take: more than the eight seconds that a door may take to answer.
    ///
    /// # Panics
    /// If the system has no randomness for TLS: nothing can be posted then.
    pub fn new(limit: Duration) -> Postman {
        // Nobody has judged where a redirect leads, and what is signed here is for its receiver alone.
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build();
        let client = client.expect("a client without files and proxies of its own has nothing that can fail");
        Postman { client, limit }
    }

    /// Posts an envelope once, signed anew, to the door at `address`. Answers when the receiver's session has it on disk,
    /// now or before. `to` is the receiver as the sender calls it.
    ///
    /// # Errors
    /// [`SendError`]: it was not let in, or that cannot be told.
    pub async fn post(
        &self,
        envelope: &Envelope,
        identity: &Identity,
        to: &PeerName,
        address: &str,
        now: Timestamp,
    ) -> Result<(), SendError> {
        let bytes = SignedEnvelope::sign(envelope, identity, now)
            .map_err(|refusal| SendError::Validation(format!("{}: {refusal}", refusal.code())))?;
        let url = format!("{}{DOOR}", address.trim_end_matches('/'));
        let to = to.clone();
        let response = match self.client.post(&url).timeout(self.limit).body(bytes).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() || error.is_builder() => return Err(SendError::PeerOffline(to)),
            Err(_) => return Err(SendError::Undecided(to)),
        };
        let status = response.status().as_u16();
        let Ok(body) = answer(response).await else { return Err(SendError::Undecided(to)) };
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        Err(match (status, problem.code.as_str(), &envelope.body) {
            (202, ..) | (_, "peer_replay", _) => return Ok(()),
            (_, "queue_full", _) => SendError::InboxFull(to),
            (_, "gone", _) => SendError::InputClosed(to),
            (_, "peer_unknown" | "forbidden_scope", _) => SendError::PeerNotSendable(to),
            (_, "peer_audience", _) => SendError::PeerNotFound(to),
            (_, "loop_detected", _) => SendError::LoopDetected { hops: envelope.hops, limit: MAX_HOPS },
            (_, "session_state_conflict", EnvelopeBody::Response { in_reply_to, .. }) => {
                SendError::RequestClosed(*in_reply_to)
            }
            (500.., ..) => SendError::Undecided(to),
            (_, "", _) => SendError::Refused(Refusal {
                code: "internal".into(),
                reason: format!("{to} answered {status}, which is no peer's answer"),
            }),
            _ => SendError::Refused(Refusal { code: problem.code.into(), reason: problem.detail }),
        })
    }
}

/// What a door answers, as far as it is read.
async fn answer(mut response: reqwest::Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() <= ANSWER_BYTES
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    if body.len() > ANSWER_BYTES {
        body.clear();
    }
    Ok(body)
}
