//! `windlass backup` and `windlass restore`: how does a store get to safety, and back?

use crate::{
    arguments::block_on,
    failure::{Exit, Failure},
    output::{self, Format},
    place::Place,
};
use std::path::PathBuf;
use windlass::{SqliteStore, sqlite};

/// Copy the store to a new file, verified, beside a running server
#[derive(clap::Args)]
pub(crate) struct Backup {
    /// The file to write; it must not exist
    to: PathBuf,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// Put a backup in the place of the store, while no server runs
#[derive(clap::Args)]
pub(crate) struct Restore {
    /// The backup
    from: PathBuf,
    /// Give up the store that is there; it is kept beside the new one
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn backup(args: &Backup) -> Result<(), Failure> {
    let file = args.place.existing_store()?;
    if args.to.exists() {
        let message = format!("there is a file already: {}", args.to.display());
        return Err(Failure::new(Exit::Conflict, message).hint("another name; a backup is never overwritten"));
    }
    let report = block_on(async { Ok(SqliteStore::open_read_only(file)?.backup(&args.to).await?) })?;
    args.format.tell(&report, |report| output::line(report))
}

pub(crate) fn restore(args: &Restore) -> Result<(), Failure> {
    let file = args.place.store()?;
    if !args.from.exists() {
        return Err(Failure::not_found(format!("there is no backup at {}", args.from.display())).hint("another file"));
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if file.exists() && !args.overwrite {
        let message = format!("there is a store already: {}", file.display());
        return Err(Failure::new(Exit::Conflict, message).hint("--overwrite, or another --dir"));
    }
    let report = sqlite::restore(&args.from, &file, args.overwrite)?;
    args.format.tell(&report, |report| output::line(report))
}
