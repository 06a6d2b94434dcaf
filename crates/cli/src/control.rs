//! `windlass hold`, `release`, `retire`, `recycle`, `reset`, `recover`, `stop`, `destroy`, `interrupt`: how is a session
//! led as a whole?

use crate::{
    arguments::OfSession,
    consent::Consent,
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
    ending: Ending,
}

/// A session that is to be ended, wholly or in part.
#[derive(clap::Args)]
pub(crate) struct Ending {
    #[command(flatten)]
    consent: Consent,
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

/// A verb that cannot be taken back.
pub(crate) fn end(ending: &Ending, verb: Verb) -> Result<(), Failure> {
    if ending.consent.to(verb.as_str(), &ending.of)? { run(&ending.of, verb) } else { Ok(()) }
}

pub(crate) fn reset(args: &ResetArgs) -> Result<(), Failure> {
    let (reset, of) = (Reset { force: args.force }, &args.ending.of);
    if !args.ending.consent.to("reset", of)? {
        return Ok(());
    }
    of.ask.tell(async |client| client.reset(&of.session, &reset).await)
}

/// Removes what is left of a destroyed session.
pub(crate) fn remove(ending: &Ending) -> Result<(), Failure> {
    let Ending { consent, of } = ending;
    if !consent.to("remove", of)? {
        return Ok(());
    }
    of.ask.of(async |client| client.delete_session(&of.session).await)
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
