//! What has been let in, and what became of it?
//!
//! A sender is answered when the receiver's session has its envelope on disk, or does not take it. Who loses the answer
//! sends the same envelope again and hears the same: each is remembered while it is good.

use crate::wire::PeerRefusal;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use tokio::sync::watch;
use windlass_runtime::comms::{EnvelopeId, PeerName, Receipt, Refusal};

/// How long a sender is kept waiting for the session; then it asks again. Shorter than a sender's own patience.
const DECIDE_WITHIN: Duration = Duration::from_secs(8);

/// Who sent which envelope.
pub(crate) type Known = (PeerName, EnvelopeId);

/// The envelopes that were let in and are still good.
#[derive(Default)]
pub(crate) struct LetIn {
    /// By sender, so that none takes the room of another.
    verdicts: HashMap<PeerName, HashMap<EnvelopeId, (u64, Verdict)>>,
    by_end: BTreeSet<(u64, PeerName, EnvelopeId)>,
    /// Those of which the session has not said anything.
    open: HashMap<Receipt, (Known, watch::Sender<Option<Said>>)>,
}

/// What a session said of an envelope.
type Said = Result<(), Refusal>;

/// What becomes of an envelope.
#[derive(Clone)]
pub(crate) enum Verdict {
    Open(watch::Receiver<Option<Said>>),
    Settled(Said),
}

impl LetIn {
    /// What is known of this envelope.
    pub(crate) fn get(&self, (from, id): &Known) -> Option<&Verdict> {
        self.verdicts.get(from)?.get(id).map(|(_, verdict)| verdict)
    }

    /// How many of this sender there are.
    pub(crate) fn of(&self, from: &PeerName) -> usize {
        self.verdicts.get(from).map_or(0, HashMap::len)
    }

    /// Remembers one that is in the inbox from now on.
    pub(crate) fn insert(&mut self, (from, id): Known, good_until: u64, receipt: Receipt) -> Verdict {
        let (sender, receiver) = watch::channel(None);
        let verdict = Verdict::Open(receiver);
        self.by_end.insert((good_until, from.clone(), id));
        self.verdicts.entry(from.clone()).or_default().insert(id, (good_until, verdict.clone()));
        self.open.insert(receipt, ((from, id), sender));
        verdict
    }

    /// The session has said what becomes of it. One that it may take later may come again.
    pub(crate) fn settle(&mut self, receipt: Receipt, said: Said) {
        let Some(((from, id), sender)) = self.open.remove(&receipt) else { return };
        if let Err(refusal) = &said
            && refusal.is_transient()
        {
            if let Some(good_until) = self.forget(&from, id) {
                self.by_end.remove(&(good_until, from, id));
            }
        } else if let Some((_, verdict)) = self.verdicts.get_mut(&from).and_then(|of| of.get_mut(&id)) {
            *verdict = Verdict::Settled(said.clone());
        }
        // Nobody may be waiting any more; who asks again reads it above.
        sender.send_replace(Some(said));
    }

    /// Forgets envelopes that are no longer good, which the door refuses by their time.
    pub(crate) fn forget_until(&mut self, now: u64) {
        while let Some((end, _, _)) = self.by_end.first()
            && *end <= now
            && let Some((_, from, id)) = self.by_end.pop_first()
        {
            self.forget(&from, id);
        }
    }

    fn forget(&mut self, from: &PeerName, id: EnvelopeId) -> Option<u64> {
        let of = self.verdicts.get_mut(from)?;
        let (good_until, _) = of.remove(&id)?;
        if of.is_empty() {
            self.verdicts.remove(from);
        }
        Some(good_until)
    }
}

impl Verdict {
    /// Waits until the session has the envelope on disk. Cancel-safe.
    ///
    /// # Errors
    /// [`PeerRefusal::Replay`] if it had it before; [`PeerRefusal::Session`] if it does not take it;
    /// [`PeerRefusal::Undecided`] if it has not said anything in time; [`PeerRefusal::Closed`] if it never will.
    pub(crate) async fn settled(self) -> Result<(), PeerRefusal> {
        let mut said = match self {
            Verdict::Settled(Ok(())) => return Err(PeerRefusal::Replay),
            Verdict::Settled(Err(refusal)) => return Err(PeerRefusal::Session(refusal)),
            Verdict::Open(said) => said,
        };
        match tokio::time::timeout(DECIDE_WITHIN, said.wait_for(Option::is_some)).await {
            Ok(Ok(said)) => match &*said {
                Some(Err(refusal)) => Err(PeerRefusal::Session(refusal.clone())),
                Some(Ok(())) | None => Ok(()),
            },
            Ok(Err(_)) => Err(PeerRefusal::Closed),
            Err(_) => Err(PeerRefusal::Undecided),
        }
    }
}
