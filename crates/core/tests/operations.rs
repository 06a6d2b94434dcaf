//! How do operations live, what does the completion feed tell, and when does a session wake?
//!
//! OC n names scenario n of the operations and peers in scenarios/index.toml.

use std::sync::Arc;
use uuid::Uuid;
use windlass_core::{
    AcceptOptions, AttemptId, BoundaryOutput, CompletionSeq, Control, DueReason, Effect, Entry, Event, ExecutionKind,
    Gate, Incarnation, Input, InputBody, InputId, Limits, OperationId, OperationKind, OperationPeerHandle,
    OperationProgressUpdate, OperationReport, OperationResult, OperationSpec, OperationStatus, OpsLifecycleError,
    PolicyTable, Reply, RunReport, RunStart, Session, SessionId, Terminal, Ticket, Timestamp, render::RunPrimitive,
};

const SECOND: i64 = 1_000_000;

/// A session with its journal, its time and what it last started.
struct Rig {
    session: Session,
    journal: Vec<Arc<Entry>>,
    now: i64,
    life: u128,
    started: Vec<RunStart>,
}

fn op(n: u128) -> OperationId {
    OperationId::from_uuid(Uuid::from_u128(n))
}

fn spec(n: u128, kind: OperationKind) -> OperationSpec {
    OperationSpec {
        id: op(n),
        kind,
        display_name: format!("job {n}"),
        source_label: "test".into(),
        child_session_id: None,
        expect_peer_channel: false,
        adoptable: false,
    }
}

fn done(text: &str) -> OperationReport {
    OperationReport::Complete(OperationResult { content: text.into(), ..OperationResult::default() })
}

impl Rig {
    fn new() -> Rig {
        Rig::with(Limits::default())
    }

    fn with(limits: Limits) -> Rig {
        let id = SessionId::from_uuid(Uuid::from_u128(1));
        let session = Session::new(id, limits, Arc::new(PolicyTable::reference()));
        let mut rig = Rig { session, journal: Vec::new(), now: 1_700_000_000 * SECOND, life: 1, started: Vec::new() };
        rig.step(Event::Opened { incarnation: rig.incarnation(), agent: None, same_process: false });
        rig
    }

    fn attached() -> Rig {
        let mut rig = Rig::new();
        rig.step(Event::Attach { wakes: true });
        rig
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation::from_uuid(Uuid::from_u128(self.life))
    }

    fn step(&mut self, event: Event) -> Vec<Reply> {
        let step = self.session.step(Timestamp::from_micros(self.now), event);
        self.journal.extend(step.entries);
        let mut replies = Vec::new();
        for effect in step.effects {
            match effect {
                Effect::Reply { reply, .. } => replies.push(reply),
                Effect::StartRun(start) => self.started.push(start),
                Effect::StopRun { .. } => {}
            }
        }
        replies
    }

    fn asked(&mut self, event: Event) -> Result<(), OpsLifecycleError> {
        match self.step(event).remove(0) {
            Reply::Operation(done) => done,
            reply => panic!("{reply:?}"),
        }
    }

    fn register(&mut self, spec: OperationSpec) -> Result<(), OpsLifecycleError> {
        let incarnation = self.incarnation();
        self.asked(Event::RegisterOperation { ticket: Ticket(0), spec, attempt: None, incarnation })
    }

    fn report(&mut self, n: u128, report: OperationReport) -> Result<(), OpsLifecycleError> {
        let incarnation = self.incarnation();
        self.asked(Event::Operation { ticket: Ticket(0), id: op(n), report, incarnation })
    }

    /// Registers, runs and completes.
    fn complete(&mut self, n: u128, kind: OperationKind) {
        self.register(spec(n, kind)).unwrap();
        self.report(n, OperationReport::ProvisioningSucceeded).unwrap();
        self.report(n, done("done")).unwrap();
    }

    fn applied(&mut self, seq: u64) {
        self.asked(Event::CompletionsApplied { ticket: Ticket(0), seq: CompletionSeq(seq) }).unwrap();
    }

    fn prompt(&mut self, n: u128, options: AcceptOptions) {
        let input = Input::prompt(InputId::from_uuid(Uuid::from_u128(n)), Timestamp::ZERO, "prompt");
        self.step(Event::Accept { ticket: Ticket(0), input: Box::new(input), options });
    }

    fn run(&mut self) -> RunStart {
        assert_eq!(self.started.len(), 1, "exactly one run has started: {:?}", self.started);
        self.started.remove(0)
    }

    fn end(&mut self, attempt: AttemptId) {
        let report = RunReport::Done { output: BoundaryOutput::default(), terminal: Terminal::NoResult };
        self.step(Event::RunEnded { attempt, report });
    }

    /// The process dies; another reads the journal.
    fn crash(&mut self) {
        let (id, limits) = (self.session.id(), Limits::default());
        let again = Session::recover(id, limits, Arc::new(PolicyTable::reference()), None, &self.journal).unwrap();
        assert_eq!(again.snapshot(), self.session.snapshot(), "the journal says what memory said");
        let json = serde_json::to_string(&again.snapshot()).unwrap();
        assert_eq!(serde_json::from_str::<windlass_core::Snapshot>(&json).unwrap(), again.snapshot());
        self.session = again;
        self.started.clear();
        self.life += 1;
        self.step(Event::Opened { incarnation: self.incarnation(), agent: None, same_process: false });
    }

    fn status(&self, n: u128) -> OperationStatus {
        self.session.operation(op(n)).expect("a known operation").status
    }
}

fn notices(run: &RunStart) -> Vec<u64> {
    let told = run.inputs.iter().filter_map(|accepted| match &accepted.input.body {
        InputBody::Continuation(continuation) => Some(&continuation.notices),
        _ => None,
    });
    told.flatten().map(|entry| entry.seq.0).collect()
}

// S 176; OC 4-10
#[test]
fn every_report_in_every_status_does_what_the_table_says() {
    use OperationStatus as St;
    let reach: [(St, &[OperationReport]); 9] = [
        (St::Provisioning, &[]),
        (St::Running, &[OperationReport::ProvisioningSucceeded]),
        (St::Retiring, &[OperationReport::ProvisioningSucceeded, OperationReport::RequestRetire]),
        (St::Completed, &[OperationReport::ProvisioningSucceeded, done("x")]),
        (St::Failed, &[OperationReport::ProvisioningFailed { error: "x".into() }]),
        (St::Aborted, &[OperationReport::AbortProvisioning { reason: None }]),
        (St::Cancelled, &[OperationReport::Cancel { reason: None }]),
        (St::Retired, &[OperationReport::ProvisioningSucceeded, OperationReport::MarkRetired]),
        (St::Terminated, &[]),
    ];
    let peer = OperationPeerHandle { peer_name: "p".into(), peer_id: "k".into(), address: "inproc:p".into() };
    let progress = OperationProgressUpdate { message: "half".into(), percent: Some(50.0) };
    // The status after each report, from: provisioning, running, retiring. None: refused.
    let table: [(OperationReport, [Option<St>; 3]); 10] = [
        (OperationReport::ProvisioningSucceeded, [Some(St::Running), None, None]),
        (OperationReport::ProvisioningFailed { error: "x".into() }, [Some(St::Failed), None, None]),
        (OperationReport::AbortProvisioning { reason: None }, [Some(St::Aborted), None, None]),
        (OperationReport::PeerReady(peer), [None, Some(St::Running), Some(St::Retiring)]),
        (OperationReport::Progress(progress), [None, Some(St::Running), Some(St::Retiring)]),
        (OperationReport::RequestRetire, [None, Some(St::Retiring), None]),
        (OperationReport::MarkRetired, [None, Some(St::Retired), Some(St::Retired)]),
        (done("x"), [None, Some(St::Completed), Some(St::Completed)]),
        (OperationReport::Fail { error: "x".into() }, [Some(St::Failed), Some(St::Failed), Some(St::Failed)]),
        (OperationReport::Cancel { reason: None }, [Some(St::Cancelled), Some(St::Cancelled), Some(St::Cancelled)]),
    ];
    for (row, (from, path)) in reach.iter().enumerate() {
        for (report, after) in &table {
            let mut rig = Rig::new();
            rig.register(spec(1, OperationKind::MobMemberChild)).unwrap();
            path.iter().for_each(|step| rig.report(1, step.clone()).unwrap());
            if *from == St::Terminated {
                rig.asked(Event::TerminateOperations { ticket: Ticket(0), reason: "x".into() }).unwrap();
            }
            assert_eq!(rig.status(1), *from);
            let (before, head) = (rig.session.operation(op(1)).cloned(), rig.session.head());
            let result = rig.report(1, report.clone());
            match after.get(row).copied().flatten() {
                Some(status) => assert_eq!((result, rig.status(1)), (Ok(()), status), "{from:?} {report:?}"),
                None => {
                    let action = report.action().to_owned();
                    let refused = OpsLifecycleError::InvalidTransition { id: op(1), status: *from, action };
                    assert_eq!(result, Err(refused), "{from:?} {report:?}");
                    assert_eq!(
                        (rig.session.operation(op(1)).cloned(), rig.session.head()),
                        (before, head),
                        "unchanged"
                    );
                }
            }
        }
    }
}

// OC 2, 3, 11, 14
#[test]
fn what_cannot_be_registered_or_reported_is_refused_by_name() {
    let mut rig = Rig::with(Limits { operations: 1, payload_bytes: 100, ..Limits::default() });
    assert_eq!(rig.report(1, done("x")), Err(OpsLifecycleError::NotFound { id: op(1) }));
    rig.register(spec(1, OperationKind::BackgroundToolOp)).unwrap();
    let again = rig.register(spec(1, OperationKind::BackgroundToolOp));
    assert_eq!(again, Err(OpsLifecycleError::AlreadyRegistered { id: op(1) }));
    let more = rig.register(spec(2, OperationKind::BackgroundToolOp));
    assert_eq!(more, Err(OpsLifecycleError::MaxConcurrentExceeded { limit: 1, active: 1 }));
    rig.report(1, OperationReport::ProvisioningSucceeded).unwrap();
    let peer = OperationPeerHandle { peer_name: "p".into(), peer_id: "k".into(), address: "a".into() };
    let unexpected = rig.report(1, OperationReport::PeerReady(peer.clone()));
    assert_eq!(unexpected, Err(OpsLifecycleError::PeerNotExpected { id: op(1) }));
    let large = rig.report(1, done(&"x".repeat(101)));
    assert_eq!(large, Err(OpsLifecycleError::TooLarge { bytes: 101, limit: 100 }));
    assert_eq!(rig.report(1, OperationReport::Adopt), Err(OpsLifecycleError::NotAdoptable { id: op(1) }));
    rig.report(1, done("x")).unwrap();
    rig.register(spec(2, OperationKind::MobMemberChild)).unwrap();
    rig.report(2, OperationReport::ProvisioningSucceeded).unwrap();
    rig.report(2, OperationReport::PeerReady(peer.clone())).unwrap();
    let twice = rig.report(2, OperationReport::PeerReady(peer));
    assert_eq!(twice, Err(OpsLifecycleError::AlreadyPeerReady { id: op(2) }));
    rig.step(Event::Control { ticket: Ticket(0), verb: Control::Stop });
    assert_eq!(rig.register(spec(3, OperationKind::BackgroundToolOp)), Err(OpsLifecycleError::GateClosed));
    assert_eq!(rig.status(2), OperationStatus::Terminated, "a stop ends what is under way");
}

// A cancelled run registers nothing any more.
#[test]
fn the_registration_of_a_run_that_is_over_is_refused() {
    let mut rig = Rig::attached();
    rig.prompt(1, AcceptOptions::default());
    let run = rig.run();
    let incarnation = rig.incarnation();
    let register = |n| Event::RegisterOperation {
        ticket: Ticket(0),
        spec: spec(n, OperationKind::BackgroundToolOp),
        attempt: Some(run.attempt),
        incarnation,
    };
    rig.asked(register(1)).unwrap();
    rig.end(run.attempt);
    assert_eq!(rig.asked(register(2)), Err(OpsLifecycleError::RunClosed));
}

// OC 26, 27, 28, 31
#[test]
fn completions_are_dense_and_a_reader_who_lags_is_told() {
    let mut rig = Rig::with(Limits { operations_kept: 2, completions_kept: 4, ..Limits::default() });
    for n in 1..=5 {
        rig.complete(n, OperationKind::MobMemberChild);
    }
    let kept: Vec<_> = (1..=5).filter(|n| rig.session.operation(op(*n)).is_some()).collect();
    assert_eq!(kept, [4, 5], "the two newest are queryable");
    let seqs = |after| {
        let batch = rig.session.completions_since(CompletionSeq(after));
        let seqs: Vec<_> = batch.entries.iter().map(|entry| entry.seq.0).collect();
        (seqs, batch.watermark.0, batch.lagged_to.map(|seq| seq.0))
    };
    assert_eq!(seqs(2), (vec![3, 4, 5], 5, None));
    assert_eq!(seqs(5), (vec![], 5, None));
    assert_eq!(seqs(0), (vec![2, 3, 4, 5], 5, Some(1)), "one entry fell out, and the reader hears so");
    let evicted = rig.session.operation_completion(op(2)).expect("the feed keeps it longer");
    assert_eq!((evicted.display_name.as_str(), evicted.terminal_outcome.detail()), ("job 2", "done"));

    let mut none = Rig::with(Limits { operations_kept: 0, ..Limits::default() });
    none.complete(1, OperationKind::BackgroundToolOp);
    assert!(none.session.operation(op(1)).is_none());
    assert_eq!(none.session.operation_completion(op(1)).unwrap().display_name, "job 1");
}

// S 120; OC 45, 46, 51
#[test]
fn any_number_of_completions_wakes_a_quiet_session_once() {
    let mut rig = Rig::new();
    for n in 1..=5 {
        rig.complete(n, OperationKind::BackgroundToolOp);
    }
    assert!(rig.started.is_empty() && rig.session.is_pending(), "owed, and only an executor is missing");
    // OC 54: between registration and the first attach.
    rig.step(Event::Attach { wakes: false });
    let run = rig.run();
    assert_eq!(notices(&run), [1, 2, 3, 4, 5]);
    assert_eq!(run.kind, ExecutionKind::ContentTurn, "a wake has something to say (decisions 16)");
    let text = format!("{:?}", RunPrimitive::of(&run).appends);
    assert!(text.contains("job 3") && text.contains("completed"), "{text}");
    rig.applied(5);
    rig.end(run.attempt);
    assert!(rig.started.is_empty() && rig.session.next_due().is_none(), "told once");
}

// S 121, 122, 127; OC 32, 47, 48, 49
#[test]
fn a_completion_during_a_run_is_told_at_its_checkpoint_or_after_it() {
    let mut rig = Rig::attached();
    rig.prompt(1, AcceptOptions::default());
    let run = rig.run();
    rig.complete(1, OperationKind::BackgroundToolOp);
    rig.complete(2, OperationKind::MobMemberChild);
    let replies = rig.step(Event::Checkpoint { ticket: Ticket(0), attempt: run.attempt });
    let Reply::Checkpoint(Ok(steering)) = &replies[0] else { panic!("{replies:?}") };
    assert!(matches!(&steering[0].input.body, InputBody::Continuation(told) if told.notices.len() == 1));
    rig.applied(2);
    rig.complete(3, OperationKind::BackgroundToolOp);
    rig.end(run.attempt);
    let after = rig.run();
    assert_eq!(notices(&after), [3], "what the run had no checkpoint for follows it");
    rig.applied(3);
    rig.end(after.attempt);
    rig.complete(4, OperationKind::MobMemberChild);
    assert!(rig.started.is_empty(), "a child never wakes");
}

// OC 33, 34; decisions 16: shown again until the executor confirms, at most as often as attempts allow.
#[test]
fn a_notice_that_was_not_applied_is_shown_again_after_a_back_off() {
    let mut rig = Rig::attached();
    rig.complete(1, OperationKind::BackgroundToolOp);
    for shown in 1..=3 {
        let run = rig.run();
        assert_eq!(notices(&run), [1], "shown for the {shown}. time");
        rig.end(run.attempt);
        if shown < 3 {
            let due = rig.session.next_due().expect("shown again later");
            assert_eq!(due.reason, DueReason::Wake);
            assert!(due.at > Timestamp::from_micros(rig.now));
            rig.step(Event::Due);
            assert!(rig.started.is_empty(), "nothing spins");
            rig.now = due.at.as_micros();
            rig.step(Event::Due);
        }
    }
    assert!(rig.session.next_due().is_none(), "given up until there is something new");
    rig.complete(2, OperationKind::BackgroundToolOp);
    let run = rig.run();
    assert_eq!(notices(&run), [1, 2], "nothing was forgotten");
    rig.applied(2);
    rig.end(run.attempt);
}

// S 125, 126; OC 50
#[test]
fn passive_inputs_do_not_block_a_wake_and_closed_sessions_do_not_spin() {
    let mut rig = Rig::attached();
    rig.prompt(1, AcceptOptions { without_wake: true, ..AcceptOptions::default() });
    rig.complete(1, OperationKind::BackgroundToolOp);
    assert_eq!(notices(&rig.run()), [1]);

    for verb in [Control::Retire { will_drain: true }, Control::Stop, Control::Hold] {
        let mut rig = Rig::attached();
        rig.step(Event::Control { ticket: Ticket(0), verb: verb.clone() });
        if rig.session.gate() == Gate::Open {
            rig.complete(1, OperationKind::BackgroundToolOp);
        }
        assert!(rig.started.is_empty() && rig.session.next_due().is_none(), "{verb:?}");
    }
    let mut held = Rig::attached();
    held.step(Event::Control { ticket: Ticket(0), verb: Control::Hold });
    held.complete(1, OperationKind::BackgroundToolOp);
    held.step(Event::Control { ticket: Ticket(0), verb: Control::Release });
    assert_eq!(notices(&held.run()), [1], "held, not lost");
}

// S 123, 124, 178; OC 37, 38, 39, 53
#[test]
fn a_restart_loses_no_completion_and_repeats_none_that_was_applied() {
    let mut rig = Rig::attached();
    rig.complete(1, OperationKind::BackgroundToolOp);
    let run = rig.run();
    rig.applied(1);
    rig.end(run.attempt);
    rig.register(spec(2, OperationKind::BackgroundToolOp)).unwrap();
    rig.report(2, OperationReport::ProvisioningSucceeded).unwrap();
    let epoch = rig.session.epoch();
    rig.crash();
    assert_eq!(rig.status(1), OperationStatus::Completed);
    assert_eq!(rig.status(2), OperationStatus::Terminated, "in flight when the process died");
    assert_eq!(rig.session.epoch(), epoch);
    rig.step(Event::Attach { wakes: false });
    let run = rig.run();
    assert_eq!(notices(&run), [2], "its owner is told, once, and not of what it knows");

    // The process dies before anything is applied: told again, once.
    rig.crash();
    rig.step(Event::Attach { wakes: false });
    rig.now += 10 * SECOND;
    rig.step(Event::Due);
    let again = rig.run();
    assert_eq!(notices(&again), [2]);
    rig.applied(2);
    rig.end(again.attempt);
    rig.crash();
    rig.step(Event::Attach { wakes: true });
    assert!(rig.started.is_empty());
}

// Decisions 22
#[test]
fn an_adoptable_operation_outlives_its_process_if_somebody_adopts_it_in_time() {
    for adopted in [true, false] {
        let mut rig = Rig::new();
        rig.register(OperationSpec { adoptable: true, ..spec(1, OperationKind::BackgroundToolOp) }).unwrap();
        rig.report(1, OperationReport::ProvisioningSucceeded).unwrap();
        rig.crash();
        assert_eq!(rig.status(1), OperationStatus::Running);
        let due = rig.session.next_due().expect("a time limit");
        assert_eq!((due.reason, due.at.as_micros()), (DueReason::OperationLost, rig.now + 60 * SECOND));
        if adopted {
            rig.report(1, OperationReport::Adopt).unwrap();
            assert!(rig.session.next_due().is_none());
        }
        rig.now += 60 * SECOND;
        rig.step(Event::Due);
        let expected = if adopted { OperationStatus::Running } else { OperationStatus::Terminated };
        assert_eq!(rig.status(1), expected);
    }
}

// OC 105: operations too.
#[test]
fn a_reset_ends_operations_and_begins_a_new_order() {
    let mut rig = Rig::attached();
    rig.register(spec(1, OperationKind::BackgroundToolOp)).unwrap();
    let epoch = rig.session.epoch();
    rig.step(Event::Control { ticket: Ticket(0), verb: Control::Reset { force: false } });
    assert_ne!(rig.session.epoch(), epoch);
    assert_eq!(rig.session.completion_watermark(), CompletionSeq(0));
    assert!(rig.session.operations().is_empty());
    let ended = rig.journal.iter().filter(|entry| entry.record.name() == "operation_ended").count();
    assert_eq!(ended, 1, "the journal says how it ended");
    assert!(rig.started.is_empty());
}

// What the session believes to have told the model is the session's own.
#[test]
fn a_continuation_from_outside_carries_no_notices() {
    let mut rig = Rig::attached();
    rig.step(Event::Control { ticket: Ticket(0), verb: Control::Hold });
    rig.complete(1, OperationKind::BackgroundToolOp);
    let entry = rig.session.operation_completion(op(1)).unwrap();
    let mut forged = Input::detached_background_op_completed(InputId::from_uuid(Uuid::from_u128(9)), Timestamp::ZERO);
    if let InputBody::Continuation(continuation) = &mut forged.body {
        continuation.notices.push(entry);
    }
    let event = Event::Accept { ticket: Ticket(0), input: Box::new(forged), options: AcceptOptions::default() };
    let replies = rig.step(event);
    let Reply::Accept(windlass_core::AcceptOutcome::Rejected { reason }) = &replies[0] else { panic!("{replies:?}") };
    assert_eq!((reason.code(), reason.field()), ("reserved_metadata", "notices"));
    rig.step(Event::Control { ticket: Ticket(0), verb: Control::Release });
    assert_eq!(notices(&rig.run()), [1], "the real one is told");
}
