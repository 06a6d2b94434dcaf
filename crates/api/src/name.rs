//! Which session does a name mean?

use windlass_core::SessionId;

/// The session of this name within a tenant; `None` is the default tenant. A UUID is itself; any other name is hashed,
/// so that the same name is always the same session, on every machine.
///
/// ```
/// use windlass_api::session_id;
/// assert_eq!(session_id(None, "chat"), session_id(None, "chat"));
/// assert_ne!(session_id(None, "chat"), session_id(Some("acme"), "chat"));
/// ```
pub fn session_id(tenant: Option<&str>, name: &str) -> SessionId {
    if let Ok(id) = name.parse() {
        return id;
    }
    let hash = match tenant {
        None => blake3::derive_key("windlass 2026 session id of a name", name.as_bytes()),
        Some(tenant) => {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            let mut material = (tenant.len() as u64).to_le_bytes().to_vec();
            material.extend(tenant.as_bytes());
            material.extend(name.as_bytes());
            blake3::derive_key("windlass 2026 session id of a name within a tenant", &material)
        }
    };
    let bytes: [u8; 16] = hash[..16].try_into().expect("sixteen of thirty-two bytes");
    SessionId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// Whether the text may name a session: 1 to 64 of `A-Z a-z 0-9 _ -`, and not a UUID.
pub fn is_session_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(allowed) && text.parse::<SessionId>().is_err()
}

/// The session that a text means, and the name if it is one.
///
/// # Errors
/// [`InvalidSessionName`] if it is neither a UUID nor a name.
pub fn parse_session<'t>(
    tenant: Option<&str>,
    text: &'t str,
) -> Result<(SessionId, Option<&'t str>), InvalidSessionName> {
    match text.parse() {
        Ok(id) => Ok((id, None)),
        Err(_) if is_session_name(text) => Ok((session_id(tenant, text), Some(text))),
        Err(_) => Err(InvalidSessionName),
    }
}

/// The text names no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSessionName;

impl std::fmt::Display for InvalidSessionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a session is named by its UUID, or by 1 to 64 of A-Z a-z 0-9 _ -")
    }
}

impl std::error::Error for InvalidSessionName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_always_the_same_session_and_a_uuid_is_itself() {
        let uuid = "0190b8a0-1111-7222-8333-444455556666";
        assert_eq!(session_id(None, uuid).to_string(), uuid);
        assert_eq!(session_id(Some("acme"), uuid).to_string(), uuid);
        assert_ne!(session_id(None, "chat"), session_id(None, "Chat"));
        assert_ne!(session_id(Some("ab"), "c"), session_id(Some("a"), "bc"));
        assert_eq!(session_id(None, "chat").as_uuid().get_version_num(), 8);
    }

    #[test]
    fn names_are_short_plain_and_no_uuids() {
        let long = "x".repeat(65);
        for (text, ok) in [
            ("chat", true),
            ("A_b-9", true),
            ("", false),
            ("a b", false),
            ("ä", false),
            ("a/b", false),
            (&long, false),
            ("0190b8a0-1111-7222-8333-444455556666", false),
        ] {
            assert_eq!(is_session_name(text), ok, "{text:?}");
        }
    }
}
