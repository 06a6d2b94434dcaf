//! How are sessions and inputs listed, and which index answers?
//!
//! Statements are constants: what varies is bound. Each index has a statement of its own, because a condition that may
//! or may not hold would keep SQLite from using any.

use crate::rows::{Read, input_columns, input_row, json, session_columns, session_row, state_name, unreadable};
use rusqlite::{Connection, named_params};
use std::collections::BTreeMap;
use windlass_runtime::store::{InputQuery, InputRow, ListQuery, SessionRow, StoreError, Usage};

// What every list of inputs asks, whatever index answers: after (:session, :id), of sessions up to :to.
macro_rules! input_page {
    () => {
        "(session, id) > (:session, :id) AND session <= :to AND (:open IS NULL OR (settled IS NULL) = :open) \
         AND (:state IS NULL OR settled = :state) \
         AND (:any_tenant OR (SELECT tenant FROM session s WHERE s.id = input.session) IS :tenant) \
         ORDER BY session, id LIMIT :limit"
    };
}

pub(crate) fn inputs(connection: &Connection, query: &InputQuery) -> Read<Vec<InputRow>> {
    // The empty blob sorts before every id, seventeen bytes of 255 after.
    let session = query.session.map(|session| *session.as_uuid().as_bytes());
    let after = query.after.map(|(session, id)| (*session.as_uuid().as_bytes(), *id.as_uuid().as_bytes()));
    let from = session.as_ref().map_or(&[][..], |id| &id[..]);
    let to = session.as_ref().map_or(&[255; 17][..], |id| &id[..]);
    let after = after.as_ref().map_or((&[][..], &[][..]), |(session, id)| (&session[..], &id[..]));
    let (session, id) = (from, &[][..]).max(after);
    let terminal = query.state.filter(|state| state.is_terminal());
    let open = match (query.open, query.state) {
        // Of an input that is not over, the row says no more than that.
        (None, Some(state)) if !state.is_terminal() => Some(true),
        (Some(false), Some(state)) if !state.is_terminal() => return Ok(Vec::new()),
        (open, _) => open,
    };
    let sql = if query.dead {
        concat!("SELECT ", input_columns!(), " FROM input INDEXED BY input_dead WHERE dead = 1 AND ", input_page!())
    } else {
        concat!("SELECT ", input_columns!(), " FROM input WHERE ", input_page!())
    };
    let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
    let values = named_params! {
        ":session": session, ":id": id, ":to": to, ":open": open, ":state": terminal.map(state_name),
        ":any_tenant": query.tenant.is_none(), ":tenant": query.tenant.as_ref().and_then(|tenant| tenant.as_deref()),
        ":limit": query.limit,
    };
    let mut rows = select.query(values).map_err(unreadable)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(unreadable)? {
        found.push(input_row(row)?);
    }
    Ok(found)
}

// What every list of sessions asks, whatever index answers.
macro_rules! session_page {
    () => {
        "id > :after AND head > 0 AND (:agent IS NULL OR agent = :agent) AND (:gate IS NULL OR gate = :gate) \
         AND (:any_tenant OR tenant IS :tenant) AND (:name IS NULL OR name = :name) \
         AND NOT EXISTS (SELECT 1 FROM json_each(:labels) wanted WHERE NOT EXISTS \
         (SELECT 1 FROM json_each(session.labels) label WHERE label.key = wanted.key AND label.value = wanted.value)) \
         ORDER BY id LIMIT :limit"
    };
}

macro_rules! select_sessions {
    ($by:literal) => {
        concat!("SELECT ", session_columns!(), " FROM session ", $by, session_page!())
    };
}

pub(crate) fn sessions(connection: &Connection, query: &ListQuery) -> Read<Vec<SessionRow>> {
    let mut labels = BTreeMap::new();
    for (key, value) in &query.labels {
        if labels.insert(key, value).is_some_and(|other| other != value) {
            // No session has one label with two values.
            return Ok(Vec::new());
        }
    }
    let sql = if query.pending {
        select_sessions!("INDEXED BY session_pending WHERE (pending = 1 OR due_at IS NOT NULL) AND ")
    } else if query.name.is_some() {
        select_sessions!("INDEXED BY session_name WHERE name = :name AND ")
    } else if query.tenant.is_some() {
        select_sessions!("INDEXED BY session_tenant WHERE tenant IS :tenant AND ")
    } else {
        select_sessions!("WHERE ")
    };
    let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
    let after = query.after.as_ref().map_or(&[][..], |id| crate::rows::bytes(id));
    let values = named_params! {
        ":after": after, ":agent": query.agent.as_deref(), ":gate": query.gate.map(crate::rows::gate_name),
        ":any_tenant": query.tenant.is_none(), ":tenant": query.tenant.as_ref().and_then(|tenant| tenant.as_deref()),
        ":name": query.name.as_deref(), ":labels": json(&labels), ":limit": query.limit,
    };
    let mut rows = select.query(values).map_err(unreadable)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(unreadable)? {
        found.push(session_row(row)?.0);
    }
    Ok(found)
}

pub(crate) fn usage(connection: &Connection, tenant: Option<&str>) -> Result<Usage, StoreError> {
    let sql = "SELECT count(*), coalesce(sum(open_inputs), 0) FROM session INDEXED BY session_tenant \
               WHERE tenant IS ? AND head > 0";
    let mut select = connection.prepare_cached(sql).map_err(unreadable)?;
    let usage = select.query_row([tenant], |row| {
        Ok(Usage { sessions: row.get::<_, i64>(0)? as u64, open_inputs: row.get::<_, i64>(1)? as u64 })
    });
    usage.map_err(unreadable)
}
