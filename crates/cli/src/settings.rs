//! Where is the configuration, and which connections does it name?
//!
//! One file for both sides: the server's tables, and `[profile.NAME]` for those who call it.

use crate::failure::Failure;
use etcetera::BaseStrategy;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use windlass_client::Client;
use windlass_server::{Config, config::Sources};

/// Where the configuration of a whole machine is.
const OF_THE_MACHINE: &str = "/etc/windlass/windlass.toml";

/// Which configuration file.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct ConfigFile {
    /// The configuration file [default: ~/.config/windlass/config.toml, else /etc/windlass/windlass.toml]
    #[arg(long, env = "WINDLASS_CONFIG", value_name = "FILE", help_heading = "Server")]
    config: Option<PathBuf>,
}

/// A connection by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) token: Option<String>,
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
}

impl ConfigFile {
    /// The one of a command without flags.
    pub(crate) fn of_environment() -> ConfigFile {
        ConfigFile { config: std::env::var_os("WINDLASS_CONFIG").map(Into::into) }
    }

    /// The file that counts; none if there is none. One that was named must exist.
    pub(crate) fn path(&self) -> Result<Option<PathBuf>, Failure> {
        if let Some(file) = &self.config {
            return if file.is_file() {
                Ok(Some(file.clone()))
            } else {
                Err(Failure::config(format!("there is no file {}", file.display()))
                    .hint("windlass config template, for one to begin with"))
            };
        }
        Ok(candidates().into_iter().find(|file| file.is_file()))
    }

    /// The profile of this name, which must exist.
    pub(crate) fn profile(&self, name: &str) -> Result<Profile, Failure> {
        let (file, mut profiles) = self.profiles()?;
        profiles.remove(name).ok_or_else(|| {
            let place = file.map_or_else(|| "any configuration file".to_owned(), |file| file.display().to_string());
            let known: Vec<String> = profiles.into_keys().collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Failure::config(format!("there is no [profile.{name}] in {place}; there is: {known}"))
        })
    }

    /// The profile called `default`, if there is one.
    pub(crate) fn default_profile(&self) -> Result<Option<Profile>, Failure> {
        Ok(self.profiles()?.1.remove("default"))
    }

    /// Checks the profiles: each can be used, as far as that can be told without a server.
    pub(crate) fn check_profiles(&self) -> Result<(), Failure> {
        let (file, profiles) = self.profiles()?;
        for (name, profile) in profiles {
            let place = file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
            let mut client = Client::builder(profile.url);
            if profile.token.is_some() || profile.token_file.is_some() {
                client = client.token("wl_".into());
            }
            client.build().map_err(|error| Failure::config(format!("{place}: profile.{name}: {error}")))?;
        }
        Ok(())
    }

    /// The store that a server of this configuration would open, if it says so.
    pub(crate) fn store_path(&self) -> Result<Option<PathBuf>, Failure> {
        let env = std::env::var("WINDLASS_STORE__PATH").map(|path| ("WINDLASS_STORE__PATH".to_owned(), path));
        let sources = Sources { file: self.path()?, env: env.into_iter().collect(), flags: Vec::new() };
        Ok(Config::load(&sources)?.store.path)
    }

    fn profiles(&self) -> Result<(Option<PathBuf>, BTreeMap<String, Profile>), Failure> {
        #[derive(Deserialize)]
        struct Profiles {
            #[serde(default)]
            profile: BTreeMap<String, Profile>,
        }
        let Some(file) = self.path()? else { return Ok((None, BTreeMap::new())) };
        let text = read(&file)?;
        // Only this part: what a server makes of the rest is no business of those who call it.
        let profiles: Profiles = toml::from_str(&text)
            .map_err(|error| Failure::config(format!("{}: {error}", file.display())).hint("windlass config check"))?;
        Ok((Some(file), profiles.profile))
    }
}

/// Where a configuration is looked for, in this order.
pub(crate) fn candidates() -> Vec<PathBuf> {
    let mine = etcetera::choose_base_strategy().ok().map(|base| base.config_dir().join("windlass/config.toml"));
    mine.into_iter().chain([PathBuf::from(OF_THE_MACHINE)]).collect()
}

/// The text of a configuration.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::config(format!("{}: {error}", file.display())))
}
