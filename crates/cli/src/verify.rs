//! `windlass verify`: is what is stored what was written?
//!
//! Reads everything, beside a running process, and changes nothing.

use crate::{
    failure::{Exit, Failure},
    output::{self, Format},
    place::Place,
};
use windlass::sqlite::verify;

/// Check the store: checksums, order, receipts, derived rows
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let file = args.place.existing_store()?;
    let report = verify(&file)?;
    args.format.tell(&report, |report| output::line(report))?;
    if report.is_clean() {
        return Ok(());
    }
    let message = format!("{} is not what was written", file.display());
    Err(Failure::new(Exit::Failed, message).hint("restore a backup; sessions that are not named here are sound"))
}
