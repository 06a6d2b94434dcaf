//! How much has a tenant already?
//!
//! The store counts, which costs as much as there is; so its count is taken for true for a moment, and what is admitted
//! meanwhile is added. A tenant may be over its quota by what it sends within that moment from elsewhere, never by more.

use crate::{
    auth::Tenant,
    problem::{Code, Problem},
    state::AppState,
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use windlass_runtime::store::Usage;

/// How long a count is taken for true.
const TRUE_FOR: Duration = Duration::from_secs(5);
/// When to try again.
const LATER: Duration = Duration::from_secs(5);

/// What tenants have, as far as it was counted.
#[derive(Debug, Default)]
pub(crate) struct Quota(Mutex<HashMap<Tenant, (Instant, Usage)>>);

impl Quota {
    /// Counts one more input of a tenant.
    pub(super) async fn input(&self, state: &AppState, tenant: &Tenant) -> Result<(), Problem> {
        let limit = state.config().limits.inputs_per_tenant;
        self.count(state, tenant, |usage| (&mut usage.open_inputs, limit, "inputs are open")).await
    }

    /// Counts one more session of a tenant.
    pub(super) async fn session(&self, state: &AppState, tenant: &Tenant) -> Result<(), Problem> {
        let limit = state.config().limits.sessions_per_tenant;
        self.count(state, tenant, |usage| (&mut usage.sessions, limit, "sessions are there")).await
    }

    async fn count(
        &self,
        state: &AppState,
        tenant: &Tenant,
        which: impl Fn(&mut Usage) -> (&mut u64, u64, &'static str),
    ) -> Result<(), Problem> {
        if let Some(counted) = self.add(tenant, &which) {
            return counted;
        }
        let usage = state.store().usage(tenant.in_profile().as_deref()).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone(), (Instant::now(), usage));
        self.add(tenant, &which).unwrap_or(Ok(()))
    }

    /// Adds one to a count that is still true; none if there is no such count.
    fn add(
        &self,
        tenant: &Tenant,
        which: impl Fn(&mut Usage) -> (&mut u64, u64, &'static str),
    ) -> Option<Result<(), Problem>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, usage) = counts.get_mut(tenant)?;
        if at.elapsed() > TRUE_FOR {
            return None;
        }
        let (count, limit, what) = which(usage);
        if *count >= limit {
            let detail = format!("{limit} {what} in this tenant, which is its limit; end or delete some first");
            return Some(Err(Problem::new(Code::QuotaExceeded).detail(detail).limit(limit).retry_after(LATER)));
        }
        *count += 1;
        Some(Ok(()))
    }
}
