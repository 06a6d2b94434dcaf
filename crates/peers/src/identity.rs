//! Which key does a peer sign with, and how is it written?

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use windlass_runtime::comms::PeerName;

/// The key of one session. Whoever has it speaks for the session.
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

/// The key that a name spells, if it spells one.
pub(crate) fn verifying_key(name: &PeerName) -> Option<VerifyingKey> {
    let bytes = STANDARD.decode(name.as_str().strip_prefix("ed25519:")?).ok()?;
    VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()
}
