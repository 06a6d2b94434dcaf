//! How long is a message between two sessions under way?

use crate::{
    Bench,
    floor::channel,
    measure::on_runtime,
    report::{Figure, Target},
    rig::{Rig, Setup},
    scenario::{PROMPT, median},
};
use anyhow::Context as _;
use std::{sync::Arc, time::Instant};
use tokio::sync::mpsc;
use uuid::Uuid;
use windlass_core::{RuntimeState, SessionId};
use windlass_runtime::{
    CoreApplyOutput, RuntimeSessionAdapter, Turn,
    comms::{CommsCommand, CommsRuntime, LocalNetwork, LocalPeer, NetworkRules, PeerName, PeerRules},
    executor_fn,
};

/// From sending to the start of the receiver's run, in a session that is quiet.
pub(super) fn peer(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let n = bench.size(2_000, 500);
    let [floor, peer, runs, commits] = bench.samples(|| {
        let floor = on_runtime(async move { Ok(median(channel::round_trips(n, PROMPT).await)) })?;
        let (times, runs, commits) = on_runtime(messages(n))?;
        Ok([floor, median(times), runs as f64, commits as f64])
    })?;
    Ok(vec![
        Figure::new("peer", "memory", "message sent to executor started", "us", &peer)
            .against("mpsc + oneshot", &floor)
            .must(Target::AtMost(80.0)),
        Figure::count("peer", "memory", "runs", &runs),
        Figure::count("peer", "memory", "commits", &commits),
    ])
}

async fn messages(n: usize) -> anyhow::Result<(Vec<f64>, usize, u64)> {
    let rig = Rig::memory(Setup { by_hand: true, ..Setup::default() });
    let (sender, mut started) = mpsc::unbounded_channel();
    let executor = executor_fn(move |_: Turn| {
        // Nobody listens any more once the last message is measured.
        let _ = sender.send(Instant::now());
        async move { Ok(CoreApplyOutput::default()) }
    });
    let (from, to) = (rig.session().await?.id(), SessionId::from_uuid(Uuid::now_v7()));
    rig.adapter.ensure_session_with_executor(to, Arc::new(executor)).await?;
    let network = LocalNetwork::new(NetworkRules::default());
    let (from, _receiver) = (join(&rig.adapter, &network, from).await?, join(&rig.adapter, &network, to).await?);
    let session = rig.adapter.session(to).await?;
    let receiver = PeerName::new(to.to_string())?;
    let (mut times, before) = (Vec::with_capacity(n), rig.commits());
    for _ in 0..n {
        let message = CommsCommand::message(receiver.clone(), PROMPT);
        let start = Instant::now();
        from.send(message).await?;
        let at = started.recv().await.context("the executor lives as long as its session")?;
        times.push(at.duration_since(start).as_secs_f64() * 1e6);
        // Quiet again before the next message.
        while session.state().await? == RuntimeState::Running {
            tokio::task::yield_now().await;
        }
    }
    anyhow::ensure!(started.is_empty(), "one run for each message");
    Ok((times, n, rig.commits() - before))
}

/// A session joins under its own id.
async fn join(
    adapter: &RuntimeSessionAdapter,
    network: &LocalNetwork,
    session: SessionId,
) -> anyhow::Result<Arc<LocalPeer>> {
    let rules = PeerRules { runtime_id: Some(session.to_string()), ..PeerRules::default() };
    let peer = network.join(PeerName::new(session.to_string())?, rules)?;
    let comms: Arc<dyn CommsRuntime> = Arc::clone(&peer) as _;
    adapter.update_peer_ingress_context(&session, false, Some(comms)).await?;
    Ok(peer)
}
