//! What does the server log, and what does it never log?
//!
//! JSON lines where standard error is no terminal. No body, no token and no query is ever a field of an event of ours;
//! the crates below, which would show headers when asked for details, are kept to warnings. What others quote (a
//! provider its caller's key, a program its environment, a panic its arguments) is hidden in every line on its way out:
//! see [`windlass_agent::secrets`].

pub use crate::outlet::{dropped, flush};
use crate::{
    config::{ConfigError, LogFormat, TelemetryConfig},
    outlet::Outlet,
};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
};
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};
use windlass_agent::secrets;

/// The crates that see bytes of requests: whatever is asked for, they log no details.
const QUIET: [&str; 7] =
    ["h2=warn", "hyper=warn", "hyper_util=warn", "opentelemetry_sdk=warn", "reqwest=warn", "rustls=warn", "tower=warn"];
/// Panics are told whatever is asked for.
const PANICS: &str = "windlass::panic=error";

/// Logs to standard error from now on, for the whole process, and panics too; text in colour if it is wanted so. Nobody
/// waits for whoever reads it: see [`dropped`] and, for the end of a process, [`flush`].
///
/// # Errors
/// [`ConfigError`] if `telemetry.log` is no filter. That something else logs already is none: then that goes on.
pub fn install(config: &TelemetryConfig, color: bool) -> Result<(), ConfigError> {
    let form = match config.log_format {
        LogFormat::Auto if !io::stderr().is_terminal() => Form::Json,
        LogFormat::Json => Form::Json,
        LogFormat::Auto | LogFormat::Text => Form::Text { color },
    };
    let subscriber = subscriber(&config.log, form, Outlet)?;
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("the log was set up already");
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON document.
    Json,
    /// Text for people.
    Text {
        /// With the escape sequences of terminals.
        color: bool,
    },
}

/// A log of this filter on this writer, which is given whole lines without secrets.
///
/// # Errors
/// As for [`install`].
pub fn subscriber<W>(filter: &str, form: Form, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, ConfigError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let invalid = |error: &dyn std::fmt::Display| ConfigError::Invalid {
        place: "telemetry.log".to_owned(),
        error: error.to_string(),
    };
    let mut filter = EnvFilter::builder().parse(filter).map_err(|error| invalid(&error))?;
    for quiet in QUIET.into_iter().chain([PANICS]) {
        filter = filter.add_directive(quiet.parse().map_err(|error| invalid(&error))?);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Discreet(writer));
    Ok(match form {
        Form::Json => boxed(builder.json().flatten_event(true).with_current_span(true).with_span_list(false).finish()),
        Form::Text { color } => boxed(builder.with_ansi(color).finish()),
    })
}

fn boxed(subscriber: impl Subscriber + Send + Sync) -> Box<dyn Subscriber + Send + Sync> {
    Box::new(subscriber)
}

/// Logs a panic instead of printing it: what it quotes goes the way of everything that is logged.
pub fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no text");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(target: "windlass::panic", place, backtrace, "{message}");
    // It may be the last thing that is said.
    flush();
}

/// Writes without secrets. The log hands over each event in one piece, so that none is cut in two.
struct Discreet<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Discreet<W> {
    type Writer = Discreet<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Discreet(self.0.make_writer())
    }
}

impl<W: Write> Write for Discreet<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(secrets::hidden(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
