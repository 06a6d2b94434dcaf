//! How does an open session live?
//!
//! One loop: take what waits in the mailbox, step each message, make all of it durable in one append, then do what the
//! steps wanted done. Three things are awaited: mailbox, timer, store. Executors run in tasks of their own, but for those
//! that have shown to need none (`turns.rs`).

mod leaving;
mod snapshots;
mod traces;
mod turns;

pub(crate) use leaving::UNREGISTERED;
pub(crate) use turns::{clean_up, panic_text};

use self::{
    snapshots::SinceSnapshot,
    traces::TracedRun,
    turns::{RunningTurn, gone},
};
use crate::{
    completion::{Completion, CompletionHandle},
    creation::NewSession,
    error::SessionError,
    executor::CoreExecutor,
    mailbox::{Admitted, Answer, Attachment, BATCH, Letter, Look, Mailbox, Message, PinnedRun},
    observer::Counted,
    owner::Slot,
    shared::Shared,
    store::{Append, IndexChange, Opened, SessionStatus, StoreError, about_bytes},
    sweep::Named,
    trace::how_of,
    waiters::Waiters,
};
use futures_util::FutureExt;
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use windlass_core::{
    AcceptOutcome, Accepted, AttemptId, Control, Effect, Entry, Event, Fence, Gate, InputId, InputKind,
    OperationReport, OpsLifecycleError, Record, Reply, RunClosed, RunStart, SendRefused, Seq, Session, Step, Ticket,
    Timestamp,
};

pub(crate) struct Actor {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    mailbox: Mailbox,
    session: Session,
    fence: Fence,
    /// What the steps since the last append decided.
    step: Step,
    /// Who asked; a ticket is the index.
    asked: Vec<Asked>,
    /// What looks at the session once its steps are durable.
    looks: Vec<Looking>,
    executor: Option<Arc<dyn CoreExecutor>>,
    /// Whether its last run was over as soon as it was called.
    at_once: bool,
    turn: Option<RunningTurn>,
    /// Cancelled once the executor that was told to stop is gone.
    stopping: Option<CancellationToken>,
    /// The run whose caller runs it himself, on its way to him.
    pinned: Option<RunStart>,
    /// Cuts that run off when it is dropped.
    pinned_cut: Option<(AttemptId, DropGuard)>,
    /// Who waits for inputs that were answered before they are durable.
    early: Vec<(InputId, oneshot::Sender<Completion>)>,
    /// The session was revived, and whoever makes executors has to be asked for one.
    revived: bool,
    since_snapshot: SinceSnapshot,
    made: Instant,
    last_active: Instant,
    /// When the attempt that is on began; kept for who observes.
    run_since: Timestamp,
    /// The attempt that is on, where somebody hears of its trace.
    traced: Option<Box<TracedRun>>,
    _counted: Counted,
}

/// Why an actor ended.
pub(crate) enum Exit {
    /// It let go in good order.
    Done,
    /// It has to be opened again, for an executor.
    Again,
    /// The store failed; what is true stands in the journal.
    Lost(StoreError),
}

enum Asked {
    Nobody,
    Accept { kind: InputKind, wait: bool, pinned: bool, reply: Answer<Admitted>, _named: Option<Named> },
    Withdraw(Answer<windlass_core::WithdrawOutcome>),
    Checkpoint(Answer<Result<Vec<Arc<Accepted>>, RunClosed>>),
    Boundary(Answer<Result<Arc<windlass_core::RunBoundaryReceipt>, RunClosed>>),
    Cancel(Answer<windlass_core::CancelOutcome>),
    Control { verb: Ending, let_go: LetGo, reply: Answer<windlass_core::ControlReport> },
    Operation(Answer<Result<(), OpsLifecycleError>>),
    Send(Answer<Result<(), SendRefused>>),
    Attach(Answer<Attachment>),
}

/// Whether a control verb ends what runs, so that its answer waits until the executor is gone.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    No,
    Run,
    Executor(&'static str),
}

/// The executor that a control verb lets go of.
#[derive(Default)]
struct LetGo {
    executor: Option<Arc<dyn CoreExecutor>>,
    /// The same, if it was attached by hand: given back if the verb could not be made durable.
    by_hand: Option<Arc<dyn CoreExecutor>>,
}

enum Looking {
    Look(Look),
    Watch { input: InputId, waiter: oneshot::Sender<Completion>, reply: Answer<bool> },
    Reported { closed: bool, reply: Answer<Result<(), RunClosed>> },
    Created { made: bool, reply: Answer<bool> },
    Finished(Answer<()>),
}

impl Actor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        slot: Arc<Slot>,
        mailbox: Mailbox,
        session: Session,
        opened: &Opened,
    ) -> Actor {
        let at = opened.snapshot.as_ref().map_or(Seq::ZERO, |(at, _)| *at);
        let bytes = opened.tail.iter().map(|entry| about_bytes(&entry.record) as u64).sum();
        let since_snapshot = SinceSnapshot {
            at,
            records: opened.tail.len() as u64,
            bytes,
            cost: opened.snapshot_bytes,
            under_way: None,
        };
        let counted = Counted::session(shared.observer.as_ref());
        Actor {
            shared,
            slot,
            mailbox,
            session,
            fence: opened.fence,
            step: Step::default(),
            asked: Vec::new(),
            looks: Vec::new(),
            executor: None,
            at_once: false,
            turn: None,
            stopping: None,
            pinned: None,
            pinned_cut: None,
            early: Vec::new(),
            revived: false,
            since_snapshot,
            made: Instant::now(),
            last_active: Instant::now(),
            run_since: Timestamp::ZERO,
            traced: None,
            _counted: counted,
        }
    }

    /// Tells a session that was just made what it is to be; checked before by whoever made it.
    pub(crate) fn begin(&mut self, new: &NewSession) {
        let profile = Arc::new(new.profile.clone());
        for verb in [Control::CreateWith(profile), Control::SetSilentIntents(new.silent_intents.clone())] {
            let ticket = self.ask(Asked::Nobody);
            self.take_step(Event::Control { ticket, verb });
        }
    }

    pub(crate) async fn live(
        &mut self,
        inbox: &mut mpsc::Receiver<Letter>,
        first: &mut Vec<Letter>,
        waiters: &mut Waiters,
    ) -> Exit {
        let mut timer = Box::pin(tokio::time::sleep_until(self.wake_at()));
        loop {
            let mut letters = first.drain(..);
            while let Some(letter) = letters.next() {
                if let Some(leave) = self.receive(*letter) {
                    let late = letters.collect();
                    return Box::pin(self.leave(leave, late, inbox, waiters)).await;
                }
            }
            drop(letters);
            if let Err(error) = self.commit().await {
                return Exit::Lost(error);
            }
            if self.go_on(waiters) {
                gone(self.stop_current_turn()).await;
                return Exit::Again;
            }
            if !self.step.entries.is_empty() {
                // A run is over already. What has come meanwhile shares its append, and other tasks have their turn.
                self.last_active = Instant::now();
                inbox.recv_many(first, BATCH).now_or_never();
                tokio::task::coop::consume_budget().await;
                continue;
            }
            self.set_timer(timer.as_mut());
            tokio::select! {
                biased;
                // Cancel-safe: messages are taken only when it returns.
                _ = inbox.recv_many(first, BATCH) => self.last_active = Instant::now(),
                () = timer.as_mut() => {
                    self.end_stalled_turn();
                    self.take_step(Event::Due);
                    if self.may_be_put_away(waiters) {
                        Box::pin(self.put_away(inbox, first)).await;
                        return Exit::Done;
                    }
                    if self.is_unattended() && self.made + self.ask_again_after() <= Instant::now() {
                        return Exit::Again;
                    }
                    timer.as_mut().reset(self.wake_at());
                }
            }
        }
    }

    /// Goes on after an append. Returns whether the session has to be opened again, for an executor. Apart from
    /// [`Actor::live`], whose future would have room for a run in every idle session.
    fn go_on(&mut self, waiters: &mut Waiters) -> bool {
        let start = self.perform(waiters);
        if std::mem::take(&mut self.revived) && self.executor.is_none() && self.shared.factory.is_some() {
            return true;
        }
        self.snapshot_if_due();
        if let Some(start) = start {
            self.start_run(start);
        }
        false
    }

    /// Feeds the state machine; what it decides is collected for the next append.
    pub(crate) fn take_step(&mut self, event: Event) {
        let now = self.shared.clock.now();
        self.session.step_into(now, event, &mut self.step);
        if let Some(running) = &self.turn {
            running.turn.set_steered(self.session.may_steer());
        }
        for (ticket, reply) in std::mem::take(&mut self.step.at_once) {
            self.answer(ticket, reply, None);
        }
    }

    /// Takes an executor on.
    pub(crate) fn attach(&mut self, executor: Arc<dyn CoreExecutor>, wakes: bool) {
        (self.executor, self.at_once) = (Some(executor), false);
        self.shared.unattended.clear(self.slot.id);
        if !self.shared.finishing.load(Ordering::SeqCst) {
            self.take_step(Event::Attach { wakes });
        }
    }

    /// Steps one message. Returns the answer to give when asked to leave.
    fn receive(&mut self, message: Message) -> Option<(&'static str, Answer<()>)> {
        match message {
            Message::Accept { input, named, options, wait, reply } => {
                let (kind, pinned) = (input.kind(), options.pinned);
                let ticket = self.ask(Asked::Accept { kind, wait, pinned, reply, _named: named });
                self.take_step(Event::Accept { ticket, input, options });
            }
            Message::Withdraw { input, reply } => {
                let ticket = self.ask(Asked::Withdraw(reply));
                self.take_step(Event::Withdraw { ticket, input });
            }
            Message::Checkpoint { attempt, reply } => {
                let ticket = self.ask(Asked::Checkpoint(reply));
                self.take_step(Event::Checkpoint { ticket, attempt });
            }
            Message::Boundary { attempt, output, reply } => {
                let ticket = self.ask(Asked::Boundary(reply));
                self.take_step(Event::Boundary { ticket, attempt, output });
            }
            Message::Report { attempt, report, at_once, reply } => {
                if self.turn.as_ref().is_some_and(|turn| turn.turn.attempt_id() == attempt) {
                    (self.turn, self.at_once) = (None, at_once);
                }
                if self.pinned_cut.as_ref().is_some_and(|(pinned, _)| *pinned == attempt) {
                    self.pinned_cut = None;
                }
                self.stopping.take_if(|stopping| stopping.is_cancelled());
                if let Some(reply) = reply {
                    let closed = self.session.current_attempt() != Some(attempt);
                    self.looks.push(Looking::Reported { closed, reply });
                }
                self.take_step(Event::RunEnded { attempt, report });
            }
            Message::Cancel { run, reason, disposition, reply } => {
                let ticket = self.ask(Asked::Cancel(reply));
                self.take_step(Event::Cancel { ticket, run, reason, disposition });
            }
            Message::RegisterOperation { spec, attempt, runs, reply } => {
                let (ticket, incarnation, id) = (self.ask(Asked::Operation(reply)), self.shared.incarnation, spec.id);
                // One that is there already is not this one, whatever becomes of the registration.
                let runs = runs && self.session.operation(id).is_none();
                self.take_step(Event::RegisterOperation { ticket, spec, attempt, incarnation });
                if runs {
                    // Of one append with the registration; without it there is nothing that could run.
                    let (ticket, report) = (self.ask(Asked::Nobody), OperationReport::ProvisioningSucceeded);
                    self.take_step(Event::Operation { ticket, id, report, incarnation });
                }
            }
            Message::Operation { id, report, reply } => {
                let (ticket, incarnation) = (self.ask(Asked::Operation(reply)), self.shared.incarnation);
                self.take_step(Event::Operation { ticket, id, report, incarnation });
            }
            Message::TerminateOperations { reason, reply } => {
                let ticket = self.ask(Asked::Operation(reply));
                self.take_step(Event::TerminateOperations { ticket, reason });
            }
            Message::CompletionsApplied { seq, reply } => {
                let ticket = self.ask(Asked::Operation(reply));
                self.take_step(Event::CompletionsApplied { ticket, seq });
            }
            Message::Send { outgoing, reply } => {
                let ticket = self.ask(Asked::Send(reply));
                self.take_step(Event::Send { ticket, outgoing });
            }
            Message::Delivery { id, delivery, reply } => {
                let ticket = self.ask(Asked::Send(reply));
                self.take_step(Event::Delivery { ticket, id, delivery });
            }
            Message::Control { verb, reply } => self.control(verb, reply),
            Message::Create { new: _, made, reply } => self.looks.push(Looking::Created { made, reply }),
            Message::Attach { executor, reply } => self.attach_by_hand(executor, reply),
            Message::Look { reply } => self.looks.push(Looking::Look(reply)),
            Message::Watch { input, waiter, reply } => self.looks.push(Looking::Watch { input, waiter, reply }),
            Message::FinishRun { reply } => {
                self.take_step(Event::Detach);
                self.looks.push(Looking::Finished(reply));
            }
            Message::Leave { reason, reply } => return Some((reason, reply)),
        }
        None
    }

    fn control(&mut self, verb: Control, reply: Answer<windlass_core::ControlReport>) {
        let ending = match &verb {
            Control::Stop => Ending::Executor("runtime stopped"),
            Control::Destroy => Ending::Executor("runtime destroyed"),
            Control::Reset { .. } => Ending::Run,
            _ => Ending::No,
        };
        let verb = match verb {
            // Whoever makes executors will make one for the drain.
            Control::Retire { .. } => Control::Retire { will_drain: self.shared.factory.is_some() },
            verb => verb,
        };
        let (was, policy) = (self.session.gate(), self.session.profile().policy.clone());
        let ticket = self.ask(Asked::Control { verb: ending, let_go: LetGo::default(), reply });
        self.take_step(Event::Control { ticket, verb });
        if self.session.profile().policy != policy {
            let policy = self.shared.policy_of(self.slot.id, self.session.profile());
            self.session.use_policy(policy);
        }
        match self.session.gate() {
            // At once, for what comes after it in the same append may attach another one.
            Gate::Stopped | Gate::Destroyed if matches!(ending, Ending::Executor(_)) => {
                self.take_step(Event::Detach);
                let gone = LetGo { executor: self.executor.take(), by_hand: self.slot.set_executor(None) };
                if let Asked::Control { let_go, .. } = &mut self.asked[ticket.0 as usize] {
                    *let_go = gone;
                }
            }
            Gate::Open if was == Gate::Stopped => self.revived = true,
            _ => {}
        }
    }

    fn attach_by_hand(&mut self, executor: Arc<dyn CoreExecutor>, reply: Answer<Attachment>) {
        if self.session.gate() == Gate::Destroyed {
            let refused = windlass_core::ControlRefused::State { state: self.session.state() };
            return drop(reply.send(Err(SessionError::Refused(refused))));
        }
        if let Some(current) = self.executor.clone() {
            return drop(reply.send(Ok(Attachment::AlreadyAttached(current))));
        }
        self.slot.set_executor(Some(Arc::clone(&executor)));
        let revive = self.ask(Asked::Nobody);
        self.take_step(Event::Control { ticket: revive, verb: Control::Revive });
        self.ask(Asked::Attach(reply));
        self.attach(executor, true);
    }

    fn ask(&mut self, asked: Asked) -> Ticket {
        self.asked.push(asked);
        Ticket(self.asked.len() as u64 - 1)
    }

    /// Makes what was decided durable. On an error nothing of it has been shown to anybody.
    async fn commit(&mut self) -> Result<(), StoreError> {
        if self.step.entries.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.step.entries);
        let head = self.session.head();
        self.since_snapshot.records += entries.len() as u64;
        self.since_snapshot.bytes += entries.iter().map(|entry| about_bytes(&entry.record) as u64).sum::<u64>();
        let accepted = entries.iter().filter_map(|entry| match &entry.record {
            Record::InputAccepted(accepted) => Some(IndexChange::Accepted {
                input: accepted.input.id(),
                key: accepted.input.header.idempotency_key.clone(),
                kind: accepted.input.kind(),
                seq: entry.seq,
            }),
            _ => None,
        });
        let settled = self.step.settled.iter().map(|settled| IndexChange::Settled {
            input: settled.input,
            state: settled.outcome.state(),
            dead: settled.outcome.is_dead_letter(),
            seq: settled.seq,
        });
        let index = accepted.chain(settled).collect();
        let status = SessionStatus::of(&self.session);
        let append = Append { session: self.slot.id, fence: self.fence, entries, index, status };
        let traced_since = self.traced.as_ref().map(|_| self.moment());
        let observed = (self.shared.observer.is_some() || traced_since.is_some()).then(|| append.entries.clone());
        self.shared.store.append(append).await?;
        self.slot.succeeded();
        if let Some(entries) = observed {
            self.observe(&entries);
            self.trace_commit(&entries, traced_since);
        }
        if let Some(hub) = self.slot.hub() {
            hub.committed(head);
            hub.completed(self.session.completion_watermark());
        }
        Ok(())
    }

    /// Tells who observes which runs began and ended with these entries.
    fn observe(&mut self, entries: &[Arc<Entry>]) {
        let Some(observer) = &self.shared.observer else { return };
        for entry in entries {
            match &entry.record {
                Record::RunStarted(started) => {
                    self.run_since = entry.at;
                    observer.run_started(started.attempt);
                }
                Record::RunEnded(ended) => {
                    observer.run_ended(how_of(&ended.end), entry.at.since(self.run_since));
                }
                _ => {}
            }
        }
    }

    /// Does what the steps wanted done, now that they are durable. Never waits. Returns the run that is to be started
    /// when all of this is done: it may be over at once, and nobody is to see what is not durable yet.
    fn perform(&mut self, waiters: &mut Waiters) -> Option<RunStart> {
        let mut starting = None;
        for (input, waiter) in self.early.drain(..) {
            waiters.add(input, waiter);
        }
        let settled = std::mem::take(&mut self.step.settled);
        if let Some(observer) = &self.shared.observer {
            for end in &settled {
                observer.settled(end.outcome.state(), self.session.last_at().since(end.admitted_at));
                if end.outcome.is_dead_letter() {
                    observer.dead_letter();
                }
            }
        }
        for effect in std::mem::take(&mut self.step.effects) {
            match effect {
                Effect::Reply { ticket, reply } => self.answer(ticket, reply, Some(waiters)),
                Effect::StartRun(start) => {
                    self.trace_start(&start);
                    let place = if start.pinned { &mut self.pinned } else { &mut starting };
                    *place = Some(start);
                }
                Effect::StopRun { attempt, reason } => self.stop_turn(attempt, &reason),
            }
        }
        for settled in settled {
            waiters.settle(settled.input, &settled.outcome);
        }
        for looking in std::mem::take(&mut self.looks) {
            match looking {
                Looking::Look(look) => look(Ok(&self.session)),
                Looking::Watch { input, waiter, reply } => {
                    let open = self.session.active_input(input).is_some();
                    if open {
                        waiters.add(input, waiter);
                    }
                    drop(reply.send(Ok(open)));
                }
                Looking::Created { made, reply } => drop(reply.send(Ok(made))),
                Looking::Reported { closed, reply } => {
                    drop(reply.send(Ok(if closed { Err(RunClosed) } else { Ok(()) })));
                }
                Looking::Finished(reply) if self.session.current_attempt().is_some() => {
                    self.looks.push(Looking::Finished(reply));
                }
                Looking::Finished(reply) => drop(reply.send(Ok(()))),
            }
        }
        self.shared.drains.observed(&self.shared, self.slot.id, self.session.state());
        for asked in std::mem::take(&mut self.asked) {
            if let Asked::Attach(reply) = asked {
                drop(reply.send(Ok(Attachment::Attached)));
            }
        }
        starting
    }

    /// Answers a ticket. A failed send says that the caller is gone; what was decided stands without him.
    fn answer(&mut self, ticket: Ticket, reply: Reply, waiters: Option<&mut Waiters>) {
        let asked = std::mem::replace(&mut self.asked[ticket.0 as usize], Asked::Nobody);
        match (asked, reply) {
            (Asked::Accept { kind, wait, pinned, reply, _named }, Reply::Accept(outcome)) => {
                if let Some(observer) = &self.shared.observer {
                    observer.admitted(kind, outcome_code(&outcome));
                }
                let pinned = self.pinned.take().filter(|_| pinned).map(|start| self.hand_over(start));
                let input = match &outcome {
                    AcceptOutcome::Accepted { input_id, state, .. } if !state.is_terminal() => Some(*input_id),
                    AcceptOutcome::Deduplicated { existing_id, state, .. } if !state.is_terminal() => {
                        Some(*existing_id)
                    }
                    _ => None,
                };
                let completion = match (input, waiters) {
                    (Some(input), Some(waiters)) if wait => {
                        let (sender, handle) = CompletionHandle::open(input);
                        waiters.add(input, sender);
                        Some(handle)
                    }
                    (Some(input), None) if wait => return self.answer_when_durable(input, outcome, reply),
                    _ => None,
                };
                drop(reply.send(Ok(Admitted { outcome, completion, pinned })));
            }
            (Asked::Withdraw(reply), Reply::Withdraw(outcome)) => drop(reply.send(Ok(outcome))),
            (Asked::Checkpoint(reply), Reply::Checkpoint(steering)) => {
                if let (Ok(taken), Some(attempt)) = (&steering, self.session.current_attempt()) {
                    self.trace_queued(attempt, taken);
                }
                drop(reply.send(Ok(steering)));
            }
            (Asked::Boundary(reply), Reply::Boundary(receipt)) => drop(reply.send(Ok(receipt))),
            (Asked::Operation(reply), Reply::Operation(done)) => drop(reply.send(Ok(done))),
            (Asked::Send(reply), Reply::Send(kept)) => drop(reply.send(Ok(kept))),
            (Asked::Cancel(reply), Reply::Cancel(outcome)) => drop(reply.send(Ok(outcome))),
            (Asked::Control { verb, let_go, reply }, Reply::Control(Ok(report))) => {
                self.control_done(verb, let_go, report, reply);
            }
            (Asked::Control { reply, .. }, Reply::Control(Err(refused))) => {
                drop(reply.send(Err(SessionError::Refused(refused))));
            }
            (Asked::Nobody, _) => {}
            _ => unreachable!("an answer has the kind of its question"),
        }
    }

    fn hand_over(&mut self, start: RunStart) -> PinnedRun {
        let cut = CancellationToken::new();
        self.pinned_cut = Some((start.attempt, cut.clone().drop_guard()));
        PinnedRun::new(start, cut, self.mailbox.clone())
    }

    /// An ephemeral input's caller hears "accepted" at once; who also waits for its end is registered with the append.
    fn answer_when_durable(&mut self, input: InputId, outcome: AcceptOutcome, reply: Answer<Admitted>) {
        let (waiter, handle) = CompletionHandle::open(input);
        self.early.push((input, waiter));
        drop(reply.send(Ok(Admitted { outcome, completion: Some(handle), pinned: None })));
    }

    /// A verb that ends a run is answered when its executor is gone; one that ends the session's work, when the
    /// executor has cleaned up too. That happens in a task of its own, so the executor may call back.
    fn control_done(
        &mut self,
        ending: Ending,
        let_go: LetGo,
        report: windlass_core::ControlReport,
        reply: Answer<windlass_core::ControlReport>,
    ) {
        if ending == Ending::No {
            return drop(reply.send(Ok(report)));
        }
        let stopping = self.stopping.clone();
        let (session, limit) = (self.slot.id, self.shared.options.stop_limit);
        self.shared.tasks.spawn(async move {
            gone(stopping).await;
            if let (Some(executor), Ending::Executor(reason)) = (let_go.executor, ending) {
                clean_up(executor, session, reason, limit).await;
            }
            drop(reply.send(Ok(report)));
        });
    }

    /// When there is something to do although no message comes.
    fn wake_at(&self) -> Instant {
        let idle = self.last_active + self.shared.options.idle_after;
        let stall = self.turn.as_ref().map(|turn| turn.turn.last_sign_of_life() + self.shared.options.stall_after);
        let due = self.session.next_due().map(|due| Instant::now() + due.at.since(self.shared.clock.now()));
        // An idle time that has passed without putting away is asked again an idle time later.
        let idle = if idle <= Instant::now() { Instant::now() + self.shared.options.idle_after } else { idle };
        stall.into_iter().chain(due).fold(idle, Instant::min)
    }

    /// Moves the timer only where it must ring earlier: resetting it on every message would cost more than a step.
    fn set_timer(&self, timer: Pin<&mut Sleep>) {
        let stall = self.turn.as_ref().map(|turn| turn.turn.last_sign_of_life() + self.shared.options.stall_after);
        let due = self.session.next_due().map(|due| Instant::now() + due.at.since(self.shared.clock.now()));
        if let Some(at) = stall.into_iter().chain(due).min()
            && at < timer.deadline()
        {
            timer.reset(at);
        }
    }

    /// Ends without a last word: nobody is told what was not made durable, and the executor ends before anything else
    /// begins.
    pub(crate) async fn lose(&mut self, error: &SessionError) {
        self.refuse_all(error);
        gone(self.stop_current_turn()).await;
    }

    fn refuse_all(&mut self, error: &SessionError) {
        let error = || error.clone();
        self.early.clear();
        // The last first, so that what one let go of and the next attached ends as it began.
        for asked in self.asked.drain(..).rev() {
            match asked {
                Asked::Nobody => {}
                Asked::Accept { reply, .. } => drop(reply.send(Err(error()))),
                Asked::Withdraw(reply) => drop(reply.send(Err(error()))),
                Asked::Checkpoint(reply) => drop(reply.send(Err(error()))),
                Asked::Boundary(reply) => drop(reply.send(Err(error()))),
                Asked::Operation(reply) => drop(reply.send(Err(error()))),
                Asked::Send(reply) => drop(reply.send(Err(error()))),
                Asked::Cancel(reply) => drop(reply.send(Err(error()))),
                Asked::Control { reply, let_go, .. } => {
                    if let_go.by_hand.is_some() {
                        self.slot.set_executor(let_go.by_hand);
                    }
                    drop(reply.send(Err(error())));
                }
                Asked::Attach(reply) => {
                    self.slot.set_executor(None);
                    drop(reply.send(Err(error())));
                }
            }
        }
        for looking in self.looks.drain(..) {
            match looking {
                Looking::Look(look) => look(Err(error())),
                Looking::Watch { reply, .. } | Looking::Created { reply, .. } => drop(reply.send(Err(error()))),
                Looking::Reported { reply, .. } => drop(reply.send(Err(error()))),
                Looking::Finished(reply) => drop(reply.send(Err(error()))),
            }
        }
    }
}

/// What became of an offer, in one word.
const fn outcome_code(outcome: &AcceptOutcome) -> &'static str {
    match outcome {
        AcceptOutcome::Accepted { .. } => "accepted",
        AcceptOutcome::Deduplicated { .. } => "deduplicated",
        AcceptOutcome::Rejected { reason } => reason.code(),
    }
}
