//! What does Windlass add to a language model: per chunk, per turn, and in bytes for many turns at once?
//!
//! The provider is in this process: it writes the same frames to our agent and to a bare client, as fast as they are
//! read.

use crate::{
    Bench, alloc,
    measure::{micros, on_runtime},
    report::{Figure, Target},
    rig::{Rig, Setup},
    scenario::{
        PROMPT,
        http::{Connection, create, prompt_body, serving},
        median,
        memory::round_trips,
        prompt,
        sse::follow,
    },
};
use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, future::try_join_all};
use sse_stream::SseByteStream;
use std::{
    path::Path,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use uuid::Uuid;
use windlass_agent::llm::{DialectName, LlmAgent, LlmConfig, LlmDeps};
use windlass_core::{Seq, SessionId};
use windlass_runtime::{CompletionOutcome, CoreExecutor, CoreExecutorError, ExecutorFactory, FeedItem, SessionHandle};

/// Per chunk of a long answer, with somebody who watches it come: over HTTP, and in the same process.
pub(super) fn llm_chunk(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(20_000, 4_000);
    let path = bench.dir.join("llm_chunk.db");
    let [floor, chunk, streamed, missed] = bench.samples(|| {
        let path = path.clone();
        on_runtime(async move {
            let provider = Provider::start(n).await?;
            let client = reqwest::Client::new();
            bare(&client, &provider.url).await?;
            let (floor, events) = micros(bare(&client, &provider.url)).await;
            anyhow::ensure!(events? == n + 2, "every frame is read");
            let rig = Rig::memory(Setup { by_hand: true, ..Setup::default() });
            let session = attach(&rig, &provider.agent()?).await?;
            let mut feed = session.feed(Seq::ZERO);
            let watching = tokio::spawn(async move {
                let mut shown = 0u64;
                loop {
                    match feed.next().await? {
                        FeedItem::Progress(_) => shown += 1,
                        FeedItem::ProgressMissed(missed) => shown += missed,
                        FeedItem::Ended => return anyhow::Ok(shown),
                        FeedItem::Entry(entry) if entry.record.name() == "run_ended" => return anyhow::Ok(shown),
                        FeedItem::Entry(_) => {}
                    }
                }
            });
            let (took, said) = micros(turn(&session)).await;
            anyhow::ensure!(said?.len() == n * WORD.len(), "every chunk is in the answer");
            watching.await??;
            let (streamed, missed) = streamed(&path, &provider, n).await?;
            Ok([floor / n as f64, took / n as f64, streamed / n as f64, missed as f64])
        })
    })?;
    Ok(vec![
        Figure::new(
            "llm_chunk",
            "sqlite",
            format!("per chunk of {n}, to an SSE client of the server"),
            "us",
            &streamed,
        )
        .against("bare reqwest + sse-stream", &floor)
        .must(Target::AtMost(3.0)),
        Figure::count("llm_chunk", "sqlite", "chunks that client was too slow for", &missed),
        Figure::new("llm_chunk", "memory", format!("per chunk of {n}, watched"), "us", &chunk)
            .against("bare reqwest + sse-stream", &floor)
            .must(Target::AtMost(3.0)),
    ])
}

/// Microseconds of a turn of so many chunks on a server, until a client of its event stream has read the end; and how many
/// chunks that client was told it had missed.
async fn streamed(path: &Path, provider: &Provider, n: usize) -> anyhow::Result<(f64, usize)> {
    let server = serving(path, Arc::new(Models(provider.agent()?))).await?;
    let mut connection = Connection::open(server.address()).await?;
    create(&mut connection, "llm").await?;
    let mut events = BufReader::new(follow(server.address(), "llm", true).await?);
    let start = Instant::now();
    connection.ask("POST", "/v1/sessions/llm/inputs", "", &prompt_body()).await?;
    let (mut shown, mut missed, mut ended) = (0, 0, None);
    let (mut line, mut event) = (String::new(), String::new());
    // A client that lagged behind hears of the end first, and then what it has missed before.
    while ended.is_none() || shown + missed < n {
        line.clear();
        let read = timeout(ACCOUNTED, events.read_line(&mut line)).await;
        let read =
            read.with_context(|| format!("of {n} chunks {shown} were shown and {missed} told to be missed"))??;
        anyhow::ensure!(read > 0, "the stream ended");
        if let Some(name) = line.strip_prefix("event: ") {
            name.trim_end().clone_into(&mut event);
        } else if let Some(data) = line.strip_prefix("data: ") {
            match event.as_str() {
                "progress" => shown += 1,
                "lagged" => missed += missed_in(data).context("how many were missed")?,
                "run_ended" => ended = Some(start.elapsed()),
                _ => {}
            }
        }
    }
    let took = ended.context("the loop ends after the run")?.as_secs_f64() * 1e6;
    server.shutdown().await;
    Ok((took, missed))
}

fn missed_in(lagged: &str) -> Option<usize> {
    lagged.split_once("\"missed\":")?.1.split(['}', ',']).next()?.trim().parse().ok()
}

/// Every session is answered by the provider.
struct Models(LlmAgent);

#[async_trait]
impl ExecutorFactory for Models {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// A turn without tools, of one chunk.
pub(super) fn llm_turn(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(2_000, 300);
    let [floor, took] = bench.samples(|| {
        on_runtime(async move {
            let provider = Provider::start(1).await?;
            let (client, mut alone) = (reqwest::Client::new(), Vec::with_capacity(n));
            for _ in 0..n {
                let (took, events) = micros(bare(&client, &provider.url)).await;
                events?;
                alone.push(took);
            }
            let rig = Rig::memory(Setup { by_hand: true, ..Setup::default() });
            let commits = median(round_trips(&rig.session().await?, n).await?);
            let agent = provider.agent()?;
            let mut turns = Vec::with_capacity(n);
            let mut session = attach(&rig, &agent).await?;
            for at in 0..n {
                // A long conversation is a long request, which the bare client does not send.
                if at % 8 == 7 {
                    session = attach(&rig, &agent).await?;
                }
                let (took, said) = micros(turn(&session)).await;
                said?;
                turns.push(took);
            }
            Ok([median(alone) + commits, median(turns)])
        })
    })?;
    Ok(vec![
        Figure::new("llm_turn", "memory", "a turn without tools", "us", &took)
            .against("bare client, and a run that does nothing", &floor)
            .must(Target::AtMost(1.5)),
    ])
}

/// Many turns at once, in the middle of their answers.
pub(super) fn llm_many(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(1_000, 200);
    let [bytes] = bench.samples(|| {
        on_runtime(async move {
            let provider = Provider::start(50).await?;
            provider.hold.send_replace(true);
            let rig = Rig::memory(Setup { by_hand: true, ..Setup::default() });
            let agent = provider.agent()?;
            alloc::count(true);
            let mut turns = Vec::with_capacity(n);
            for _ in 0..n {
                let session = attach(&rig, &agent).await?;
                turns.push(tokio::spawn(async move { turn(&session).await }));
            }
            provider.stopped.subscribe().wait_for(|stopped| *stopped == n).await?;
            let bytes = alloc::live() as f64;
            alloc::count(false);
            provider.hold.send_replace(false);
            for said in try_join_all(turns).await? {
                anyhow::ensure!(said?.len() == 50 * WORD.len(), "every chunk is in the answer");
            }
            Ok([bytes / f64::from(1 << 20)])
        })
    })?;
    Ok(vec![
        Figure::new("llm_many", "memory", format!("{n} streaming turns and their provider"), "MiB", &bytes)
            .must(Target::AtMost(512.0)),
    ])
}

/// Says something and waits for the answer.
async fn turn(session: &SessionHandle) -> anyhow::Result<String> {
    let (_, completion) = session.accept_with_completion(prompt()).await?;
    match completion.context("a new prompt has a completion")?.wait().await {
        CompletionOutcome::Completed(result) => Ok(result.text.clone()),
        other => anyhow::bail!("the turn ended so: {other:?}"),
    }
}

async fn attach(rig: &Rig, agent: &LlmAgent) -> anyhow::Result<SessionHandle> {
    let id = SessionId::from_uuid(Uuid::now_v7());
    rig.adapter.ensure_session_with_executor(id, Arc::new(agent.clone())).await?;
    Ok(rig.adapter.session(id).await?)
}

/// What nobody can beat: asks, and splits the answer into events. How many there were.
async fn bare(client: &reqwest::Client, url: &str) -> anyhow::Result<usize> {
    let body = format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#);
    let response = client.post(format!("{url}/chat/completions")).body(body).send().await?;
    let mut events = pin!(SseByteStream::new(response.bytes_stream()));
    let mut count = 0;
    while let Some(event) = events.next().await {
        event?;
        count += 1;
    }
    Ok(count)
}

/// How long a client waits for the next line.
const ACCOUNTED: Duration = Duration::from_secs(10);
/// What each chunk says.
const WORD: &str = "word ";

/// Writes the same answer to whoever asks. Ends with its runtime.
struct Provider {
    url: String,
    /// Whether answers stop after their first frame.
    hold: Arc<watch::Sender<bool>>,
    /// How many do.
    stopped: Arc<watch::Sender<usize>>,
}

impl Provider {
    async fn start(chunks: usize) -> anyhow::Result<Provider> {
        let chunk = |delta: &str, finish: &str| {
            let event = format!(
                "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
                 \"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
            );
            format!("{:x}\r\n{event}\r\n", event.len())
        };
        let word = Bytes::from(chunk(&format!("{{\"content\":\"{WORD}\"}}"), "null"));
        let done = "data: [DONE]\n\n";
        let end = format!("{}{:x}\r\n{done}\r\n0\r\n\r\n", chunk("{}", "\"stop\""), done.len());
        let (hold, stopped) = (Arc::new(watch::Sender::new(false)), Arc::new(watch::Sender::new(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/v1", listener.local_addr()?);
        let answer = Answer { word, chunks, end: end.into(), hold: Arc::clone(&hold), stopped: Arc::clone(&stopped) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer.clone().serve(stream));
            }
        });
        Ok(Provider { url, hold, stopped })
    }

    fn agent(&self) -> anyhow::Result<LlmAgent> {
        let mut config = LlmConfig { base_url: Some(self.url.clone()), ..LlmConfig::new(DialectName::Openai, "m") };
        config.budget.steps = None;
        Ok(LlmAgent::from_config(&config, LlmDeps::default())?)
    }
}

#[derive(Clone)]
struct Answer {
    word: Bytes,
    chunks: usize,
    end: Bytes,
    hold: Arc<watch::Sender<bool>>,
    stopped: Arc<watch::Sender<usize>>,
}

impl Answer {
    /// Answers every request of a connection. An error says that the other side has gone, as it may.
    async fn serve(self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8(head)?.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("a length")?;
            let mut body = vec![0; length.parse()?];
            stream.read_exact(&mut body).await?;
            drop(body);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .await?;
            for at in 0..self.chunks {
                if at == 1 && *self.hold.borrow() {
                    self.stopped.send_modify(|stopped| *stopped += 1);
                    self.hold.subscribe().wait_for(|hold| !hold).await?;
                }
                stream.write_all(&self.word).await?;
            }
            stream.write_all(&self.end).await?;
        }
    }
}
