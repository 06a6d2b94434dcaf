//! What shall be done with an input of this kind, in this mode, from this source, while the session is busy or idle?
//!
//! Policy is data: a [`PolicyTable`] of rows, first match wins, each giving a [`Decision`]. The decision that was
//! made is recorded with the input and governs it for its whole life, whatever becomes of the table.

use crate::{HandlingMode, InputKind, InputOrigin};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is to be done with one input. Every field is read by something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Where it goes.
    pub deliver: Deliver,
    /// Whether it may start a run by itself.
    #[serde(default = "yes")]
    pub wake: bool,
    /// What if a run is on.
    #[serde(default)]
    pub on_busy: OnBusy,
    /// What if one of the same scope already waits.
    #[serde(default)]
    pub merge: Merge,
    /// Its class within the lane; higher goes first. A class rises by one per minute waited.
    #[serde(default)]
    pub priority: u8,
    /// Who may go past it while it backs off after a failure.
    #[serde(default)]
    pub overtake: Overtake,
    /// Whether it stands in the transcript. Read by executors.
    #[serde(default = "yes")]
    pub record_transcript: bool,
    /// Whether the operator is shown what it leads to. Read by feeds.
    #[serde(default = "yes")]
    pub emit_operator_content: bool,
    /// The version of the table that decided.
    #[serde(default)]
    pub policy_version: u64,
}

fn yes() -> bool {
    true
}

/// Where an admitted input goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deliver {
    /// The queue lane.
    NextRun,
    /// The steer lane: joins the running run at its next checkpoint, or heads the next run.
    Checkpoint,
    /// Aside: goes with the next run, never starts one.
    WithNextRun,
    /// Appended to the conversation without a turn.
    Context,
    /// Recorded and consumed at once.
    Ignore,
}

/// What to do with an input that arrives while a run is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBusy {
    /// It waits.
    #[default]
    Wait,
    /// The run is let go (its inputs go back) and this one runs first: at the head of the steer lane, before every
    /// class, whatever its delivery. A run that has committed boundaries goes on first, and is handed it as steering.
    Interrupt,
    /// It is refused.
    Reject,
}

/// What to do with an input if one of the same scope (kind and supersession key) already waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// Both stay.
    #[default]
    Keep,
    /// They become one: the newer id at the older's position.
    Coalesce {
        /// What becomes of the older's content.
        join: Join,
    },
    /// The newer replaces the older.
    Supersede,
    /// As `Coalesce { join: latest }`, and it waits for quiet: due `window` after the last, at most `max` after the first.
    Debounce {
        /// Quiet time after the last one.
        #[serde(rename = "window_ms", with = "millis")]
        window: Duration,
        /// The longest the first one waits.
        #[serde(rename = "max_ms", with = "millis")]
        max: Duration,
    },
}

/// What becomes of the older content when two inputs coalesce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// It is dropped.
    Latest,
    /// It stands before the newer.
    Append,
}

/// Who may go past a head that backs off after a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overtake {
    /// Nobody in its lane.
    Never,
    /// Inputs of other sources.
    #[default]
    OtherSources,
    /// Everybody.
    Always,
}

mod millis {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// One row: where all of the given conditions hold, the decision. An absent condition always holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The kind of input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<InputKind>,
    /// The handling mode it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<HandlingMode>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceKind>,
    /// Whether a run is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<bool>,
    /// What to do.
    pub decision: Decision,
}

/// The kinds of [`InputOrigin`], for matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// [`InputOrigin::Operator`].
    Operator,
    /// [`InputOrigin::Peer`].
    Peer,
    /// [`InputOrigin::Flow`].
    Flow,
    /// [`InputOrigin::System`].
    System,
    /// [`InputOrigin::External`].
    External,
}

impl From<&InputOrigin> for SourceKind {
    fn from(origin: &InputOrigin) -> Self {
        match origin {
            InputOrigin::Operator => SourceKind::Operator,
            InputOrigin::Peer { .. } => SourceKind::Peer,
            InputOrigin::Flow { .. } => SourceKind::Flow,
            InputOrigin::System => SourceKind::System,
            InputOrigin::External { .. } => SourceKind::External,
        }
    }
}

/// One question to a policy table. An unknown kind is asked for by `kind: None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyQuery {
    /// The kind, if it is a known one.
    pub kind: Option<InputKind>,
    /// The handling mode the input asks for, if any.
    pub mode: Option<HandlingMode>,
    /// Where it comes from.
    pub source: SourceKind,
    /// Whether a run is on.
    pub busy: bool,
}

/// A policy: rows, first match wins. What no row matches is queued and wakes nobody.
///
/// ```
/// use windlass_core::{Deliver, HandlingMode, InputKind, PolicyQuery, PolicyTable, SourceKind};
/// let table = PolicyTable::reference();
/// let query = PolicyQuery { kind: Some(InputKind::Prompt), mode: Some(HandlingMode::Steer), source: SourceKind::Operator, busy: true };
/// assert_eq!(table.decide(query).decision.deliver, Deliver::Checkpoint);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTable {
    /// Recorded in every decision that this table makes.
    pub version: u64,
    /// The rows, in order of precedence.
    #[serde(rename = "row", default)]
    pub rows: Vec<Row>,
}

/// A decision and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ruling {
    /// The index of the row that matched; none if none did.
    pub row: Option<usize>,
    /// What is to be done.
    pub decision: Decision,
}

/// A table that cannot be used, with the row and the field that are wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// More rows than anybody can read.
    #[error("row: a policy has at most {limit} rows, this one has {rows}")]
    TooManyRows {
        /// How many it has.
        rows: usize,
        /// The most allowed.
        limit: usize,
    },
    /// A row that an earlier one always hides.
    #[error("row[{row}]: never reached, row[{hidden_by}] matches everything it does; move it up or delete it")]
    Unreachable {
        /// The hidden row.
        row: usize,
        /// The row that hides it.
        hidden_by: usize,
    },
    /// A debounce that never becomes due, or before its own window.
    #[error("row[{row}].decision.merge.debounce: needs 0 < window_ms <= max_ms")]
    Debounce {
        /// The row.
        row: usize,
    },
    /// A wake that nothing could act on.
    #[error("row[{row}].decision.wake: {deliver:?} never starts a run; set wake = false")]
    IdleWake {
        /// The row.
        row: usize,
        /// Its delivery.
        deliver: Deliver,
    },
    /// An interrupt that does not put the input first.
    #[error("row[{row}].decision.on_busy: interrupt needs deliver = \"next_run\" or \"checkpoint\", not {deliver:?}")]
    Interrupt {
        /// The row.
        row: usize,
        /// Its delivery.
        deliver: Deliver,
    },
    /// A merge of something that never waits.
    #[error(
        "row[{row}].decision.merge: {deliver:?} never waits, so there is nothing to merge with; set merge = \"keep\""
    )]
    Merge {
        /// The row.
        row: usize,
        /// Its delivery.
        deliver: Deliver,
    },
}

impl Decision {
    /// Queued, wakes, waits its turn: what most inputs get.
    pub const QUEUE: Decision = Decision {
        deliver: Deliver::NextRun,
        wake: true,
        on_busy: OnBusy::Wait,
        merge: Merge::Keep,
        priority: 0,
        overtake: Overtake::OtherSources,
        record_transcript: true,
        emit_operator_content: true,
        policy_version: 0,
    };
    /// Steers: joins the running run at its next checkpoint. Its order is never given up.
    pub const STEER: Decision = Decision { deliver: Deliver::Checkpoint, overtake: Overtake::Never, ..Decision::QUEUE };
    /// Aside, the newest of its scope.
    pub const PASSIVE: Decision = Decision {
        deliver: Deliver::WithNextRun,
        wake: false,
        merge: Merge::Coalesce { join: Join::Latest },
        overtake: Overtake::Always,
        ..Decision::QUEUE
    };
    /// Recorded, consumed, shown to nobody.
    pub const IGNORE: Decision = Decision {
        deliver: Deliver::Ignore,
        wake: false,
        record_transcript: false,
        emit_operator_content: false,
        ..Decision::QUEUE
    };
}

impl PolicyTable {
    /// The most rows a table may have.
    pub const MAX_ROWS: usize = 256;

    /// The reference's table, version 1 (ingress specification, section 3.2).
    pub fn reference() -> PolicyTable {
        use InputKind as K;
        let row = |kind, mode, decision| Row { kind: Some(kind), mode, source: None, busy: None, decision };
        let quiet =
            |decision: Decision| Decision { record_transcript: false, emit_operator_content: false, ..decision };
        let patient = |decision: Decision| Decision { overtake: Overtake::Always, ..decision };
        let steer = Some(HandlingMode::Steer);
        let queue = Some(HandlingMode::Queue);
        PolicyTable {
            version: 1,
            rows: vec![
                row(K::Operation, None, Decision::IGNORE),
                row(K::PeerResponseProgress, None, Decision::PASSIVE),
                row(K::Continuation, queue, patient(quiet(Decision::QUEUE))),
                row(K::Continuation, None, quiet(Decision::STEER)),
                row(K::Prompt, steer, Decision::STEER),
                row(K::Prompt, None, Decision::QUEUE),
                row(K::FlowStep, steer, Decision::STEER),
                row(K::FlowStep, None, Decision::QUEUE),
                row(K::PeerMessage, steer, Decision::STEER),
                row(K::PeerMessage, None, patient(Decision::QUEUE)),
                row(K::PeerRequest, steer, Decision::STEER),
                row(K::PeerRequest, None, patient(Decision::QUEUE)),
                row(K::PeerResponseTerminal, steer, Decision::STEER),
                row(K::PeerResponseTerminal, None, patient(Decision::QUEUE)),
                row(K::ExternalEvent, steer, Decision::STEER),
                row(K::ExternalEvent, None, patient(Decision::QUEUE)),
            ],
        }
    }

    /// What to do, and which row says so. Linear in the rows, which are few; allocates nothing.
    pub fn decide(&self, query: PolicyQuery) -> Ruling {
        let row = self.rows.iter().position(|row| row.matches(query));
        let decision = match row {
            Some(index) => self.rows[index].decision.clone(),
            None => Decision { wake: false, ..Decision::QUEUE },
        };
        Ruling { row, decision: Decision { policy_version: self.version, ..decision } }
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first [`InvalidPolicy`] found, which names the row and the field.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        if self.rows.len() > Self::MAX_ROWS {
            return Err(InvalidPolicy::TooManyRows { rows: self.rows.len(), limit: Self::MAX_ROWS });
        }
        for (row, candidate) in self.rows.iter().enumerate() {
            if let Some(hidden_by) = self.rows[..row].iter().position(|earlier| earlier.covers(candidate)) {
                return Err(InvalidPolicy::Unreachable { row, hidden_by });
            }
            candidate.decision.validate(row)?;
        }
        Ok(())
    }
}

impl Decision {
    fn validate(&self, row: usize) -> Result<(), InvalidPolicy> {
        let deliver = self.deliver;
        let waits = matches!(deliver, Deliver::NextRun | Deliver::Checkpoint | Deliver::WithNextRun);
        let starts_runs = matches!(deliver, Deliver::NextRun | Deliver::Checkpoint);
        if let Merge::Debounce { window, max } = self.merge
            && (window.is_zero() || window > max)
        {
            return Err(InvalidPolicy::Debounce { row });
        }
        if self.wake && !starts_runs {
            return Err(InvalidPolicy::IdleWake { row, deliver });
        }
        if self.on_busy == OnBusy::Interrupt && !starts_runs {
            return Err(InvalidPolicy::Interrupt { row, deliver });
        }
        if self.merge != Merge::Keep && !waits {
            return Err(InvalidPolicy::Merge { row, deliver });
        }
        Ok(())
    }
}

impl Row {
    fn matches(&self, query: PolicyQuery) -> bool {
        self.kind.is_none_or(|kind| query.kind == Some(kind))
            && self.mode.is_none_or(|mode| query.mode == Some(mode))
            && self.source.is_none_or(|source| query.source == source)
            && self.busy.is_none_or(|busy| query.busy == busy)
    }

    /// Whether everything that `other` matches is matched here.
    fn covers(&self, other: &Row) -> bool {
        (self.kind.is_none() || self.kind == other.kind)
            && (self.mode.is_none() || self.mode == other.mode)
            && (self.source.is_none() || self.source == other.source)
            && (self.busy.is_none() || self.busy == other.busy)
    }
}
