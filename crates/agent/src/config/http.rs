//! What can be said of an endpoint that is an agent?

use super::keys::either;
use crate::{AllowedHost, Egress, EgressRules, Endpoint, HttpExecutor, WebhookSecret};
use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// An agent that is an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where runs are posted: https, port 443 or 8443, a public address, unless `allow` says otherwise.
    pub url: String,
    /// Where it is told that a run was cancelled. Default: nowhere, the connection is closed.
    #[serde(default)]
    pub cancel_url: Option<String>,
    /// Where it is told what came in while a run is on, when it asks by the event `checkpoint`. Default: nowhere, it
    /// waits for the next run.
    #[serde(default)]
    pub steer_url: Option<String>,
    /// So many of the session's last boundaries are told with each run, at most 1 MiB of them. Default: 0.
    #[serde(default)]
    pub history: usize,
    /// The variable that holds the key that requests are signed with (`whsec_…`), or two with a space between while one
    /// is being replaced. Where it is not set, the file that `NAME_FILE` names is read.
    #[serde(default)]
    pub secret_env: Option<String>,
    /// The file that holds them.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The variable that holds the token sent as `Authorization: Bearer`; or the file that `NAME_FILE` names.
    #[serde(default)]
    pub token_env: Option<String>,
    /// The file that holds it.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Headers sent with each request. No secrets: this file is shown.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Hosts that may be reached although they are not public, or over http: `localhost:8080`.
    #[serde(default)]
    pub allow: Vec<AllowedHost>,
    /// How long one run may take, in seconds. Default: 600.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// How long nothing may come, in seconds. Default: 120.
    #[serde(default)]
    pub idle_seconds: Option<u64>,
    /// The largest answer, or event of a stream, in bytes. Default: 1 MiB.
    #[serde(default)]
    pub answer_limit: Option<usize>,
}

impl HttpConfig {
    pub(super) fn summary(&self) -> String {
        // Without query and credentials, which may be secrets.
        let shown = Url::parse(&self.url).ok().and_then(|url| {
            let port = url.port().map_or(String::new(), |port| format!(":{port}"));
            Some(format!("{}://{}{port}{}", url.scheme(), url.host_str()?, url.path()))
        });
        let is_signed = self.secret_env.is_some() || self.secret_file.is_some();
        let signed = if is_signed { "signed" } else { "unsigned" };
        format!("posts to {}, {signed}", shown.as_deref().unwrap_or("an address that is none"))
    }

    fn rules(&self) -> EgressRules {
        EgressRules { allow: self.allow.clone() }
    }

    fn url(&self, setting: &str, text: &str) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("{setting} is no URL: {error}"))?;
        let hint = "https to a public address is allowed, and hosts that allow names: allow = [\"localhost:8080\"]";
        self.rules().check(&url).map_err(|refused| format!("{setting}: {refused}; {hint}"))?;
        Ok(url)
    }

    /// The endpoint without its keys.
    pub(super) fn endpoint(&self) -> Result<Endpoint, String> {
        let mut endpoint = Endpoint::new(self.url("url", &self.url)?);
        endpoint.cancel_url = self.cancel_url.as_deref().map(|text| self.url("cancel_url", text)).transpose()?;
        endpoint.steer_url = self.steer_url.as_deref().map(|text| self.url("steer_url", text)).transpose()?;
        endpoint.history = self.history;
        for (name, value) in &self.headers {
            let wrong = |what: &str| format!("headers.{name}: {what}");
            let header: HeaderName = name.parse().map_err(|_| wrong("not the name of a header"))?;
            if header == AUTHORIZATION {
                return Err(wrong("a secret does not belong into this file; use token_env or token_file"));
            }
            endpoint.headers.insert(header, value.parse().map_err(|_| wrong("not the value of a header"))?);
        }
        for (setting, count) in [("timeout_seconds", self.timeout_seconds), ("idle_seconds", self.idle_seconds)] {
            if count == Some(0) {
                return Err(format!("{setting} is 0; it is at least 1"));
            }
        }
        endpoint.time_limit = self.timeout_seconds.map_or(Endpoint::TIME_LIMIT, Duration::from_secs);
        endpoint.idle = self.idle_seconds.map_or(Endpoint::IDLE, Duration::from_secs);
        endpoint.answer_limit = self.answer_limit.unwrap_or(Endpoint::ANSWER_LIMIT);
        Ok(endpoint)
    }

    /// The endpoint, with what is shown to it.
    pub(super) fn with_keys(&self) -> Result<Endpoint, String> {
        let mut endpoint = self.endpoint()?;
        if let Some(secrets) = either(self.secret_env.as_deref(), self.secret_file.as_deref(), "secret")? {
            let keys = secrets.expose_secret().split_whitespace();
            endpoint.secrets = keys
                .map(|key| key.parse::<WebhookSecret>().map_err(|error| format!("secret: {error}")))
                .collect::<Result<_, _>>()?;
            if !(1..=2).contains(&endpoint.secrets.len()) {
                return Err(format!("secret: there are {} keys; there is one, or two", endpoint.secrets.len()));
            }
        }
        if let Some(token) = either(self.token_env.as_deref(), self.token_file.as_deref(), "token")? {
            bearer(&mut endpoint.headers, token.expose_secret())?;
        }
        Ok(endpoint)
    }

    pub(super) fn executor(&self) -> Result<HttpExecutor, String> {
        let endpoint = self.with_keys()?;
        let egress = Egress::new(self.rules()).map_err(|error| format!("there is no TLS here: {error}"))?;
        HttpExecutor::new(endpoint, egress).map_err(|refused| refused.to_string())
    }
}

fn bearer(headers: &mut HeaderMap, token: &str) -> Result<(), String> {
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| "token: it holds characters that a header cannot".to_owned())?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(())
}
