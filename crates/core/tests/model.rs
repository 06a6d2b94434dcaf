//! Does a session do what the naive model says, whatever happens to it?
//!
//! Random events go to both; after each, answers, ends, lanes, states, run and timers are compared. On the way: every
//! prefix of the journal folds to the state the session had then, every accepted input is accounted for once, receipts
//! are dense and name each input once, and no input is started more often than the limit allows.
//!
//! The same cases run every time. `PROPTEST_RNG_SEED=7 PROPTEST_CASES=100000` runs others; what fails is kept in
//! `proptest-regressions` and runs first from then on.

mod common;

use common::{
    START, input_id,
    model::{Hints, Model},
    name_of, session_id,
};
use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::FileFailurePersistence};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use uuid::Uuid;
use windlass_core::{
    AcceptOptions, AttemptId, BoundaryOutput, Control, Decision, Deliver, Disposition, Durability, Effect, Entry,
    Event, HandlingMode, Incarnation, Input, InputId, InputKind, InputOrigin, Join, JsonText, Lane, Limits, Merge,
    OnBusy, PolicyTable, Profile, ProfileChange, Record, Reply, Row, RunEnd, RunId, RunReport, RunResult, Session,
    Snapshot, SourceKind, Step, Terminal, Ticket, Timestamp, notation,
};

/// What happens to a session, with attempts and runs still to be filled in.
#[derive(Clone)]
enum Op {
    Accept(Box<Input>, AcceptOptions),
    Withdraw(InputId),
    Attach(bool),
    Detach,
    Checkpoint,
    Boundary,
    Ended(RunReport),
    /// The executor that was told to stop has stopped.
    Returned,
    /// The last attempt but one reports.
    Late(RunReport),
    Cancel(Target, Disposition),
    Release,
    Control(Control),
    Tick(u64),
    Back(u64),
    Due,
    /// On to when something is due.
    Wait,
    Crash,
    /// The store failed: the same process opens the session again.
    Reopen,
}

/// One line each, so that a failure can be read.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Accept(input, options) => {
                let header = &input.header;
                write!(f, "accept {} {} {:?}", name_of(header.id), input.kind().as_str(), header.durability)?;
                write!(f, " from {:?} mode {:?}", SourceKind::from(&header.source), input.handling_mode())?;
                write!(f, " key {:?} scope {:?}", header.idempotency_key, header.supersession_key)?;
                let no_wake = if options.without_wake { " no-wake" } else { "" };
                let aside = if options.aside { " aside" } else { "" };
                write!(f, "{no_wake}{aside}{}", if options.pinned { " pinned" } else { "" })
            }
            Op::Withdraw(input) => write!(f, "withdraw {}", name_of(*input)),
            Op::Attach(wakes) => write!(f, "attach {wakes}"),
            Op::Detach => f.write_str("detach"),
            Op::Checkpoint => f.write_str("checkpoint"),
            Op::Boundary => f.write_str("boundary"),
            Op::Ended(RunReport::Done { .. }) => f.write_str("done"),
            Op::Ended(report) => write!(f, "ended {report:?}"),
            Op::Returned => f.write_str("returned"),
            Op::Late(_) => f.write_str("late"),
            Op::Cancel(target, disposition) => write!(f, "cancel {target:?} {disposition:?}"),
            Op::Release => f.write_str("release"),
            Op::Control(verb) => write!(f, "{verb:?}"),
            Op::Tick(millis) => write!(f, "tick {millis}"),
            Op::Back(millis) => write!(f, "back {millis}"),
            Op::Due => f.write_str("due"),
            Op::Wait => f.write_str("wait"),
            Op::Crash => f.write_str("crash"),
            Op::Reopen => f.write_str("reopen"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Any,
    Current,
    Last,
    Unknown,
}

/// A policy in which every rule is used by somebody.
fn policy() -> PolicyTable {
    let mut policy = PolicyTable::reference();
    let row = |kind, source, busy, decision| Row { kind: Some(kind), mode: None, source: Some(source), busy, decision };
    let queue = Decision::QUEUE;
    let events = |source, merge| row(InputKind::ExternalEvent, source, None, Decision { merge, ..queue.clone() });
    let debounce = Merge::Debounce { window: Duration::from_secs(5), max: Duration::from_secs(12) };
    let interrupt = Decision { on_busy: OnBusy::Interrupt, ..queue.clone() };
    let steering = Decision { on_busy: OnBusy::Interrupt, ..Decision::STEER };
    policy.rows.splice(
        0..0,
        [
            events(SourceKind::External, Merge::Supersede),
            events(SourceKind::Flow, debounce),
            events(SourceKind::Peer, Merge::Coalesce { join: Join::Append }),
            row(InputKind::FlowStep, SourceKind::Flow, Some(true), interrupt),
            row(InputKind::FlowStep, SourceKind::External, Some(true), steering),
            row(
                InputKind::Prompt,
                SourceKind::System,
                Some(true),
                Decision { on_busy: OnBusy::Reject, ..queue.clone() },
            ),
            row(
                InputKind::Prompt,
                SourceKind::External,
                None,
                Decision { deliver: Deliver::Context, wake: false, ..queue.clone() },
            ),
            row(InputKind::Prompt, SourceKind::Peer, None, Decision { priority: 2, ..queue.clone() }),
            row(InputKind::PeerMessage, SourceKind::System, None, Decision { priority: 1, ..Decision::STEER }),
            row(
                InputKind::PeerMessage,
                SourceKind::External,
                None,
                Decision { overtake: windlass_core::Overtake::OtherSources, ..Decision::STEER },
            ),
        ],
    );
    policy
}

fn limits() -> Limits {
    Limits {
        queued: 6,
        steered: 4,
        aside: 3,
        aside_ttl: Duration::from_secs(40),
        batch: 4,
        attempts: 3,
        backoff: Duration::from_secs(1),
        backoff_max: Duration::from_secs(3),
        settled_kept: 9,
        settled_ttl: Duration::from_secs(60),
        ageing: Duration::from_secs(10),
        lookahead: 2,
        ..Limits::default()
    }
}

fn an_input() -> impl Strategy<Value = Input> {
    let source = select(vec![
        InputOrigin::Operator,
        InputOrigin::Peer { peer_id: "bob".into(), runtime_id: None },
        InputOrigin::Flow { flow_id: "flow".into(), step_index: 0 },
        InputOrigin::System,
        InputOrigin::External { source_name: "hook".into() },
    ]);
    let durability = prop_oneof![
        6 => Just(Durability::Durable),
        2 => Just(Durability::Ephemeral),
        1 => Just(Durability::Derived),
    ];
    let mode = prop_oneof![
        3 => Just(None),
        1 => Just(Some(HandlingMode::Queue)),
        2 => Just(Some(HandlingMode::Steer)),
    ];
    let kind = prop_oneof![
        3 => Just(InputKind::Prompt),
        4 => Just(InputKind::ExternalEvent),
        2 => Just(InputKind::PeerResponseProgress),
        6 => select(InputKind::ALL.to_vec()),
    ];
    let (key, scope) = (option::weighted(0.3, 0..6u8), option::weighted(0.5, 0..2u8));
    (0..40u8, kind, option::weighted(0.6, source), durability, mode, key, scope).prop_map(
        |(name, kind, source, durability, mode, key, scope)| {
            let mut input = common::input(kind, &format!("i{name}")).with_durability(durability);
            if let Some(source) = source {
                input = input.from_origin(source);
            }
            if let Some(mode) = mode {
                input = input.with_mode(mode);
            }
            if let Some(key) = key {
                input = input.with_key(&format!("k{key}")).unwrap();
            }
            if let Some(scope) = scope {
                input = input.superseding(&format!("s{scope}")).unwrap();
            }
            input
        },
    )
}

/// A profile as it may be, and one that would take the session from its tenant.
fn shown() -> Profile {
    Profile { labels: [("team".to_owned(), "support".to_owned())].into(), keep_alive: true, ..Profile::default() }
}

fn stolen() -> Profile {
    Profile { tenant: Some("thief".into()), ..Profile::default() }
}

fn options() -> impl Strategy<Value = AcceptOptions> {
    let likely = prop::bool::weighted;
    (likely(0.15), likely(0.1), likely(0.05)).prop_map(|(without_wake, pinned, aside)| AcceptOptions {
        without_wake,
        pinned,
        aside,
        redrive_of: None,
    })
}

fn report() -> impl Strategy<Value = RunReport> {
    let failed = |retryable, after| RunReport::Failed { error: "boom".into(), retryable, retry_after: after };
    let done = RunReport::Done {
        output: BoundaryOutput::default(),
        terminal: Terminal::Result(Arc::new(RunResult::text("ok"))),
    };
    prop_oneof![
        5 => Just(done),
        4 => Just(failed(true, None)),
        1 => Just(failed(true, Some(Duration::from_secs(6)))),
        1 => Just(failed(false, None)),
        1 => Just(RunReport::CallerGone),
    ]
}

fn change() -> impl Strategy<Value = ProfileChange> {
    let intents = option::of(select(vec![vec![], vec!["ask".to_owned()]]));
    // One that was read in another tenant is never what is there.
    let since = option::weighted(0.2, Just((stolen(), Vec::new())));
    (option::of(any::<bool>()), option::of(Just(shown().labels)), intents, since).prop_map(
        |(keep_alive, labels, silent_intents, since)| ProfileChange {
            labels,
            keep_alive,
            policy: None,
            silent_intents,
            since,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let verb = prop_oneof![
        2 => any::<bool>().prop_map(|will_drain| Control::Retire { will_drain }),
        1 => Just(Control::Stop),
        3 => Just(Control::Revive),
        3 => any::<bool>().prop_map(|force| Control::Reset { force }),
        2 => Just(Control::Recycle),
        2 => Just(Control::Hold),
        4 => Just(Control::Release),
        1 => select(vec![vec![], vec!["ask".to_owned()]]).prop_map(Control::SetSilentIntents),
        1 => select(vec![Profile::default(), shown(), stolen()]).prop_map(|profile| Control::SetProfile(Arc::new(profile))),
        1 => change().prop_map(|change| Control::Change(Box::new(change))),
        1 => Just(Control::Note(JsonText::encode(&"note").unwrap())),
    ];
    let target = select(vec![Target::Any, Target::Current, Target::Last, Target::Unknown]);
    let disposition = select(vec![Disposition::Drop, Disposition::Requeue]);
    prop_oneof![
        30 => (an_input(), options()).prop_map(|(input, options)| Op::Accept(Box::new(input), options)),
        3 => (0..40u8).prop_map(|name| Op::Withdraw(input_id(&format!("i{name}")))),
        6 => any::<bool>().prop_map(Op::Attach),
        1 => Just(Op::Detach),
        7 => Just(Op::Checkpoint),
        7 => Just(Op::Boundary),
        22 => report().prop_map(Op::Ended),
        7 => Just(Op::Returned),
        2 => report().prop_map(Op::Late),
        4 => (target, disposition).prop_map(|(target, disposition)| Op::Cancel(target, disposition)),
        2 => Just(Op::Release),
        7 => verb.prop_map(Op::Control),
        5 => (0..9_000u64).prop_map(Op::Tick),
        1 => (0..60_000u64).prop_map(Op::Tick),
        2 => (0..20_000u64).prop_map(Op::Back),
        3 => Just(Op::Due),
        8 => Just(Op::Wait),
        3 => Just(Op::Crash),
        1 => Just(Op::Reopen),
    ]
}

/// A session and its model, side by side.
struct Pair {
    session: Session,
    model: Model,
    policy: Arc<PolicyTable>,
    now: Timestamp,
    journal: Vec<Arc<Entry>>,
    /// The state after each entry that ended a step.
    snapshots: Vec<Snapshot>,
    /// All attempts that were started.
    attempts: Vec<AttemptId>,
    accepted: BTreeMap<InputId, bool>,
}

impl Pair {
    fn new() -> Pair {
        let policy = Arc::new(policy());
        let mut pair = Pair {
            session: Session::new(session_id(), limits(), Arc::clone(&policy)),
            model: Model::new(limits(), PolicyTable::clone(&policy), START),
            policy,
            now: START,
            journal: Vec::new(),
            snapshots: Vec::new(),
            attempts: Vec::new(),
            accepted: BTreeMap::new(),
        };
        pair.drive(opened(false), |_| {});
        pair
    }

    /// The same event to both, then compare.
    fn drive(&mut self, event: Event, model: impl FnOnce(&mut Model)) {
        let step = self.session.step(self.now, event);
        let ended = step.entries.iter().rev().find_map(|entry| match &entry.record {
            Record::RunEnded(ended) => Some(&ended.end),
            _ => None,
        });
        let retry_at = match ended {
            Some(RunEnd::Failed { retry_at, .. }) => *retry_at,
            _ => None,
        };
        let started = step.effects.iter().find_map(|effect| match effect {
            Effect::StartRun(start) => Some(start.attempt),
            _ => None,
        });
        self.model.begin(self.now, Hints { retry_at, started: started.map(|attempt| attempt.run) });
        model(&mut self.model);
        self.model.finish();
        self.attempts.extend(started);
        self.compare(&step);
        self.account(&step);
    }

    fn compare(&self, step: &Step) {
        let (session, model) = (&self.session, &self.model);
        let replies = step.at_once.iter().map(|(_, reply)| reply);
        let replies = replies.chain(step.effects.iter().filter_map(|effect| match effect {
            Effect::Reply { reply, .. } => Some(reply),
            _ => None,
        }));
        let replies: Vec<_> = replies.map(in_words).collect();
        assert_eq!(replies, model.reply.iter().cloned().collect::<Vec<_>>(), "the answer");

        let names = common::Short::default();
        let mut ends: Vec<_> =
            step.settled.iter().map(|end| (end.input, notation::outcome(&end.outcome, &names))).collect();
        let mut expected = model.ends.clone();
        ends.sort();
        expected.sort();
        assert_eq!(ends, expected, "what ended");

        let start = step.effects.iter().find_map(|effect| match effect {
            Effect::StartRun(start) => Some(start),
            _ => None,
        });
        let ids = |inputs: &[Arc<windlass_core::Accepted>]| inputs.iter().map(|a| a.input.id()).collect::<Vec<_>>();
        let start = start.map(|start| (start.attempt, ids(&start.inputs), ids(&start.context)));
        assert_eq!(start, model.start, "what started");
        let told = step.effects.iter().find_map(|effect| match effect {
            Effect::StopRun { attempt, .. } => Some(*attempt),
            _ => None,
        });
        assert_eq!(told, model.stop, "what was told to stop");

        for lane in [Lane::Steer, Lane::Queue, Lane::Aside] {
            assert_eq!(session.lane(lane), model.lane(lane), "the {lane}");
        }
        for (id, state) in session.active_inputs() {
            assert_eq!(Some(&*notation::input_state(state)), model.state(id), "the state of {}", name_of(id));
        }
        for id in (0..40).map(|n| input_id(&format!("i{n}"))) {
            let state = session.input_state(id).map(notation::input_state);
            assert_eq!(state.as_deref(), model.state(id), "the state of {}", name_of(id));
            let explanation = session.explain(id, self.now);
            assert_eq!(explanation.state, session.input_state(id));
        }
        assert_eq!(notation::runtime_state(session.state()), model.runtime_state());
        assert_eq!(session.current_run(), model.run.as_ref().map(|run| run.id), "the run");
        assert_eq!(session.current_attempt(), model.current(), "the attempt");
        assert_eq!(session.next_due().map(|due| due.at), model.next_due(), "what is due");
    }

    /// Keeps the books: what was accepted is open or over, once.
    fn account(&mut self, step: &Step) {
        for entry in &step.entries {
            if let Record::InputAccepted(accepted) = &entry.record {
                let before = self.accepted.insert(accepted.input.id(), false);
                // An id may come again once it is forgotten.
                assert_ne!(before, Some(false), "accepted while it is open");
            }
        }
        for end in &step.settled {
            let ended = self.accepted.get_mut(&end.input).expect("what ends was accepted");
            assert!(!std::mem::replace(ended, true), "ended twice");
        }
        for (id, ended) in &self.accepted {
            let open = self.session.active_input(*id).is_some();
            assert_eq!(open, !ended, "{} is open or over", name_of(*id));
        }
        self.session.check();
        self.journal.extend(step.entries.iter().cloned());
        if !step.entries.is_empty() {
            self.snapshots.push(self.session.snapshot());
        }
    }

    fn recover(&self, snapshot: Option<&Snapshot>, tail: &[Arc<Entry>]) -> Session {
        Session::recover(session_id(), limits(), Arc::clone(&self.policy), snapshot, tail)
            .expect("what a session wrote can be read")
    }

    fn play(&mut self, op: Op) {
        let ticket = Ticket(1);
        let current = self.model.current();
        let last = self.attempts.last().copied();
        match op {
            Op::Accept(input, options) => {
                let copy = input.clone();
                self.drive(Event::Accept { ticket, input, options }, |model| model.accept(&copy, options));
            }
            Op::Withdraw(input) => self.drive(Event::Withdraw { ticket, input }, |model| model.withdraw(input)),
            Op::Attach(wakes) => self.drive(Event::Attach { wakes }, |model| model.attach(wakes)),
            Op::Detach => self.drive(Event::Detach, |model| model.attached = false),
            Op::Checkpoint => {
                let Some(attempt) = current.or(last) else { return };
                self.drive(Event::Checkpoint { ticket, attempt }, |model| model.checkpoint(attempt));
            }
            Op::Boundary => {
                let Some(attempt) = current.or(last) else { return };
                let output = BoundaryOutput::default();
                self.drive(Event::Boundary { ticket, attempt, output }, |model| model.boundary(attempt));
            }
            Op::Ended(report) => {
                let Some(attempt) = current.or(last) else { return };
                let copy = report.clone();
                self.drive(Event::RunEnded { attempt, report }, |model| model.ended(attempt, &copy));
            }
            Op::Returned => {
                let Some(attempt) = self.model.leaving else { return };
                let report = RunReport::Failed { error: "stopped".into(), retryable: true, retry_after: None };
                let copy = report.clone();
                self.drive(Event::RunEnded { attempt, report }, |model| model.ended(attempt, &copy));
            }
            Op::Late(report) => {
                let Some(attempt) = self.attempts.iter().rev().nth(1).copied() else { return };
                let copy = report.clone();
                self.drive(Event::RunEnded { attempt, report }, |model| model.ended(attempt, &copy));
            }
            Op::Cancel(target, disposition) => {
                let run = match target {
                    Target::Any => None,
                    Target::Current => self.session.current_run(),
                    Target::Last => self.model.last_run,
                    Target::Unknown => Some(RunId::from_uuid(Uuid::from_u128(77))),
                };
                let reason = "asked to".to_owned();
                self.drive(Event::Cancel { ticket, run, reason, disposition }, |model| model.cancel(run, disposition));
            }
            Op::Release => self.drive(Event::Release { reason: "shutting down".into() }, Model::release),
            Op::Control(verb) => {
                let copy = verb.clone();
                self.drive(Event::Control { ticket, verb }, |model| model.control(&copy));
            }
            Op::Tick(millis) => self.now = self.now + Duration::from_millis(millis),
            Op::Back(millis) => self.now = Timestamp::from_micros(self.now.as_micros() - millis as i64 * 1_000),
            Op::Due => self.drive(Event::Due, |_| {}),
            Op::Wait => {
                let Some(due) = self.session.next_due() else { return };
                self.now = self.now.max(due.at);
                self.drive(Event::Due, |_| {});
            }
            Op::Crash | Op::Reopen => {
                let live = self.session.snapshot();
                self.session = self.recover(None, &self.journal);
                assert_eq!(self.session.snapshot(), live, "the fold of the journal is the live state");
                let (last, now) = (self.session.last_at(), self.now);
                let same_process = matches!(op, Op::Reopen);
                self.drive(opened(same_process), |model| model.reopened(last, now, same_process));
            }
        }
    }
}

fn opened(same_process: bool) -> Event {
    Event::Opened { incarnation: Incarnation::from_uuid(Uuid::from_u128(1)), agent: None, same_process }
}

/// The answer without what the model does not know: positions in the lane.
fn in_words(reply: &Reply) -> String {
    let words = notation::reply(reply, &Named);
    let words = words.strip_prefix("reply ").unwrap();
    match reply {
        Reply::Accept(windlass_core::AcceptOutcome::Accepted { state, .. }) => {
            format!("accepted state={}", notation::input_state(*state))
        }
        Reply::Boundary(Ok(_)) => {
            let (_run, rest) = words.strip_prefix("committed ").unwrap().split_once(' ').unwrap();
            format!("committed {rest}")
        }
        _ => words.to_owned(),
    }
}

/// Inputs by their names, runs by their ids.
struct Named;

impl notation::Names for Named {
    fn input(&self, id: InputId) -> String {
        name_of(id)
    }
}

/// Each input is in one receipt at most, receipts are dense per run, and starts stay within the limit.
fn check_journal(journal: &[Arc<Entry>]) {
    let mut receipts: BTreeMap<RunId, u64> = BTreeMap::new();
    let mut covered: BTreeMap<InputId, RunId> = BTreeMap::new();
    let mut starts: BTreeMap<InputId, u32> = BTreeMap::new();
    let mut cancelled: Vec<RunId> = Vec::new();
    let mut members: Vec<InputId> = Vec::new();
    for entry in journal {
        if let Some(receipt) = entry.record.receipt() {
            let next = receipts.entry(receipt.run_id).or_default();
            assert_eq!(receipt.sequence, *next, "receipts of a run are dense");
            *next += 1;
            assert!(!cancelled.contains(&receipt.run_id), "a cancelled run commits nothing");
            for input in &receipt.contributing_input_ids {
                assert_eq!(covered.insert(*input, receipt.run_id), None, "{} is in two receipts", name_of(*input));
            }
            starts.extend(members.iter().map(|input| (*input, 0)));
        }
        match &entry.record {
            Record::InputAccepted(accepted) => {
                covered.remove(&accepted.input.id());
                starts.remove(&accepted.input.id());
            }
            Record::RunStarted(started) => {
                if started.resumes_after.is_none() {
                    members.clear();
                    members.extend(started.inputs.iter().chain(&started.asides));
                }
                for input in &members {
                    let count = starts.entry(*input).or_default();
                    *count += 1;
                    assert!(*count <= limits().attempts, "{} is started too often", name_of(*input));
                }
            }
            Record::RunSteered { run, inputs } => {
                members.extend(inputs);
                // After a boundary the run counts its starts, not the input.
                let counts = u32::from(!receipts.contains_key(run));
                for input in inputs {
                    *starts.entry(*input).or_default() += counts;
                }
            }
            Record::RunEnded(ended) => match &ended.end {
                RunEnd::Cancelled { .. } => {
                    cancelled.push(ended.run);
                    forgive(&mut starts, &members);
                }
                // Nor is what goes with somebody else's run to blame for its end.
                RunEnd::Released { .. } | RunEnd::Failed { fatal: true, retry_at: None, .. } => {
                    forgive(&mut starts, &members);
                }
                _ => {}
            },
            _ => {}
        }
    }
}

fn forgive(starts: &mut BTreeMap<InputId, u32>, members: &[InputId]) {
    for input in members {
        let count = starts.get_mut(input).expect("what was started is counted");
        *count = count.saturating_sub(1);
    }
}

fn config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig {
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/proptest-regressions/model.txt"))),
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = proptest::test_runner::RngSeed::Fixed(179);
    }
    config
}

proptest! {
    #![proptest_config(config(300))]

    // S 179, 170
    #[test]
    fn a_session_does_what_the_model_says(ops in vec(op(), 1..120)) {
        let mut pair = Pair::new();
        for op in ops {
            pair.play(op);
        }
        check_journal(&pair.journal);
    }

    /// Once nothing fails any more and somebody is there to run it, whatever was accepted ends: nothing is parked for ever.
    // S 94, 109, 116, 151
    #[test]
    fn everything_accepted_ends_once_faults_stop(ops in vec(op(), 1..80)) {
        let mut pair = Pair::new();
        for op in ops {
            pair.play(op);
        }
        for op in [Op::Control(Control::Revive), Op::Control(Control::Release), Op::Attach(true)] {
            pair.play(op);
        }
        for _ in 0..400 {
            let terminal = Terminal::Result(Arc::new(RunResult::text("ok")));
            pair.play(if pair.model.leaving.is_some() {
                Op::Returned
            } else if pair.model.current().is_some() {
                Op::Ended(RunReport::Done { output: BoundaryOutput::default(), terminal })
            } else {
                Op::Wait
            });
        }
        prop_assert_eq!(pair.session.active_inputs().collect::<Vec<_>>(), []);
        prop_assert_eq!(pair.session.next_due(), None);
        check_journal(&pair.journal);
    }

    /// What a session is after any entry of its journal can be had from the journal alone, from a snapshot and what
    /// came after it, and from that snapshot's JSON.
    // S 157, 159
    #[test]
    fn every_prefix_of_a_journal_folds_to_the_state_it_left(ops in vec(op(), 1..100), at in any::<prop::sample::Index>()) {
        let mut pair = Pair::new();
        for op in ops {
            pair.play(op);
        }
        let begin = at.get(&pair.snapshots);
        let json = serde_json::to_string(begin).unwrap();
        let begin: Snapshot = serde_json::from_str(&json).unwrap();
        for live in &pair.snapshots {
            let upto = live.head().0 as usize;
            prop_assert_eq!(&pair.recover(None, &pair.journal[..upto]).snapshot(), live);
            let from = begin.head().0 as usize;
            if from <= upto {
                let tail = &pair.journal[from..upto];
                prop_assert_eq!(&pair.recover(Some(&begin), tail).snapshot(), live);
            }
        }
        for entry in &pair.journal {
            let json = serde_json::to_string(entry).unwrap();
            let back: Entry = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&back, &**entry);
        }
    }
}
