//! Do two inputs say the same, so that the second is a retry of the first?

use crate::{Fingerprint, Input, InputBody};

/// Hashes what an input says: kind, body (content, handling mode, metadata), source, durability and supersession key.
///
/// Not hashed, because a retry may differ in them: id, timestamp, correlation, visibility, idempotency key. The hash is
/// taken over the JSON of these parts, whose member order is fixed by their types, so it is the same on every machine.
pub(crate) fn fingerprint(input: &Input) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    hasher.update(input.kind().as_str().as_bytes());
    hasher.update(&[0, input.header.durability as u8]);
    if let Some(key) = &input.header.supersession_key {
        hasher.update(key.as_str().as_bytes());
    }
    hasher.update(&[0]);
    write_json(&mut hasher, &input.header.source);
    // The common prompt needs no JSON to be unambiguous: words alone, after a byte that no JSON begins with.
    match &input.body {
        InputBody::Prompt(prompt) if prompt.blocks.is_none() && prompt.turn_metadata.is_none() => {
            hasher.update(&[1]).update(prompt.text.as_bytes());
        }
        body => write_json(&mut hasher, body),
    }
    Fingerprint(hasher.finalize().as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes"))
}

fn write_json(hasher: &mut blake3::Hasher, value: &impl serde::Serialize) {
    serde_json::to_writer(hasher, value).expect("inputs are made of JSON types and a hasher takes every byte");
}

#[cfg(test)]
mod tests {
    use crate::{Durability, HandlingMode, Input, InputId, InputOrigin, Timestamp};
    use uuid::Uuid;

    #[test]
    fn a_retry_may_differ_in_id_time_and_correlation_only() {
        let prompt = |id, text: &str| Input::prompt(InputId::from_uuid(Uuid::from_u128(id)), Timestamp::ZERO, text);
        let print = |input: &Input| super::fingerprint(input);
        let first = prompt(1, "hi");
        let mut retry = prompt(2, "hi").with_key("k").unwrap();
        retry.header.timestamp = Timestamp::from_micros(9);
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
