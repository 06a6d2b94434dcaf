//! Can every journal ever written be read, and is a damaged one found out?
//!
//! `golden/journal-v1.jsonl` is a journal with every kind of record, as the first version wrote it. It is never
//! rewritten by a change of the code; a new version gets a file of its own, and so does a kind of record that came later.

mod common;

use common::{Rig, START, input, input_id, prompt, session_id};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};
use windlass_core::{
    AcceptOptions, BoundaryOutput, ChainHash, Control, ControlRefused, CorrelationId, CorruptJournal, Decision,
    Deliver, Delivery, Disposition, Durability, Effect, Entry, Event, HandlingMode, InputKind, InputState,
    InvalidProfile, Join, JsonText, Limits, Merge, OnBusy, OperationId, OperationKind, OperationPeerHandle,
    OperationProgressUpdate, OperationReport, OperationResult, OperationSpec, Outcome, Outgoing, OutgoingKind,
    PendingTool, PolicyTable, Profile, ProfileChange, ProfileField, Record, Reply, Row, RunEnd, RunReport, RunResult,
    Seq, Session, SourceKind, Step, Terminal, Ticket, TraceContext,
};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn entries(text: &str) -> Vec<Entry> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn policy() -> PolicyTable {
    let row = |kind, source, decision| Row { kind: Some(kind), mode: None, source: Some(source), busy: None, decision };
    let event = |source, merge| row(InputKind::ExternalEvent, source, Decision { merge, ..Decision::QUEUE });
    let debounce = Merge::Debounce { window: Duration::from_secs(5), max: Duration::from_secs(9) };
    let mut policy = PolicyTable::reference();
    policy.rows.splice(
        0..0,
        [
            event(SourceKind::External, Merge::Supersede),
            event(SourceKind::Flow, debounce),
            event(SourceKind::Peer, Merge::Coalesce { join: Join::Append }),
            row(InputKind::FlowStep, SourceKind::Flow, Decision { on_busy: OnBusy::Interrupt, ..Decision::QUEUE }),
            row(
                InputKind::Prompt,
                SourceKind::External,
                Decision { deliver: Deliver::Context, wake: false, ..Decision::QUEUE },
            ),
        ],
    );
    policy
}

/// Operations go through all their records, and one is told to the model.
fn work_in_the_background(rig: &mut Rig) {
    let id = |n: u128| OperationId::from_uuid(uuid::Uuid::from_u128(n));
    let life = |n: u128| windlass_core::Incarnation::from_uuid(uuid::Uuid::from_u128(n));
    let ticket = Ticket(1);
    for (n, kind, adoptable) in [(1, OperationKind::MobMemberChild, true), (2, OperationKind::BackgroundToolOp, false)]
    {
        let spec = OperationSpec {
            id: id(n),
            kind,
            display_name: format!("job {n}"),
            source_label: "test".into(),
            child_session_id: (n == 1).then(session_id),
            expect_peer_channel: n == 1,
            adoptable,
        };
        rig.step(Event::RegisterOperation { ticket, spec, attempt: None, incarnation: life(1) });
        let report = OperationReport::ProvisioningSucceeded;
        rig.step(Event::Operation { ticket, id: id(n), report, incarnation: life(1) });
    }
    let peer = OperationPeerHandle { peer_name: "child".into(), peer_id: "c".into(), address: "local".into() };
    let update = OperationProgressUpdate { message: "half".into(), percent: Some(50.0) };
    for report in [OperationReport::PeerReady(peer), OperationReport::Progress(update)] {
        rig.step(Event::Operation { ticket, id: id(1), report, incarnation: life(1) });
    }
    let incarnation = life(2);
    rig.session = rig.recovered();
    rig.step(Event::Opened { incarnation, agent: None, same_process: false });
    let result = OperationResult { content: "grown up".into(), ..OperationResult::default() };
    for report in [OperationReport::Adopt, OperationReport::RequestRetire, OperationReport::Complete(result)] {
        rig.step(Event::Operation { ticket, id: id(1), report, incarnation });
    }
    rig.step(Event::Attach { wakes: true });
    rig.step(Event::CompletionsApplied { ticket, seq: rig.session.completion_watermark() });
    rig.done();
    rig.step(Event::Detach);
}

/// A life in which everything happens that can stand in a journal.
fn a_full_life() -> Rig {
    let mut rig = Rig::new(Limits { attempts: 2, ..Limits::default() }, policy());
    rig.step(Event::Opened {
        incarnation: windlass_core::Incarnation::from_uuid(uuid::Uuid::from_u128(1)),
        agent: Some("echo".into()),
        same_process: false,
    });
    let done = |rig: &mut Rig, terminal| {
        let output = BoundaryOutput {
            message_count: 2,
            conversation_digest: Some("ab".repeat(32).into()),
            delta: Some(JsonText::encode(&["hello", "hi"]).unwrap()),
        };
        let attempt = rig.current();
        rig.step(Event::RunEnded { attempt, report: RunReport::Done { output, terminal } });
    };
    let fail = |rig: &mut Rig, retryable| {
        let attempt = rig.current();
        let report = RunReport::Failed { error: "boom".into(), retryable, retry_after: None };
        rig.step(Event::RunEnded { attempt, report });
    };
    let event = |name: &str, source| {
        let event = input(InputKind::ExternalEvent, name).superseding("scope").unwrap();
        event.from_origin(source)
    };
    let external = || windlass_core::InputOrigin::External { source_name: "hook".into() };
    let peer = || windlass_core::InputOrigin::Peer { peer_id: "bob".into(), runtime_id: Some("r".into()) };
    let flow = || windlass_core::InputOrigin::Flow { flow_id: "f".into(), step_index: 2 };

    work_in_the_background(&mut rig);

    // Every way to wait, and to be replaced.
    rig.control(Control::SetSilentIntents(vec!["ask".into()]));
    rig.control(Control::Note(JsonText::encode(&serde_json::json!({ "from": "test" })).unwrap()));
    rig.control(Control::Hold);
    for kind in InputKind::ALL {
        rig.accept(input(kind, &format!("{kind:?}")).with_key(&format!("key-{kind:?}")).unwrap());
    }
    rig.accept(prompt("steer").with_mode(HandlingMode::Steer));
    rig.accept(prompt("context").from_origin(external()));
    for source in [external, peer, flow] {
        for name in ["old", "new"] {
            rig.tick(1.0);
            let name = format!("{name}-{:?}", SourceKind::from(&source()));
            rig.accept(event(&name, source()));
        }
    }
    rig.accept_with(prompt("no-wake"), AcceptOptions { without_wake: true, ..AcceptOptions::default() });
    rig.accept(prompt("withdrawn"));
    rig.step(Event::Withdraw { ticket: Ticket(1), input: input_id("withdrawn") });
    rig.accept(prompt("lost").with_durability(Durability::Ephemeral));
    rig.crash();

    // Every way to run and to end.
    rig.control(Control::Release);
    rig.step(Event::Attach { wakes: true });
    rig.accept(prompt("more").with_mode(HandlingMode::Steer));
    rig.checkpoint();
    rig.boundary();
    rig.crash();
    rig.step(Event::Attach { wakes: false });
    done(&mut rig, Terminal::Result(Arc::new(RunResult { text: "done".into(), structured: Some(1.into()) })));
    done(&mut rig, Terminal::NoResult);
    let tool = PendingTool { tool_name: "ask_user".into(), args: serde_json::json!({ "q": 1 }) };
    done(&mut rig, Terminal::CallbackPending(Arc::new(tool)));
    fail(&mut rig, true);
    rig.wait();
    while let Some(attempt) = rig.session.current_attempt() {
        assert_eq!(attempt, rig.current());
        fail(&mut rig, true);
        if rig.session.current_attempt().is_none() && rig.session.next_due().is_some() {
            rig.wait();
        }
    }
    let redrive_of = Some(input_id("old-External"));
    rig.accept_with(prompt("redriven"), AcceptOptions { redrive_of, ..AcceptOptions::default() });
    fail(&mut rig, false);
    rig.accept(prompt("covered"));
    rig.boundary();
    fail(&mut rig, false);
    rig.accept(prompt("cut"));
    rig.boundary();
    rig.cancel(None, Disposition::Drop);
    rig.step(Event::RunEnded { attempt: rig.current(), report: RunReport::CallerGone });
    rig.accept(prompt("interrupted"));
    rig.accept(input(InputKind::FlowStep, "interrupts"));
    rig.step(Event::RunEnded { attempt: rig.current(), report: RunReport::CallerGone });
    rig.step(Event::Release { reason: "shutdown".into() });
    rig.crash();
    rig.control(Control::Reset { force: false });
    rig.accept_with(prompt("pinned"), AcceptOptions { pinned: true, ..AcceptOptions::default() });
    rig.crash();
    rig.accept_with(prompt("asleep"), AcceptOptions { without_wake: true, ..AcceptOptions::default() });
    rig.control(Control::Recycle);
    rig.control(Control::Retire { will_drain: true });
    rig.control(Control::Stop);
    rig.control(Control::Revive);
    rig.control(Control::Destroy);
    rig
}

/// Every released encoding decodes, encodes again to the same bytes, and folds to a session.
// S 1, 35
#[test]
fn the_first_format_is_read_and_written_for_ever() {
    let path = golden("journal-v1.jsonl");
    if !path.exists() && std::env::var_os("WINDLASS_REWRITE").is_some() {
        let journal = a_full_life().journal;
        let lines = journal.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let entries = entries(&text);
    for (line, entry) in text.lines().zip(&entries) {
        assert_eq!(serde_json::to_string(entry).unwrap(), line);
    }
    let limits = Limits { attempts: 2, ..Limits::default() };
    let entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
    let session = Session::recover(session_id(), limits, Arc::new(policy()), None, &entries).unwrap();
    assert_eq!(session.state(), windlass_core::RuntimeState::Destroyed);
    assert_eq!(session.input_state(input_id("covered")), Some(InputState::Consumed));
    assert_eq!(session.head(), Seq(entries.len() as u64));
}

/// Kinds of records that came later than the first format, each as it was first written.
#[test]
fn later_records_are_read_and_written_for_ever() {
    type Life = fn() -> Rig;
    let told: (&str, Life) = ("journal-v1-profile.jsonl", a_told_life);
    let peers: (&str, Life) = ("journal-v1-peers.jsonl", a_life_among_peers);
    for (file, live) in [told, peers, ("journal-v1-traces.jsonl", || a_traced_life().0)] {
        let path = golden(file);
        if !path.exists() && std::env::var_os("WINDLASS_REWRITE").is_some() {
            let lines = live().journal.into_iter().map(|entry| serde_json::to_string(&entry).unwrap() + "\n");
            std::fs::write(&path, lines.collect::<String>()).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let entries = entries(&text);
        for (line, entry) in text.lines().zip(&entries) {
            assert_eq!(serde_json::to_string(entry).unwrap(), line);
        }
        let entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
        let rig = live();
        assert_eq!(rig.journal, entries);
        assert_eq!(recover(&entries).unwrap().snapshot(), rig.session.snapshot());
    }
    let told = a_told_life();
    let session = recover(&told.journal).unwrap();
    assert_eq!(session.profile().tenant.as_deref(), Some("acme"));
    assert_eq!(session.profile().labels.len(), 1, "the second telling replaced the first");
    assert_eq!(session.created_at(), told.journal[0].at);
}

/// The life of a session that is told about itself, at its creation and later.
fn a_told_life() -> Rig {
    let mut rig = Rig::new(Limits::default(), policy());
    let incarnation = windlass_core::Incarnation::from_uuid(uuid::Uuid::from_u128(1));
    rig.step(Event::Opened { incarnation, agent: Some("echo".into()), same_process: false });
    let mut profile = Profile {
        tenant: Some("acme".into()),
        name: Some("night-shift".into()),
        labels: [("team".into(), "support".into()), ("tier".into(), String::new())].into(),
        keep_alive: true,
        policy: Some("patient@3".into()),
    };
    rig.control(Control::CreateWith(Arc::new(profile.clone())));
    rig.tick(1.0);
    profile.labels.remove("tier");
    (profile.policy, profile.keep_alive) = (None, false);
    rig.control(Control::SetProfile(Arc::new(profile)));
    rig
}

/// The life of a session that writes to peers: what it sends arrives, is given up, or is answered by the clock.
fn a_life_among_peers() -> Rig {
    let mut rig = Rig::new(Limits::default(), policy());
    rig.open();
    let id = |n: u128| CorrelationId::from_uuid(uuid::Uuid::from_u128(n));
    let ticket = Ticket(1);
    for (n, kind) in [(1, OutgoingKind::Message), (2, OutgoingKind::Request), (3, OutgoingKind::Response)] {
        let until = rig.now + Duration::from_secs(300);
        let envelope = JsonText::encode(&format!("envelope {n}")).unwrap();
        let outgoing = Arc::new(Outgoing { id: id(n), kind, peer: "bob".into(), until, envelope, says: None });
        rig.step(Event::Send { ticket, outgoing });
    }
    rig.step(Event::Delivery { ticket, id: id(1), delivery: Delivery::Delivered });
    rig.step(Event::Delivery { ticket, id: id(2), delivery: Delivery::Delivered });
    rig.step(Event::Delivery { ticket, id: id(3), delivery: Delivery::Withdrawn });
    rig.wait();
    rig
}

/// The life of a session whose inputs come with traces, and the traces that its runs start with.
fn a_traced_life() -> (Rig, Vec<Vec<TraceContext>>) {
    let mut rig = Rig::new(Limits::default(), policy());
    rig.open();
    let event = |name| input(InputKind::ExternalEvent, name);
    rig.accept(event("one").traced(trace(1)));
    rig.accept(event("untraced"));
    rig.accept(event("two").traced(trace(2)));
    let mut started = vec![traces(rig.steps(Event::Attach { wakes: true }))];
    rig.boundary();
    rig.crash();
    started.push(traces(rig.steps(Event::Attach { wakes: true })));
    (rig, started)
}

fn trace(n: u8) -> TraceContext {
    TraceContext::new([n; 16], [n; 8], true).unwrap()
}

/// The traces of the run that a step starts.
fn traces(step: Step) -> Vec<TraceContext> {
    let start = step.effects.into_iter().find_map(|effect| match effect {
        Effect::StartRun(start) => Some(start.traces),
        _ => None,
    });
    start.expect("a run starts")
}

#[test]
fn a_run_starts_with_the_traces_of_its_inputs_also_after_a_boundary_and_a_crash() {
    assert_eq!(a_traced_life().1, [[trace(1), trace(2)], [trace(1), trace(2)]]);
}

/// A session stays whose it is, is told only what there is room for, and says so by field and limit.
#[test]
fn a_profile_that_does_not_fit_is_refused_and_changes_nothing() {
    let label = |key: &str, value: &str| Profile {
        tenant: Some("acme".into()),
        labels: [(key.to_owned(), value.to_owned())].into(),
        ..Profile::default()
    };
    let many = (0..65).map(|n| (n.to_string(), String::new())).collect();
    let long = || Some(Arc::from("x".repeat(257)));
    let length = |field, bytes, limit| InvalidProfile::Length { field, bytes, limit };
    let cases = [
        (Profile::default(), InvalidProfile::TenantIsFixed),
        (Profile { tenant: Some("other".into()), ..Profile::default() }, InvalidProfile::TenantIsFixed),
        (Profile { labels: many, ..label("", "") }, InvalidProfile::TooManyLabels { given: 65, limit: 64 }),
        (label("", "v"), length(ProfileField::LabelKey, 0, 64)),
        (label(&"k".repeat(65), "v"), length(ProfileField::LabelKey, 65, 64)),
        (label("k", &"v".repeat(257)), length(ProfileField::LabelValue, 257, 256)),
        (Profile { name: long(), ..label("k", "") }, length(ProfileField::Name, 257, 256)),
        (Profile { policy: Some("".into()), ..label("k", "") }, length(ProfileField::Policy, 0, 256)),
    ];
    let mut rig = a_told_life();
    let before = rig.session.snapshot();
    for (profile, expected) in cases {
        for verb in [Control::SetProfile, Control::CreateWith] {
            let answer = rig.control(verb(Arc::new(profile.clone())));
            assert_eq!(answer, Reply::Control(Err(ControlRefused::Profile(expected))), "{profile:?}");
        }
    }
    assert_eq!(rig.session.snapshot(), before);
    rig.control(Control::SetProfile(Arc::clone(rig.session.profile())));
    assert_eq!(rig.session.snapshot(), before, "what is known already is not recorded again");
}

/// Whoever changes one thing has not seen the others; what it was told meanwhile must not be lost by that.
#[test]
fn a_change_keeps_what_it_does_not_speak_of_and_is_refused_for_what_is_no_longer_there() {
    let mut rig = a_told_life();
    let read = (Profile::clone(rig.session.profile()), rig.session.silent_intents().to_vec());
    let change = |change: ProfileChange| Control::Change(Box::new(change));
    let labels = Some([("stage".to_owned(), "two".to_owned())].into());
    rig.control(change(ProfileChange { labels: labels.clone(), ..ProfileChange::default() }));
    let keep_alive = Some(!read.0.keep_alive);
    let intents = Some(vec!["ping".to_owned()]);
    let late =
        ProfileChange { keep_alive, silent_intents: intents.clone(), since: Some(read), ..ProfileChange::default() };
    let before = rig.session.snapshot();
    assert_eq!(rig.control(change(late.clone())), Reply::Control(Err(ControlRefused::ChangedSince)));
    assert_eq!(rig.session.snapshot(), before);
    let since = Some((Profile::clone(rig.session.profile()), rig.session.silent_intents().to_vec()));
    assert!(matches!(rig.control(change(ProfileChange { since, ..late })), Reply::Control(Ok(_))));
    let now = rig.session.profile();
    assert_eq!((Some(&now.labels), Some(now.keep_alive)), (labels.as_ref(), keep_alive));
    assert_eq!(Some(rig.session.silent_intents().to_vec()), intents);
}

/// A journal in which a session changes hands was written by nobody.
#[test]
fn a_journal_that_changes_the_tenant_is_not_folded() {
    let mut journal = a_told_life().journal;
    let mut last = (**journal.last().unwrap()).clone();
    let Record::ProfileSet { profile } = &mut last.record else { panic!("told last") };
    Arc::make_mut(profile).tenant = Some("other".into());
    *journal.last_mut().unwrap() = Arc::new(last);
    let corrupt = recover(&journal).unwrap_err();
    assert_eq!((corrupt.at, &*corrupt.detail), (Seq(3), "a session changes its tenant"));
}

/// The golden journal holds every kind of record, of end and of outcome.
#[test]
fn the_golden_journal_leaves_nothing_out() {
    let entries = entries(&std::fs::read_to_string(golden("journal-v1.jsonl")).unwrap());
    let names: BTreeSet<_> = entries.iter().map(|entry| entry.record.name()).collect();
    let expected = [
        "boundary_committed",
        "completions_applied",
        "context_appended",
        "gate_changed",
        "hold_changed",
        "input_accepted",
        "inputs_settled",
        "noted",
        "operation_adopted",
        "operation_ended",
        "operation_moved",
        "operation_orphaned",
        "operation_peer_ready",
        "operation_progressed",
        "operation_registered",
        "run_ended",
        "run_started",
        "run_steered",
        "session_created",
        "session_reset",
        "silent_intents_set",
        "woken",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
    let ends: BTreeSet<_> = entries
        .iter()
        .filter_map(|entry| match &entry.record {
            Record::RunEnded(ended) => Some(match &ended.end {
                RunEnd::Completed { terminal: Terminal::NoResult, .. } => "no result",
                RunEnd::Completed { terminal: Terminal::Result(_), .. } => "result",
                RunEnd::Completed { terminal: Terminal::CallbackPending(_), .. } => "callback",
                RunEnd::Failed { fatal: true, .. } => "fatal",
                RunEnd::Failed { retry_at: None, .. } => "exhausted",
                RunEnd::Failed { .. } => "retried",
                RunEnd::Cancelled { .. } => "cancelled",
                RunEnd::Released { .. } => "released",
            }),
            _ => None,
        })
        .collect();
    assert_eq!(ends.len(), 8, "{ends:?}");
    let mut kinds: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.record {
            Record::InputAccepted(accepted) => Some(accepted.input.kind()),
            _ => None,
        })
        .collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), InputKind::ALL.len());
}

/// What the machine writes today is what the format says: same decisions, same ids, same bytes.
#[test]
fn the_same_life_writes_the_same_journal() {
    let (first, second) = (a_full_life(), a_full_life());
    assert_eq!(first.journal, second.journal, "no clock, no randomness");
    first.assert_recoverable();
    for entry in &first.journal {
        let json = serde_json::to_string(entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), **entry);
        assert!(json.contains(&format!("\"{}\"", entry.record.name())), "{json}");
    }
    for end in &first.settled {
        let json = serde_json::to_string(&end.outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&json).unwrap(), end.outcome);
        let entry = &first.journal[end.seq.0 as usize - 1];
        let told = entry.record.outcome_of(end.input, end.outcome.state());
        assert_eq!(told.as_ref(), Some(&end.outcome), "{} is told by entry {}", end.input, end.seq);
    }
}

fn recover(journal: &[Arc<Entry>]) -> Result<Session, CorruptJournal> {
    let limits = Limits { attempts: 2, ..Limits::default() };
    Session::recover(session_id(), limits, Arc::new(policy()), None, journal)
}

/// A journal that misses any one entry, or holds one twice, is not folded.
// S 135, 152
#[test]
fn a_missing_or_repeated_entry_is_found() {
    let journal = a_full_life().journal;
    recover(&journal).unwrap();
    for at in 0..journal.len() - 1 {
        let mut missing = journal.clone();
        missing.remove(at);
        assert_eq!(recover(&missing).unwrap_err().at, Seq(at as u64 + 2), "without entry {}", at + 1);
        let mut twice = journal.clone();
        twice.insert(at, Arc::clone(&journal[at]));
        assert_eq!(recover(&twice).unwrap_err().at, Seq(at as u64 + 1), "entry {} twice", at + 1);
    }
}

/// An entry in the place of another, with the right position, is found where it cannot have happened.
// S 26, 29, 62
#[test]
fn what_cannot_have_happened_is_corrupt() {
    let journal = a_full_life().journal;
    let mut refused = BTreeSet::new();
    for at in 1..journal.len() {
        for other in journal.iter().filter(|other| other.record.name() != journal[at].record.name()) {
            let mut altered = journal[..=at].to_vec();
            let previous = &altered[at - 1];
            altered[at] = Arc::new(Entry { seq: Seq(at as u64 + 1), at: previous.at, record: other.record.clone() });
            // Some do fit, a note for example; whatever is taken leaves a session that holds together.
            match recover(&altered) {
                Ok(session) => session.check(),
                Err(corrupt) => {
                    assert_eq!(corrupt.at, Seq(at as u64 + 1));
                    refused.insert(corrupt.detail);
                }
            }
        }
    }
    assert!(refused.len() > 8, "many reasons: {refused:#?}");
}

/// Time never goes back in a journal.
#[test]
fn an_entry_before_its_time_is_corrupt() {
    let mut journal = a_full_life().journal;
    let last = journal.len() - 1;
    let entry = Entry { at: START, ..(*journal[last]).clone() };
    journal[last] = Arc::new(entry);
    assert_eq!(recover(&journal).unwrap_err().detail, "time goes back");
}

/// Receipts are chained: each names the inputs it is the first to cover, and one that was altered breaks the chain.
// S 138, 133
#[test]
fn receipts_are_dense_and_chained() {
    let journal = a_full_life().journal;
    let mut chain = ChainHash::default();
    let mut covered = BTreeSet::new();
    let receipts: Vec<_> = journal.iter().filter_map(|entry| entry.record.receipt()).collect();
    for receipt in &receipts {
        assert_eq!(receipt.chain, receipt.chain_after(chain));
        chain = receipt.chain;
        for input in &receipt.contributing_input_ids {
            assert!(covered.insert(*input), "{input} is in one receipt");
        }
    }
    assert_eq!(recover(&journal).unwrap().chain(), chain);
    let digest = receipts.iter().find_map(|receipt| receipt.conversation_digest.clone()).unwrap();
    assert_eq!(digest.len(), 64, "lower-case hex SHA-256 as the executor reported it");

    for (at, entry) in journal.iter().enumerate() {
        let Record::BoundaryCommitted(boundary) = &entry.record else { continue };
        let mut boundary = (**boundary).clone();
        let mut receipt = (*boundary.receipt).clone();
        receipt.message_count += 1;
        boundary.receipt = Arc::new(receipt);
        let mut altered = journal.clone();
        altered[at] = Arc::new(Entry { record: Record::BoundaryCommitted(Arc::new(boundary)), ..(**entry).clone() });
        let corrupt = recover(&altered).unwrap_err();
        assert_eq!(corrupt.detail, "the chain of receipts is broken");
    }
}

/// A snapshot of another version is refused, not guessed at.
#[test]
fn an_unknown_snapshot_is_refused() {
    let rig = Rig::attached();
    let mut json = serde_json::to_value(rig.session.snapshot()).unwrap();
    json["version"] = 99.into();
    let snapshot = serde_json::from_value(json).unwrap();
    let tail: &[Arc<Entry>] = &[];
    let refused = Session::recover(session_id(), Limits::default(), Arc::new(policy()), Some(&snapshot), tail);
    assert!(refused.unwrap_err().detail.contains("99"));
}

/// The history of an input that went well, read from its journal.
// S 25
#[test]
fn a_good_life_leaves_its_whole_history() {
    let mut rig = Rig::attached();
    rig.tick(1.0);
    rig.accept(prompt("a"));
    rig.tick(1.0);
    rig.boundary();
    rig.tick(1.0);
    rig.done();
    let history: Vec<_> =
        rig.journal.iter().map(|entry| (entry.record.name(), entry.at.since(START).as_secs())).collect();
    let expected = [
        ("session_created", 0),
        ("input_accepted", 1),
        ("run_started", 1),
        ("boundary_committed", 2),
        ("run_ended", 3),
    ];
    assert_eq!(history, expected);
    let receipts: Vec<_> = rig.journal.iter().filter_map(|entry| entry.record.receipt()).collect();
    let sequences: Vec<_> = receipts.iter().map(|receipt| receipt.sequence).collect();
    assert_eq!(sequences, [0, 1]);
    assert_eq!(receipts[0].contributing_input_ids, [input_id("a")]);
}
