//! What is checked of every request, before any route, and what is true of every response?
//!
//! Sizes of head and URI, the host it is addressed to, the page it comes from. A panic is answered with `internal`;
//! every error is a problem with the request's id; nothing of a query or a header is logged.

use crate::{
    config::ServerConfig,
    limits::{HEADER_BYTES, HEADERS, Paced, URI_BYTES},
    problem::{Code, Problem},
    state::AppState,
    telemetry::Metrics,
    trace,
};
use axum::{Router, body::Body, extract::Request, response::Response};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use hyper::body::Incoming;
use std::{convert::Infallible, net::IpAddr, panic::AssertUnwindSafe, time::Instant};
use tower::ServiceExt;
use tracing::Instrument;

/// The address that a request comes from: of the connection, or what a trusted proxy says.
#[derive(Clone, Copy, Debug)]
pub struct ClientIp(pub IpAddr);

/// The id under which the log knows a request; the client hears it as `X-Request-Id`.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// The route that a response comes from, for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouteName(pub(crate) &'static str);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The routes behind their guard: what a connection calls.
#[derive(Clone)]
pub(crate) struct Guard {
    state: AppState,
    router: Router,
    hosts: std::sync::Arc<[String]>,
}

impl Guard {
    pub(crate) fn new(state: AppState, router: Router) -> Guard {
        let server = &state.config().server;
        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
        if !server.listen.ip().is_unspecified() {
            hosts.push(match server.listen.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            });
        }
        hosts.extend(server.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()));
        Guard { hosts: hosts.into(), state, router }
    }

    /// Where is counted what comes to the guard, and what does not get as far.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.state.metrics()
    }

    /// Answers one request, whatever it is.
    pub(crate) async fn call(self, peer: IpAddr, request: http::Request<Incoming>) -> Result<Response, Infallible> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let id = request_id(&parts.headers);
        let method = parts.method.clone();
        let empty = tracing::field::Empty;
        let span = tracing::info_span!("request", %method, id, route = empty, trace_id = empty);
        if let Some(trace) = trace::of(&parts.headers) {
            span.record("trace_id", tracing::field::display(trace.trace_id_hex()));
        }
        let origin = parts.headers.get(header::ORIGIN).cloned();
        let mut response = self.answer(peer, parts, body, &id).instrument(span.clone()).await;
        as_problem(&mut response, &id);
        let route = response.extensions().get::<RouteName>().map_or("none", |route| route.0);
        let status = response.status().as_u16();
        let took = started.elapsed();
        self.metrics().request(&method, route, status, took);
        span.in_scope(|| {
            tracing::debug!(route, status, took_us = took.as_micros() as u64, "answered");
        });
        self.decorate(response.headers_mut(), &id, origin);
        Ok(response)
    }

    async fn answer(&self, peer: IpAddr, mut parts: Parts, body: Incoming, id: &str) -> Response {
        use axum::response::IntoResponse;
        let server = &self.state.config().server;
        let allowed = match self.check(&parts) {
            Ok(allowed) => allowed,
            Err(problem) => return problem.into_response(),
        };
        if allowed == Origin::Preflight {
            return preflight();
        }
        let from = client_ip(server, peer, &parts.headers);
        parts.extensions.insert(ClientIp(from));
        parts.extensions.insert(RequestId(id.to_owned()));
        parts.extensions.insert(self.state.clone());
        let body = Body::new(Paced::new(body, self.state.config().limits.body_seconds.0));
        let call = self.router.clone().oneshot(Request::from_parts(parts, body));
        match AssertUnwindSafe(call).catch_unwind().await {
            Ok(Ok(response)) => response,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
                Problem::internal(format_args!("a handler panicked: {text}")).into_response()
            }
        }
    }

    fn check(&self, parts: &Parts) -> Result<Origin, Problem> {
        if uri_bytes(&parts.uri) > URI_BYTES {
            return Err(Problem::new(Code::UriTooLong)
                .detail(format!("at most {URI_BYTES} bytes are taken"))
                .limit(URI_BYTES as u64));
        }
        let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if parts.headers.len() > HEADERS || bytes > HEADER_BYTES {
            return Err(Problem::new(Code::HeadersTooLarge)
                .detail(format!("at most {HEADERS} headers with {HEADER_BYTES} bytes in all are taken"))
                .limit(if parts.headers.len() > HEADERS { HEADERS } else { HEADER_BYTES } as u64));
        }
        let host = self.host(parts)?;
        self.origin(parts, &host)
    }

    /// The host that the request is addressed to, in lower case and with its port.
    fn host(&self, parts: &Parts) -> Result<String, Problem> {
        let invalid = || Problem::new(Code::InvalidHeader).detail("one header Host is wanted");
        let mut named = parts.headers.get_all(header::HOST).iter();
        let header = match (named.next(), named.next()) {
            (Some(host), None) => Some(host.to_str().map_err(|_| invalid())?.to_ascii_lowercase()),
            (None, _) => None,
            (Some(_), Some(_)) => return Err(invalid()),
        };
        let authority = parts.uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
        let host = match (header, authority) {
            (Some(header), Some(authority)) if header != authority => return Err(invalid()),
            (Some(host), _) | (None, Some(host)) => host,
            (None, None) => return Err(invalid()),
        };
        let name = without_port(&host);
        if !self.hosts.iter().any(|allowed| allowed == name) {
            return Err(
                Problem::new(Code::HostNotAllowed).detail("the operator can allow the name: server.allowed_hosts")
            );
        }
        Ok(host)
    }

    fn origin(&self, parts: &Parts, host: &str) -> Result<Origin, Problem> {
        let mut origins = parts.headers.get_all(header::ORIGIN).iter();
        let (origin, more) = (origins.next(), origins.next());
        let Some(origin) = origin else { return Ok(Origin::None) };
        let text = origin.to_str().unwrap_or("null");
        let own = text
            .split_once("://")
            .is_some_and(|(scheme, at)| matches!(scheme, "http" | "https") && at.eq_ignore_ascii_case(host));
        let listed = self.state.config().server.allowed_origins.iter().any(|allowed| allowed == text);
        if more.is_some() || !(own || listed) {
            return Err(Problem::new(Code::OriginNotAllowed)
                .detail("the operator can allow the origin: server.allowed_origins"));
        }
        let asks = parts.method == Method::OPTIONS && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Ok(if asks { Origin::Preflight } else { Origin::Allowed })
    }

    /// What every response says.
    fn decorate(&self, headers: &mut HeaderMap, id: &str, origin: Option<HeaderValue>) {
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert(REQUEST_ID, id);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        let server = &self.state.config().server;
        if server.tls_cert.is_some() {
            let year = HeaderValue::from_static("max-age=31536000");
            headers.insert(header::STRICT_TRANSPORT_SECURITY, year);
        }
        let listed = |origin: &HeaderValue| server.allowed_origins.iter().any(|allowed| allowed == origin);
        if let Some(origin) = origin.filter(listed) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
        if !server.allowed_origins.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

/// What a page may send, and read.
const EXPOSED: &str = "ETag, Link, Location, Preference-Applied, Retry-After, Traceresponse, X-Request-Id";
const TAKEN: &str = "Authorization, Content-Digest, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, \
                     Prefer, Traceparent, X-Request-Id";

/// Where a request comes from, of the pages of a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    None,
    Allowed,
    Preflight,
}

fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(TAKEN));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// The id that the client chose, where it can be one; otherwise a new one.
fn request_id(headers: &HeaderMap) -> String {
    let chosen = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let fits = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    chosen.filter(fits).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

fn uri_bytes(uri: &Uri) -> usize {
    uri.path_and_query().map_or(0, |rest| rest.as_str().len()) + uri.authority().map_or(0, |host| host.as_str().len())
}

/// `host` of `host:port`, `[::1]` of `[::1]:port`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Who calls: what a trusted proxy says, from the right past all trusted ones; else the connection's own address.
fn client_ip(server: &ServerConfig, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !server.behind_proxy || !server.trusted_proxies.contains(&peer) {
        return peer;
    }
    let hops: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|hops| hops.to_str().ok())
        .flat_map(|hops| hops.split(','))
        .collect();
    let hops = hops.iter().rev().map_while(|hop| hop.trim().parse::<IpAddr>().ok());
    let mut furthest = peer;
    for hop in hops {
        furthest = hop;
        if !server.trusted_proxies.contains(&hop) {
            break;
        }
    }
    furthest
}

/// Gives every error the body of a problem, with the request's id. Handlers answer with [`Problem`]; what the
/// framework refuses by itself is worded here.
fn as_problem(response: &mut Response, id: &str) {
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if response.status().is_client_error() || response.status().is_server_error() => {
            if response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "application/problem+json") {
                return;
            }
            Problem::new(match response.status() {
                StatusCode::BAD_REQUEST => Code::InvalidId,
                StatusCode::NOT_FOUND => Code::NotFound,
                StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
                StatusCode::NOT_ACCEPTABLE => Code::NotAcceptable,
                StatusCode::PAYLOAD_TOO_LARGE => Code::PayloadTooLarge,
                StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
                StatusCode::UNPROCESSABLE_ENTITY => Code::SchemaViolation,
                _ => Code::Internal,
            })
        }
        None => return,
    };
    let fresh = problem.respond(id);
    let (fresh, body) = fresh.into_parts();
    *response.status_mut() = fresh.status;
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().extend(fresh.headers);
    *response.body_mut() = body;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_loses_its_port_only() {
        for (host, name) in [
            ("localhost:7420", "localhost"),
            ("localhost", "localhost"),
            ("[::1]:7420", "[::1]"),
            ("[::1]", "[::1]"),
            ("evil.example:80@localhost", "evil.example:80@localhost"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        let mut config = crate::config::Config::defaults().server;
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, HeaderValue::from_static("6.6.6.6, 1.2.3.4, 127.0.0.1"));
        assert_eq!(client_ip(&config, ip("127.0.0.1"), &headers), ip("127.0.0.1"));
        config.behind_proxy = true;
        assert_eq!(client_ip(&config, ip("127.0.0.1"), &headers), ip("1.2.3.4"));
        assert_eq!(client_ip(&config, ip("9.9.9.9"), &headers), ip("9.9.9.9"));
        headers.insert(FORWARDED_FOR, HeaderValue::from_static("garbage"));
        assert_eq!(client_ip(&config, ip("127.0.0.1"), &headers), ip("127.0.0.1"));
    }
}
