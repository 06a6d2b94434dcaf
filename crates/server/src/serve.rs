//! How does a server start, and how does it end?
//!
//! It starts only where it is safe, tells its supervisor when it is ready, and ends in good order: at once not ready,
//! streams closed, runs at a boundary or resumable, connections after their request, all within the grace time.

use crate::{
    api::{
        self,
        peers::remote::{PeersError, Remotes},
    },
    auth::{self, Jwt, JwtKeysError, Tokens},
    config::Config,
    guard::Guard,
    health::{self, Health},
    inherited,
    limits::Rates,
    listener::Door,
    problem::{Code, Problem},
    routes::Routes,
    state::{AgentCatalog, AppState, Parts},
    telemetry::Metrics,
    tls::{Tls, TlsError},
    trace::{OtlpError, Traces},
};
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use windlass_agent::{
    config::{AgentInvalid, Agents},
    llm::LlmDeps,
};
use windlass_core::Limits;
use windlass_runtime::{
    ExecutorFactory, Observer, RuntimeSessionAdapter, SystemClock,
    blob::{BlobError, BlobStore},
    documents::{DocumentError, Documents},
    object_blobs::ObjectBlobs,
    store::{ListQuery, Store, StoreError},
};
use windlass_sqlite::{SqliteOptions, SqliteStore};

/// Why a server did not start, or did not go on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Anybody could call it.
    #[error("unsafe_listen: {listen} can be reached by others: {missing}; {hint}")]
    Exposed {
        /// The address.
        listen: SocketAddr,
        /// What is missing.
        missing: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The address cannot be listened on.
    #[error("listen_failed: {listen}: {error}; stop what listens there, or choose another server.listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        error: Arc<io::Error>,
    },
    /// The socket that the supervisor has passed cannot be used.
    #[error(
        "socket_unusable: what the supervisor passed cannot be listened on: {0}; pass one TCP socket (ListenStream=)"
    )]
    Inherited(Arc<io::Error>),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs cannot be opened.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// An agent is declared wrongly, which [`Config::load`] would have refused.
    #[error("config_invalid: {0}")]
    Agents(#[from] AgentInvalid),
    /// The peers of the configuration cannot be used, or the server has no key for them.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// The folder of the store cannot be made or written.
    #[error("folder_unusable: {}: {error}; give it to this user, or set another --dir", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: Arc<io::Error>,
    },
    /// There is no place for the data.
    #[error("no_data_folder: {0}; set store.path")]
    NoFolder(String),
    /// The tokens cannot be read.
    #[error("{0}")]
    Tokens(Problem),
    /// The policies cannot be read.
    #[error("policies_unreadable: {0}; run `windlass verify`")]
    Policies(DocumentError),
    /// The keys of JWTs cannot be used.
    #[error(transparent)]
    JwtKeys(#[from] JwtKeysError),
    /// Spans cannot be exported as configured.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// Nothing can be counted: a bug.
    #[error("{0}")]
    Metrics(Problem),
    /// The store could not be written for longer than the configuration allows.
    #[error("store_lost: the store did not take a commit for {} s ({code}); start again when it is back", after.as_secs_f64())]
    StoreLost {
        /// What it answered last.
        code: Code,
        /// How long that is.
        after: Duration,
    },
    /// A second signal came before the server had ended in good order. Nothing accepted is lost.
    #[error("interrupted: a second signal ended the server at once; accepted work resumes at the next start")]
    Interrupted,
}

impl ServeError {
    /// The exit code of a process that ends with this.
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::Exposed { .. }
            | ServeError::Listen { .. }
            | ServeError::Inherited(_)
            | ServeError::Tls(_)
            | ServeError::JwtKeys(_)
            | ServeError::Agents(_)
            | ServeError::Peers(_)
            | ServeError::Otlp(_)
            | ServeError::NoFolder(_)
            | ServeError::Folder { .. }
            | ServeError::Store(StoreError::Newer { .. }) => 78,
            ServeError::Store(StoreError::Locked { .. }) => 5,
            ServeError::StoreLost { .. } => 70,
            ServeError::Interrupted => 130,
            _ => 1,
        }
    }
}

/// After the grace time, how long runs that are stopped and connections may take to end.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// How much of that is left to connections, whatever runs do.
const CONNECTIONS_END: Duration = Duration::from_secs(2);
/// After that, how long tasks that outlived their request may take.
const TASKS_END: Duration = Duration::from_millis(500);
/// The pause after what has to be done at the start failed; it doubles up to the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LONGEST: Duration = Duration::from_secs(30);
/// How often the uses of tokens are noted.
const NOTE: Duration = Duration::from_secs(60);

/// A server that runs. Dropping it ends it at once.
pub struct Server {
    address: SocketAddr,
    state: AppState,
    tls: Option<Tls>,
    door: JoinHandle<()>,
    closing: CancellationToken,
    killed: CancellationToken,
    connections: TaskTracker,
}

/// How a server is put together.
pub struct ServerBuilder {
    config: Config,
    store: Arc<dyn Store>,
    pub(crate) documents: Arc<dyn Documents>,
    blobs: Option<Arc<dyn BlobStore>>,
    agents: Option<(Arc<dyn ExecutorFactory>, Arc<dyn AgentCatalog>)>,
    metrics: Option<Arc<Metrics>>,
    routes: Vec<Box<dyn FnOnce(Routes) -> Routes + Send>>,
}

impl ServerBuilder {
    /// Where journals are kept, if not where the documents are.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = store;
        self
    }

    /// Where media is kept. Without, inputs with inline media are refused.
    pub fn blobs(mut self, blobs: Arc<dyn BlobStore>) -> Self {
        self.blobs = Some(blobs);
        self
    }

    /// Who answers; and what is told of them. Without, the agents of the configuration do.
    pub fn agents(mut self, factory: Arc<dyn ExecutorFactory>, agents: Arc<dyn AgentCatalog>) -> Self {
        self.agents = Some((factory, agents));
        self
    }

    /// Where it counts; the store may count there too. Without, the server makes its own.
    pub fn metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Routes of your own, behind the same guard.
    pub fn routes(mut self, add: impl FnOnce(Routes) -> Routes + Send + 'static) -> Self {
        self.routes.push(Box::new(add));
        self
    }

    /// Listens, and answers from then on.
    ///
    /// # Errors
    /// [`ServeError`]; nothing listens then.
    pub async fn start(self) -> Result<Server, ServeError> {
        let listener = listen(self.config.server.listen).await?;
        self.start_on(listener).await
    }

    async fn start_on(self, listener: TcpListener) -> Result<Server, ServeError> {
        let config = self.config;
        let tls = Tls::of(&config.server)?;
        let tokens = Tokens::load(Arc::clone(&self.documents), Arc::new(SystemClock)).await;
        let tokens = tokens.map_err(ServeError::Tokens)?;
        let jwt = Jwt::of(&config.auth)?;
        refuse_exposure(&config, tokens.is_empty() && jwt.is_none())?;
        let address = listener
            .local_addr()
            .map_err(|error| ServeError::Listen { listen: config.server.listen, error: Arc::new(error) })?;
        let limits = Limits { queued: config.limits.inputs_per_session, ..Limits::default() };
        let metrics = match self.metrics {
            Some(metrics) => metrics,
            None => Arc::new(Metrics::new().map_err(ServeError::Metrics)?),
        };
        let traces = Traces::of(&config.telemetry)?;
        let policies = api::PolicyBook::load(Arc::clone(&self.documents)).await.map_err(ServeError::Policies)?;
        let policies = Arc::new(policies);
        let peers = api::peers::carry::PeersOfAgents::default();
        let (factory, agents) = match self.agents {
            Some(given) => given,
            None => {
                let deps =
                    LlmDeps { blobs: self.blobs.clone(), peers: Some(Arc::new(peers.clone())), ..LlmDeps::default() };
                let agents = Arc::new(Agents::with(config.agents.clone(), deps)?);
                for lacking in agents.without_keys() {
                    tracing::warn!(error = %lacking, "an agent cannot be used until its key is there");
                }
                (Arc::clone(&agents) as Arc<dyn ExecutorFactory>, agents as Arc<dyn AgentCatalog>)
            }
        };
        let mut runtime = RuntimeSessionAdapter::builder()
            .policies(Arc::clone(&policies) as Arc<dyn windlass_runtime::Policies>)
            .store(self.store)
            .factory(factory)
            .limits(limits)
            .observer(Arc::clone(&metrics) as Arc<dyn Observer>);
        if let Some(blobs) = self.blobs {
            runtime = runtime.blobs(blobs);
        }
        let remotes = Remotes::of(&config.server, config.store.path.as_deref(), &config.peers)?;
        if let Some(tracer) = traces.tracer() {
            runtime = runtime.tracer(tracer);
        }
        let state = AppState::new(Parts {
            adapter: runtime.build(),
            documents: self.documents,
            agents,
            metrics,
            traces,
            tokens,
            jwt,
            rates: Rates::new(&config.limits),
            closing: CancellationToken::new(),
            draining: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            health: Health::default(),
            api: api::Api::new(&config.limits, policies, remotes),
            config: config.clone(),
        });
        peers.open(&state);
        let routes = self.routes.into_iter().fold(routes(), Routes::and);
        let (closing, killed, connections) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let door = Door {
            listener,
            guard: Guard::new(state.clone(), routes.router(state.clone())),
            tls: tls.clone(),
            config,
            closing: closing.clone(),
            killed: killed.clone(),
            connections: connections.clone(),
        };
        let door = tokio::spawn(door.run());
        state.tasks().spawn(resume(state.clone()));
        state.tasks().spawn(note_uses(state.clone()));
        state.tasks().spawn(sweep(state.clone()));
        Ok(Server { address, state, tls, door, closing, killed, connections })
    }
}

/// Every route of the server.
pub fn routes() -> Routes {
    Routes::new().and(health::routes).and(auth::routes).and(api::routes).and(crate::openapi::routes)
}

impl Server {
    /// A server on this store, with the agents of its configuration unless told otherwise.
    pub fn builder<S: Store + Documents>(config: Config, store: Arc<S>) -> ServerBuilder {
        ServerBuilder {
            config,
            documents: Arc::clone(&store) as Arc<dyn Documents>,
            store,
            blobs: None,
            agents: None,
            metrics: None,
            routes: Vec::new(),
        }
    }

    /// Where it listens; with the port that the system chose, where none was.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers, for example `http://127.0.0.1:7420`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// What its handlers share.
    pub fn state(&self) -> &AppState {
        &self.state
    }

    /// Reads the certificate again. If it cannot be used, the one in use stays.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), Tls::reload)
    }

    /// Ends in good order: not ready from now on; streams end; no run begins, and those that are on may end within the
    /// grace time, as `server.drain_seconds` says; the others stop at a boundary and are put back; connections end
    /// after their request. Takes the grace time and five seconds at most.
    pub async fn shutdown(mut self) {
        self.state.begin_draining();
        let adapter = self.state.adapter();
        let grace = self.state.config().server.drain_seconds.0;
        if tokio::time::timeout(grace, adapter.finish_runs()).await.is_err() {
            tracing::warn!("some runs did not end in time; they are stopped, and resume at the next start");
        }
        let end = Instant::now() + LAST_WORDS;
        if tokio::time::timeout_at(end - CONNECTIONS_END, adapter.shutdown()).await.is_err() {
            tracing::warn!("some runs did not stop in time; they resume at the next start");
        }
        self.closing.cancel();
        self.connections.close();
        if tokio::time::timeout_at(end, self.connections.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time and were cut");
        }
        self.killed.cancel();
        self.connections.wait().await;
        self.state.tasks().close();
        if tokio::time::timeout_at(end + TASKS_END, self.state.tasks().wait()).await.is_err() {
            tracing::warn!("some work in the background did not end in time and was cut");
        }
        let end = (end + TASKS_END).max(Instant::now() + TASKS_END);
        let noted = tokio::time::timeout_at(end, self.state.tokens().note_uses()).await;
        if !matches!(noted, Ok(Ok(_))) {
            tracing::warn!("the last uses of tokens were not noted");
        }
        self.state.traces().shut_down(end.saturating_duration_since(Instant::now()).max(TASKS_END)).await;
        drop((&mut self.door).await);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.begin_draining();
        self.closing.cancel();
        self.killed.cancel();
    }
}

/// Sessions with work go on by themselves; what waits in them is counted first.
async fn resume(state: AppState) {
    let counted = until_done(&state, "what waits could not be counted", || waiting(&state)).await;
    let Some(inputs) = counted else { return };
    state.metrics().found_open(inputs);
    let resume = || state.adapter().resume_pending();
    if let Some(sessions @ 1..) = until_done(&state, "sessions with work could not be listed", resume).await {
        tracing::info!(sessions, "sessions with work were opened");
    }
    until_done(&state, "what sessions have sent could not be listed", || api::peers::carry::resume(&state)).await;
}

/// Tries again, with a pause, until it is done; none if the server closes first.
async fn until_done<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    state: &AppState,
    wrong: &'static str,
    work: impl Fn() -> F,
) -> Option<T> {
    let mut pause = AGAIN_FIRST;
    loop {
        match state.closing().run_until_cancelled(work()).await? {
            Ok(done) => return Some(done),
            Err(error) => tracing::error!(%error, again_in = ?pause, "{wrong}"),
        }
        state.closing().run_until_cancelled(tokio::time::sleep(pause)).await?;
        pause = AGAIN_LONGEST.min(2 * pause);
    }
}

/// How many inputs wait in the store's sessions.
async fn waiting(state: &AppState) -> Result<u64, StoreError> {
    let (mut after, mut inputs) = (None, 0);
    loop {
        let query = ListQuery { pending: true, after, limit: 1_000, ..ListQuery::default() };
        let rows = state.store().list(query).await?;
        let Some(last) = rows.last() else { return Ok(inputs) };
        after = Some(last.session);
        inputs += rows.iter().map(|row| u64::from(row.status.open_inputs)).sum::<u64>();
    }
}

async fn note_uses(state: AppState) {
    while state.closing().run_until_cancelled(tokio::time::sleep(NOTE)).await.is_some() {
        if let Err(problem) = state.tokens().note_uses().await {
            tracing::warn!(%problem, "uses of tokens were not noted; tried again in a minute");
        }
    }
}

/// Blobs that nothing names any more are forgotten now and then.
async fn sweep(state: AppState) {
    let (every, grace) = (state.config().store.sweep_seconds.0, state.config().store.sweep_grace_seconds.0);
    while state.closing().run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        let swept = state.closing().run_until_cancelled(state.adapter().collect_blobs(grace)).await;
        let Some(swept) = swept else { return };
        if let Err(error) = &swept {
            tracing::warn!(%error, "blobs that nothing names could not be forgotten; tried again later");
        }
        state.metrics().swept(swept.ok());
    }
}

async fn listen(at: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(at).await.map_err(|error| ServeError::Listen { listen: at, error: Arc::new(error) })
}

/// Refuses to answer to others without authentication and without secrecy.
fn refuse_exposure(config: &Config, no_tokens: bool) -> Result<(), ServeError> {
    let server = &config.server;
    let private = server.tls_cert.is_some() || server.behind_proxy;
    let exposed = |missing, hint| Err(ServeError::Exposed { listen: server.listen, missing, hint });
    if server.listen.ip().is_loopback() && !server.behind_proxy {
        return Ok(());
    }
    if no_tokens {
        return exposed("there is no token", "make one first: `windlass token create`, with a server on 127.0.0.1");
    }
    if !private {
        return exposed(
            "there is no TLS",
            "set server.tls_cert and server.tls_key, or --behind-proxy if a proxy ends TLS",
        );
    }
    Ok(())
}

/// Where the store's file and its blobs are.
fn places(config: &Config) -> Result<(PathBuf, PathBuf), ServeError> {
    use etcetera::BaseStrategy as _;
    let file = match &config.store.path {
        Some(file) => file.clone(),
        None => etcetera::choose_base_strategy()
            .map_err(|error| ServeError::NoFolder(error.to_string()))?
            .data_dir()
            .join("windlass/windlass.db"),
    };
    let folder = file.parent().map(PathBuf::from).unwrap_or_default();
    let blobs = config.store.blobs.clone().unwrap_or_else(|| folder.join("blobs"));
    Ok((file, blobs))
}

/// Runs a server until SIGTERM or SIGINT, and ends it in good order. `ready` is told where it listens, once it does.
///
/// SIGHUP reads the certificate again.
///
/// # Errors
/// [`ServeError`], whose exit code the process should end with. After [`ServeError::Interrupted`] it should end at
/// once.
pub async fn serve(mut config: Config, ready: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    // A dump of the memory would hold every key.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core dump, which holds secrets");
    }
    let (file, blob_folder) = places(&config)?;
    // Before the store is touched: whoever listens there already may be writing it, and what cannot be served needs none.
    let listener = match inherited::listener().map_err(|error| ServeError::Inherited(Arc::new(error)))? {
        Some(listener) => listener,
        None => listen(config.server.listen).await?,
    };
    // What may be served, and under which names, goes by where it really listens.
    config.server.listen = listener.local_addr().map_err(|error| ServeError::Inherited(Arc::new(error)))?;
    Tls::of(&config.server)?;
    refuse_exposure(&config, !file.exists() && Jwt::of(&config.auth)?.is_none())?;
    config.store.path = Some(file.clone());
    let folder = file.parent().map(PathBuf::from).unwrap_or_default();
    std::fs::create_dir_all(&folder).map_err(|error| ServeError::Folder { folder, error: Arc::new(error) })?;
    let metrics = Arc::new(Metrics::new().map_err(ServeError::Metrics)?);
    let options = SqliteOptions { observer: Some(Arc::clone(&metrics) as _), ..SqliteOptions::default() };
    let store = tokio::task::spawn_blocking(move || SqliteStore::open(file, options))
        .await
        .map_err(|error| StoreError::Unavailable(error.to_string().into()))??;
    let blobs = ObjectBlobs::in_folder(blob_folder)?;
    let mut signals = Signals::new()?;
    let server =
        Server::builder(config, Arc::new(store)).blobs(Arc::new(blobs)).metrics(metrics).start_on(listener).await?;
    supervised(&[sd_notify::NotifyState::Ready]);
    tracing::info!(address = %server.address(), "ready");
    ready(server.address());
    let lost = until_told(&server, &mut signals).await;
    supervised(&[sd_notify::NotifyState::Stopping]);
    if let Some(code) = lost {
        return Err(ServeError::StoreLost { code, after: server.state().config().store.lost_seconds.0 });
    }
    tracing::info!("shutting down");
    let shutdown = server.shutdown();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            signal = signals.next() => if let Signal::End = signal {
                return Err(ServeError::Interrupted);
            },
        }
    }
}

/// Returns when the server is to end: because it was told to, or because the store is lost.
async fn until_told(server: &Server, signals: &mut Signals) -> Option<Code> {
    let mut lost = std::pin::pin!(health::store_lost(server.state()));
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::End => return None,
                Signal::Reload => match server.reload() {
                    Ok(()) => tracing::info!("the certificate was read again"),
                    Err(error) => tracing::error!(%error, "the certificate in use stays"),
                },
            },
            code = &mut lost => return Some(code),
        }
    }
}

/// Tells systemd, where it asked to be told. A supervisor that does not listen is no reason to stop.
fn supervised(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the supervisor could not be told");
    }
}

enum Signal {
    End,
    Reload,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    reload: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals, ServeError> {
        use tokio::signal::unix::{SignalKind, signal};
        let on = |kind| signal(kind).map_err(|error| StoreError::Unavailable(error.to_string().into()));
        Ok(Signals {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            reload: on(SignalKind::hangup())?,
        })
    }

    /// Cancel-safe: a signal is told to the next call.
    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.reload.recv() => Signal::Reload,
        }
    }
}
