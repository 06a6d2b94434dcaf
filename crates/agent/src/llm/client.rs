//! How is a model asked over HTTP, heard to the end, and asked again when that failed?

use super::{
    anthropic::{self, Anthropic},
    config::{CallLimits, DialectName, LlmConfig, LlmConfigError},
    dialect::{Answer, Dialect, Heard, Piece, Question},
    failure::{Class, ModelError, page},
    openai::{self, OpenAi},
};
use crate::secrets::given::hidden;
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use reqwest::{
    Client, Response, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use secrecy::SecretString;
use sse_stream::SseByteStream;
use std::{
    future::ready,
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};
use windlass_core::TraceContext;

/// The first pause before a request is repeated; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long accounting may take that follows a whole answer. It never fails the answer.
const ACCOUNTING: Duration = Duration::from_secs(2);
/// The most that is read of a page that is no answer.
const PAGE_BYTES: usize = 64 * 1024;

/// A model of a provider.
#[derive(Debug)]
pub(crate) struct Model {
    http: Client,
    pub(crate) dialect: Box<dyn Dialect>,
    url: Url,
    headers: HeaderMap,
    key: Option<SecretString>,
    limits: CallLimits,
}

impl Model {
    pub(crate) fn from_config(config: &LlmConfig) -> Result<Model, LlmConfigError> {
        let url = address(config)?;
        let (dialect, _) = dialect(config);
        let key = config.key()?;
        let mut headers = dialect.headers(key.as_ref());
        for (name, value) in &config.headers {
            let bad = |what: String| LlmConfigError::invalid("headers", format!("{name:?}: {what}"));
            let header = HeaderName::try_from(name).map_err(|error| bad(error.to_string()))?;
            // Gateways take keys under names that nobody foresees.
            let mut value = HeaderValue::try_from(value).map_err(|error| bad(error.to_string()))?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let http = Client::builder()
            .connect_timeout(Duration::from_secs(config.limits.connect_s))
            .redirect(Policy::none())
            .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| LlmConfigError::invalid("base_url", format!("no HTTP client can be made: {error}")))?;
        Ok(Model { http, dialect, url, headers, key, limits: config.limits })
    }

    /// Asks until there is an answer, or no use in asking again. `heard` gets the answer piece by piece;
    /// [`Piece::Again`] says that what it got so far is void. Whoever serves the model can continue `trace`.
    ///
    /// Cancel-safe in this sense: a dropped call closes its connection.
    pub(crate) async fn ask(
        &self,
        question: &Question<'_>,
        trace: Option<TraceContext>,
        heard: &mut (dyn FnMut(Piece<'_>) + Send),
    ) -> Result<Answer, ModelError> {
        let body = Bytes::from(self.dialect.body(question));
        let mut pause = FIRST_PAUSE;
        for tries in 0.. {
            let tried = timeout(self.limits.answer(), self.ask_once(body.clone(), trace, heard)).await;
            let error = match tried {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(mut error)) => {
                    error.detail = hidden(&error.detail, self.key.as_slice());
                    error
                }
                Err(_) => {
                    let detail = format!("no whole answer within {} s", self.limits.answer_s);
                    ModelError::retryable("provider_too_slow", detail)
                }
            };
            let Class::Retryable(asked) = error.class else { return Err(error) };
            // Whoever runs the run waits longer than a run should.
            let wait = asked.unwrap_or_else(|| jittered(pause));
            if tries >= self.limits.retries || wait > self.limits.retry_wait() {
                return Err(error);
            }
            tracing::debug!(%error, ?wait, "the model is asked again");
            heard(Piece::Again);
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
        unreachable!("the loop counts its tries")
    }

    async fn ask_once(
        &self,
        body: Bytes,
        trace: Option<TraceContext>,
        heard: &mut (dyn FnMut(Piece<'_>) + Send),
    ) -> Result<Answer, ModelError> {
        let mut request = self.http.post(self.url.clone()).body(body);
        if let Some(trace) = trace {
            request = request.header("traceparent", trace.to_string());
        }
        // What the configuration says wins.
        let request = request.headers(self.headers.clone());
        let response = match timeout(self.limits.idle(), request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(ModelError::retryable("provider_unreachable", chain(&error))),
            Err(_) => return Err(self.stalled()),
        };
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = self.page(response).await;
            return Err(ModelError::of_status(status, &headers, &body));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        match kind.split(';').next().unwrap_or_default().trim() {
            "application/json" => self.whole(response).await,
            // Some servers forget to say what they send.
            "text/event-stream" | "" => self.stream(response, heard).await,
            other => {
                let other = other.to_owned();
                let body = self.page(response).await;
                let detail = format!("an answer of type {other:?}: {}", page(&body));
                Err(ModelError::fatal("provider_protocol_error", detail))
            }
        }
    }

    /// An answer that comes in one piece.
    async fn whole(&self, response: Response) -> Result<Answer, ModelError> {
        let body = self.read(response, self.limits.answer_bytes).await?;
        if body.trim_ascii().is_empty() {
            return Err(ModelError::retryable("provider_empty_answer", "an empty page"));
        }
        let json = serde_json::from_slice(&body).map_err(|error| {
            let page = page(&String::from_utf8_lossy(&body));
            ModelError::retryable("provider_protocol_error", format!("no JSON ({error}): {page}"))
        })?;
        match ModelError::within(&json) {
            Some(error) => Err(error),
            None => self.dialect.whole(json),
        }
    }

    /// An answer that comes as events.
    async fn stream(
        &self,
        response: Response,
        heard: &mut (dyn FnMut(Piece<'_>) + Send),
    ) -> Result<Answer, ModelError> {
        let (pulse, limit) = (Arc::new(Pulse::new()), self.limits.answer_bytes);
        let mut events = Box::pin(SseByteStream::new(counted(response.bytes_stream(), Arc::clone(&pulse), limit)));
        let mut reader = self.dialect.reader();
        let mut whole_since: Option<Instant> = None;
        loop {
            let deadline = match whole_since {
                Some(since) => since + ACCOUNTING,
                None => pulse.last() + self.limits.idle(),
            };
            let event = match timeout_at(deadline, events.next()).await {
                Ok(event) => event,
                Err(_) if whole_since.is_some() => break,
                // Bytes came, if no event: comments keep a connection alive.
                Err(_) if pulse.last() + self.limits.idle() > Instant::now() => continue,
                Err(_) => return Err(self.stalled()),
            };
            if pulse.bytes() > limit && whole_since.is_none() {
                return Err(Model::too_large(limit));
            }
            let step = match event {
                None => break,
                Some(Ok(event)) => match event.data {
                    Some(data) => reader.event(&data, heard),
                    None => continue,
                },
                // What the end cuts in two is no UTF-8 either.
                Some(Err(sse_stream::Error::Utf8Parse(error))) if pulse.has_ended() => {
                    Err(ModelError::retryable("provider_answer_cut", error.to_string()))
                }
                Some(Err(sse_stream::Error::Utf8Parse(error))) => {
                    Err(ModelError::fatal("provider_protocol_error", format!("the stream is no UTF-8: {error}")))
                }
                Some(Err(error)) => Err(ModelError::retryable("provider_answer_cut", chain(&error))),
            };
            match step {
                Ok(Heard::More) => {}
                Ok(Heard::Whole) => whole_since = whole_since.or_else(|| Some(Instant::now())),
                Ok(Heard::End) => {
                    // Read to its end, a connection serves the next question too. Nobody waits for that.
                    if events.next().now_or_never().is_none() {
                        tokio::spawn(timeout(ACCOUNTING, async move { while events.next().await.is_some() {} }));
                    }
                    break;
                }
                // The answer was whole: whatever is wrong with what follows, it is not the answer.
                Err(_) if whole_since.is_some() => break,
                Err(error) => return Err(error),
            }
        }
        reader.finish()
    }

    /// A page that is no answer, as far as it can be read.
    async fn page(&self, response: Response) -> String {
        let body = self.read(response, PAGE_BYTES).await.unwrap_or_default();
        String::from_utf8_lossy(&body).into_owned()
    }

    async fn read(&self, response: Response, limit: usize) -> Result<Vec<u8>, ModelError> {
        let mut body = Vec::new();
        let mut chunks = pin!(response.bytes_stream());
        loop {
            match timeout(self.limits.idle(), chunks.next()).await {
                Ok(None) => return Ok(body),
                Ok(Some(Ok(chunk))) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
                Ok(Some(Ok(_))) => return Err(Model::too_large(limit)),
                Ok(Some(Err(error))) => return Err(ModelError::retryable("provider_answer_cut", chain(&error))),
                Err(_) => return Err(self.stalled()),
            }
        }
    }

    fn stalled(&self) -> ModelError {
        ModelError::retryable("provider_stalled", format!("silent for {} s", self.limits.idle_s))
    }

    fn too_large(limit: usize) -> ModelError {
        let detail = format!("the answer is longer than {limit} bytes; raise limits.answer_bytes if that is right");
        ModelError::fatal("answer_too_large", detail)
    }
}

/// How a provider is spoken to, and the vendor's own address.
fn dialect(config: &LlmConfig) -> (Box<dyn Dialect>, &'static str) {
    match config.dialect {
        DialectName::Openai => (Box::new(OpenAi { is_vendor: config.base_url.is_none() }), openai::BASE_URL),
        DialectName::Anthropic => (Box::new(Anthropic), anthropic::BASE_URL),
    }
}

/// Where a model is asked.
///
/// # Errors
/// [`LlmConfigError::Invalid`] if the base URL is none.
pub(crate) fn address(config: &LlmConfig) -> Result<Url, LlmConfigError> {
    let (dialect, vendor) = dialect(config);
    let base = config.base_url.as_deref().unwrap_or(vendor).trim_end_matches('/');
    let url = Url::parse(&format!("{base}{}", dialect.path()))
        .map_err(|error| LlmConfigError::invalid("base_url", format!("{base:?}: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(LlmConfigError::invalid("base_url", "it begins with http:// or https://"));
    }
    Ok(url)
}

/// What came over a connection so far, and when the last of it.
#[derive(Debug)]
struct Pulse {
    epoch: Instant,
    last_micros: AtomicU64,
    bytes: AtomicUsize,
    ended: AtomicBool,
}

impl Pulse {
    fn new() -> Pulse {
        Pulse {
            epoch: Instant::now(),
            last_micros: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        }
    }

    fn beat(&self, bytes: usize) {
        self.last_micros.store(self.epoch.elapsed().as_micros() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.epoch + Duration::from_micros(self.last_micros.load(Ordering::Relaxed))
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The bytes of a body, counted, until they are too many: an endless line is no event that could be counted. Ends with an
/// empty line: some servers forget it after their last event.
fn counted(
    body: impl Stream<Item = reqwest::Result<Bytes>> + Send,
    pulse: Arc<Pulse>,
    limit: usize,
) -> impl Stream<Item = reqwest::Result<Bytes>> + Send {
    let (counter, end) = (Arc::clone(&pulse), Arc::clone(&pulse));
    body.inspect_ok(move |chunk| counter.beat(chunk.len())).take_while(move |_| ready(pulse.bytes() <= limit)).chain(
        stream::once(async move {
            end.ended.store(true, Ordering::Relaxed);
            Ok(Bytes::from_static(b"\n\n"))
        }),
    )
}

/// Between three quarters and five quarters, so that many sessions do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0u8) % 1_000;
    pause.mul_f64(0.75 + chance as f64 / 2_000.0)
}

/// An error with its causes, as far as it does not tell them itself.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !words.ends_with(&why) {
            words = format!("{words}: {why}");
        }
        cause = error.source();
    }
    words
}
