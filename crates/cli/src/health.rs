//! `windlass health`: is the server ready to accept?

use crate::{arguments::ask, connection::Connection, failure::Failure, output};

/// Ask whether the server is ready, which it proves by a commit; for health checks of containers
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let ready = ask(async { Ok(client.ready().await?) })?;
    if args.json { output::document(&ready) } else { output::fields(&ready) }
}
