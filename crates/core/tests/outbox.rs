//! Does everything that a session sends end, once, whatever happens to it and to those it was sent to?

mod common;

use common::{Rig, START, input};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;
use windlass_core::{
    AcceptOutcome, Control, CorrelationId, DEADLINE_EXCEEDED, Delivery, DueReason, Event, Fingerprint, Gate, Input,
    InputBody, InputKind, JsonText, Limits, Outgoing, OutgoingKind, Peer, PeerConvention, PolicyTable, Record,
    RejectReason, Reply, SendRefused, TerminalStatus, Ticket, answer_key,
};

const WITHIN: Duration = Duration::from_secs(300);

fn id(n: u128) -> CorrelationId {
    CorrelationId::from_uuid(Uuid::from_u128(n))
}

fn outgoing(n: u128, kind: OutgoingKind) -> Outgoing {
    let envelope = JsonText::encode(&"an envelope").unwrap();
    Outgoing { id: id(n), kind, peer: "bob".into(), until: START + WITHIN, envelope, says: None }
}

fn send(rig: &mut Rig, outgoing: Outgoing) -> Result<(), SendRefused> {
    let step = rig.steps(Event::Send { ticket: Ticket(1), outgoing: Arc::new(outgoing) });
    let kept = step.effects.into_iter().find_map(|effect| match effect {
        windlass_core::Effect::Reply { reply: Reply::Send(kept), .. } => Some(kept),
        _ => None,
    });
    kept.expect("a send is answered in its own step")
}

fn report(rig: &mut Rig, n: u128, delivery: Delivery) {
    rig.step(Event::Delivery { ticket: Ticket(1), id: id(n), delivery });
}

/// What the peer answers.
fn answer(n: u128, name: &str) -> Input {
    let mut input = input(InputKind::PeerResponseTerminal, name);
    let convention =
        PeerConvention::ResponseTerminal { request_id: id(n).to_string(), status: TerminalStatus::Completed };
    if let InputBody::Peer(peer) = &mut input.body {
        peer.convention = Some(convention);
    }
    input.header.idempotency_key = Some(answer_key(id(n)));
    input
}

/// The terminal responses that were admitted: to which request, how, and in which words.
fn terminals(rig: &Rig) -> Vec<(String, TerminalStatus, String)> {
    let ends = rig.journal.iter().filter_map(|entry| match &entry.record {
        Record::InputAccepted(accepted) => match &accepted.input.body {
            InputBody::Peer(Peer {
                convention: Some(PeerConvention::ResponseTerminal { request_id, status }),
                body,
                ..
            }) => Some((request_id.clone(), *status, body.clone())),
            _ => None,
        },
        _ => None,
    });
    ends.collect()
}

fn kept(rig: &Rig) -> Vec<(CorrelationId, bool)> {
    rig.session.outgoing().map(|kept| (kept.outgoing.id, kept.delivered)).collect()
}

#[test]
fn a_request_has_one_end_whoever_is_first() {
    for (name, end, status, words) in [
        ("the peer", 0, TerminalStatus::Completed, "peer"),
        ("the clock", 1, TerminalStatus::Failed, DEADLINE_EXCEEDED.0),
        ("the carrier", 2, TerminalStatus::Failed, "quota_exceeded"),
    ] {
        for delivered in [false, true] {
            for crash in [false, true] {
                let mut rig = Rig::attached();
                send(&mut rig, outgoing(7, OutgoingKind::Request)).unwrap();
                if delivered {
                    report(&mut rig, 7, Delivery::Delivered);
                }
                if crash {
                    rig.crash();
                }
                assert_eq!(kept(&rig), [(id(7), delivered)], "{name}");
                assert_eq!(rig.session.pending_at(), Some(START + WITHIN), "a restart opens it in time");
                match end {
                    0 => drop(rig.accept(answer(7, "peer"))),
                    1 => {
                        assert_eq!(rig.session.next_due().unwrap().reason, DueReason::PeerDeadline);
                        rig.wait();
                    }
                    _ => {
                        let failed = Delivery::Failed { code: "quota_exceeded".into(), reason: "no".into() };
                        report(&mut rig, 7, failed);
                    }
                }
                assert!(kept(&rig).is_empty());
                // All that may come after it.
                let late = rig.accept(answer(7, "late"));
                let conflict =
                    matches!(late, AcceptOutcome::Rejected { reason: RejectReason::IdempotencyConflict { .. } });
                assert!(conflict, "{name}: {late:?}");
                report(&mut rig, 7, Delivery::Delivered);
                report(&mut rig, 7, Delivery::Failed { code: "late".into(), reason: "late".into() });
                rig.tick(1_000.0);
                rig.step(Event::Due);
                rig.crash();
                let ends = terminals(&rig);
                assert_eq!(ends.len(), 1, "{name}: {ends:?}");
                assert_eq!((ends[0].0.clone(), ends[0].1), (id(7).to_string(), status), "{name}");
                assert!(ends[0].2.contains(words), "{name}: {}", ends[0].2);
                rig.assert_recoverable();
            }
        }
    }
}

#[test]
fn a_deadline_that_passed_while_nobody_was_alive_is_told_at_the_next_opening() {
    let mut rig = Rig::attached();
    send(&mut rig, outgoing(7, OutgoingKind::Request)).unwrap();
    rig.tick(10_000.0);
    rig.crash();
    let (_, status, words) = terminals(&rig).pop().expect("told");
    assert_eq!(status, TerminalStatus::Failed);
    let expected = format!("[COMMS RESPONSE from bob (to request: {})]\nStatus: failed\nResult: ", id(7));
    assert!(words.starts_with(&expected), "{words}");
}

#[test]
fn a_message_is_over_when_it_has_arrived_and_told_of_when_it_has_not() {
    let mut rig = Rig::attached();
    for n in 1..=4 {
        let kind = if n == 4 { OutgoingKind::Response } else { OutgoingKind::Message };
        send(&mut rig, outgoing(n, kind)).unwrap();
    }
    report(&mut rig, 1, Delivery::Delivered);
    report(&mut rig, 2, Delivery::Withdrawn);
    assert_eq!(kept(&rig), [(id(3), false), (id(4), false)]);
    rig.wait();
    assert!(kept(&rig).is_empty());
    let told: Vec<_> = terminals(&rig).into_iter().map(|(request, ..)| request).collect();
    assert_eq!(told, [id(3).to_string()], "of a response that never arrived only the asker's own deadline tells");
    rig.assert_recoverable();
}

#[test]
fn a_full_lane_keeps_no_answer_out() {
    let limits = Limits { queued: 1, ..Limits::default() };
    let mut rig = Rig::new(limits, PolicyTable::reference());
    rig.open();
    rig.accept(common::prompt("waits"));
    let full = rig.accept(common::prompt("full"));
    assert!(matches!(full, AcceptOutcome::Rejected { reason: RejectReason::QueueFull { .. } }), "{full:?}");
    send(&mut rig, outgoing(7, OutgoingKind::Request)).unwrap();
    rig.wait();
    assert_eq!(terminals(&rig).len(), 1);
}

#[test]
fn what_cannot_be_told_ends_without_words_and_nothing_spins() {
    for (verb, left) in [
        (Control::Retire { will_drain: true }, 1),
        (Control::Stop, 1),
        (Control::Reset { force: true }, 0),
        (Control::Destroy, 0),
    ] {
        let mut rig = Rig::attached();
        send(&mut rig, outgoing(7, OutgoingKind::Request)).unwrap();
        rig.control(verb.clone());
        assert_eq!(kept(&rig).len(), left, "{verb:?}");
        rig.tick(1_000.0);
        rig.step(Event::Due);
        assert!(kept(&rig).is_empty() && terminals(&rig).is_empty(), "{verb:?}");
        assert_eq!(rig.session.next_due(), None, "{verb:?}");
        rig.assert_recoverable();
    }
}

#[test]
fn what_may_be_sent_again_is_sent_once_and_is_what_it_was() {
    let says = |words: &str| Some(Fingerprint::of(words.as_bytes()));
    let again = |rig: &mut Rig, words| send(rig, Outgoing { says: says(words), ..outgoing(7, OutgoingKind::Message) });
    for (end, arrived) in [
        (None, Some(false)),
        (Some(Delivery::Delivered), Some(true)),
        (Some(Delivery::Failed { code: "gone".into(), reason: "no".into() }), Some(false)),
        (Some(Delivery::Withdrawn), None),
    ] {
        for crash in [false, true] {
            let mut rig = Rig::attached();
            again(&mut rig, "hello").unwrap();
            if let Some(end) = end.clone() {
                report(&mut rig, 7, end);
            }
            if crash {
                rig.crash();
            }
            let Some(arrived) = arrived else {
                again(&mut rig, "other").expect("what was taken back leaves nothing behind");
                continue;
            };
            assert_eq!(again(&mut rig, "hello"), Err(SendRefused::Sent { arrived }), "{end:?}");
            assert_eq!(again(&mut rig, "other"), Err(SendRefused::Reused), "{end:?}");
            rig.control(Control::Stop);
            assert_eq!(
                again(&mut rig, "hello"),
                Err(SendRefused::Sent { arrived }),
                "a retry hears what the first heard"
            );
            rig.assert_recoverable();
        }
    }
    // What nobody sends again is not remembered.
    let mut rig = Rig::attached();
    send(&mut rig, outgoing(7, OutgoingKind::Message)).unwrap();
    report(&mut rig, 7, Delivery::Delivered);
    again(&mut rig, "hello").expect("it is another one");
}

#[test]
fn what_is_not_kept_is_not_sent_and_says_why() {
    let limits = Limits { outgoing: 2, payload_bytes: 100, ..Limits::default() };
    let mut rig = Rig::new(limits, PolicyTable::reference());
    rig.open();
    for n in 1..=2 {
        send(&mut rig, outgoing(n, OutgoingKind::Request)).unwrap();
    }
    let third = send(&mut rig, outgoing(3, OutgoingKind::Request));
    assert_eq!(third, Err(SendRefused::TooMany { limit: 2 }));
    send(&mut rig, outgoing(3, OutgoingKind::Response)).expect("an answer has a place of its own");
    let envelope = JsonText::encode(&"x".repeat(70_000)).unwrap();
    let large = send(&mut rig, Outgoing { envelope, ..outgoing(4, OutgoingKind::Message) });
    assert_eq!(large, Err(SendRefused::TooLarge { bytes: 70_002, limit: 100 + (64 << 10) }));
    for (verb, gate) in [(Control::Stop, Gate::Stopped), (Control::Destroy, Gate::Destroyed)] {
        rig.control(verb);
        assert_eq!(rig.session.gate(), gate);
        assert_eq!(send(&mut rig, outgoing(5, OutgoingKind::Message)), Err(SendRefused::Closed));
    }
    let codes = [SendRefused::Closed, SendRefused::TooMany { limit: 1 }, SendRefused::TooLarge { bytes: 1, limit: 1 }];
    assert_eq!(codes.map(|refused| refused.code()), ["session_state_conflict", "quota_exceeded", "payload_too_large"]);
}
