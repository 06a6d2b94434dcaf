//! `windlass serve`: how do sessions get an address that everything else can call?

use crate::{
    failure::{Exit, Failure},
    output,
    place::Place,
    settings::ConfigFile,
};
use std::path::PathBuf;
use windlass_server::{
    Config, ServeError,
    config::{ConfigError, Sources, TelemetryConfig},
    logging,
};

/// Serve sessions over HTTP until SIGTERM or Ctrl-C; everything accepted is on disk
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What can be chosen about a server by a flag. A flag wins over WINDLASS_SECTION__KEY, that over the file.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Settings {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The store; wins over --dir
    #[arg(long, value_name = "sqlite:FILE", value_parser = sqlite)]
    store: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:7420]; other addresses than loopback need a token, and TLS or a proxy
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// A proxy in front ends TLS
    #[arg(long)]
    behind_proxy: bool,
    /// The certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
}

impl Settings {
    /// The store's file that a server would open.
    pub(crate) fn store(&self) -> Result<PathBuf, Failure> {
        match self.store.clone().or(self.config()?.store.path) {
            Some(file) => Ok(file),
            None => self.place.store(),
        }
    }

    /// The configuration in force: flags, then variables, then the file, then the defaults.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let store = self.store.clone().or_else(|| self.place.named_store());
        let behind_proxy = self.behind_proxy.then(|| "true".to_owned());
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("store.path", path(&store)),
            ("server.listen", self.listen.clone()),
            ("server.behind_proxy", behind_proxy),
            ("server.tls_cert", path(&self.tls_cert)),
            ("server.tls_key", path(&self.tls_key)),
        ];
        let flags = flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(Config::load(&Sources { file: self.file.path()?, env: env.collect(), flags })?)
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.settings.config()?;
    log(&config.telemetry)?;
    let scheme = if config.server.tls_cert.is_some() { "https" } else { "http" };
    let runtime = crate::runtime()?;
    let served = runtime.block_on(windlass_server::serve(config, |address| {
        // Whoever started it may have closed the pipe; the server serves all the same.
        drop(output::line(format_args!("listening on {scheme}://{address}")));
    }));
    // What a second signal cut off is not waited for.
    runtime.shutdown_background();
    Ok(served?)
}

/// The log of a server: JSON lines on standard error, text at a terminal. WINDLASS_LOG wins over the configuration.
fn log(telemetry: &TelemetryConfig) -> Result<(), Failure> {
    let log = std::env::var("WINDLASS_LOG").unwrap_or_else(|_| telemetry.log.clone());
    Ok(logging::install(&TelemetryConfig { log, ..telemetry.clone() }, output::colors_messages())?)
}

fn sqlite(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("sqlite:") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err("sqlite:FILE is wanted, for example sqlite:/var/lib/windlass/windlass.db".into()),
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::told(Exit::Config, &error.to_string())
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        match error {
            ServeError::Store(error) => error.into(),
            other => Failure::told(Exit::of(other.exit_code()), &other.to_string()),
        }
    }
}
