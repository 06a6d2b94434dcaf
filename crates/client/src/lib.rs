//! How does a program talk to a Windlass server?
//!
//! [`Client`] has a call for every route of the API, with the types of [`windlass_api`]. It repeats what may be repeated
//! without harm, and nothing else: reads, inputs sent with a key (it makes one if you give none), and calls of which
//! nothing was sent. Two things are more than calls:
//!
//! - [`Client::send_and_wait`] ends with the input's own outcome, over lost connections and restarts of the server;
//! - [`Client::events`] follows sessions and resumes where it was.
//!
//! ```no_run
//! # async fn example() -> Result<(), windlass_client::ClientError> {
//! use std::time::Duration;
//! use windlass_client::{Client, SendInput};
//!
//! let client = Client::builder("http://127.0.0.1:7420").build()?;
//! let done = client.send_and_wait("demo", &SendInput::prompt("hello"), Duration::from_secs(60)).await?;
//! println!("{}", done.completion.text.unwrap_or_default());
//! # Ok(())
//! # }
//! ```
//!
//! Every future may be dropped at any time. What it asked for may happen all the same; a key tells.
#![forbid(unsafe_code)]

mod error;
mod events;
mod http;
mod routes;
mod send;

pub use error::ClientError;
pub use events::{Event, EventStream, Follow};
pub use routes::{InputFilter, Paging, SessionFilter, Tag};
pub use secrecy::{ExposeSecret, SecretString};
pub use send::{Answer, SendInput};
/// What the server and its clients say to each other.
pub use windlass_api as api;

use reqwest::Url;
use std::{sync::Arc, time::Duration};

/// Where a server listens unless it is told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7420";

/// A connection to one server, as one principal. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
    retry_for: Duration,
}

/// What can be chosen about a client.
#[derive(Clone, Debug)]
pub struct Builder {
    url: String,
    token: Option<SecretString>,
    retry_for: Duration,
    connect_timeout: Duration,
}

impl Builder {
    /// The token that says who asks. Without one, only a server that has none listens, and only on this machine.
    #[must_use]
    pub fn token(mut self, token: SecretString) -> Builder {
        self.token = Some(token);
        self
    }

    /// How long a call that may be repeated is repeated; 2 s unless said. Zero: one attempt.
    #[must_use]
    pub fn retry_for(mut self, time: Duration) -> Builder {
        self.retry_for = time;
        self
    }

    /// How long a connection may take to come about; 5 s unless said.
    #[must_use]
    pub fn connect_timeout(mut self, time: Duration) -> Builder {
        self.connect_timeout = time;
        self
    }

    /// The client. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError::Settings`] if the address is no `http` or `https` URL, or if a token would cross a network in the
    /// clear.
    pub fn build(self) -> Result<Client, ClientError> {
        let refuse = |detail: String| ClientError::Settings(format!("{}: {detail}", self.url));
        let mut base = Url::parse(&self.url).map_err(|error| refuse(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(refuse("not an http or https URL; for example http://127.0.0.1:7420".into()));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(ClientError::Settings("a URL is no place for secrets; give the token apart".into()));
        }
        base.set_query(None);
        base.set_fragment(None);
        let here = is_loopback(&base);
        if base.scheme() == "http" && self.token.is_some() && !here {
            return Err(refuse("a token goes to another machine only by https".into()));
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("windlass-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            // An API redirects nobody; a token must not follow where a proxy points.
            .redirect(reqwest::redirect::Policy::none());
        if here {
            // A proxy cannot reach what listens on this machine alone.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| refuse(error.to_string()))?;
        Ok(Client(Arc::new(Inner { http, base, token: self.token, retry_for: self.retry_for })))
    }
}

impl Client {
    /// Chooses a server by its address, for example [`DEFAULT_URL`].
    pub fn builder(url: impl Into<String>) -> Builder {
        let (retry_for, connect_timeout) = (Duration::from_secs(2), Duration::from_secs(5));
        Builder { url: url.into(), token: None, retry_for, connect_timeout }
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        self.0.base.as_str().trim_end_matches('/')
    }

    fn base(&self) -> &Url {
        &self.0.base
    }

    fn http(&self) -> &reqwest::Client {
        &self.0.http
    }

    fn token(&self) -> Option<&SecretString> {
        self.0.token.as_ref()
    }

    fn retry_for(&self) -> Duration {
        self.0.retry_for
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_before_a_token_is_given_to_it() {
        for (url, token, accepted) in [
            (DEFAULT_URL, true, true),
            ("http://localhost:1/prefix/", true, true),
            ("http://[::1]:7420", true, true),
            ("https://windlass.example", true, true),
            ("http://windlass.example", false, true),
            ("http://windlass.example", true, false),
            ("http://127.0.0.1.example", true, false),
            ("http://me:secret@127.0.0.1", false, false),
            ("127.0.0.1:7420", false, false),
            ("ftp://127.0.0.1", false, false),
            ("", false, false),
        ] {
            let mut builder = Client::builder(url);
            if token {
                builder = builder.token("wl_x".into());
            }
            let built = builder.build();
            assert_eq!(built.is_ok(), accepted, "{url}, token: {token}");
            if let Err(error) = built {
                assert_eq!((error.code(), error.exit_code()), ("settings", 78));
                assert!(!error.to_string().contains("wl_x"), "{error}");
            }
        }
    }
}
