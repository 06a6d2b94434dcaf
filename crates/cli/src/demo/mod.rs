//! `windlass demo`: does it hold what it promises, on this machine, now?
//!
//! A parent that survives leads a worker that does not through the runtime, kills it three times, and settles
//! accounts: its own log of acknowledgements against plain SQL over the store. The proof does not certify itself:
//! [`audit`] shares no code with the store, and `--sabotage` must make it fail.

mod acks;
mod audit;
mod exchange;
mod protocol;
mod tour;
pub(crate) mod worker;

use crate::{
    failure::{Exit, Failure},
    output::Format,
};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A guided tour that kills its own worker three times and proves that nothing was lost
#[derive(clap::Args)]
pub(crate) struct Args {
    /// An empty folder to leave the store in [default: a temporary one, removed if all is well]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    /// Spoil the evidence, to see that the proof notices: must end with exit code 1
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
    /// Chooses where exactly the worker is killed [default: the clock]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// How to spoil the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sabotage {
    /// Remove an acknowledged input from the store
    DropAck,
    /// Enter an input into a second receipt
    DoubleRun,
}

#[derive(Serialize)]
struct Document {
    holds: bool,
    #[serde(flatten)]
    audit: audit::Audit,
    kills: u32,
    seed: u64,
    seconds: f64,
    sabotage: Option<Sabotage>,
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let begun = Instant::now();
    let seed = args.seed.unwrap_or_else(clock_seed);
    let (dir, temporary) = folder(args)?;
    let told = tour::lead(&dir, seed, args.format.is_text())?;
    if let Some(sabotage) = args.sabotage {
        audit::spoil(&dir, sabotage)?;
        told.story.say(format!("\nSabotage ({sabotage:?}): the evidence was spoilt. The proof must fail now."));
    }
    let audit = audit::audit(&dir)?;
    let holds = audit.problems.is_empty();
    told.story.say(format!("\n{audit}"));
    let seconds = begun.elapsed().as_secs_f64();
    let document =
        Document { holds, audit, kills: told.kills, seed, seconds, sabotage: args.sabotage, dir: dir.clone() };
    // People have been told already.
    let printed = args.format.tell(&document, |_| Ok(()));
    // What the proof came to is the exit code, whether or not anybody reads the document.
    if !holds {
        return Err(Failure::failed("not every acknowledged input is accounted for exactly once")
            .hint(format!("look at {}, and repeat with --seed {seed}", dir.display())));
    }
    told.story.say(format!("It holds. {} kills, {seconds:.1} s, seed {seed}.", told.kills));
    if temporary {
        // What was shown has been shown; a leftover in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&dir);
    } else {
        told.story.say(format!("Look around: windlass journal desk --dir {}", dir.display()));
    }
    printed
}

/// Where the tour takes place, and whether it is ours to remove.
fn folder(args: &Args) -> Result<(PathBuf, bool), Failure> {
    let failed = |dir: &Path, error: std::io::Error| Failure::failed(format!("{}: {error}", dir.display()));
    let Some(dir) = &args.dir else {
        let dir = std::env::temp_dir().join(format!("windlass-demo-{}-{:x}", std::process::id(), clock_seed()));
        // Not a folder that somebody else has put there.
        std::fs::create_dir(&dir).map_err(|error| failed(&dir, error))?;
        return Ok((dir, true));
    };
    if is_used(dir) {
        let message = format!("{} holds something already, and the demo counts what is there", dir.display());
        return Err(Failure::new(Exit::Conflict, message).hint("an empty --dir, or none"));
    }
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    Ok((dir.clone(), false))
}

fn is_used(dir: &Path) -> bool {
    crate::place::store_file(dir).exists() || acks::file(dir).exists()
}

fn clock_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).subsec_nanos().into()
}
