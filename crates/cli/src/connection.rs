//! Which server is meant, and who asks it?
//!
//! An address is a flag, a variable, a profile's, or the default of this machine, in this order. A profile's token goes
//! to the profile's own address and nowhere else.

use crate::{
    failure::Failure,
    place::{Place, by_flag},
    settings::{ConfigFile, Profile},
};
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use std::{ffi::OsStr, path::PathBuf};
use windlass_client::{Client, DEFAULT_URL, SecretString};

/// Which server.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Connection {
    /// The server's address [default: the profile's, or http://127.0.0.1:7420]
    #[arg(long, env = "WINDLASS_URL", value_name = "URL", help_heading = "Server")]
    url: Option<String>,
    /// The connection of this name in the configuration file
    #[arg(long, env = "WINDLASS_PROFILE", value_name = "NAME", help_heading = "Server")]
    profile: Option<String>,
    /// A file that holds the token [default: WINDLASS_TOKEN, or the profile's]
    // clap's own reader of paths refuses a variable that is empty.
    #[arg(long, env = "WINDLASS_TOKEN_FILE", value_name = "FILE", help_heading = "Server",
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

impl Connection {
    /// A connection of these, and the token of the environment.
    pub(crate) fn of(url: Option<String>, profile: Option<String>, config: ConfigFile) -> Connection {
        let token_file = std::env::var_os("WINDLASS_TOKEN_FILE").map(PathBuf::from);
        Connection { url, profile, token_file, config }
    }

    /// The connection of a command without flags.
    pub(crate) fn of_environment() -> Connection {
        let text = |name| std::env::var(name).ok();
        Connection::of(text("WINDLASS_URL"), text("WINDLASS_PROFILE"), ConfigFile::of_environment())
    }

    /// Whether a server is meant rather than the data in a folder: one that was named, unless it was by the environment
    /// and a folder by a flag; or the default profile's, unless a folder was named.
    pub(crate) fn is_meant(&self, place: &Place) -> Result<bool, Failure> {
        if place.is_by_flag() && !self.is_by_flag() {
            return Ok(false);
        }
        Ok(self.is_named() || (place.named_store().is_none() && self.config.default_profile()?.is_some()))
    }

    /// The configuration that profiles are read from.
    pub(crate) fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// Whether a server was named, rather than taken for granted.
    pub(crate) fn is_named(&self) -> bool {
        self.url().is_some() || self.profile_name().is_some()
    }

    /// The address that was named. A variable that is empty names nothing.
    fn url(&self) -> Option<&str> {
        self.url.as_deref().filter(|url| !url.is_empty())
    }

    fn profile_name(&self) -> Option<&str> {
        self.profile.as_deref().filter(|name| !name.is_empty())
    }

    fn is_by_flag(&self) -> bool {
        let (url, profile) = (self.url().map(OsStr::new), self.profile_name().map(OsStr::new));
        by_flag(url, "WINDLASS_URL") || by_flag(profile, "WINDLASS_PROFILE")
    }

    /// The client. Connects to nothing yet.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let profile = self.profile()?;
        let (address, profile) = match (self.url(), profile) {
            (Some(url), profile) => (url.to_owned(), profile.filter(|profile| profile.url == url)),
            (None, Some(profile)) => (profile.url.clone(), Some(profile)),
            (None, None) => (DEFAULT_URL.to_owned(), None),
        };
        let mut client = Client::builder(address);
        if let Some(token) = self.token(profile.as_ref())? {
            client = client.token(token);
        }
        Ok(client.build()?)
    }

    /// The profile that was asked for, or the one called `default` if there is one.
    fn profile(&self) -> Result<Option<Profile>, Failure> {
        match self.profile_name() {
            Some(name) => self.config.profile(name).map(Some),
            None if self.url().is_some() => Ok(None),
            None => self.config.default_profile(),
        }
    }

    fn token(&self, profile: Option<&Profile>) -> Result<Option<SecretString>, Failure> {
        if let Some(file) = self.token_file.as_ref().filter(|file| !file.as_os_str().is_empty()) {
            return read_token(file).map(Some);
        }
        // No flag: what stands in an argument can be read by everybody on the machine.
        if let Some(token) = std::env::var("WINDLASS_TOKEN").ok().filter(|token| !token.is_empty()) {
            return Ok(Some(token.into()));
        }
        match profile {
            Some(Profile { token: Some(token), .. }) => Ok(Some(token.clone().into())),
            Some(Profile { token_file: Some(file), .. }) => read_token(file).map(Some),
            _ => Ok(None),
        }
    }
}

fn read_token(file: &std::path::Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::config(format!("the token cannot be read: {}: {error}", file.display())))?;
    Ok(text.trim().to_owned().into())
}
