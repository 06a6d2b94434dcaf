//! How are tokens made, listed and revoked over HTTP?

use super::{
    principal::{Principal, Tenant},
    scope::{Scope, Scopes},
    token::{NewToken, TokenId, TokenRow},
};
use crate::{
    api::{PageQuery, page_limit},
    json::{StrictJson, StrictQuery},
    page::Listed,
    problem::{Code, Problem},
    routes::Routes,
    state::AppState,
};
use axum::{
    Json,
    extract::{Path, State},
    response::IntoResponse,
};
use http::{Method, StatusCode, header};
use secrecy::ExposeSecret;
use std::time::Duration;
use windlass_api::{CreateToken, CreatedToken, Page, TokenView};
use windlass_runtime::{Clock, SystemClock};

/// No token holds longer: ten years.
const LONGEST: u64 = 315_360_000;

/// The routes of tokens.
pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route(Method::POST, "/v1/tokens", Scope::TokensAdmin, create)
        .route(Method::GET, "/v1/tokens", Scope::TokensAdmin, list)
        .route(Method::DELETE, "/v1/tokens/{token}", Scope::TokensAdmin, revoke)
}

async fn create(
    State(state): State<AppState>,
    caller: Principal,
    StrictJson(wanted): StrictJson<CreateToken>,
) -> Result<impl IntoResponse, Problem> {
    let new = new_token(&caller, wanted, caller.is_local())?;
    let tokens = state.clone();
    let (row, token) = state.to_its_end(async move { tokens.tokens().create(new).await }).await?;
    tracing::info!(id = %row.id, tenant = %row.tenant, "a token was made");
    let place = format!("/v1/tokens/{}", row.id);
    let created = CreatedToken { token: token.expose_secret().to_owned(), view: row.into() };
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(created)))
}

impl NewToken {
    /// What is asked for by whoever has the store itself in hand; `first` if there is no token yet.
    ///
    /// # Errors
    /// `schema_violation` with the field, as over HTTP.
    pub fn of_operator(wanted: CreateToken, first: bool) -> Result<NewToken, Problem> {
        new_token(&Principal::local(), wanted, first)
    }
}

/// The most scopes that are named at once.
const SCOPES: usize = 64;

/// What is asked for, where the caller may give it: nobody gives what he does not have.
fn new_token(caller: &Principal, wanted: CreateToken, first: bool) -> Result<NewToken, Problem> {
    let wrong = |field: &str, detail: &str| Problem::at(Code::SchemaViolation, format!("/{field}"), detail);
    let tenant = match &wanted.tenant {
        None => caller.tenant.clone(),
        Some(name) => Tenant::parse(name).ok_or_else(|| wrong("tenant", "1 to 64 of A-Z a-z 0-9 _ - are wanted"))?,
    };
    if tenant != caller.tenant {
        caller.may(Scope::TenantAdmin)?;
    }
    if wanted.scopes.len() > SCOPES || wanted.scopes.iter().any(|scope| scope.contains(char::is_whitespace)) {
        return Err(wrong("scopes", &format!("at most {SCOPES} scopes are wanted, each by itself")));
    }
    let scopes: Scopes = wanted.scopes.join(" ").parse().map_err(|error| wrong("scopes", &format!("{error}")))?;
    if scopes.is_empty() {
        return Err(wrong("scopes", "a token without a scope can do nothing; name at least one"));
    }
    if first && !scopes.allows(Scope::TokensAdmin) {
        return Err(wrong("scopes", "the first token needs tokens:admin: from then on nobody makes tokens without it"));
    }
    if !caller.scopes.covers(scopes) {
        return Err(Problem::new(Code::ForbiddenScope).detail("a token cannot make one that may do more than itself"));
    }
    if wanted.name.as_ref().is_some_and(|name| name.chars().count() > 200) {
        return Err(wrong("name", "at most 200 characters are kept"));
    }
    if let Some(prefix) = &wanted.session_prefix
        && Tenant::parse(prefix).is_none()
    {
        return Err(wrong("session_prefix", "1 to 64 of A-Z a-z 0-9 _ - are wanted"));
    }
    let expires_at = match wanted.expires_in {
        None => None,
        Some(seconds @ 1..=LONGEST) => Some(SystemClock.now() + Duration::from_secs(seconds)),
        Some(_) => return Err(wrong("expires_in", &format!("1 to {LONGEST} seconds are wanted"))),
    };
    Ok(NewToken { name: wanted.name, tenant, scopes, prefix: wanted.session_prefix, expires_at })
}

async fn list(
    State(state): State<AppState>,
    caller: Principal,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Listed<Page<TokenView>>, Problem> {
    let limit = page_limit(query.limit)? as usize;
    let after = match &query.cursor {
        None => None,
        Some(text) => Some(TokenId::parse(text).ok_or_else(|| Problem::new(Code::InvalidCursor).parameter("cursor"))?),
    };
    let tenant = (!caller.scopes.allows(Scope::TenantAdmin)).then_some(&caller.tenant);
    let mut rows = state.tokens().list(tenant, after.as_ref(), limit + 1);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
    Ok(Listed(Page { items: rows.into_iter().map(TokenView::from).collect(), next_cursor }))
}

async fn revoke(
    State(state): State<AppState>,
    caller: Principal,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = TokenId::parse(&id).ok_or_else(|| Problem::new(Code::InvalidId).detail("no token has such an id"))?;
    // Another tenant's token is as good as none.
    let seen = |row: TokenRow| row.tenant == caller.tenant || caller.scopes.allows(Scope::TenantAdmin);
    if !state.tokens().get(&id).is_some_and(seen) {
        return Err(Problem::new(Code::NotFound).detail("no such token"));
    }
    let (tokens, revoked) = (state.clone(), id.clone());
    state.to_its_end(async move { tokens.tokens().revoke(&revoked).await }).await?;
    tracing::info!(%id, "a token was revoked");
    Ok(StatusCode::NO_CONTENT)
}
