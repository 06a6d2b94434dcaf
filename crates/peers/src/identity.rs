//! Which key does a peer sign with, and how is it written?

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use windlass_runtime::comms::{InvalidPeerName, PeerName};

/// The key of one session, or of a process for all of its sessions. Whoever has it speaks for them.
pub struct Identity {
    key: SigningKey,
    name: PeerName,
}

impl Identity {
    /// The key that this seed stands for. Keep the seed as you keep a password; make it of 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Identity {
        let key = SigningKey::from_bytes(seed);
        let text: std::sync::Arc<str> = format!("ed25519:{}", STANDARD.encode(key.verifying_key().as_bytes())).into();
        let name = PeerName::new(text).expect("32 bytes in base64 are a short line of visible ASCII");
        Identity { key, name }
    }

    /// The public key: `ed25519:` and base64. What the others pin.
    pub fn name(&self) -> &PeerName {
        &self.name
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Signature {
        self.key.sign(bytes)
    }
}

/// The secret stays out of logs.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.name).finish()
    }
}

/// The key and, where several sessions are behind one key, which of them: `KEY#SESSION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The key: `ed25519:` and base64.
    pub key: &'a str,
    /// The session.
    pub session: Option<&'a str>,
}

impl<'a> Address<'a> {
    /// Reads a name as an address. Whether its key is one is not looked at.
    pub fn of(name: &'a PeerName) -> Address<'a> {
        match name.as_str().split_once('#') {
            Some((key, session)) => Address { key, session: Some(session) },
            None => Address { key: name.as_str(), session: None },
        }
    }

    /// Whether its key can be pinned.
    pub fn has_key(self) -> bool {
        decode(self.key).is_some()
    }

    /// The address as a name.
    ///
    /// # Errors
    /// [`InvalidPeerName`]: it is too long for one.
    pub fn to_name(self) -> Result<PeerName, InvalidPeerName> {
        let Address { key, session } = self;
        PeerName::new(session.map_or_else(|| key.to_owned(), |session| format!("{key}#{session}")))
    }
}

/// The key that an address spells, if it spells one.
pub(crate) fn verifying_key(name: &PeerName) -> Option<VerifyingKey> {
    decode(Address::of(name).key)
}

fn decode(key: &str) -> Option<VerifyingKey> {
    let bytes = STANDARD.decode(key.strip_prefix("ed25519:")?).ok()?;
    VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()
}
