//! How does each thing that is kept look as a row, and how is a row told from a damaged one?
//!
//! Everything is encoded on the caller's task, so that the writer only writes; everything is checked when it is read.

use rusqlite::{
    Connection, Row, params,
    types::{Type, ValueRef},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc};
use windlass_core::{
    Entry, Fence, Gate, InputId, InputState, Profile, Record, RunBoundaryReceipt, RunId, Seq, SessionId, Snapshot,
    Timestamp,
};
use windlass_runtime::store::{Append, IndexChange, InputRow, Room, SessionRow, SessionStatus, StoreError};

/// What can be read: the row, or why not.
pub(crate) type Read<T> = Result<T, StoreError>;

/// An [`Append`] whose rows only wait to be bound.
pub(crate) struct Rows {
    pub(crate) session: SessionId,
    pub(crate) fence: Fence,
    /// The position before the first entry; none if there are no entries.
    pub(crate) base: Option<Seq>,
    pub(crate) entries: Vec<EntryRow>,
    pub(crate) receipts: Vec<(RunId, u64, Seq)>,
    pub(crate) index: Vec<IndexChange>,
    pub(crate) status: SessionStatus,
    /// Whether the entries say what the profile is now.
    pub(crate) tells_profile: bool,
}

pub(crate) struct EntryRow {
    pub(crate) seq: Seq,
    pub(crate) at: Timestamp,
    pub(crate) body: String,
    pub(crate) checksum: i64,
}

impl Rows {
    /// Encodes an append, refusing one whose own positions have a gap.
    pub(crate) fn encode(append: Append) -> Result<Rows, StoreError> {
        let tells_profile = append.tells_profile();
        let Append { session, fence, entries, index, status } = append;
        let first = entries.first().map(|entry| entry.seq);
        let receipt = |entry: &Arc<Entry>| {
            let receipt = entry.record.receipt()?;
            Some((receipt.run_id, receipt.sequence, entry.seq))
        };
        let receipts = entries.iter().filter_map(receipt).collect();
        let encode = |(entry, seq): (&Arc<Entry>, u64)| {
            if entry.seq != Seq(seq) {
                return Err(StoreError::Conflict { session, next: Seq(seq) });
            }
            let body = json(&entry.record);
            let checksum = checksum(session, entry.seq, entry.at, body.as_bytes());
            Ok(EntryRow { seq: entry.seq, at: entry.at, body, checksum })
        };
        let numbered = entries.iter().zip(first.unwrap_or_default().0..);
        let rows = numbered.map(encode).collect::<Result<_, _>>()?;
        let base = first.map(|seq| Seq(seq.0.saturating_sub(1)));
        Ok(Rows { session, fence, base, entries: rows, receipts, index, status, tells_profile })
    }
}

/// JSON of something that is always JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records, receipts and snapshots have no maps with keys that are not text")
}

/// The first 8 bytes of BLAKE3 over all that identifies and makes up an entry.
pub(crate) fn checksum(session: SessionId, seq: Seq, at: Timestamp, body: &[u8]) -> i64 {
    let hash = hash(session, seq, Some(at), body);
    i64::from_le_bytes(*hash.first_chunk().expect("a BLAKE3 hash has 32 bytes"))
}

/// BLAKE3 over (session, seq, at if there is one, body).
pub(crate) fn hash(session: SessionId, seq: Seq, at: Option<Timestamp>, body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(session.as_uuid().as_bytes());
    hasher.update(&seq.0.to_le_bytes());
    if let Some(at) = at {
        hasher.update(&at.as_micros().to_le_bytes());
    }
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

/// The checksum of a receipt that has outlived its entry.
pub(crate) fn receipt_checksum(session: SessionId, seq: Seq, body: &[u8]) -> i64 {
    let hash = hash(session, seq, None, body);
    i64::from_le_bytes(*hash.first_chunk().expect("a BLAKE3 hash has 32 bytes"))
}

pub(crate) fn corrupt(session: SessionId, at: Option<Seq>, detail: impl Into<Arc<str>>) -> StoreError {
    StoreError::Corrupt { session: Some(session), at, detail: detail.into() }
}

/// What a failed read means. Reading never changes anything, so there is nothing to be unsure of.
#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
pub(crate) fn unreadable(error: rusqlite::Error) -> StoreError {
    use rusqlite::{Error, ErrorCode};
    let detail: Arc<str> = error.to_string().into();
    match error {
        Error::SqliteFailure(code, _) if !matches!(code.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Unavailable(detail)
        }
        // A value of the wrong type or out of range is damage as well.
        _ => StoreError::Corrupt { session: None, at: None, detail },
    }
}

pub(crate) fn bytes(id: &SessionId) -> &[u8; 16] {
    id.as_uuid().as_bytes()
}

pub(crate) fn session_id(row: &Row<'_>, column: usize) -> rusqlite::Result<SessionId> {
    row.get(column).map(|bytes| SessionId::from_uuid(uuid::Uuid::from_bytes(bytes)))
}

pub(crate) fn input_id(row: &Row<'_>, column: usize) -> rusqlite::Result<InputId> {
    row.get(column).map(|bytes| InputId::from_uuid(uuid::Uuid::from_bytes(bytes)))
}

pub(crate) fn run_id(row: &Row<'_>, column: usize) -> rusqlite::Result<RunId> {
    row.get(column).map(|bytes| RunId::from_uuid(uuid::Uuid::from_bytes(bytes)))
}

pub(crate) fn seq(row: &Row<'_>, column: usize) -> rusqlite::Result<Seq> {
    row.get(column).map(|seq: i64| Seq(seq as u64))
}

/// The text of a column, whatever its bytes are by now.
fn text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a [u8]> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes),
        other => Err(rusqlite::Error::InvalidColumnType(column, "body".into(), other.data_type())),
    }
}

pub(crate) const fn gate_name(gate: Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::Retired => "retired",
        Gate::Stopped => "stopped",
        Gate::Destroyed => "destroyed",
    }
}

fn gate(name: &str) -> Option<Gate> {
    [Gate::Open, Gate::Retired, Gate::Stopped, Gate::Destroyed].into_iter().find(|gate| gate_name(*gate) == name)
}

pub(crate) const fn state_name(state: InputState) -> &'static str {
    match state {
        InputState::Accepted => "accepted",
        InputState::Queued => "queued",
        InputState::Staged => "staged",
        InputState::AppliedPendingConsumption => "applied_pending_consumption",
        InputState::Consumed => "consumed",
        InputState::Superseded => "superseded",
        InputState::Coalesced => "coalesced",
        InputState::Abandoned => "abandoned",
    }
}

fn settled(name: &str) -> Option<InputState> {
    let terminal = [InputState::Consumed, InputState::Superseded, InputState::Coalesced, InputState::Abandoned];
    terminal.into_iter().find(|state| state_name(*state) == name)
}

// The columns that `session_row` reads.
macro_rules! session_columns {
    () => {
        "id, fence, head, updated_at, gate, held, open_inputs, running, pending, due_at, agent, pruned, created_at, \
         tenant, name, labels, keep_alive, policy"
    };
}
pub(crate) use session_columns;

/// A session's row, and the position up to which its entries are pruned.
pub(crate) fn session_row(row: &Row<'_>) -> Read<(SessionRow, Seq)> {
    let session = session_id(row, 0).map_err(unreadable)?;
    let read = || -> rusqlite::Result<Option<(SessionRow, Seq)>> {
        let name: String = row.get(4)?;
        let fence = NonZeroU64::new(row.get::<_, i64>(1)? as u64);
        let (Some(gate), Some(fence)) = (gate(&name), fence) else { return Ok(None) };
        let status = SessionStatus {
            gate,
            held: row.get(5)?,
            open_inputs: row.get(6)?,
            running: row.get(7)?,
            pending: row.get(8)?,
            due_at: row.get::<_, Option<i64>>(9)?.map(Timestamp::from_micros),
            agent: row.get(10)?,
            created_at: Timestamp::from_micros(row.get(12)?),
            profile: profile(row)?,
        };
        let (head, updated_at) = (seq(row, 2)?, Timestamp::from_micros(row.get(3)?));
        Ok(Some((SessionRow { session, fence: Fence(fence), head, updated_at, status }, seq(row, 11)?)))
    };
    read().ok().flatten().ok_or_else(|| corrupt(session, None, "its session row makes no sense"))
}

fn profile(row: &Row<'_>) -> rusqlite::Result<Arc<Profile>> {
    let labels = row.get_ref(15)?.as_bytes()?;
    let labels = match labels {
        b"{}" => BTreeMap::new(),
        labels => serde_json::from_slice(labels)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(15, Type::Text, error.into()))?,
    };
    let (tenant, name) = (row.get(13)?, row.get(14)?);
    Ok(Arc::new(Profile { tenant, name, labels, keep_alive: row.get(16)?, policy: row.get(17)? }))
}

// The columns that `input_row` reads.
macro_rules! input_columns {
    () => {
        "session, id, settled, dead, accepted_seq, settled_seq"
    };
}
pub(crate) use input_columns;

pub(crate) fn input_row(row: &Row<'_>) -> Read<InputRow> {
    let session = session_id(row, 0).map_err(unreadable)?;
    let read = || -> rusqlite::Result<Option<InputRow>> {
        let name: Option<String> = row.get(2)?;
        let state = name.as_deref().map(settled);
        if state == Some(None) {
            return Ok(None);
        }
        let settled_seq = row.get::<_, Option<i64>>(5)?.map(|seq| Seq(seq as u64));
        let (input, dead, accepted_seq) = (input_id(row, 1)?, row.get(3)?, seq(row, 4)?);
        Ok(Some(InputRow { session, input, settled: state.flatten(), dead, accepted_seq, settled_seq }))
    };
    read().ok().flatten().ok_or_else(|| corrupt(session, None, "an input row makes no sense"))
}

/// An entry in a row of (seq, at, body, checksum), verified.
pub(crate) fn entry(session: SessionId, row: &Row<'_>) -> Read<Entry> {
    let seq = seq(row, 0).map_err(|error| corrupt(session, None, error.to_string()))?;
    let damaged = |error: rusqlite::Error| corrupt(session, Some(seq), error.to_string());
    let at = Timestamp::from_micros(row.get(1).map_err(damaged)?);
    let body = text(row, 2).map_err(damaged)?;
    if checksum(session, seq, at, body) != row.get::<_, i64>(3).map_err(damaged)? {
        return Err(corrupt(session, Some(seq), "the entry does not match its checksum"));
    }
    let record: Record = decode(session, Some(seq), body)?;
    Ok(Entry { seq, at, record })
}

fn decode<T: DeserializeOwned>(session: SessionId, at: Option<Seq>, body: &[u8]) -> Read<T> {
    serde_json::from_slice(body).map_err(|error| corrupt(session, at, error.to_string()))
}

/// Entries after a position, as many as there is room for, in order and without a gap. Call within a read transaction.
pub(crate) fn entries(
    connection: &Connection,
    session: SessionId,
    after: Seq,
    mut room: Room,
) -> Read<Vec<Arc<Entry>>> {
    let Some((row, pruned)) = session_by_id(connection, session)? else { return Ok(Vec::new()) };
    if after < pruned {
        return Err(StoreError::Pruned { oldest: pruned });
    }
    let sql = "SELECT seq, at, body, checksum FROM journal WHERE session = ? AND seq > ? ORDER BY seq LIMIT ?";
    let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
    let mut rows = select.query(params![bytes(&session), after.0 as i64, room.items()]).map_err(unreadable)?;
    let mut entries = Vec::new();
    let mut last = after;
    while let Some(row) = rows.next().map_err(unreadable)? {
        // What is no text is told of below.
        if !room.takes(text(row, 2).map_or(0, <[u8]>::len)) {
            break;
        }
        let entry = entry(session, row)?;
        if entry.seq != last.next() {
            return Err(corrupt(session, Some(last.next()), "the entry is missing"));
        }
        last = entry.seq;
        entries.push(Arc::new(entry));
    }
    let complete = room.items() == 0 || last == row.head || (entries.is_empty() && after > row.head);
    if !complete {
        let at = last.next().min(row.head.next());
        return Err(corrupt(session, Some(at), format!("the journal does not end at its head, {}", row.head)));
    }
    Ok(entries)
}

pub(crate) fn session_by_id(connection: &Connection, session: SessionId) -> Read<Option<(SessionRow, Seq)>> {
    let sql = concat!("SELECT ", session_columns!(), " FROM session WHERE id = ?");
    let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
    let mut rows = select.query([bytes(&session)]).map_err(unreadable)?;
    rows.next().map_err(unreadable)?.map(session_row).transpose()
}

/// The snapshots of a session, newest first: where each was taken, its size, and what it says or what is wrong with it.
#[expect(clippy::type_complexity, reason = "read in two places, where the parts are named")]
pub(crate) fn snapshots(connection: &Connection, session: SessionId) -> Read<Vec<(Seq, u64, Read<Arc<Snapshot>>)>> {
    let sql = "SELECT seq, body, hash FROM snapshot WHERE session = ? ORDER BY seq DESC";
    let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
    let mut rows = select.query([bytes(&session)]).map_err(unreadable)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(unreadable)? {
        let at = seq(row, 0).map_err(unreadable)?;
        let body = text(row, 1).map_err(unreadable)?;
        let snapshot = if row.get::<_, [u8; 32]>(2).is_ok_and(|stored| stored == hash(session, at, None, body)) {
            decode(session, Some(at), body).map(Arc::new)
        } else {
            Err(corrupt(session, Some(at), "the snapshot does not match its hash"))
        };
        found.push((at, body.len() as u64, snapshot));
    }
    Ok(found)
}

/// One receipt: from its own row if it has outlived its entry, else from the entry.
pub(crate) fn receipt(
    connection: &Connection,
    session: SessionId,
    run: RunId,
    sequence: u64,
) -> Read<Option<Arc<RunBoundaryReceipt>>> {
    let sql = "SELECT seq, body, checksum FROM receipt WHERE session = ? AND run = ? AND sequence = ?";
    let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
    let key = params![bytes(&session), run.as_uuid().as_bytes(), sequence as i64];
    let mut rows = select.query(key).map_err(unreadable)?;
    let Some(row) = rows.next().map_err(unreadable)? else { return Ok(None) };
    let at = seq(row, 0).map_err(unreadable)?;
    if let Some(receipt) = kept_receipt(session, at, row)? {
        return Ok(Some(Arc::new(receipt)));
    }
    let entries = entries(connection, session, Seq(at.0.saturating_sub(1)), Room::page(1))?;
    let receipt = entries.first().and_then(|entry| entry.record.receipt());
    let receipt = receipt.filter(|receipt| receipt.run_id == run && receipt.sequence == sequence);
    receipt.cloned().map(Some).ok_or_else(|| corrupt(session, Some(at), "the entry does not hold its receipt"))
}

/// The receipt in a row of (seq, body, checksum), if it is kept there.
pub(crate) fn kept_receipt(session: SessionId, at: Seq, row: &Row<'_>) -> Read<Option<RunBoundaryReceipt>> {
    let damaged = |error: rusqlite::Error| corrupt(session, Some(at), error.to_string());
    if row.get_ref(1).map_err(damaged)? == ValueRef::Null {
        return Ok(None);
    }
    let body = text(row, 1).map_err(damaged)?;
    if row.get::<_, i64>(2).map_err(damaged)? != receipt_checksum(session, at, body) {
        return Err(corrupt(session, Some(at), "the receipt does not match its checksum"));
    }
    decode(session, Some(at), body).map(Some)
}
