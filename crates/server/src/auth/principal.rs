//! Who calls?

use super::{
    scope::{Scope, Scopes},
    token::TokenId,
};
use crate::problem::{Code, Problem};
use axum::extract::FromRequestParts;
use http::request::Parts;
use std::{fmt, sync::Arc};
use windlass_core::Profile;

/// Whose sessions these are. The default tenant is `default` in tokens and none in profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Option<Arc<str>>);

/// The name of the default tenant, in tokens.
const DEFAULT: &str = "default";

impl Tenant {
    /// The tenant of this name: `[A-Za-z0-9_-]{1,64}`.
    pub fn parse(name: &str) -> Option<Tenant> {
        let fits =
            (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        fits.then(|| Tenant((name != DEFAULT).then(|| name.into())))
    }

    /// As it stands in profiles: none is the default tenant.
    pub fn in_profile(&self) -> Option<Arc<str>> {
        self.0.clone()
    }

    /// As it stands in tokens.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT)
    }

    /// Whose the session with this profile is.
    pub fn of_profile(profile: &Profile) -> Tenant {
        Tenant(profile.tenant.clone())
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who calls, and what he may do. Extracted by handlers; put there by the route's own guard.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Whose sessions he sees. From the token alone.
    pub tenant: Tenant,
    /// The token he showed; none for a local caller of a server without tokens, and for one with a JWT.
    pub token: Option<TokenId>,
    /// Who a JWT says he is.
    pub subject: Option<Arc<str>>,
    /// What he may do.
    pub scopes: Scopes,
    /// He may only name sessions whose name begins so.
    pub prefix: Option<Arc<str>>,
}

impl Principal {
    /// Whoever runs on this machine, as long as there are no tokens.
    pub(crate) fn local() -> Principal {
        Principal { tenant: Tenant::default(), token: None, subject: None, scopes: Scopes::all(), prefix: None }
    }

    /// Whether he may do this.
    ///
    /// # Errors
    /// `forbidden_scope`, which names the scope.
    pub fn may(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.allows(scope) {
            return Ok(());
        }
        Err(Problem::new(Code::ForbiddenScope).detail(format!("the scope {scope} is needed; use a token that has it")))
    }

    /// Whether he may see a session of this name, where the token is bound to a prefix. A session without a name is
    /// then never his.
    pub fn may_name(&self, name: Option<&str>) -> bool {
        self.prefix.as_deref().is_none_or(|prefix| name.is_some_and(|name| name.starts_with(prefix)))
    }

    /// Under what he is counted: by limits of rates, streams and waits.
    pub fn account(&self) -> String {
        match (&self.token, &self.subject) {
            (Some(token), _) => token.to_string(),
            (None, Some(subject)) => format!("{}/{subject}", self.tenant),
            (None, None) => String::from("local"),
        }
    }

    /// Whether it is the local caller of a server without tokens.
    pub(crate) fn is_local(&self) -> bool {
        self.token.is_none() && self.subject.is_none()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Principal, Problem> {
        let principal = parts.extensions.get::<Principal>().cloned();
        principal.ok_or_else(|| Problem::internal("a route was reached without its guard"))
    }
}
