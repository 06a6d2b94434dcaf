//! Which inputs are well formed, how do they look in JSON, and which of them may be derived?

mod common;

use common::{Rig, START, input, input_id};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;
use windlass_core::{
    AcceptOptions, AcceptOutcome, BlobId, ContentBlock, CorrelationId, Durability, ExternalEvent, HandlingMode, Input,
    InputBody, InputKind, InputOrigin, MediaSource, OpEvent, Peer, PeerConvention, ProgressPhase, RejectReason,
    TerminalStatus, TurnMetadata,
};

fn round_trip(input: &Input) -> Value {
    let json = serde_json::to_value(input).unwrap();
    let back: Input = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(&back, input, "{json}");
    json
}

fn body(input: &mut Input) -> &mut Peer {
    let InputBody::Peer(peer) = &mut input.body else { panic!("a peer message") };
    peer
}

/// The kinds of `InputKind::ALL`, and a peer without convention.
fn every_body() -> Vec<Input> {
    let mut bare = input(InputKind::PeerMessage, "bare");
    body(&mut bare).convention = None;
    InputKind::ALL.iter().map(|kind| input(*kind, kind.as_str().split_at(4).0)).chain([bare]).collect()
}

fn origins() -> [InputOrigin; 6] {
    [
        InputOrigin::Operator,
        InputOrigin::Peer { peer_id: "bob".into(), runtime_id: None },
        InputOrigin::Peer { peer_id: "bob".into(), runtime_id: Some("r".into()) },
        InputOrigin::Flow { flow_id: "flow".into(), step_index: 3 },
        InputOrigin::System,
        InputOrigin::External { source_name: "hook".into() },
    ]
}

/// Every kind, origin, convention and durability survives JSON under its documented tag.
// S 1, 5
#[test]
fn every_input_survives_json_under_its_tag() {
    let tags = ["prompt", "peer", "peer", "peer", "peer", "flow_step", "external_event", "continuation", "operation"];
    for (kind, tag) in InputKind::ALL.into_iter().zip(tags) {
        for source in origins() {
            for durability in [Durability::Durable, Durability::Ephemeral, Durability::Derived] {
                let input = input(kind, "x").from_origin(source.clone()).with_durability(durability);
                let json = round_trip(&input);
                assert_eq!(json["input_type"], tag);
                assert_eq!(input.kind(), kind);
                let known = ["operator", "peer", "flow", "system", "external"];
                assert!(known.contains(&json["header"]["source"]["type"].as_str().unwrap()));
                assert!(["durable", "ephemeral", "derived"].contains(&json["header"]["durability"].as_str().unwrap()));
            }
        }
    }
    let bare = every_body().pop().unwrap();
    assert_eq!(bare.kind(), InputKind::PeerMessage, "a peer without convention is a message");
    let json = round_trip(&bare);
    assert!(json.get("convention").is_none());

    let id = || "req".to_owned();
    for (convention, expected) in [
        (PeerConvention::Message, json!({ "convention_type": "message" })),
        (
            PeerConvention::Request { request_id: id(), intent: "ask".into() },
            json!({ "convention_type": "request", "request_id": "req", "intent": "ask" }),
        ),
        (
            PeerConvention::ResponseProgress { request_id: id(), phase: ProgressPhase::PartialResult },
            json!({ "convention_type": "response_progress", "request_id": "req", "phase": "partial_result" }),
        ),
        (
            PeerConvention::ResponseTerminal { request_id: id(), status: TerminalStatus::Cancelled },
            json!({ "convention_type": "response_terminal", "request_id": "req", "status": "cancelled" }),
        ),
    ] {
        let input = Input::peer(input_id("p"), START, "bob", convention, "hi");
        assert_eq!(round_trip(&input)["convention"], expected);
    }
    for event in [OpEvent::Started, OpEvent::Progress, OpEvent::Completed, OpEvent::Failed, OpEvent::Cancelled] {
        let mut input = input(InputKind::Operation, "o");
        if let InputBody::Operation(news) = &mut input.body {
            news.event = event;
        }
        round_trip(&input);
    }
}

/// A full prompt, as it stands in a journal; what is absent is not written.
// S 1
#[test]
fn a_prompt_in_json_has_these_members() {
    let input = Input::prompt(input_id("a"), START, "hello").with_key("k").unwrap().superseding("s").unwrap();
    let expected = json!({
        "header": {
            "id": input_id("a").to_string(),
            "timestamp": START.as_micros(),
            "source": { "type": "operator" },
            "durability": "durable",
            "visibility": { "transcript_eligible": true, "operator_eligible": true },
            "idempotency_key": "k",
            "supersession_key": "s",
        },
        "input_type": "prompt",
        "text": "hello",
    });
    assert_eq!(round_trip(&input), expected);
}

/// Stored inputs of older journals say `system_generated` and `projected`.
// S 2
#[test]
fn older_tags_decode() {
    for (kind, old, new) in [
        (InputKind::Continuation, "system_generated", "continuation"),
        (InputKind::Operation, "projected", "operation"),
    ] {
        let input = input(kind, "x");
        let mut json = serde_json::to_value(&input).unwrap();
        assert_eq!(json["input_type"], new);
        json["input_type"] = old.into();
        assert_eq!(serde_json::from_value::<Input>(json.clone()).unwrap(), input);

        let mut rig = Rig::opened();
        rig.accept(input);
        let mut entry = serde_json::to_value(&*rig.journal[1]).unwrap();
        entry["record"]["input_accepted"]["input"]["input_type"] = old.into();
        assert_eq!(serde_json::from_value::<windlass_core::Entry>(entry).unwrap(), *rig.journal[1]);
    }
}

// S 3
#[test]
fn a_peer_without_handling_mode_has_none() {
    let input = input(InputKind::PeerMessage, "a");
    let json = round_trip(&input);
    assert!(json.get("handling_mode").is_none());
    assert_eq!(serde_json::from_value::<Input>(json).unwrap().handling_mode(), None);
    for (mode, text) in [(HandlingMode::Queue, "queue"), (HandlingMode::Steer, "steer")] {
        let json = round_trip(&input.clone().with_mode(mode));
        assert_eq!(json["handling_mode"], text);
    }
}

// S 4
#[test]
fn blocks_in_a_payload_move_to_their_typed_place() {
    let event = |payload: Value, blocks| ExternalEvent {
        event_type: "push".into(),
        payload,
        blocks,
        handling_mode: HandlingMode::Queue,
        render_metadata: None,
    };
    let legacy = json!({ "body": "b", "blocks": [{ "type": "text", "text": "hi" }] });
    let mut moved = event(legacy.clone(), None);
    moved.normalize().unwrap();
    assert_eq!(moved, event(json!({ "body": "b" }), Some(vec![ContentBlock::text("hi")])));

    let typed = vec![ContentBlock::text("typed")];
    let mut kept = event(legacy, Some(typed.clone()));
    kept.normalize().unwrap();
    assert_eq!(kept, event(json!({ "body": "b" }), Some(typed)));

    let broken = event(json!({ "blocks": [{ "type": "hologram" }] }), None);
    let mut refused = broken.clone();
    refused.normalize().unwrap_err();
    assert_eq!(refused, broken, "an error changes nothing");

    for payload in [json!({ "blocks": "no list" }), json!([1]), Value::Null] {
        let mut event = event(payload.clone(), None);
        event.normalize().unwrap();
        assert_eq!((event.payload, event.blocks), (payload, None));
    }
}

fn refusal(rig: &mut Rig, input: Input) -> Option<RejectReason> {
    match rig.accept(input) {
        AcceptOutcome::Rejected { reason } => Some(reason),
        AcceptOutcome::Accepted { .. } => None,
        other @ AcceptOutcome::Deduplicated { .. } => panic!("not before seen: {other:?}"),
    }
}

/// The whole table of kind, origin and durability.
// S 6-11
#[test]
fn only_windlass_itself_may_send_derived_inputs_and_only_some() {
    for input in every_body() {
        for source in origins() {
            for durability in [Durability::Durable, Durability::Ephemeral, Durability::Derived] {
                let mut rig = Rig::opened();
                let head = rig.session.head();
                let input = input.clone().from_origin(source.clone()).with_durability(durability);
                let input = input.with_key("key").unwrap();
                let inside = matches!(source, InputOrigin::System | InputOrigin::Flow { .. });
                let derivable = matches!(
                    input.kind(),
                    InputKind::PeerResponseProgress
                        | InputKind::ExternalEvent
                        | InputKind::Continuation
                        | InputKind::Operation
                );
                let allowed = durability != Durability::Derived || (inside && derivable);
                let refused = refusal(&mut rig, input.clone());
                assert_eq!(refused.is_none(), allowed, "{:?} {durability:?} from {source:?}", input.kind());
                if let Some(reason) = refused {
                    assert_eq!((reason.code(), reason.field()), ("durability_violation", "header.durability"));
                    assert_eq!(rig.session.head(), head, "a refusal leaves nothing");
                    let key = input.header.idempotency_key.as_ref().unwrap();
                    assert_eq!(rig.session.input_by_key(key), None, "and its key is free");
                }
            }
        }
    }
}

// S 12
#[test]
fn progress_has_no_handling_mode_and_everything_else_may() {
    for input in every_body() {
        for mode in [HandlingMode::Queue, HandlingMode::Steer] {
            let mut rig = Rig::opened();
            let refused = refusal(&mut rig, input.clone().with_mode(mode));
            let is_progress = input.kind() == InputKind::PeerResponseProgress;
            assert_eq!(refused.map(|reason| reason.code()), is_progress.then_some("handling_mode_invalid"));
        }
    }
}

/// Steering asks to be seen at once, so it cannot be accepted without a wake; that is an answer.
// S 56
#[test]
fn steering_without_a_wake_is_refused() {
    let mut rig = Rig::opened();
    let options = AcceptOptions { without_wake: true, ..AcceptOptions::default() };
    let steering = common::prompt("a").with_mode(HandlingMode::Steer);
    let outcome = rig.accept_with(steering, options);
    assert!(
        matches!(outcome, AcceptOutcome::Rejected { reason: RejectReason::HandlingModeInvalid { .. } }),
        "{outcome:?}"
    );
    assert!(matches!(rig.accept_with(common::prompt("b"), options), AcceptOutcome::Accepted { .. }));
}

// S 14
#[test]
fn a_prompt_of_a_video_keeps_it() {
    let url = |url: &str| MediaSource::Url { url: url.into() };
    let video = || ContentBlock::Video { media_type: "video/mp4".into(), source: url("https://x.test/v") };
    let image = || ContentBlock::Image { media_type: "image/png".into(), source: url("https://x.test/i") };
    for (blocks, text, kept) in [
        (vec![video()], "", true),
        (vec![image()], "", true),
        (vec![ContentBlock::text("look"), video(), ContentBlock::text("!")], "look\n!", true),
        (vec![ContentBlock::text("one"), ContentBlock::text("two")], "one\ntwo", false),
        (vec![], "", false),
    ] {
        let input = Input::prompt_from_blocks(input_id("a"), START, blocks.clone());
        let InputBody::Prompt(prompt) = &input.body else { panic!("a prompt") };
        assert_eq!(prompt.text, text);
        assert_eq!(prompt.blocks, kept.then_some(blocks));
        assert_eq!((&input.header.source, input.header.durability), (&InputOrigin::Operator, Durability::Durable));
        round_trip(&input);
    }
}

// S 127
#[test]
fn the_wake_continuation_has_this_shape() {
    let input = Input::detached_background_op_completed(input_id("a"), START);
    let header = &input.header;
    assert_eq!((&header.source, header.durability), (&InputOrigin::System, Durability::Derived));
    assert!(!header.visibility.transcript_eligible && !header.visibility.operator_eligible);
    let InputBody::Continuation(continuation) = &input.body else { panic!("a continuation") };
    assert_eq!(continuation.reason, "detached_background_op_completed");
    assert_eq!((continuation.handling_mode, &continuation.request_id), (HandlingMode::Steer, &None));
    assert_eq!(refusal(&mut Rig::opened(), input), None);
}

/// Inline media says so, and blob references are found for whoever collects garbage.
// S 129
#[test]
fn media_are_found() {
    let inline =
        ContentBlock::Image { media_type: "image/png".into(), source: MediaSource::Inline { data: Arc::from("aGk=") } };
    let blob = BlobId::of(b"hi");
    let stored = ContentBlock::Image {
        media_type: "image/png".into(),
        source: MediaSource::Blob { blob: blob.clone(), bytes: 2 },
    };
    let mut input = Input::prompt_from_blocks(input_id("a"), START, vec![inline, ContentBlock::text("hi")]);
    assert!(input.has_inline_media());
    input.blocks_mut().unwrap()[0] = stored;
    assert!(!input.has_inline_media());
    round_trip(&input);
    let mut rig = Rig::opened();
    rig.accept(input);
    assert_eq!(rig.journal[1].record.blobs().collect::<Vec<_>>(), [&blob]);
}

#[test]
fn large_and_deep_payloads_are_refused_with_their_measure() {
    let mut rig = Rig::new(
        windlass_core::Limits { payload_bytes: 10, payload_depth: 2, ..Default::default() },
        windlass_core::PolicyTable::reference(),
    );
    rig.open();
    let large = Input::prompt(input_id("a"), START, "12345678901");
    assert_eq!(refusal(&mut rig, large), Some(RejectReason::PayloadTooLarge { bytes: 11, limit: 10 }));
    let deep = Input::external_event(input_id("a"), START, "x", "t", json!([[[1]]]));
    assert_eq!(refusal(&mut rig, deep), Some(RejectReason::PayloadTooDeep { depth: 3, limit: 2 }));
    assert_eq!(refusal(&mut rig, common::prompt("a")), None);
}

fn metadata() -> impl Strategy<Value = Option<Box<TurnMetadata>>> {
    let mode = prop::option::of(prop::sample::select(vec![HandlingMode::Queue, HandlingMode::Steer]));
    let texts = prop::collection::vec(".{0,8}", 0..3);
    prop::option::of((mode, prop::option::of(any::<bool>()), texts, prop::option::of(".{0,8}"))).prop_map(|parts| {
        parts.map(|(handling_mode, keep_alive, skill_references, model)| {
            let rest = TurnMetadata::default();
            Box::new(TurnMetadata { handling_mode, keep_alive, skill_references, model, ..rest })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever words and settings an input carries, its JSON gives it back.
    // S 1
    #[test]
    fn any_prompt_survives_json(text in ".*", metadata in metadata(), number in any::<i64>(), key in "[!-~]{1,255}") {
        let mut input = Input::prompt(input_id("a"), START, text.clone()).with_key(&key).unwrap();
        input.header.correlation_id = Some(CorrelationId::from_uuid(Uuid::from_u128(number as u128)));
        if let InputBody::Prompt(prompt) = &mut input.body {
            prompt.turn_metadata = metadata;
        }
        round_trip(&input);
        let payload = json!({ "body": text, "n": number, "list": [null, true, { "deep": number }] });
        round_trip(&Input::external_event(input_id("b"), START, "x", text, payload));
    }

    /// A number in a payload is the same after any number of restarts.
    // S 1
    #[test]
    fn any_number_survives_json(number in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO) {
        round_trip(&Input::external_event(input_id("a"), START, "x", "t", json!({ "n": number, "list": [number] })));
    }
}
