//! `windlass hold`, `release`, `retire`, `recycle`, `reset`, `recover`, `stop`, `destroy`, `interrupt`: how is a session
//! led as a whole?

use crate::{
    arguments::ask,
    connection::Connection,
    failure::{Exit, Failure},
    output,
};
use windlass::{Disposition, RunId};
use windlass_client::api::{Interrupt, InterruptOutcome, Reset, Verb};

/// A verb that takes nothing but the session.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: its id or name
    session: String,
    #[command(flatten)]
    connection: Connection,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Empty a session: its inputs are abandoned, its operations ended
#[derive(clap::Args)]
pub(crate) struct ResetArgs {
    /// Cancel a run that is on
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Args,
}

/// Cancel the run that is on; exit code 3 if there is none, 5 if it was over before
#[derive(clap::Args)]
pub(crate) struct InterruptArgs {
    /// Only this run
    #[arg(long, value_name = "RUN")]
    run: Option<RunId>,
    /// Why, in words
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Run its inputs again instead of dropping them
    #[arg(long)]
    requeue: bool,
    #[command(flatten)]
    common: Args,
}

pub(crate) fn run(args: &Args, verb: Verb) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let report = ask(async { Ok(client.control(&args.session, verb).await?) })?;
    if args.json { output::document(&report) } else { output::fields(&report) }
}

pub(crate) fn reset(args: &ResetArgs) -> Result<(), Failure> {
    let client = args.common.connection.client()?;
    let report = ask(async { Ok(client.reset(&args.common.session, &Reset { force: args.force }).await?) })?;
    if args.common.json { output::document(&report) } else { output::fields(&report) }
}

pub(crate) fn interrupt(args: &InterruptArgs) -> Result<(), Failure> {
    let client = args.common.connection.client()?;
    let disposition = if args.requeue { Disposition::Requeue } else { Disposition::Drop };
    let interrupt = Interrupt { run: args.run, reason: args.reason.clone(), disposition };
    let interrupted = ask(async { Ok(client.interrupt(&args.common.session, &interrupt).await?) })?;
    if args.common.json { output::document(&interrupted) } else { output::fields(&interrupted) }?;
    match interrupted.outcome {
        InterruptOutcome::Cancelled => Ok(()),
        InterruptOutcome::TooLate => Err(Failure::silent(Exit::Conflict)),
        InterruptOutcome::NoSuchRun => Err(Failure::silent(Exit::NotFound)),
    }
}
