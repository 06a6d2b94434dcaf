//! What does an envelope look like between processes, and which one is let in?
//!
//! JSON, signed with Ed25519 over length-prefixed fields and the hash of the body's very bytes, so that no two readings
//! of one JSON text can both be right. Checked in an order in which each check is cheap enough for those who may be
//! standing before the door: size, shape, key, audience, time, signature; then replay and authority, at the receiver.

use crate::identity::{Identity, verifying_key};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::Signature;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap, time::Duration};
use windlass_core::Timestamp;
use windlass_runtime::comms::{ChainId, Envelope, EnvelopeBody, EnvelopeId, PeerName, Refusal};

/// The largest envelope that is read: a full payload and what stands around it.
pub const MAX_ENVELOPE_BYTES: usize = (1 << 20) + (64 << 10);
/// How long an envelope may be good for.
pub const MAX_LIFE: Duration = Duration::from_secs(300);
/// How far ahead a sender's clock may be.
pub const MAX_SKEW: Duration = Duration::from_secs(30);

const VERSION: u8 = 1;

/// An envelope as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedEnvelope {
    /// The version of this format: 1.
    pub v: u8,
    /// The envelope.
    pub id: EnvelopeId,
    /// The sender's key, or address.
    pub from: PeerName,
    /// The receiver's key, or address.
    pub to: PeerName,
    /// The chain it belongs to.
    pub chain: ChainId,
    /// How many stand before it in its chain.
    pub hops: u32,
    /// When it was signed, in milliseconds since the Unix epoch.
    pub issued_at_ms: u64,
    /// When it is no longer good.
    pub expires_at_ms: u64,
    /// What it says: an [`EnvelopeBody`].
    pub body: Box<RawValue>,
    /// The signature, in base64.
    pub sig: String,
}

/// Why an envelope is not let in. Nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// It is too large.
    #[error("an envelope has at most {MAX_ENVELOPE_BYTES} bytes; put large content into the blob store")]
    TooLarge,
    /// It is no envelope.
    #[error("not an envelope: {0}")]
    Malformed(String),
    /// It would set what only the receiver sets.
    #[error("{0} is set by the receiver; leave it out")]
    ReservedMetadata(String),
    /// Nobody here knows the key.
    #[error("nobody here knows the sender's key; have it pinned first")]
    UnknownKey,
    /// It is addressed to somebody else.
    #[error("the receiver it is addressed to is not here")]
    Audience,
    /// It is too old, not good yet, or good for too long.
    #[error("it is not good now, or for more than five minutes; check the clock and sign it anew")]
    Expired,
    /// The signature does not fit.
    #[error("the signature does not fit the envelope and the key")]
    Signature,
    /// It has been here before.
    #[error("this envelope has been let in before")]
    Replay,
    /// The receiver does not hear this sender.
    #[error("the receiver does not hear the sender; have it add the sender's key")]
    Forbidden,
    /// The chain of envelopes is too long to be anything but a loop.
    #[error("{0} envelopes in a row came of one another; end the exchange")]
    Loop(u32),
    /// The request it answers is over, or was made to somebody else.
    #[error("the request does not wait for an answer of this sender")]
    RequestClosed,
    /// The sender says more in a second than it may.
    #[error("the sender posts too often; send the same envelope again later")]
    TooOften,
    /// There is no room.
    #[error("the inbox is full; send the same envelope again later")]
    Full,
    /// Nobody reads it ever again.
    #[error("the inbox is closed for ever")]
    Closed,
    /// Its session has not taken it yet, or is not back yet from a restart.
    #[error("the receiver has not taken it yet; send the same envelope again to hear whether it does")]
    Undecided,
    /// Its session does not take it.
    #[error("{}", .0.reason)]
    Session(Refusal),
}

impl PeerRefusal {
    /// Its stable code.
    pub fn code(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            PeerRefusal::Session(refusal) => return refusal.code.clone(),
            PeerRefusal::Undecided => "overloaded",
            PeerRefusal::TooLarge => "payload_too_large",
            PeerRefusal::Malformed(_) => "schema_violation",
            PeerRefusal::ReservedMetadata(_) => "reserved_metadata",
            PeerRefusal::UnknownKey => "peer_unknown",
            PeerRefusal::Audience => "peer_audience",
            PeerRefusal::Expired => "peer_expired",
            PeerRefusal::Signature => "peer_signature_invalid",
            PeerRefusal::Replay => "peer_replay",
            PeerRefusal::Forbidden => "forbidden_scope",
            PeerRefusal::Loop(_) => "loop_detected",
            PeerRefusal::RequestClosed => "session_state_conflict",
            PeerRefusal::TooOften => "rate_limited",
            PeerRefusal::Full => "queue_full",
            PeerRefusal::Closed => "gone",
        })
    }

    /// Whether the same envelope may be let in later.
    pub fn is_retryable(&self) -> bool {
        match self {
            PeerRefusal::TooOften | PeerRefusal::Full | PeerRefusal::Undecided => true,
            PeerRefusal::Session(refusal) => refusal.is_transient(),
            _ => false,
        }
    }

    /// Its HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            PeerRefusal::TooLarge => 413,
            PeerRefusal::Malformed(_) => 400,
            PeerRefusal::ReservedMetadata(_) | PeerRefusal::Loop(_) => 422,
            PeerRefusal::UnknownKey | PeerRefusal::Signature => 401,
            PeerRefusal::Audience | PeerRefusal::Expired | PeerRefusal::Forbidden => 403,
            PeerRefusal::Replay | PeerRefusal::RequestClosed => 409,
            PeerRefusal::TooOften | PeerRefusal::Full => 429,
            PeerRefusal::Closed => 410,
            PeerRefusal::Undecided => 503,
            PeerRefusal::Session(refusal) => match &*refusal.code {
                "payload_too_large" => 413,
                "session_state_conflict" | "idempotency_key_reused" | "input_id_reused" => 409,
                "queue_full" | "quota_exceeded" => 429,
                _ => 422,
            },
        }
    }
}

/// What only the receiver decides about an input: who says so in an envelope is told that it is not theirs to say.
const RESERVED: &[&str] = &[
    "origin",
    "source",
    "runtime_id",
    "lane",
    "priority",
    "wake",
    "policy",
    "durability",
    "visibility",
    "idempotency_key",
    "supersession_key",
    "correlation_id",
    "render_metadata",
];

impl SignedEnvelope {
    /// Signs an envelope, good for as long as any may be.
    ///
    /// # Errors
    /// [`PeerRefusal::Malformed`] if its body cannot be written, [`PeerRefusal::TooLarge`] if it is too long to be read.
    pub fn sign(envelope: &Envelope, identity: &Identity, now: Timestamp) -> Result<Vec<u8>, PeerRefusal> {
        let malformed = |error: serde_json::Error| PeerRefusal::Malformed(error.to_string());
        let mut signed = SignedEnvelope {
            v: VERSION,
            id: envelope.id,
            from: envelope.from.clone(),
            to: envelope.to.clone(),
            chain: envelope.chain,
            hops: envelope.hops,
            issued_at_ms: now.as_millis(),
            expires_at_ms: (now + MAX_LIFE).as_millis(),
            body: serde_json::value::to_raw_value(&envelope.body).map_err(malformed)?,
            sig: String::new(),
        };
        signed.sig = STANDARD.encode(identity.sign(&signed.signing_bytes()).to_bytes());
        let bytes = serde_json::to_vec(&signed).map_err(malformed)?;
        if bytes.len() > MAX_ENVELOPE_BYTES { Err(PeerRefusal::TooLarge) } else { Ok(bytes) }
    }

    /// Reads an envelope and checks all that can be checked without the receiver's memory: size, shape, key, audience,
    /// time, signature, in that order. Answers it with the moment until which it must be remembered.
    ///
    /// # Errors
    /// The first [`PeerRefusal`].
    pub fn open(
        bytes: &[u8],
        now: Timestamp,
        is_known: impl FnOnce(&PeerName) -> bool,
        is_here: impl FnOnce(&PeerName) -> bool,
    ) -> Result<(Envelope, u64), PeerRefusal> {
        if bytes.len() > MAX_ENVELOPE_BYTES {
            return Err(PeerRefusal::TooLarge);
        }
        let (signed, body) = parse(bytes)?;
        if !is_known(&signed.from) {
            return Err(PeerRefusal::UnknownKey);
        }
        let key = verifying_key(&signed.from).ok_or(PeerRefusal::UnknownKey)?;
        if !is_here(&signed.to) {
            return Err(PeerRefusal::Audience);
        }
        let life = signed.expires_at_ms.saturating_sub(signed.issued_at_ms);
        let good = signed.issued_at_ms <= (now + MAX_SKEW).as_millis()
            && now.as_millis() < signed.expires_at_ms
            && u128::from(life) <= MAX_LIFE.as_millis();
        if !good {
            return Err(PeerRefusal::Expired);
        }
        let signature = STANDARD.decode(&signed.sig).ok().and_then(|bytes| Signature::from_slice(&bytes).ok());
        let signature = signature.ok_or(PeerRefusal::Signature)?;
        key.verify_strict(&signed.signing_bytes(), &signature).map_err(|_| PeerRefusal::Signature)?;
        let SignedEnvelope { id, from, to, chain, hops, expires_at_ms, .. } = signed;
        Ok((Envelope { id, from, to, chain, hops, body }, expires_at_ms))
    }

    /// What is signed: each field after its length, so that no field can run into the next.
    fn signing_bytes(&self) -> Vec<u8> {
        let body = blake3::hash(self.body.get().as_bytes());
        let fields: [&[u8]; 10] = [
            b"windlass-peer",
            &[self.v],
            self.from.as_str().as_bytes(),
            self.to.as_str().as_bytes(),
            self.id.0.as_bytes(),
            self.chain.0.as_bytes(),
            &self.hops.to_be_bytes(),
            &self.issued_at_ms.to_be_bytes(),
            &self.expires_at_ms.to_be_bytes(),
            body.as_bytes(),
        ];
        let mut bytes = Vec::with_capacity(320);
        for field in fields {
            bytes.extend_from_slice(&(field.len() as u32).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }
}

fn parse(bytes: &[u8]) -> Result<(SignedEnvelope, EnvelopeBody), PeerRefusal> {
    let malformed = |error: serde_json::Error| PeerRefusal::Malformed(error.to_string());
    // Looked for first, so that whoever tries hears what is wrong, and not that a field is unknown.
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(bytes).map_err(malformed)?;
    reserved(&members)?;
    if let Some(body) = members.get("body") {
        reserved(&serde_json::from_str(body.get()).map_err(malformed)?)?;
    }
    let signed: SignedEnvelope = serde_json::from_slice(bytes).map_err(malformed)?;
    if signed.v != VERSION {
        return Err(PeerRefusal::Malformed(format!("version {} is not read here, only {VERSION} is", signed.v)));
    }
    let body: EnvelopeBody = serde_json::from_str(signed.body.get()).map_err(malformed)?;
    body.validate().map_err(|error| PeerRefusal::Malformed(error.to_string()))?;
    Ok((signed, body))
}

fn reserved(members: &BTreeMap<String, &RawValue>) -> Result<(), PeerRefusal> {
    let found = members.keys().find(|name| RESERVED.contains(&name.as_str()));
    found.map_or(Ok(()), |name| Err(PeerRefusal::ReservedMetadata(name.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use uuid::Uuid;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn envelope(from: &Identity, to: &Identity) -> Envelope {
        let body = EnvelopeBody::Message { body: "hello".into(), blocks: None, handling_mode: None };
        let id = EnvelopeId(Uuid::from_u128(7));
        let chain = ChainId(Uuid::from_u128(1));
        Envelope { id, from: from.name().clone(), to: to.name().clone(), chain, hops: 3, body }
    }

    fn pair() -> (Identity, Identity) {
        (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]))
    }

    fn open(bytes: &[u8], now: Timestamp) -> Result<Envelope, PeerRefusal> {
        let (ada, bob) = pair();
        let opened = SignedEnvelope::open(bytes, now, |from| from == ada.name(), |to| to == bob.name());
        opened.map(|(envelope, _)| envelope)
    }

    type Members = BTreeMap<String, Box<RawValue>>;

    fn set(members: &mut Members, name: &str, value: &Value) {
        members.insert(name.to_owned(), serde_json::value::to_raw_value(value).unwrap());
    }

    /// A good envelope with something changed after it was signed, and the rest as it was, to the byte.
    fn changed(change: impl FnOnce(&mut Members)) -> Vec<u8> {
        let (ada, bob) = pair();
        let bytes = SignedEnvelope::sign(&envelope(&ada, &bob), &ada, NOW).unwrap();
        let mut members = serde_json::from_slice(&bytes).unwrap();
        change(&mut members);
        serde_json::to_vec(&members).unwrap()
    }

    #[test]
    fn what_was_signed_is_what_is_read() {
        let (ada, bob) = pair();
        let bytes = SignedEnvelope::sign(&envelope(&ada, &bob), &ada, NOW).unwrap();
        assert_eq!(open(&bytes, NOW), Ok(envelope(&ada, &bob)));
        assert_eq!(open(&changed(|_| {}), NOW), Ok(envelope(&ada, &bob)), "the order of the members is free");
    }

    #[test]
    fn every_signed_field_counts() {
        let (ada, _) = pair();
        let later = json!(NOW.as_millis() + 60_000);
        for (field, value) in [
            ("id", json!(Uuid::from_u128(8))),
            ("chain", json!(Uuid::from_u128(2))),
            ("hops", json!(0)),
            ("issued_at_ms", json!(NOW.as_millis() + 1)),
            ("expires_at_ms", later),
            ("body", json!({"kind": "message", "body": "hullo"})),
            ("sig", json!(STANDARD.encode([0; 64]))),
            ("sig", json!("not base64")),
        ] {
            assert_eq!(open(&changed(|json| set(json, field, &value)), NOW), Err(PeerRefusal::Signature), "{field}");
        }
        // Signed by somebody else in ada's name.
        let (_, bob) = pair();
        let forged = SignedEnvelope::sign(&envelope(&ada, &bob), &Identity::from_seed(&[3; 32]), NOW).unwrap();
        assert_eq!(open(&forged, NOW), Err(PeerRefusal::Signature));
    }

    #[test]
    fn the_door_checks_in_its_order() {
        let (ada, bob) = pair();
        let mallory = Identity::from_seed(&[3; 32]);
        let name = |identity: &Identity| json!(identity.name());
        // Each has all that is wrong with the next one too.
        let worst = |json: &mut Members, from: usize| {
            let changes: [&dyn Fn(&mut Members); 5] = [
                &|json| set(json, "extra", &json!(1)),
                &|json| set(json, "from", &name(&mallory)),
                &|json| set(json, "to", &name(&mallory)),
                &|json| set(json, "expires_at_ms", &json!(NOW.as_millis() - 1)),
                &|json| set(json, "sig", &json!("")),
            ];
            changes[from..].iter().for_each(|change| change(json));
        };
        assert_eq!(open(&vec![b'x'; MAX_ENVELOPE_BYTES + 1], NOW), Err(PeerRefusal::TooLarge));
        assert!(matches!(open(&changed(|json| worst(json, 0)), NOW), Err(PeerRefusal::Malformed(_))));
        for (at, refusal) in [
            (1, PeerRefusal::UnknownKey),
            (2, PeerRefusal::Audience),
            (3, PeerRefusal::Expired),
            (4, PeerRefusal::Signature),
        ] {
            assert_eq!(open(&changed(|json| worst(json, at)), NOW), Err(refusal));
        }
        assert_ne!(ada.name(), bob.name());
    }

    #[test]
    fn an_envelope_is_good_for_five_minutes_and_no_more() {
        let bytes = changed(|_| {});
        assert!(open(&bytes, NOW + Duration::from_secs(299)).is_ok());
        assert_eq!(open(&bytes, NOW + MAX_LIFE), Err(PeerRefusal::Expired));
        let early = Timestamp::from_micros(NOW.as_micros() - 31_000_000);
        assert_eq!(open(&bytes, early), Err(PeerRefusal::Expired), "signed in the future");
        let long = changed(|json| set(json, "expires_at_ms", &json!(NOW.as_millis() + 300_001)));
        assert_eq!(open(&long, NOW), Err(PeerRefusal::Expired));
    }

    #[test]
    fn what_the_receiver_decides_is_not_the_senders_to_say() {
        for field in RESERVED {
            let refusal = Err(PeerRefusal::ReservedMetadata((*field).to_owned()));
            assert_eq!(open(&changed(|json| set(json, field, &json!("x"))), NOW), refusal);
            assert_eq!(
                open(&changed(|json| set(json, "body", &json!({ *field: "x" }))), NOW),
                refusal,
                "in the body too"
            );
        }
        assert!(matches!(open(b"{}", NOW), Err(PeerRefusal::Malformed(_))));
        assert!(matches!(open(b"[", NOW), Err(PeerRefusal::Malformed(_))));
        assert!(matches!(open(&changed(|json| set(json, "v", &json!(2))), NOW), Err(PeerRefusal::Malformed(_))));
    }
}
