//! Which other servers are there, who is this one to them, and what do they post?
//!
//! A server has one key and signs for all its sessions: `KEY#SESSION` is one of them. It hears the servers whose keys
//! are pinned by its configuration, each for the sessions of one tenant, and calls their sessions `SESSION@NAME`.

use super::carry::{self, Received};
use crate::{
    auth::Tenant,
    config::{PeerConfig, ServerConfig},
    guard::ClientIp,
    problem::Code,
    state::AppState,
};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use windlass_core::{ContentBlock, MediaSource, Timestamp};
use windlass_peers::{Address, Identity, MAX_ENVELOPE_BYTES, PeerRefusal, Postman, SignedEnvelope};
use windlass_runtime::{
    Clock as _, SystemClock,
    comms::{Envelope, EnvelopeBody, MAX_HOPS, PeerName, SendError, SenderNames},
};

/// How long one attempt to post may take.
const POST: Duration = Duration::from_secs(10);

/// What is wrong with a declaration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peers.{peer}: {problem}")]
pub struct PeerInvalid {
    /// The peer's name.
    pub peer: String,
    /// Which setting, and what would be right.
    pub problem: String,
}

/// Why a server has no key, or cannot use what was configured.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// A peer is declared wrongly.
    #[error("config_invalid: {0}")]
    Config(#[from] PeerInvalid),
    /// The file of the server's key cannot be used.
    #[error("peer_key_unusable: {}: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// There is no place for the file.
    #[error("peer_key_unusable: there is no place for this server's key; set server.peer_key")]
    NoPlace,
}

/// The servers that this one writes to and hears.
#[derive(Default)]
pub(crate) struct Remotes(Option<Wired>);

struct Wired {
    identity: Identity,
    postman: Postman,
    by_name: BTreeMap<String, Remote>,
}

/// One of them.
struct Remote {
    key: PeerName,
    url: String,
    tenant: Tenant,
}

/// The key of this server as its peers pin it, made at first use.
///
/// # Errors
/// [`PeersError`].
pub fn peer_key(server: &ServerConfig, store: Option<&Path>) -> Result<String, PeersError> {
    Ok(identity(&key_file(server, store)?)?.name().as_str().to_owned())
}

/// What is wrong with the peers of a configuration.
pub(crate) fn check(peers: &BTreeMap<String, PeerConfig>) -> Result<(), PeerInvalid> {
    let mut keys = BTreeMap::new();
    for (name, peer) in peers {
        let wrong = |problem: String| PeerInvalid { peer: name.clone(), problem };
        if !windlass_api::is_session_name(name) {
            return Err(wrong("a name has 1 to 64 of A-Z a-z 0-9 _ -".into()));
        }
        let key = PeerName::new(peer.key.as_str()).ok();
        if !key.is_some_and(|key| {
            Address::of(&key) == Address { key: &peer.key, session: None } && Address::of(&key).has_key()
        }) {
            return Err(wrong(
                "key: write what `windlass peers id` prints there: ed25519: and 32 bytes in base64".into(),
            ));
        }
        if let Some(other) = keys.insert(&peer.key, name) {
            return Err(wrong(format!("key: {other} has it already; a key is one server's")));
        }
        let plain = |url: &http::Uri| matches!(url.scheme_str(), Some("http" | "https")) && url.query().is_none();
        if !peer.url.parse::<http::Uri>().is_ok_and(|url| plain(&url)) {
            return Err(wrong("url: write http://HOST:PORT or https://HOST".into()));
        }
        if Tenant::parse(&peer.tenant).is_none() {
            return Err(wrong("tenant: 1 to 64 of A-Z a-z 0-9 _ - are taken".into()));
        }
    }
    Ok(())
}

impl Remotes {
    /// As configured. Without any peer there is no key, and nobody is heard.
    pub(crate) fn of(
        server: &ServerConfig,
        store: Option<&Path>,
        peers: &BTreeMap<String, PeerConfig>,
    ) -> Result<Remotes, PeersError> {
        check(peers)?;
        if peers.is_empty() {
            return Ok(Remotes::default());
        }
        let remote = |(name, peer): (&String, &PeerConfig)| {
            let wrong = |what: &str| PeerInvalid { peer: name.clone(), problem: format!("{what}: it is none") };
            let remote = Remote {
                key: PeerName::new(peer.key.as_str()).map_err(|_| wrong("key"))?,
                url: peer.url.clone(),
                tenant: Tenant::parse(&peer.tenant).ok_or_else(|| wrong("tenant"))?,
            };
            Ok((name.clone(), remote))
        };
        let by_name = peers.iter().map(remote).collect::<Result<_, PeersError>>()?;
        let identity = identity(&key_file(server, store)?)?;
        Ok(Remotes(Some(Wired { identity, postman: Postman::new(POST), by_name })))
    }

    /// The names of those that sessions of this tenant may write to.
    pub(super) fn names(&self, tenant: &Tenant) -> Vec<String> {
        let by_name = self.0.iter().flat_map(|wired| &wired.by_name);
        by_name.filter(|(_, remote)| remote.tenant == *tenant).map(|(name, _)| name.clone()).collect()
    }

    /// The addresses, here and there, of an envelope of a session called `from` to `session@name`; none if there is no
    /// such server for this tenant.
    pub(super) fn addresses(&self, tenant: &Tenant, from: &PeerName, to: &PeerName) -> Option<(PeerName, PeerName)> {
        let wired = self.0.as_ref()?;
        let (session, name) = to.as_str().rsplit_once('@')?;
        let remote = wired.by_name.get(name).filter(|remote| remote.tenant == *tenant)?;
        windlass_api::parse_session(None, session).ok()?;
        let ours = Address { key: wired.identity.name().as_str(), session: Some(from.as_str()) };
        let theirs = Address { key: remote.key.as_str(), session: Some(session) };
        Some((ours.to_name().ok()?, theirs.to_name().ok()?))
    }

    /// Posts an envelope to the server that it is addressed to; `to` is the receiver as the sender calls it.
    pub(super) async fn post(&self, envelope: &Envelope, to: &PeerName) -> Result<(), SendError> {
        let unknown = || SendError::PeerNotFound(to.clone());
        let wired = self.0.as_ref().ok_or_else(unknown)?;
        let (_, remote) = wired.of_key(Address::of(&envelope.to).key).ok_or_else(unknown)?;
        wired.postman.post(envelope, &wired.identity, to, &remote.url, SystemClock.now()).await
    }
}

impl Wired {
    fn of_key(&self, key: &str) -> Option<(&str, &Remote)> {
        self.by_name.iter().find(|(_, remote)| remote.key.as_str() == key).map(|(name, remote)| (name.as_str(), remote))
    }

    /// Reads an envelope and checks all that can be checked without the receiver's session. Answers from which server it
    /// is, too.
    fn open(&self, bytes: &[u8], now: Timestamp) -> Result<(Envelope, &str, &Remote), PeerRefusal> {
        let is_known = |from: &PeerName| self.of_key(Address::of(from).key).is_some();
        let is_here = |to: &PeerName| Address::of(to).key == self.identity.name().as_str();
        let (envelope, _) = SignedEnvelope::open(bytes, now, is_known, is_here)?;
        let from = self.of_key(Address::of(&envelope.from).key).ok_or(PeerRefusal::UnknownKey)?;
        Ok((envelope, from.0, from.1))
    }
}

/// Post an envelope
///
/// Of a server whose key is pinned here, to a session of this one. The signature stands for a token. When this answers 202,
/// the session has it on disk; posted again, it is taken once.
#[utoipa::path(
    post, path = "/peers/v1/envelopes", operation_id = "post_envelope", tag = "peers",
    request_body(content = Object, content_type = "application/json", description = "A signed envelope."),
    responses(
        (status = 202, description = "The session has it.", body = Object),
        (status = 400, description = "It is no envelope.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
        (status = 401, description = "The key is not pinned here, or the signature does not fit.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
        (status = 403, description = "It has expired, or there is no such session.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The session does not take it.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn take(
    State(state): State<AppState>,
    Extension(ClientIp(from)): Extension<ClientIp>,
    body: Body,
) -> Response {
    let taken = match axum::body::to_bytes(body, MAX_ENVELOPE_BYTES).await {
        Ok(bytes) => let_in(&state, &bytes).await,
        Err(_) => Err(PeerRefusal::TooLarge),
    };
    let refusal = match taken {
        Ok(envelope) => return (StatusCode::ACCEPTED, Json(json!({ "id": envelope.id }))).into_response(),
        Err(refusal) => refusal,
    };
    let is_stranger = matches!(refusal, PeerRefusal::UnknownKey | PeerRefusal::Signature);
    let too_often = is_stranger && state.rates().failures.take(&from).is_err();
    let refusal = if too_often { PeerRefusal::TooOften } else { refusal };
    state.metrics().envelope_refused(Code::parse(&refusal.code()).map_or("other", Code::as_str));
    refusal.into_response()
}

async fn let_in(state: &AppState, bytes: &[u8]) -> Result<Envelope, PeerRefusal> {
    if state.is_draining() {
        return Err(PeerRefusal::Undecided);
    }
    let wired = state.api().remotes.0.as_ref().ok_or(PeerRefusal::UnknownKey)?;
    let (envelope, name, remote) = wired.open(bytes, SystemClock.now())?;
    state.rates().calls.take(&format!("peer/{name}")).map_err(|_| PeerRefusal::TooOften)?;
    match &envelope.body {
        EnvelopeBody::Message { .. } | EnvelopeBody::Request { .. } if envelope.hops > MAX_HOPS => {
            return Err(PeerRefusal::Loop(envelope.hops));
        }
        // The blobs of this server are not its peers' to name, nor is its room.
        EnvelopeBody::Message { blocks: Some(blocks), .. } if blocks.iter().any(is_kept_media) => {
            return Err(PeerRefusal::Malformed("blocks: media of another server come by url".into()));
        }
        _ => {}
    }
    let session = Address::of(&envelope.to).session.ok_or(PeerRefusal::Audience)?;
    let tenant = remote.tenant.in_profile();
    let (session, _) = windlass_api::parse_session(tenant.as_deref(), session).map_err(|_| PeerRefusal::Audience)?;
    let theirs = Address::of(&envelope.from).session.unwrap_or("server");
    let from = PeerName::new(format!("{theirs}@{name}")).map_err(|error| PeerRefusal::Malformed(error.to_string()))?;
    let received = Received {
        envelope: &envelope,
        names: SenderNames { trusted: Some(&from), registered: None, runtime_id: None },
        tenant: &remote.tenant,
        session,
        // A server signs for all its sessions.
        may_answer: &|asked| Address::of(asked).key == remote.key.as_str(),
    };
    match carry::admit(state, received).await {
        Ok(()) => Ok(envelope),
        Err(SendError::PeerNotFound(_)) => Err(PeerRefusal::Audience),
        Err(SendError::RequestClosed(_)) => Err(PeerRefusal::RequestClosed),
        Err(SendError::Refused(refusal)) => Err(PeerRefusal::Session(refusal)),
        Err(SendError::Validation(problem)) => Err(PeerRefusal::Malformed(problem)),
        Err(_) => Err(PeerRefusal::Undecided),
    }
}

fn is_kept_media(block: &ContentBlock) -> bool {
    matches!(
        block,
        ContentBlock::Image { source: MediaSource::Blob { .. } | MediaSource::Inline { .. }, .. }
            | ContentBlock::Video { source: MediaSource::Blob { .. } | MediaSource::Inline { .. }, .. }
    )
}

/// Where the key is: as configured, or beside the store's file.
fn key_file(server: &ServerConfig, store: Option<&Path>) -> Result<PathBuf, PeersError> {
    let beside = || store.map(|file| file.with_file_name("peer.key"));
    server.peer_key.clone().or_else(beside).ok_or(PeersError::NoPlace)
}

/// The identity whose seed is in this file; made, for its owner's eyes only, if there is none.
fn identity(path: &Path) -> Result<Identity, PeersError> {
    let unusable = |problem: &str| PeersError::Key { path: path.to_owned(), problem: problem.to_owned() };
    let failed = |error: io::Error| unusable(&format!("{error}; choose another server.peer_key"));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let seed = crate::auth::random().map_err(|problem| unusable(problem.text()))?;
            make(path, &STANDARD.encode(seed)).map_err(failed)?;
            // Whoever was faster made the key.
            fs::read_to_string(path).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(unusable("others may read it; chmod 600 it, or make a new one if they may have"));
    }
    let seed = STANDARD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let seed = seed.ok_or_else(|| unusable("it is no key of a server; restore it, or remove it to get a new one"))?;
    Ok(Identity::from_seed(&seed))
}

/// Writes the file whole, unless there is one by now.
fn make(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let server = crate::config::Config::defaults().server;
        let store = folder.path().join("windlass.db");
        let first = peer_key(&server, Some(&store)).unwrap();
        assert!(first.starts_with("ed25519:"), "{first}");
        assert_eq!(peer_key(&server, Some(&store)).unwrap(), first);
        let file = folder.path().join("peer.key");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(peer_key(&server, Some(&store)).unwrap_err().to_string().contains("others may read it"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "no key").unwrap();
        assert!(peer_key(&server, Some(&store)).unwrap_err().to_string().contains("it is no key"));
        assert!(matches!(peer_key(&server, None), Err(PeersError::NoPlace)));
    }

    #[test]
    fn a_peer_is_declared_whole() {
        let key = Identity::from_seed(&[1; 32]).name().as_str().to_owned();
        let peer =
            |url: &str, key: &str, tenant: &str| PeerConfig { url: url.into(), key: key.into(), tenant: tenant.into() };
        let good = peer("https://berlin.example.com", &key, "default");
        for (name, peer, wrong) in [
            ("a b", good.clone(), "a name"),
            ("berlin", peer("berlin.example.com", &key, "default"), "url"),
            ("berlin", peer("ftp://berlin.example.com", &key, "default"), "url"),
            ("berlin", peer("https://berlin.example.com", "ed25519:AAAA", "default"), "key"),
            ("berlin", peer("https://berlin.example.com", &format!("{key}#s"), "default"), "key"),
            ("berlin", peer("https://berlin.example.com", &key, "a b"), "tenant"),
        ] {
            let error = check(&[(name.to_owned(), peer)].into()).unwrap_err().to_string();
            assert!(error.contains(&format!("peers.{name}: {wrong}")), "{error}");
        }
        assert!(check(&[("berlin".to_owned(), good.clone())].into()).is_ok());
        let twice = [("berlin".to_owned(), good.clone()), ("lyon".to_owned(), good)].into();
        assert!(check(&twice).unwrap_err().to_string().contains("berlin has it already"));
    }
}
