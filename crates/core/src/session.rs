//! The state machine of one session: what it holds, and the one function that moves it.
//!
//! Rules live next door: `admission.rs` (may it come in?), `run.rs` (what runs, and how does it end?), `control.rs`
//! (the verbs), `fold.rs` (what does a record change?), `check.rs` (what must always hold?).

use crate::{
    AbandonReason, Accepted, AttemptId, ChainHash, CorruptJournal, Deliver, Due, DueReason, Durability, Effect, Entry,
    Event, Gate, IdempotencyKey, InputId, InputKind, InputState, Lane, Limits, OpsLifecycleError, Outcome, PolicyTable,
    Profile, Purpose, Record, Reply, Run, RunId, RuntimeEpochId, RuntimeState, Seq, SessionId, Step, SupersessionKey,
    Ticket, Timestamp, Waker,
    ids::derived_uuid,
    lanes::{Lanes, Slot},
    ops::Ops,
    outbox::Outbox,
    window::{KeyHash, Remembered, Settled, Window},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// One agent's durable conversation and queue, as a state machine that never waits.
///
/// State is the fold of records. [`Session::step`] decides and folds what it decided; [`Session::recover`] folds what
/// was decided before. There is no other way to change a session, but for three facts that die with the process and
/// are therefore not recorded: whether an executor is attached, whether a cancelled one has not returned yet, and the
/// latest moment it was told.
///
/// ```
/// use std::sync::Arc;
/// use windlass_core::*;
/// # use uuid::Uuid;
/// let id = SessionId::from_uuid(Uuid::from_u128(1));
/// let mut session = Session::new(id, Limits::default(), Arc::new(PolicyTable::reference()));
/// let now = Timestamp::from_micros(1);
/// let opened = Event::Opened { incarnation: Incarnation::from_uuid(Uuid::from_u128(2)), agent: None, same_process: false };
/// let step = session.step(now, opened);
/// assert_eq!(step.entries[0].record.name(), "session_created");
///
/// let hello = Input::prompt(InputId::from_uuid(Uuid::from_u128(3)), now, "hello");
/// let step = session.step(now, Event::Accept { ticket: Ticket(1), input: Box::new(hello), options: AcceptOptions::default() });
/// assert_eq!(step.entries[0].record.name(), "input_accepted");
/// assert!(matches!(&step.effects[..], [Effect::Reply { reply: Reply::Accept(AcceptOutcome::Accepted { .. }), .. }]));
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) id: SessionId,
    pub(crate) limits: Limits,
    pub(crate) policy: Arc<PolicyTable>,

    // The fold. `snapshot()` names all of it.
    pub(crate) head: Seq,
    pub(crate) last_at: Timestamp,
    pub(crate) gate: Gate,
    pub(crate) held: bool,
    pub(crate) epoch: Option<RuntimeEpochId>,
    pub(crate) agent: Option<Arc<str>>,
    pub(crate) created_at: Timestamp,
    pub(crate) profile: Arc<Profile>,
    pub(crate) silent_intents: Vec<String>,
    pub(crate) open: BTreeMap<InputId, Open>,
    pub(crate) run: Option<Box<Run>>,
    /// Appended context that no boundary has confirmed yet, oldest first.
    pub(crate) context: Vec<Arc<Accepted>>,
    pub(crate) settled: Window,
    pub(crate) chain: ChainHash,
    pub(crate) orders: Orders,
    /// Counts the ids that the session made itself.
    pub(crate) made: u64,
    pub(crate) last_run: Option<RunId>,
    pub(crate) ops: Ops,
    pub(crate) outbox: Outbox,

    // Indexes over `open`.
    pub(crate) lanes: Lanes,
    pub(crate) keys: BTreeMap<KeyHash, InputId>,
    /// The waiting inputs that no run has tried, in order.
    pub(crate) scopes: BTreeMap<Scope, BTreeMap<i64, InputId>>,
    /// How many inputs wait to be appended as context.
    pub(crate) context_waits: u32,

    // Of this process only.
    pub(crate) attached: bool,
    pub(crate) leaving: Option<AttemptId>,
    /// The latest moment it was told.
    pub(crate) latest: Timestamp,
}

/// An input that is not over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) accepted: Arc<Accepted>,
    pub(crate) place: Place,
    pub(crate) order: i64,
    pub(crate) at: Timestamp,
    /// When the first of the inputs that it stands for was admitted.
    pub(crate) first_at: Timestamp,
    pub(crate) wake: bool,
    /// It failed in company, so it runs alone.
    pub(crate) alone: bool,
    /// The number of its last start.
    pub(crate) starts: u32,
    /// Starts since the last boundary.
    pub(crate) tries: u32,
    pub(crate) not_before: Option<Timestamp>,
    /// The run that it is tried again under.
    pub(crate) run: Option<RunId>,
}

/// The one place an open input is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// In its lane, or aside.
    Waiting(Lane),
    /// Waiting to be appended as context.
    Context,
    /// In the current run.
    Run,
}

/// Where newer inputs may replace or join older ones.
pub(crate) type Scope = (InputKind, SupersessionKey, Lane);

/// The ends of the admission order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) front: i64,
    pub(crate) back: i64,
}

/// A session's whole state after some entry: what [`Session::recover`] may begin with instead of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    head: Seq,
    last_at: Timestamp,
    gate: Gate,
    held: bool,
    epoch: Option<RuntimeEpochId>,
    agent: Option<Arc<str>>,
    #[serde(default)]
    created_at: Timestamp,
    #[serde(default)]
    profile: Arc<Profile>,
    silent_intents: Vec<String>,
    open: Vec<Open>,
    run: Option<Box<Run>>,
    context: Vec<Arc<Accepted>>,
    settled: Remembered,
    chain: ChainHash,
    orders: Orders,
    made: u64,
    last_run: Option<RunId>,
    #[serde(default, skip_serializing_if = "Ops::is_empty")]
    ops: Ops,
    #[serde(default, skip_serializing_if = "Outbox::is_empty")]
    outbox: Outbox,
}

impl Snapshot {
    /// The entry after which this was the state.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// The blobs that the inputs in it name, for collectors of garbage.
    pub fn blobs(&self) -> impl Iterator<Item = &crate::BlobId> {
        let open = self.open.iter().map(|open| &open.accepted);
        open.chain(&self.context).flat_map(|accepted| accepted.input.blobs())
    }
}

const SNAPSHOT_VERSION: u32 = 1;

impl Session {
    /// A session without a journal.
    pub fn new(id: SessionId, limits: Limits, policy: Arc<PolicyTable>) -> Session {
        Session {
            id,
            limits,
            policy,
            head: Seq::ZERO,
            last_at: Timestamp::ZERO,
            gate: Gate::Open,
            held: false,
            epoch: None,
            agent: None,
            created_at: Timestamp::ZERO,
            profile: Arc::default(),
            silent_intents: Vec::new(),
            open: BTreeMap::new(),
            run: None,
            context: Vec::new(),
            settled: Window::default(),
            chain: ChainHash::default(),
            orders: Orders::default(),
            made: 0,
            last_run: None,
            ops: Ops::default(),
            outbox: Outbox::default(),
            lanes: Lanes::default(),
            keys: BTreeMap::new(),
            scopes: BTreeMap::new(),
            context_waits: 0,
            attached: false,
            leaving: None,
            latest: Timestamp::ZERO,
        }
    }

    /// The session whose journal this is: the snapshot, then the entries after it.
    ///
    /// # Errors
    /// [`CorruptJournal`] if an entry is missing, or says what cannot have happened.
    pub fn recover<E: AsRef<Entry>>(
        id: SessionId,
        limits: Limits,
        policy: Arc<PolicyTable>,
        snapshot: Option<&Snapshot>,
        tail: impl IntoIterator<Item = E>,
    ) -> Result<Session, CorruptJournal> {
        let mut session = Session::new(id, limits, policy);
        if let Some(snapshot) = snapshot {
            session.restore(snapshot)?;
        }
        let mut settled = Vec::new();
        for entry in tail {
            session.replay(entry.as_ref(), &mut settled)?;
            settled.clear();
        }
        Ok(session)
    }

    /// Folds one more entry of the journal, and tells which inputs ended with it. For those who recompute what was
    /// derived from a journal; owners use [`Session::step`].
    ///
    /// # Errors
    /// [`CorruptJournal`] if the entry is not the next one, or says what cannot have happened.
    pub fn replay(&mut self, entry: &Entry, settled: &mut Vec<crate::Settlement>) -> Result<(), CorruptJournal> {
        if entry.seq != self.head.next() {
            let detail = format!("expected position {}, found {}", self.head.next(), entry.seq);
            return Err(CorruptJournal { at: entry.seq, detail });
        }
        self.apply(entry, settled).map_err(|detail| CorruptJournal { at: entry.seq, detail: detail.to_owned() })
    }

    /// One move: what has happened goes in, what is to be made durable and done comes out. Infallible: what cannot be
    /// done is answered by an effect or ignored as late news.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Step {
        let mut step = Step::default();
        self.step_into(now, event, &mut step);
        step
    }

    /// As [`Session::step`], added to the moves before it, so that one append makes them all durable.
    pub fn step_into(&mut self, now: Timestamp, event: Event, step: &mut Step) {
        // Time never goes back within a session, whatever the wall clock does.
        let now = now.max(self.last_at).max(self.latest);
        self.latest = now;
        let at_boundary = matches!(event, Event::Boundary { .. });
        match event {
            Event::Opened { incarnation, agent, same_process } => {
                self.on_opened(now, agent, same_process, step);
                self.orphan_operations(now, incarnation, step);
            }
            Event::Accept { ticket, input, options } => self.on_accept(now, ticket, *input, options, step),
            Event::Withdraw { ticket, input } => self.on_withdraw(now, ticket, input, step),
            Event::Attach { wakes } => self.on_attach(now, wakes, step),
            Event::Detach => self.attached = false,
            Event::Checkpoint { ticket, attempt } => self.on_checkpoint(now, ticket, attempt, step),
            Event::Boundary { ticket, attempt, output } => self.on_boundary(now, ticket, attempt, output, step),
            Event::RunEnded { attempt, report } => self.on_run_ended(now, attempt, report, step),
            Event::Cancel { ticket, run, reason, disposition } => {
                self.on_cancel(now, ticket, run, &reason, disposition, step);
            }
            Event::Release { reason } => self.release_run(now, &reason, step),
            Event::RegisterOperation { ticket, spec, attempt, incarnation } => {
                let closed = attempt.is_some() && self.current_attempt() != attempt;
                let registered = if closed {
                    Err(OpsLifecycleError::RunClosed)
                } else {
                    self.on_register_operation(now, spec, incarnation, step)
                };
                step.reply(ticket, Reply::Operation(registered));
            }
            Event::Operation { ticket, id, report, incarnation } => {
                let done = self.on_operation(now, id, report, incarnation, step);
                step.reply(ticket, Reply::Operation(done));
            }
            Event::TerminateOperations { ticket, reason } => {
                self.terminate_operations(now, &reason, step);
                step.reply(ticket, Reply::Operation(Ok(())));
            }
            Event::CompletionsApplied { ticket, seq } => {
                self.on_applied(now, seq, step);
                step.reply(ticket, Reply::Operation(Ok(())));
            }
            Event::Send { ticket, outgoing } => {
                let kept = self.on_send(now, outgoing, step);
                step.reply(ticket, Reply::Send(kept));
            }
            Event::Delivery { ticket, id, delivery } => {
                self.on_delivery(now, id, delivery, step);
                step.reply(ticket, Reply::Send(Ok(())));
            }
            Event::Control { ticket, verb } => {
                let report = self.on_control(now, verb, step);
                step.reply(ticket, Reply::Control(report));
            }
            Event::Due => {}
        }
        self.expire_aside(now, step);
        self.append_context(now, at_boundary, step);
        self.give_up_orphans(now, step);
        self.end_overdue(now, step);
        self.wake_if_owed(now, step);
        // The one place where a run starts.
        self.start_run_if_ready(now, step);
        #[cfg(debug_assertions)]
        self.check();
    }

    /// The earliest moment at which [`Event::Due`] would do something, and what. Derived, never stored; always later
    /// than the last step, so it can not spin.
    pub fn next_due(&self) -> Option<Due> {
        let runs = self.may_run() && self.leaving.is_none();
        let suspended = self.run.as_ref().and_then(|run| run.suspended_until());
        let retry = suspended.map(|at| Due { at, reason: DueReason::Retry }).filter(|_| runs);
        let ripe = self
            .lanes
            .next_ripe()
            .map(|(at, failed)| Due { at, reason: if failed { DueReason::Retry } else { DueReason::Debounce } });
        let asides = self.last_asides_ripen().map(|at| Due { at, reason: DueReason::Retry });
        let ripe = ripe.into_iter().chain(asides).min_by_key(|due| due.at).filter(|_| runs && self.run.is_none());
        let expires = self.lanes.next_expiry().map(|at| Due { at, reason: DueReason::AsideExpires });
        let wake = self.wake_due().map(|at| Due { at, reason: DueReason::Wake }).filter(|_| runs && self.run.is_none());
        let lost = self.orphan_due().map(|at| Due { at, reason: DueReason::OperationLost });
        let unanswered = self.outgoing_due().map(|at| Due { at, reason: DueReason::PeerDeadline });
        let work = retry.into_iter().chain(ripe).chain(expires).chain(wake);
        work.chain(lost).chain(unanswered).min_by_key(|due| due.at)
    }

    /// The whole state, to recover from later.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: SNAPSHOT_VERSION,
            head: self.head,
            last_at: self.last_at,
            gate: self.gate,
            held: self.held,
            epoch: self.epoch,
            agent: self.agent.clone(),
            created_at: self.created_at,
            profile: Arc::clone(&self.profile),
            silent_intents: self.silent_intents.clone(),
            open: self.open.values().cloned().collect(),
            run: self.run.clone(),
            context: self.context.clone(),
            settled: self.settled.remembered(),
            chain: self.chain,
            orders: self.orders,
            made: self.made,
            last_run: self.last_run,
            ops: self.ops.clone(),
            outbox: self.outbox.clone(),
        }
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), CorruptJournal> {
        if snapshot.version != SNAPSHOT_VERSION {
            let detail = format!("snapshot version {} is not known", snapshot.version);
            return Err(CorruptJournal { at: snapshot.head, detail });
        }
        let Snapshot { version: _, head, last_at, gate, held, epoch, agent, silent_intents, .. } = snapshot;
        (self.head, self.last_at, self.gate, self.held, self.epoch) = (*head, *last_at, *gate, *held, *epoch);
        self.agent = agent.clone();
        self.created_at = snapshot.created_at;
        self.profile = Arc::clone(&snapshot.profile);
        self.silent_intents = silent_intents.clone();
        self.run = snapshot.run.clone();
        self.context = snapshot.context.clone();
        self.settled = Window::over(&snapshot.settled);
        (self.chain, self.orders) = (snapshot.chain, snapshot.orders);
        (self.made, self.last_run) = (snapshot.made, snapshot.last_run);
        self.ops = snapshot.ops.clone();
        self.outbox = snapshot.outbox.clone();
        for open in &snapshot.open {
            self.index_open(open);
            self.open.insert(open.accepted.input.id(), open.clone());
        }
        Ok(())
    }

    /// Whose session this is.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The last position of the journal.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// When the last entry was decided.
    pub fn last_at(&self) -> Timestamp {
        self.last_at
    }

    /// Whether inputs are taken.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Whether waiting inputs are kept but not run.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The agent that the session was created for.
    pub fn agent(&self) -> Option<&Arc<str>> {
        self.agent.as_ref()
    }

    /// When it was created; [`Timestamp::ZERO`] if that is no longer known.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// The intents of peer requests that start no runs, sorted.
    pub fn silent_intents(&self) -> &[String] {
        &self.silent_intents
    }

    /// From now on inputs are admitted by this policy. What was decided before stands in the records. Of this process
    /// only: whoever recovers the session says again which policy governs it.
    pub fn use_policy(&mut self, policy: Arc<PolicyTable>) {
        self.policy = policy;
    }

    /// The current completion order; none before the first step.
    pub fn epoch(&self) -> Option<RuntimeEpochId> {
        self.epoch
    }

    /// The attempt that is running, if one is.
    pub fn current_attempt(&self) -> Option<AttemptId> {
        self.run.as_ref().filter(|run| run.is_running()).map(|run| run.attempt())
    }

    /// The run that is on or suspended, if one is.
    pub fn current_run(&self) -> Option<RunId> {
        self.run.as_ref().map(|run| run.id)
    }

    /// The position after which entries are still needed, if a run is on: whoever resumes it reads what it said so far.
    pub fn needed_after(&self) -> Option<Seq> {
        self.run.as_ref().map(|run| Seq(run.first.0 - 1))
    }

    /// The last link of the chain of receipts.
    pub fn chain(&self) -> ChainHash {
        self.chain
    }

    /// How many inputs are not over.
    pub fn open_inputs(&self) -> u32 {
        self.open.len() as u32
    }

    /// How many settled inputs are remembered.
    pub fn settled_inputs(&self) -> u32 {
        self.settled.len() as u32
    }

    /// Whether an input is open that the journal does not promise to keep.
    pub fn has_ephemeral_inputs(&self) -> bool {
        self.open.values().any(Open::is_ephemeral)
    }

    /// Whether there would be something to run now, were an executor attached.
    pub fn is_pending(&self) -> bool {
        let may_run = !self.held && matches!(self.gate, Gate::Open | Gate::Retired);
        may_run
            && match &self.run {
                Some(run) => !run.pinned,
                None => {
                    // What is ripe but was not yet moved: nothing chooses while no executor is there.
                    let ripe = self.lanes.next_ripe().is_some_and(|(at, _)| at <= self.latest.max(self.last_at));
                    ripe || self.has_wake_pending()
                        || self.lanes.steer.has_waking()
                        || self.lanes.queue.has_waking()
                        || self.drains_aside()
                }
            }
    }

    /// The earliest moment at which there will be something to run, were an executor attached.
    pub fn pending_at(&self) -> Option<Timestamp> {
        let suspended = self.run.as_ref().and_then(|run| run.suspended_until());
        let ripe = self.lanes.next_ripe().map(|(at, _)| at);
        let runs = suspended.into_iter().chain(ripe).chain(self.last_asides_ripen());
        let runs = runs.filter(|_| !self.held && matches!(self.gate, Gate::Open | Gate::Retired));
        let times = runs.chain(self.lanes.next_expiry()).chain(self.orphan_due()).chain(self.outgoing_due());
        // What is past is pending already.
        times.filter(|at| *at > self.last_at).min()
    }

    /// What the session is doing.
    pub fn state(&self) -> RuntimeState {
        match self.gate {
            _ if self.head == Seq::ZERO => RuntimeState::Initializing,
            Gate::Stopped => RuntimeState::Stopped,
            Gate::Destroyed => RuntimeState::Destroyed,
            Gate::Retired => RuntimeState::Retired,
            Gate::Open if self.run.is_some() => RuntimeState::Running,
            Gate::Open if self.attached => RuntimeState::Attached,
            Gate::Open => RuntimeState::Idle,
        }
    }

    /// Where an input is; none if the session never had it, or has forgotten it.
    pub fn input_state(&self, id: InputId) -> Option<InputState> {
        match self.open.get(&id) {
            Some(open) => Some(self.open_state(id, open)),
            None => self.remembered(self.settled.by_id(id)).map(|settled| settled.state),
        }
    }

    /// The input that holds this key, open or remembered.
    pub fn input_by_key(&self, key: &IdempotencyKey) -> Option<InputId> {
        let key = KeyHash::of(key);
        self.keys.get(&key).copied().or_else(|| self.remembered(self.settled.by_key(key)).map(|settled| settled.id))
    }

    /// What the next entry will not make the session forget.
    pub(crate) fn remembered<'a>(&self, settled: Option<&'a Settled>) -> Option<&'a Settled> {
        settled.filter(|settled| !settled.is_due(self.latest.max(self.last_at), &self.limits))
    }

    /// The inputs that are not over, in the order of their ids.
    pub fn active_inputs(&self) -> impl Iterator<Item = (InputId, InputState)> {
        self.open.iter().map(|(id, open)| (*id, self.open_state(*id, open)))
    }

    /// An input that is not over, as it was admitted.
    pub fn active_input(&self, id: InputId) -> Option<&Arc<Accepted>> {
        self.open.get(&id).map(|open| &open.accepted)
    }

    /// When an input was admitted that is not over.
    pub fn admitted_at(&self, id: InputId) -> Option<Timestamp> {
        self.open.get(&id).map(|open| open.at)
    }

    /// The inputs of a lane, in admission order.
    pub fn lane(&self, lane: Lane) -> Vec<InputId> {
        let waiting = self.open.iter().filter(|(_, open)| open.place == Place::Waiting(lane));
        let mut waiting: Vec<_> = waiting.map(|(id, open)| (open.order, *id)).collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, id)| id).collect()
    }

    fn open_state(&self, id: InputId, open: &Open) -> InputState {
        match open.place {
            Place::Waiting(_) => InputState::Queued,
            Place::Context => InputState::Accepted,
            Place::Run if self.run.as_ref().is_some_and(|run| run.covers(id)) => InputState::AppliedPendingConsumption,
            Place::Run => InputState::Staged,
        }
    }

    fn on_opened(&mut self, now: Timestamp, agent: Option<Arc<str>>, same_process: bool, step: &mut Step) {
        (self.attached, self.leaving) = (false, None);
        if self.head == Seq::ZERO {
            let epoch = RuntimeEpochId::from_uuid(derived_uuid(now, self.id, Purpose::Epoch, self.made));
            self.write(now, Record::SessionCreated { epoch, agent }, step);
            return;
        }
        self.mend_run(now, same_process, step);
        if same_process {
            return;
        }
        let lost = self.open.iter().filter(|(_, open)| open.is_ephemeral() && open.starts == 0);
        let lost: Vec<_> = lost.map(|(id, _)| *id).collect();
        self.abandon(now, lost, AbandonReason::EphemeralLost, step);
    }

    fn on_attach(&mut self, now: Timestamp, wakes: bool, step: &mut Step) {
        self.attached = true;
        if wakes {
            self.wake_all(now, Waker::Attach, step);
        }
    }

    /// Makes everything that waits due, if anything waits that is not.
    pub(crate) fn wake_all(&mut self, now: Timestamp, by: Waker, step: &mut Step) {
        if self.open.values().any(|open| !open.wake && matches!(open.place, Place::Waiting(Lane::Steer | Lane::Queue)))
        {
            self.write(now, Record::Woken { by }, step);
        }
    }

    fn expire_aside(&mut self, now: Timestamp, step: &mut Step) {
        if self.lanes.next_expiry().is_some_and(|at| at <= now) {
            let expired = self.lanes.expired(now);
            self.abandon(now, expired, AbandonReason::Expired, step);
        }
    }

    /// Ends waiting inputs without running them.
    pub(crate) fn abandon(&mut self, now: Timestamp, inputs: Vec<InputId>, reason: AbandonReason, step: &mut Step) {
        if !inputs.is_empty() {
            self.write(now, Record::InputsSettled { inputs, outcome: Outcome::Abandoned { reason } }, step);
        }
    }

    /// Records a fact: folds it, and puts it where it will be made durable. Every live change goes through here.
    pub(crate) fn write(&mut self, now: Timestamp, record: Record, step: &mut Step) {
        let entry = Arc::new(Entry { seq: self.head.next(), at: now, record });
        if let Err(detail) = self.apply(&entry, &mut step.settled) {
            panic!("session {} decided what cannot happen, {detail}: {entry:?}", self.id);
        }
        step.entries.push(entry);
    }

    /// The next id that the session makes itself.
    pub(crate) fn make_run_id(&self, now: Timestamp) -> RunId {
        RunId::from_uuid(derived_uuid(now, self.id, Purpose::Run, self.made))
    }
}

impl Open {
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.accepted.input.header.durability != Durability::Durable
    }

    /// The lane that it waits in when it waits.
    pub(crate) fn home(&self) -> Option<Lane> {
        match self.accepted.decision.deliver {
            Deliver::NextRun => Some(Lane::Queue),
            Deliver::Checkpoint => Some(Lane::Steer),
            Deliver::WithNextRun => Some(Lane::Aside),
            Deliver::Context | Deliver::Ignore => None,
        }
    }

    /// Whether it takes no company: it failed in some, or its run is tried again, whose effect keys must stay the same.
    pub(crate) fn runs_alone(&self) -> bool {
        self.alone || self.run.is_some()
    }

    pub(crate) fn slot(&self, limits: &Limits) -> Slot {
        let decision = &self.accepted.decision;
        let blocks = (self.tries > 0).then(|| (decision.overtake, self.accepted.input.header.source.clone()));
        Slot {
            id: self.accepted.input.id(),
            order: self.order,
            class: decision.priority,
            wake: self.wake,
            not_before: self.not_before,
            blocks,
            expires: self.at + limits.aside_ttl,
        }
    }
}

impl Step {
    pub(crate) fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.effects.push(Effect::Reply { ticket, reply });
    }
}
