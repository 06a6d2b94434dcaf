//! What do the tests of the core share? A session with its journal, a clock in hand, and short names.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod model;

use std::{cell::RefCell, sync::Arc, time::Duration};
use uuid::Uuid;
use windlass_core::{
    AcceptOptions, AcceptOutcome, AttemptId, BoundaryOutput, Continuation, Control, Disposition, Effect, Entry, Event,
    HandlingMode, Incarnation, Input, InputBody, InputId, InputKind, InputOrigin, Limits, OpEvent, OperationId,
    OperationNews, PeerConvention, PolicyTable, ProgressPhase, Reply, RunId, RunReport, RunResult, Session, SessionId,
    Settlement, Snapshot, Step, Terminal, TerminalStatus, Ticket, Timestamp,
    notation::{self, Names},
};

/// The moment at which every test begins.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

/// Inputs by their names, runs numbered as they appear, moments in seconds since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Short {
    runs: RefCell<Vec<RunId>>,
}

impl Names for Short {
    fn input(&self, id: InputId) -> String {
        name_of(id)
    }

    fn run(&self, id: RunId) -> String {
        let mut runs = self.runs.borrow_mut();
        let index = runs.iter().position(|known| *known == id).unwrap_or_else(|| {
            runs.push(id);
            runs.len() - 1
        });
        format!("r{}", index + 1)
    }

    fn moment(&self, at: Timestamp) -> String {
        format!("{:.3}s", at.since(START).as_secs_f64())
    }
}

impl Short {
    /// The text with the names of runs for their ids.
    pub(crate) fn shorten(&self, text: &str) -> String {
        let runs = self.runs.borrow();
        let named = runs.iter().enumerate();
        named.fold(text.to_owned(), |text, (at, run)| text.replace(&run.to_string(), &format!("r{}", at + 1)))
    }

    /// The run of that name, if it has been seen.
    pub(crate) fn run_named(&self, name: &str) -> Option<RunId> {
        let index: usize = name.strip_prefix('r')?.parse().ok()?;
        self.runs.borrow().get(index.checked_sub(1)?).copied()
    }
}

/// The id whose bytes are the name, of which the first sixteen count.
pub(crate) fn input_id(name: &str) -> InputId {
    let mut bytes = [0u8; 16];
    let name = &name[..name.len().min(16)];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    InputId::from_uuid(Uuid::from_bytes(bytes))
}

/// The name whose bytes the id is; the id itself if it is no name.
pub(crate) fn name_of(id: InputId) -> String {
    let bytes = id.as_uuid().as_bytes();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[..end]) {
        Ok(name) if name.bytes().all(|b| b.is_ascii_graphic()) && bytes[end..].iter().all(|b| *b == 0) => {
            name.to_owned()
        }
        _ => id.to_string(),
    }
}

pub(crate) fn session_id() -> SessionId {
    SessionId::from_uuid(Uuid::from_u128(0x1234_5678))
}

/// An input of each kind, with the source that usually sends it.
pub(crate) fn input(kind: InputKind, name: &str) -> Input {
    let id = input_id(name);
    let request_id = || "req".to_owned();
    match kind {
        InputKind::Prompt => Input::prompt(id, START, name),
        InputKind::PeerMessage => Input::peer(id, START, "bob", PeerConvention::Message, name),
        InputKind::PeerRequest => {
            let convention = PeerConvention::Request { request_id: request_id(), intent: "ask".into() };
            Input::peer(id, START, "bob", convention, name)
        }
        InputKind::PeerResponseProgress => {
            let convention =
                PeerConvention::ResponseProgress { request_id: request_id(), phase: ProgressPhase::InProgress };
            Input::peer(id, START, "bob", convention, name)
        }
        InputKind::PeerResponseTerminal => {
            let convention =
                PeerConvention::ResponseTerminal { request_id: request_id(), status: TerminalStatus::Completed };
            Input::peer(id, START, "bob", convention, name)
        }
        InputKind::FlowStep => Input::flow_step(id, START, "flow", 1, "step", name),
        InputKind::ExternalEvent => {
            Input::external_event(id, START, "webhook", "push", serde_json::json!({ "body": name }))
        }
        InputKind::Continuation => {
            let body = Continuation {
                reason: name.into(),
                handling_mode: HandlingMode::Queue,
                request_id: None,
                notices: Vec::new(),
            };
            Input::durable(id, START, InputOrigin::System, InputBody::Continuation(body))
        }
        InputKind::Operation => {
            let operation_id = OperationId::from_uuid(Uuid::from_u128(9));
            let body = OperationNews { operation_id, event: OpEvent::Completed };
            Input::durable(id, START, InputOrigin::System, InputBody::Operation(body))
        }
    }
}

/// A prompt.
pub(crate) fn prompt(name: &str) -> Input {
    input(InputKind::Prompt, name)
}

/// A session, everything it wrote, and a clock in hand.
#[derive(Clone, Debug)]
pub(crate) struct Rig {
    pub(crate) session: Session,
    pub(crate) journal: Vec<Arc<Entry>>,
    pub(crate) settled: Vec<Settlement>,
    pub(crate) now: Timestamp,
    pub(crate) limits: Limits,
    pub(crate) policy: Arc<PolicyTable>,
    pub(crate) names: Short,
    /// What the steps decided since it was last taken.
    pub(crate) out: Vec<String>,
    /// The attempt that was last started.
    pub(crate) attempt: Option<AttemptId>,
    lives: u128,
}

impl Rig {
    pub(crate) fn new(limits: Limits, policy: PolicyTable) -> Rig {
        let policy = Arc::new(policy);
        Rig {
            session: Session::new(session_id(), limits.clone(), Arc::clone(&policy)),
            journal: Vec::new(),
            settled: Vec::new(),
            now: START,
            limits,
            policy,
            names: Short::default(),
            out: Vec::new(),
            attempt: None,
            lives: 0,
        }
    }

    /// A new session under the reference policy.
    pub(crate) fn opened() -> Rig {
        let mut rig = Rig::new(Limits::default(), PolicyTable::reference());
        rig.open();
        rig
    }

    /// As [`Rig::opened`], with an executor.
    pub(crate) fn attached() -> Rig {
        let mut rig = Rig::opened();
        rig.step(Event::Attach { wakes: true });
        rig
    }

    pub(crate) fn step(&mut self, event: Event) {
        drop(self.steps(event));
    }

    /// As [`Rig::step`], and hands over what was decided.
    pub(crate) fn steps(&mut self, event: Event) -> Step {
        let step = self.session.step(self.now, event);
        for effect in &step.effects {
            if let Effect::StartRun(start) = effect {
                self.attempt = Some(start.attempt);
            }
        }
        self.journal.extend(step.entries.iter().cloned());
        self.settled.extend(step.settled.iter().cloned());
        self.out.extend(notation::step(&step, &self.names));
        step
    }

    fn ask(&mut self, event: Event) -> Reply {
        let step = self.steps(event);
        let at_once = step.at_once.into_iter().map(|(_, reply)| reply).next();
        let reply = step.effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { reply, .. } => Some(reply),
            _ => None,
        });
        at_once.or(reply).expect("every question is answered in its own step")
    }

    pub(crate) fn open(&mut self) {
        self.lives += 1;
        let incarnation = Incarnation::from_uuid(Uuid::from_u128(self.lives));
        self.step(Event::Opened { incarnation, agent: None, same_process: false });
    }

    /// Folds the journal from its start: what the session would be in another process.
    pub(crate) fn recovered(&self) -> Session {
        let tail = self.journal.iter();
        Session::recover(session_id(), self.limits.clone(), Arc::clone(&self.policy), None, tail)
            .expect("what a session wrote can be read")
    }

    /// The process dies; another one opens the session.
    pub(crate) fn crash(&mut self) {
        self.session = self.recovered();
        self.open();
    }

    pub(crate) fn tick(&mut self, seconds: f64) {
        self.now = self.now + Duration::from_secs_f64(seconds);
    }

    pub(crate) fn accept(&mut self, input: Input) -> AcceptOutcome {
        self.accept_with(input, AcceptOptions::default())
    }

    pub(crate) fn accept_with(&mut self, input: Input, options: AcceptOptions) -> AcceptOutcome {
        match self.ask(Event::Accept { ticket: Ticket(1), input: Box::new(input), options }) {
            Reply::Accept(outcome) => outcome,
            other => panic!("an accept is answered as one, not by {other:?}"),
        }
    }

    pub(crate) fn control(&mut self, verb: Control) -> Reply {
        self.ask(Event::Control { ticket: Ticket(1), verb })
    }

    pub(crate) fn cancel(&mut self, run: Option<RunId>, disposition: Disposition) -> Reply {
        self.ask(Event::Cancel { ticket: Ticket(1), run, reason: "asked to".into(), disposition })
    }

    pub(crate) fn current(&self) -> AttemptId {
        self.attempt.expect("a run has started")
    }

    pub(crate) fn boundary(&mut self) -> Reply {
        let attempt = self.current();
        self.ask(Event::Boundary { ticket: Ticket(1), attempt, output: BoundaryOutput::default() })
    }

    pub(crate) fn checkpoint(&mut self) -> Reply {
        let attempt = self.current();
        self.ask(Event::Checkpoint { ticket: Ticket(1), attempt })
    }

    pub(crate) fn done(&mut self) {
        let terminal = Terminal::Result(Arc::new(RunResult::text("ok")));
        let report = RunReport::Done { output: BoundaryOutput::default(), terminal };
        let attempt = self.current();
        self.step(Event::RunEnded { attempt, report });
    }

    pub(crate) fn fail(&mut self) {
        let report = RunReport::Failed { error: "boom".into(), retryable: true, retry_after: None };
        let attempt = self.current();
        self.step(Event::RunEnded { attempt, report });
    }

    /// Goes to the next moment at which something is due.
    pub(crate) fn wait(&mut self) {
        let due = self.session.next_due().expect("something is due");
        self.now = self.now.max(due.at);
        self.step(Event::Due);
    }

    /// What was decided since this was last asked.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.out).join("\n")
    }

    /// Asserts that the journal alone tells the whole state, also by way of a snapshot in JSON.
    pub(crate) fn assert_recoverable(&self) {
        let live = self.session.snapshot();
        assert_eq!(self.recovered().snapshot(), live, "the fold of the journal is the live state");
        let json = serde_json::to_string(&live).expect("a snapshot is JSON");
        let back: Snapshot = serde_json::from_str(&json).expect("a snapshot reads back");
        assert_eq!(back, live, "a snapshot survives JSON");
    }
}
