//! What does the machine of one session cost by itself? Shown for people; no targets.

use crate::{
    Bench, alloc,
    report::{Figure, Sample},
    scenario::{median, prompt},
};
use std::{hint::black_box, sync::Arc, time::Instant};
use uuid::Uuid;
use windlass_core::{
    AcceptOptions, BoundaryOutput, Control, Effect, Entry, Event, Fence, Incarnation, Input, Limits, PolicyTable,
    Record, RunReport, Session, SessionId, Step, Terminal, Ticket, Timestamp,
};
use windlass_runtime::store::{Append, IndexChange, SessionStatus};

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(10_000, 2_000);
    let [early, late] = bench.samples(|| {
        let times = Driver::new().round_trips(n + 400);
        Ok([median(times[200..600].to_vec()), median(times[n - 200..].to_vec())])
    })?;
    let mut figures = vec![
        Figure::new("core", "none", "accept + end of run, after 400", "us", &early),
        Figure::new("core", "none", format!("accept + end of run, after {n}"), "us", &late),
    ];
    for depth in [0, 1_000, 10_000] {
        let [accept] = bench.samples(|| Ok([median(Driver::holding(depth).accepts(1_000))]))?;
        figures.push(Figure::new("core", "none", format!("accept with {depth} waiting"), "us", &accept));
    }
    let bytes = |work: &dyn Fn(&mut Driver)| {
        let mut driver = Driver::new();
        let _ = driver.tell(Event::Control { ticket: Ticket(0), verb: Control::Hold });
        driver.journal.reserve(4 * n);
        alloc::count(true);
        work(&mut driver);
        let bytes = alloc::live() as f64 / n as f64;
        alloc::count(false);
        black_box(&driver);
        bytes
    };
    let [queued] = bench.samples(|| Ok([bytes(&|driver| drop(driver.accepts(n)))]))?;
    figures.push(Figure::new("core", "none", format!("per input of {n} queued, its entry kept"), "B", &queued));
    for (name, keyed) in [("per finished input, its entries not kept", false), ("the same, keyed", true)] {
        let sample: Sample = (0..bench.runs).map(|_| settled_bytes(n, keyed)).collect();
        figures.push(Figure::new("core", "none", name, "B", &sample));
    }
    Ok(figures)
}

fn settled_bytes(n: usize, keyed: bool) -> f64 {
    let mut driver = Driver::new();
    driver.keep = false;
    driver.round_trips(10);
    alloc::count(true);
    for index in 0..n {
        let input = prompt();
        let input =
            if keyed { input.with_key(&format!("key-{index}")).expect("a key of visible ASCII") } else { input };
        driver.round_trip(input);
    }
    let bytes = alloc::live() as f64 / n as f64;
    alloc::count(false);
    black_box(&driver);
    bytes
}

/// Drives a session with no time lost between event and effect.
pub(super) struct Driver {
    pub(super) session: Session,
    pub(super) journal: Vec<Arc<Entry>>,
    keep: bool,
    now: i64,
}

impl Driver {
    /// Open, and nobody there to run anything.
    pub(super) fn unattended(agent: Option<Arc<str>>) -> Driver {
        let limits = Limits { queued: 100_000, ..Limits::default() };
        let session = Session::new(SessionId::from_uuid(Uuid::now_v7()), limits, Arc::new(PolicyTable::reference()));
        let mut driver = Driver { session, journal: Vec::new(), keep: true, now: 1_700_000_000_000_000 };
        let incarnation = Incarnation::from_uuid(Uuid::now_v7());
        drop(driver.tell(Event::Opened { incarnation, same_process: false, agent }));
        driver
    }

    fn new() -> Driver {
        let mut driver = Driver::unattended(None);
        drop(driver.tell(Event::Attach { wakes: true }));
        driver
    }

    /// Held, with `depth` inputs waiting.
    pub(super) fn holding(depth: usize) -> Driver {
        let mut driver = Driver::new();
        let _ = driver.tell(Event::Control { ticket: Ticket(0), verb: Control::Hold });
        driver.accepts(depth);
        driver
    }

    /// What its owner would have the store append.
    pub(super) fn append(&self, fence: Fence, entries: Vec<Arc<Entry>>) -> Append {
        let accepted = |entry: &Arc<Entry>| match &entry.record {
            Record::InputAccepted(accepted) => Some(IndexChange::Accepted {
                input: accepted.input.header.id,
                key: accepted.input.header.idempotency_key.clone(),
                kind: accepted.input.kind(),
                seq: entry.seq,
            }),
            _ => None,
        };
        let status = SessionStatus {
            held: self.session.is_held(),
            open_inputs: self.session.open_inputs(),
            pending: self.session.open_inputs() > 0 && !self.session.is_held(),
            agent: self.session.agent().cloned(),
            ..SessionStatus::default()
        };
        Append {
            session: self.session.id(),
            fence,
            index: entries.iter().filter_map(accepted).collect(),
            entries,
            status,
        }
    }

    fn tell(&mut self, event: Event) -> Step {
        self.now += 1;
        let mut step = self.session.step(Timestamp::from_micros(self.now), event);
        if self.keep {
            self.journal.append(&mut step.entries);
        }
        step
    }

    /// What accepting this input writes.
    pub(super) fn accept(&mut self, input: Input) -> Vec<Arc<Entry>> {
        let before = self.journal.len();
        drop(self.offer(input));
        self.journal[before..].to_vec()
    }

    fn offer(&mut self, input: Input) -> Step {
        self.tell(Event::Accept { ticket: Ticket(1), input: Box::new(input), options: AcceptOptions::default() })
    }

    pub(super) fn accepts(&mut self, n: usize) -> Vec<f64> {
        (0..n)
            .map(|_| {
                let input = prompt();
                let start = Instant::now();
                drop(self.offer(input));
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect()
    }

    fn round_trip(&mut self, input: Input) {
        let step = self.offer(input);
        let attempt = step.effects.iter().find_map(|effect| match effect {
            Effect::StartRun(start) => Some(start.attempt),
            _ => None,
        });
        let attempt = attempt.expect("an attached idle session runs a prompt at once");
        let report = RunReport::Done { output: BoundaryOutput::default(), terminal: Terminal::NoResult };
        drop(self.tell(Event::RunEnded { attempt, report }));
    }

    fn round_trips(&mut self, n: usize) -> Vec<f64> {
        (0..n)
            .map(|_| {
                let input = prompt();
                let start = Instant::now();
                self.round_trip(input);
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect()
    }
}
