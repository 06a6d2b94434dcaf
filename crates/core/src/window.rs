//! Which inputs are over, but still remembered, so that a late retry hears its first answer?
//!
//! The window is bounded in number and time. It is kept in sealed chunks that snapshots share, and its two indexes
//! hold four bytes per input: a settled input costs about 70 bytes, and a snapshot copies none of them.

use crate::{Fingerprint, IdempotencyKey, InputId, InputState, Limits, Timestamp};
use hashbrown::HashTable;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::VecDeque, sync::Arc};
use uuid::Uuid;

const CHUNK: usize = 128;

/// What is remembered of an input that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) id: InputId,
    key: KeyHash,
    pub(crate) fingerprint: Fingerprint,
    /// Seconds since the Unix epoch: precise enough for a window of days.
    at: u32,
    pub(crate) state: InputState,
}

/// The first 16 bytes of the BLAKE3 hash of an idempotency key; all zero: no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyHash([u8; 16]);

impl KeyHash {
    pub(crate) fn of(key: &IdempotencyKey) -> KeyHash {
        let hash = blake3::hash(key.as_str().as_bytes());
        KeyHash(hash.as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes"))
    }

    fn is_none(self) -> bool {
        self.0 == [0; 16]
    }
}

/// The settled inputs of a session, oldest first: what snapshots share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    sealed: VecDeque<Arc<[Settled]>>,
    /// How many of the first sealed chunk (or of the tail, if none is sealed) are forgotten.
    skip: usize,
    tail: Vec<Settled>,
}

/// The settled inputs of a session, and where to find them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    kept: Remembered,
    /// The number of inputs ever forgotten: the index of the oldest one kept.
    first: u32,
    by_id: HashTable<u32>,
    by_key: HashTable<u32>,
}

impl Settled {
    /// Whether it has been remembered for long enough.
    pub(crate) fn is_due(&self, now: Timestamp, limits: &Limits) -> bool {
        let ttl = u32::try_from(limits.settled_ttl.as_secs()).unwrap_or(u32::MAX);
        self.at.saturating_add(ttl) < seconds(now)
    }
}

impl Remembered {
    fn len(&self) -> usize {
        // Every sealed chunk is full.
        self.sealed.len() * CHUNK + self.tail.len() - self.skip
    }

    fn iter(&self) -> impl Iterator<Item = &Settled> {
        self.sealed.iter().flat_map(|chunk| chunk.iter()).chain(&self.tail).skip(self.skip)
    }

    fn oldest(&self) -> Option<&Settled> {
        self.sealed.front().map_or(&self.tail[..], |chunk| &chunk[..]).get(self.skip)
    }

    fn push(&mut self, settled: Settled) {
        // Grown by a little at a time: a window of thousands must not hold room for thousands more.
        if self.tail.len() == self.tail.capacity() {
            self.tail.reserve_exact((self.tail.len() / 2).clamp(4, CHUNK));
        }
        self.tail.push(settled);
        if self.tail.len() == CHUNK {
            self.sealed.push_back(std::mem::take(&mut self.tail).into());
        }
    }
}

impl Window {
    /// The window over what a snapshot remembers.
    pub(crate) fn over(kept: &Remembered) -> Window {
        let mut window = Window { kept: kept.clone(), ..Window::default() };
        for index in 0..kept.len() as u32 {
            window.index(index);
        }
        window
    }

    pub(crate) fn remembered(&self) -> Remembered {
        self.kept.clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn by_id(&self, id: InputId) -> Option<&Settled> {
        let index = self.by_id.find(hash(id.as_uuid().as_bytes()), |&index| self.at(index).id == id)?;
        Some(self.at(*index))
    }

    pub(crate) fn by_key(&self, key: KeyHash) -> Option<&Settled> {
        let index = self.by_key.find(hash(&key.0), |&index| self.at(index).key == key)?;
        Some(self.at(*index))
    }

    /// Remembers an input, and forgets what the limits no longer hold.
    pub(crate) fn push(
        &mut self,
        id: InputId,
        key: Option<&IdempotencyKey>,
        fingerprint: Fingerprint,
        state: InputState,
        now: Timestamp,
        limits: &Limits,
    ) {
        let key = key.map(KeyHash::of).unwrap_or_default();
        self.insert(Settled { id, key, fingerprint, at: seconds(now), state });
        while self.len() > limits.settled_kept as usize {
            self.forget_oldest();
        }
        self.expire(now, limits);
    }

    /// Forgets what has been remembered for long enough.
    pub(crate) fn expire(&mut self, now: Timestamp, limits: &Limits) {
        while self.kept.oldest().is_some_and(|oldest| oldest.is_due(now, limits)) {
            self.forget_oldest();
        }
    }

    fn insert(&mut self, settled: Settled) {
        let index = self.first.wrapping_add(self.len() as u32);
        self.kept.push(settled);
        self.index(index);
    }

    fn index(&mut self, index: u32) {
        let Settled { id, key, .. } = *self.at(index);
        let mut by_id = std::mem::take(&mut self.by_id);
        by_id
            .insert_unique(hash(id.as_uuid().as_bytes()), index, |&index| hash(self.at(index).id.as_uuid().as_bytes()));
        self.by_id = by_id;
        if !key.is_none() {
            let mut by_key = std::mem::take(&mut self.by_key);
            // A key can be settled twice if its window ended in between; the latest holder is the one to find.
            if let Ok(old) = by_key.find_entry(hash(&key.0), |&index| self.at(index).key == key) {
                old.remove();
            }
            by_key.insert_unique(hash(&key.0), index, |&index| hash(&self.at(index).key.0));
            self.by_key = by_key;
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.kept.oldest().copied() else { return };
        let index = self.first;
        if let Ok(entry) = self.by_id.find_entry(hash(oldest.id.as_uuid().as_bytes()), |&at| at == index) {
            entry.remove();
        }
        if let Ok(entry) = self.by_key.find_entry(hash(&oldest.key.0), |&at| at == index) {
            entry.remove();
        }
        self.first = self.first.wrapping_add(1);
        let kept = &mut self.kept;
        kept.skip += 1;
        match kept.sealed.front() {
            Some(chunk) if kept.skip == chunk.len() => {
                kept.sealed.pop_front();
                kept.skip = 0;
            }
            None if kept.skip == kept.tail.len() => {
                kept.tail = Vec::new();
                kept.skip = 0;
            }
            _ => {}
        }
    }

    fn at(&self, index: u32) -> &Settled {
        let offset = index.wrapping_sub(self.first) as usize + self.kept.skip;
        match self.kept.sealed.get(offset / CHUNK) {
            Some(chunk) => &chunk[offset % CHUNK],
            None => &self.kept.tail[offset - self.kept.sealed.len() * CHUNK],
        }
    }
}

impl PartialEq for Remembered {
    fn eq(&self, other: &Remembered) -> bool {
        self.iter().eq(other.iter())
    }
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_millis() / 1_000).unwrap_or(u32::MAX)
}

/// Ids and key hashes are random enough already; folding them is a hash. A client that picks colliding ids slows down
/// its own session only.
fn hash(bytes: &[u8; 16]) -> u64 {
    let value = u128::from_le_bytes(*bytes);
    ((value ^ (value >> 64)) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// In a snapshot each settled input is one tuple.
#[derive(Serialize, Deserialize)]
struct SettledTuple(Uuid, Option<Fingerprint>, Fingerprint, u32, InputState);

impl Serialize for Remembered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|settled| {
            let key = (!settled.key.is_none()).then_some(Fingerprint(settled.key.0));
            SettledTuple(*settled.id.as_uuid(), key, settled.fingerprint, settled.at, settled.state)
        }))
    }
}

impl<'de> Deserialize<'de> for Remembered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Remembered, D::Error> {
        let mut remembered = Remembered::default();
        for SettledTuple(id, key, fingerprint, at, state) in Vec::<SettledTuple>::deserialize(deserializer)? {
            if !state.is_terminal() {
                return Err(de::Error::custom("a settled input has a terminal state"));
            }
            let key = key.map(|key| KeyHash(key.0)).unwrap_or_default();
            remembered.push(Settled { id: InputId::from_uuid(id), key, fingerprint, at, state });
        }
        Ok(remembered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn id(n: u128) -> InputId {
        InputId::from_uuid(Uuid::from_u128(n * 0x1_0000_0001))
    }

    fn push(window: &mut Window, n: u128, now: i64, limits: &Limits) {
        let key = IdempotencyKey::new(format!("k{n}")).unwrap();
        let now = Timestamp::from_micros(now * 1_000_000);
        window.push(id(n), Some(&key), Fingerprint([n as u8; 16]), InputState::Consumed, now, limits);
    }

    fn key(n: u128) -> KeyHash {
        KeyHash::of(&IdempotencyKey::new(format!("k{n}")).unwrap())
    }

    #[test]
    fn remembers_the_newest_and_forgets_the_oldest() {
        let limits = Limits { settled_kept: 300, ..Limits::default() };
        let mut window = Window::default();
        for n in 1..=1000 {
            push(&mut window, n, 0, &limits);
        }
        assert_eq!(window.len(), 300);
        for n in 1..=1000 {
            assert_eq!(window.by_id(id(n)).is_some(), n > 700, "{n}");
            assert_eq!(window.by_key(key(n)).map(|settled| settled.id), (n > 700).then_some(id(n)), "{n}");
        }
    }

    #[test]
    fn forgets_what_is_older_than_the_window() {
        let limits = Limits { settled_ttl: Duration::from_secs(60), ..Limits::default() };
        let mut window = Window::default();
        push(&mut window, 1, 0, &limits);
        push(&mut window, 2, 50, &limits);
        push(&mut window, 3, 61, &limits);
        assert!(window.by_id(id(1)).is_none() && window.by_key(key(1)).is_none());
        assert!(window.by_id(id(2)).is_some());
        push(&mut window, 4, 1_000, &limits);
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn survives_serialization_at_every_size() {
        let limits = Limits { settled_kept: 200, ..Limits::default() };
        let mut window = Window::default();
        for n in 1..=500 {
            push(&mut window, n, 0, &limits);
            let json = serde_json::to_string(&window.remembered()).unwrap();
            let back = serde_json::from_str(&json).unwrap();
            assert_eq!(window.remembered(), back);
            assert!(Window::over(&back).by_key(key(n)).is_some());
        }
    }
}
