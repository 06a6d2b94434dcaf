//! What has a session sent to its peers, and what does it still wait to hear of it?
//!
//! What a session sends stands in its journal before it leaves. So it is sent again after any crash until it has
//! arrived, and a request ends even if nobody is left who could answer: its time is part of the fold, and when that is
//! up the session tells itself.

use crate::{
    AcceptOptions, CorrelationId, Fingerprint, Gate, IdempotencyKey, Input, InputBody, InputId, InputOrigin,
    InputState, JsonText, Peer, PeerConvention, Purpose, Record, Session, Step, TerminalStatus, Timestamp,
    ids::derived_uuid, render,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// What an envelope is that a session sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutgoingKind {
    /// It is over when it has arrived.
    Message,
    /// It is over when its terminal response is admitted.
    Request,
    /// It is over when it has arrived. If it never does, whoever asked has his own deadline, and nobody is told.
    Response,
}

/// An envelope that a session sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The envelope's id.
    pub id: CorrelationId,
    /// What it is.
    pub kind: OutgoingKind,
    /// The receiver, as the session calls it.
    pub peer: String,
    /// Until when it is sent again and, of a request, answered.
    pub until: Timestamp,
    /// The envelope, for whoever carries it.
    pub envelope: JsonText,
    /// To whom and what, where its sender may send it again under its id: the session remembers it then when it has
    /// arrived, as it remembers inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<Fingerprint>,
}

/// An envelope that is not over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The envelope.
    pub outgoing: Arc<Outgoing>,
    /// Whether it has arrived: it is a request then, and waits for its answer.
    pub delivered: bool,
}

/// What became of an envelope that was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// The receiver has it on disk.
    Delivered,
    /// It was not sent, and whoever wanted to send it knows why.
    Withdrawn,
    /// The receiver does not take it; the session is told.
    Failed {
        /// The stable code.
        code: String,
        /// In words.
        reason: String,
    },
}

/// Why an envelope was not kept. Nothing is sent then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendRefused {
    /// The session does nothing any more.
    #[error("the session is stopped or destroyed and sends nothing; register it again, or use another one")]
    Closed,
    /// Too many of its kind are under way.
    #[error("{limit} envelopes of this kind are under way; try again when some have arrived or are answered")]
    TooMany {
        /// The most allowed.
        limit: u32,
    },
    /// It was sent before, so that it is not sent again.
    #[error("the envelope was sent before")]
    Sent {
        /// Whether it has arrived.
        arrived: bool,
    },
    /// Its id was used for another one.
    #[error("the key was used for another message before; use a new key for a new message")]
    Reused,
    /// It carries too much.
    #[error("envelope: {bytes} bytes, at most {limit} are sent; put large content into the blob store")]
    TooLarge {
        /// How much.
        bytes: u64,
        /// The most allowed.
        limit: u64,
    },
}

impl SendRefused {
    /// Its stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            SendRefused::Closed => "session_state_conflict",
            SendRefused::TooMany { .. } => "quota_exceeded",
            SendRefused::Sent { .. } => "peer_replay",
            SendRefused::Reused => "idempotency_key_reused",
            SendRefused::TooLarge { .. } => "payload_too_large",
        }
    }
}

/// The key of the one terminal response that a request gets, whoever gives it: the peer, its network, or the session
/// itself when the time is up.
pub fn answer_key(request: CorrelationId) -> IdempotencyKey {
    IdempotencyKey::new(format!("peer-answer-{request}")).expect("a uuid is visible ASCII")
}

/// The envelopes of a session that are not over. Empty costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Outbox(BTreeMap<CorrelationId, Kept>);

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one whose time is up first. Looked for, because there are few: requests wait in it, messages only pass.
    fn first_due(&self) -> Option<(Timestamp, CorrelationId)> {
        self.0.values().map(|kept| (kept.outgoing.until, kept.outgoing.id)).min()
    }
}

impl Session {
    /// The envelopes that are not over: to be sent again, or answered.
    pub fn outgoing(&self) -> impl Iterator<Item = &Kept> {
        self.outbox.0.values()
    }

    pub(crate) fn on_send(
        &mut self,
        now: Timestamp,
        outgoing: Arc<Outgoing>,
        step: &mut Step,
    ) -> Result<(), SendRefused> {
        // A retry must hear the first answer, so duplicates are found before the gate is, or a limit.
        let repeats =
            |says, arrived| if says == outgoing.says { SendRefused::Sent { arrived } } else { SendRefused::Reused };
        if let Some(kept) = self.outbox.0.get(&outgoing.id) {
            return Err(repeats(kept.outgoing.says, kept.delivered));
        }
        if let Some(settled) = self.remembered(self.settled.by_id(InputId::from_uuid(*outgoing.id.as_uuid()))) {
            return Err(repeats(Some(settled.fingerprint), settled.state == InputState::Consumed));
        }
        if matches!(self.gate, Gate::Stopped | Gate::Destroyed) {
            return Err(SendRefused::Closed);
        }
        let (limit, bytes) = (self.limits.outgoing, outgoing.envelope.get().len() as u64);
        if self.outbox.0.values().filter(|kept| kept.outgoing.kind == outgoing.kind).count() >= limit as usize {
            return Err(SendRefused::TooMany { limit });
        }
        let limit = u64::from(self.limits.payload_bytes) + AROUND_A_PAYLOAD;
        if bytes > limit {
            return Err(SendRefused::TooLarge { bytes, limit });
        }
        self.write(now, Record::PeerSent(outgoing), step);
        Ok(())
    }

    pub(crate) fn on_delivery(&mut self, now: Timestamp, id: CorrelationId, delivery: Delivery, step: &mut Step) {
        // Late news of what is over changes nothing.
        let Some(kept) = self.outbox.0.get(&id) else { return };
        match delivery {
            Delivery::Delivered if kept.delivered => {}
            Delivery::Delivered => self.write(now, Record::PeerDelivered { id }, step),
            Delivery::Withdrawn => self.write(now, Record::PeerGivenUp { id }, step),
            Delivery::Failed { code, reason } => self.fail_outgoing(now, id, &code, &reason, step),
        }
    }

    /// Ends what nobody has taken, or answered, in its time.
    pub(crate) fn end_overdue(&mut self, now: Timestamp, step: &mut Step) {
        while let Some((until, id)) = self.outbox.first_due()
            && until <= now
        {
            self.fail_outgoing(now, id, DEADLINE_EXCEEDED.0, DEADLINE_EXCEEDED.1, step);
        }
    }

    /// When the next one's time is up.
    pub(crate) fn outgoing_due(&self) -> Option<Timestamp> {
        self.outbox.first_due().map(|(until, _)| until)
    }

    /// Tells the session, by an input that ends the envelope, or ends it by itself where nobody is to be told or
    /// nothing is taken any more.
    fn fail_outgoing(&mut self, now: Timestamp, id: CorrelationId, code: &str, reason: &str, step: &mut Step) {
        let outgoing = Arc::clone(&self.outbox.0[&id].outgoing);
        let told = (outgoing.kind != OutgoingKind::Response).then(|| {
            let input_id = InputId::from_uuid(derived_uuid(now, self.id, Purpose::PeerFailure, self.made));
            failure(input_id, now, &outgoing, code, reason)
        });
        // Its place was kept when it was sent, so a full lane does not turn it away.
        match told.map(|input| self.admit_kept(now, input, AcceptOptions::default())) {
            Some(Ok(accepted)) => drop(self.take_in(now, accepted, step)),
            Some(Err(_)) | None => self.write(now, Record::PeerGivenUp { id }, step),
        }
    }

    pub(crate) fn apply_sent(&mut self, outgoing: &Arc<Outgoing>) -> Result<(), &'static str> {
        let kept = Kept { outgoing: Arc::clone(outgoing), delivered: false };
        match self.outbox.0.insert(outgoing.id, kept) {
            None => Ok(()),
            Some(_) => Err("an envelope is sent twice"),
        }
    }

    pub(crate) fn apply_delivered(&mut self, at: Timestamp, id: CorrelationId) -> Result<(), &'static str> {
        let kept = self.outbox.0.get_mut(&id).ok_or("an envelope arrives that was not sent")?;
        match kept.outgoing.kind {
            OutgoingKind::Request => kept.delivered = true,
            OutgoingKind::Message | OutgoingKind::Response => self.apply_over(at, id, InputState::Consumed),
        }
        Ok(())
    }

    /// It is over, and is remembered where it may be sent again.
    fn apply_over(&mut self, at: Timestamp, id: CorrelationId, how: InputState) {
        if let Some(Kept { outgoing, .. }) = self.outbox.0.remove(&id)
            && let Some(says) = outgoing.says
        {
            let id = InputId::from_uuid(*id.as_uuid());
            self.settled.push(id, None, says, how, at, &self.limits);
        }
    }

    pub(crate) fn apply_given_up(&mut self, id: CorrelationId) -> Result<(), &'static str> {
        self.outbox.0.remove(&id).map(|_| ()).ok_or("an envelope is given up that was not sent")
    }

    /// A terminal response ends the request that it names, in the record that admits it.
    pub(crate) fn apply_answer(&mut self, at: Timestamp, input: &Input) {
        if self.outbox.is_empty() {
            return;
        }
        if let InputBody::Peer(Peer {
            convention: Some(PeerConvention::ResponseTerminal { request_id, status }), ..
        }) = &input.body
            && let Ok(request) = request_id.parse().map(CorrelationId::from_uuid)
            && let Some(kept) = self.outbox.0.get(&request)
        {
            let arrived = kept.delivered || *status == TerminalStatus::Completed;
            self.apply_over(at, request, if arrived { InputState::Consumed } else { InputState::Abandoned });
            self.made += 1;
        }
    }

    /// A reset forgets what was sent, and a destroyed session hears of nothing.
    pub(crate) fn apply_nothing_sent(&mut self) {
        self.outbox = Outbox::default();
    }
}

/// The terminal response that a session gives itself.
fn failure(id: InputId, now: Timestamp, outgoing: &Outgoing, code: &str, reason: &str) -> Input {
    let request_id = outgoing.id.to_string();
    let result = serde_json::json!({ "code": code, "reason": reason });
    let body = render::response_text(&outgoing.peer, &request_id, "failed", &result);
    let convention = Some(PeerConvention::ResponseTerminal { request_id, status: TerminalStatus::Failed });
    let origin = InputOrigin::Peer { peer_id: outgoing.peer.clone(), runtime_id: None };
    let body = InputBody::Peer(Peer { convention, body, blocks: None, handling_mode: None });
    let mut input = Input::durable(id, now, origin, body);
    input.header.idempotency_key = Some(answer_key(outgoing.id));
    input.header.correlation_id = Some(outgoing.id);
    input
}

/// What stands around the content in an envelope, at most: names, ids, a signature.
const AROUND_A_PAYLOAD: u64 = 64 << 10;

/// The code and the words of a request that nobody answered in its time, or of an envelope that nobody took.
pub const DEADLINE_EXCEEDED: (&str, &str) =
    ("deadline_exceeded", "the peer did not answer in time; it may be busy or gone");
