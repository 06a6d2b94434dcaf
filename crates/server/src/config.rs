//! What can be chosen about a server?
//!
//! Flags win over the environment, the environment over the file, the file over the defaults. The documentation of a
//! field is its comment in the template. Unknown keys are refused, with their place.

use crate::api;
use confique::{Config as _, Layer as _, meta};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};
use windlass_agent::config::{AgentConfig, Agents};

/// The configuration of a server.
#[derive(Clone, Debug, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Config {
    /// Where the server listens, and for whom.
    #[config(nested)]
    pub server: ServerConfig,
    /// Where sessions are kept.
    #[config(nested)]
    pub store: StoreConfig,
    /// How much clients may take.
    #[config(nested)]
    pub limits: LimitsConfig,
    /// Who is let in, besides those with tokens of this server.
    #[config(nested)]
    pub auth: AuthConfig,
    /// What the server tells of itself.
    #[config(nested)]
    pub telemetry: TelemetryConfig,
    /// Who answers: [agents.NAME] with kind = "builtin", "process", "http" and more. Keys stand in variables or files
    /// that an agent names, never here.
    #[config(default = {})]
    pub agents: BTreeMap<String, AgentConfig>,
    /// Other servers whose sessions may be written to, and may write here: [peers.NAME] with `url`, `key` (what
    /// `windlass peers id` prints there) and, for sessions of another tenant than `default`, `tenant`.
    #[config(default = {})]
    pub peers: BTreeMap<String, PeerConfig>,
    /// Connections by name, for those who call servers: `[profile.NAME]` with `url`, and `token_file` or `token`. The
    /// server itself has no use for them.
    #[serde(skip)]
    pub profile: Option<toml::Table>,
}

/// `[server]`
#[derive(Clone, Debug, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct ServerConfig {
    /// Address and port. Other addresses than loopback need a token, and TLS or `behind_proxy`.
    #[config(default = "127.0.0.1:7420")]
    pub listen: SocketAddr,
    /// A proxy in front ends TLS, and says in X-Forwarded-For who calls.
    #[config(default = false)]
    pub behind_proxy: bool,
    /// The addresses of that proxy; forwarded headers of others are ignored.
    #[config(default = ["127.0.0.1", "::1"])]
    pub trusted_proxies: Vec<IpAddr>,
    /// The certificate chain, PEM. Read again on SIGHUP.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM. Read again on SIGHUP.
    pub tls_key: Option<PathBuf>,
    /// Host names that the server answers under, besides localhost and its own address.
    #[config(default = [])]
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call the server, for example `https://console.example.com`. Its own always may.
    #[config(default = [])]
    pub allowed_origins: Vec<String>,
    /// How long runs may take to end when the server is told to.
    #[config(default = 30)]
    pub drain_seconds: Seconds,
    /// The file of the key by which other servers know this one. Made when it is first needed. Not set: peer.key beside
    /// the store's file.
    pub peer_key: Option<PathBuf>,
}

/// `[peers.NAME]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Where it is, for example `https://berlin.example.com`.
    pub url: String,
    /// Its public key: `ed25519:` and base64.
    pub key: String,
    /// Whose sessions it may write to, and be written to by.
    #[serde(default = "default_tenant")]
    pub tenant: String,
}

fn default_tenant() -> String {
    "default".to_owned()
}

/// `[store]`
#[derive(Clone, Debug, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct StoreConfig {
    /// The SQLite file. Not set: windlass.db in the folder of this user's data, ~/.local/share/windlass.
    pub path: Option<PathBuf>,
    /// The folder of blobs. Not set: blobs beside the file.
    pub blobs: Option<PathBuf>,
    /// How often blobs are forgotten that nothing names any more. Each time every journal is read.
    #[config(default = 21_600)]
    pub sweep_seconds: Seconds,
    /// How old such a blob is at least: older than an upload ever is when the input comes that names it.
    #[config(default = 86_400)]
    pub sweep_grace_seconds: Seconds,
    /// How long the store may take no commit. After that the server ends with exit code 70, for its supervisor to start it
    /// again. A full disk is no such outage.
    #[config(default = 30)]
    pub lost_seconds: Seconds,
}

/// `[limits]`
#[derive(Clone, Debug, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct LimitsConfig {
    /// How long the head of a request, or a TLS handshake, may take.
    #[config(default = 10)]
    pub header_seconds: Seconds,
    /// How long a body may take, for each mebibyte begun.
    #[config(default = 30)]
    pub body_seconds: Seconds,
    /// How long a connection may be idle.
    #[config(default = 60)]
    pub idle_seconds: Seconds,
    /// How long a client may take nothing of an answer.
    #[config(default = 30)]
    pub write_stall_seconds: Seconds,
    /// Connections at once.
    #[config(default = 4096)]
    pub connections: usize,
    /// Connections at once of one address, but for trusted proxies.
    #[config(default = 128)]
    pub connections_per_address: usize,
    /// Requests a second of one token.
    #[config(default = 100)]
    pub requests_per_second: NonZeroU32,
    /// Requests at once of a token that was quiet.
    #[config(default = 200)]
    pub requests_burst: NonZeroU32,
    /// Requests a second of one token on routes of administration.
    #[config(default = 20)]
    pub admin_requests_per_second: NonZeroU32,
    /// Wrong tokens a minute of one address.
    #[config(default = 5)]
    pub failed_auth_per_minute: NonZeroU32,
    /// Streams of events at once of one token.
    #[config(default = 64)]
    pub streams_per_token: usize,
    /// Requests that wait for an outcome at once of one token.
    #[config(default = 256)]
    pub waits_per_token: usize,
    /// Blobs that one token may upload at once.
    #[config(default = 8)]
    pub uploads_per_token: usize,
    /// Inputs that may wait in one session.
    #[config(default = 10_000)]
    pub inputs_per_session: u32,
    /// Inputs that may be open in all sessions of one tenant.
    #[config(default = 100_000)]
    pub inputs_per_tenant: u64,
    /// Sessions of one tenant.
    #[config(default = 100_000)]
    pub sessions_per_tenant: u64,
}

/// `[auth]`
#[derive(Clone, Debug, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct AuthConfig {
    /// JSON Web Tokens of this issuer are accepted; together with jwt_audience and jwt_keys.
    pub jwt_issuer: Option<String>,
    /// The audience that they must name.
    pub jwt_audience: Option<String>,
    /// Where the issuer's keys are (JWKS): an https URL or a file.
    pub jwt_keys: Option<String>,
    /// The algorithms accepted, out of EdDSA, ES256 and RS256.
    #[config(default = ["EdDSA", "ES256", "RS256"])]
    pub jwt_algorithms: Vec<String>,
    /// The claim that names the tenant. A JWT without it is refused.
    #[config(default = "tenant")]
    pub jwt_tenant_claim: String,
    /// The claim that names the scopes, a string or an array. A JWT without it may do nothing.
    #[config(default = "scope")]
    pub jwt_scope_claim: String,
}

/// `[telemetry]`
#[derive(Clone, Debug, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct TelemetryConfig {
    /// What is logged, for example "info" or "windlass_server=debug".
    #[config(default = "info")]
    pub log: String,
    /// How: "json", "text", or "auto", which is text on a terminal.
    #[config(default = "auto")]
    pub log_format: LogFormat,
    /// Where spans are sent by OTLP over HTTP, for example "http://localhost:4318"; the path is added. It wins over
    /// OTEL_EXPORTER_OTLP_ENDPOINT. Without either nothing is sent.
    pub otlp_endpoint: Option<String>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// A time in seconds; fractions are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

/// No time in a configuration is longer.
const LONGEST: f64 = 86_400.0;

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        match Duration::try_from_secs_f64(seconds) {
            Ok(duration) if (0.001..=LONGEST).contains(&seconds) => Ok(Seconds(duration)),
            _ => Err(D::Error::custom(format!("seconds between 0.001 and {LONGEST} are wanted"))),
        }
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

/// Why there is no configuration. One line, and it names the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config_unreadable: {}: {error}; name another file by --config or WINDLASS_CONFIG", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// Something in it is not what it should be.
    #[error("config_invalid: {place}: {error}; `windlass config template` shows every key")]
    Invalid {
        /// The file with line and column, the variable or the flag.
        place: String,
        /// What is wrong.
        error: String,
    },
}

/// What a configuration is put together from, besides its defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file; it must exist.
    pub file: Option<PathBuf>,
    /// Variables. Those named `WINDLASS_SECTION__KEY` count; the others are somebody else's.
    pub env: Vec<(String, String)>,
    /// Flags, as (`section.key`, text).
    pub flags: Vec<(String, String)>,
}

type ConfigLayer = <Config as confique::Config>::Layer;

impl Config {
    /// The defaults alone.
    pub fn defaults() -> Config {
        Config::from_layer(ConfigLayer::default_values()).expect("every key has a default or may be missing")
    }

    /// Puts a configuration together.
    ///
    /// ```
    /// use windlass_server::config::{Config, Sources};
    /// let env = vec![("WINDLASS_SERVER__LISTEN".to_owned(), "127.0.0.1:0".to_owned())];
    /// let config = Config::load(&Sources { env, ..Sources::default() })?;
    /// assert_eq!(config.server.listen.port(), 0);
    /// # Ok::<_, windlass_server::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] names the file's line, the variable or the flag.
    pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
        let mut values = match &sources.file {
            Some(path) => read_file(path)?,
            None => toml::Table::new(),
        };
        for (name, text) in &sources.env {
            let Some(key) = name.strip_prefix("WINDLASS_").filter(|key| key.contains("__")) else { continue };
            set(&mut values, &key.to_lowercase().replace("__", "."), text, name)?;
        }
        for (key, text) in &sources.flags {
            set(&mut values, key, text, key)?;
        }
        let layer: ConfigLayer = values.try_into().map_err(|error| invalid("the configuration", &error))?;
        let config = Config::from_layer(layer.with_fallback(ConfigLayer::default_values()))
            .map_err(|error| invalid("the configuration", &error))?;
        config.check()?;
        Ok(config)
    }

    /// What can be told to be wrong before anything is opened.
    fn check(&self) -> Result<(), ConfigError> {
        Agents::new(self.agents.clone()).map_err(|error| invalid(format!("agents.{}", error.agent), &error.problem))?;
        api::peers::remote::check(&self.peers)
            .map_err(|error| invalid(format!("peers.{}", error.peer), &error.problem))?;
        if let Some(endpoint) = &self.telemetry.otlp_endpoint {
            let invalid = |error| Err(invalid("telemetry.otlp_endpoint", &error));
            if !cfg!(feature = "otlp") {
                return invalid("this binary was built without the feature otlp");
            }
            if !endpoint.parse::<http::Uri>().is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https"))) {
                return invalid("an http or https URL is wanted");
            }
        }
        let auth = &self.auth;
        let jwt = [&auth.jwt_issuer, &auth.jwt_audience, &auth.jwt_keys];
        if jwt.iter().any(|value| value.is_some()) && jwt.iter().any(|value| value.is_none()) {
            return Err(invalid("auth", &"jwt_issuer, jwt_audience and jwt_keys are set together or not at all"));
        }
        for name in &auth.jwt_algorithms {
            if !JWT_ALGORITHMS.contains(&name.as_str()) {
                let known = JWT_ALGORITHMS.join(", ");
                return Err(invalid("auth.jwt_algorithms", &format_args!("{name} is none of {known}")));
            }
        }
        if let Some(origin) = self.server.allowed_origins.iter().find(|origin| !is_origin(origin)) {
            let detail = format_args!("{origin:?} is no origin such as \"https://console.example.com\"");
            return Err(invalid("server.allowed_origins", &detail));
        }
        if self.server.tls_cert.is_some() != self.server.tls_key.is_some() {
            return Err(invalid("server", &"tls_cert and tls_key are set together or not at all"));
        }
        Ok(())
    }

    /// Every key with its documentation and its default, as a file.
    pub fn template() -> String {
        let mut options = confique::toml::FormatOptions::default();
        options.general.env_keys = false;
        confique::toml::template::<Config>(options)
    }
}

/// The algorithms of JWTs that can be allowed: each with a public key of its own kind.
const JWT_ALGORITHMS: [&str; 3] = ["EdDSA", "ES256", "RS256"];

/// `scheme://host[:port]`, as browsers write it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, at)) = text.split_once("://") else { return false };
    matches!(scheme, "http" | "https") && !at.is_empty() && !at.contains(['/', '?', '#', '@', '*', ' '])
}

fn invalid(place: impl Into<String>, error: &dyn fmt::Display) -> ConfigError {
    ConfigError::Invalid { place: place.into(), error: error.to_string().trim().replace('\n', " ") }
}

fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error: error.to_string() })?;
    // The layer is read for its errors, which know line and column; the table is what further layers go on top of.
    let read = toml::from_str::<ConfigLayer>(&text).and_then(|_| toml::from_str::<toml::Table>(&text));
    read.map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        invalid(format!("{}:{line}:{column}", path.display()), &error.message())
    })
}

/// Sets one key from text: as text if that fits, else as TOML (a number, a list), else as a list with commas.
fn set(values: &mut toml::Table, key: &str, text: &str, place: &str) -> Result<(), ConfigError> {
    let path: Vec<&str> = key.split('.').collect();
    if !is_known(&Config::META, &path) {
        return Err(invalid(place, &"there is no such key"));
    }
    let mut candidates = vec![toml::Value::from(text)];
    candidates
        .extend(toml::from_str::<toml::Table>(&format!("v = {text}")).ok().and_then(|mut table| table.remove("v")));
    candidates.push(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect::<Vec<_>>().into());
    let mut first = None;
    for candidate in candidates {
        let mut tried = values.clone();
        put(&mut tried, &path, candidate);
        match tried.clone().try_into::<ConfigLayer>() {
            Ok(_) => {
                *values = tried;
                return Ok(());
            }
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    Err(first.map_or_else(|| invalid(place, &"no value"), |error| invalid(place, &error.message())))
}

fn put(table: &mut toml::Table, path: &[&str], value: toml::Value) {
    let [key, rest @ ..] = path else { return };
    if rest.is_empty() {
        table.insert((*key).to_owned(), value);
        return;
    }
    let below = table.entry(*key).or_insert_with(|| toml::Table::new().into());
    if let toml::Value::Table(below) = below {
        put(below, rest, value);
    }
}

fn is_known(meta: &meta::Meta, path: &[&str]) -> bool {
    let [key, rest @ ..] = path else { return false };
    meta.fields.iter().any(|field| {
        field.name == *key
            && match field.kind {
                // The two tables whose keys are names.
                meta::FieldKind::Leaf { .. } => rest.is_empty() || *key == "agents",
                meta::FieldKind::Nested { meta } => is_known(meta, rest),
            }
    })
}
