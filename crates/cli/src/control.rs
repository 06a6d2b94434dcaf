//! `windlass hold`, `release`, `retire`, `recycle`, `reset`, `recover`, `stop`, `destroy`, `interrupt`: how is a session
//! led as a whole?

use crate::{
    arguments::OfSession,
    failure::{Exit, Failure},
};
use windlass::{Disposition, RunId};
use windlass_client::api::{Interrupt, InterruptOutcome, Reset, Verb};

/// Empty a session: its inputs are abandoned, its operations ended
#[derive(clap::Args)]
pub(crate) struct ResetArgs {
    /// Cancel a run that is on
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    of: OfSession,
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
    of: OfSession,
}

pub(crate) fn run(of: &OfSession, verb: Verb) -> Result<(), Failure> {
    of.ask.tell(async |client| client.control(&of.session, verb).await)
}

pub(crate) fn reset(args: &ResetArgs) -> Result<(), Failure> {
    let reset = Reset { force: args.force };
    args.of.ask.tell(async |client| client.reset(&args.of.session, &reset).await)
}

pub(crate) fn interrupt(args: &InterruptArgs) -> Result<(), Failure> {
    let disposition = if args.requeue { Disposition::Requeue } else { Disposition::Drop };
    let interrupt = Interrupt { run: args.run, reason: args.reason.clone(), disposition };
    let interrupted = args.of.ask.of(async |client| client.interrupt(&args.of.session, &interrupt).await)?;
    args.of.ask.format.fields(&interrupted)?;
    match interrupted.outcome {
        InterruptOutcome::Cancelled => Ok(()),
        InterruptOutcome::TooLate => Err(Failure::silent(Exit::Conflict)),
        InterruptOutcome::NoSuchRun => Err(Failure::silent(Exit::NotFound)),
    }
}
