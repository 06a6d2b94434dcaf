//! Where is the data, and which session is meant?

use crate::failure::Failure;
use etcetera::BaseStrategy;
use std::path::{Path, PathBuf};
use uuid::Uuid;
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

    /// The store's file, which must exist: reading verbs create nothing.
    pub(crate) fn existing_store(&self) -> Result<PathBuf, Failure> {
        let folder = self.folder()?;
        let file = store_file(&folder);
        if file.is_file() {
            Ok(file)
        } else {
            Err(Failure::not_found(format!("there is no store at {}", file.display()))
                .hint("--dir DIR, or set WINDLASS_DIR"))
        }
    }
}

/// The store within a folder.
pub(crate) fn store_file(folder: &Path) -> PathBuf {
    folder.join("windlass.db")
}

/// The blobs within a folder.
pub(crate) fn blob_folder(folder: &Path) -> PathBuf {
    folder.join("blobs")
}

/// The session of this name: a UUID is itself, any other name is hashed, so that the same name is always the same
/// session, on every machine.
pub(crate) fn session_id(name: &str) -> SessionId {
    let uuid = Uuid::parse_str(name).unwrap_or_else(|_| {
        let hash = blake3::derive_key("windlass 2026 session id of a name", name.as_bytes());
        let bytes: [u8; 16] = hash[..16].try_into().expect("sixteen of thirty-two bytes");
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    });
    SessionId::from_uuid(uuid)
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
