//! Is this JSON Web Token one of the issuer that is trusted?
//!
//! The algorithm comes from our list and must fit the key, never from the token alone; issuer, audience, times and key
//! id are required. Keys are kept for five minutes, so that one that the issuer withdraws ends, and fetched again when one
//! is unknown, at most once a minute. Which claims name the
//! tenant and the scopes is configured; a token without a tenant is refused.

use super::{Principal, Scopes, Tenant};
use crate::{
    config::AuthConfig,
    problem::{Code, Problem},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{Jwk, JwkSet},
};
use serde_json::{Map, Value};
use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::Instant,
};

/// Clocks may differ by so much, in seconds.
const LEEWAY: u64 = 60;
/// Keys are fetched again at most so often.
const REFRESH: Duration = Duration::from_secs(60);
/// Keys that are older are fetched again before they are believed; if that fails they stay, and it is said.
const OLD: Duration = Duration::from_secs(300);
/// How long a fetch may take.
const FETCH: Duration = Duration::from_secs(5);
/// The most bytes of a set of keys.
const KEYS_BYTES: usize = 1 << 20;

/// Why the keys of JWTs cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("jwt_keys_invalid: {place}: {error}; set auth.jwt_keys to an https URL or a file with a JWK set")]
pub struct JwtKeysError {
    place: String,
    error: String,
}

/// The issuer that is trusted.
#[derive(Debug)]
pub(crate) struct Jwt {
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
    tenant_claim: String,
    scope_claim: String,
    source: Source,
    keys: Arc<RwLock<Arc<JwkSet>>>,
    /// When they were last fetched, or tried to be. Held while they are.
    fetched: Arc<Mutex<Option<Instant>>>,
}

#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    Url(reqwest::Url, reqwest::Client),
}

impl Jwt {
    /// The issuer as it is configured; none if none is. Reads a file at once, a URL when the first token comes.
    pub(crate) fn of(config: &AuthConfig) -> Result<Option<Jwt>, JwtKeysError> {
        let (Some(issuer), Some(audience), Some(place)) = (&config.jwt_issuer, &config.jwt_audience, &config.jwt_keys)
        else {
            return Ok(None);
        };
        let invalid = |error: String| JwtKeysError { place: place.clone(), error };
        let source = match reqwest::Url::parse(place) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => {
                let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
                if url.scheme() == "http" && !local {
                    let why = "url_not_allowed: the scheme is \"http\": keys that come without TLS could be anybody's";
                    return Err(invalid(why.to_owned()));
                }
                let client = reqwest::Client::builder().timeout(FETCH).redirect(reqwest::redirect::Policy::none());
                Source::Url(url, client.build().map_err(|error| invalid(error.to_string()))?)
            }
            _ => Source::File(PathBuf::from(place)),
        };
        let keys = match &source {
            Source::File(file) => read_file(file).map_err(invalid)?,
            Source::Url(..) => JwkSet { keys: Vec::new() },
        };
        let algorithms = config.jwt_algorithms.iter().map(|name| name.parse());
        Ok(Some(Jwt {
            issuer: issuer.clone(),
            audience: audience.clone(),
            algorithms: algorithms
                .collect::<Result<_, jsonwebtoken::errors::Error>>()
                .map_err(|error| invalid(error.to_string()))?,
            tenant_claim: config.jwt_tenant_claim.clone(),
            scope_claim: config.jwt_scope_claim.clone(),
            source,
            keys: Arc::new(RwLock::new(Arc::new(keys))),
            fetched: Arc::new(Mutex::new(None)),
        }))
    }

    /// Who shows this token.
    ///
    /// # Errors
    /// `token_malformed` if it is none that can be checked, `token_expired`, otherwise `unauthenticated`.
    pub(crate) async fn authenticate(&self, text: &str) -> Result<Principal, Problem> {
        let malformed = |detail: &'static str| Problem::new(Code::TokenMalformed).detail(detail);
        let header = decode_header(text).map_err(|_| malformed("the JWT cannot be read"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(malformed("the algorithm of the JWT is not allowed here"));
        }
        let kid = header.kid.ok_or_else(|| malformed("the JWT names no key (kid)"))?;
        // Whoever comes while they are fetched goes by those that are known.
        if let Ok(fetched) = Arc::clone(&self.fetched).try_lock_owned() {
            self.refresh(fetched, OLD).await;
        }
        let key = match self.key(&kid) {
            Some(key) => Some(key),
            None => {
                self.refresh(Arc::clone(&self.fetched).lock_owned().await, REFRESH).await;
                self.key(&kid)
            }
        };
        let refused = |detail: &'static str| Problem::new(Code::Unauthenticated).detail(detail);
        let key = key.ok_or_else(|| refused("the key of the JWT is not one of the issuer's"))?;
        let key = DecodingKey::from_jwk(&key).map_err(|_| refused("the key of the JWT cannot be used"))?;
        if key.family() != family(header.alg) {
            return Err(refused("the algorithm of the JWT does not fit its key"));
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<Map<String, Value>>(text, &key, &validation).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => {
                Problem::new(Code::TokenExpired).detail("the JWT has expired; get a new one")
            }
            ErrorKind::ImmatureSignature => refused("the JWT is not valid yet"),
            ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience | ErrorKind::MissingRequiredClaim(_) => {
                refused("issuer, audience, subject or times of the JWT are not those wanted here")
            }
            _ => refused("the JWT is not signed by its issuer"),
        })?;
        self.principal(&claims.claims)
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, Problem> {
        let refused = |detail: &'static str| Problem::new(Code::Unauthenticated).detail(detail);
        let tenant = claims.get(&self.tenant_claim).and_then(Value::as_str).and_then(Tenant::parse);
        let tenant = tenant.ok_or_else(|| refused("the JWT names no tenant"))?;
        let subject = claims.get("sub").and_then(Value::as_str).ok_or_else(|| refused("the JWT names no subject"))?;
        let words: Vec<&str> = match claims.get(&self.scope_claim) {
            Some(Value::String(words)) => words.split(' ').collect(),
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        // Issuers grant scopes of others too; what is not ours is nothing here. There is no wildcard for strangers.
        let ours = words.into_iter().filter(|word| *word != "*");
        let scopes = ours.filter_map(|word| word.parse::<Scopes>().ok()).flat_map(Scopes::iter).collect();
        Ok(Principal { tenant, token: None, subject: Some(subject.into()), scopes, prefix: None })
    }

    fn key(&self, kid: &str) -> Option<Jwk> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).find(kid).cloned()
    }

    /// Fetches the keys again, unless that was done within this time. If it fails, those that are known stay.
    async fn refresh(&self, mut fetched: OwnedMutexGuard<Option<Instant>>, within: Duration) {
        if fetched.is_some_and(|at| at.elapsed() < within) {
            return;
        }
        let (source, known) = (self.source.clone(), Arc::clone(&self.keys));
        // To its end, also if the caller goes away: nobody else would fetch them for a while.
        let fetching = tokio::spawn(async move {
            *fetched = Some(Instant::now());
            let keys = match &source {
                Source::File(file) => read_file(file),
                Source::Url(url, client) => fetch(client, url).await,
            };
            match keys {
                Ok(keys) => *known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys),
                Err(error) => {
                    tracing::warn!(%error, "the keys of JWTs could not be fetched; those that are known stay");
                }
            }
        });
        // An error says that the runtime ends.
        drop(fetching.await);
    }
}

fn family(algorithm: Algorithm) -> jsonwebtoken::AlgorithmFamily {
    match algorithm {
        Algorithm::EdDSA => jsonwebtoken::AlgorithmFamily::Ed,
        Algorithm::ES256 | Algorithm::ES384 => jsonwebtoken::AlgorithmFamily::Ec,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => jsonwebtoken::AlgorithmFamily::Hmac,
        _ => jsonwebtoken::AlgorithmFamily::Rsa,
    }
}

fn read_file(file: &std::path::Path) -> Result<JwkSet, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

async fn fetch(client: &reqwest::Client, url: &reqwest::Url) -> Result<JwkSet, String> {
    let answer = client.get(url.clone()).send().await.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(|error| error.without_url().to_string())?;
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        text.extend_from_slice(&chunk);
        if text.len() > KEYS_BYTES {
            return Err(format!("more than {KEYS_BYTES} bytes of keys"));
        }
    }
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Routes, auth::Scope, config::Config, testing::TestServer};
    use base64::{Engine, engine::general_purpose::STANDARD};
    use futures_util::future::join_all;
    use http::{Method, StatusCode, header};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;
    use std::{sync::Mutex as StdMutex, time::SystemTime};

    // Two Ed25519 keys that sign nothing but these tests.
    const FIRST: (&str, &str) = (
        "MC4CAQAwBQYDK2VwBCIEIHp+Y5GE9kJeLW3EypXkwTZam1WeCZofwuZr7dtrGIt+",
        "FvgOQYPeWOR67K2BtO7h6OhcoIQ4fjIGd2vyP50O6A4",
    );
    const SECOND: (&str, &str) = (
        "MC4CAQAwBQYDK2VwBCIEIHeKAfZdpMvk8oeyPFDHYusAtfnzSnDKDe2aymCWzOuh",
        "0aCSVFEDC0QK4kxY2XTyQWXMwDcRhdBcV6TC0INYClw",
    );

    fn jwk(kid: &str, key: (&str, &str)) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": key.1})
    }

    fn issuer(keys: &str) -> Jwt {
        let mut config = Config::defaults().auth;
        config.jwt_issuer = Some("https://issuer.example".into());
        config.jwt_audience = Some("windlass".into());
        config.jwt_keys = Some(keys.to_owned());
        Jwt::of(&config).expect("a good configuration").expect("an issuer")
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
    }

    fn claims() -> Value {
        json!({
            "iss": "https://issuer.example", "aud": "windlass", "sub": "ada", "exp": now() + 300, "nbf": now() - 10,
            "tenant": "acme", "scope": "openid inputs:write *",
        })
    }

    fn signed(kid: Option<&str>, key: (&str, &str), claims: &Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = kid.map(str::to_owned);
        encode(&header, claims, &EncodingKey::from_ed_der(&STANDARD.decode(key.0).unwrap())).expect("a signature")
    }

    #[tokio::test]
    async fn only_what_the_issuer_signed_for_us_and_for_now_is_let_in() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, json!({"keys": [jwk("a", FIRST)]}).to_string()).unwrap();
        let issuer = issuer(file.path().to_str().unwrap());

        let ada = issuer.authenticate(&signed(Some("a"), FIRST, &claims())).await.expect("a good token");
        assert_eq!((ada.tenant.as_str(), ada.subject.as_deref()), ("acme", Some("ada")));
        assert_eq!(ada.scopes.iter().collect::<Vec<_>>(), [Scope::InputsWrite], "no wildcard, nothing of others");

        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            signed(Some("a"), FIRST, &claims)
        };
        let without = |name: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            signed(Some("a"), FIRST, &claims)
        };
        // Signed with the text of the public key as a secret, which is known to everybody.
        let mut confused = Header::new(Algorithm::HS256);
        confused.kid = Some("a".into());
        let confused = encode(&confused, &claims(), &EncodingKey::from_secret(FIRST.1.as_bytes())).unwrap();
        let body = signed(Some("a"), FIRST, &claims()).split('.').nth(1).unwrap().to_owned();
        let none = format!("eyJhbGciOiJub25lIiwia2lkIjoiYSJ9.{body}.");
        for (token, code) in [
            (with("iss", json!("https://other.example")), Code::Unauthenticated),
            (with("aud", json!("other")), Code::Unauthenticated),
            (with("exp", json!(now() - 61)), Code::TokenExpired),
            (with("nbf", json!(now() + 120)), Code::Unauthenticated),
            (with("tenant", json!("../acme")), Code::Unauthenticated),
            (without("tenant"), Code::Unauthenticated),
            (without("exp"), Code::Unauthenticated),
            (without("aud"), Code::Unauthenticated),
            (without("sub"), Code::Unauthenticated),
            (signed(None, FIRST, &claims()), Code::TokenMalformed),
            (signed(Some("a"), SECOND, &claims()), Code::Unauthenticated),
            (signed(Some("b"), SECOND, &claims()), Code::Unauthenticated),
            (confused, Code::TokenMalformed),
            (none, Code::TokenMalformed),
            ("eyJ".to_owned(), Code::TokenMalformed),
        ] {
            let refused = issuer.authenticate(&token).await.expect_err(&token);
            assert_eq!(refused.code(), code, "{token}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_is_fetched_when_it_is_first_met_but_not_for_every_stranger() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, json!({"keys": [jwk("a", FIRST)]}).to_string()).unwrap();
        let issuer = issuer(file.path().to_str().unwrap());
        let stranger = signed(Some("b"), SECOND, &claims());
        assert!(issuer.authenticate(&stranger).await.is_err());

        std::fs::write(&file, json!({"keys": [jwk("b", SECOND)]}).to_string()).unwrap();
        assert!(issuer.authenticate(&stranger).await.is_err(), "keys were fetched a moment ago");
        tokio::time::advance(REFRESH).await;
        assert!(issuer.authenticate(&stranger).await.is_ok());
        assert!(issuer.authenticate(&signed(Some("a"), FIRST, &claims())).await.is_err(), "the old key is gone");

        // One that is withdrawn ends, although nobody shows a new one.
        std::fs::write(&file, json!({"keys": [jwk("a", FIRST)]}).to_string()).unwrap();
        assert!(issuer.authenticate(&stranger).await.is_ok(), "keys are believed for a while");
        tokio::time::advance(OLD).await;
        assert!(issuer.authenticate(&stranger).await.is_err());
        std::fs::write(&file, json!({"keys": [jwk("b", SECOND)]}).to_string()).unwrap();
        tokio::time::advance(REFRESH).await;
        assert!(issuer.authenticate(&stranger).await.is_ok());

        // What cannot be read leaves what is known.
        std::fs::write(&file, "not JSON").unwrap();
        tokio::time::advance(REFRESH).await;
        assert!(issuer.authenticate(&signed(Some("c"), FIRST, &claims())).await.is_err());
        assert!(issuer.authenticate(&stranger).await.is_ok());
    }

    async fn a_minute_later(issuer: &Jwt) {
        *issuer.fetched.lock().await = None;
    }

    #[tokio::test]
    async fn keys_rotate_at_their_address_and_strangers_do_not_make_us_ask_for_each() {
        let set = |keys: &[Value]| (StatusCode::OK, json!({ "keys": keys }).to_string());
        let answer = Arc::new(StdMutex::new((0, set(&[jwk("a", FIRST)]))));
        let keys = {
            let answer = Arc::clone(&answer);
            move || {
                let mut answer = answer.lock().unwrap();
                answer.0 += 1;
                std::future::ready((answer.1.0, [(header::LOCATION, "/elsewhere")], answer.1.1.clone()))
            }
        };
        let routes = |routes: Routes| routes.route(Method::GET, "/keys", Scope::Public, keys);
        let server = TestServer::with(TestServer::builder(TestServer::config()).routes(routes)).await;
        let issuer = issuer(&format!("{}/keys", server.server().url()));
        let knows = async |kid: &str, key| issuer.authenticate(&signed(Some(kid), key, &claims())).await.is_ok();
        assert!(knows("a", FIRST).await, "the first token fetches the keys");
        assert_eq!(join_all((0..20).map(|_| knows("b", SECOND))).await, [false; 20]);
        assert_eq!(answer.lock().unwrap().0, 1, "they were fetched a moment ago");

        answer.lock().unwrap().1 = set(&[jwk("a", FIRST), jwk("b", SECOND)]);
        a_minute_later(&issuer).await;
        let second = join_all((0..20).map(|_| knows("b", SECOND))).await;
        assert_eq!(second, [true; 20], "who comes while they are fetched waits for them");
        assert!(knows("a", FIRST).await, "both are good while they overlap");
        assert_eq!(answer.lock().unwrap().0, 2);

        // What is no set of keys leaves those that are known.
        for (nth, wrong) in [
            (StatusCode::FOUND, String::new()),
            (StatusCode::INTERNAL_SERVER_ERROR, set(&[]).1),
            (StatusCode::OK, "no keys".to_owned()),
            (StatusCode::OK, format!("{}{}", set(&[]).1, " ".repeat(KEYS_BYTES))),
        ]
        .into_iter()
        .enumerate()
        {
            answer.lock().unwrap().1 = wrong;
            a_minute_later(&issuer).await;
            assert!(!knows("c", FIRST).await);
            assert!(knows("a", FIRST).await && knows("b", SECOND).await, "wrong answer {nth}");
            assert_eq!(answer.lock().unwrap().0, 3 + nth);
        }

        answer.lock().unwrap().1 = set(&[jwk("b", SECOND)]);
        a_minute_later(&issuer).await;
        assert!(!knows("c", FIRST).await && !knows("a", FIRST).await, "the old key is withdrawn");
        assert!(knows("b", SECOND).await);
    }
}
