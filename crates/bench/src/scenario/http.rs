//! What does it cost to go through HTTP, beside the runtime itself and beside a bare server?
//!
//! The client is a few lines over a socket, so that what is measured is the server. It lives in the same process and
//! shares its two workers.

use crate::{
    Bench,
    measure::on_runtime,
    report::{Figure, Target},
    rig::{Rig, Setup},
    scenario::{PROMPT, median, memory::accepts, memory::round_trips},
};
use anyhow::Context as _;
use async_trait::async_trait;
use std::{net::SocketAddr, path::Path, sync::Arc, time::Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use windlass_agent::config::Agents;
use windlass_core::SessionId;
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, ExecutorFactory, executor_fn};
use windlass_server::{Config, Server};
use windlass_sqlite::{SqliteOptions, SqliteStore};

/// Runs end at once, with nothing to say.
struct Nothing;

#[async_trait]
impl ExecutorFactory for Nothing {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::new(executor_fn(|_| async { Ok(CoreApplyOutput::default()) })))
    }
}

/// A server on a new SQLite file, with room for as many connections and streams as a measurement wants.
pub(super) async fn server(path: &Path) -> anyhow::Result<Server> {
    serving(path, Arc::new(Nothing)).await
}

/// The same, with executors from this factory.
pub(super) async fn serving(path: &Path, executors: Arc<dyn ExecutorFactory>) -> anyhow::Result<Server> {
    crate::floor::sqlite::remove(path)?;
    let mut config = Config::defaults();
    config.server.listen.set_port(0);
    config.limits.connections = 100_000;
    config.limits.connections_per_address = 100_000;
    config.limits.streams_per_token = 100_000;
    let store = SqliteStore::open(path, SqliteOptions::default())?;
    let agents = Arc::new(Agents::new(config.agents.clone())?);
    let builder = Server::builder(config, Arc::new(store)).agents(executors, agents);
    Ok(builder.start().await?)
}

/// A keep-alive connection.
pub(super) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(to: SocketAddr) -> anyhow::Result<Connection> {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        Ok(Connection { socket, buffer: Vec::with_capacity(4_096) })
    }

    /// Sends a request and reads its answer, which must be a success with a length.
    pub(super) async fn ask(&mut self, method: &str, path: &str, headers: &str, body: &str) -> anyhow::Result<String> {
        self.send(method, path, headers, body).await?;
        self.buffer.clear();
        loop {
            anyhow::ensure!(self.socket.read_buf(&mut self.buffer).await? > 0, "the server hung up");
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end])?;
            anyhow::ensure!(head.starts_with("HTTP/1.1 2"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.context("an answer has a length")?.parse()?;
            while self.buffer.len() < end + 4 + length {
                anyhow::ensure!(self.socket.read_buf(&mut self.buffer).await? > 0, "the server hung up");
            }
            return Ok(String::from_utf8(self.buffer[end + 4..].to_vec())?);
        }
    }

    /// Sends a request.
    pub(super) async fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> anyhow::Result<()> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Ok(self.socket.write_all(request.as_bytes()).await?)
    }

    /// The socket, to read a stream from.
    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }
}

/// A new session of this name.
pub(super) async fn create(connection: &mut Connection, name: &str) -> anyhow::Result<()> {
    let body = format!("{{\"name\":\"{name}\"}}");
    connection.ask("POST", "/v1/sessions", "", &body).await.map(drop)
}

pub(super) fn prompt_body() -> String {
    format!("{{\"kind\":\"prompt\",\"text\":{PROMPT:?}}}")
}

/// Microseconds of each of `n` prompts, one after the other.
async fn sent(connection: &mut Connection, session: &str, headers: &str, n: usize) -> anyhow::Result<Vec<f64>> {
    let (path, body) = (format!("/v1/sessions/{session}/inputs"), prompt_body());
    let mut times = Vec::with_capacity(n);
    for _ in 0..n {
        let start = Instant::now();
        connection.ask("POST", &path, headers, &body).await?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// The processor time that this process has taken, in seconds.
fn processor_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("processor time is told by Linux only")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a process has a name")?.1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    // A tick is a hundredth of a second on every Linux of today.
    Ok(ticks / 100.0)
}

/// From request to answer on 64 keep-alive connections, each to a session of its own that is held.
pub(super) fn http_admit(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (connections, each) = (64, bench.size(500, 50));
    let path = bench.dir.join("http_admit.db");
    let [floor, rate, p99, cores] = bench.samples(|| {
        let floor = on_runtime({
            let path = path.clone();
            async move {
                let rig = Rig::sqlite(&path, Setup::default())?;
                let sessions = rig.sessions(connections).await?;
                for session in &sessions {
                    session.hold().await?;
                }
                let start = Instant::now();
                let accept = |session| tokio::spawn(async move { accepts(&session, each).await.map(drop) });
                let tasks: Vec<_> = sessions.into_iter().map(accept).collect();
                for task in tasks {
                    task.await??;
                }
                let rate = (connections * each) as f64 / start.elapsed().as_secs_f64();
                rig.close().await;
                Ok(rate)
            }
        })?;
        let path = path.clone();
        let (rate, p99, cores) = on_runtime(async move {
            let server = server(&path).await?;
            let mut open = Vec::new();
            for n in 0..connections {
                let (name, mut connection) = (format!("s{n}"), Connection::open(server.address()).await?);
                create(&mut connection, &name).await?;
                connection.ask("POST", &format!("/v1/sessions/{name}/hold"), "", "{}").await?;
                open.push((name, connection));
            }
            let (start, before) = (Instant::now(), processor_seconds()?);
            let send = |(name, mut connection): (String, Connection)| {
                tokio::spawn(async move { sent(&mut connection, &name, "", each).await })
            };
            let tasks: Vec<_> = open.into_iter().map(send).collect();
            let mut times = Vec::new();
            for task in tasks {
                times.extend(task.await??);
            }
            let took = start.elapsed().as_secs_f64();
            let cores = (processor_seconds()? - before) / took;
            server.shutdown().await;
            times.sort_by(f64::total_cmp);
            Ok((times.len() as f64 / took, times[times.len() * 99 / 100], cores))
        })?;
        Ok([floor, rate, p99, cores])
    })?;
    let of = format!("{connections} connections");
    Ok(vec![
        Figure::new("http_admit", "sqlite", format!("inputs admitted, {of}"), "1/s", &rate)
            .against("accepts without HTTP", &floor)
            .must(Target::AtLeast(0.7)),
        Figure::new("http_admit", "sqlite", format!("99th percentile of an admission, {of}"), "us", &p99),
        // With both used up, client included, the rate above is what there is.
        Figure::new("http_admit", "sqlite", "processors busy meanwhile, client included", "cores", &cores),
    ])
}

/// One connection, one input after the other, each waited for within its own request.
pub(super) fn http_rtt(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(1_000, 200);
    let path = bench.dir.join("http_rtt.db");
    let [floor, bare, direct, p50] = bench.samples(|| {
        let bare = on_runtime(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let app = axum::Router::new().route("/", axum::routing::post(|body: String| async { body }));
            let serving = tokio::spawn(async { axum::serve(listener, app).await });
            let (mut connection, body) = (Connection::open(address).await?, prompt_body());
            let mut times = Vec::with_capacity(n);
            for _ in 0..n {
                let start = Instant::now();
                connection.ask("POST", "/", "", &body).await?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            serving.abort();
            Ok(median(times))
        })?;
        let direct = on_runtime({
            let path = path.clone();
            async move {
                let rig = Rig::sqlite(&path, Setup::default())?;
                let times = round_trips(&rig.session().await?, n).await?;
                rig.close().await;
                Ok(median(times))
            }
        })?;
        let path = path.clone();
        let p50 = on_runtime(async move {
            let server = server(&path).await?;
            let mut connection = Connection::open(server.address()).await?;
            create(&mut connection, "rtt").await?;
            let times = sent(&mut connection, "rtt", "prefer: wait=30\r\n", n).await?;
            server.shutdown().await;
            Ok(median(times))
        })?;
        Ok([direct + 2.0 * bare, bare, direct, p50])
    })?;
    Ok(vec![
        Figure::new("http_rtt", "sqlite", format!("request to outcome, {n} in a row"), "us", &p50)
            .against("without HTTP + 2 bare round trips", &floor)
            .must(Target::AtMost(1.0)),
        Figure::new("http_rtt", "sqlite", "the same without HTTP", "us", &direct),
        Figure::new("http_rtt", "none", "round trip of a bare handler", "us", &bare),
    ])
}
