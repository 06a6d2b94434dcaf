//! What does a stream of events cost, when it is busy and when it is quiet?

use super::http::{Connection, create, prompt_body, server};
use crate::{
    Bench, alloc,
    measure::on_runtime,
    report::{Figure, Target},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

/// A stream that is open: its first words were read.
pub(super) async fn follow(server: SocketAddr, session: &str, progress: bool) -> anyhow::Result<TcpStream> {
    let mut connection = Connection::open(server).await?;
    connection.send("GET", &format!("/v1/sessions/{session}/events?progress={progress}"), "", "").await?;
    let mut socket = connection.into_socket();
    until(&mut socket, "retry: ", 1).await?;
    Ok(socket)
}

/// Reads until a word has come so often.
async fn until(socket: &mut TcpStream, word: &str, times: usize) -> anyhow::Result<()> {
    let (mut seen, mut kept) = (0, Vec::new());
    let mut buffer = [0; 4_096];
    while seen < times {
        let read = socket.read(&mut buffer).await?;
        anyhow::ensure!(read > 0, "the stream ended");
        kept.extend_from_slice(&buffer[..read]);
        let mut rest = &kept[..];
        while let Some(at) = rest.windows(word.len()).position(|window| window == word.as_bytes()) {
            seen += 1;
            rest = &rest[at + word.len()..];
        }
        // What may be the beginning of the word.
        kept = rest[rest.len().saturating_sub(word.len() - 1)..].to_vec();
    }
    Ok(())
}

/// One session that many streams follow.
pub(super) fn sse_fanout(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let (streams, entries) = (bench.size(1_000, 100), bench.size(100, 20));
    let path = bench.dir.join("sse_fanout.db");
    let [rate, encoded] = bench.samples(|| {
        let path = path.clone();
        on_runtime(async move {
            let server = server(&path).await?;
            let mut connection = Connection::open(server.address()).await?;
            create(&mut connection, "busy").await?;
            connection.ask("POST", "/v1/sessions/busy/hold", "", "{}").await?;
            let mut open = Vec::new();
            for _ in 0..streams {
                open.push(follow(server.address(), "busy", false).await?);
            }
            let start = Instant::now();
            let read = |mut socket: TcpStream| {
                tokio::spawn(async move { until(&mut socket, "event: input_accepted", entries).await })
            };
            let readers: Vec<_> = open.into_iter().map(read).collect();
            for _ in 0..entries {
                connection.ask("POST", "/v1/sessions/busy/inputs", "", &prompt_body()).await?;
            }
            for reader in readers {
                reader.await??;
            }
            let rate = (streams * entries) as f64 / start.elapsed().as_secs_f64();
            let metrics = connection.ask("GET", "/metrics", "", "").await?;
            let encoded = metrics.lines().find(|line| line.starts_with("windlass_events_encoded"));
            let encoded = encoded.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or(f64::NAN);
            server.shutdown().await;
            Ok([rate, encoded / entries as f64])
        })
    })?;
    Ok(vec![
        Figure::new("sse_fanout", "sqlite", format!("events delivered, 1 session, {streams} streams"), "1/s", &rate),
        Figure::new("sse_fanout", "sqlite", "times an entry was encoded for all of them", "", &encoded)
            .must(Target::AtMost(1.0)),
    ])
}

/// Streams on which nothing happens, over a hundred sessions.
pub(super) fn sse_idle(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    // Two sockets each, and this process has to have them all.
    let streams = bench.size(9_500, 500);
    let sessions = 100;
    let path = bench.dir.join("sse_idle.db");
    let [kib] = bench.samples(|| {
        let path = path.clone();
        on_runtime(async move {
            let server = server(&path).await?;
            let mut connection = Connection::open(server.address()).await?;
            for n in 0..sessions {
                create(&mut connection, &format!("s{n}")).await?;
            }
            drop(follow(server.address(), "s0", false).await?);
            let mut open = Vec::with_capacity(streams);
            alloc::count(true);
            for n in 0..streams {
                open.push(follow(server.address(), &format!("s{}", n % sessions), false).await?);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let bytes = alloc::live() as f64;
            alloc::count(false);
            drop(open);
            server.shutdown().await;
            Ok([bytes / 1024.0 / streams as f64])
        })
    })?;
    Ok(vec![
        Figure::new(
            "sse_idle",
            "sqlite",
            format!("per idle stream of {streams}, the client's end included"),
            "KiB",
            &kib,
        )
        .must(Target::AtMost(20.0)),
    ])
}
