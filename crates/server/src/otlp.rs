//! How do spans leave the process? By OTLP over HTTP, as protobuf.
//!
//! The SDK decides about sampling, batches and sends, on a thread of its own; the standard variables (`OTEL_*`) steer it.
//! Spans are built from what sessions and requests say of themselves when they are over, so there is none that is open,
//! and none that a killed process would have left open.

use crate::trace::{End, Exporter, OtlpError};
use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{
    Context, InstrumentationScope, Key, KeyValue,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanEvents, SpanLinks, SpanProcessor as _},
};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use windlass_agent::secrets;
use windlass_core::{Timestamp, TraceContext};
use windlass_runtime::{Clock as _, Span, SpanPart, SystemClock, Tracer};

/// How long one request may take where no variable says so.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is read of an answer, in bytes.
const ANSWER: usize = 64 * 1024;

/// Exports spans.
pub(crate) struct Otlp {
    /// Makes ids and decides about sampling; it has no processor.
    places: SdkTracer,
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl Otlp {
    /// Exports to this address, or to the one that the variables name. Needs a tokio runtime around it.
    pub(crate) fn new(endpoint: Option<&str>) -> Result<Otlp, OtlpError> {
        let invalid = |error: String| OtlpError(error.trim().to_owned());
        let variable = |name: &str| {
            let of_traces = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
            std::env::var(of_traces).or_else(|_| std::env::var(format!("OTEL_EXPORTER_OTLP_{name}"))).ok()
        };
        if let Some(protocol) = variable("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
            return Err(invalid(format!("the protocol {protocol:?} is not spoken, only \"http/protobuf\"")));
        }
        for header in variable("HEADERS").iter().flat_map(|headers| headers.split(',')) {
            if let Some((_, value)) = header.split_once('=') {
                secrets::know(&value.trim().into());
            }
        }
        let millis = variable("TIMEOUT").and_then(|millis| millis.parse().ok());
        let client = reqwest::Client::builder()
            .timeout(millis.map_or(TIMEOUT, Duration::from_millis))
            .redirect(reqwest::redirect::Policy::none());
        let client = client.build().map_err(|error| invalid(error.to_string()))?;
        let mut exporter =
            SpanExporter::builder().with_http().with_http_client(Post { client, runtime: Handle::current() });
        if let Some(endpoint) = endpoint {
            exporter = exporter.with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')));
        }
        let exporter = exporter.build().map_err(|error| invalid(error.to_string()))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource());
        let scope = InstrumentationScope::builder("windlass").with_version(env!("CARGO_PKG_VERSION")).build();
        let places = SdkTracerProvider::builder().build().tracer_with_scope(scope.clone());
        Ok(Otlp { places, processor, scope })
    }

    #[expect(clippy::too_many_arguments, reason = "a span has so many parts, and this is where they meet")]
    fn export(
        &self,
        name: &'static str,
        kind: SpanKind,
        trace: TraceContext,
        parent: Option<TraceContext>,
        links: &[TraceContext],
        (began, ended): (Timestamp, Timestamp),
        attributes: Vec<KeyValue>,
        status: Status,
    ) {
        let mut linked = SpanLinks::default();
        linked.links = links.iter().map(|link| Link::with_context(context(*link, true))).collect();
        self.processor.on_end(SpanData {
            span_context: context(trace, false),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id())),
            parent_span_is_remote: kind == SpanKind::Server && parent.is_some(),
            span_kind: kind,
            name: name.into(),
            start_time: moment(began),
            end_time: moment(ended.max(began)),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: linked,
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// What the variables say of this process; its name is `windlass` where they say none.
fn resource() -> Resource {
    let told = Resource::builder().build();
    let unnamed = told.get(&Key::new("service.name")).is_none_or(|name| name.as_str().starts_with("unknown_service"));
    if unnamed { Resource::builder().with_service_name("windlass").build() } else { told }
}

fn context(trace: TraceContext, remote: bool) -> SpanContext {
    let flags = if trace.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace_id, span_id) = (TraceId::from_bytes(trace.trace_id()), SpanId::from_bytes(trace.span_id()));
    SpanContext::new(trace_id, span_id, flags, remote, TraceState::default())
}

fn moment(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + at.since(Timestamp::ZERO)
}

impl Tracer for Otlp {
    fn span(&self, span: Span) {
        if !span.trace.is_sampled() {
            return;
        }
        let mut attributes = vec![
            KeyValue::new("windlass.session", span.session.to_string()),
            KeyValue::new("windlass.run", span.attempt.run.to_string()),
            KeyValue::new("windlass.attempt", i64::from(span.attempt.attempt)),
        ];
        let (name, kind, status) = match span.part {
            SpanPart::Queued { input } => {
                attributes.push(KeyValue::new("windlass.input", input.to_string()));
                ("queued", SpanKind::Internal, Status::Unset)
            }
            SpanPart::Run { how } => {
                attributes.push(KeyValue::new("windlass.outcome", how));
                // Why stands in the journal; here it might tell what was said.
                ("run", SpanKind::Consumer, if how == "failed" { Status::error(how) } else { Status::Unset })
            }
            SpanPart::Commit { sequence } => {
                attributes.push(KeyValue::new("windlass.boundary", sequence as i64));
                ("commit", SpanKind::Internal, Status::Unset)
            }
        };
        let times = (span.began, span.ended);
        self.export(name, kind, span.trace, Some(span.parent), &span.links, times, attributes, status);
    }
}

impl Exporter for Otlp {
    fn place(&self, from: Option<TraceContext>) -> TraceContext {
        let parent =
            from.map_or_else(Context::new, |from| Context::new().with_remote_span_context(context(from, true)));
        let span = self.places.build_with_context(SpanBuilder::from_name("place"), &parent);
        let made = span.span_context();
        TraceContext::new(made.trace_id().to_bytes(), made.span_id().to_bytes(), made.is_sampled())
            .expect("the SDK makes ids that are not all zeros")
    }

    fn end(&self, end: End) {
        if !end.trace.is_sampled() {
            return;
        }
        let attributes = vec![
            KeyValue::new("windlass.session", end.session.to_string()),
            KeyValue::new("windlass.input", end.input.to_string()),
            KeyValue::new("windlass.outcome", end.how),
        ];
        let kind = if end.name == "admit" { SpanKind::Server } else { SpanKind::Internal };
        let times = (end.began, SystemClock.now());
        self.export(end.name, kind, end.trace, end.parent, &[], times, attributes, Status::Unset);
    }

    fn shut_down(&self, limit: Duration) {
        if let Err(error) = self.processor.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Sends for the processor's thread, which has no runtime.
#[derive(Debug)]
struct Post {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sending = self.runtime.spawn(async move {
            let request = reqwest::Request::try_from(request)?;
            let mut answer = client.execute(request).await.map_err(reqwest::Error::without_url)?;
            let mut response = http::Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
                body.extend_from_slice(&chunk);
                if body.len() > ANSWER {
                    return Err(format!("the collector answered more than {ANSWER} bytes").into());
                }
            }
            Ok(response.body(body.into())?)
        });
        sending.await?
    }
}
