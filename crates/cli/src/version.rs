//! `windlass version`: which build is this?

use crate::{failure::Failure, output::Format};
use serde::Serialize;

/// Say which build this is
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Build {
    version: &'static str,
    /// The commit it was built from, if that is known: see `build.rs`.
    commit: Option<&'static str>,
    target: String,
    profile: &'static str,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let version = Build { version: env!("CARGO_PKG_VERSION"), commit: option_env!("WINDLASS_COMMIT"), target, profile };
    args.format.fields(&version)
}
