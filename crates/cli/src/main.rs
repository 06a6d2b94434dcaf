//! Which verb was meant? Each verb is a file; this one only parses and dispatches.

#![forbid(unsafe_code)]

mod agents;
mod arguments;
mod chat;
mod completion;
mod config;
mod connection;
mod consent;
mod control;
mod demo;
mod doctor;
mod explain;
mod failure;
mod health;
mod inputs;
mod journal;
mod notation;
mod operations;
mod output;
mod peers;
mod place;
mod policy;
mod send;
mod serve;
mod sessions;
mod settings;
mod store;
mod tail;
mod token;
mod verify;
mod version;
mod wakes;

use arguments::{Listing, OfInput, OfSession};
use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;
use windlass_server::{
    Config,
    config::{LogFormat, TelemetryConfig},
    logging,
};

/// A durable session runtime for AI agents: accepted means accounted for.
#[derive(Parser)]
#[command(name = "windlass", version = env!("WINDLASS_VERSION"), after_help = failure::EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    manner: output::Manner,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(Box<serve::Args>),
    Send(send::Args),
    Wait(send::Wait),
    Sessions(Box<sessions::Args>),
    Inputs(inputs::Args),
    Tail(tail::Args),
    Explain(explain::Args),
    /// Take an input back that does not run yet
    Withdraw(OfInput),
    Interrupt(control::InterruptArgs),
    /// Keep inputs, do not run them
    Hold(OfSession),
    /// Run them again
    Release(OfSession),
    /// Take nothing new, run what is there
    Retire(OfSession),
    /// Keep everything, and make what waits due
    Recycle(OfSession),
    Reset(control::ResetArgs),
    /// Read the journal again and compare
    Recover(OfSession),
    /// End what runs and waits; `sessions new NAME` revives the session
    Stop(control::Ending),
    /// End the session for ever; `sessions rm` removes what is left
    Destroy(control::Ending),
    Ops(operations::Args),
    /// List the dead letters of all sessions
    Dead(Listing),
    /// Try a dead letter anew; twice is once
    Redrive(OfInput),
    #[command(subcommand)]
    Agents(agents::Verb),
    #[command(subcommand)]
    Policy(policy::Verb),
    #[command(subcommand)]
    Token(token::Verb),
    #[command(subcommand)]
    Peers(peers::Verb),
    Chat(chat::Args),
    Demo(demo::Args),
    Journal(journal::Args),
    Verify(verify::Args),
    Backup(store::Backup),
    Restore(store::Restore),
    Doctor(Box<doctor::Args>),
    Health(health::Args),
    #[command(subcommand)]
    Config(Box<config::Verb>),
    Completion(completion::Args),
    Man(completion::Man),
    Version(version::Args),
    #[command(hide = true)]
    DemoWorker(demo::worker::Args),
}

fn main() -> ExitCode {
    // Before anything else: a launcher becomes the program that it starts.
    windlass::agent::sandbox::launch_if_asked();
    completion::answer();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version are data and go to standard output; a closed pipe is nobody's fault.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    cli.manner.set();
    // A server logs as it is configured to; everything else tells only what is wrong.
    let logged = if matches!(cli.verb, Verb::Serve(_)) { Ok(()) } else { log() };
    let done = logged.and_then(|()| run(cli.verb));
    logging::flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(verb: Verb) -> Result<(), Failure> {
    use windlass_client::api::Verb as Control;
    match verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Send(args) => send::run(&args),
        Verb::Wait(args) => send::wait(&args),
        Verb::Sessions(args) => sessions::run(&args),
        Verb::Inputs(args) => inputs::run(&args),
        Verb::Tail(args) => tail::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Withdraw(args) => inputs::withdraw(&args),
        Verb::Interrupt(args) => control::interrupt(&args),
        Verb::Hold(args) => control::run(&args, Control::Hold),
        Verb::Release(args) => control::run(&args, Control::Release),
        Verb::Retire(args) => control::run(&args, Control::Retire),
        Verb::Recycle(args) => control::run(&args, Control::Recycle),
        Verb::Reset(args) => control::reset(&args),
        Verb::Recover(args) => control::run(&args, Control::Recover),
        Verb::Stop(args) => control::end(&args, Control::Stop),
        Verb::Destroy(args) => control::end(&args, Control::Destroy),
        Verb::Ops(args) => operations::run(&args),
        Verb::Dead(args) => inputs::dead(&args),
        Verb::Redrive(args) => inputs::redrive(&args),
        Verb::Agents(verb) => agents::run(&verb),
        Verb::Policy(verb) => policy::run(&verb),
        Verb::Token(verb) => token::run(&verb),
        Verb::Peers(verb) => peers::run(&verb),
        Verb::Chat(args) => chat::run(args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Journal(args) => journal::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Backup(args) => store::backup(&args),
        Verb::Restore(args) => store::restore(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Health(args) => health::run(&args),
        Verb::Config(verb) => config::run(&verb),
        Verb::Completion(args) => completion::run(&args),
        Verb::Man(args) => completion::man(&args),
        Verb::Version(args) => version::run(&args),
        Verb::DemoWorker(args) => demo::worker::run(&args),
    }
}

/// Messages of the program go to standard error; `WINDLASS_LOG` chooses which (for example `info`).
fn log() -> Result<(), Failure> {
    let log = std::env::var("WINDLASS_LOG").unwrap_or_else(|_| "warn".to_owned());
    let telemetry = TelemetryConfig { log, log_format: LogFormat::Text, ..Config::defaults().telemetry };
    logging::install(&telemetry, output::colors_messages())
        .map_err(|error| Failure::config(format!("WINDLASS_LOG: {error}")).hint("WINDLASS_LOG=info, or leave it unset"))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)
}
