//! `windlass config`: what is configured, by what, and is it right?

use crate::{
    failure::Failure,
    output::{self, Format},
    serve::Settings,
    settings,
};
use windlass_server::Config;

/// Show, check and begin a configuration
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Print a configuration with every key, its default and what it is for
    Template,
    /// Print the configuration in force
    Show(Show),
    /// Check the configuration in force, and change nothing; exit code 78 if it cannot be used
    Check(Settings),
    /// Print where a configuration is looked for; the file in force first
    Path(Settings),
}

#[derive(clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Template => output::text(&format!("{}\n{}", Config::template().trim_end(), PROFILES)),
        Verb::Show(args) => {
            let shown = args.settings.config()?;
            args.format.tell(&shown, |shown| output::text(&toml::to_string(shown).map_err(Failure::failed)?))
        }
        Verb::Check(args) => {
            args.config()?;
            args.file.check_profiles()?;
            match args.file.path()? {
                Some(file) => output::line(format_args!("{} can be used", file.display())),
                None => output::line("there is no file, and the defaults can be used"),
            }
        }
        Verb::Path(args) => {
            let file = args.file.path()?;
            let others = settings::candidates().into_iter().filter(|other| Some(other) != file.as_ref());
            file.iter().cloned().chain(others).try_for_each(|file| output::line(file.display()))
        }
    }
}

/// The part of a configuration that is about calling servers.
const PROFILES: &str = "\
# Connections for those who call servers: windlass --profile NAME, or WINDLASS_PROFILE. The one called default is used if
# none is named.
#[profile.default]
#url = \"http://127.0.0.1:7420\"
#
# A file that holds the token.
#token_file = \"/path/to/token\"
";
