//! Which envelope came of which, and how long is that chain?

use super::envelope::{ChainId, Envelope, EnvelopeBody, EnvelopeId};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use windlass_core::{Accepted, InputBody};

/// Envelopes whose chain is remembered: more than a full inbox and a long run have between them.
const REMEMBERED: usize = 4096;

/// The chains of the last envelopes that came in.
#[derive(Debug, Default)]
pub struct Chains {
    by_id: HashMap<EnvelopeId, (ChainId, u32)>,
    order: VecDeque<EnvelopeId>,
}

impl Chains {
    /// Remembers an envelope, and forgets the oldest one if there are too many.
    pub fn remember(&mut self, envelope: &Envelope) {
        if self.by_id.insert(envelope.id, (envelope.chain, envelope.hops)).is_none() {
            self.order.push_back(envelope.id);
        }
        while self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    /// The chain that an envelope goes on with, and how many stand before it: the longest of those that it is sent
    /// because of. Without any that is remembered it begins a chain.
    pub fn after(&self, body: &EnvelopeBody, causes: &[EnvelopeId]) -> (ChainId, u32) {
        let answered = match body {
            EnvelopeBody::Response { in_reply_to, .. } => Some(in_reply_to),
            EnvelopeBody::Message { .. } | EnvelopeBody::Request { .. } => None,
        };
        let known = causes.iter().chain(answered).filter_map(|cause| self.by_id.get(cause));
        match known.max_by_key(|(_, hops)| *hops) {
            Some((chain, hops)) => (*chain, hops.saturating_add(1)),
            None => (ChainId::new(), 0),
        }
    }
}

/// The envelopes among the inputs of a run: what a tool that sends hands on as the causes.
pub fn causes_of<'a>(inputs: impl IntoIterator<Item = &'a Arc<Accepted>>) -> Vec<EnvelopeId> {
    let envelope = |accepted: &Arc<Accepted>| match &accepted.input.body {
        InputBody::Peer(_) => accepted.input.header.correlation_id.map(|id| EnvelopeId(*id.as_uuid())),
        _ => None,
    };
    inputs.into_iter().filter_map(envelope).collect()
}
