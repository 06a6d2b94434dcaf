//! How does an open session live?
//!
//! One loop: take what waits in the mailbox, step each message, make all of it durable in one append, then do what the
//! steps wanted done. Three things are awaited: mailbox, timer, store. Executors run in tasks of their own.

use crate::{
    completion::{Completion, CompletionHandle},
    error::SessionError,
    executor::{CoreExecutor, CoreExecutorError},
    handle::SessionHandle,
    mailbox::{Admitted, Answer, Attachment, Letter, Look, Mailbox, Message, PinnedRun},
    owner::{Slot, Waiters},
    shared::Shared,
    store::{Append, IndexChange, Opened, PutSnapshot, SessionStatus, StoreError},
    turn::Turn,
};
use futures_util::FutureExt;
use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use windlass_core::{
    AcceptOutcome, AttemptId, Control, Effect, Event, Fence, Gate, InputId, OpsLifecycleError, Record, Reply,
    RunClosed, RunReport, RunStart, Seq, Session, Step, Ticket,
};

/// Messages that share one append.
const BATCH: usize = 128;

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
    Accept { wait: bool, pinned: bool, reply: Answer<Admitted> },
    Withdraw(Answer<windlass_core::WithdrawOutcome>),
    Checkpoint(Answer<Result<Vec<Arc<windlass_core::Accepted>>, RunClosed>>),
    Boundary(Answer<Result<Arc<windlass_core::RunBoundaryReceipt>, RunClosed>>),
    Cancel(Answer<windlass_core::CancelOutcome>),
    Control { verb: Ending, let_go: LetGo, reply: Answer<windlass_core::ControlReport> },
    Operation(Answer<Result<(), OpsLifecycleError>>),
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
}

struct RunningTurn {
    turn: Turn,
    task: JoinHandle<()>,
}

struct SinceSnapshot {
    at: Seq,
    records: u64,
    bytes: u64,
    /// What the store charged for the last one.
    cost: u64,
    under_way: Option<oneshot::Receiver<u64>>,
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
        let bytes = opened.tail.iter().map(|entry| entry_bytes(&entry.record)).sum();
        let since_snapshot = SinceSnapshot {
            at,
            records: opened.tail.len() as u64,
            bytes,
            cost: opened.snapshot_bytes,
            under_way: None,
        };
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
            turn: None,
            stopping: None,
            pinned: None,
            pinned_cut: None,
            early: Vec::new(),
            revived: false,
            since_snapshot,
            made: Instant::now(),
            last_active: Instant::now(),
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
            self.perform(waiters);
            if !self.step.entries.is_empty() {
                continue;
            }
            if std::mem::take(&mut self.revived) && self.executor.is_none() && self.shared.factory.is_some() {
                gone(self.stop_current_turn()).await;
                return Exit::Again;
            }
            self.snapshot_if_due();
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

    /// Feeds the state machine; what it decides is collected for the next append.
    pub(crate) fn take_step(&mut self, event: Event) {
        let now = self.shared.clock.now();
        self.session.step_into(now, event, &mut self.step);
        for (ticket, reply) in std::mem::take(&mut self.step.at_once) {
            self.answer(ticket, reply, None);
        }
    }

    /// Takes an executor on.
    pub(crate) fn attach(&mut self, executor: Arc<dyn CoreExecutor>, wakes: bool) {
        self.executor = Some(executor);
        self.take_step(Event::Attach { wakes });
    }

    /// Steps one message. Returns the answer to give when asked to leave.
    fn receive(&mut self, message: Message) -> Option<(&'static str, Answer<()>)> {
        match message {
            Message::Accept { input, options, wait, reply } => {
                let ticket = self.ask(Asked::Accept { wait, pinned: options.pinned, reply });
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
            Message::Report { attempt, report, reply } => {
                if self.turn.as_ref().is_some_and(|turn| turn.turn.attempt_id() == attempt) {
                    self.turn = None;
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
            Message::RegisterOperation { spec, attempt, reply } => {
                let (ticket, incarnation) = (self.ask(Asked::Operation(reply)), self.shared.incarnation);
                self.take_step(Event::RegisterOperation { ticket, spec, attempt, incarnation });
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
            Message::Control { verb, reply } => self.control(verb, reply),
            Message::Attach { executor, reply } => self.attach_by_hand(executor, reply),
            Message::Look { reply } => self.looks.push(Looking::Look(reply)),
            Message::Watch { input, waiter, reply } => self.looks.push(Looking::Watch { input, waiter, reply }),
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
        let was = self.session.gate();
        let ticket = self.ask(Asked::Control { verb: ending, let_go: LetGo::default(), reply });
        self.take_step(Event::Control { ticket, verb });
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
        self.since_snapshot.bytes += entries.iter().map(|entry| entry_bytes(&entry.record)).sum::<u64>();
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
        self.shared.store.append(append).await?;
        self.slot.succeeded();
        if let Some(hub) = self.slot.hub() {
            hub.committed(head);
            hub.completed(self.session.completion_watermark());
        }
        Ok(())
    }

    /// Does what the steps wanted done, now that they are durable. Never waits.
    fn perform(&mut self, waiters: &mut Waiters) {
        for (input, waiter) in self.early.drain(..) {
            waiters.add(input, waiter);
        }
        let settled = std::mem::take(&mut self.step.settled);
        for effect in std::mem::take(&mut self.step.effects) {
            match effect {
                Effect::Reply { ticket, reply } => self.answer(ticket, reply, Some(waiters)),
                Effect::StartRun(start) if start.pinned => self.pinned = Some(start),
                Effect::StartRun(start) => self.call_executor(start),
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
                Looking::Reported { closed, reply } => {
                    drop(reply.send(Ok(if closed { Err(RunClosed) } else { Ok(()) })));
                }
            }
        }
        self.shared.drains.observed(&self.shared, self.slot.id, self.session.state());
        for asked in std::mem::take(&mut self.asked) {
            if let Asked::Attach(reply) = asked {
                drop(reply.send(Ok(Attachment::Attached)));
            }
        }
    }

    /// Answers a ticket. A failed send says that the caller is gone; what was decided stands without him.
    fn answer(&mut self, ticket: Ticket, reply: Reply, waiters: Option<&mut Waiters>) {
        let asked = std::mem::replace(&mut self.asked[ticket.0 as usize], Asked::Nobody);
        match (asked, reply) {
            (Asked::Accept { wait, pinned, reply }, Reply::Accept(outcome)) => {
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
            (Asked::Checkpoint(reply), Reply::Checkpoint(steering)) => drop(reply.send(Ok(steering))),
            (Asked::Boundary(reply), Reply::Boundary(receipt)) => drop(reply.send(Ok(receipt))),
            (Asked::Operation(reply), Reply::Operation(done)) => drop(reply.send(Ok(done))),
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

    fn call_executor(&mut self, start: RunStart) {
        let executor = self.executor.clone().expect("the core starts runs only while an executor is attached");
        let session = SessionHandle::new(Arc::clone(&self.shared), Arc::clone(&self.slot));
        let turn = Turn::new(session, start, self.mailbox.clone());
        let task = self.shared.tasks.spawn(run_turn(executor, turn.clone(), self.mailbox.clone()));
        self.turn = Some(RunningTurn { turn, task });
    }

    fn stop_turn(&mut self, attempt: AttemptId, reason: &str) {
        if self.turn.as_ref().is_some_and(|turn| turn.turn.attempt_id() == attempt) {
            tracing::debug!(session = %self.slot.id, run = %attempt.run, reason, "run told to stop");
            let turn = self.turn.take().expect("looked at above");
            self.supervise(turn, "it was cancelled");
        }
        if self.pinned_cut.as_ref().is_some_and(|(pinned, _)| *pinned == attempt) {
            self.pinned_cut = None;
        }
    }

    /// Sees to it that a turn ends within the grace time, and reports for it if it cannot.
    fn supervise(&mut self, turn: RunningTurn, why: &'static str) {
        let (mailbox, grace) = (self.mailbox.clone(), self.shared.options.cancel_grace);
        let stopping = CancellationToken::new();
        self.stopping = Some(stopping.clone());
        let gone = stopping.drop_guard();
        self.shared.tasks.spawn(async move {
            let RunningTurn { turn, mut task } = turn;
            let attempt = turn.attempt_id();
            turn.cancel();
            if tokio::time::timeout(grace, &mut task).await.is_err() {
                // Dropped at its next await. One that never awaits keeps its thread, but not its session.
                task.abort();
                drop(tokio::time::timeout(grace, &mut task).await);
            }
            // Before the report, which may have to wait for room in the mailbox of an owner who waits for this.
            drop(gone);
            let error = format!("executor_stalled: {why} and did not return within {grace:?}");
            let report = RunReport::Failed { error: error.into(), retryable: true, retry_after: None };
            // If the turn has reported itself, this is late news. If the owner is gone, so is the need.
            drop(mailbox.send(Message::Report { attempt, report, reply: None }).await);
        });
    }

    fn stop_current_turn(&mut self) -> Option<CancellationToken> {
        self.pinned_cut = None;
        if let Some(turn) = self.turn.take() {
            self.supervise(turn, "the session was shut");
        }
        self.stopping.clone()
    }

    /// Ends a turn that has shown no progress for the stall time. Progress, not a wall clock: a long run that commits
    /// or shows deltas lives as long as it likes.
    fn end_stalled_turn(&mut self) {
        let stalled = self
            .turn
            .as_ref()
            .is_some_and(|turn| turn.turn.last_sign_of_life() + self.shared.options.stall_after <= Instant::now());
        if stalled {
            let turn = self.turn.take().expect("looked at above");
            tracing::warn!(session = %self.slot.id, run = %turn.turn.run(), "run stalled");
            self.supervise(turn, "it made no progress");
        }
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

    fn may_be_put_away(&self, waiters: &mut Waiters) -> bool {
        let idle_after = self.shared.options.idle_after;
        let soon = self.session.next_due().is_some_and(|due| due.at.since(self.shared.clock.now()) <= idle_after);
        self.last_active + idle_after <= Instant::now()
            && self.turn.is_none()
            && self.stopping.as_ref().is_none_or(CancellationToken::is_cancelled)
            && self.session.current_attempt().is_none()
            && self.step.entries.is_empty()
            && !soon
            && !(self.executor.is_some() && self.session.is_pending())
            && !self.session.has_ephemeral_inputs()
            && waiters.is_empty()
    }

    /// Lets go of an idle session. If a message has come meanwhile, the next owner gets it.
    async fn put_away(&mut self, inbox: &mut mpsc::Receiver<Letter>, first: &mut Vec<Letter>) {
        self.set_alarm();
        self.slot.shut();
        inbox.close();
        while let Some(message) = inbox.recv().await {
            first.push(message);
        }
        if !first.is_empty() {
            // Handed to the next owner; a sender's order is kept, because its later messages come after these.
            let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&self.slot));
            let messages = std::mem::take(first);
            self.shared.tasks.spawn(async move {
                for message in messages {
                    if let Err(error) = slot.send(&shared, *message).await {
                        tracing::debug!(session = %slot.id, %error, "message came while the runtime shut down");
                    }
                }
            });
            return;
        }
        self.snapshot_at_leave().await;
        self.shared.put_away(&self.slot);
    }

    /// Whether something waits for an executor that could not be made; whoever makes them has to be asked again.
    fn is_unattended(&self) -> bool {
        self.executor.is_none() && self.shared.factory.is_some() && self.session.is_pending()
    }

    fn ask_again_after(&self) -> Duration {
        ASK_FACTORY_AGAIN.max(self.shared.options.idle_after)
    }

    /// For when there is something to do although nobody asks. Set before the next owner can be called, who knows better.
    fn set_alarm(&self) {
        // Whoever could not make an executor is asked again for what waits, but not in haste.
        let unattended = (self.executor.is_none() && self.shared.factory.is_some()).then(|| {
            let soonest = self.shared.clock.now() + self.ask_again_after();
            let waits = self.session.is_pending().then_some(soonest);
            waits.or(self.session.pending_at().map(|at| at.max(soonest)))
        });
        let due = self.session.next_due().map(|due| due.at);
        if let Some(at) = due.into_iter().chain(unattended.flatten()).min() {
            self.shared.alarms.set(self.slot.id, at);
        }
    }

    /// Lets go in good order: the run is released, waiters hear why, and the last entry is durable. Until the executor is
    /// gone the session stays owned, so that no other one can begin beside it; who comes meanwhile is refused.
    async fn leave(
        &mut self,
        (reason, reply): (&'static str, Answer<()>),
        late: Vec<Letter>,
        inbox: &mut mpsc::Receiver<Letter>,
        waiters: &mut Waiters,
    ) -> Exit {
        self.take_step(Event::Release { reason: reason.to_owned() });
        self.take_step(Event::Detach);
        let left = self.commit().await.map_err(SessionError::Store);
        match &left {
            Ok(()) => self.perform(waiters),
            Err(error) => self.refuse_all(error),
        }
        waiters.terminate(reason);
        let mut leaving = vec![(reason, reply)];
        let mut refuse = |letter: Letter| letter.refuse_but_leave(&SessionError::Draining, &mut leaving);
        late.into_iter().for_each(&mut refuse);
        let gone = gone(self.stop_current_turn());
        tokio::pin!(gone);
        loop {
            tokio::select! {
                biased;
                () = &mut gone => break,
                letter = inbox.recv() => letter.into_iter().for_each(&mut refuse),
            }
        }
        if left.is_ok() {
            self.snapshot_at_leave().await;
        }
        if let (Some(executor), UNREGISTERED, None) = (self.executor.take(), reason, self.slot.executor()) {
            let (session, limit) = (self.slot.id, self.shared.options.stop_limit);
            self.shared.tasks.spawn(clean_up(executor, session, reason, limit));
        }
        self.shared.let_go(&self.slot, reason);
        inbox.close();
        while let Some(letter) = inbox.recv().await {
            refuse(letter);
        }
        for (_, reply) in leaving {
            drop(reply.send(left.clone()));
        }
        Exit::Done
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
                Looking::Watch { reply, .. } => drop(reply.send(Err(error()))),
                Looking::Reported { reply, .. } => drop(reply.send(Err(error()))),
            }
        }
    }
}

/// The reason under which a session is unregistered; its waiters and its executor hear it.
pub(crate) const UNREGISTERED: &str = "runtime session unregistered";

async fn run_turn(executor: Arc<dyn CoreExecutor>, turn: Turn, mailbox: Mailbox) {
    let attempt = turn.attempt_id();
    let applied = AssertUnwindSafe(async { executor.apply(turn).await }).catch_unwind().await;
    let failed =
        |error: String, retryable, retry_after| RunReport::Failed { error: error.into(), retryable, retry_after };
    let report = match applied {
        Ok(Ok(output)) => RunReport::Done { output: output.boundary, terminal: output.terminal },
        Ok(Err(CoreExecutorError::Retryable { error, retry_after })) => failed(error, true, retry_after),
        Ok(Err(CoreExecutorError::Final { error })) => failed(error, false, None),
        Err(panic) => failed(format!("executor_panic: {}", panic_text(&*panic)), true, None),
    };
    // An error says that the owner has let go: recovery accounts for the run.
    drop(mailbox.send(Message::Report { attempt, report, reply: None }).await);
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Waits until an executor that was told to stop is gone, or given up.
async fn gone(stopping: Option<CancellationToken>) {
    if let Some(stopping) = stopping {
        stopping.cancelled().await;
    }
}

/// Tells an executor that its session is over, within a limit, whatever it does.
pub(crate) async fn clean_up(
    executor: Arc<dyn CoreExecutor>,
    session: windlass_core::SessionId,
    reason: &str,
    limit: Duration,
) {
    let stopped = AssertUnwindSafe(async { executor.stopped(session, reason).await }).catch_unwind();
    match tokio::time::timeout(limit, stopped).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => tracing::error!(%session, panic = panic_text(&*panic), "executor panicked in its clean-up"),
        Err(_) => tracing::error!(%session, ?limit, "executor did not finish its clean-up"),
    }
}

impl Actor {
    /// A snapshot is due after 1,000 records or four times the last one's size, whichever is later (decisions 5): so
    /// that writing them costs a fraction of the journal, and reading the journal since is bounded by it.
    fn snapshot_if_due(&mut self) {
        if let Some(under_way) = &mut self.since_snapshot.under_way {
            match under_way.try_recv() {
                Ok(cost) => (self.since_snapshot.cost, self.since_snapshot.under_way) = (cost, None),
                Err(oneshot::error::TryRecvError::Closed) => self.since_snapshot.under_way = None,
                Err(oneshot::error::TryRecvError::Empty) => return,
            }
        }
        let since = &self.since_snapshot;
        let records = if since.cost == 0 && since.at > Seq::ZERO { SHARED_SNAPSHOT_RECORDS } else { SNAPSHOT_RECORDS };
        // Copying what is open is paid for by as many records as it has inputs.
        let records = records.max(u64::from(self.session.open_inputs()));
        if since.records < records || since.bytes < 4 * since.cost {
            return;
        }
        let put = self.snapshot();
        let store = Arc::clone(&self.shared.store);
        let (done, under_way) = oneshot::channel();
        self.since_snapshot.under_way = Some(under_way);
        self.shared.tasks.spawn(async move {
            if let Some(cost) = keep_snapshot(&*store, put).await {
                done.send(cost).ok();
            }
        });
    }

    /// So that the next opening is quick, and nothing of an idle session is kept twice.
    async fn snapshot_at_leave(&mut self) {
        let since = &self.since_snapshot;
        let worth_it = since.records >= SNAPSHOT_RECORDS / 10 || since.cost == 0 && since.records > 0;
        if worth_it && since.under_way.is_none() && self.step.entries.is_empty() {
            let put = self.snapshot();
            keep_snapshot(&*self.shared.store, put).await;
        }
    }

    fn snapshot(&mut self) -> PutSnapshot {
        let at = self.session.head();
        (self.since_snapshot.at, self.since_snapshot.records, self.since_snapshot.bytes) = (at, 0, 0);
        let kept = Seq(at.0.saturating_sub(self.shared.options.entries_kept));
        let keep_after = self.session.needed_after().map_or(kept, |needed| needed.min(kept));
        let snapshot = Arc::new(self.session.snapshot());
        PutSnapshot { session: self.slot.id, fence: self.fence, at, snapshot, keep_after }
    }
}

const SNAPSHOT_RECORDS: u64 = 1_000;
/// A store that shares the snapshot's memory gets one sooner: it costs little, and the journal before it is let go.
const SHARED_SNAPSHOT_RECORDS: u64 = 250;

/// How long after a factory has failed it is asked again, if nobody uses the session before.
const ASK_FACTORY_AGAIN: Duration = Duration::from_secs(60);

async fn keep_snapshot(store: &dyn crate::store::Store, put: PutSnapshot) -> Option<u64> {
    let session = put.session;
    match store.put_snapshot(put).await {
        Ok(cost) => Some(cost),
        Err(error) => {
            // The journal before it is kept then, so nothing is lost but time; the next one is due like this one was.
            tracing::warn!(%session, %error, "a snapshot could not be kept");
            None
        }
    }
}

/// What an entry takes in a journal, roughly; decides only when a snapshot is due.
fn entry_bytes(record: &Record) -> u64 {
    200 + match record {
        Record::InputAccepted(accepted) => 400 + accepted.input.payload_bytes() as u64,
        Record::BoundaryCommitted(boundary) => boundary.delta.as_ref().map_or(0, |delta| delta.get().len() as u64),
        Record::RunEnded(_) => 300,
        _ => 0,
    }
}
