//! What does the server count?
//!
//! OpenTelemetry instruments, fed by the runtime and the store through [`Observer`] and by the guard for requests;
//! `/metrics` shows them in the text format of Prometheus. Labels come from small closed sets: no id, no name, no
//! tenant is one, so that no client can make a metric grow.

use crate::{logging, problem::Problem};
use http::Method;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, MeterProvider as _, UpDownCounter},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};
use std::time::Duration;
use windlass_core::{InputKind, InputState};
use windlass_runtime::Observer;

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Keeps the instruments alive.
    _provider: SdkMeterProvider,
    requests: Counter<u64>,
    request_time: Histogram<f64>,
    admitted: Counter<u64>,
    settled: Counter<u64>,
    wait: Histogram<f64>,
    open_inputs: UpDownCounter<i64>,
    runs: Counter<u64>,
    attempts: Histogram<u64>,
    run_time: Histogram<f64>,
    sessions: UpDownCounter<i64>,
    without_executor: UpDownCounter<i64>,
    waiters: UpDownCounter<i64>,
    streams: UpDownCounter<i64>,
    events_encoded: Counter<u64>,
    commit_time: Histogram<f64>,
    commit_entries: Counter<u64>,
    commit_sessions: Histogram<u64>,
    dead_letters: Counter<u64>,
    sweeps: Counter<u64>,
    swept_blobs: Counter<u64>,
    refused_envelopes: Counter<u64>,
    refused_connections: Counter<u64>,
}

/// From a fast commit to a run of minutes, in seconds.
const TIMES: [f64; 18] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0,
    1800.0,
];
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 4096.0];

impl Metrics {
    /// Counts from nothing.
    ///
    /// # Errors
    /// A bug: two instruments with one name.
    pub fn new() -> Result<Metrics, Problem> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .build()
            .map_err(Problem::internal)?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("windlass");
        let count = |name: &'static str, what: &'static str| meter.u64_counter(name).with_description(what).build();
        let level =
            |name: &'static str, what: &'static str| meter.i64_up_down_counter(name).with_description(what).build();
        let time = |name: &'static str, what: &'static str| {
            meter.f64_histogram(name).with_unit("s").with_description(what).with_boundaries(TIMES.to_vec()).build()
        };
        let size = |name: &'static str, what: &'static str| {
            meter.u64_histogram(name).with_description(what).with_boundaries(SIZES.to_vec()).build()
        };
        meter
            .u64_observable_counter("windlass_log_lines_dropped")
            .with_description("Lines of the log that were left out because nobody read it")
            .with_callback(|lines| lines.observe(logging::dropped(), &[]))
            .build();
        let metrics = Metrics {
            requests: count("windlass_http_requests", "Requests answered, by route, method and status"),
            request_time: time(
                "windlass_http_request_duration",
                "From the head of a request to the head of its answer",
            ),
            admitted: count("windlass_inputs_offered", "Inputs offered, by kind and by what was answered"),
            settled: count("windlass_inputs_settled", "Inputs that are over, by how they ended"),
            wait: time("windlass_input_wait", "From the admission of an input to its end"),
            open_inputs: level("windlass_queue_depth", "Inputs admitted and not over"),
            runs: count("windlass_runs", "Attempts of runs that ended, by how"),
            attempts: size("windlass_run_attempt", "Which attempt of its work a start was"),
            run_time: time("windlass_run_duration", "From the start of an attempt to its end"),
            sessions: level("windlass_open_sessions", "Sessions in memory"),
            without_executor: level(
                "windlass_sessions_without_executor",
                "Sessions whose agent cannot be made: open ones, and those in which something waits",
            ),
            waiters: level("windlass_waiters", "Those who wait for the end of an input"),
            events_encoded: count(
                "windlass_events_encoded",
                "Entries encoded for streams: once each, however many follow",
            ),
            streams: level("windlass_streams", "Streams of events that are open"),
            commit_time: time("windlass_commit_duration", "How long the store took to make a group of appends durable"),
            commit_entries: count("windlass_commit_entries", "Entries made durable"),
            commit_sessions: size("windlass_commit_group", "Sessions that shared a commit"),
            dead_letters: count("windlass_dead_letters", "Inputs that became dead letters"),
            sweeps: count("windlass_blob_sweeps", "Searches for blobs that nothing names, by how they ended"),
            swept_blobs: count("windlass_blobs_swept", "Blobs forgotten because nothing named them"),
            refused_envelopes: count("windlass_envelopes_refused", "Envelopes of peers that were refused, by code"),
            refused_connections: count(
                "windlass_connections_refused",
                "Connections closed at once, for there were too many",
            ),
            registry,
            _provider: provider,
        };
        metrics.show_all();
        Ok(metrics)
    }

    /// What is not there cannot be watched: from the start everything is shown whose labels are known beforehand.
    fn show_all(&self) {
        let counts = [
            &self.events_encoded,
            &self.commit_entries,
            &self.dead_letters,
            &self.swept_blobs,
            &self.refused_connections,
        ];
        for count in counts {
            count.add(0, &[]);
        }
        for level in [&self.open_inputs, &self.sessions, &self.without_executor, &self.waiters, &self.streams] {
            level.add(0, &[]);
        }
        for how in ["completed", "failed", "cancelled", "released"] {
            self.runs.add(0, &[KeyValue::new("how", how)]);
        }
        for state in [InputState::Consumed, InputState::Superseded, InputState::Coalesced, InputState::Abandoned] {
            self.settled.add(0, &[KeyValue::new("state", name_of(state))]);
        }
        for how in ["done", "failed"] {
            self.sweeps.add(0, &[KeyValue::new("how", how)]);
        }
    }

    /// A request was answered.
    pub(crate) fn request(&self, method: &Method, route: &'static str, status: u16, took: Duration) {
        // A method can be any token; the closed set is the one of the routes.
        let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
        let method = known.iter().find(|known| *known == method).map_or("other", |known| match known.as_str() {
            "GET" => "GET",
            "POST" => "POST",
            "PUT" => "PUT",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "HEAD",
        });
        let labels = [KeyValue::new("route", route), KeyValue::new("method", method)];
        self.request_time.record(took.as_secs_f64(), &labels);
        let [route, method] = labels;
        self.requests.add(1, &[route, method, KeyValue::new("status", i64::from(status))]);
    }

    /// A stream of events was opened (1), or is over (-1).
    pub fn streams(&self, delta: i64) {
        self.streams.add(delta, &[]);
    }

    /// An entry was encoded for all the streams of its session.
    pub(crate) fn event_encoded(&self) {
        self.events_encoded.add(1, &[]);
    }

    /// An envelope of a peer was refused with this code.
    pub fn envelope_refused(&self, code: &'static str) {
        self.refused_envelopes.add(1, &[KeyValue::new("code", code)]);
    }

    /// A connection too many was closed.
    pub(crate) fn connection_refused(&self) {
        self.refused_connections.add(1, &[]);
    }

    /// Blobs that nothing names were looked for, and so many forgotten; none: it failed.
    pub(crate) fn swept(&self, blobs: Option<u64>) {
        let how = if blobs.is_some() { "done" } else { "failed" };
        self.sweeps.add(1, &[KeyValue::new("how", how)]);
        self.swept_blobs.add(blobs.unwrap_or(0), &[]);
    }

    /// So many inputs were open when the server started.
    pub(crate) fn found_open(&self, inputs: u64) {
        self.open_inputs.add(i64::try_from(inputs).unwrap_or(i64::MAX), &[]);
    }

    /// Everything, in the text format of Prometheus.
    pub(crate) fn render(&self) -> Result<String, Problem> {
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(Problem::internal)
    }
}

impl Observer for Metrics {
    fn admitted(&self, kind: InputKind, outcome: &'static str) {
        let kind = KeyValue::new("kind", kind.as_str());
        self.admitted.add(1, &[kind, KeyValue::new("outcome", outcome)]);
        if outcome == "accepted" {
            self.open_inputs.add(1, &[]);
        }
    }

    fn settled(&self, state: InputState, waited: Duration) {
        let how = [KeyValue::new("state", name_of(state))];
        self.settled.add(1, &how);
        self.wait.record(waited.as_secs_f64(), &how);
        self.open_inputs.add(-1, &[]);
    }

    fn run_started(&self, attempt: u32) {
        self.attempts.record(attempt.into(), &[]);
    }

    fn run_ended(&self, how: &'static str, ran: Duration) {
        let how = [KeyValue::new("how", how)];
        self.runs.add(1, &how);
        self.run_time.record(ran.as_secs_f64(), &how);
    }

    fn sessions_open(&self, delta: i64) {
        self.sessions.add(delta, &[]);
    }

    fn sessions_without_executor(&self, delta: i64) {
        self.without_executor.add(delta, &[]);
    }

    fn waiters(&self, delta: i64) {
        self.waiters.add(delta, &[]);
    }

    fn committed(&self, entries: u64, sessions: u64, took: Duration) {
        self.commit_time.record(took.as_secs_f64(), &[]);
        self.commit_entries.add(entries, &[]);
        self.commit_sessions.record(sessions, &[]);
    }

    fn dead_letter(&self) {
        self.dead_letters.add(1, &[]);
    }
}

fn name_of(state: InputState) -> &'static str {
    match state {
        InputState::Consumed => "consumed",
        InputState::Superseded => "superseded",
        InputState::Coalesced => "coalesced",
        InputState::Abandoned => "abandoned",
        _ => "open",
    }
}
