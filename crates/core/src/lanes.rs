//! In which order do waiting inputs run?
//!
//! Two lanes, steer before queue, and inputs set aside. Order within a lane is (class, admission); a class rises with
//! waiting. Inputs that back off or are debounced are parked until they are ripe, and may block those behind them.
//! Every operation costs the logarithm of the lane, never its length.

use crate::{InputId, InputOrigin, Lane, Limits, Overtake, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// What a lane must know of a waiting input.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) id: InputId,
    /// The admission order; smaller goes first.
    pub(crate) order: i64,
    pub(crate) class: u8,
    pub(crate) wake: bool,
    /// When it may run at the earliest.
    pub(crate) not_before: Option<Timestamp>,
    /// Whom it blocks while it waits for another try; none if it never failed.
    pub(crate) blocks: Option<(Overtake, InputOrigin)>,
    /// When it expires, if it waits aside.
    pub(crate) expires: Timestamp,
}

/// All waiting inputs of a session, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) steer: OneLane,
    pub(crate) queue: OneLane,
    aside: BTreeMap<i64, InputId>,
    aside_expiry: BTreeSet<(Timestamp, InputId)>,
}

/// One lane.
#[derive(Clone, Debug, Default)]
pub(crate) struct OneLane {
    /// By class; each class in order.
    ripe: BTreeMap<u8, BTreeMap<i64, (InputId, bool)>>,
    /// Not ripe yet, by time.
    parked: BTreeMap<(Timestamp, i64), Slot>,
    ripe_len: u32,
    /// Ripe inputs that may start a run.
    waking: u32,
    /// Parked inputs that nobody may go past.
    walls: u32,
    /// Sources that have a parked input which others of that source may not go past.
    blocked: BTreeMap<InputOrigin, u32>,
}

impl Lanes {
    pub(crate) fn insert(&mut self, lane: Lane, slot: Slot) {
        match lane {
            Lane::Steer => self.steer.insert(slot),
            Lane::Queue => self.queue.insert(slot),
            Lane::Aside => {
                self.aside.insert(slot.order, slot.id);
                self.aside_expiry.insert((slot.expires, slot.id));
            }
        }
    }

    pub(crate) fn remove(&mut self, lane: Lane, slot: &Slot) {
        match lane {
            Lane::Steer => self.steer.remove(slot),
            Lane::Queue => self.queue.remove(slot),
            Lane::Aside => {
                self.aside.remove(&slot.order);
                self.aside_expiry.remove(&(slot.expires, slot.id));
            }
        }
    }

    pub(crate) fn len(&self, lane: Lane) -> u32 {
        match lane {
            Lane::Steer => self.steer.len(),
            Lane::Queue => self.queue.len(),
            Lane::Aside => self.aside.len() as u32,
        }
    }

    /// Moves what is ripe by now to where it can be chosen. Changes nothing that a record would have to tell.
    pub(crate) fn ripen(&mut self, now: Timestamp) {
        self.steer.ripen(now);
        self.queue.ripen(now);
    }

    /// The inputs aside, oldest first.
    pub(crate) fn aside(&self) -> impl Iterator<Item = InputId> {
        self.aside.values().copied()
    }

    /// The inputs aside that have waited too long.
    pub(crate) fn expired(&self, now: Timestamp) -> Vec<InputId> {
        self.aside_expiry.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.aside_expiry.first().map(|(at, _)| *at)
    }

    pub(crate) fn next_ripe(&self) -> Option<(Timestamp, bool)> {
        let first = |lane: &OneLane| lane.parked.first_key_value().map(|((at, _), slot)| (*at, slot.blocks.is_some()));
        first(&self.steer).into_iter().chain(first(&self.queue)).min()
    }
}

impl OneLane {
    pub(crate) fn len(&self) -> u32 {
        self.ripe_len + self.parked.len() as u32
    }

    /// Whether something here may start a run now.
    pub(crate) fn has_waking(&self) -> bool {
        self.waking > 0
    }

    /// Whether nobody may be chosen because a parked input may not be passed.
    pub(crate) fn is_walled(&self) -> bool {
        self.walls > 0
    }

    /// Whether this source must wait behind a parked input of its own.
    pub(crate) fn is_blocked(&self, source: &InputOrigin) -> bool {
        !self.blocked.is_empty() && self.blocked.contains_key(source)
    }

    pub(crate) fn has_ripe(&self) -> bool {
        self.ripe_len > 0
    }

    /// What may be chosen, best first: of the class whose head, aged by its wait, is highest; FIFO among equals.
    /// `waited_since` tells when an input began to wait.
    pub(crate) fn in_order<'a>(
        &'a self,
        now: Timestamp,
        limits: &Limits,
        waited_since: impl Fn(InputId) -> Timestamp,
    ) -> impl Iterator<Item = InputId> + 'a {
        let ageing = limits.ageing.as_micros().max(1);
        let rank = |(&class, inputs): (&u8, &'a BTreeMap<i64, (InputId, bool)>)| {
            let (&order, &(head, _)) = inputs.first_key_value().expect("an empty class is removed");
            let steps = now.since(waited_since(head)).as_micros() / ageing;
            (u128::from(class) + steps, std::cmp::Reverse(order), inputs)
        };
        let mut classes: Vec<_> = self.ripe.iter().map(rank).collect();
        if classes.len() > 1 {
            classes.sort_by_key(|(aged, order, _)| std::cmp::Reverse((*aged, *order)));
        }
        classes.into_iter().flat_map(|(_, _, inputs)| inputs.values().map(|(id, _)| *id))
    }

    fn insert(&mut self, slot: Slot) {
        match slot.not_before {
            Some(at) => {
                self.block(&slot, true);
                self.parked.insert((at, slot.order), slot);
            }
            None => {
                self.ripe_len += 1;
                self.waking += u32::from(slot.wake);
                self.ripe.entry(slot.class).or_default().insert(slot.order, (slot.id, slot.wake));
            }
        }
    }

    fn remove(&mut self, slot: &Slot) {
        if let Some(at) = slot.not_before
            && let Some(parked) = self.parked.remove(&(at, slot.order))
        {
            self.block(&parked, false);
            return;
        }
        let class = self.ripe.get_mut(&slot.class).expect("a waiting input's class exists");
        let (_, woke) = class.remove(&slot.order).expect("a waiting input is in its class");
        if class.is_empty() {
            self.ripe.remove(&slot.class);
        }
        self.ripe_len -= 1;
        self.waking -= u32::from(woke);
    }

    fn ripen(&mut self, now: Timestamp) {
        while let Some(entry) = self.parked.first_entry()
            && entry.key().0 <= now
        {
            let slot = entry.remove();
            self.block(&slot, false);
            self.insert(Slot { not_before: None, ..slot });
        }
    }

    fn block(&mut self, slot: &Slot, blocked: bool) {
        match &slot.blocks {
            Some((Overtake::Never, _)) if blocked => self.walls += 1,
            Some((Overtake::Never, _)) => self.walls -= 1,
            Some((Overtake::OtherSources, source)) if blocked => {
                *self.blocked.entry(source.clone()).or_default() += 1;
            }
            Some((Overtake::OtherSources, source)) => {
                if let Some(count) = self.blocked.get_mut(source) {
                    *count -= 1;
                    if *count == 0 {
                        self.blocked.remove(source);
                    }
                }
            }
            Some((Overtake::Always, _)) | None => {}
        }
    }
}
