//! `windlass config`: what is configured, by what, and is it right?

use crate::{
    failure::Failure,
    output::{self, Format},
    serve::Settings,
    settings,
};
use serde::Serialize;
use std::path::PathBuf;
use windlass::agent::config::{AgentInvalid, Agents};
use windlass_server::Config;

/// Show, check and begin a configuration
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Print a configuration with every key, its default and what it is for
    Template,
    /// Print the configuration in force
    Show(InForce),
    /// Check the configuration in force, and change nothing; exit code 78 if it cannot be used
    Check(InForce),
    /// Print where a configuration is looked for; the file in force first
    Path(InForce),
}

#[derive(clap::Args)]
pub(crate) struct InForce {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    format: Format,
}

/// Where a configuration was looked for.
#[derive(Serialize)]
struct Found {
    /// The file in force; none: the defaults are.
    file: Option<PathBuf>,
    /// Where else one would be found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<PathBuf>,
}

/// What was checked.
#[derive(Serialize)]
struct Checked {
    /// The file in force; none: the defaults are.
    file: Option<PathBuf>,
    /// What keeps agents from being used here, although nothing is wrong with the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacking: Vec<String>,
}

/// The agents whose keys are not there.
pub(crate) fn agents_without_keys(config: &Config) -> Result<Vec<AgentInvalid>, Failure> {
    Ok(Agents::new(config.agents.clone()).map_err(Failure::failed)?.without_keys())
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Template => output::text(&format!("{}\n{}", Config::template().trim_end(), PROFILES)),
        Verb::Show(args) => {
            let shown = args.settings.config()?;
            args.format.tell(&shown, |shown| output::text(&toml::to_string(shown).map_err(Failure::failed)?))
        }
        Verb::Check(args) => {
            let config = args.settings.config()?;
            args.settings.file.check_profiles()?;
            let lacking = agents_without_keys(&config)?.iter().map(ToString::to_string).collect();
            args.format.tell(&Checked { file: args.settings.file.path()?, lacking }, |checked| {
                match &checked.file {
                    Some(file) => output::line(format_args!("{} can be used", file.display())),
                    None => output::line("there is no file, and the defaults can be used"),
                }?;
                checked.lacking.iter().try_for_each(|lacking| output::line(format_args!("but for {lacking}")))
            })
        }
        Verb::Path(args) => {
            let file = args.settings.file.path()?;
            let others = settings::candidates().into_iter().filter(|other| Some(other) != file.as_ref()).collect();
            args.format.tell(&Found { file, others }, |found| {
                found.file.iter().chain(&found.others).try_for_each(|file| output::line(file.display()))
            })
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
