//! What does the reference table decide, which tables are refused, and why?

mod common;

use common::{Rig, input, prompt};
use std::time::Duration;
use windlass_core::{
    AcceptOutcome, Control, Decision, Deliver, HandlingMode, InputKind, Join, Limits, Merge, OnBusy, Overtake,
    PolicyQuery, PolicyTable, RejectReason, SourceKind,
};

const SOURCES: [SourceKind; 5] =
    [SourceKind::Operator, SourceKind::Peer, SourceKind::Flow, SourceKind::System, SourceKind::External];
const MODES: [Option<HandlingMode>; 3] = [None, Some(HandlingMode::Queue), Some(HandlingMode::Steer)];

/// The cells of the specification's table: Q queue, S steer, P passive, O operation.
fn cell(kind: InputKind, mode: Option<HandlingMode>) -> char {
    match (kind, mode) {
        (InputKind::Operation, _) => 'O',
        (InputKind::PeerResponseProgress, _) => 'P',
        (InputKind::Continuation, None) | (_, Some(HandlingMode::Steer)) => 'S',
        _ => 'Q',
    }
}

// S 16, 17, 18
#[test]
fn the_reference_table_is_the_specifications() {
    let table = PolicyTable::reference();
    table.validate().unwrap();
    assert_eq!(table.version, 1);
    for kind in InputKind::ALL {
        for mode in MODES {
            for source in SOURCES {
                for busy in [false, true] {
                    let ruling = table.decide(PolicyQuery { kind: Some(kind), mode, source, busy });
                    let what = format!("{kind:?} {mode:?} {source:?} busy={busy}");
                    let decision = &ruling.decision;
                    assert!(ruling.row.is_some(), "{what} has a row");
                    let (deliver, wake) = match cell(kind, mode) {
                        'O' => (Deliver::Ignore, false),
                        'P' => (Deliver::WithNextRun, false),
                        'S' => (Deliver::Checkpoint, true),
                        _ => (Deliver::NextRun, true),
                    };
                    assert_eq!((decision.deliver, decision.wake), (deliver, wake), "{what}");
                    assert_eq!(decision.policy_version, 1, "{what}");
                    assert_eq!(decision.record_transcript, decision.emit_operator_content, "{what}");
                    let shown = !matches!(kind, InputKind::Operation | InputKind::Continuation);
                    assert_eq!(decision.record_transcript, shown, "{what}");
                    let merge = if deliver == Deliver::WithNextRun {
                        Merge::Coalesce { join: Join::Latest }
                    } else {
                        Merge::Keep
                    };
                    assert_eq!((decision.merge, decision.on_busy), (merge, OnBusy::Wait), "{what}");
                }
            }
        }
    }
}

/// Nobody may pass steering that backs off, nor a prompt of the same source.
#[test]
fn order_is_given_up_only_where_the_table_says() {
    let table = PolicyTable::reference();
    let overtake = |kind, mode| {
        table
            .decide(PolicyQuery { kind: Some(kind), mode, source: SourceKind::Operator, busy: false })
            .decision
            .overtake
    };
    for kind in [InputKind::Prompt, InputKind::FlowStep, InputKind::PeerMessage, InputKind::ExternalEvent] {
        assert_eq!(overtake(kind, Some(HandlingMode::Steer)), Overtake::Never, "{kind:?}");
    }
    assert_eq!(overtake(InputKind::Prompt, None), Overtake::OtherSources);
    assert_eq!(overtake(InputKind::PeerMessage, None), Overtake::Always);
}

// S 19
#[test]
fn an_unknown_kind_waits_and_wakes_nobody() {
    for busy in [false, true] {
        let query = PolicyQuery { kind: None, mode: None, source: SourceKind::External, busy };
        let ruling = PolicyTable::reference().decide(query);
        assert_eq!(ruling.row, None);
        assert_eq!((ruling.decision.deliver, ruling.decision.wake), (Deliver::NextRun, false));
    }
}

/// Every field but the delivery has a default.
// S 20
#[test]
fn a_decision_decodes_with_its_defaults() {
    let decision: Decision = serde_json::from_str(r#"{"deliver":"next_run"}"#).unwrap();
    assert_eq!(decision, Decision::QUEUE);
    let full = Decision {
        deliver: Deliver::WithNextRun,
        wake: false,
        on_busy: OnBusy::Reject,
        merge: Merge::Debounce { window: Duration::from_millis(5), max: Duration::from_millis(70) },
        priority: 3,
        overtake: Overtake::Always,
        record_transcript: false,
        emit_operator_content: false,
        policy_version: 9,
    };
    let json = serde_json::to_string(&full).unwrap();
    assert!(json.contains(r#""debounce":{"window_ms":5,"max_ms":70}"#), "{json}");
    assert_eq!(serde_json::from_str::<Decision>(&json).unwrap(), full);
}

/// The table that decides is recorded in each decision, and so is the row.
// S 16
#[test]
fn the_decision_is_recorded_with_its_row_and_version() {
    let table = PolicyTable { version: 7, rows: PolicyTable::reference().rows };
    let mut rig = Rig::new(Limits::default(), table.clone());
    rig.open();
    for kind in InputKind::ALL {
        let input = input(kind, &format!("{kind:?}"));
        let mut query =
            PolicyQuery { kind: Some(kind), mode: input.handling_mode(), source: SourceKind::Operator, busy: false };
        query.source = SourceKind::from(&input.header.source);
        let ruling = table.decide(query);
        let AcceptOutcome::Accepted { policy, .. } = rig.accept(input) else { panic!("{kind:?} is taken") };
        assert_eq!(policy, ruling.decision);
        assert_eq!(policy.policy_version, 7);
        let written = rig.journal.iter().rev().find_map(|entry| match &entry.record {
            windlass_core::Record::InputAccepted(accepted) => Some(accepted.policy_row),
            _ => None,
        });
        assert_eq!(written.unwrap(), ruling.row.map(|row| row as u32));
    }
}

// S 22
#[test]
fn silent_intents_touch_matching_requests_only() {
    let mut rig = Rig::opened();
    rig.control(Control::SetSilentIntents(vec!["ask".into(), "ask".into()]));
    for kind in InputKind::ALL {
        let AcceptOutcome::Accepted { policy, .. } = rig.accept(input(kind, &format!("{kind:?}"))) else {
            panic!("{kind:?} is taken")
        };
        let passive = matches!(kind, InputKind::PeerRequest | InputKind::PeerResponseProgress);
        assert_eq!(policy.deliver == Deliver::WithNextRun, passive, "{kind:?}");
    }
}

#[test]
fn a_session_takes_a_limited_number_of_silent_intents() {
    let mut rig = Rig::new(Limits { silent_intents: 2, ..Limits::default() }, PolicyTable::reference());
    rig.open();
    let head = rig.session.head();
    rig.control(Control::SetSilentIntents(["a", "b", "c"].map(String::from).into()));
    assert!(rig.take().ends_with(r#"reply refused "intents: 3 given, at most 2 are kept""#));
    assert_eq!(rig.session.head(), head);
    rig.control(Control::SetSilentIntents(["b", "a", "b"].map(String::from).into()));
    assert!(rig.take().starts_with("write 2 silent_intents_set [a, b]"), "sorted, without repetitions");
}

/// A table from TOML, or what is wrong with it.
fn load(toml: &str) -> Result<PolicyTable, String> {
    let table: PolicyTable = toml::from_str(toml).map_err(|error| error.to_string())?;
    table.validate().map_err(|error| error.to_string())?;
    Ok(table)
}

#[test]
fn the_reference_table_survives_toml() {
    let table = PolicyTable::reference();
    assert_eq!(load(&toml::to_string(&table).unwrap()).unwrap(), table);
}

#[test]
fn a_wrong_table_is_refused_with_row_and_field() {
    for (what, toml, expected) in [
        (
            "a field nobody reads",
            "[[row]]\nkind = 'prompt'\ndecision = { deliver = 'next_run', wakes = true }",
            "unknown field `wakes`",
        ),
        (
            "a condition nobody knows",
            "[[row]]\nkinds = 'prompt'\ndecision = { deliver = 'next_run' }",
            "unknown field `kinds`",
        ),
        ("a key of the table", "rows = []", "unknown field `rows`"),
        (
            "a kind nobody sends",
            "[[row]]\nkind = 'shout'\ndecision = { deliver = 'next_run' }",
            "unknown variant `shout`",
        ),
        ("no delivery", "[[row]]\ndecision = { wake = true }", "missing field `deliver`"),
        (
            "a negative window",
            "[[row]]\ndecision = { deliver = 'next_run', merge = { debounce = { window_ms = -1, max_ms = 5 } } }",
            "invalid value: integer `-1`",
        ),
        (
            "a row behind a wider one",
            "[[row]]\nkind = 'prompt'\ndecision = { deliver = 'next_run' }\n[[row]]\nkind = 'prompt'\nbusy = true\ndecision = { deliver = 'checkpoint' }",
            "row[1]: never reached, row[0] matches everything it does; move it up or delete it",
        ),
        (
            "a debounce longer than its limit",
            "[[row]]\ndecision = { deliver = 'next_run', merge = { debounce = { window_ms = 9, max_ms = 5 } } }",
            "row[0].decision.merge.debounce: needs 0 < window_ms <= max_ms",
        ),
        (
            "a debounce of nothing",
            "[[row]]\ndecision = { deliver = 'next_run', merge = { debounce = { window_ms = 0, max_ms = 5 } } }",
            "row[0].decision.merge.debounce: needs 0 < window_ms <= max_ms",
        ),
        (
            "a wake of what starts no run",
            "[[row]]\ndecision = { deliver = 'with_next_run' }",
            "row[0].decision.wake: WithNextRun never starts a run; set wake = false",
        ),
        (
            "an interrupt by what starts no run",
            "[[row]]\ndecision = { deliver = 'context', wake = false, on_busy = 'interrupt' }",
            "row[0].decision.on_busy: interrupt needs deliver = \"next_run\" or \"checkpoint\", not Context",
        ),
        (
            "a merge of what never waits",
            "[[row]]\ndecision = { deliver = 'ignore', wake = false, merge = 'supersede' }",
            "row[0].decision.merge: Ignore never waits, so there is nothing to merge with; set merge = \"keep\"",
        ),
    ] {
        let error = load(&format!("version = 1\n{toml}")).unwrap_err();
        assert!(error.contains(expected), "{what}: {error}");
    }
    let rows = "[[row]]\nkind = 'prompt'\nsource = 'peer'\ndecision = { deliver = 'next_run' }\n".repeat(257);
    assert_eq!(
        load(&format!("version = 1\n{rows}")).unwrap_err(),
        "row: a policy has at most 256 rows, this one has 257"
    );
    load("version = 1\n[[row]]\nkind = 'prompt'\nbusy = true\ndecision = { deliver = 'checkpoint' }\n[[row]]\nkind = 'prompt'\ndecision = { deliver = 'next_run' }").unwrap();
}

/// The decision of its admission governs an input for its whole life, whatever becomes of the table.
#[test]
fn a_new_table_does_not_move_what_waits() {
    let mut rig = Rig::opened();
    rig.accept(prompt("a"));
    let row = |decision| windlass_core::Row { kind: None, mode: None, source: None, busy: None, decision };
    rig.policy = std::sync::Arc::new(PolicyTable { version: 2, rows: vec![row(Decision::STEER)] });
    rig.crash();
    rig.accept(prompt("b"));
    rig.step(windlass_core::Event::Attach { wakes: true });
    assert!(rig.take().contains("start r1 attempt=1 [b]"));
    rig.done();
    assert!(rig.take().contains("start r2 attempt=1 [a]"));
}

/// Codes and fields of refusals are stable: clients branch on them.
#[test]
fn refusals_have_stable_codes() {
    let state = windlass_core::RuntimeState::Retired;
    let existing_id = common::input_id("a");
    let lane = windlass_core::Lane::Queue;
    for (reason, code) in [
        (RejectReason::NotReady { state }, "session_state_conflict"),
        (RejectReason::IdempotencyConflict { existing_id }, "idempotency_key_reused"),
        (RejectReason::IdConflict { existing_id }, "input_id_reused"),
        (RejectReason::DurabilityViolation { detail: String::new() }, "durability_violation"),
        (RejectReason::HandlingModeInvalid { detail: String::new() }, "handling_mode_invalid"),
        (RejectReason::QueueFull { lane, limit: 1 }, "queue_full"),
        (RejectReason::PayloadTooLarge { bytes: 2, limit: 1 }, "payload_too_large"),
        (RejectReason::PayloadTooDeep { depth: 2, limit: 1 }, "json_too_deep"),
        (RejectReason::Busy, "rejected_by_policy"),
        (RejectReason::BlobStoreRequired, "blob_store_required"),
        (RejectReason::BlobMissing { blob: String::new() }, "blob_missing"),
        (RejectReason::InvalidMedia, "invalid_media"),
        (RejectReason::NotADeadLetter { input: existing_id }, "not_a_dead_letter"),
    ] {
        assert_eq!(reason.code(), code);
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(serde_json::from_str::<RejectReason>(&json).unwrap(), reason);
    }
}
