//! Which session does a request mean, and may its caller see it?
//!
//! A session of another tenant, or one outside the token's prefix, is answered exactly like one that is not there.

use super::Named;
use crate::{
    auth::{Principal, Tenant},
    problem::{Code, Problem},
    state::AppState,
};
use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};
use windlass_core::{Profile, SessionId};
use windlass_runtime::{SessionError, SessionHandle, comms::PeerName};

/// Owners that are remembered; beyond that they are read from the store again.
const REMEMBERED: usize = 100_000;

/// Whose a session is, and what it is called. Fixed when it is created, so it may be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    tenant: Tenant,
    name: Option<Arc<str>>,
}

impl Owner {
    pub(super) fn of(profile: &Profile) -> Owner {
        Owner { tenant: Tenant::of_profile(profile), name: profile.name.clone() }
    }

    /// Whose it is.
    pub(super) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What its peers call it: by its name, or by its id.
    pub(super) fn called(&self, session: SessionId) -> PeerName {
        let text = self.name.clone().unwrap_or_else(|| session.to_string().into());
        PeerName::new(text).unwrap_or_else(|_| PeerName::new(session.to_string()).expect("a UUID is a name"))
    }

    /// Whether the caller may know of the session.
    pub(super) fn shows_to(&self, principal: &Principal) -> bool {
        principal.tenant == self.tenant && principal.may_name(self.name.as_deref())
    }
}

/// The owners of sessions that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Owners(RwLock<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    owners: HashMap<SessionId, Owner>,
    /// How many sessions were forgotten.
    age: u64,
}

impl Owners {
    fn get(&self, session: SessionId) -> Option<Owner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).owners.get(&session).cloned()
    }

    /// To be asked before an owner is looked up, for [`Owners::remember`].
    pub(super) fn age(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).age
    }

    /// Remembers an owner that was looked up at this age, unless a session was forgotten since: it may be this one.
    pub(super) fn remember(&self, session: SessionId, owner: Owner, age: u64) {
        let mut remembered = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if remembered.age != age {
            return;
        }
        if remembered.owners.len() >= REMEMBERED {
            remembered.owners.clear();
        }
        remembered.owners.insert(session, owner);
    }

    /// The session is gone; another one of its id may be somebody else's.
    pub(super) fn forget(&self, session: SessionId) {
        let mut remembered = self.0.write().unwrap_or_else(PoisonError::into_inner);
        remembered.age += 1;
        remembered.owners.remove(&session);
    }
}

/// The answer to whoever asks for a session that is not there, or not his.
pub(super) fn no_session() -> Problem {
    Problem::new(Code::NotFound).detail("there is no such session; create it first")
}

/// The session that a path means.
pub(super) fn session_of(principal: &Principal, text: &str) -> Result<(SessionId, Option<String>), Problem> {
    let tenant = principal.tenant.in_profile();
    let (id, name) = windlass_api::parse_session(tenant.as_deref(), text)
        .map_err(|error| Problem::new(Code::InvalidId).detail(error.to_string()))?;
    Ok((id, name.map(str::to_owned)))
}

/// The session that a path means, if it is there and the caller's.
pub(super) async fn reach(state: &AppState, principal: &Principal, text: &str) -> Result<SessionHandle, Problem> {
    let (id, _) = session_of(principal, text)?;
    find(state, principal, id).await?.ok_or_else(no_session)
}

/// The session of this id, if it is there and the caller's.
pub(super) async fn find(
    state: &AppState,
    principal: &Principal,
    id: SessionId,
) -> Result<Option<SessionHandle>, Problem> {
    let Some(owner) = owner(state, id).await? else { return Ok(None) };
    if !owner.shows_to(principal) {
        return Ok(None);
    }
    match state.adapter().session(id).await {
        Ok(session) => Ok(Some(session)),
        Err(SessionError::NotFound(_)) => {
            state.api().owners.forget(id);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whose the session is; none if there is no such session.
pub(super) async fn owner(state: &AppState, id: SessionId) -> Result<Option<Owner>, Problem> {
    let owners = &state.api().owners;
    if let Some(owner) = owners.get(id) {
        return Ok(Some(owner));
    }
    let age = owners.age();
    let Some(row) = state.store().session(id).await?.filter(|row| row.head.0 > 0) else { return Ok(None) };
    let owner = Owner::of(&row.status.profile);
    owners.remember(id, owner.clone(), age);
    Ok(Some(owner))
}

/// An id in a path.
pub(super) fn id<T: FromStr>(text: &str, what: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::new(Code::InvalidId).detail(format!("{what} is named by a UUID")))
}

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> axum::extract::FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut http::request::Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(named)) => Ok(Named(named)),
            Err(_) => Err(Problem::new(Code::InvalidId).detail("the path holds a part that is not UTF-8")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_was_read_before_its_session_was_deleted_is_not_remembered() {
        let (owners, session) = (Owners::default(), SessionId::from_uuid(uuid::Uuid::from_u128(1)));
        let owner = Owner::of(&Profile::default());
        let read_at = owners.age();
        owners.forget(session);
        owners.remember(session, owner.clone(), read_at);
        assert_eq!(owners.get(session), None);
        owners.remember(session, owner.clone(), owners.age());
        assert_eq!(owners.get(session), Some(owner));
    }
}
