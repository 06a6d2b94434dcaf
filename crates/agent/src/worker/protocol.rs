//! Which lines do Windlass and a worker say to each other?
//!
//! docs/guide/process-protocol.md describes them for those who write workers; a test holds both together.

use crate::exchange::{Answer, Past, Refusal, part};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use std::sync::Arc;
use windlass_core::{OperationId, RunId, Seq, SessionId};

/// The version of these lines. It changes when a worker of before would no longer understand them.
pub(super) const PROTOCOL: u32 = 1;

/// What a worker is told.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Told<'a> {
    /// Run this.
    Run {
        protocol: u32,
        #[serde(flatten)]
        run: &'a Value,
    },
    /// The answer to a checkpoint: what came in meanwhile.
    Steer { run: RunId, inputs: Vec<Value> },
    /// The answer to a commit.
    Committed { run: RunId, sequence: u64, effect_key: String },
    /// The answer to a request for the past.
    History { run: RunId, boundaries: Vec<Past>, next: Option<Seq> },
    /// The answer to a report of background work.
    Op { session: SessionId, key: &'a str, operation: OperationId, status: &'static str },
    /// The answer to what could not be done. `run_closed`: the run is over, stop.
    Refused { to: &'a str, run: Option<RunId>, key: Option<&'a str>, code: &'static str, error: String },
    /// Stop working on this run.
    Cancel { run: RunId },
}

/// What a worker says.
#[derive(Debug)]
pub(super) enum Said {
    Progress { run: RunId, delta: Arc<RawValue> },
    Checkpoint { run: RunId },
    Commit { run: RunId, answer: Answer },
    History { run: RunId, after: Seq, limit: u32 },
    Op(Op),
    Result { run: RunId, answer: Answer },
    Failed { run: RunId, refusal: Refusal },
}

/// A report of background work, known by a key of the worker's choice.
#[derive(Debug, Deserialize)]
pub(super) struct Op {
    pub(super) session: SessionId,
    pub(super) key: String,
    #[serde(flatten)]
    pub(super) report: Report,
}

/// What is reported.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Report {
    /// It begins; the run that is on began it.
    Start { name: String },
    /// It is so far.
    Progress { message: String, percent: Option<f32> },
    /// It ended well.
    Complete {
        content: String,
        #[serde(default)]
        is_error: bool,
    },
    /// It ended badly.
    Fail { error: String },
}

/// What sort of line it is.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: Kind,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Progress,
    Checkpoint,
    Commit,
    History,
    Op,
    Result,
    Failed,
}

#[derive(Deserialize)]
struct OfRun {
    run: RunId,
}

#[derive(Deserialize)]
struct Shown {
    delta: Box<RawValue>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    after: Seq,
    #[serde(default)]
    limit: Option<u32>,
}

/// The most boundaries of before in one answer.
const PAGE: u32 = 256;

/// The members of every line about a run.
const ENVELOPE: [&str; 2] = ["type", "run"];

/// Understands a line.
///
/// # Errors
/// What about it is not understood, with the beginning of it.
pub(super) fn parse(line: &str) -> Result<Said, String> {
    let Head { kind } = part(line)?;
    if matches!(kind, Kind::Op) {
        return Ok(Said::Op(part(line)?));
    }
    let OfRun { run } = part(line)?;
    Ok(match kind {
        Kind::Progress => Said::Progress { run, delta: part::<Shown>(line)?.delta.into() },
        Kind::Checkpoint => Said::Checkpoint { run },
        Kind::Commit => Said::Commit { run, answer: Answer::read(line, &ENVELOPE)? },
        Kind::Result => Said::Result { run, answer: Answer::read(line, &ENVELOPE)? },
        Kind::Failed => Said::Failed { run, refusal: part(line)? },
        Kind::History | Kind::Op => {
            let Page { after, limit } = part(line)?;
            Said::History { run, after, limit: limit.unwrap_or(PAGE).clamp(1, PAGE) }
        }
    })
}
