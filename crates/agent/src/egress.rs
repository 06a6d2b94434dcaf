//! Where may an agent connect to?
//!
//! Addresses that a model, a tool or a config file names are not trusted: `http://169.254.169.254/` hands out the
//! credentials of a cloud machine. [`Egress`] gives a client that reaches public addresses only. What makes it hold:
//!
//! - The name is resolved by the resolver that judges, and the addresses judged are the ones dialled. A second look-up
//!   could be answered differently.
//! - One denied address among the answers refuses the name: the dialler might choose it.
//! - Addresses written into the URL never reach a resolver, so [`Egress::check`] judges them; [`Egress::request`] does
//!   both.
//! - Redirects are not followed, proxies of the environment are ignored, the scheme is https and the port 443 or 8443.
//!
//! Hosts on the list of [`EgressRules::allow`] are let through as they are: for local development, and for services
//! inside that somebody named on purpose.

use reqwest::{
    Client, Method, RequestBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// How long a connection may take to stand, name and TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// The ports of hosts that are not on the list.
const PORTS: [u16; 2] = [443, 8443];
/// The longest name that DNS knows.
const HOST_LIMIT: usize = 253;

/// Which hosts are let through beside the public ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressRules {
    /// These hosts are reached whatever their address, over http too; with a port, on no other.
    pub allow: Vec<AllowedHost>,
}

impl EgressRules {
    /// Whether a URL may be connected to, as far as the URL itself tells.
    ///
    /// # Errors
    /// [`UrlNotAllowed`] says what about it.
    pub fn check(&self, url: &Url) -> Result<(), UrlNotAllowed> {
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(UrlNotAllowed::NoHost)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlNotAllowed::Credentials);
        }
        let port = url.port_or_known_default().unwrap_or(0);
        let named = |allowed: &AllowedHost| {
            allowed.host == host.trim_end_matches('.') && allowed.port.is_none_or(|only| only == port)
        };
        if self.allow.iter().any(named) && matches!(url.scheme(), "http" | "https") {
            return Ok(());
        }
        if url.scheme() != "https" {
            return Err(UrlNotAllowed::Scheme { scheme: url.scheme().to_owned() });
        }
        // The resolver lets every host on the list through, and knows no port.
        let is_listed = self.allow.iter().any(|allowed| allowed.host == host.trim_end_matches('.'));
        if is_listed || !PORTS.contains(&port) {
            return Err(UrlNotAllowed::Port { port });
        }
        let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        match literal.and_then(|address| Some((address, denied(address)?))) {
            Some((address, range)) => Err(UrlNotAllowed::Address { host: host.to_owned(), address, range }),
            None => Ok(()),
        }
    }
}

/// A host that somebody allowed by name or address, with all its ports or one: `localhost`, `127.0.0.1:8080`,
/// `[::1]:8080`.
///
/// ```
/// let host: windlass_agent::AllowedHost = "localhost:11434".parse().unwrap();
/// assert_eq!(host.to_string(), "localhost:11434");
/// assert!("http://localhost".parse::<windlass_agent::AllowedHost>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowedHost {
    /// As a URL shows it: lower case, IPv6 in brackets.
    host: String,
    /// None: every port.
    port: Option<u16>,
}

/// What was written is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host. Write a name or address, with a port if only one is meant: \"localhost:8080\"")]
pub struct NotAHost(String);

impl FromStr for AllowedHost {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<AllowedHost, NotAHost> {
        let wrong = || NotAHost(text.chars().take(HOST_LIMIT).collect());
        // The URL's own parser, so that both sides of the later comparison are written alike.
        let url = Url::parse(&format!("http://{text}/")).map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str().filter(|_| bare && url.username().is_empty() && url.password().is_none());
        let host = host.ok_or_else(wrong)?.trim_end_matches('.').to_owned();
        // A URL hides the port that is usual for its scheme.
        let port = match url.port() {
            None if text.ends_with(":80") => Some(80),
            port => port,
        };
        Ok(AllowedHost { host, port })
    }
}

impl TryFrom<String> for AllowedHost {
    type Error = NotAHost;

    fn try_from(text: String) -> Result<AllowedHost, NotAHost> {
        text.parse()
    }
}

impl From<AllowedHost> for String {
    fn from(host: AllowedHost) -> String {
        host.to_string()
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// Why a URL is not connected to. Its code is `url_not_allowed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlNotAllowed {
    /// Not https.
    #[error("url_not_allowed: the scheme is {scheme:?}, only https is allowed")]
    Scheme {
        /// What it is.
        scheme: String,
    },
    /// Not a usual port, or of a host that was allowed with another one.
    #[error("url_not_allowed: port {port} is not allowed, only 443 and 8443 are; of an allowed host, those allowed")]
    Port {
        /// What it is.
        port: u16,
    },
    /// The address is not a public one.
    #[error("url_not_allowed: {host} is at {address}, which is {range}; allow the host by name if that is meant")]
    Address {
        /// The host of the URL.
        host: String,
        /// What it stands for.
        address: IpAddr,
        /// What the address is for.
        range: &'static str,
    },
    /// It holds a user or a password.
    #[error("url_not_allowed: a URL must not hold a user or password; send credentials in a header")]
    Credentials,
    /// It names no host.
    #[error("url_not_allowed: there is no host in it")]
    NoHost,
}

/// A client that connects to public addresses, and to hosts that were allowed. Cheap to clone.
///
/// ```
/// # use windlass_agent::{Egress, EgressRules, UrlNotAllowed};
/// let egress = Egress::new(EgressRules::default())?;
/// let url = "https://169.254.169.254/latest/meta-data/".parse()?;
/// assert!(matches!(egress.check(&url), Err(UrlNotAllowed::Address { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Egress {
    rules: Arc<EgressRules>,
    client: Client,
}

impl Egress {
    /// A client under these rules.
    ///
    /// # Errors
    /// [`reqwest::Error`] if there is no usable TLS here, for example no root certificates.
    pub fn new(rules: EgressRules) -> Result<Egress, reqwest::Error> {
        Egress::with_lookup(rules, Arc::new(System))
    }

    fn with_lookup(rules: EgressRules, lookup: Arc<dyn Lookup>) -> Result<Egress, reqwest::Error> {
        let rules = Arc::new(rules);
        let client = Client::builder()
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
            .https_only(rules.allow.is_empty())
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT)
            .dns_resolver(Resolver { rules: Arc::clone(&rules), lookup })
            .build()?;
        Ok(Egress { rules, client })
    }

    /// The client. Call [`Egress::check`] for every URL that it is given: an address written into a URL reaches no
    /// resolver.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A request to a URL that is allowed.
    ///
    /// # Errors
    /// As for [`Egress::check`].
    pub fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, UrlNotAllowed> {
        self.check(&url)?;
        Ok(self.client.request(method, url))
    }

    /// As [`EgressRules::check`]; what the name resolves to is judged when it is dialled, and refused then as an error
    /// that [`Egress::refusal`] finds.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, url: &Url) -> Result<(), UrlNotAllowed> {
        self.rules.check(url)
    }

    /// The refusal inside a client's error, if it was refused because of what a name resolved to.
    pub fn refusal(error: &reqwest::Error) -> Option<&UrlNotAllowed> {
        let mut source = error.source();
        while let Some(error) = source {
            if let Some(refused) = error.downcast_ref() {
                return Some(refused);
            }
            source = error.source();
        }
        None
    }
}

/// Resolves and judges; what it returns is what is dialled.
struct Resolver {
    rules: Arc<EgressRules>,
    lookup: Arc<dyn Lookup>,
}

type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

trait Lookup: Send + Sync {
    fn look_up(&self, name: String) -> Found;
}

/// The resolver of the operating system.
struct System;

impl Lookup for System {
    fn look_up(&self, name: String) -> Found {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
        let found = self.lookup.look_up(name.as_str().to_owned());
        // Which port is meant is not known here; it was judged with the URL.
        let is_allowed = self.rules.allow.iter().any(|allowed| allowed.host == host);
        Box::pin(async move {
            let found = found.await?;
            let refused = found.iter().find_map(|socket| Some((socket.ip(), denied(socket.ip())?)));
            match refused {
                Some((address, range)) if !is_allowed => Err(UrlNotAllowed::Address { host, address, range }.into()),
                _ => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// What an address that must not be reached is for; none: it is public.
fn denied(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => denied_v4(address),
        IpAddr::V6(address) => denied_v6(address),
    }
}

/// The registry of special addresses: RFC 6890 and what IANA added to it.
fn denied_v4(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, ..] => "this network (0.0.0.0/8)",
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => "a private network",
        [100, 64..=127, ..] => "a carrier's network (100.64.0.0/10)",
        [127, ..] => "this machine",
        [169, 254, ..] => "a link-local address, where clouds keep their metadata",
        [192, 0, 0, _] | [192, 88, 99, _] => "reserved for protocols",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "for documentation",
        [198, 18..=19, ..] => "for benchmarks (198.18.0.0/15)",
        [224..=239, ..] => "multicast",
        [240..=255, ..] => "reserved (240.0.0.0/4)",
        _ => return None,
    })
}

fn denied_v6(address: Ipv6Addr) -> Option<&'static str> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "no address",
        [0, 0, 0, 0, 0, 0, 0, 1] => "this machine",
        [0, 0, 0, 0, 0, 0xffff | 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => "IPv4 in disguise",
        // The translator of an IPv6-only network: what is reached is the address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            return denied_v4(Ipv4Addr::new(a, b, c, d));
        }
        [0x2001, 0, ..] => "a Teredo tunnel (2001::/32)",
        [0x2001, 1..=0x1ff, ..] => "reserved for protocols (2001::/23)",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "for documentation",
        [0x2002, ..] => "a 6to4 tunnel (2002::/16)",
        [0x2000..=0x3fff, ..] => return None,
        [0xfc00..=0xfdff, ..] => "a private network (fc00::/7)",
        [0xfe80..=0xfebf, ..] => "a link-local address (fe80::/10)",
        [0xff00..=0xffff, ..] => "multicast",
        _ => "no global unicast address",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    fn egress(allow: &[&str]) -> Egress {
        let allow = allow.iter().map(|host| host.parse().expect("a host")).collect();
        Egress::new(EgressRules { allow }).expect("TLS is there")
    }

    fn refused(egress: &Egress, url: &str) -> &'static str {
        match egress.check(&Url::parse(url).expect(url)) {
            Ok(()) => "allowed",
            Err(UrlNotAllowed::Scheme { .. }) => "scheme",
            Err(UrlNotAllowed::Port { .. }) => "port",
            Err(UrlNotAllowed::Address { .. }) => "address",
            Err(UrlNotAllowed::Credentials) => "credentials",
            Err(UrlNotAllowed::NoHost) => "no host",
        }
    }

    /// Answers each name with what the test says.
    struct Answers(Vec<IpAddr>);

    impl Lookup for Answers {
        fn look_up(&self, _: String) -> Found {
            let found = self.0.iter().map(|address| SocketAddr::new(*address, 0)).collect();
            Box::pin(async move { Ok(found) })
        }
    }

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        (listener, port)
    }

    #[test]
    fn only_public_addresses_are_reached() {
        let public = ["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "169.253.1.1"];
        let public_v6 = ["2606:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888", "64:ff9b::808:808"];
        for address in public.iter().chain(&public_v6) {
            assert_eq!(denied(address.parse().expect(address)), None, "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(denied(address.parse().expect(address)).is_some(), "{address}");
        }
    }

    #[test]
    fn urls_that_have_got_past_others_are_refused() {
        let strict = egress(&[]);
        for (url, expected) in [
            ("https://example.com/", "allowed"),
            ("https://example.com:8443/hook?x=1", "allowed"),
            ("https://8.8.8.8/", "allowed"),
            ("http://example.com/", "scheme"),
            ("ftp://example.com/", "scheme"),
            ("file:///etc/passwd", "no host"),
            ("gopher://example.com/", "scheme"),
            ("https://example.com:22/", "port"),
            ("https://example.com:80/", "port"),
            ("https://me:secret@example.com/", "credentials"),
            ("https://example.com@127.0.0.1/", "credentials"),
            // The same machine, written in other ways.
            ("https://127.0.0.1/", "address"),
            ("https://127.1/", "address"),
            ("https://2130706433/", "address"),
            ("https://0x7f000001/", "address"),
            ("https://017700000001/", "address"),
            ("https://0x7f.0.0.1/", "address"),
            ("https://①②⑦.0.0.1/", "address"),
            ("https://127.0.0.1./", "address"),
            ("https://[::1]/", "address"),
            ("https://[::ffff:7f00:1]/", "address"),
            ("https://[::ffff:169.254.169.254]/", "address"),
            ("https://[64:ff9b::a9fe:a9fe]/", "address"),
            ("https://[fe80::1]/", "address"),
            ("https://0/", "address"),
            ("https://169.254.169.254/latest/meta-data/", "address"),
            ("https://[fd00:ec2::254]/latest/meta-data/", "address"),
            ("https://100.100.100.200/latest/meta-data/", "address"),
        ] {
            assert_eq!(refused(&strict, url), expected, "{url}");
        }
    }

    #[test]
    fn an_allowed_host_is_allowed_on_the_ports_that_were_said() {
        let local = egress(&["localhost:8080", "127.0.0.1", "[::1]:80", "Inside.Example"]);
        for (url, expected) in [
            ("http://localhost:8080/", "allowed"),
            ("http://LOCALHOST.:8080/", "allowed"),
            ("https://localhost:8080/", "allowed"),
            ("http://localhost:8081/", "scheme"),
            ("https://localhost/", "port"),
            ("https://localhost.:8443/", "port"),
            ("http://127.0.0.1:5/", "allowed"),
            ("http://127.0.0.2:5/", "scheme"),
            ("http://[::1]/", "allowed"),
            ("http://[::1]:81/", "scheme"),
            ("https://inside.example:22/", "allowed"),
            ("ftp://127.0.0.1/", "scheme"),
            ("https://evil.inside.example:22/", "port"),
            ("http://me@127.0.0.1:5/", "credentials"),
        ] {
            assert_eq!(refused(&local, url), expected, "{url}");
        }
        for wrong in ["", "a b", "http://localhost", "localhost/path", "me@localhost", "localhost:99999", "a?b"] {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn one_denied_address_refuses_the_name_before_anything_is_dialled() {
        let (listener, port) = listener().await;
        let answers = vec!["8.8.8.8".parse().expect("public"), "127.0.0.1".parse().expect("ours")];
        // The allowed host only lets http through, so that a mistake would be seen without TLS.
        let rules = EgressRules { allow: vec!["other.example".parse().expect("a host")] };
        let guarded = Egress::with_lookup(rules, Arc::new(Answers(answers))).expect("TLS is there");
        let url = format!("http://rebound.example:{port}/");
        let error = guarded.client().get(url).send().await.expect_err("it must not connect");
        let Some(UrlNotAllowed::Address { address, .. }) = Egress::refusal(&error) else { panic!("{error:?}") };
        assert_eq!(*address, IpAddr::from([127, 0, 0, 1]));
        let nobody = futures_util::FutureExt::now_or_never(listener.accept());
        assert!(nobody.is_none(), "somebody connected");
    }

    #[tokio::test]
    async fn an_allowed_host_is_reached_and_its_redirect_is_not_followed() {
        let (listener, port) = listener().await;
        let rules = EgressRules { allow: vec![format!("dev.example:{port}").parse().expect("a host")] };
        let answers = Answers(vec![IpAddr::from([127, 0, 0, 1])]);
        let egress = Egress::with_lookup(rules, Arc::new(answers)).expect("TLS is there");
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.expect("a request");
            let answer = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.expect("it reads");
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let url = format!("http://dev.example:{port}/hook").parse().expect("a URL");
        let response = egress.request(Method::GET, url).expect("allowed").send().await.expect("an answer");
        assert_eq!(response.status(), 302);
        assert!(served.await.expect("it served").starts_with("GET /hook HTTP/1.1"));
    }
}
