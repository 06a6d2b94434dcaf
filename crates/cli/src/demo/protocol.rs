//! In what words do parent and worker of the demo talk? One JSON document per line, orders in, news out.

use serde::{Deserialize, Serialize};
use windlass::{AcceptOutcome, CancelOutcome, Input, InputId};

/// What the parent tells the worker to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Offer an input. Answered by [`News::Answer`], and by [`News::Ended`] if it was accepted.
    Accept { session: String, input: Box<Input> },
    /// Say when this input ends. Answered by [`News::Ended`].
    Await { session: String, input: InputId },
    /// Cancel what runs. Answered by [`News::Cancelled`].
    Cancel { session: String },
    /// Stop dead at this point of this session, say so by [`News::Standing`], and do nothing more for it.
    Stand { session: String, at: Point },
    /// Say when nothing of this session is in the background any more. Answered by [`News::Rests`].
    Rest { session: String },
    /// Let one session ask another. Answered by [`News::Exchanged`].
    Exchange { from: String, to: String },
    /// Let go in good order and end.
    Leave,
}

/// Where the worker stops dead, to be killed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Point {
    /// An input is about to be written: not on disk, not acknowledged.
    BeforeAcceptance,
    /// An input was written: on disk, not acknowledged.
    AfterAcceptance,
    /// A boundary is about to be written.
    BeforeBoundary,
    /// A boundary was written, the run goes on.
    AfterBoundary,
    /// A run that has written a boundary is about to end.
    BeforeEnd,
}

/// What the worker tells the parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub(crate) enum News {
    /// It is there, and resumes so many sessions.
    Ready { resumed: usize },
    /// What became of an offer.
    Answer { session: String, input: InputId, outcome: AcceptOutcome },
    /// How an input ended.
    Ended { input: InputId, how: String, text: String },
    /// What became of a cancel.
    Cancelled { outcome: CancelOutcome },
    /// Nothing is in the background any more: what the wakes said, in order, and how often the session was opened.
    Rests { session: String, told: Vec<String>, opened: u32 },
    /// What the asked session answered, and what the asker made of it.
    Exchanged { answer: String, heard: String },
    /// It stands at the point it was told to stand at.
    Standing { at: Point },
    /// It could not do what it was told.
    Trouble { error: String },
}
