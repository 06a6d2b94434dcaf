//! Do sessions of two servers hear from each other, whichever of the servers is killed?

mod common;

use common::{Served, free_address, run, windlass};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use windlass_client::{
    Client, ClientError, InputFilter, Paging,
    api::{CreateSession, NewPeerMessage, PeerMessageKind, PeerMessageSent, PeerResponseStatus},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server that can be killed and come back at its address.
struct Place {
    dir: PathBuf,
    address: String,
    served: Option<Served>,
}

impl Place {
    fn new(dir: &Path, name: &str) -> Place {
        let dir = dir.join(name);
        std::fs::create_dir(&dir).expect("a folder");
        Place { dir, address: free_address(), served: None }
    }

    fn key(&self) -> String {
        let said = run(windlass(&self.dir).args(["peers", "id"]));
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out.trim().to_owned()
    }

    fn knows(&self, name: &str, other: &Place) {
        let config = format!("[peers.{name}]\nurl = \"http://{}\"\nkey = \"{}\"\n", other.address, other.key());
        std::fs::write(self.dir.join("windlass.toml"), config).expect("written");
    }

    fn start(&mut self) {
        let config = self.dir.join("windlass.toml").display().to_string();
        self.served = Some(Served::listening(&self.dir, &self.address, &["--config", &config]));
    }

    /// As power losses do.
    fn kill(&mut self) {
        self.served.take().expect("it runs").kill();
    }

    fn client(&self) -> Client {
        let client = Client::builder(format!("http://{}", self.address)).retry_for(Duration::ZERO).build();
        client.expect("a client")
    }

    async fn session(&self, name: &str) {
        let new = CreateSession { name: Some(name.into()), ..CreateSession::default() };
        self.client().create_session(&new).await.expect("a session");
    }

    async fn send(&self, from: &str, message: NewPeerMessage) -> Result<PeerMessageSent, ClientError> {
        self.client().send_to_peer(from, &message, None).await
    }

    /// What peers have said to a session, once there are so many: the kind, who, and the words.
    async fn heard(&self, session: &str, count: usize) -> Vec<(String, String, String)> {
        let begun = std::time::Instant::now();
        loop {
            let heard = self.hears(session).await;
            if heard.len() >= count {
                return heard;
            }
            assert!(begun.elapsed() < PATIENCE, "{session} hears too little: {heard:?}");
            // Another process gives no signal.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn hears(&self, session: &str) -> Vec<(String, String, String)> {
        let page = self.client().inputs(session, &InputFilter::default(), &Paging::default()).await.expect("a page");
        let peer = |input: &windlass_client::api::InputView| {
            let from = input.source.as_ref()?.get("peer_id")?.as_str()?.to_owned();
            let words = input.body.as_ref()?.get("body")?.as_str()?.to_owned();
            Some((input.kind?.as_str().to_owned(), from, words))
        };
        page.items.iter().filter_map(peer).collect()
    }
}

fn says(to: &str, body: &str) -> NewPeerMessage {
    NewPeerMessage {
        to: to.into(),
        kind: PeerMessageKind::Message,
        body: body.into(),
        params: serde_json::Value::Null,
        in_reply_to: None,
        status: None,
        handling_mode: None,
    }
}

fn code(sent: Result<PeerMessageSent, ClientError>) -> String {
    match sent {
        Err(ClientError::Problem { problem, .. }) => problem.code.clone(),
        other => panic!("no problem: {other:?}"),
    }
}

#[tokio::test]
async fn sessions_of_two_servers_write_to_each_other_over_the_kill_of_either() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut lyon, mut berlin) = (Place::new(dir.path(), "lyon"), Place::new(dir.path(), "berlin"));
    lyon.knows("berlin", &berlin);
    berlin.knows("lyon", &lyon);
    lyon.start();
    berlin.start();
    lyon.session("writer").await;
    berlin.session("reader").await;

    let sent = lyon.send("writer", says("reader@berlin", "good evening")).await.expect("sent");
    assert!(sent.delivered, "it is on disk there");
    let message = |words: &str| {
        let words = format!("[COMMS MESSAGE from writer@lyon]\n{words}");
        ("peer_message".to_owned(), "writer@lyon".to_owned(), words)
    };
    assert_eq!(berlin.hears("reader").await, [message("good evening")]);

    // A request is answered by another life of whom it was made to.
    let ask = NewPeerMessage { kind: PeerMessageKind::Request, ..says("reader@berlin", "review") };
    let asked = lyon.send("writer", ask).await.expect("sent");
    berlin.kill();
    berlin.start();
    let answer = NewPeerMessage {
        kind: PeerMessageKind::Response,
        in_reply_to: Some(asked.id),
        status: Some(PeerResponseStatus::Completed),
        ..says("writer@lyon", "fine")
    };
    berlin.session("other").await;
    berlin.send("reader", answer.clone()).await.expect("sent");
    assert_eq!(code(berlin.send("other", answer).await), "session_state_conflict", "it is over");
    let heard = lyon.hears("writer").await;
    assert_eq!((heard.len(), heard[0].0.as_str(), heard[0].1.as_str()), (1, "peer_response_terminal", "reader@berlin"));

    // What was sent while the other was away arrives, once, although the sender died before.
    berlin.kill();
    let sent = lyon.send("writer", says("reader@berlin", "are you there?")).await.expect("kept");
    assert!(!sent.delivered);
    lyon.kill();
    berlin.start();
    lyon.start();
    let heard = berlin.heard("reader", 3).await;
    assert_eq!((heard.len(), &heard[2]), (3, &message("are you there?")));

    // What is refused is told, and counted there.
    assert_eq!(code(lyon.send("writer", says("stranger@berlin", "hi")).await), "peer_unknown");
    assert_eq!(code(lyon.send("writer", says("reader@rome", "hi")).await), "peer_unknown");
    berlin.client().control("reader", windlass_client::api::Verb::Stop).await.expect("stopped");
    assert_eq!(code(lyon.send("writer", says("reader@berlin", "hi")).await), "session_state_conflict");
    let metrics = berlin.client().metrics().await.expect("metrics");
    for code in ["peer_audience", "session_state_conflict"] {
        let counted = metrics.lines().any(|line| line.starts_with("windlass_envelopes_refused") && line.contains(code));
        assert!(counted, "{code}: {metrics}");
    }

    // Whose key is not pinned is not heard.
    let mut mallory = Place::new(dir.path(), "mallory");
    mallory.knows("berlin", &berlin);
    mallory.start();
    mallory.session("writer").await;
    assert_eq!(code(mallory.send("writer", says("reader@berlin", "hi")).await), "peer_unknown");
}
