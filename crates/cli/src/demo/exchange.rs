//! How do two sessions of the demo ask and answer each other?
//!
//! The worker is the tool that an agent would have for it: it sends the request for one session, and what the other
//! one's run came to is the response.

use crate::{failure::Failure, place::session_id};
use serde_json::json;
use std::sync::Arc;
use windlass::{
    CompletionOutcome, FeedItem, InputBody, InputRef, PeerConvention, Record, RuntimeSessionAdapter, Seq,
    comms::{
        CommsCommand, CommsRuntime, LocalNetwork, LocalPeer, NetworkRules, PeerName, PeerRules, ResponseStatus,
        SendReceipt,
    },
};

/// Asks; returns what was answered, and what the asker made of it.
pub(crate) async fn exchange(
    adapter: &RuntimeSessionAdapter,
    from: &str,
    to: &str,
) -> Result<(String, String), Failure> {
    let network = LocalNetwork::new(NetworkRules::default());
    let asker = join(adapter, &network, from).await?;
    let answerer = join(adapter, &network, to).await?;
    let ask = CommsCommand::request(name(to)?, "harbour_report", json!({ "question": "Can you see the fog?" }));
    let request = match asker.send(ask).await.map_err(Failure::failed)? {
        SendReceipt::PeerRequestSent { request_id, .. } => request_id,
        receipt => return Err(Failure::failed(format!("a request came to {receipt:?}"))),
    };
    let wanted = request.to_string();
    let is_request =
        |it: &PeerConvention| matches!(it, PeerConvention::Request { request_id, .. } if *request_id == wanted);
    let answer = handled(adapter, to, is_request).await?;
    let respond = CommsCommand::response(name(from)?, request, ResponseStatus::Completed, json!(answer));
    answerer.send(respond).await.map_err(Failure::failed)?;
    let is_response = |it: &PeerConvention| matches!(it, PeerConvention::ResponseTerminal { request_id, .. } if *request_id == wanted);
    let heard = handled(adapter, from, is_response).await?;
    Ok((answer, heard))
}

fn name(text: &str) -> Result<PeerName, Failure> {
    PeerName::new(text).map_err(Failure::failed)
}

async fn join(
    adapter: &RuntimeSessionAdapter,
    network: &LocalNetwork,
    session: &str,
) -> Result<Arc<LocalPeer>, Failure> {
    let id = session_id(session);
    adapter.create_session(id, None).await?;
    let rules = PeerRules { runtime_id: Some(id.to_string()), ..PeerRules::default() };
    let peer = network.join(name(session)?, rules).map_err(Failure::failed)?;
    let comms: Arc<dyn CommsRuntime> = Arc::clone(&peer) as _;
    adapter.update_peer_ingress_context(&id, false, Some(comms)).await?;
    Ok(peer)
}

/// What the run came to that took the peer's input of this kind.
async fn handled(
    adapter: &RuntimeSessionAdapter,
    session: &str,
    wanted: impl Fn(&PeerConvention) -> bool,
) -> Result<String, Failure> {
    let handle = adapter.session(session_id(session)).await?;
    let mut feed = handle.feed(Seq::ZERO);
    let input = loop {
        match feed.next().await? {
            FeedItem::Entry(entry) => {
                if let Record::InputAccepted(accepted) = &entry.record
                    && let InputBody::Peer(peer) = &accepted.input.body
                    && peer.convention.as_ref().is_some_and(&wanted)
                {
                    break accepted.input.id();
                }
            }
            FeedItem::Ended => return Err(Failure::failed(format!("{session} was let go of"))),
            FeedItem::Progress(_) | FeedItem::ProgressMissed(_) => {}
        }
    };
    match handle.completion(InputRef::Id(input)).await?.wait().await {
        CompletionOutcome::Completed(result) => Ok(result.text.clone()),
        outcome => Err(Failure::failed(format!("what {session} was sent came to {outcome:?}"))),
    }
}
