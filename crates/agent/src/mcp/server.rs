//! How is a server reached, and reached again?

use super::{McpConfig, tool::McpTool};
use crate::{
    Program,
    complaints::Meter,
    config::keys::handed_on,
    egress::{Egress, EgressRules},
    program::{Group, Lines},
    sandbox::Profile,
    secrets::given::hidden,
    tools::Tool,
};
use reqwest::Url;
use rmcp::{
    RoleClient,
    model::{PaginatedRequestParams, ProtocolVersion, Tool as Offer},
    service::{ClientInitializeError, ClientLifecycleMode, ClientServiceExt, Peer, RunningService},
    transport::{
        StreamableHttpClientTransport, async_rw::AsyncRwTransport,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

/// How long a server may take to start and to say what it offers.
const STARTING: Duration = Duration::from_secs(30);
/// The pause after a start that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// The most tools of one server: a model that is offered more chooses badly.
const TOOLS: usize = 256;
/// The most pages of its list. A server that says "more" for ever is not believed.
const PAGES: usize = 64;
/// The largest message, in bytes.
const MESSAGE: usize = 4 << 20;

/// A server could not be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error("mcp_unavailable: {server}: {problem}")]
pub struct McpUnavailable {
    /// Its name.
    pub server: String,
    /// Why, and what to try.
    pub problem: String,
}

/// An MCP server, connected when needed. Cheap to clone; its program dies with the last clone and the last of its tools.
#[derive(Clone)]
pub struct McpServer {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    config: McpConfig,
    /// What the server was given last, and is not to be quoted with. Older ones are known to the process.
    secrets: RwLock<Arc<[SecretString]>>,
    /// Held while a connection is made, so that many calls make one.
    connection: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    live: Option<Connection>,
    failed: Option<Instant>,
}

/// A connection, and what the server offers over it.
type Live = (Peer<RoleClient>, Arc<HashMap<String, Offer>>);

struct Connection {
    service: RunningService<RoleClient, ()>,
    offers: Arc<HashMap<String, Offer>>,
    /// The program and all it starts, killed when this is dropped; none for endpoints.
    _group: Option<Group>,
    _complaints: Option<AbortOnDropHandle<()>>,
}

impl Connection {
    fn is_dead(&self) -> bool {
        self.service.is_closed() || self.service.is_transport_closed()
    }
}

impl McpServer {
    /// A server under a name of yours. Nothing is started yet.
    pub fn new(name: impl Into<String>, config: McpConfig) -> McpServer {
        let (secrets, connection) = (RwLock::new(Arc::default()), Mutex::default());
        McpServer { inner: Arc::new(Inner { name: name.into(), config, secrets, connection }) }
    }

    /// Its tools, as it offers them now.
    ///
    /// # Errors
    /// [`McpUnavailable`] if it cannot be reached, or does not say what it offers.
    pub async fn tools(&self) -> Result<Vec<Arc<dyn Tool>>, McpUnavailable> {
        let (_, offers) = self.live().await?;
        let wanted = &self.inner.config.tools;
        if let Some(missing) = wanted.iter().find(|name| !offers.contains_key(*name)) {
            return Err(self.unavailable(&format!("it offers no tool {missing:?}; correct the setting tools")));
        }
        let mut names: Vec<&String> = offers.keys().collect();
        names.sort();
        let mut tools: HashMap<String, Arc<dyn Tool>> = HashMap::new();
        for offer in
            names.into_iter().filter(|name| wanted.is_empty() || wanted.contains(name)).map(|name| &offers[name])
        {
            match McpTool::new(self.clone(), &self.inner.name, offer, &self.inner.config) {
                Ok(tool) if tools.contains_key(tool.name()) => {
                    let tool = self.discreet(&offer.name);
                    tracing::warn!(server = self.inner.name, tool, "left out: another tool has this name");
                }
                Ok(tool) => drop(tools.insert(tool.name().to_owned(), Arc::new(tool))),
                Err(problem) => {
                    let (tool, problem) = (self.discreet(&offer.name), self.discreet(&problem));
                    tracing::warn!(server = self.inner.name, tool, problem, "tool left out");
                }
            }
        }
        Ok(tools.into_values().collect())
    }

    /// A connection that lives, as far as is known, and what it offers. Makes one if there is none.
    pub(super) async fn live(&self) -> Result<Live, McpUnavailable> {
        // In a task of its own: a call that ends before a slow server has started leaves it to the next one.
        let server = self.clone();
        match tokio::spawn(async move { server.connected().await }).await {
            Ok(live) => live,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(self.unavailable("this process ends")),
            },
        }
    }

    /// Takes the connection with these offers for dead.
    pub(super) async fn forget(&self, offers: &Arc<HashMap<String, Offer>>) {
        let mut link = self.inner.connection.lock().await;
        link.live.take_if(|live| Arc::ptr_eq(&live.offers, offers));
    }

    async fn connected(&self) -> Result<Live, McpUnavailable> {
        let mut link = self.inner.connection.lock().await;
        if link.live.as_ref().is_some_and(Connection::is_dead) {
            tracing::warn!(server = self.inner.name, "an MCP server is gone");
            link.live = None;
        }
        if link.live.is_none() {
            if link.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
                return Err(self.unavailable("it could not be started a moment ago"));
            }
            let connected = tokio::time::timeout(STARTING, self.connect()).await;
            let connected = connected.unwrap_or_else(|_| Err(format!("it did not start within {STARTING:?}")));
            match connected {
                Ok(connection) => *link = Link { live: Some(connection), failed: None },
                Err(problem) => {
                    link.failed = Some(Instant::now());
                    return Err(self.unavailable(&problem));
                }
            }
        }
        let connection = link.live.as_ref().expect("there was one, or it was just made");
        Ok((connection.service.peer().clone(), Arc::clone(&connection.offers)))
    }

    /// What goes wrong with a server is told in its own words, which may quote what it was given.
    fn unavailable(&self, problem: &str) -> McpUnavailable {
        McpUnavailable { server: self.inner.name.clone(), problem: self.discreet(problem) }
    }

    /// A text without what the server was given in secret.
    pub(super) fn discreet(&self, text: &str) -> String {
        // It holds one pointer, which is whole whoever panics.
        let secrets = Arc::clone(&self.inner.secrets.read().unwrap_or_else(PoisonError::into_inner));
        hidden(text, &secrets)
    }

    /// From here on it is hidden in what the server says.
    fn give(&self, secrets: Vec<SecretString>) {
        *self.inner.secrets.write().unwrap_or_else(PoisonError::into_inner) = secrets.into();
    }

    async fn connect(&self) -> Result<Connection, String> {
        let config = &self.inner.config;
        match (config.command.is_empty(), &config.url) {
            (false, None) => self.start(config).await,
            (true, Some(url)) => self.reach(config, url).await,
            _ => Err("give either command or url".into()),
        }
    }

    async fn start(&self, config: &McpConfig) -> Result<Connection, String> {
        let mut program = Program::new(&config.command);
        program.secret_env = handed_on(&config.env_from)?;
        self.give(program.secrets());
        program.env = config.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        program.dir = config.dir.clone();
        program.sandbox = config.sandbox.or(Profile::None);
        program.sandbox.check(program.dir.as_deref()).map_err(|error| error.to_string())?;
        let mut group = Group::spawn(&program).map_err(|error| error.to_string())?;
        let (stdin, stdout, stderr) = group.pipes();
        let (name, secrets) = (self.inner.name.clone(), program.secrets());
        let complaints = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut meter = Meter::new(|line| tracing::info!(target: "windlass::mcp", server = name, "{line}"));
            let mut lines = Lines::new(stderr);
            while let Some(line) = lines.next().await {
                meter.hear(&hidden(&line, &secrets));
            }
        }));
        let transport = AsyncRwTransport::new_client(stdout, stdin).with_max_line_length(MESSAGE);
        let service = ().serve_with_lifecycle(transport, lifecycle()).await.map_err(not_begun)?;
        let offers = offers(&service).await?;
        Ok(Connection { service, offers, _group: Some(group), _complaints: Some(complaints) })
    }

    async fn reach(&self, config: &McpConfig, url: &str) -> Result<Connection, String> {
        let url = Url::parse(url).map_err(|error| format!("url is no URL: {error}"))?;
        let egress = Egress::new(EgressRules { allow: config.allow.clone() })
            .map_err(|error| format!("there is no TLS here: {error}"))?;
        egress.check(&url).map_err(|refused| refused.to_string())?;
        let mut settings = StreamableHttpClientTransportConfig::with_uri(url.as_str())
            .max_json_response_size(MESSAGE)
            // Another session may offer other tools: whoever begins it anew looks at them.
            .reinit_on_expired_session(false)
            .max_sse_event_size(MESSAGE);
        if let Some(token) = config.token()? {
            settings = settings.auth_header(token.expose_secret());
            self.give(vec![token]);
        }
        // Its client judges the address each time that it dials; the URL stays the same.
        let transport = StreamableHttpClientTransport::with_client(egress.client().clone(), settings);
        let service = ().serve_with_lifecycle(transport, lifecycle()).await.map_err(not_begun)?;
        let offers = offers(&service).await?;
        Ok(Connection { service, offers, _group: None, _complaints: None })
    }
}

/// Why a connection could not be begun, in whichever way.
fn not_begun(error: ClientInitializeError) -> String {
    match error {
        ClientInitializeError::LegacyFallbackFailed { discover, fallback } => {
            let (newest, old) = (not_begun(*discover), not_begun(*fallback));
            if newest == old { newest } else { format!("{newest}; and in the way of older servers: {old}") }
        }
        error => error.to_string(),
    }
}

/// The newest way to begin, or the old one with servers that know no other.
fn lifecycle() -> ClientLifecycleMode {
    ClientLifecycleMode::Auto { preferred_versions: vec![ProtocolVersion::V_2026_07_28], legacy_version: None }
}

async fn offers(service: &RunningService<RoleClient, ()>) -> Result<Arc<HashMap<String, Offer>>, String> {
    let (mut offers, mut cursor) = (HashMap::new(), None);
    for _ in 0..PAGES {
        let page = PaginatedRequestParams::default().with_cursor(cursor);
        let page =
            service.list_tools(Some(page)).await.map_err(|error| format!("it does not list its tools: {error}"))?;
        offers.extend(page.tools.into_iter().map(|tool| (tool.name.to_string(), tool)));
        if offers.len() > TOOLS {
            return Err(format!("it offers more than {TOOLS} tools"));
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(Arc::new(offers));
        }
    }
    Err(format!("its list of tools has more than {PAGES} pages"))
}

/// What was told of a tool, in a form that can be compared.
pub(super) fn schema(offer: &Offer) -> Value {
    Value::Object((*offer.input_schema).clone())
}

impl std::fmt::Debug for McpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpServer").field("name", &self.inner.name).finish_non_exhaustive()
    }
}
