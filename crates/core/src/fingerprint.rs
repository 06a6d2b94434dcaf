//! Do two inputs say the same, so that the second is a retry of the first?

use crate::{Fingerprint, Input, InputBody, InputOrigin};

/// Hashes what an input says: kind, body (content, handling mode, metadata), source, durability and supersession key.
///
/// Not hashed, because a retry may differ in them: id, timestamp, correlation, trace, visibility, idempotency key. The hash is
/// taken over the JSON of these parts, whose member order is fixed by their types, so it is the same on every machine.
pub(crate) fn fingerprint(input: &Input) -> Fingerprint {
    // Put together first: a hasher that is fed morsels takes several times as long.
    let mut said = Vec::with_capacity(256);
    said.extend(input.kind().as_str().as_bytes());
    said.extend([0, input.header.durability as u8]);
    if let Some(key) = &input.header.supersession_key {
        said.extend(key.as_str().as_bytes());
    }
    // No key, and no JSON, holds a byte below a space: what stands between such bytes is unambiguous.
    said.push(0);
    match &input.header.source {
        InputOrigin::Operator => said.push(1),
        source => write_json(&mut said, source),
    }
    said.push(0);
    match &input.body {
        InputBody::Prompt(prompt) if prompt.blocks.is_none() && prompt.turn_metadata.is_none() => {
            said.push(1);
            said.extend(prompt.text.as_bytes());
        }
        body => write_json(&mut said, body),
    }
    Fingerprint::of(&said)
}

impl Fingerprint {
    /// Of what is said, in bytes.
    pub fn of(said: &[u8]) -> Fingerprint {
        Fingerprint(blake3::hash(said).as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes"))
    }
}

fn write_json(said: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(said, value).expect("inputs are made of JSON types and memory takes every byte");
}

#[cfg(test)]
mod tests {
    use crate::{Durability, HandlingMode, Input, InputId, InputOrigin, Timestamp, TraceContext};
    use uuid::Uuid;

    #[test]
    fn a_retry_may_differ_in_id_time_correlation_and_trace_only() {
        let prompt = |id, text: &str| Input::prompt(InputId::from_uuid(Uuid::from_u128(id)), Timestamp::ZERO, text);
        let print = |input: &Input| super::fingerprint(input);
        let first = prompt(1, "hi");
        let mut retry = prompt(2, "hi").with_key("k").unwrap();
        retry.header.timestamp = Timestamp::from_micros(9);
        retry.header.trace = TraceContext::new([1; 16], [2; 8], true).ok();
        assert_eq!(print(&first), print(&retry));

        let system = InputOrigin::External { source_name: "x".into() };
        for (what, other) in [
            ("text", prompt(1, "ho")),
            ("mode", prompt(1, "hi").with_mode(HandlingMode::Steer)),
            ("durability", prompt(1, "hi").with_durability(Durability::Ephemeral)),
            ("source", prompt(1, "hi").from_origin(system)),
            ("scope", prompt(1, "hi").superseding("s").unwrap()),
        ] {
            assert_ne!(print(&first), print(&other), "{what}");
        }
    }
}
