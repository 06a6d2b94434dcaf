//! Who calls, and may he?
//!
//! A token or a JWT in `Authorization: Bearer` names a [`Principal`] with a tenant and scopes. Without any token a
//! server on loopback trusts whoever runs on its machine; from the first token on nobody is trusted without one.

mod jwt;
mod principal;
mod routes;
mod scope;
mod token;

pub(crate) use jwt::Jwt;
pub use jwt::JwtKeysError;
pub use principal::{Principal, Tenant};
pub(crate) use routes::routes;
pub use scope::{Scope, Scopes, UnknownScope};
pub(crate) use token::random;
pub use token::{NewToken, TOKENS, TokenId, TokenRow, Tokens};

use crate::{
    problem::{Code, Problem},
    state::AppState,
};
use http::{HeaderMap, header};
use std::net::IpAddr;

/// Who sends a request with these headers, from this address.
///
/// # Errors
/// `unauthenticated` and its kin; `rate_limited` if this address has shown too many tokens that were none.
pub(crate) async fn authenticate(state: &AppState, headers: &HeaderMap, from: IpAddr) -> Result<Principal, Problem> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let tried = match (shown.next(), shown.next()) {
        (None, _) if state.trusts_local() && from.is_loopback() => return Ok(Principal::local()),
        (None, _) => {
            return Err(Problem::new(Code::Unauthenticated).detail("send a token: Authorization: Bearer wl_…"));
        }
        (Some(value), None) => value.to_str().ok().and_then(bearer),
        (Some(_), Some(_)) => None,
    };
    let tried = match (tried, state.jwt()) {
        // A JWT begins with a header that is JSON, and `{"` is `ey` in base 64.
        (Some(text), Some(jwt)) if text.starts_with("ey") => jwt.authenticate(text).await,
        (Some(text), _) => state.tokens().authenticate(text),
        (None, _) => Err(Problem::new(Code::TokenMalformed).detail("one header is wanted: Authorization: Bearer wl_…")),
    };
    // Only failures are counted, so that nobody can lock out the holder of a good token.
    tried.or_else(|problem| state.rates().failures.take(&from).and(Err(problem)))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
