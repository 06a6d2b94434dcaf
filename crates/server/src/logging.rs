//! What does the server log, and what does it never log?
//!
//! JSON lines where standard error is no terminal. No body, no token and no query is ever a field of an event of ours;
//! the crates below, which would show headers when asked for details, are kept to warnings.

use crate::config::{ConfigError, LogFormat, TelemetryConfig};
use std::io::IsTerminal;
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// The crates that see bytes of requests: whatever is asked for, they log no details.
const QUIET: [&str; 6] = ["h2=warn", "hyper=warn", "hyper_util=warn", "reqwest=warn", "rustls=warn", "tower=warn"];

/// Logs to standard error from now on, for the whole process.
///
/// # Errors
/// [`ConfigError`] if `telemetry.log` is no filter. That something else logs already is none: then that goes on.
pub fn install(config: &TelemetryConfig) -> Result<(), ConfigError> {
    let json = match config.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let subscriber = subscriber(&config.log, json, std::io::stderr)?;
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("the log was set up already");
    }
    Ok(())
}

/// A log of this filter on this writer.
///
/// # Errors
/// As for [`install`].
pub fn subscriber<W>(filter: &str, json: bool, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, ConfigError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let invalid = |error: &dyn std::fmt::Display| ConfigError::Invalid {
        place: "telemetry.log".to_owned(),
        error: error.to_string(),
    };
    let mut filter = EnvFilter::builder().parse(filter).map_err(|error| invalid(&error))?;
    for quiet in QUIET {
        filter = filter.add_directive(quiet.parse().map_err(|error| invalid(&error))?);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(if json {
        boxed(builder.json().flatten_event(true).with_current_span(true).with_span_list(false).finish())
    } else {
        boxed(builder.finish())
    })
}

fn boxed(subscriber: impl Subscriber + Send + Sync) -> Box<dyn Subscriber + Send + Sync> {
    Box::new(subscriber)
}
