//! Where is the data, and which session is meant?

use crate::{failure::Failure, settings::ConfigFile};
use etcetera::BaseStrategy;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};
use windlass::SessionId;

/// Where the data is.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Place {
    /// The folder of the data [default: the XDG data folder, for example ~/.local/share/windlass]
    #[arg(long, env = "WINDLASS_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Place {
    /// The folder; it need not exist.
    pub(crate) fn folder(&self) -> Result<PathBuf, Failure> {
        match &self.dir {
            Some(dir) => Ok(dir.clone()),
            None => etcetera::choose_base_strategy().map(|base| base.data_dir().join("windlass")).map_err(|error| {
                Failure::config(format!("there is no home to keep data in: {error}"))
                    .hint("--dir DIR, or set WINDLASS_DIR")
            }),
        }
    }

    /// Whether a folder was named by a flag, and not by the environment alone.
    pub(crate) fn is_by_flag(&self) -> bool {
        by_flag(self.dir.as_ref().map(|dir| dir.as_os_str()), "WINDLASS_DIR")
    }

    /// The store's file, if a folder was named.
    pub(crate) fn named_store(&self) -> Option<PathBuf> {
        self.dir.as_deref().map(store_file)
    }

    /// The store's file; it need not exist. Without a folder it is the one that a server would open.
    pub(crate) fn store(&self) -> Result<PathBuf, Failure> {
        self.store_of(&ConfigFile::of_environment())
    }

    /// The same, of a server with this configuration.
    pub(crate) fn store_of(&self, config: &ConfigFile) -> Result<PathBuf, Failure> {
        match self.named_store() {
            Some(file) => Ok(file),
            None => match config.store_path()? {
                Some(file) => Ok(file),
                None => Ok(store_file(&self.folder()?)),
            },
        }
    }

    /// The store's file, which must exist: reading verbs create nothing.
    pub(crate) fn existing_store(&self) -> Result<PathBuf, Failure> {
        self.existing_store_of(&ConfigFile::of_environment())
    }

    /// The same, of a server with this configuration.
    pub(crate) fn existing_store_of(&self, config: &ConfigFile) -> Result<PathBuf, Failure> {
        let file = self.store_of(config)?;
        if file.is_file() {
            Ok(file)
        } else {
            Err(Failure::not_found(format!("there is no store at {}", file.display()))
                .hint("--dir DIR, or set WINDLASS_DIR"))
        }
    }
}

/// Whether this was given, and is not what the variable says: then it was given by a flag.
pub(crate) fn by_flag(given: Option<&OsStr>, variable: &str) -> bool {
    given.is_some_and(|given| std::env::var_os(variable).is_none_or(|said| said != given))
}

/// The store within a folder.
pub(crate) fn store_file(folder: &Path) -> PathBuf {
    folder.join("windlass.db")
}

/// The blobs within a folder.
pub(crate) fn blob_folder(folder: &Path) -> PathBuf {
    folder.join("blobs")
}

/// The session of this name in the default tenant: a UUID is itself.
pub(crate) fn session_id(name: &str) -> SessionId {
    windlass_client::api::session_id(None, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_always_the_same_session_and_a_uuid_is_itself() {
        let uuid = "0190b8a0-1111-7222-8333-444455556666";
        assert_eq!(session_id(uuid).to_string(), uuid);
        assert_eq!(session_id("chat"), session_id("chat"));
        assert_ne!(session_id("chat"), session_id("Chat"));
        assert_eq!(session_id("chat").as_uuid().get_version_num(), 8);
    }
}
