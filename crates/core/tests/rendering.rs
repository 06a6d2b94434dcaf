//! How do the inputs of a run look to an executor?

mod common;

use common::{Rig, START, input, input_id};
use serde_json::json;
use windlass_core::{
    AcceptOptions, AcceptOutcome, ContentBlock, Effect, Event, ExecutionKind, HandlingMode, Input, InputBody,
    InputKind, InputOrigin, MediaSource, PeerConvention, RunApplyBoundary, RunStart, Ticket, TurnMetadata,
    render::{ContentInput, ConversationAppendRole, CoreRenderable, RunPrimitive, append},
};

fn text(text: &str) -> CoreRenderable {
    CoreRenderable::Text { text: text.into() }
}

fn image() -> ContentBlock {
    ContentBlock::Image { media_type: "image/png".into(), source: MediaSource::Url { url: "https://x.test".into() } }
}

fn blocks(blocks: &[ContentBlock]) -> CoreRenderable {
    CoreRenderable::Blocks { blocks: blocks.to_vec() }
}

fn with_blocks(mut input: Input, wanted: &[ContentBlock]) -> Input {
    match &mut input.body {
        InputBody::Prompt(prompt) => prompt.blocks = Some(wanted.to_vec()),
        InputBody::Peer(peer) => peer.blocks = Some(wanted.to_vec()),
        InputBody::FlowStep(step) => step.blocks = Some(wanted.to_vec()),
        InputBody::ExternalEvent(event) => event.blocks = Some(wanted.to_vec()),
        InputBody::Continuation(_) | InputBody::Operation(_) => panic!("has no blocks"),
    }
    input
}

fn content(input: &Input) -> CoreRenderable {
    let append = append(input).expect("it says something");
    assert_eq!(append.role, ConversationAppendRole::User);
    append.content
}

/// The run that starts with these inputs, admitted in order while nobody is there.
fn start(inputs: impl IntoIterator<Item = Input>) -> RunStart {
    let mut rig = Rig::opened();
    for input in inputs {
        assert!(matches!(rig.accept(input), AcceptOutcome::Accepted { .. }));
    }
    let step = rig.steps(Event::Attach { wakes: true });
    let started = step.effects.into_iter().find_map(|effect| match effect {
        Effect::StartRun(start) => Some(start),
        _ => None,
    });
    started.expect("a run starts")
}

// S 74
#[test]
fn words_and_blocks_map_to_one_append() {
    let two = [ContentBlock::text("see"), image()];
    for (input, expected) in [
        (input(InputKind::Prompt, "hi"), text("hi")),
        (with_blocks(input(InputKind::Prompt, "hi"), &two), blocks(&two)),
        (input(InputKind::FlowStep, "do"), text("do")),
        (with_blocks(input(InputKind::FlowStep, "do"), &two), blocks(&two)),
        (input(InputKind::PeerMessage, "hey"), text("hey")),
        (input(InputKind::PeerRequest, "please"), text("please")),
    ] {
        assert_eq!(content(&input), expected);
    }
}

// S 75
#[test]
fn a_message_with_blocks_names_its_sender_and_does_not_repeat_its_body() {
    let header = ContentBlock::text("[COMMS MESSAGE from bob]");
    let message = input(InputKind::PeerMessage, "body");
    let picture = with_blocks(message.clone(), &[image()]);
    assert_eq!(content(&picture), blocks(&[header.clone(), image()]), "a picture alone keeps its sender");
    let both = with_blocks(message, &[ContentBlock::text("body"), image()]);
    assert_eq!(content(&both), blocks(&[header, ContentBlock::text("body"), image()]));
}

// S 76
#[test]
fn other_peer_messages_with_blocks_put_the_body_first_once() {
    let request = input(InputKind::PeerRequest, "body");
    let body = ContentBlock::text("body");
    assert_eq!(content(&with_blocks(request.clone(), &[image()])), blocks(&[body.clone(), image()]));
    assert_eq!(content(&with_blocks(request, &[body.clone(), image()])), blocks(&[body, image()]), "not twice");
    let empty = input(InputKind::PeerResponseTerminal, "");
    assert_eq!(content(&with_blocks(empty, &[image()])), blocks(&[image()]), "an empty body is none");
}

// S 77
#[test]
fn an_event_is_labelled_by_its_source() {
    let event = |source: &str, kind: &str, payload| Input::external_event(input_id("e"), START, source, kind, payload);
    for (event, expected) in [
        (event("hook", "push", json!({})), "[EVENT via hook]"),
        (event("hook", "push", json!({ "body": "  hello \n" })), "[EVENT via hook] hello"),
        (event("hook", "push", json!({ "body": "  " })), "[EVENT via hook]"),
        (event("hook", "push", json!({ "body": 7 })), "[EVENT via hook]"),
        (event("  ", "push", json!({ "body": "x" })), "[EVENT via push] x"),
        (event("hook", "push", json!("just text")), "[EVENT via hook]"),
        (event("hook", "push", json!({})).from_origin(InputOrigin::System), "[EVENT via push]"),
    ] {
        assert_eq!(content(&event), text(expected));
    }
}

/// Better than the reference: the label and the body stay in front of the blocks.
// S 78
#[test]
fn an_event_with_blocks_keeps_its_label() {
    let event = Input::external_event(input_id("e"), START, "hook", "push", json!({ "body": "see" }));
    let label = ContentBlock::text("[EVENT via hook] see");
    assert_eq!(content(&with_blocks(event, &[image()])), blocks(&[label, image()]));
}

// S 79
#[test]
fn a_continuation_says_nothing_but_contributes() {
    assert_eq!(append(&input(InputKind::Operation, "o")), None);
    let primitive =
        RunPrimitive::of(&start([input(InputKind::Continuation, "c"), input(InputKind::ExternalEvent, "e")]));
    assert_eq!(primitive.contributing_input_ids, [input_id("c"), input_id("e")]);
    assert_eq!(primitive.appends.len(), 1);
    let alone = RunPrimitive::of(&start([input(InputKind::Continuation, "c")]));
    assert_eq!((alone.appends.len(), alone.execution_kind()), (0, ExecutionKind::ResumePending));
}

// S 80
#[test]
fn a_steering_event_carries_its_settings() {
    let mut event = input(InputKind::ExternalEvent, "e").with_mode(HandlingMode::Steer);
    if let InputBody::ExternalEvent(event) = &mut event.body {
        event.render_metadata = Some(json!({ "icon": "bell" }));
    }
    let primitive = RunPrimitive::of(&start([event]));
    assert_eq!(primitive.boundary, RunApplyBoundary::RunCheckpoint);
    assert_eq!(primitive.turn_metadata.handling_mode, Some(HandlingMode::Steer));
    assert_eq!(primitive.turn_metadata.render_metadata, Some(json!({ "icon": "bell" })));
    assert_eq!(RunPrimitive::of(&start([common::prompt("a")])).boundary, RunApplyBoundary::RunStart);
}

// S 81
#[test]
fn content_is_words_if_there_is_nothing_else() {
    let extract = |inputs: Vec<Input>| RunPrimitive::of(&start(inputs)).extract_content_input();
    let continuation = || input(InputKind::Continuation, "c");
    let message = |name| input(InputKind::PeerMessage, name);
    let one = ContentBlock::text("one");
    assert_eq!(extract(vec![continuation()]), ContentInput::Text(String::new()));
    assert_eq!(extract(vec![common::prompt("one")]), ContentInput::Text("one".into()));
    assert_eq!(
        extract(vec![with_blocks(common::prompt("x"), std::slice::from_ref(&one))]),
        ContentInput::Text("one".into())
    );
    let two = vec![one.clone(), ContentBlock::text("two")];
    assert_eq!(extract(vec![message("one"), message("two")]), ContentInput::Blocks(two));
    assert_eq!(RunPrimitive::of(&start([message("one"), message("two")])).text(), "one\ntwo");
    let primitive = RunPrimitive {
        appends: [
            CoreRenderable::Json { value: json!(1) },
            CoreRenderable::Reference { uri: "x:y".into(), label: None },
        ]
        .map(|content| windlass_core::render::ConversationAppend { role: ConversationAppendRole::User, content })
        .into(),
        ..RunPrimitive::of(&start([common::prompt("a")]))
    };
    assert_eq!(
        primitive.extract_content_input(),
        ContentInput::Text(String::new()),
        "data and references are left out"
    );
}

// S 72
#[test]
fn settings_merge_last_wins_and_lists_join() {
    let with = |name: &str, metadata: TurnMetadata| {
        let mut input = common::prompt(name);
        if let InputBody::Prompt(prompt) = &mut input.body {
            prompt.turn_metadata = Some(Box::new(metadata));
        }
        input
    };
    let steer = Some(HandlingMode::Steer);
    let first = TurnMetadata {
        handling_mode: steer,
        keep_alive: Some(true),
        model: Some("small".into()),
        skill_references: vec!["a".into()],
        additional_instructions: vec!["be brief".into()],
        ..TurnMetadata::default()
    };
    let second = TurnMetadata {
        handling_mode: steer,
        model: Some("large".into()),
        skill_references: vec!["b".into()],
        provider_params: Some(json!({ "t": 0 })),
        ..TurnMetadata::default()
    };
    let continuation = input(InputKind::Continuation, "c").with_mode(HandlingMode::Steer);
    let merged = RunPrimitive::of(&start([with("x", first), with("y", second), continuation])).turn_metadata;
    let expected = TurnMetadata {
        handling_mode: steer,
        keep_alive: Some(true),
        model: Some("large".into()),
        skill_references: vec!["a".into(), "b".into()],
        additional_instructions: vec!["be brief".into()],
        provider_params: Some(json!({ "t": 0 })),
        execution_kind: Some(ExecutionKind::ContentTurn),
        ..TurnMetadata::default()
    };
    assert_eq!(merged, expected);
}

/// What goes along is context, keyed by its input, and named after the inputs.
// S 24
#[test]
fn passive_inputs_are_context_appends() {
    let primitive = RunPrimitive::of(&start([input(InputKind::PeerResponseProgress, "p"), common::prompt("a")]));
    assert_eq!(primitive.contributing_input_ids, [input_id("a"), input_id("p")]);
    let [context] = &primitive.context_appends[..] else { panic!("one context append") };
    assert_eq!((&context.key, &context.content), (&input_id("p").to_string(), &text("p")));
    assert!(!primitive.is_context_only_immediate());
}

/// A retired session's last asides run on their own: there is nothing to answer.
// S 109
#[test]
fn the_last_asides_of_a_retired_session_are_context_only() {
    let mut rig = Rig::attached();
    rig.accept(Input::peer(
        input_id("p"),
        START,
        "bob",
        PeerConvention::ResponseProgress { request_id: "r".into(), phase: windlass_core::ProgressPhase::Accepted },
        "p",
    ));
    let verb = windlass_core::Control::Retire { will_drain: true };
    let step = rig.steps(Event::Control { ticket: Ticket(1), verb });
    let start = step.effects.iter().find_map(|effect| match effect {
        Effect::StartRun(start) => Some(start),
        _ => None,
    });
    assert!(RunPrimitive::of(start.expect("a run starts")).is_context_only_immediate());
}

/// Effect keys name session, run and boundary: the same for each attempt, new after each boundary.
#[test]
fn effect_keys_are_stable_over_attempts() {
    let key = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::StartRun(start) => Some(start.effect_key.to_string()),
            _ => None,
        })
    };
    let mut rig = Rig::attached();
    let event = |input| Event::Accept { ticket: Ticket(1), input: Box::new(input), options: AcceptOptions::default() };
    let first = key(&rig.steps(event(common::prompt("a"))).effects).unwrap();
    rig.fail();
    rig.now = rig.session.next_due().unwrap().at;
    let second = key(&rig.steps(Event::Due).effects).unwrap();
    assert_eq!(first, second);
    rig.boundary();
    rig.fail();
    rig.now = rig.session.next_due().unwrap().at;
    let third = key(&rig.steps(Event::Due).effects).unwrap();
    assert_eq!(third, first.replace("/0/0", "/1/0"));
}

/// Joined contents lose nothing: blocks join blocks and words join words, else both inputs stay.
// S 67
#[test]
fn joined_contents_lose_nothing() {
    use windlass_core::{Decision, Join, Limits, Merge, PolicyTable, Row};
    let decision = Decision { merge: Merge::Coalesce { join: Join::Append }, ..Decision::QUEUE };
    let rows = vec![Row { kind: None, mode: None, source: None, busy: None, decision }];
    let text_only = |name: &str| input(InputKind::PeerRequest, name);
    let pictured = |name: &str| with_blocks(text_only(name), &[ContentBlock::text(name), image()]);
    let event = |name: &str, payload| Input::external_event(input_id(name), START, "hook", "push", payload);
    let old = json!({ "body": "old" });
    for (older, newer, joined) in [
        (text_only("old"), text_only("new"), Some(text("old\nnew"))),
        (
            pictured("old"),
            pictured("new"),
            Some(blocks(&[
                ContentBlock::text("old\nnew"),
                ContentBlock::text("old"),
                image(),
                ContentBlock::text("new"),
                image(),
            ])),
        ),
        (pictured("old"), text_only("new"), None),
        (text_only("old"), pictured("new"), None),
        (event("old", old.clone()), event("new", json!({ "body": "new" })), Some(text("[EVENT via hook] old\nnew"))),
        (event("old", old.clone()), event("new", json!({ "commit": 1 })), None),
        (event("old", json!({ "commit": 1 })), event("new", old), None),
    ] {
        let mut rig = Rig::new(Limits::default(), PolicyTable { version: 1, rows: rows.clone() });
        rig.open();
        rig.accept(older.superseding("s").unwrap());
        rig.accept(newer.superseding("s").unwrap());
        assert_eq!(rig.session.open_inputs(), if joined.is_some() { 1 } else { 2 });
        if let Some(joined) = joined {
            let survivor = rig.session.active_input(input_id("new")).expect("the newer survives");
            assert_eq!(content(&survivor.input), joined);
        }
    }
}
