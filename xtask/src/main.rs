//! What does this repository do for those who work on it? `cargo xtask --help` answers.

mod bench;
mod layers;
mod scenarios;
mod schemathesis;
mod steps;
mod suite;

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of this repository.")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that must hold: format, lints, tests, documentation, layers, scenarios, the README's commands.
    ///
    /// Prints a line per step and closes with `N passed, N failed`, the tests and every step that failed besides.
    Test(suite::Options),
    /// Which test shows which scenario?
    Scenarios {
        /// Fail if a scenario has no test, or a comment names one that does not exist.
        #[arg(long)]
        check: bool,
    },
    /// Build in release, or with `--dist` as it is shipped, and measure; other arguments go to the benchmark (`--json`,
    /// `--only NAME,…`, `--quick`, `--list`).
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().verb {
        Verb::Test(options) => suite::run(&options),
        Verb::Scenarios { check } => scenarios::run(&root(), check),
        Verb::Bench { arguments } => bench::run(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    let manifest =
        std::env::var("CARGO_MANIFEST_DIR").map_or_else(|_| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().expect("xtask lies in the repository").into()
}
