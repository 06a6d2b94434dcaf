//! `windlass peers`: who is this server to others?

use crate::{
    failure::Failure,
    output::{self, Format},
    serve::Settings,
};
use serde::Serialize;
use windlass_server::{ServeError, peer_key};

/// Say who this server is to others
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Print this server's public key, for the `[peers.NAME]` of others; make it if there is none yet
    Id(Box<Id>),
}

#[derive(clap::Args)]
pub(crate) struct Id {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    format: Format,
}

/// As `[peers.NAME]` of others has it.
#[derive(Serialize)]
struct Key {
    key: String,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Id(id) => {
            let Id { settings, format } = &**id;
            let key = peer_key(&settings.config()?.server, Some(&settings.store()?)).map_err(ServeError::Peers)?;
            format.tell(&Key { key }, |Key { key }| output::line(key))
        }
    }
}
