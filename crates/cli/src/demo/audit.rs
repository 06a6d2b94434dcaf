//! Is every acknowledged input accounted for, exactly once?
//!
//! Compares the parent's log with the store by plain SQL on its own connection. An accepted input must be in the
//! journal and over; it must stand in exactly one receipt, or in none and have a typed outcome that says why not. A
//! refused one must have left nothing. Work in the background must have ended once, and its end must have been told in
//! exactly one run that committed. What a session was asked by another must have been answered once, and both must
//! stand in exactly one receipt.

use super::{
    Sabotage,
    acks::{self, Ack, Answer},
};
use crate::{failure::Failure, place::store_file};
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};
use windlass::InputId;

/// The accounts.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Audit {
    /// Different inputs that were acknowledged as accepted.
    pub(crate) accepted: u32,
    /// Of those: taken by a committed run.
    pub(crate) consumed: u32,
    /// Of those: became part of a newer one.
    pub(crate) coalesced: u32,
    /// Of those: replaced by a newer one.
    pub(crate) superseded: u32,
    /// Of those: ended by a cancel.
    pub(crate) cancelled: u32,
    /// Of those: not in the store, or not over.
    pub(crate) lost: u32,
    /// Of those: in more than one receipt, or in one although it ended otherwise.
    pub(crate) doubled: u32,
    /// Offers that were recognised as repetitions.
    pub(crate) deduplicated: u32,
    /// Offers that were refused.
    pub(crate) rejected: u32,
    /// Work in the background that was registered.
    pub(crate) operations: u32,
    /// Of those: lost with its process.
    pub(crate) operations_lost: u32,
    /// Committed runs that were told of such work.
    pub(crate) wakes: u32,
    /// Requests from one session to another.
    pub(crate) requests: u32,
    /// Receipts in the store.
    pub(crate) receipts: u32,
    /// What does not add up; empty if all does.
    pub(crate) problems: Vec<String>,
}

/// What the store says of an input.
struct Stored {
    settled: Option<String>,
    /// The record that ended it, if it is in the journal.
    ending: Option<String>,
    /// Whether the record that admitted it is in the journal.
    admitted: bool,
}

/// Every receipt in the journal, whichever record carries it.
const RECEIPTS: &str = "
    SELECT j.session AS session, coalesce(
        json_extract(j.body, '$.run_ended.end.completed.receipt'),
        json_extract(j.body, '$.boundary_committed.receipt'),
        json_extract(j.body, '$.context_appended.receipt')) AS receipt
    FROM journal AS j WHERE receipt IS NOT NULL";

/// Each piece of background work: how often it was registered and ended, how often it was lost, and in how many
/// receipts of those stand who were told of its end.
fn operations_sql() -> String {
    let told = told_sql();
    format!(
        "WITH registered AS MATERIALIZED (
            SELECT session, json_extract(body, '$.operation_registered.spec.id') AS op FROM journal WHERE op IS NOT NULL),
        ended AS MATERIALIZED (
            SELECT session, json_extract(body, '$.operation_ended.operation_id') AS op,
                json_extract(body, '$.operation_ended.terminal_outcome.reason') IS 'owner lost' AS lost
            FROM journal WHERE op IS NOT NULL),
        {told},
        known AS (SELECT session, op FROM registered UNION SELECT session, op FROM ended)
        SELECT known.op,
            (SELECT count(*) FROM registered AS r WHERE r.session = known.session AND r.op = known.op),
            (SELECT count(*) FROM ended AS e WHERE e.session = known.session AND e.op = known.op),
            (SELECT count(*) FROM ended AS e WHERE e.session = known.session AND e.op = known.op AND e.lost),
            (SELECT count(*) FROM told AS t WHERE t.session = known.session AND t.op = known.op)
        FROM known"
    )
}

/// Every end that an input tells of, once for each receipt that the input stands in.
fn told_sql() -> String {
    format!(
        "covered AS MATERIALIZED (SELECT session, named.value AS input
            FROM ({RECEIPTS}), json_each(receipt, '$.contributing_input_ids') AS named),
        telling AS MATERIALIZED (SELECT j.session AS session, json_extract(notice.value, '$.operation_id') AS op,
                json_extract(j.body, '$.input_accepted.input.header.id') AS input
            FROM journal AS j, json_each(j.body, '$.input_accepted.input.notices') AS notice),
        told AS MATERIALIZED (SELECT telling.session AS session, op, telling.input AS input
            FROM telling JOIN covered ON covered.session = telling.session AND covered.input = telling.input)"
    )
}

/// Each request of a peer: in how many receipts it stands, how many answers to it were admitted, and in how many
/// receipts these stand.
fn requests_sql() -> String {
    let told = told_sql();
    format!(
        "WITH {told},
        peers AS MATERIALIZED (SELECT session, json_extract(body, '$.input_accepted.input.header.id') AS input,
            json_extract(body, '$.input_accepted.input.convention.convention_type') AS type,
            json_extract(body, '$.input_accepted.input.convention.request_id') AS request
            FROM journal WHERE type IN ('request', 'response_terminal'))
        SELECT request, sum(type = 'request' AND covered.input IS NOT NULL),
            count(DISTINCT CASE WHEN type = 'response_terminal' THEN peers.input END),
            sum(type = 'response_terminal' AND covered.input IS NOT NULL)
        FROM peers LEFT JOIN covered ON covered.session = peers.session AND covered.input = peers.input
        GROUP BY request"
    )
}

pub(crate) fn audit(dir: &Path) -> Result<Audit, Failure> {
    let acks = acks::read(dir)?;
    let db = Connection::open_with_flags(store_file(dir), OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(Failure::failed)?;
    settle(&acks, &db).map_err(|error| Failure::failed(format!("the store cannot be read: {error}")))
}

fn settle(acks: &[Ack], db: &Connection) -> rusqlite::Result<Audit> {
    let mut audit = Audit { receipts: count(db, &format!("SELECT count(*) FROM ({RECEIPTS})"))?, ..Audit::default() };
    let indexed = count(db, "SELECT count(*) FROM receipt")?;
    if indexed != audit.receipts {
        audit.problems.push(format!("the journal holds {} receipts, their index {indexed}", audit.receipts));
    }
    let receipts = receipts_by_input(db)?;
    let stored = stored(db)?;
    let mut accepted = BTreeSet::new();
    for ack in acks {
        match &ack.answer {
            Answer::Accepted => drop(accepted.insert(ack.input)),
            Answer::Deduplicated { existing } => {
                audit.deduplicated += 1;
                accepted.insert(*existing);
            }
            Answer::Rejected { code } => {
                audit.rejected += 1;
                if stored.contains_key(&ack.input.to_string()) {
                    audit.problems.push(format!("{} was refused ({code}) and is in the store", ack.input));
                }
            }
        }
    }
    audit.accepted = accepted.len() as u32;
    for input in accepted {
        let id = input.to_string();
        audit.enter(input, stored.get(&id), receipts.get(&id).copied().unwrap_or_default());
    }
    audit.wakes = count(db, &format!("WITH {} SELECT count(DISTINCT input) FROM told", told_sql()))?;
    let mut statement = db.prepare(&operations_sql())?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        audit.enter_operation(&row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
    }
    let mut statement = db.prepare(&requests_sql())?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        audit.enter_request(&row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    }
    Ok(audit)
}

impl Audit {
    fn enter_request(&mut self, id: &str, taken: u32, answers: u32, heard: u32) {
        self.requests += 1;
        if (taken, answers, heard) != (1, 1, 1) {
            let facts = format!("taken {taken}, answered {answers} and its answer taken {heard} times");
            self.problems.push(format!("request {id} was {facts}, not once each"));
        }
    }

    fn enter_operation(&mut self, id: &str, registered: u32, ended: u32, lost: u32, told: u32) {
        self.operations += 1;
        self.operations_lost += lost;
        if (registered, ended, told) != (1, 1, 1) {
            let facts = format!("registered {registered}, ended {ended} and told {told} times");
            self.problems.push(format!("operation {id} was {facts}, not once each"));
        }
    }

    fn enter(&mut self, input: InputId, stored: Option<&Stored>, receipts: u32) {
        let Some(stored) = stored.filter(|stored| stored.admitted) else {
            self.lost += 1;
            return self.problems.push(format!("{input} was acknowledged and is not in the store"));
        };
        let (Some(settled), Some(ending)) = (&stored.settled, &stored.ending) else {
            self.lost += 1;
            return self.problems.push(format!("{input} was acknowledged and is not over"));
        };
        match (settled.as_str(), receipts) {
            ("consumed", 0) => {
                self.lost += 1;
                self.problems.push(format!("{input} is said to be consumed and is in no receipt"));
            }
            ("consumed", 1) => self.consumed += 1,
            (_, 0) => match settled.as_str() {
                "coalesced" => self.coalesced += 1,
                "superseded" => self.superseded += 1,
                _ if ending.contains("\"cancelled\"") => self.cancelled += 1,
                // Any other typed outcome would be right, but the tour provokes none.
                other => self.problems.push(format!("{input} ended {other}: {ending}")),
            },
            (settled, receipts) => {
                self.doubled += 1;
                self.problems.push(format!("{input} ended {settled} and is in {receipts} receipts"));
            }
        }
    }
}

fn count(db: &Connection, sql: &str) -> rusqlite::Result<u32> {
    db.query_row(sql, [], |row| row.get(0))
}

/// In how many receipts each input stands.
fn receipts_by_input(db: &Connection) -> rusqlite::Result<BTreeMap<String, u32>> {
    let sql = format!(
        "SELECT named.value, count(*) FROM ({RECEIPTS}), json_each(receipt, '$.contributing_input_ids') AS named GROUP BY 1"
    );
    let mut statement = db.prepare(&sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn stored(db: &Connection) -> rusqlite::Result<BTreeMap<String, Stored>> {
    let mut statement = db.prepare(
        "SELECT i.id, i.settled, ended.body, admitted.body IS NOT NULL FROM input AS i
         LEFT JOIN journal AS ended ON ended.session = i.session AND ended.seq = i.settled_seq
         LEFT JOIN journal AS admitted ON admitted.session = i.session AND admitted.seq = i.accepted_seq",
    )?;
    let rows = statement.query_map([], |row| {
        let id: [u8; 16] = row.get(0)?;
        let stored = Stored { settled: row.get(1)?, ending: row.get(2)?, admitted: row.get(3)? };
        Ok((uuid::Uuid::from_bytes(id).to_string(), stored))
    })?;
    rows.collect()
}

/// Spoils the store as a lost write or a second run would: in the journal and in what is derived from it.
pub(crate) fn spoil(dir: &Path, sabotage: Sabotage) -> Result<(), Failure> {
    let db = Connection::open(store_file(dir)).map_err(Failure::failed)?;
    let done = match sabotage {
        Sabotage::DropAck => db.execute_batch(
            "CREATE TEMP TABLE victim AS SELECT session, id, accepted_seq FROM input WHERE settled = 'consumed'
                AND (session, accepted_seq) IN (SELECT session, seq FROM journal
                    WHERE json_extract(body, '$.input_accepted.input.input_type') = 'prompt') LIMIT 1;
             DELETE FROM journal WHERE (session, seq) IN (SELECT session, accepted_seq FROM victim);
             DELETE FROM input WHERE (session, id) IN (SELECT session, id FROM victim);",
        ),
        Sabotage::DoubleRun => db
            .execute(
                "INSERT INTO journal (session, seq, at, body, checksum)
                 SELECT j.session, (SELECT max(seq) + 1 FROM journal WHERE session = j.session), j.at, j.body, j.checksum
                 FROM journal AS j
                 WHERE json_extract(j.body, '$.run_ended.end.completed.receipt.boundary') = 'run_start'
                    AND json_array_length(j.body, '$.run_ended.end.completed.receipt.contributing_input_ids') > 0 LIMIT 1",
                params![],
            )
            .map(drop),
    };
    done.map_err(|error| Failure::failed(format!("the sabotage itself failed: {error}")))
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The accounts: my log of acknowledgements against the store, by plain SQL")?;
        let Audit { accepted, consumed, coalesced, superseded, cancelled, lost, doubled, .. } = self;
        writeln!(f, "  accepted      {accepted:>5}   each of these is exactly one of the next six")?;
        writeln!(f, "    consumed    {consumed:>5}   in exactly one of {} receipts", self.receipts)?;
        writeln!(f, "    coalesced   {coalesced:>5}   part of a newer one")?;
        writeln!(f, "    superseded  {superseded:>5}   replaced by a newer one")?;
        writeln!(f, "    cancelled   {cancelled:>5}")?;
        writeln!(f, "    lost        {lost:>5}")?;
        writeln!(f, "    doubled     {doubled:>5}")?;
        writeln!(f, "  deduplicated  {:>5}   repetitions that were recognised", self.deduplicated)?;
        writeln!(f, "  rejected      {:>5}   refused with a reason; nothing left behind", self.rejected)?;
        let Audit { operations, operations_lost, wakes, requests, .. } = self;
        writeln!(f, "  operations    {operations:>5}   each ended once; {operations_lost} of them with their process")?;
        writeln!(f, "  wakes         {wakes:>5}   committed runs that told of them, each end once")?;
        write!(f, "  requests      {requests:>5}   from one session to another, each answered once")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  PROBLEM: {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass::SessionId;

    /// A store in its plainest form, as the audit reads it: not a line of the store's own code is used.
    fn store(sql: &str) -> Connection {
        let db = Connection::open_in_memory().expect("memory");
        db.execute_batch(
            "CREATE TABLE journal (session BLOB, seq INTEGER, at INTEGER, body TEXT, checksum INTEGER);
             CREATE TABLE input (session BLOB, id BLOB, settled TEXT, accepted_seq INTEGER, settled_seq INTEGER);
             CREATE TABLE receipt (session BLOB, run BLOB, sequence INTEGER);
             INSERT INTO journal VALUES (x'01', 1, 0, '{\"input_accepted\":{}}', 0);",
        )
        .expect("a schema");
        db.execute_batch(sql).expect("rows");
        db
    }

    fn id() -> InputId {
        InputId::from_uuid(uuid::Uuid::from_u128(7))
    }

    fn ack(answer: Answer) -> Ack {
        Ack { session: SessionId::from_uuid(uuid::Uuid::from_u128(1)), input: id(), answer }
    }

    fn end(seq: u32) -> String {
        let receipt = format!(r#"{{"contributing_input_ids":["{}"]}}"#, id());
        format!(
            r#"INSERT INTO journal VALUES (x'01', {seq}, 0, '{{"run_ended":{{"end":{{"completed":{{"receipt":{receipt}}}}}}}}}', 0);
               INSERT INTO receipt VALUES (x'01', x'02', {seq});"#
        )
    }

    fn row(settled: &str) -> String {
        format!("INSERT INTO input VALUES (x'01', x'00000000000000000000000000000007', {settled}, 1, 2);")
    }

    #[test]
    fn accounts_tell_lost_and_doubled_from_sound() {
        let cancelled = r#"INSERT INTO journal VALUES (x'01', 2, 0, '{"inputs_settled":{"outcome":{"abandoned":{"reason":"cancelled"}}}}', 0);"#;
        for (name, sql, expected) in [
            ("consumed once", end(2) + &row("'consumed'"), (1, 0, 0, 0)),
            ("not there", String::new(), (0, 0, 1, 0)),
            ("not over", row("NULL"), (0, 0, 1, 0)),
            ("row without its entry", end(2) + &row("'consumed'").replace(", 1, 2)", ", 9, 2)"), (0, 0, 1, 0)),
            ("consumed by nobody", cancelled.to_owned() + &row("'consumed'"), (0, 0, 1, 0)),
            ("run twice", end(2) + &end(3) + &row("'consumed'"), (0, 0, 0, 1)),
            ("run and cancelled", end(2) + &row("'abandoned'"), (0, 0, 0, 1)),
            ("cancelled", cancelled.to_owned() + &row("'abandoned'"), (0, 1, 0, 0)),
        ] {
            let audit = settle(&[ack(Answer::Accepted)], &store(&sql)).expect(name);
            assert_eq!((audit.consumed, audit.cancelled, audit.lost, audit.doubled), expected, "{name}");
            assert_eq!(audit.problems.is_empty(), audit.lost + audit.doubled == 0, "{name}: {:?}", audit.problems);
        }
    }

    #[test]
    fn background_work_ends_once_and_is_told_once() {
        let registered =
            r#"INSERT INTO journal VALUES (x'01', 2, 0, '{"operation_registered":{"spec":{"id":"op"}}}', 0);"#;
        let ended = |seq: u32| {
            format!(
                r#"INSERT INTO journal VALUES (x'01', {seq}, 0, '{{"operation_ended":{{"operation_id":"op",
                   "terminal_outcome":{{"outcome_type":"terminated","reason":"owner lost"}}}}}}', 0);"#
            )
        };
        let telling = format!(
            r#"INSERT INTO journal VALUES (x'01', 5, 0, '{{"input_accepted":{{"input":{{"header":{{"id":"{}"}},
               "notices":[{{"operation_id":"op"}}]}}}}}}', 0);"#,
            id()
        );
        let sound = registered.to_owned() + &ended(3) + &telling + &end(6);
        for (name, sql, expected, problems) in [
            ("none", String::new(), (0, 0, 0), 0),
            ("sound", sound.clone(), (1, 1, 1), 0),
            ("told twice", sound.clone() + &end(7), (1, 1, 1), 1),
            ("ended twice", sound + &ended(4), (1, 2, 1), 1),
            ("told by a run that did not commit", registered.to_owned() + &ended(3) + &telling, (1, 1, 0), 1),
            ("not over", registered.to_owned(), (1, 0, 0), 1),
            ("from nowhere", ended(3), (1, 1, 0), 1),
        ] {
            let audit = settle(&[], &store(&sql)).expect(name);
            assert_eq!((audit.operations, audit.operations_lost, audit.wakes), expected, "{name}");
            assert_eq!(audit.problems.len(), problems, "{name}: {:?}", audit.problems);
        }
    }

    #[test]
    fn a_request_is_answered_once() {
        let peer = |seq: u32, input: &str, convention: &str| {
            format!(
                r#"INSERT INTO journal VALUES (x'01', {seq}, 0, '{{"input_accepted":{{"input":{{"header":{{"id":"{input}"}},
                   "convention":{{"convention_type":"{convention}","request_id":"r"}}}}}}}}', 0);"#
            )
        };
        let taken = |seq: u32, input: &str| end(seq).replace(&id().to_string(), input);
        let request = peer(2, "a", "request") + &taken(3, "a");
        let answer = |seq: u32, input: &str| peer(seq, input, "response_terminal") + &taken(seq + 1, input);
        for (name, sql, requests, problems) in [
            ("progress only", peer(2, "p", "response_progress"), 0, 0),
            ("answered", request.clone() + &answer(4, "b"), 1, 0),
            ("not answered", request.clone(), 1, 1),
            ("answered twice", request.clone() + &answer(4, "b") + &answer(6, "c"), 1, 1),
            ("the answer is not taken", request.clone() + &peer(4, "b", "response_terminal"), 1, 1),
            ("taken twice", request + &taken(6, "a") + &answer(4, "b"), 1, 1),
        ] {
            let audit = settle(&[], &store(&sql)).expect(name);
            assert_eq!((audit.requests, audit.problems.len()), (requests, problems), "{name}: {:?}", audit.problems);
        }
    }

    #[test]
    fn what_was_refused_left_nothing_and_repetitions_exist() {
        let refused = ack(Answer::Rejected { code: "queue_full".into() });
        assert!(settle(std::slice::from_ref(&refused), &store("")).expect("accounts").problems.is_empty());
        assert!(!settle(&[refused], &store(&row("NULL"))).expect("accounts").problems.is_empty());
        let repeated = ack(Answer::Deduplicated { existing: id() });
        assert_eq!(settle(&[repeated], &store("")).expect("accounts").lost, 1);
    }
}
