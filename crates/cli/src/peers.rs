//! `windlass peers`: who is this server to others?

use crate::{failure::Failure, output, serve::Settings};
use windlass_server::{ServeError, peer_key};

/// Say who this server is to others
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Print this server's public key, for the `[peers.NAME]` of others; make it if there is none yet
    Id(Box<Settings>),
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Id(settings) => {
            let key = peer_key(&settings.config()?.server, Some(&settings.store()?)).map_err(ServeError::Peers)?;
            output::line(key)
        }
    }
}
