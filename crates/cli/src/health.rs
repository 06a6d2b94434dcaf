//! `windlass health`: is the server ready to accept?

use crate::{arguments::Ask, failure::Failure};

/// Ask whether the server is ready, which it proves by a commit; for health checks of containers
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    ask: Ask,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.ask.tell(async |client| client.ready().await)
}
