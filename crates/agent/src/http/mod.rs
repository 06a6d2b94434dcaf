//! How does an endpoint somewhere else run a session's turns?
//!
//! Each attempt is one POST of the run, signed as Standard Webhooks say; the answer is a JSON object or a stream of
//! events, which may commit boundaries on the way. docs/guide/http-agents.md describes it for those who write endpoints.
//!
//! | what happens | what becomes of the attempt |
//! |---|---|
//! | 200 or 201 with an answer; 204 | completed; 204 and `{}`: without result |
//! | 200 with an empty body; a stream that ends without a result | retryable, `executor_protocol_error` |
//! | 200 with what is no answer: another type, no JSON, no UTF-8; another 2xx | final, `executor_protocol_error` |
//! | an answer, or one event, larger than allowed | final, `result_too_large` |
//! | event `failed` | as it says: `executor_failed` or `executor_refused` |
//! | 3xx; 4xx but for those below | final, `executor_refused` |
//! | 408, 409, 425, 429, 5xx | retryable, `executor_failed`, not before `Retry-After` |
//! | 410 | final, `executor_gone`; the endpoint is not asked again, unless by [`HttpExecutor::ask_again`] |
//! | no name, no connection, no TLS, a connection that breaks | retryable, `executor_unreachable` |
//! | nothing comes for the idle time; longer than the time limit | retryable, `executor_timed_out` |
//! | the name is that of an address inside | final, `url_not_allowed` |
//! | run cancelled, or longer than the time limit | the connection is closed and the cancel URL told of the attempt; nothing that still comes is taken |
//! | event `checkpoint` | what came in meanwhile is posted to the steering URL; if that is not taken, as for a run |
//!
//! While the endpoint is waited for, the attempt shows that it is alive: how long it may be silent is the idle time's to say.
//! Secrets that it is sent are hidden where it is quoted.

mod answer;
mod history;
mod sign;

pub use sign::{NotASecret, WebhookSecret};

use crate::{
    alive::alive,
    egress::{Egress, UrlNotAllowed},
    exchange::{Minutes, listed, told},
    secrets::given::hidden_in,
};
use answer::{accepted, read, silent, unreachable_endpoint};
use async_trait::async_trait;
use history::History;
use reqwest::{
    Method, RequestBuilder, Response, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};
use windlass_core::SessionId;
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, Turn};

/// The version of the request. It changes when an endpoint of before would no longer understand it.
const PROTOCOL: u32 = 1;
/// How long the cancel URL may take. Below the runtime's grace time.
const CANCELLING: Duration = Duration::from_secs(2);

/// An endpoint, and the bounds it answers in.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where runs are posted.
    pub url: Url,
    /// Where it is told that an attempt was given up, beside the connection being closed.
    pub cancel_url: Option<Url>,
    /// Where it is told what came in while a run is on, when it asks by the event `checkpoint`. Without it the endpoint
    /// is not steered, and what comes in waits for the next run.
    pub steer_url: Option<Url>,
    /// So many of the session's last boundaries are told with each run; 0: none. At most 1 MiB of them.
    pub history: usize,
    /// What requests are signed with: none, one, or two while one is being replaced.
    pub secrets: Vec<WebhookSecret>,
    /// Sent with each request. Those marked as sensitive are hidden where errors quote the endpoint.
    pub headers: HeaderMap,
    /// The largest answer, or event of a stream, in bytes.
    pub answer_limit: usize,
    /// How long one attempt may take in all.
    pub time_limit: Duration,
    /// How long nothing may come, neither the beginning of an answer nor more of it.
    pub idle: Duration,
}

impl Endpoint {
    /// As for programs: what is larger belongs elsewhere.
    pub const ANSWER_LIMIT: usize = 1 << 20;
    /// Long enough for an agent with several steps.
    pub const TIME_LIMIT: Duration = Duration::from_secs(600);
    /// Long enough for one step.
    pub const IDLE: Duration = Duration::from_secs(120);

    /// An endpoint with the default bounds and no secret.
    pub fn new(url: Url) -> Endpoint {
        Endpoint {
            url,
            cancel_url: None,
            steer_url: None,
            history: 0,
            secrets: Vec::new(),
            headers: HeaderMap::new(),
            answer_limit: Endpoint::ANSWER_LIMIT,
            time_limit: Endpoint::TIME_LIMIT,
            idle: Endpoint::IDLE,
        }
    }
}

/// Runs each attempt by posting it to an endpoint.
#[derive(Debug)]
pub struct HttpExecutor {
    endpoint: Endpoint,
    egress: Egress,
    history: Option<History>,
    is_gone: AtomicBool,
    secrets: Vec<SecretString>,
}

impl HttpExecutor {
    /// An executor that posts to this endpoint, through this way out.
    ///
    /// # Errors
    /// [`UrlNotAllowed`] if one of its URLs is refused as it is written.
    pub fn new(endpoint: Endpoint, egress: Egress) -> Result<HttpExecutor, UrlNotAllowed> {
        egress.check(&endpoint.url)?;
        for url in [&endpoint.cancel_url, &endpoint.steer_url].into_iter().flatten() {
            egress.check(url)?;
        }
        let history = (endpoint.history > 0).then(|| History::new(endpoint.history));
        let secrets = secrets(&endpoint.headers);
        Ok(HttpExecutor { endpoint, egress, history, is_gone: AtomicBool::new(false), secrets })
    }

    /// Asks the endpoint with the next run, also if it has said that it is gone.
    pub fn ask_again(&self) {
        self.is_gone.store(false, Ordering::Relaxed);
    }

    /// A signed request.
    fn post(&self, url: &Url, id: &str, body: &Value) -> Result<RequestBuilder, CoreExecutorError> {
        let body = serde_json::to_vec(body).expect("text and numbers are always JSON");
        let request = self.egress.request(Method::POST, url.clone());
        let mut request = request.map_err(|refused| CoreExecutorError::fatal(refused.to_string()))?;
        request = request.headers(self.endpoint.headers.clone());
        request = request.header(CONTENT_TYPE, "application/json");
        request = request.header(ACCEPT, "application/json, text/event-stream");
        for (name, value) in sign::headers(&self.endpoint.secrets, id, SystemTime::now(), &body) {
            request = request.header(name, value);
        }
        Ok(request.body(body))
    }

    async fn call(&self, turn: &Turn, id: &str, body: &Value) -> Result<CoreApplyOutput, CoreExecutorError> {
        let mut request = self.post(&self.endpoint.url, id, body)?;
        if let Some(trace) = turn.trace() {
            request = request.header("traceparent", trace.to_string());
        }
        let response = self.send(request).await?;
        if answer::class(response.status()) == answer::Class::Gone {
            self.is_gone.store(true, Ordering::Relaxed);
        }
        read(self, turn, id, response).await
    }

    /// The beginning of the answer to a request.
    async fn send(&self, request: RequestBuilder) -> Result<Response, CoreExecutorError> {
        match tokio::time::timeout(self.endpoint.idle, request.send()).await {
            Ok(response) => response.map_err(|error| unreachable_endpoint(&error)),
            Err(_) => Err(silent(&self.endpoint)),
        }
    }

    /// Tells the endpoint what has come in, at its checkpoint of this number; nothing too, for it waits.
    async fn steer(&self, turn: &Turn, id: &str, number: u32, minutes: &mut Minutes) -> Result<(), CoreExecutorError> {
        let Some(url) = &self.endpoint.steer_url else { return Ok(()) };
        let steering = turn.checkpoint().await?;
        minutes.hear(&steering);
        let body = json!({
            "type": "steer",
            "protocol": PROTOCOL,
            "session": turn.session(),
            "run": turn.run(),
            "attempt": turn.attempt(),
            "checkpoint": number,
            "inputs": listed(&steering),
        });
        let id = format!("{id}_steer_{}_{number}", turn.attempt());
        accepted(&self.endpoint, self.send(self.post(url, &id, &body)?).await?).await
    }

    /// Tells the endpoint to stop this attempt. It may not hear it: it has also seen the connection close.
    async fn tell_cancelled(&self, turn: &Turn, id: &str) {
        let Some(url) = &self.endpoint.cancel_url else { return };
        let mut body = json!({ "type": "cancel", "protocol": PROTOCOL, "session": turn.session(), "run": turn.run() });
        body["attempt"] = turn.attempt().into();
        let Ok(request) = self.post(url, &format!("{id}_cancel_{}", turn.attempt()), &body) else { return };
        match request.timeout(CANCELLING).send().await {
            Ok(answer) => tracing::debug!(run = %turn.run(), status = %answer.status(), "endpoint told of a cancel"),
            Err(error) => {
                tracing::debug!(run = %turn.run(), error = %error.without_url(), "endpoint not told of a cancel");
            }
        }
    }
}

#[async_trait]
impl CoreExecutor for HttpExecutor {
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        if self.is_gone.load(Ordering::Relaxed) {
            return Err(CoreExecutorError::fatal("executor_gone: the endpoint has said 410 before"));
        }
        let mut body = told(&turn);
        let id = message_id(&body["effect_key"]);
        body["type"] = "run".into();
        body["protocol"] = PROTOCOL.into();
        if let Some(history) = &self.history {
            body["history"] = json!(history.last(&turn).await?);
        }
        let limit = self.endpoint.time_limit;
        let error = tokio::select! {
            biased;
            // The connection is closed as its future is dropped, right here.
            () = turn.cancelled() => CoreExecutorError::retryable("cancelled"),
            answered = tokio::time::timeout(limit, alive(&turn, self.call(&turn, &id, &body))) => match answered {
                Ok(answered) => return answered.map_err(|error| hidden_in(error, &self.secrets)),
                Err(_) => CoreExecutorError::retryable(format!("executor_timed_out: the run took longer than {limit:?}")),
            },
        };
        self.tell_cancelled(&turn, &id).await;
        Err(error)
    }

    async fn stopped(&self, session: SessionId, _: &str) {
        if let Some(history) = &self.history {
            history.forget(session);
        }
    }
}

/// What the endpoint is sent and must not be quoted with: the sensitive headers, and what follows the scheme in them.
fn secrets(headers: &HeaderMap) -> Vec<SecretString> {
    let values = headers.values().filter(|value| value.is_sensitive()).filter_map(|value| value.to_str().ok());
    values.map(|value| value.split_once(' ').map_or(value, |(_, secret)| secret).into()).collect()
}

/// The name of a message: the same for every attempt at the same step, without the full stop that separates what is
/// signed.
fn message_id(effect_key: &Value) -> String {
    let key = effect_key.as_str().unwrap_or_default();
    format!("msg_{}", &blake3::hash(key.as_bytes()).to_hex()[..32])
}
