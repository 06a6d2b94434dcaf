//! How many streams, or waits, may one caller hold at once?

use crate::{
    auth::Principal,
    problem::{Code, Problem},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Places that callers take, and give back by dropping them.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    what: &'static str,
    limit: u32,
    taken: Arc<Mutex<HashMap<String, u32>>>,
}

/// One place.
#[derive(Debug)]
pub(crate) struct Place {
    of: Places,
    account: String,
}

impl Places {
    /// Places for `what`, so many for each caller.
    pub(crate) fn new(what: &'static str, limit: u32) -> Places {
        Places { what, limit, taken: Arc::default() }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// `too_many_streams` if the caller has all of his.
    pub(crate) fn take(&self, principal: &Principal) -> Result<Place, Problem> {
        let account = principal.account();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(account.clone()).or_default();
        if *count >= self.limit {
            let detail = format!("{} {} are open already, which is the limit; end one first", self.limit, self.what);
            let full = Problem::new(Code::TooManyStreams).detail(detail).limit(self.limit);
            return Err(full.retry_after(Duration::from_secs(1)));
        }
        *count += 1;
        drop(taken);
        Ok(Place { of: self.clone(), account })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.account);
            }
        }
    }
}
