//! Which verb was meant? Each verb is a file; this one only parses and dispatches.

#![forbid(unsafe_code)]

mod chat;
mod demo;
mod explain;
mod failure;
mod journal;
mod notation;
mod output;
mod place;
mod policy;
mod verify;
mod wakes;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// A durable session runtime for AI agents: accepted means accounted for.
#[derive(Parser)]
#[command(name = "windlass", version, after_help = failure::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Chat(chat::Args),
    Demo(demo::Args),
    Journal(journal::Args),
    Explain(explain::Args),
    Verify(verify::Args),
    #[command(subcommand)]
    Policy(policy::Verb),
    #[command(hide = true)]
    DemoWorker(demo::worker::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version are data and go to standard output; a closed pipe is nobody's fault.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let done = log().and_then(|()| match cli.verb {
        Verb::Chat(args) => chat::run(args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Journal(args) => journal::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Policy(verb) => policy::run(&verb),
        Verb::DemoWorker(args) => demo::worker::run(&args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Messages of the program go to standard error; `WINDLASS_LOG` chooses which (for example `info`).
fn log() -> Result<(), Failure> {
    let filter = match std::env::var("WINDLASS_LOG") {
        Ok(filter) => filter.parse().map_err(|error| {
            Failure::config(format!("WINDLASS_LOG: {error}")).hint("WINDLASS_LOG=info, or leave it unset")
        })?,
        Err(_) => tracing_subscriber::EnvFilter::new("warn"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)
}
