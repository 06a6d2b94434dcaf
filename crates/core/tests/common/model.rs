//! What should a session do? The same rules again, naively: lists, no indexes, nothing shared with the crate but its
//! plain data and the policy table's answer.
//!
//! Two things cannot be predicted and are taken from the session: the ids of new runs, and the jitter of a retry, which
//! is checked against its bounds.

use super::name_of;
use std::time::Duration;
use windlass_core::{
    AcceptOptions, AttemptId, Control, ControlRefused, Decision, Deliver, Disposition, Durability, Gate, HandlingMode,
    Input, InputBody, InputId, InputKind, InputOrigin, Lane, Limits, Merge, OnBusy, Overtake, Peer, PeerConvention,
    PolicyQuery, PolicyTable, RunId, RunReport, SourceKind, Timestamp,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Lane(Lane),
    Context,
    Run,
}

/// An input that is not over.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) input: Input,
    pub(crate) print: String,
    pub(crate) decision: Decision,
    pub(crate) at: At,
    pub(crate) order: i64,
    admitted: Timestamp,
    first_at: Timestamp,
    wake: bool,
    alone: bool,
    pinned: bool,
    starts: u32,
    pub(crate) tries: u32,
    not_before: Option<Timestamp>,
    run: Option<RunId>,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelRun {
    pub(crate) id: RunId,
    pub(crate) attempt: u32,
    /// Inputs and whether a receipt names them.
    pub(crate) members: Vec<(InputId, bool)>,
    pub(crate) until: Option<Timestamp>,
    boundaries: u64,
    tries: u32,
    pinned: bool,
    context: usize,
}

#[derive(Clone, Debug)]
struct Over {
    id: InputId,
    key: Option<String>,
    print: String,
    state: &'static str,
    at: Timestamp,
}

/// What the session did that cannot be predicted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints {
    pub(crate) retry_at: Option<Timestamp>,
    pub(crate) started: Option<RunId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) limits: Limits,
    pub(crate) policy: PolicyTable,
    pub(crate) gate: Gate,
    pub(crate) held: bool,
    pub(crate) attached: bool,
    pub(crate) leaving: Option<AttemptId>,
    pub(crate) items: Vec<Item>,
    pub(crate) run: Option<ModelRun>,
    pub(crate) last_run: Option<RunId>,
    silent: Vec<String>,
    context: Vec<InputId>,
    over: Vec<Over>,
    front: i64,
    back: i64,
    pub(crate) now: Timestamp,
    // What the current step came to.
    pub(crate) reply: Option<String>,
    pub(crate) ends: Vec<(InputId, String)>,
    /// Run, attempt, inputs and asides of a start.
    pub(crate) start: Option<(AttemptId, Vec<InputId>, Vec<InputId>)>,
    pub(crate) stop: Option<AttemptId>,
    hints: Hints,
}

/// What makes a retry a retry.
fn print(input: &Input) -> String {
    let header = &input.header;
    format!("{:?} {:?} {:?} {:?}", input.body, header.source, header.durability, header.supersession_key)
}

fn home(deliver: Deliver) -> Option<Lane> {
    match deliver {
        Deliver::NextRun => Some(Lane::Queue),
        Deliver::Checkpoint => Some(Lane::Steer),
        Deliver::WithNextRun => Some(Lane::Aside),
        Deliver::Context | Deliver::Ignore => None,
    }
}

impl Item {
    pub(crate) fn id(&self) -> InputId {
        self.input.id()
    }

    fn ripe(&self, now: Timestamp) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Failed, and waiting for another try.
    fn backs_off(&self, now: Timestamp) -> bool {
        !self.ripe(now) && self.tries > 0
    }
}

impl Model {
    pub(crate) fn new(limits: Limits, policy: PolicyTable, now: Timestamp) -> Model {
        Model {
            limits,
            policy,
            gate: Gate::Open,
            held: false,
            attached: false,
            leaving: None,
            items: Vec::new(),
            run: None,
            last_run: None,
            silent: Vec::new(),
            context: Vec::new(),
            over: Vec::new(),
            front: 0,
            back: 0,
            now,
            reply: None,
            ends: Vec::new(),
            start: None,
            stop: None,
            hints: Hints::default(),
        }
    }

    pub(crate) fn begin(&mut self, now: Timestamp, hints: Hints) {
        self.now = self.now.max(now);
        self.hints = hints;
        (self.reply, self.start, self.stop) = (None, None, None);
        self.ends.clear();
    }

    /// What follows every event.
    pub(crate) fn finish(&mut self) {
        let now = self.now;
        let mut expired = self.lane(Lane::Aside);
        expired.retain(|id| self.item(*id).admitted + self.limits.aside_ttl <= now);
        expired.sort_by_key(|id| (self.item(*id).admitted, *id));
        for id in expired {
            self.end(id, "abandoned expired");
        }
        if self.run.as_ref().is_none_or(|run| run.until.is_some()) {
            self.append_context();
        }
        if !self.may_run() || self.leaving.is_some() {
            return;
        }
        match &self.run {
            None => {
                if let Some((inputs, asides)) = self.select() {
                    self.start(inputs, asides, false);
                }
            }
            Some(run) if run.until.is_some_and(|until| until <= now) => self.resume(),
            Some(_) => {}
        }
    }

    fn may_run(&self) -> bool {
        self.attached && !self.held && matches!(self.gate, Gate::Open | Gate::Retired)
    }

    fn item(&self, id: InputId) -> &Item {
        self.items.iter().find(|item| item.id() == id).expect("the item is open")
    }

    fn item_mut(&mut self, id: InputId) -> &mut Item {
        self.items.iter_mut().find(|item| item.id() == id).expect("the item is open")
    }

    /// What waits there, in admission order.
    pub(crate) fn lane(&self, lane: Lane) -> Vec<InputId> {
        let mut waiting: Vec<_> = self.items.iter().filter(|item| item.at == At::Lane(lane)).collect();
        waiting.sort_by_key(|item| item.order);
        waiting.into_iter().map(Item::id).collect()
    }

    fn lane_items(&self, lane: Lane) -> Vec<&Item> {
        self.lane(lane).into_iter().map(|id| self.item(id)).collect()
    }

    pub(crate) fn state(&self, id: InputId) -> Option<&'static str> {
        if let Some(item) = self.items.iter().find(|item| item.id() == id) {
            let covered = |run: &ModelRun| run.members.contains(&(id, true));
            return Some(match item.at {
                At::Lane(_) => "queued",
                At::Context => "accepted",
                At::Run if self.run.as_ref().is_some_and(covered) => "applied_pending_consumption",
                At::Run => "staged",
            });
        }
        self.remembered().rev().find(|over| over.id == id).map(|over| over.state)
    }

    pub(crate) fn runtime_state(&self) -> &'static str {
        match self.gate {
            Gate::Stopped => "stopped",
            Gate::Destroyed => "destroyed",
            Gate::Retired => "retired",
            Gate::Open if self.run.is_some() => "running",
            Gate::Open if self.attached => "attached",
            Gate::Open => "idle",
        }
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let mut dues: Vec<_> =
            self.lane_items(Lane::Aside).iter().map(|item| item.admitted + self.limits.aside_ttl).collect();
        if self.may_run() && self.leaving.is_none() {
            match &self.run {
                Some(run) => dues.extend(run.until),
                None => {
                    let drains = self.drains_aside();
                    let waiting = self.items.iter().filter(|item| match item.at {
                        At::Lane(Lane::Aside) => drains,
                        At::Lane(_) => true,
                        _ => false,
                    });
                    dues.extend(waiting.filter_map(|item| item.not_before).filter(|at| *at > self.now));
                }
            }
        }
        dues.into_iter().min()
    }

    fn end(&mut self, id: InputId, outcome: &str) {
        let at = self.items.iter().position(|item| item.id() == id).expect("what ends is open");
        let item = self.items.remove(at);
        let state = match outcome.split(' ').next().unwrap() {
            "abandoned" => "abandoned",
            "superseded" => "superseded",
            "coalesced" => "coalesced",
            _ => "consumed",
        };
        let key = item.input.header.idempotency_key.map(|key| key.as_str().to_owned());
        self.over.push(Over { id, key, print: item.print, state, at: self.now });
        while self.over.len() > self.limits.settled_kept as usize {
            self.over.remove(0);
        }
        self.ends.push((id, outcome.to_owned()));
    }

    /// What ended and is remembered, oldest first.
    fn remembered(&self) -> impl DoubleEndedIterator<Item = &Over> {
        let seconds = |at: Timestamp| at.as_micros() / 1_000_000;
        let (ttl, now) = (self.limits.settled_ttl.as_secs() as i64, seconds(self.now));
        self.over.iter().filter(move |over| seconds(over.at) + ttl >= now)
    }
}

// Admission.
impl Model {
    pub(crate) fn accept(&mut self, input: &Input, options: AcceptOptions) {
        let answer = self.admit(input, options);
        self.reply = Some(answer);
    }

    fn admit(&mut self, input: &Input, options: AcceptOptions) -> String {
        let (id, print, now) = (input.id(), print(input), self.now);
        let known = |of: InputId, code: &str| -> Option<String> {
            let open = self.items.iter().find(|item| item.id() == of).map(|item| &item.print);
            let known = open.or_else(|| self.remembered().find(|over| over.id == of).map(|over| &over.print))?;
            Some(if *known == print {
                format!("duplicate of={} state={}", name_of(of), self.state(of).unwrap())
            } else {
                format!("rejected {code} of={}", name_of(of))
            })
        };
        if let Some(answer) = known(id, "input_id_reused") {
            return answer;
        }
        if let Some(key) = &input.header.idempotency_key {
            let open = self.items.iter().find(|item| item.input.header.idempotency_key.as_ref() == Some(key));
            let over = self.remembered().rev().find(|over| over.key.as_deref() == Some(key.as_str()));
            if let Some(of) = open.map(Item::id).or(over.map(|over| over.id)) {
                return known(of, "idempotency_key_reused").unwrap();
            }
        }
        if self.gate != Gate::Open {
            return format!("rejected session_state_conflict state={}", self.runtime_state());
        }
        let kind = input.kind();
        if input.header.durability == Durability::Derived {
            let inside = matches!(input.header.source, InputOrigin::System | InputOrigin::Flow { .. });
            let derivable = [
                InputKind::PeerResponseProgress,
                InputKind::ExternalEvent,
                InputKind::Continuation,
                InputKind::Operation,
            ];
            if !inside || !derivable.contains(&kind) {
                return "rejected durability_violation".into();
            }
        }
        let mode = input.handling_mode();
        if kind == InputKind::PeerResponseProgress && mode.is_some()
            || options.without_wake && mode == Some(HandlingMode::Steer)
        {
            return "rejected handling_mode_invalid".into();
        }
        let busy = self.run.is_some();
        let source = SourceKind::from(&input.header.source);
        let mut decision = self.policy.decide(PolicyQuery { kind: Some(kind), mode, source, busy }).decision;
        let silent = match &input.body {
            InputBody::Peer(Peer { convention: Some(PeerConvention::Request { intent, .. }), .. }) => {
                self.silent.contains(intent)
            }
            _ => false,
        };
        if silent || options.aside {
            (decision.deliver, decision.wake, decision.on_busy) = (Deliver::WithNextRun, false, OnBusy::Wait);
        }
        let front = busy && decision.on_busy == OnBusy::Interrupt;
        if front {
            (decision.deliver, decision.priority) = (Deliver::Checkpoint, u8::MAX);
        }
        let lane = home(decision.deliver);
        if options.pinned && !matches!(lane, Some(Lane::Queue | Lane::Steer)) {
            return "rejected handling_mode_invalid".into();
        }
        let replaced = self.replaced(input, &decision);
        let (len, limit) = match lane {
            Some(lane @ Lane::Queue) => (self.lane(lane).len(), self.limits.queued),
            Some(lane @ Lane::Steer) => (self.lane(lane).len(), self.limits.steered),
            Some(lane @ Lane::Aside) => (self.lane(lane).len(), self.limits.aside),
            None if decision.deliver == Deliver::Context => {
                let waits = self.items.iter().filter(|item| item.at == At::Context).count();
                (self.context.len() + waits, self.limits.aside)
            }
            None => (0, 1),
        };
        if len >= limit as usize && replaced.is_none() {
            return "rejected queue_full".into();
        }
        if busy && decision.on_busy == OnBusy::Reject {
            return "rejected rejected_by_policy".into();
        }
        if options.pinned && (self.run.is_some() || self.leaving.is_some() || self.select().is_some()) {
            return format!("rejected session_state_conflict state={}", self.runtime_state());
        }
        // From here on it is taken.
        if front && self.run.as_ref().is_some_and(|run| run.until.is_none()) {
            self.release();
        }
        let mut wake = decision.wake && !options.without_wake;
        let (mut order, mut first_at) = (None, now);
        if let Some(older) = replaced {
            let coalesced = decision.merge != Merge::Supersede;
            let item = self.item(older).clone();
            if coalesced {
                (order, first_at) = (Some(item.order), item.first_at);
                wake |= item.wake;
            }
            let how = if coalesced { "coalesced into" } else { "superseded by" };
            self.end(older, &format!("{how}={}", name_of(id)));
        }
        let not_before = match decision.merge {
            Merge::Debounce { window, max } => Some((now + window).min(first_at + max).max(now)),
            _ => None,
        };
        let order = order.unwrap_or_else(|| {
            if front {
                self.front -= 1;
                self.front
            } else {
                self.back += 1;
                self.back
            }
        });
        let deliver = decision.deliver;
        let at = lane.map_or(At::Context, At::Lane);
        self.items.push(Item {
            input: input.clone(),
            print,
            decision,
            at,
            order,
            admitted: now,
            first_at,
            wake,
            alone: false,
            pinned: options.pinned,
            starts: 0,
            tries: 0,
            not_before,
            run: None,
        });
        if deliver == Deliver::Ignore {
            self.end(id, "recorded");
        }
        if options.pinned {
            let asides = self.asides();
            self.start(vec![id], asides, true);
        }
        format!("accepted state={}", self.state(id).unwrap_or("consumed"))
    }

    /// The last in line of the same kind, key and lane that no run has tried.
    fn replaced(&self, input: &Input, decision: &Decision) -> Option<InputId> {
        let key = input.header.supersession_key.as_ref()?;
        let lane = home(decision.deliver)?;
        if decision.merge == Merge::Keep {
            return None;
        }
        let same = |item: &&Item| {
            item.input.kind() == input.kind() && item.input.header.supersession_key.as_ref() == Some(key)
        };
        let untouched = self.items.iter().filter(|item| item.starts == 0 && item.at == At::Lane(lane));
        let last = untouched.filter(same).max_by_key(|item| item.order)?;
        let durable = |input: &Input| input.header.durability == Durability::Durable;
        (durable(input) || !durable(&last.input)).then(|| last.id())
    }
}

// Runs.
impl Model {
    fn select(&self) -> Option<(Vec<InputId>, Vec<InputId>)> {
        let now = self.now;
        let (steer, queue) = (self.lane_items(Lane::Steer), self.lane_items(Lane::Queue));
        if !steer.iter().chain(&queue).any(|item| item.wake && item.ripe(now)) {
            if !self.drains_aside() {
                return None;
            }
            let ripe: Vec<_> = self.lane_items(Lane::Aside).into_iter().filter(|item| item.ripe(now)).collect();
            let alone = ripe.first()?.alone;
            let batch = if alone { 1 } else { self.limits.batch as usize };
            let company = ripe.iter().enumerate().take_while(|(at, item)| *at == 0 || !item.alone);
            return Some((Vec::new(), company.take(batch).map(|(_, item)| item.id()).collect()));
        }
        let wall = |lane: &[&Item]| lane.iter().any(|i| i.backs_off(now) && i.decision.overtake == Overtake::Never);
        if wall(&steer) {
            return None;
        }
        let inputs = if steer.iter().any(|item| item.ripe(now)) {
            self.batch(&steer, false)
        } else if wall(&queue) {
            return None;
        } else {
            self.batch(&queue, true)
        };
        let first = self.item(*inputs.first()?);
        let asides = if first.alone || first.run.is_some() { Vec::new() } else { self.asides() };
        Some((inputs, asides))
    }

    fn batch(&self, lane: &[&Item], prompts_alone: bool) -> Vec<InputId> {
        let now = self.now;
        let blocked = |item: &Item| {
            lane.iter().any(|other| {
                other.backs_off(now)
                    && other.decision.overtake == Overtake::OtherSources
                    && other.input.header.source == item.input.header.source
            })
        };
        let mut batch = Vec::new();
        let mut passed = 0;
        for item in self.ranked(lane) {
            if blocked(item) {
                passed += 1;
                if !batch.is_empty() || passed > self.limits.lookahead {
                    break;
                }
                continue;
            }
            let alone = item.alone || item.run.is_some() || (prompts_alone && item.input.kind() == InputKind::Prompt);
            if alone && !batch.is_empty() {
                break;
            }
            batch.push(item.id());
            if alone || batch.len() >= self.limits.batch as usize {
                break;
            }
        }
        batch
    }

    /// Class by class, the one first whose head has the highest class after ageing; in order within each.
    fn ranked<'a>(&self, lane: &[&'a Item]) -> Vec<&'a Item> {
        let ripe: Vec<&Item> = lane.iter().copied().filter(|item| item.ripe(self.now)).collect();
        let aged = |class: u8| {
            let head = ripe.iter().find(|item| item.decision.priority == class).unwrap();
            let waited = self.now.since(head.admitted).as_micros() / self.limits.ageing.as_micros();
            (std::cmp::Reverse(u128::from(class) + waited), head.order)
        };
        let mut classes: Vec<u8> = ripe.iter().map(|item| item.decision.priority).collect();
        classes.sort_unstable();
        classes.dedup();
        classes.sort_by_key(|class| aged(*class));
        let of = |class: u8| ripe.iter().copied().filter(move |item| item.decision.priority == class);
        classes.into_iter().flat_map(|class| of(class).collect::<Vec<_>>()).collect()
    }

    fn drains_aside(&self) -> bool {
        self.gate == Gate::Retired && self.lane(Lane::Steer).is_empty() && self.lane(Lane::Queue).is_empty()
    }

    fn asides(&self) -> Vec<InputId> {
        self.lane(Lane::Aside).into_iter().take(self.limits.batch as usize).collect()
    }

    fn start(&mut self, inputs: Vec<InputId>, asides: Vec<InputId>, pinned: bool) {
        let members: Vec<_> = inputs.iter().chain(&asides).copied().collect();
        let attempt = 1 + members.iter().map(|id| self.item(*id).starts).max().unwrap_or(0);
        let kept = if let ([only], []) = (&inputs[..], &asides[..]) { self.item(*only).run } else { None };
        let id = kept.or(self.hints.started).expect("the session started a run here");
        for member in &members {
            let item = self.item_mut(*member);
            (item.at, item.starts, item.not_before) = (At::Run, attempt, None);
            item.tries += 1;
        }
        self.run = Some(ModelRun {
            id,
            attempt,
            members: members.iter().map(|id| (*id, false)).collect(),
            until: None,
            boundaries: 0,
            tries: 0,
            pinned,
            context: self.context.len(),
        });
        let context = self.context.iter().copied().chain(asides).collect();
        self.start = Some((AttemptId { run: id, attempt }, inputs, context));
    }

    fn resume(&mut self) {
        let context = self.context.clone();
        let run = self.run.as_mut().expect("a run is suspended");
        run.attempt += 1;
        run.tries += 1;
        run.until = None;
        run.context = context.len();
        let attempt = AttemptId { run: run.id, attempt: run.attempt };
        let uncovered = self.uncovered();
        let (asides, inputs): (Vec<_>, Vec<_>) =
            uncovered.into_iter().partition(|id| self.item(*id).decision.deliver == Deliver::WithNextRun);
        self.start = Some((attempt, inputs, context.into_iter().chain(asides).collect()));
    }

    fn uncovered(&self) -> Vec<InputId> {
        let members = self.run.iter().flat_map(|run| &run.members);
        members.filter(|(_, covered)| !covered).map(|(id, _)| *id).collect()
    }

    pub(crate) fn current(&self) -> Option<AttemptId> {
        let run = self.run.as_ref().filter(|run| run.until.is_none())?;
        Some(AttemptId { run: run.id, attempt: run.attempt })
    }

    pub(crate) fn checkpoint(&mut self, attempt: AttemptId) {
        if self.current() != Some(attempt) {
            self.reply = Some("run_closed".into());
            return;
        }
        let steer = self.lane_items(Lane::Steer);
        let walled = steer.iter().any(|i| i.backs_off(self.now) && i.decision.overtake == Overtake::Never);
        let mut batch = if walled || self.held { Vec::new() } else { self.batch(&steer, false) };
        if batch.first().is_some_and(|id| self.item(*id).alone || self.item(*id).run.is_some()) {
            batch.clear();
        }
        for id in &batch {
            let item = self.item_mut(*id);
            (item.at, item.starts, item.not_before) = (At::Run, attempt.attempt, None);
            item.tries += 1;
        }
        self.run.as_mut().unwrap().members.extend(batch.iter().map(|id| (*id, false)));
        let names: Vec<_> = batch.into_iter().map(name_of).collect();
        self.reply = Some(format!("steering [{}]", names.join(", ")));
    }

    pub(crate) fn boundary(&mut self, attempt: AttemptId) {
        if self.current() != Some(attempt) {
            self.reply = Some("run_closed".into());
            return;
        }
        let names: Vec<_> = self.uncovered().into_iter().map(name_of).collect();
        let sequence = self.run.as_ref().unwrap().boundaries;
        self.reply = Some(format!("committed #{sequence} [{}]", names.join(", ")));
        self.cover();
        self.append_context();
    }

    fn cover(&mut self) {
        let run = self.run.as_mut().unwrap();
        run.members.iter_mut().for_each(|member| member.1 = true);
        run.boundaries += 1;
        run.tries = 0;
        let confirmed = std::mem::take(&mut run.context);
        self.context.drain(..confirmed);
    }

    fn append_context(&mut self) {
        let mut waiting: Vec<_> = self.items.iter().filter(|item| item.at == At::Context).collect();
        waiting.sort_by_key(|item| item.order);
        for id in waiting.into_iter().map(Item::id).collect::<Vec<_>>() {
            self.context.push(id);
            self.end(id, "recorded");
        }
    }

    pub(crate) fn ended(&mut self, attempt: AttemptId, report: &RunReport) {
        if self.leaving == Some(attempt) {
            self.leaving = None;
        }
        if self.current() != Some(attempt) {
            return;
        }
        let pinned = self.run.as_ref().unwrap().pinned;
        match report {
            RunReport::Done { .. } => {
                self.cover();
                let run = self.close();
                for (id, _) in run.members {
                    self.end(id, "completed \"ok\"");
                }
            }
            RunReport::Failed { error, .. } if pinned => {
                let run = self.close();
                self.end_members(&run, Some("caller"), |covered| match run.boundaries {
                    0 => format!("abandoned failed {error:?}"),
                    n if covered => format!("failed after={} {error:?}", n - 1),
                    _ => format!("abandoned failed {error:?}"),
                });
            }
            RunReport::Failed { error, retryable, retry_after } => {
                let run = self.run.as_ref().unwrap();
                let tries = if run.boundaries > 0 { run.tries } else { self.most_tries() };
                self.fail(error, *retryable, Some((tries, retry_after.unwrap_or_default())));
            }
            RunReport::CallerGone => self.cut("abandoned caller_gone"),
        }
    }

    fn most_tries(&self) -> u32 {
        self.uncovered().into_iter().map(|id| self.item(id).tries).max().unwrap_or(0)
    }

    /// The current run is no longer on.
    fn close(&mut self) -> ModelRun {
        let run = self.run.take().unwrap();
        self.last_run = Some(run.id);
        run
    }

    /// `back_off`: the tries so far, and what the executor asked for at least; none: at once.
    fn fail(&mut self, error: &str, retryable: bool, back_off: Option<(u32, Duration)>) {
        let run = self.close();
        let limit = self.limits.attempts;
        let several = run.members.len() > 1;
        let spent = |model: &Model, id| model.item(id).tries >= limit;
        let again = if run.boundaries > 0 {
            retryable && run.tries < limit
        } else {
            several || retryable && !spent(self, run.members[0].0)
        };
        let retry_at = again.then(|| self.retry_at(if retryable || !several { back_off } else { None }));
        if run.boundaries > 0 {
            match retry_at {
                Some(until) => self.run = Some(ModelRun { until: Some(until), ..run }),
                None => self.end_members(&run, None, |covered| match covered {
                    true => format!("failed after={} {error:?}", run.boundaries - 1),
                    false if retryable => format!("abandoned max_attempts_exhausted attempts={} {error:?}", run.tries),
                    false => format!("abandoned failed {error:?}"),
                }),
            }
            return;
        }
        let most = run.members.iter().map(|(id, _)| self.item(*id).tries).max().unwrap();
        let leads = |id: &&InputId| home(self.item(**id).decision.deliver) != Some(Lane::Aside);
        let leaders: Vec<InputId> = run.members.iter().map(|(id, _)| id).filter(leads).copied().collect();
        for (id, _) in &run.members {
            let used_up = spent(self, *id);
            match retry_at {
                Some(at) if !(several && used_up) => {
                    self.give_back(*id, false);
                    let item = self.item_mut(*id);
                    item.not_before = Some(at);
                    item.alone |= several;
                    item.run = (!several || leaders == [*id]).then_some(run.id);
                }
                None if !retryable => self.end(*id, &format!("abandoned failed {error:?}")),
                _ => self.end(*id, &format!("abandoned max_attempts_exhausted attempts={most} {error:?}")),
            }
        }
    }

    fn retry_at(&self, back_off: Option<(u32, Duration)>) -> Timestamp {
        let Some((tries, at_least)) = back_off else { return self.now };
        let at = self.hints.retry_at.expect("the session retries here");
        let doubled = self.limits.backoff * 2u32.pow(tries.saturating_sub(1));
        let most = doubled.min(self.limits.backoff_max);
        let delay = at.since(self.now);
        assert!(delay >= (most / 2).max(at_least), "a retry waits: {delay:?}");
        assert!(delay <= most.max(at_least), "but not longer than it has to: {delay:?}");
        at
    }

    fn give_back(&mut self, id: InputId, uncounted: bool) {
        let item = self.item_mut(id);
        let lane = home(item.decision.deliver).expect("what runs has waited");
        item.at = At::Lane(lane);
        item.wake = lane != Lane::Aside;
        item.not_before = None;
        item.tries -= u32::from(uncounted);
    }

    /// Ends what was in a run. What no receipt covers goes back if it is only company: of the caller, or aside.
    fn end_members(&mut self, run: &ModelRun, spared: Option<&str>, outcome: impl Fn(bool) -> String) {
        for (id, covered) in &run.members {
            let item = self.item(*id);
            let company = match spared {
                Some("caller") => run.pinned && !item.pinned,
                Some("aside") => item.decision.deliver == Deliver::WithNextRun,
                _ => false,
            };
            if company && !covered {
                self.give_back(*id, true);
            } else {
                self.end(*id, &outcome(*covered));
            }
        }
    }

    /// Ends the run from outside: `outcome` is that of its uncovered inputs.
    fn cut(&mut self, outcome: &str) {
        let Some(run) = self.run.as_ref() else { return };
        if run.until.is_none() && outcome != "abandoned caller_gone" {
            self.expel();
        }
        let run = self.close();
        let spared = match outcome {
            "abandoned cancelled" => Some("aside"),
            "abandoned caller_gone" => Some("caller"),
            _ => None,
        };
        self.end_members(&run, spared, |covered| match run.boundaries {
            n if n > 0 && covered => format!("cancelled after={}", n - 1),
            _ => outcome.to_owned(),
        });
    }

    /// The executor is told to stop; nothing starts before it has returned.
    fn expel(&mut self) {
        self.leaving = self.current();
        self.stop = self.leaving;
    }

    /// Lets go of a running run; costs no attempt.
    pub(crate) fn release(&mut self) {
        let Some(run) = self.run.clone().filter(|run| run.until.is_none()) else { return };
        self.expel();
        if run.pinned {
            self.cut("abandoned caller_gone");
        } else {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        let run = self.close();
        if run.boundaries > 0 {
            let tries = run.tries.saturating_sub(1);
            self.run = Some(ModelRun { until: Some(self.now), tries, ..run });
            return;
        }
        for (id, _) in &run.members {
            self.give_back(*id, true);
            self.item_mut(*id).run = (run.members.len() == 1).then_some(run.id);
        }
    }

    pub(crate) fn cancel(&mut self, wanted: Option<RunId>, disposition: Disposition) {
        let name = |id: RunId| format!("{id}");
        let on = self.run.clone().filter(|run| wanted.is_none_or(|wanted| wanted == run.id));
        let waiting = self.items.iter().find(|item| {
            item.run.is_some() && item.run == wanted && matches!(item.at, At::Lane(Lane::Steer | Lane::Queue))
        });
        self.reply = Some(match (on, waiting.map(Item::id), wanted) {
            (Some(run), _, _) => {
                match disposition {
                    Disposition::Drop => self.cut("abandoned cancelled"),
                    Disposition::Requeue => self.release(),
                }
                let after = run.boundaries.checked_sub(1).map(|after| format!(" after={after}")).unwrap_or_default();
                format!("cancelled {}{after}", name(run.id))
            }
            (None, Some(id), Some(wanted)) => {
                if disposition == Disposition::Drop {
                    self.end(id, "abandoned cancelled");
                }
                format!("cancelled {}", name(wanted))
            }
            (None, _, Some(wanted)) if self.last_run == Some(wanted) => format!("too_late {}", name(wanted)),
            _ => "no_such_run".into(),
        });
    }

    pub(crate) fn withdraw(&mut self, id: InputId) {
        let at = self.items.iter().find(|item| item.id() == id).map(|item| item.at);
        self.reply = Some(match (at, self.state(id)) {
            (Some(At::Lane(_) | At::Context), _) => {
                self.end(id, "abandoned withdrawn");
                "withdrawn".into()
            }
            (_, Some(state)) => format!("too_late state={state}"),
            (_, None) => "not_found".into(),
        });
    }
}

// The owner and the verbs.
impl Model {
    /// `last`: the moment of the last entry, the latest that a new process knows of.
    pub(crate) fn reopened(&mut self, last: Timestamp, now: Timestamp, same_process: bool) {
        self.now = last.max(now);
        (self.attached, self.leaving) = (false, None);
        if let Some(run) = self.run.as_ref().filter(|run| run.until.is_none()) {
            if run.pinned {
                self.cut("abandoned caller_gone");
            } else if same_process {
                self.let_go();
            } else {
                self.fail("the process that ran it is gone", true, None);
            }
        }
        if same_process {
            return;
        }
        let is_lost = |item: &&Item| item.input.header.durability != Durability::Durable && item.starts == 0;
        let mut gone: Vec<_> = self.items.iter().filter(is_lost).map(Item::id).collect();
        gone.sort();
        for id in gone {
            self.end(id, "abandoned ephemeral_lost");
        }
    }

    pub(crate) fn attach(&mut self, wakes: bool) {
        self.attached = true;
        if wakes {
            self.wake_all();
        }
    }

    fn wake_all(&mut self) {
        let waiting = self.items.iter_mut().filter(|i| matches!(i.at, At::Lane(Lane::Steer | Lane::Queue)));
        waiting.for_each(|item| item.wake = true);
    }

    fn abandon_waiting(&mut self, outcome: &str) {
        let mut waiting: Vec<_> = self.items.iter().filter(|item| item.at != At::Run).map(Item::id).collect();
        waiting.sort();
        for id in waiting {
            self.end(id, outcome);
        }
    }

    /// Ends everything; returns how much that was.
    fn empty(&mut self, outcome: &str) -> usize {
        let before = self.items.len();
        self.cut(outcome);
        self.abandon_waiting(outcome);
        before
    }

    pub(crate) fn control(&mut self, verb: &Control) {
        let refused = format!("refused state={}", self.runtime_state());
        let running = self.current().is_some();
        let count = |what: &str, n: usize| if n > 0 { format!(" {what}={n}") } else { String::new() };
        let done = |what: &str, n: usize| format!("done{}", count(what, n));
        self.reply = Some(match (verb, self.gate) {
            (Control::Destroy, Gate::Destroyed) | (Control::Stop, Gate::Stopped) => "done".into(),
            (_, Gate::Destroyed) | (Control::Retire { .. } | Control::Reset { .. }, Gate::Stopped) => refused,
            (Control::Retire { will_drain }, _) => {
                self.gate = Gate::Retired;
                if *will_drain || self.attached {
                    self.wake_all();
                    done("pending_drain", self.items.len())
                } else {
                    let before = self.items.len();
                    if !running {
                        self.cut("abandoned retired");
                    }
                    self.abandon_waiting("abandoned retired");
                    let left = self.items.len();
                    format!("done{}{}", count("abandoned", before - left), count("pending_drain", left))
                }
            }
            (Control::Stop, _) => {
                let n = self.empty("abandoned stopped");
                self.gate = Gate::Stopped;
                done("abandoned", n)
            }
            (Control::Destroy, _) => {
                let n = self.empty("abandoned destroyed");
                self.gate = Gate::Destroyed;
                done("abandoned", n)
            }
            (Control::Revive, gate) => {
                if gate == Gate::Stopped {
                    self.gate = Gate::Open;
                }
                "done".into()
            }
            (Control::Reset { force }, _) => {
                if running && !force {
                    refused
                } else {
                    let n = self.empty("abandoned reset");
                    self.gate = Gate::Open;
                    self.context.clear();
                    done("abandoned", n)
                }
            }
            (Control::Recycle, _) if running => refused,
            (Control::Recycle, _) => {
                self.wake_all();
                done("transferred", self.items.len())
            }
            (Control::Hold, Gate::Open) => {
                self.held = true;
                "done".into()
            }
            (Control::Release, Gate::Open | Gate::Retired) => {
                self.held = false;
                "done".into()
            }
            (Control::Hold | Control::Release, _) => refused,
            (Control::SetSilentIntents(intents), _) => {
                self.silent.clone_from(intents);
                "done".into()
            }
            (Control::SetProfile(profile) | Control::CreateWith(profile), _) if profile.tenant.is_some() => {
                format!("refused {:?}", windlass_core::InvalidProfile::TenantIsFixed.to_string())
            }
            (Control::Change(change), _) if change.since.is_some() => {
                format!("refused {:?}", ControlRefused::ChangedSince.to_string())
            }
            (Control::Change(change), _) => {
                if let Some(intents) = &change.silent_intents {
                    self.silent.clone_from(intents);
                }
                "done".into()
            }
            (Control::SetProfile(_) | Control::CreateWith(_) | Control::Note(_), _) => "done".into(),
        });
    }
}
