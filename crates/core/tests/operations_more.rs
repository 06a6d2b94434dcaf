//! What else do operations promise: order, ends that survive, wakes that are refused?
//!
//! OC n names scenario n of the operations and peers in scenarios/index.toml.

mod common;

use common::{Rig, input, prompt};
use std::time::Duration;
use uuid::Uuid;
use windlass_core::{
    CompletionSeq, Event, HandlingMode, Incarnation, InputBody, InputKind, Limits, OperationId, OperationKind,
    OperationProgressUpdate, OperationReport, OperationResult, OperationSpec, OperationStatus, OpsLifecycleError,
    PolicyTable, Reply, Step, Ticket,
};

fn op(n: u128) -> OperationId {
    OperationId::from_uuid(Uuid::from_u128(n))
}

/// The life of the process that reports: the first, before any crash.
fn first_life() -> Incarnation {
    Incarnation::from_uuid(Uuid::from_u128(1))
}

fn answer(step: Step) -> Result<(), OpsLifecycleError> {
    let replies = step.effects.into_iter().filter_map(|effect| match effect {
        windlass_core::Effect::Reply { reply: Reply::Operation(done), .. } => Some(done),
        _ => None,
    });
    replies
        .chain(step.at_once.into_iter().filter_map(|(_, reply)| match reply {
            Reply::Operation(done) => Some(done),
            _ => None,
        }))
        .next()
        .expect("a report is answered")
}

fn register(rig: &mut Rig, n: u128, kind: OperationKind) -> Result<(), OpsLifecycleError> {
    let spec = OperationSpec {
        id: op(n),
        kind,
        display_name: format!("job {n}"),
        source_label: "test".into(),
        child_session_id: None,
        expect_peer_channel: false,
        adoptable: false,
    };
    let event = Event::RegisterOperation { ticket: Ticket(1), spec, attempt: None, incarnation: first_life() };
    answer(rig.steps(event))
}

fn report(rig: &mut Rig, n: u128, report: OperationReport) -> Result<(), OpsLifecycleError> {
    let event = Event::Operation { ticket: Ticket(1), id: op(n), report, incarnation: first_life() };
    answer(rig.steps(event))
}

fn begin(rig: &mut Rig, n: u128) {
    register(rig, n, OperationKind::BackgroundToolOp).unwrap();
    report(rig, n, OperationReport::ProvisioningSucceeded).unwrap();
}

fn complete(rig: &mut Rig, n: u128) {
    begin(rig, n);
    report(rig, n, OperationReport::Complete(OperationResult::default())).unwrap();
}

fn applied(rig: &mut Rig, seq: u64) {
    rig.step(Event::CompletionsApplied { ticket: Ticket(1), seq: CompletionSeq(seq) });
}

/// The notices of every input that is not over.
fn told(rig: &Rig) -> Vec<u64> {
    let open = rig.session.active_inputs().filter_map(|(id, _)| rig.session.active_input(id));
    let notices = open.filter_map(|accepted| match &accepted.input.body {
        InputBody::Continuation(continuation) => Some(&continuation.notices),
        _ => None,
    });
    notices.flatten().map(|entry| entry.seq.0).collect()
}

// OC 1
#[test]
fn a_registered_operation_is_provisioning_and_no_news() {
    let mut rig = Rig::attached();
    register(&mut rig, 1, OperationKind::BackgroundToolOp).unwrap();
    assert_eq!(rig.session.operation(op(1)).unwrap().status, OperationStatus::Provisioning);
    assert_eq!(rig.session.completion_watermark(), CompletionSeq(0));
    assert!(told(&rig).is_empty());
}

// OC 10, 14
#[test]
fn an_unknown_operation_can_do_nothing() {
    let mut rig = Rig::opened();
    let update = OperationProgressUpdate { message: "x".into(), percent: None };
    let reports = [
        OperationReport::ProvisioningSucceeded,
        OperationReport::ProvisioningFailed { error: "x".into() },
        OperationReport::AbortProvisioning { reason: None },
        OperationReport::Progress(update),
        OperationReport::RequestRetire,
        OperationReport::MarkRetired,
        OperationReport::Complete(OperationResult::default()),
        OperationReport::Fail { error: "x".into() },
        OperationReport::Cancel { reason: None },
        OperationReport::Adopt,
    ];
    let head = rig.session.head();
    for one in reports {
        assert_eq!(report(&mut rig, 9, one.clone()), Err(OpsLifecycleError::NotFound { id: op(9) }), "{one:?}");
    }
    assert_eq!(rig.session.head(), head, "nothing is written");
}

// OC 12
#[test]
fn an_owners_end_ends_what_is_under_way_only() {
    let mut rig = Rig::opened();
    register(&mut rig, 1, OperationKind::MobMemberChild).unwrap();
    begin(&mut rig, 2);
    begin(&mut rig, 3);
    report(&mut rig, 3, OperationReport::RequestRetire).unwrap();
    begin(&mut rig, 4);
    report(&mut rig, 4, OperationReport::Fail { error: "broken".into() }).unwrap();
    rig.step(Event::TerminateOperations { ticket: Ticket(1), reason: "owner left".into() });
    let end = |n| rig.session.operation_completion(op(n)).unwrap().terminal_outcome.clone();
    for n in 1..=3 {
        assert_eq!((end(n).status(), end(n).detail()), (OperationStatus::Terminated, "owner left"));
    }
    assert_eq!((end(4).status(), end(4).detail()), (OperationStatus::Failed, "broken"));
    assert_eq!(rig.session.completion_watermark(), CompletionSeq(4));
}

// OC 13
#[test]
fn a_clock_that_goes_back_does_not_turn_an_operations_life_round() {
    let mut rig = Rig::opened();
    rig.tick(100.0);
    register(&mut rig, 1, OperationKind::BackgroundToolOp).unwrap();
    rig.now = common::START;
    report(&mut rig, 1, OperationReport::ProvisioningSucceeded).unwrap();
    report(&mut rig, 1, OperationReport::Complete(OperationResult::default())).unwrap();
    let operation = rig.session.operation(op(1)).unwrap();
    let completed = operation.completion.as_ref().unwrap().completed_at;
    assert!(operation.created_at <= operation.started_at.unwrap());
    assert!(operation.started_at.unwrap() <= completed);
    assert!(completed.since(operation.created_at) < Duration::from_secs(1), "no time has passed in between");
}

// OC 32, 35, 38
#[test]
fn a_session_is_told_what_lies_after_its_cursor_and_is_no_child() {
    let mut rig = Rig::opened();
    for n in 1..=4 {
        complete(&mut rig, n);
    }
    register(&mut rig, 5, OperationKind::MobMemberChild).unwrap();
    report(&mut rig, 5, OperationReport::Fail { error: "x".into() }).unwrap();
    complete(&mut rig, 6);
    applied(&mut rig, 3);
    rig.crash();
    assert_eq!(rig.session.applied_completions(), CompletionSeq(3));
    rig.step(Event::Attach { wakes: false });
    assert_eq!(told(&rig), [4, 6], "what was seen is not told again, and a child never");
    applied(&mut rig, 6);
    rig.done();
    assert_eq!(rig.session.applied_completions(), CompletionSeq(6), "the cursor has passed the child's");
    rig.crash();
    rig.step(Event::Attach { wakes: true });
    assert!(told(&rig).is_empty());
}

// OC 33
#[test]
fn a_run_that_is_tried_again_shows_its_notice_again() {
    let mut rig = Rig::attached();
    complete(&mut rig, 1);
    assert_eq!(told(&rig), [1]);
    rig.fail();
    rig.wait();
    assert_eq!(rig.current().attempt, 2);
    assert_eq!(told(&rig), [1]);
    applied(&mut rig, 1);
    rig.done();
    assert!(told(&rig).is_empty() && rig.session.next_due().is_none());
}

// OC 36, 40
#[test]
fn every_end_survives_the_process_and_the_order_goes_on() {
    let mut rig = Rig::opened();
    let ends = [
        (OperationReport::ProvisioningFailed { error: "a".into() }, OperationStatus::Failed),
        (OperationReport::AbortProvisioning { reason: Some("b".into()) }, OperationStatus::Aborted),
        (OperationReport::Cancel { reason: None }, OperationStatus::Cancelled),
    ];
    for (n, (end, _)) in (1..).zip(&ends) {
        register(&mut rig, n, OperationKind::BackgroundToolOp).unwrap();
        report(&mut rig, n, end.clone()).unwrap();
    }
    begin(&mut rig, 4);
    report(&mut rig, 4, OperationReport::MarkRetired).unwrap();
    begin(&mut rig, 5);
    rig.step(Event::TerminateOperations { ticket: Ticket(1), reason: "owner left".into() });
    let (epoch, before) = (rig.session.epoch(), rig.session.operations());
    rig.crash();
    assert_eq!((rig.session.epoch(), rig.session.operations()), (epoch, before));
    let status = |n| rig.session.operation(op(n)).unwrap().status;
    for (n, (_, expected)) in (1..).zip(ends) {
        assert_eq!(status(n), expected);
    }
    assert_eq!((status(4), status(5)), (OperationStatus::Retired, OperationStatus::Terminated));
    complete(&mut rig, 6);
    assert_eq!(rig.session.completion_watermark(), CompletionSeq(6), "the next is the next");
}

// OC 52
#[test]
fn a_wake_that_finds_its_lane_full_comes_after_the_run() {
    let limits = Limits { steered: 1, ..Limits::default() };
    let mut rig = Rig::new(limits, PolicyTable::reference());
    rig.open();
    rig.step(Event::Attach { wakes: true });
    rig.accept(prompt("a"));
    rig.accept(input(InputKind::PeerMessage, "steer").with_mode(HandlingMode::Steer));
    complete(&mut rig, 1);
    let Reply::Checkpoint(Ok(steering)) = rig.checkpoint() else { panic!("the run is on") };
    assert_eq!(steering.len(), 1, "the message took the only place");
    assert!(told(&rig).is_empty(), "the wake was refused");
    rig.done();
    assert_eq!(told(&rig), [1], "and owed still");
    applied(&mut rig, 1);
    rig.done();
    rig.assert_recoverable();
    assert!(told(&rig).is_empty());
}
