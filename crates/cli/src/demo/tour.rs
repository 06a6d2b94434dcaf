//! What is shown, in which order, and where is the worker killed?
//!
//! The parent. It survives, writes down every answer that it hears before it does anything else, and offers again,
//! under the same ids and keys, whatever was not answered when the worker died: as any careful client would.

use super::{
    acks::{Ack, AckLog, Answer},
    protocol::{News, Order, Point},
};
use crate::{failure::Failure, output, place::session_id};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};
use windlass::{
    AcceptOutcome, CancelOutcome, Clock, Durability, HandlingMode, Input, InputId, PeerConvention, ProgressPhase,
    SystemClock, notation::input_state,
};

/// The longest that any news may take; reaching it is a failure of the demo.
const PATIENCE: Duration = Duration::from_secs(15);
/// The sessions that are busy in the background while the worker is killed.
const BENCHES: [&str; 4] = ["bench-1", "bench-2", "bench-3", "bench-4"];
/// How many prompts each of them gets before a kill, and how many more while the worker stands to be killed.
const BEFORE: u32 = 8;
const DURING: u32 = 2;

/// Tells people what happens, if they want to know.
pub(crate) struct Story {
    told: bool,
}

impl Story {
    pub(crate) fn say(&self, text: impl std::fmt::Display) {
        if self.told {
            // A reader who has left does not end the proof.
            let _ = output::line(text);
        }
    }
}

/// The tour is over.
pub(crate) struct Told {
    pub(crate) kills: u32,
    pub(crate) story: Story,
}

pub(crate) fn lead(dir: &Path, seed: u64, told: bool) -> Result<Told, Failure> {
    let mut tour = Tour {
        dir: dir.to_owned(),
        chance: Chance(seed),
        log: AckLog::create(dir)?,
        worker: Worker::spawn(dir)?,
        story: Story { told },
        unanswered: BTreeMap::new(),
        answers: BTreeMap::new(),
        open: BTreeMap::new(),
        ended: BTreeMap::new(),
        standing: None,
        rests: None,
        kills: 0,
    };
    tour.story.say(format!("A worker (process {}) opened a store in {}.", tour.worker.child.id(), dir.display()));
    tour.await_ready()?;
    tour.admission()?;
    tour.busy()?;
    tour.cancel()?;
    tour.background()?;
    tour.exchange()?;
    tour.killed_during_an_accept()?;
    tour.killed_before_a_boundary()?;
    tour.killed_between_a_boundary_and_the_end()?;
    tour.leave()
}

struct Tour {
    dir: PathBuf,
    chance: Chance,
    log: AckLog,
    worker: Worker,
    story: Story,
    /// Offers without an answer, to be offered again after a kill.
    unanswered: BTreeMap<InputId, (String, Box<Input>)>,
    answers: BTreeMap<InputId, AcceptOutcome>,
    /// Accepted and not known to be over.
    open: BTreeMap<InputId, String>,
    ended: BTreeMap<InputId, (String, String)>,
    standing: Option<Point>,
    /// The last session that rests: what its wakes said, and how often it was opened.
    rests: Option<(String, Vec<String>, u32)>,
    kills: u32,
}

impl Tour {
    fn admission(&mut self) -> Result<(), Failure> {
        self.story.say("\n1. An input is on disk before its sender hears \"accepted\"; everything else is said no to, with a reason.");
        let hello = prompt("Hello, I feel curious").with_key("greeting").map_err(Failure::failed)?;
        let (id, _) = self.offer("desk", hello)?;
        self.show_end(id)?;
        let again = prompt("Hello, I feel curious").with_key("greeting").map_err(Failure::failed)?;
        self.offer("desk", again)?;
        let other = prompt("Something else").with_key("greeting").map_err(Failure::failed)?;
        self.offer("desk", other)?;
        self.offer("desk", prompt("Only Windlass may send these").with_durability(Durability::Derived))?;
        Ok(())
    }

    fn busy(&mut self) -> Result<(), Failure> {
        self.story.say("\n2. While a run is on: steering joins it, prompts queue, newer news replaces older.");
        let (slow, _) = self.offer("desk", prompt("/slow 2"))?;
        let (queued, _) = self.offer("desk", prompt("/echo I waited in the queue"))?;
        let (steering, _) = self.offer("desk", prompt("and hurry").with_mode(HandlingMode::Steer))?;
        for phase in [ProgressPhase::Accepted, ProgressPhase::InProgress] {
            let convention = PeerConvention::ResponseProgress { request_id: "r1".into(), phase };
            let news =
                Input::peer(new_id(), SystemClock.now(), "colleague", convention, format!("request r1: {phase:?}"));
            self.offer("desk", news.superseding("r1").map_err(Failure::failed)?)?;
        }
        for price in ["9 €", "8 €"] {
            let tick = Input::external_event(new_id(), SystemClock.now(), "shop", "price", json!({ "body": price }));
            self.offer("desk", tick.superseding("price").map_err(Failure::failed)?)?;
        }
        let step = Input::flow_step(new_id(), SystemClock.now(), "setup", 1, "one", "only when idle");
        self.offer("desk", step)?;
        for id in [slow, steering, queued] {
            self.show_end(id)?;
        }
        self.await_all()
    }

    fn cancel(&mut self) -> Result<(), Failure> {
        self.story.say("\n3. A run is cancelled in the middle.");
        let (id, _) = self.offer("desk", prompt("/slow 60"))?;
        self.worker.order(&Order::Cancel { session: "desk".into() })?;
        loop {
            match self.take_news()? {
                Some(News::Cancelled { outcome: CancelOutcome::Cancelled { .. } }) => break,
                Some(News::Cancelled { outcome }) => {
                    return Err(Failure::failed(format!("the cancel came to {outcome:?}")));
                }
                _ => {}
            }
        }
        self.show_end(id)
    }

    fn background(&mut self) -> Result<(), Failure> {
        self.story.say("\n4. Work in the background outlives its run, and wakes the session when it is over.");
        for work in ["/bg 2 tea", "/bg 2 toast"] {
            let (id, _) = self.offer("kitchen", prompt(work))?;
            self.show_end(id)?;
        }
        let opened = self.show_rest("kitchen")?;
        let meanwhile = match opened {
            // Only on a machine that is too slow for it to be idle.
            0 | 1 => String::from("It was busy all the while."),
            _ => format!("It was put away meanwhile, and opened {opened} times."),
        };
        self.story.say(format!("  Nobody asked the session. {meanwhile}"));
        Ok(())
    }

    fn exchange(&mut self) -> Result<(), Failure> {
        self.story.say("\n5. One session asks another: what a peer sends is an input like any other.");
        self.worker.order(&Order::Exchange { from: "ship".into(), to: "lighthouse".into() })?;
        loop {
            if let Some(News::Exchanged { answer, heard }) = self.take_news()? {
                self.story.say("  ship asks lighthouse: Can you see the fog?");
                self.story.say(format!("  lighthouse answers: {answer}\n  ship makes of it: {heard}"));
                return Ok(());
            }
        }
    }

    fn killed_during_an_accept(&mut self) -> Result<(), Failure> {
        self.story.say("\n6. The worker is killed during an accept.");
        let at = self.chance.one_of([Point::BeforeAcceptance, Point::AfterAcceptance]);
        self.keep_benches_busy(BEFORE)?;
        let id = self.stand("door", at, prompt("/echo I was not answered at first"))?;
        self.kill_and_reopen()?;
        match self.answers.get(&id) {
            Some(AcceptOutcome::Deduplicated { .. }) => {
                self.story.say("  Offered again, it is recognised: it had been written, only the answer was lost.");
            }
            _ => self
                .story
                .say("  Offered again, it is accepted: nothing had been written, and nobody had been told so."),
        }
        self.show_end(id)?;
        self.await_all()
    }

    fn killed_before_a_boundary(&mut self) -> Result<(), Failure> {
        self.story.say("\n7. The worker is killed before a boundary: the run has an answer and has not committed it.");
        self.keep_benches_busy(BEFORE)?;
        let id = self.stand("ferry", Point::BeforeBoundary, prompt("/echo I ran twice and was committed once"))?;
        self.kill_and_reopen()?;
        self.show_end(id)?;
        self.await_all()
    }

    fn killed_between_a_boundary_and_the_end(&mut self) -> Result<(), Failure> {
        self.story.say("\n8. The worker is killed between a boundary and the run's end, with work in the background.");
        let at = self.chance.one_of([Point::AfterBoundary, Point::BeforeEnd]);
        for work in ["/bg 60 stew", "/bg 60 bread"] {
            let (id, _) = self.offer("oven", prompt(work))?;
            self.show_end(id)?;
        }
        self.keep_benches_busy(BEFORE)?;
        let id = self.stand("bridge", at, prompt("/slow 2"))?;
        self.kill_and_reopen()?;
        self.show_rest("oven")?;
        self.show_end(id)?;
        self.await_all()
    }

    fn leave(mut self) -> Result<Told, Failure> {
        self.await_all()?;
        self.worker.order(&Order::Leave)?;
        self.worker.done()?;
        Ok(Told { kills: self.kills, story: self.story })
    }

    /// Offers an input, hears the answer and shows both.
    fn offer(&mut self, session: &str, input: Input) -> Result<(InputId, AcceptOutcome), Failure> {
        let (id, what) = (input.id(), describe(&input));
        self.send(session, input)?;
        while self.unanswered.contains_key(&id) {
            self.take_news()?;
        }
        let outcome = self.answers[&id].clone();
        self.story.say(format!("  {what}\n      -> {}", words(&outcome)));
        Ok((id, outcome))
    }

    fn send(&mut self, session: &str, input: Input) -> Result<(), Failure> {
        self.unanswered.insert(input.id(), (session.to_owned(), Box::new(input.clone())));
        self.worker.order(&Order::Accept { session: session.to_owned(), input: Box::new(input) })
    }

    fn keep_benches_busy(&mut self, prompts: u32) -> Result<(), Failure> {
        for n in 0..prompts {
            for bench in BENCHES {
                self.send(bench, prompt(&format!("/echo {bench} {n}")))?;
            }
        }
        Ok(())
    }

    /// Tells the worker to stand at a point, and waits until it does.
    fn stand(&mut self, session: &str, at: Point, input: Input) -> Result<InputId, Failure> {
        let (id, what) = (input.id(), describe(&input));
        self.worker.order(&Order::Stand { session: session.to_owned(), at })?;
        self.send(session, input)?;
        self.standing = None;
        while self.standing.is_none() {
            self.take_news()?;
        }
        self.story.say(format!("  {what}\n      -> it stands {}.", place(at)));
        // More arrives while it stands; some of it is answered, some is not.
        self.keep_benches_busy(DURING)?;
        for _ in 0..self.chance.below(8) {
            self.take_news_within(Duration::from_millis(20))?;
        }
        Ok(id)
    }

    fn kill_and_reopen(&mut self) -> Result<(), Failure> {
        let old = self.worker.child.id();
        self.worker.child.kill()?;
        self.worker.child.wait()?;
        self.kills += 1;
        // What it said before it died was said.
        while self.take_news_within(PATIENCE)?.is_some() {}
        self.worker = Worker::spawn(&self.dir)?;
        let unanswered = self.unanswered.len();
        let resumed = self.await_ready()?;
        self.story.say(format!(
            "  SIGKILL to process {old}. Process {} opens the store: {resumed} sessions go on by themselves, and I offer \
             again the {unanswered} inputs that were not answered.",
            self.worker.child.id(),
        ));
        for (session, input) in std::mem::take(&mut self.unanswered).into_values() {
            self.send(&session, *input)?;
        }
        for (input, session) in &self.open {
            self.worker.order(&Order::Await { session: session.clone(), input: *input })?;
        }
        while !self.unanswered.is_empty() {
            self.take_news()?;
        }
        Ok(())
    }

    fn await_ready(&mut self) -> Result<usize, Failure> {
        loop {
            if let Some(News::Ready { resumed }) = self.take_news()? {
                return Ok(resumed);
            }
        }
    }

    fn await_all(&mut self) -> Result<(), Failure> {
        while !self.unanswered.is_empty() || !self.open.is_empty() {
            self.take_news()?;
        }
        Ok(())
    }

    fn show_end(&mut self, id: InputId) -> Result<(), Failure> {
        let id = match &self.answers[&id] {
            AcceptOutcome::Deduplicated { existing_id, .. } => *existing_id,
            _ => id,
        };
        while !self.ended.contains_key(&id) {
            self.take_news()?;
        }
        let (how, text) = &self.ended[&id];
        self.story.say(format!("  {how}: {text}"));
        Ok(())
    }

    /// Waits until nothing of the session is in the background any more, and shows what it said of it. Returns how often
    /// this worker has opened it.
    fn show_rest(&mut self, session: &str) -> Result<u32, Failure> {
        self.worker.order(&Order::Rest { session: session.to_owned() })?;
        loop {
            if let Some((of, told, opened)) = self.rests.take()
                && of == session
            {
                for words in told {
                    self.story.say(format!("  woken: {words}"));
                }
                return Ok(opened);
            }
            self.take_news()?;
        }
    }

    /// The next news, which must come; none: the worker has said its last.
    fn take_news(&mut self) -> Result<Option<News>, Failure> {
        match self.take_news_within(PATIENCE)? {
            Some(news) => Ok(Some(news)),
            None => Err(Failure::failed("the worker is silent or gone").hint("WINDLASS_LOG=info windlass demo")),
        }
    }

    /// Takes in one piece of news. An answer is on disk, in our own log, before anything else is done.
    fn take_news_within(&mut self, patience: Duration) -> Result<Option<News>, Failure> {
        let news = match self.worker.news.recv_timeout(patience) {
            Ok(news) => news,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(None),
        };
        match &news {
            News::Answer { session, input, outcome } => {
                let answer = answer(outcome);
                self.log.write(&Ack { session: session_id(session), input: *input, answer })?;
                self.unanswered.remove(input);
                self.answers.insert(*input, outcome.clone());
                let waits_for = match outcome {
                    AcceptOutcome::Accepted { .. } => Some(*input),
                    AcceptOutcome::Deduplicated { existing_id, .. } => Some(*existing_id),
                    AcceptOutcome::Rejected { .. } => None,
                };
                if let Some(id) = waits_for.filter(|id| !self.ended.contains_key(id)) {
                    self.open.insert(id, session.clone());
                }
            }
            News::Ended { input, how, text } => {
                self.open.remove(input);
                self.ended.insert(*input, (how.clone(), text.clone()));
            }
            News::Standing { at } => self.standing = Some(*at),
            News::Rests { session, told, opened } => self.rests = Some((session.clone(), told.clone(), *opened)),
            News::Trouble { error } => return Err(Failure::failed(format!("the worker: {error}"))),
            News::Ready { .. } | News::Cancelled { .. } | News::Exchanged { .. } => {}
        }
        Ok(Some(news))
    }
}

/// The worker process, as its parent holds it.
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    news: Receiver<News>,
}

impl Worker {
    fn spawn(dir: &Path) -> Result<Worker, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("demo-worker")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().expect("it was asked to be a pipe")).lines();
        let (sender, news) = channel();
        // Ends with the worker, whose end closes the pipe. A line cut short by a kill was not said.
        std::thread::spawn(move || {
            for said in lines.map_while(Result::ok) {
                let Ok(said) = serde_json::from_str(&said) else { break };
                if sender.send(said).is_err() {
                    break;
                }
            }
        });
        Ok(Worker { child, orders, news })
    }

    fn order(&mut self, order: &Order) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(order).map_err(Failure::failed)?;
        line.push(b'\n');
        let pipe = self.orders.as_mut().expect("orders are given before it is let go");
        pipe.write_all(&line).map_err(|error| Failure::failed(format!("the worker takes no orders: {error}")))
    }

    fn done(&mut self) -> Result<(), Failure> {
        self.orders = None;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(Failure::failed(format!("the worker ended with {status}"))) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): a seed names a tour.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_of<const N: usize>(&mut self, points: [Point; N]) -> Point {
        points[self.below(N as u64) as usize]
    }
}

fn new_id() -> InputId {
    InputId::from_uuid(uuid::Uuid::now_v7())
}

fn prompt(text: &str) -> Input {
    Input::prompt(new_id(), SystemClock.now(), text)
}

fn describe(input: &Input) -> String {
    let key = input.header.idempotency_key.as_ref().map_or_else(String::new, |key| format!(", key {key}"));
    let scope = input.header.supersession_key.as_ref().map_or_else(String::new, |key| format!(", scope {key}"));
    let steer = if input.handling_mode() == Some(HandlingMode::Steer) { ", steering" } else { "" };
    let derived = if input.header.durability == Durability::Derived { ", derived" } else { "" };
    let text = windlass::agent::transcript::said(input);
    format!("{} \"{text}\"{steer}{derived}{key}{scope}", input.kind().as_str())
}

fn words(outcome: &AcceptOutcome) -> String {
    match outcome {
        AcceptOutcome::Accepted { state, ahead: 0, .. } => format!("accepted, {}", input_state(*state)),
        AcceptOutcome::Accepted { state, ahead, .. } => {
            format!("accepted, {}, {ahead} ahead of it", input_state(*state))
        }
        AcceptOutcome::Deduplicated { state, .. } => {
            format!("deduplicated: it is there already, {}", input_state(*state))
        }
        AcceptOutcome::Rejected { reason } => format!("rejected ({}): {reason}", reason.code()),
    }
}

fn answer(outcome: &AcceptOutcome) -> Answer {
    match outcome {
        AcceptOutcome::Accepted { .. } => Answer::Accepted,
        AcceptOutcome::Deduplicated { existing_id, .. } => Answer::Deduplicated { existing: *existing_id },
        AcceptOutcome::Rejected { reason } => Answer::Rejected { code: reason.code().into() },
    }
}

fn place(at: Point) -> &'static str {
    match at {
        Point::BeforeAcceptance => "before the acceptance is on disk, and nobody has been answered",
        Point::AfterAcceptance => "with the acceptance on disk, and nobody has been answered",
        Point::BeforeBoundary => "before the boundary is on disk",
        Point::AfterBoundary => "with the first boundary on disk, in the middle of the run",
        Point::BeforeEnd => "with the first boundary on disk, before the run's end is",
    }
}
