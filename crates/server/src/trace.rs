//! In whose trace does a request stand, and who hears of it?
//!
//! The `traceparent` of the request that brought an input is kept with it, whoever listens. Spans leave the process
//! where the feature `otlp` is built in and an endpoint is configured; then an input that comes without a trace begins
//! one. What a session tells of a trace is [`windlass_runtime::Span`]; here are the two ends: `admit` and `reply`.

use crate::{api::inputs, config::TelemetryConfig, state::AppState};
use http::HeaderMap;
use std::{sync::Arc, time::Duration};
use windlass_core::{InputId, SessionId, Timestamp, TraceContext};
use windlass_runtime::{Clock as _, SystemClock, Tracer};

/// What a request says in its header `traceparent` (W3C Trace Context). One that is not understood, or comes twice, is
/// passed over, as the recommendation asks.
pub(crate) fn of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all("traceparent").iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

/// Takes spans out of the process.
pub(crate) trait Exporter: Tracer {
    /// A new place in this trace, or in a new one; whether it is sampled is decided here.
    fn place(&self, from: Option<TraceContext>) -> TraceContext;

    /// An end of a trace is over.
    fn end(&self, end: End);

    /// Sends what is left. Blocks, for so long at most.
    fn shut_down(&self, limit: Duration);
}

/// One end of a trace: an input came in, or what became of it went out.
#[derive(Debug)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "nobody exports it"))]
pub(crate) struct End {
    /// `admit` or `reply`.
    pub(crate) name: &'static str,
    /// Its own place.
    pub(crate) trace: TraceContext,
    /// What it is a child of.
    pub(crate) parent: Option<TraceContext>,
    pub(crate) session: SessionId,
    pub(crate) input: InputId,
    /// When it began; it ends as it is told.
    pub(crate) began: Timestamp,
    /// What was answered, or by which way.
    pub(crate) how: &'static str,
}

/// Where spans go, if anywhere.
#[derive(Clone, Default)]
pub(crate) struct Traces(Option<Arc<dyn Exporter>>);

/// Spans cannot be exported as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("otlp_invalid: {0}; see telemetry.otlp_endpoint and the variables OTEL_EXPORTER_OTLP_*")]
pub struct OtlpError(pub(crate) String);

/// The variables that name an endpoint.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

impl Traces {
    /// Where spans go as it is configured: by the key, else by the standard variables.
    ///
    /// # Errors
    /// [`OtlpError`].
    #[cfg_attr(not(feature = "otlp"), expect(clippy::unnecessary_wraps, reason = "with the feature it may fail"))]
    pub(crate) fn of(config: &TelemetryConfig) -> Result<Traces, OtlpError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = config.otlp_endpoint.is_some() || ENDPOINTS.iter().any(|name| variable(name).is_some());
        let off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        if !named || off {
            return Ok(Traces::default());
        }
        #[cfg(feature = "otlp")]
        return Ok(Traces(Some(Arc::new(crate::otlp::Otlp::new(config.otlp_endpoint.as_deref())?))));
        #[cfg(not(feature = "otlp"))]
        {
            tracing::warn!("no span is exported, whatever OTEL_EXPORTER_OTLP_* say: built without the feature otlp");
            Ok(Traces::default())
        }
    }

    /// Who is told by sessions.
    pub(crate) fn tracer(&self) -> Option<Arc<dyn Tracer>> {
        self.0.clone().map(|exporter| exporter as Arc<dyn Tracer>)
    }

    /// Whether anybody is told.
    pub(crate) fn are_exported(&self) -> bool {
        self.0.is_some()
    }

    /// An input comes in with these headers.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Admitting {
        let from = of(headers);
        let trace = match &self.0 {
            Some(exporter) => Some(exporter.place(from)),
            None => from,
        };
        if let (None, Some(trace)) = (from, trace) {
            tracing::Span::current().record("trace_id", tracing::field::display(trace.trace_id_hex()));
        }
        Admitting { exporter: self.0.clone(), from, trace, began: SystemClock.now() }
    }

    /// What became of an input goes out `by` this way, since `began`. Costs two reads where spans are exported.
    pub(crate) async fn replied(
        &self,
        state: &AppState,
        session: SessionId,
        input: InputId,
        by: &'static str,
        began: Timestamp,
    ) {
        let Some(exporter) = &self.0 else { return };
        // A trace that cannot be read is a span less; whoever asks for the input hears why.
        let Ok(Some(came)) = inputs::trace_of(state, session, input).await else { return };
        let trace = exporter.place(Some(came));
        exporter.end(End { name: "reply", trace, parent: Some(came), session, input, began, how: by });
    }

    /// Sends what is left, within this time.
    pub(crate) async fn shut_down(&self, limit: Duration) {
        if let Some(exporter) = self.0.clone() {
            // An error says that it panicked; that was told then.
            drop(tokio::task::spawn_blocking(move || exporter.shut_down(limit)).await);
        }
    }
}

/// An input that is being admitted.
pub(crate) struct Admitting {
    exporter: Option<Arc<dyn Exporter>>,
    from: Option<TraceContext>,
    /// What is kept with it.
    pub(crate) trace: Option<TraceContext>,
    began: Timestamp,
}

impl Admitting {
    /// It was answered like this.
    pub(crate) fn end(self, session: SessionId, input: InputId, how: &'static str) {
        if let (Some(exporter), Some(trace)) = (self.exporter, self.trace) {
            exporter.end(End { name: "admit", trace, parent: self.from, session, input, began: self.began, how });
        }
    }
}
