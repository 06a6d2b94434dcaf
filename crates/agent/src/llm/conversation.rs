//! What does the agent know of a session?
//!
//! A [`Conversation`] is the fold of the deltas that were committed. While a run is on, each delta is applied when it is
//! committed; the next run reads only what came after it.

use super::message::{Asked, Compacted, Delta, Message, Role, Settings, Spent, ToolCall, Usage};
use crate::ledger::Ledger;
use std::{collections::HashSet, sync::Arc};
use windlass_core::{
    Accepted, CompletionSeq, Entry, InputId, JsonText, Record, RunBoundaryReceipt, RunEnd, RunId, Seq,
    render::{CoreRenderable, append},
};
use windlass_runtime::{Turn, comms::EnvelopeId, store::StoreError};

/// What stands for messages that are no longer kept. Some formats ask for a user's words first.
const FORGOTTEN: &str = "[What was said before this is no longer kept]";
/// Entries of the journal read at once.
const PAGE: u32 = 256;

/// The fold of what was committed.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    after: Seq,
    /// Boundaries of this run up to this one were applied when they were committed.
    live: Option<(RunId, u64)>,
    /// What this run's last boundary was to add, as it was written and as it was meant: known only when it is read.
    last: Option<(RunId, JsonText, Delta)>,
    pub(crate) messages: Vec<Arc<Message>>,
    /// All that were ever said, also those that a summary stands for.
    pub(crate) count: u64,
    pub(crate) ledger: Ledger,
    pub(crate) waiting: Option<Asked>,
    /// Inputs that came after the question that waits: only they can answer it.
    pub(crate) since_asked: HashSet<InputId>,
    pub(crate) settings: Settings,
    /// How often an answer was sent back, and in which run.
    repairs: (Option<RunId>, u32),
    /// Since the last words of a person.
    pub(crate) spent: Spent,
    /// What the provider counted at the last answer.
    pub(crate) usage: Option<Usage>,
    pub(crate) told: CompletionSeq,
    /// The envelopes among the inputs of the last run, and that run.
    causes: (Option<RunId>, Vec<EnvelopeId>),
}

impl Conversation {
    /// Reads what came after the last look.
    ///
    /// # Errors
    /// [`StoreError`], as for every reading.
    pub(crate) async fn catch_up(&mut self, turn: &Turn) -> Result<(), StoreError> {
        loop {
            match turn.history(self.after, PAGE).await {
                Ok(entries) if entries.is_empty() => return Ok(()),
                Ok(entries) => entries.iter().for_each(|entry| self.fold(entry)),
                // What is no longer kept is no longer known: the agent grows forgetful, not wrong.
                Err(StoreError::Pruned { oldest }) if oldest > self.after => {
                    self.after = oldest;
                    self.messages.push(Arc::new(Message::user(FORGOTTEN)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn fold(&mut self, entry: &Entry) {
        self.after = entry.seq;
        let (receipt, delta) = match &entry.record {
            Record::BoundaryCommitted(boundary) => (&boundary.receipt, &boundary.delta),
            Record::RunEnded(ended) => match &ended.end {
                RunEnd::Completed { receipt, delta, .. } => (receipt, delta),
                _ => return,
            },
            Record::SessionReset { .. } => {
                *self = Conversation { after: self.after, ..Conversation::default() };
                return;
            }
            Record::InputAccepted(accepted) if self.waiting.is_some() => {
                self.since_asked.insert(accepted.input.id());
                return;
            }
            _ => return,
        };
        if self.live.is_some_and(|(run, sequence)| receipt.run_id == run && receipt.sequence <= sequence) {
            return;
        }
        let Some(written) = delta else { return };
        let delta = match self.last.take() {
            Some((run, last, delta)) if run == receipt.run_id && last == *written => Some(delta),
            // Another executor may have had the session before; what it committed may not be for us to read.
            _ => serde_json::from_str(written.get()).ok(),
        };
        if let Some(delta) = delta {
            self.apply(delta, receipt);
        }
    }

    /// Remembers what the last boundary of a run is to add, so that it need not be parsed when it is read.
    pub(crate) fn expect(&mut self, run: RunId, written: JsonText, delta: Delta) {
        self.last = Some((run, written, delta));
    }

    /// Applies a delta that was just committed.
    pub(crate) fn commit(&mut self, delta: Delta, receipt: &RunBoundaryReceipt) {
        self.live = Some((receipt.run_id, receipt.sequence));
        self.apply(delta, receipt);
    }

    fn apply(&mut self, delta: Delta, receipt: &RunBoundaryReceipt) {
        let run = receipt.run_id;
        let Delta {
            messages,
            spent,
            usage,
            intended,
            waiting,
            resolved,
            spoken,
            settings,
            repairs,
            compacted,
            causes,
            told,
        } = delta;
        if self.causes.0 != Some(run) {
            self.causes = (Some(run), Vec::new());
        }
        self.causes.1.extend(causes);
        if let Some(Compacted { kept, summary }) = compacted {
            let gone = self.messages.len().saturating_sub(kept);
            let summary = Message::user(format!("[Summary of the conversation so far]\n{summary}"));
            self.messages.splice(..gone, [Arc::new(summary)]);
            // What was counted is gone.
            self.usage = None;
        }
        if resolved {
            self.waiting = None;
        }
        if spoken {
            self.spent = Spent::default();
        }
        self.spent.add(spent);
        self.usage = usage.or(self.usage);
        for intent in &intended {
            self.ledger.intend(intent);
        }
        for message in messages {
            if let Some(call) = &message.call {
                self.ledger.done(call);
            }
            self.messages.push(Arc::new(message));
        }
        self.count = receipt.message_count;
        if waiting.is_some() || self.waiting.is_none() {
            self.since_asked.clear();
            self.waiting = waiting;
        }
        self.told = self.told.max(told);
        if repairs > 0 {
            self.repairs = (Some(run), repairs);
        }
        if let Some(settings) = settings {
            self.settings = settings;
        }
    }

    /// The envelopes among the inputs of this run that boundaries cover.
    pub(crate) fn causes(&self, run: RunId) -> &[EnvelopeId] {
        if self.causes.0 == Some(run) { &self.causes.1 } else { &[] }
    }

    /// How often answers of this run were sent back.
    pub(crate) fn repairs(&self, run: RunId) -> u32 {
        if self.repairs.0 == Some(run) { self.repairs.1 } else { 0 }
    }

    /// The calls of the last answer that have no result, in order.
    pub(crate) fn open_calls(&self) -> Vec<ToolCall> {
        let Some(at) = self.messages.iter().rposition(|message| message.role == Role::Assistant) else {
            return Vec::new();
        };
        let closed: HashSet<&str> = self.messages[at..].iter().filter_map(|message| message.call.as_deref()).collect();
        self.messages[at].calls.iter().filter(|call| !closed.contains(call.id.as_str())).cloned().collect()
    }

    /// The last answer, if nothing was said since.
    pub(crate) fn last_answer(&self) -> Option<&Message> {
        self.messages.last().filter(|message| message.role == Role::Assistant).map(|message| &**message)
    }
}

/// What an input says to the model; nothing if it only carries on.
pub(crate) fn heard(accepted: &Accepted) -> Option<Message> {
    let is_news = !crate::transcript::notices(&accepted.input).is_empty();
    Some(match append(&accepted.input)?.content {
        CoreRenderable::Text { text } if is_news => Message::system(text),
        CoreRenderable::Text { text } => Message::user(text),
        CoreRenderable::Blocks { blocks } => Message::blocks(blocks),
        CoreRenderable::Json { value } => Message::user(value.to_string()),
        CoreRenderable::Reference { uri, label } => Message::user(match label {
            Some(label) => format!("{label}: {uri}"),
            None => uri,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::{ChainHash, RunApplyBoundary};

    /// After so many messages, one for each boundary.
    fn receipt(sequence: u64) -> RunBoundaryReceipt {
        RunBoundaryReceipt {
            run_id: RunId::from_uuid(uuid::Uuid::nil()),
            sequence,
            boundary: RunApplyBoundary::RunStart,
            contributing_input_ids: Vec::new(),
            conversation_digest: None,
            message_count: sequence + 1,
            chain: ChainHash([0; 32]),
        }
    }

    #[test]
    fn a_summary_leaves_the_same_last_messages_whatever_is_still_kept_of_the_first() {
        let said = |text: &str| Delta { messages: vec![Message::user(text)], ..Delta::default() };
        let mut deltas: Vec<Delta> = ["a", "b", "c", "d", "e"].map(said).into();
        deltas.push(Delta { compacted: Some(Compacted { kept: 2, summary: "s".into() }), ..said("f") });
        for known in 0..=4 {
            let mut conversation = Conversation::default();
            for (at, delta) in deltas.iter().enumerate().skip(known) {
                conversation.apply(delta.clone(), &receipt(at as u64));
            }
            let words: Vec<&str> = conversation.messages.iter().map(|message| message.content.as_str()).collect();
            let summary = "[Summary of the conversation so far]\ns";
            let expected = [&[summary][..], &["d", "e", "f"][known.saturating_sub(3)..]].concat();
            assert_eq!((words, conversation.count), (expected, 6), "{known} are not kept");
        }
    }
}
