//! Which envelope came of which, and how long is that chain?

use super::envelope::{ChainId, Envelope, EnvelopeBody, EnvelopeId, PeerName};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use windlass_core::{Accepted, InputBody};

/// Envelopes whose chain is remembered: more than a full inbox and a long run have between them.
const REMEMBERED: usize = 4096;

/// The chains of the last envelopes that came in.
#[derive(Debug)]
pub struct Chains {
    by_id: HashMap<EnvelopeId, Vec<Link>>,
    order: VecDeque<(EnvelopeId, PeerName)>,
    most: usize,
}

/// An envelope of its chain. Ids are their senders' to choose, so two may choose the same.
#[derive(Debug)]
struct Link {
    from: PeerName,
    chain: ChainId,
    hops: u32,
}

impl Default for Chains {
    fn default() -> Self {
        Chains::of_the_last(REMEMBERED)
    }
}

impl Chains {
    /// Remembers so many envelopes.
    pub fn of_the_last(most: usize) -> Chains {
        Chains { by_id: HashMap::new(), order: VecDeque::new(), most }
    }

    /// Remembers an envelope, and forgets the oldest one if there are too many.
    pub fn remember(&mut self, envelope: &Envelope) {
        let Envelope { id, ref from, chain, hops, .. } = *envelope;
        let links = self.by_id.entry(id).or_default();
        match links.iter_mut().find(|link| link.from == *from) {
            Some(link) => (link.chain, link.hops) = (chain, hops),
            None => {
                links.push(Link { from: from.clone(), chain, hops });
                self.order.push_back((id, from.clone()));
            }
        }
        while self.order.len() > self.most
            && let Some((oldest, from)) = self.order.pop_front()
            && let Some(links) = self.by_id.get_mut(&oldest)
        {
            links.retain(|link| link.from != from);
            if links.is_empty() {
                self.by_id.remove(&oldest);
            }
        }
    }

    /// The chain that an envelope goes on with, and how many stand before it: the longest of those that it is sent
    /// because of. Without any that is remembered it begins a chain.
    pub fn after(&self, body: &EnvelopeBody, causes: &[EnvelopeId]) -> (ChainId, u32) {
        let answered = match body {
            EnvelopeBody::Response { in_reply_to, .. } => Some(in_reply_to),
            EnvelopeBody::Message { .. } | EnvelopeBody::Request { .. } => None,
        };
        let known = causes.iter().chain(answered).filter_map(|cause| self.by_id.get(cause)).flatten();
        match known.max_by_key(|link| link.hops) {
            Some(link) => (link.chain, link.hops.saturating_add(1)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn said(id: u128, from: &str, hops: u32) -> Envelope {
        Envelope {
            id: EnvelopeId(Uuid::from_u128(id)),
            from: PeerName::new(from).unwrap(),
            to: PeerName::new("me").unwrap(),
            chain: ChainId(Uuid::from_u128(hops.into())),
            hops,
            body: EnvelopeBody::Message { body: "hi".into(), blocks: None, handling_mode: None },
        }
    }

    #[test]
    fn a_sender_who_takes_the_id_of_another_shortens_no_chain() {
        let mut chains = Chains::of_the_last(2);
        let after = |chains: &Chains, id| chains.after(&said(9, "me", 0).body, &[EnvelopeId(Uuid::from_u128(id))]).1;
        chains.remember(&said(1, "ada", 15));
        chains.remember(&said(1, "mallory", 0));
        assert_eq!(after(&chains, 1), 16);
        chains.remember(&said(2, "ada", 3));
        assert_eq!((after(&chains, 1), after(&chains, 2)), (1, 4), "the oldest one is forgotten, and only it");
        chains.remember(&said(3, "ada", 3));
        assert_eq!(after(&chains, 1), 0);
    }
}
