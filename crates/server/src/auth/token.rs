//! Which tokens are there, and is this one of them?
//!
//! A token is `wl_<id>_<secret>`: the id is public and names it, the secret is 32 random bytes of which the store keeps
//! the hash. Secrets are random, so a fast hash is enough. All tokens are in memory; this process is the only one that
//! writes the store, so what is in memory is what there is.

use super::{
    principal::{Principal, Tenant},
    scope::Scopes,
};
use crate::problem::{Code, Problem};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};
use subtle::ConstantTimeEq;
use windlass_api::TokenView;
use windlass_core::Timestamp;
use windlass_runtime::{Clock, documents::Documents};

/// The kind under which tokens are documents of the store.
const KIND: &str = "token";
/// So many tokens there may be. Those that are over make room for new ones.
pub const TOKENS: usize = 10_000;
/// How much later a use must be than the one noted, to be noted.
const USE_NOTED_AFTER_US: i64 = 10 * 60 * 1_000_000;

/// The public part of a token: names it in lists, logs and revocations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(String);

impl TokenId {
    /// The id of this text, if it can be one.
    pub fn parse(text: &str) -> Option<TokenId> {
        (text.len() == ID_CHARS && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
            .then(|| TokenId(text.to_owned()))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sixteen characters of base 32 are eighty random bits.
const ID_CHARS: usize = 16;

/// A token as the store keeps it. No secret is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    hash: String,
    tenant: String,
    scopes: Scopes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Timestamp>,
}

impl Stored {
    fn is_over(&self, now: Timestamp) -> bool {
        self.revoked_at.is_some() || self.expires_at.is_some_and(|end| end <= now)
    }
}

/// What a new token is to be.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// For people.
    pub name: Option<String>,
    /// Whose sessions it sees.
    pub tenant: Tenant,
    /// What it may do.
    pub scopes: Scopes,
    /// It may only name sessions whose name begins so.
    pub prefix: Option<String>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// A token as it is listed.
#[derive(Clone, Debug)]
pub struct TokenRow {
    /// Its public part.
    pub id: TokenId,
    /// For people.
    pub name: Option<String>,
    /// Whose sessions it sees.
    pub tenant: Tenant,
    /// What it may do.
    pub scopes: Scopes,
    /// It may only name sessions whose name begins so.
    pub prefix: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, give or take ten minutes.
    pub last_used_at: Option<Timestamp>,
}

impl From<TokenRow> for TokenView {
    fn from(row: TokenRow) -> TokenView {
        TokenView {
            id: row.id.to_string(),
            name: row.name,
            tenant: row.tenant.to_string(),
            scopes: row.scopes.iter().map(|scope| scope.to_string()).collect(),
            session_prefix: row.prefix,
            created_at: row.created_at.into(),
            expires_at: row.expires_at.map(Into::into),
            revoked_at: row.revoked_at.map(Into::into),
            last_used_at: row.last_used_at.map(Into::into),
        }
    }
}

struct Known {
    stored: Stored,
    hash: [u8; 32],
    principal: Principal,
    /// In microseconds; zero: never.
    used: AtomicI64,
}

/// The tokens of a store.
pub struct Tokens {
    documents: Arc<dyn Documents>,
    clock: Arc<dyn Clock>,
    known: RwLock<BTreeMap<TokenId, Arc<Known>>>,
    /// One change at a time, so that memory and store agree.
    changing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("known", &self.read().len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads every token of a store.
    ///
    /// # Errors
    /// As for a read of the store; `store_corrupt` if one is none.
    pub async fn load(documents: Arc<dyn Documents>, clock: Arc<dyn Clock>) -> Result<Tokens, Problem> {
        let mut known = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = documents.list(KIND, after.as_deref(), 1_000).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for document in page {
                let broken =
                    || Problem::new(Code::StoreCorrupt).detail(format!("token {} is unreadable", document.key));
                let id = TokenId::parse(&document.key).ok_or_else(broken)?;
                let stored: Stored = serde_json::from_value(document.body.clone()).map_err(|_| broken())?;
                let token = Known::of(&id, stored).ok_or_else(broken)?;
                known.insert(id, Arc::new(token));
            }
        }
        Ok(Tokens { documents, clock, known: RwLock::new(known), changing: tokio::sync::Mutex::new(()) })
    }

    /// Whether there never was any. As long as that is so, a local caller needs none; revoking the last one does not
    /// open the door again.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Makes a token. The text is shown this once and kept nowhere.
    ///
    /// # Errors
    /// `schema_violation` for administration bound to a prefix; `quota_exceeded` beyond [`TOKENS`]; otherwise as for a
    /// write of the store.
    pub async fn create(&self, new: NewToken) -> Result<(TokenRow, SecretString), Problem> {
        if new.prefix.is_some() && new.scopes != new.scopes.without_administration() {
            let detail = "administration is of a whole tenant: name other scopes, or leave out session_prefix";
            return Err(Problem::at(Code::SchemaViolation, "/scopes".into(), detail));
        }
        let _changing = self.changing.lock().await;
        let now = self.clock.now();
        if self.read().len() >= TOKENS {
            let over = self.read().iter().find(|(_, known)| known.stored.is_over(now)).map(|(id, _)| id.clone());
            let full = || Problem::new(Code::QuotaExceeded).detail(format!("{TOKENS} tokens are in use; revoke some"));
            let over = over.ok_or_else(full)?;
            self.documents.delete(KIND, &over.0).await?;
            self.write().remove(&over);
        }
        let secret = random()?;
        let id = TokenId(base32(&random()?[..ID_CHARS]));
        let stored = Stored {
            hash: blake3::hash(&secret).to_hex().to_string(),
            tenant: new.tenant.as_str().to_owned(),
            scopes: new.scopes,
            name: new.name,
            prefix: new.prefix,
            created_at: now,
            expires_at: new.expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        let known = Known::of(&id, stored).ok_or_else(|| Problem::internal("a new token cannot be read back"))?;
        self.documents.put(KIND, &id.0, known.document()?, Some(0)).await?;
        let row = known.row(&id);
        let text = SecretString::from(format!("wl_{id}_{}", URL_SAFE_NO_PAD.encode(secret)));
        self.write().insert(id, Arc::new(known));
        Ok((row, text))
    }

    /// The tokens of a tenant (all, without one), by id, after this one.
    pub fn list(&self, tenant: Option<&Tenant>, after: Option<&TokenId>, limit: usize) -> Vec<TokenRow> {
        let known = self.read();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        known
            .range::<TokenId, _>((from, std::ops::Bound::Unbounded))
            .map(|(id, token)| token.row(id))
            .filter(|row| tenant.is_none_or(|tenant| row.tenant == *tenant))
            .take(limit)
            .collect()
    }

    /// One token.
    pub fn get(&self, id: &TokenId) -> Option<TokenRow> {
        self.read().get(id).map(|token| token.row(id))
    }

    /// Ends a token, durably and at once. Idempotent. Answers whether there is one.
    ///
    /// # Errors
    /// As for a write of the store; the token then still works.
    pub async fn revoke(&self, id: &TokenId) -> Result<bool, Problem> {
        let _changing = self.changing.lock().await;
        let Some(known) = self.read().get(id).cloned() else { return Ok(false) };
        if known.stored.revoked_at.is_none() {
            let stored = Stored { revoked_at: Some(self.clock.now()), ..known.stored.clone() };
            self.replace(id, &known, stored).await?;
        }
        Ok(true)
    }

    /// Who shows this token.
    ///
    /// # Errors
    /// `token_malformed`; `unauthenticated` if there is none such; `token_expired`, `token_revoked` only to whoever
    /// knows the secret.
    pub fn authenticate(&self, text: &str) -> Result<Principal, Problem> {
        let malformed = || Problem::new(Code::TokenMalformed).detail("a token reads wl_<id>_<secret>; copy it whole");
        let (id, secret) = text.strip_prefix("wl_").and_then(|rest| rest.split_once('_')).ok_or_else(malformed)?;
        let id = TokenId::parse(id).ok_or_else(malformed)?;
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| malformed())?;
        if secret.len() != 32 {
            return Err(malformed());
        }
        let known = self.read().get(&id).cloned();
        // As much work for a token that is not there as for one that is.
        let hash = known.as_ref().map_or([0; 32], |known| known.hash);
        let fits = bool::from(blake3::hash(&secret).as_bytes().ct_eq(&hash));
        let Some(known) = known.filter(|_| fits) else {
            return Err(
                Problem::new(Code::Unauthenticated).detail("there is no such token; make one, or copy it again")
            );
        };
        let now = self.clock.now();
        if known.stored.revoked_at.is_some() {
            return Err(Problem::new(Code::TokenRevoked).detail("the token was revoked; use another one"));
        }
        if known.stored.expires_at.is_some_and(|end| end <= now) {
            return Err(Problem::new(Code::TokenExpired).detail("the token has expired; make a new one"));
        }
        known.used.fetch_max(now.as_micros(), Ordering::Relaxed);
        Ok(known.principal.clone())
    }

    /// Notes when tokens were last used, where that has changed by more than ten minutes. Answers how many.
    ///
    /// # Errors
    /// As for a write of the store; what is not noted is noted next time.
    pub async fn note_uses(&self) -> Result<usize, Problem> {
        let _changing = self.changing.lock().await;
        let known: Vec<_> = self.read().iter().map(|(id, known)| (id.clone(), Arc::clone(known))).collect();
        let mut noted = 0;
        for (id, known) in known {
            let used = known.used.load(Ordering::Relaxed);
            let before = known.stored.last_used_at.map_or(0, Timestamp::as_micros);
            if used - before >= USE_NOTED_AFTER_US {
                let stored = Stored { last_used_at: Some(Timestamp::from_micros(used)), ..known.stored.clone() };
                self.replace(&id, &known, stored).await?;
                noted += 1;
            }
        }
        Ok(noted)
    }

    async fn replace(&self, id: &TokenId, known: &Known, stored: Stored) -> Result<(), Problem> {
        let next = Known::of(id, stored).ok_or_else(|| Problem::internal("a changed token cannot be read back"))?;
        next.used.fetch_max(known.used.load(Ordering::Relaxed), Ordering::Relaxed);
        self.documents.put(KIND, &id.0, next.document()?, None).await?;
        self.write().insert(id.clone(), Arc::new(next));
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<TokenId, Arc<Known>>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<TokenId, Arc<Known>>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// None if it cannot be one.
    fn of(id: &TokenId, stored: Stored) -> Option<Known> {
        let hash = blake3::Hash::from_hex(&stored.hash).ok()?;
        let principal = Principal {
            tenant: Tenant::parse(&stored.tenant)?,
            token: Some(id.clone()),
            subject: None,
            // One that was made before this was refused.
            scopes: if stored.prefix.is_some() { stored.scopes.without_administration() } else { stored.scopes },
            prefix: stored.prefix.as_deref().map(Arc::from),
        };
        let used = AtomicI64::new(stored.last_used_at.map_or(0, Timestamp::as_micros));
        Some(Known { hash: *hash.as_bytes(), principal, used, stored })
    }

    fn document(&self) -> Result<serde_json::Value, Problem> {
        serde_json::to_value(&self.stored).map_err(Problem::internal)
    }

    fn row(&self, id: &TokenId) -> TokenRow {
        let used = self.used.load(Ordering::Relaxed);
        TokenRow {
            id: id.clone(),
            name: self.stored.name.clone(),
            tenant: self.principal.tenant.clone(),
            scopes: self.stored.scopes,
            prefix: self.stored.prefix.clone(),
            created_at: self.stored.created_at,
            expires_at: self.stored.expires_at,
            revoked_at: self.stored.revoked_at,
            last_used_at: (used > 0).then(|| Timestamp::from_micros(used)),
        }
    }
}

/// Thirty-two bytes that nobody can guess.
pub(crate) fn random() -> Result<[u8; 32], Problem> {
    let mut bytes = [0; 32];
    let source = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    source.fill(&mut bytes).map_err(|_| Problem::internal("the source of randomness failed"))?;
    Ok(bytes)
}

fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    bytes.iter().map(|byte| DIGITS[usize::from(byte & 31)] as char).collect()
}
