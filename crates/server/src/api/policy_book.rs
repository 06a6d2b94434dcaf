//! Which policies were uploaded, and which table does a session's policy mean?
//!
//! Every version is a document of its own and never changes; all are in memory, because a session that is opened must
//! not wait for them. This process is the only one that writes them.

use crate::{
    auth::Tenant,
    problem::{Code, Problem},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};
use windlass_core::{PolicyTable, Timestamp};
use windlass_runtime::{
    Clock as _, Policies, SystemClock,
    documents::{DocumentError, Documents},
};

/// The kind of the documents. A key is `tenant/name@version`, the version in eight digits.
const KIND: &str = "policy";
/// The table that sessions without a policy follow; it can be asked, and not changed.
pub(super) const BUILT_IN: &str = "default";
/// Policies of one tenant, and versions of one policy.
const NAMES: usize = 256;
const VERSIONS: u64 = 1_000;
const PAGE: u32 = 500;

/// One version of a policy.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) table: Arc<PolicyTable>,
    pub(super) at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    at: Timestamp,
    table: PolicyTable,
}

/// The versions of a policy, by number, by its qualified name.
type Book = BTreeMap<String, BTreeMap<u64, Version>>;

/// All policies of a server.
pub(crate) struct PolicyBook {
    documents: Arc<dyn Documents>,
    book: RwLock<Book>,
    /// One upload at a time, so that versions are dense.
    writing: tokio::sync::Mutex<()>,
    built_in: Arc<PolicyTable>,
}

/// The name by which the runtime knows a tenant's policy. No tenant has a slash in its name.
pub(super) fn qualified(tenant: &Tenant, name: &str) -> String {
    format!("{tenant}/{name}")
}

/// The name by which a tenant knows its policy.
pub(super) fn shown(tenant: &Tenant, qualified: Option<&str>) -> Option<String> {
    let name = qualified?;
    let own = name.strip_prefix(tenant.as_str()).and_then(|rest| rest.strip_prefix('/'));
    Some(own.unwrap_or(name).to_owned())
}

impl PolicyBook {
    /// Reads all policies.
    ///
    /// # Errors
    /// [`DocumentError`] if they cannot be read. One that is no policy of this version of Windlass is reported in the
    /// log and left out.
    pub(crate) async fn load(documents: Arc<dyn Documents>) -> Result<PolicyBook, DocumentError> {
        let mut book = Book::new();
        let mut after: Option<String> = None;
        loop {
            let page = documents.list(KIND, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for document in page {
                let named =
                    document.key.rsplit_once('@').and_then(|(name, version)| Some((name, version.parse().ok()?)));
                match (named, serde_json::from_value::<Stored>(document.body)) {
                    (Some((name, version)), Ok(Stored { at, table })) => {
                        let version: u64 = version;
                        book.entry(name.to_owned())
                            .or_default()
                            .insert(version, Version { table: Arc::new(table), at });
                    }
                    (_, result) => {
                        let error = result.err().map(|error| error.to_string());
                        tracing::error!(key = document.key, error, "a stored policy cannot be used");
                    }
                }
            }
        }
        let built_in = Arc::new(PolicyTable::reference());
        Ok(PolicyBook { documents, book: RwLock::new(book), writing: tokio::sync::Mutex::default(), built_in })
    }

    /// The policy of this qualified name, with its version.
    pub(super) fn find(&self, name: &str) -> Option<(u64, Version)> {
        let (name, wanted) = match name.rsplit_once('@') {
            Some((name, version)) => (name, Some(version.parse::<u64>().ok()?)),
            None => (name, None),
        };
        if name.split_once('/').is_some_and(|(_, name)| name == BUILT_IN) {
            let version = self.built_in.version;
            let built_in = Version { table: Arc::clone(&self.built_in), at: Timestamp::ZERO };
            return wanted.is_none_or(|wanted| wanted == version).then_some((version, built_in));
        }
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        let versions = book.get(name)?;
        match wanted {
            Some(version) => versions.get(&version).map(|found| (version, found.clone())),
            None => versions.last_key_value().map(|(version, found)| (*version, found.clone())),
        }
    }

    /// The policies of a tenant after a name, each with its latest version.
    pub(super) fn list(&self, tenant: &Tenant, after: &str, limit: usize) -> Vec<(String, u64, Version)> {
        let prefix = qualified(tenant, "");
        let built_in =
            self.find(&qualified(tenant, BUILT_IN)).map(|(version, found)| (BUILT_IN.to_owned(), version, found));
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        let own = book.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let latest = own.filter_map(|(name, versions)| {
            let (version, found) = versions.last_key_value()?;
            Some((name[prefix.len()..].to_owned(), *version, found.clone()))
        });
        let mut all: Vec<_> = latest.chain(built_in).filter(|(name, ..)| name.as_str() > after).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all.truncate(limit);
        all
    }

    /// Keeps a table as the next version, unless it says the same as the latest one. Answers the version, and whether
    /// it is new.
    pub(super) async fn keep(
        &self,
        tenant: &Tenant,
        name: &str,
        mut table: PolicyTable,
    ) -> Result<(u64, bool), Problem> {
        if name == BUILT_IN {
            return Err(Problem::new(Code::SettingsConflict).detail("this is the built-in policy; choose another name"));
        }
        let _one_at_a_time = self.writing.lock().await;
        let name = qualified(tenant, name);
        let latest = self.find(&name);
        if let Some((version, found)) = &latest
            && found.table.rows == table.rows
        {
            return Ok((*version, false));
        }
        let version = latest.map_or(0, |(version, _)| version) + 1;
        let names = self.list(tenant, "", NAMES + 2).len();
        if version > VERSIONS || (version == 1 && names > NAMES) {
            let detail = format!("a tenant has at most {NAMES} policies of {VERSIONS} versions each");
            return Err(Problem::new(Code::QuotaExceeded).detail(detail));
        }
        table.version = version;
        let at = SystemClock.now();
        let body = serde_json::to_value(Stored { at, table: table.clone() }).map_err(Problem::internal)?;
        self.documents.put(KIND, &format!("{name}@{version:08}"), body, Some(0)).await?;
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        book.entry(name).or_default().insert(version, Version { table: Arc::new(table), at });
        Ok((version, true))
    }
}

impl Policies for PolicyBook {
    fn policy(&self, name: &str) -> Option<Arc<PolicyTable>> {
        self.find(name).map(|(_, version)| version.table)
    }
}
