//! Which sessions of this process hear peers of others, and what does their door count?

use crate::{
    identity::Identity,
    peer::{HttpPeer, HttpRules, Inner},
    wire::{MAX_ENVELOPE_BYTES, PeerRefusal, SignedEnvelope},
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use windlass_runtime::{
    Clock,
    comms::{JoinError, PeerCounters, PeerCounts, PeerName},
};

/// The door of a process: which of its sessions hear whom. Cheap to clone.
#[derive(Clone)]
pub struct PeerDirectory {
    pub(crate) shared: Arc<Door>,
}

pub(crate) struct Door {
    pub(crate) clock: Arc<dyn Clock>,
    members: Mutex<BTreeMap<PeerName, Arc<Inner>>>,
    /// How many members pin a key.
    known: Mutex<HashMap<PeerName, usize>>,
    counts: PeerCounts,
}

impl PeerDirectory {
    /// A door without anybody behind it.
    pub fn new(clock: Arc<dyn Clock>) -> PeerDirectory {
        let shared = Door { clock, members: Mutex::default(), known: Mutex::default(), counts: PeerCounts::default() };
        PeerDirectory { shared: Arc::new(shared) }
    }

    /// Adds a session under its key.
    ///
    /// # Errors
    /// [`JoinError::NameTaken`] if the key is here already.
    pub fn join(&self, identity: Identity, rules: HttpRules) -> Result<HttpPeer, JoinError> {
        let mut members = lock(&self.shared.members);
        if members.contains_key(identity.name()) {
            return Err(JoinError::NameTaken(identity.name().clone()));
        }
        let inner = Arc::new(Inner::new(identity, rules, Arc::downgrade(&self.shared)));
        members.insert(inner.name().clone(), Arc::clone(&inner));
        Ok(HttpPeer { inner })
    }

    /// What an HTTP server mounts: `POST /peers/v1/envelopes`.
    pub fn router(&self) -> Router {
        Router::new().route(DOOR, post(take)).with_state(Arc::clone(&self.shared))
    }

    /// What came to the door so far.
    pub fn counters(&self) -> PeerCounters {
        self.shared.counts.read()
    }
}

/// Where envelopes are posted, after the address of a peer.
pub const DOOR: &str = "/peers/v1/envelopes";

impl Door {
    /// Answers when the receiver's session has the envelope on disk, or does not take it.
    async fn take(&self, bytes: &[u8]) -> Result<serde_json::Value, PeerRefusal> {
        let (id, verdict) = {
            let is_known = |from: &PeerName| lock(&self.known).contains_key(from);
            let mut receiver = None;
            let is_here = |to: &PeerName| {
                receiver = lock(&self.members).get(to).cloned();
                receiver.is_some()
            };
            let (envelope, good_until) = SignedEnvelope::open(bytes, self.clock.now(), is_known, is_here)?;
            let receiver = receiver.ok_or(PeerRefusal::Audience)?;
            (envelope.id, receiver.take(&envelope, good_until, self.clock.now().as_millis())?)
        };
        verdict.settled().await?;
        Ok(json!({ "id": id }))
    }

    pub(crate) fn pin(&self, key: &PeerName) {
        *lock(&self.known).entry(key.clone()).or_default() += 1;
    }

    pub(crate) fn unpin(&self, key: &PeerName) {
        let mut known = lock(&self.known);
        if let Some(count) = known.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                known.remove(key);
            }
        }
    }

    pub(crate) fn leave(&self, member: &PeerName) {
        lock(&self.members).remove(member);
    }
}

async fn take(State(door): State<Arc<Door>>, body: Body) -> Response {
    let taken = match axum::body::to_bytes(body, MAX_ENVELOPE_BYTES).await {
        Ok(bytes) => door.take(&bytes).await,
        Err(_) => Err(PeerRefusal::TooLarge),
    };
    match taken {
        Ok(accepted) => {
            door.counts.take();
            (StatusCode::ACCEPTED, Json(accepted)).into_response()
        }
        Err(refusal) => {
            door.counts.refuse(refusal.code());
            refusal.into_response()
        }
    }
}

/// What a door answers to who is not let in: a problem, as of RFC 9457.
impl IntoResponse for PeerRefusal {
    fn into_response(self) -> Response {
        let (code, status) = (self.code(), self.status());
        let problem = json!({
            "type": format!("https://windlass.dev/errors/{code}"),
            "title": code,
            "status": status,
            "code": code,
            "detail": self.to_string(),
            "retryable": self.is_retryable(),
        });
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], problem.to_string()).into_response()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
