//! Does every request end once, and does no message get lost or doubled, if processes are killed at any moment?
//!
//! Two child processes, each with a session on a store of its own, speak HTTP to each other. One asks and says, the
//! other answers. Each is killed while requests are open, in both senses of the word. At the end the parent reads both
//! journals and compares them with what the children had acknowledged to it.
#![cfg(unix)]

use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};
use tokio::{io::AsyncBufReadExt, sync::watch};
use windlass_core::{
    CorrelationId, Entry, InputBody, Limits, OutgoingKind, Peer, PeerConvention, Record, Seq, SessionId, TerminalStatus,
};
use windlass_peers::{HttpRules, Identity, PeerDirectory};
use windlass_runtime::{
    CoreApplyOutput, CoreExecutorError, RuntimeSessionAdapter, SystemClock, Turn,
    comms::{CommsCommand, CommsRuntime, EnvelopeId, PeerName, ResponseStatus, SendError, SendReceipt, TrustedPeer},
    executor_fn,
    store::Store,
    testing::session,
};
use windlass_sqlite::{SqliteOptions, SqliteStore};

const ROLE: &str = "WINDLASS_TEST_ROLE";
const FOLDER: &str = "WINDLASS_TEST_FOLDER";
/// No wait of this test is longer; only a failure takes it.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Asks,
    Answers,
}

impl Role {
    fn name(self) -> &'static str {
        if self == Role::Asks { "asks" } else { "answers" }
    }

    fn session(self) -> SessionId {
        session(if self == Role::Asks { 1 } else { 2 })
    }

    fn identity(self) -> Identity {
        Identity::from_seed(&[if self == Role::Asks { 1 } else { 2 }; 32])
    }

    fn other(self) -> Role {
        if self == Role::Asks { Role::Answers } else { Role::Asks }
    }
}

/// Not a test by itself: the life of a child, when there is one. It ends by being killed.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let role = if role == "asks" { Role::Asks } else { Role::Answers };
    let file = Path::new(&std::env::var(FOLDER).expect("a folder")).join(role.name());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(live(role, &file));
}

/// A word to the parent.
fn tell(words: &str) {
    // In one piece: what is acknowledged is read whole or not at all.
    std::io::stdout().write_all(format!("\npeer: {words}\n").as_bytes()).expect("the parent reads");
}

async fn live(role: Role, file: &Path) {
    let store = SqliteStore::open(file, SqliteOptions::default()).expect("opened");
    // Each death of the process is an attempt at what it worked on; here nobody is to give up for that.
    let limits = Limits { attempts: 1_000, backoff: Duration::from_millis(10), ..Limits::default() };
    let adapter = RuntimeSessionAdapter::builder().store(Arc::new(store)).limits(limits).build();
    let directory = PeerDirectory::new(Arc::new(SystemClock));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    tell(&format!("address http://{}", listener.local_addr().expect("bound")));
    let router = directory.router();
    tokio::spawn(async move { axum::serve(listener, router).await });

    let peer = Arc::new(directory.join(role.identity(), HttpRules::default()).expect("the first of its name"));
    let (release, released) = watch::channel(true);
    let executor = executor_fn({
        let peer = Arc::clone(&peer);
        move |turn: Turn| work(turn, Arc::clone(&peer), released.clone())
    });
    adapter.ensure_session_with_executor(role.session(), Arc::new(executor)).await.expect("attached");
    adapter.update_peer_ingress_context(&role.session(), false, Some(Arc::clone(&peer) as _)).await.expect("bound");

    let mut commands = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(command) = commands.next_line().await.expect("read") {
        match command.split_once(' ').unwrap_or((&command, "")) {
            ("pin", address) => {
                let key = role.other().identity().name().clone();
                let peer_there = TrustedPeer { name: name("other"), key, address: address.to_owned() };
                peer.add_trusted_peer(peer_there).await.expect("pinned");
                tell("pinned");
            }
            ("hold", _) => drop(release.send(false)),
            ("release", _) => drop(release.send(true)),
            ("ask", n) => spawn_send(&peer, CommsCommand::request(name("other"), "double", json!({ "n": n }))),
            ("say", n) => spawn_send(&peer, CommsCommand::message(name("other"), n)),
            (other, _) => panic!("{other}?"),
        }
    }
}

/// Sends, and tells the parent what was acknowledged.
fn spawn_send(peer: &Arc<impl CommsRuntime>, command: CommsCommand) {
    let peer = Arc::clone(peer);
    tokio::spawn(async move {
        match peer.send(command).await {
            Ok(SendReceipt::PeerRequestSent { request_id, .. }) => tell(&format!("asked {request_id}")),
            Ok(SendReceipt::PeerMessageSent { envelope_id, .. }) => tell(&format!("said {envelope_id}")),
            other => panic!("{other:?}"),
        }
    });
}

/// Answers every request, once it is released.
async fn work(
    turn: Turn,
    peer: Arc<windlass_peers::HttpPeer>,
    mut released: watch::Receiver<bool>,
) -> Result<CoreApplyOutput, CoreExecutorError> {
    for accepted in turn.inputs() {
        let InputBody::Peer(Peer { convention: Some(PeerConvention::Request { request_id, .. }), .. }) =
            &accepted.input.body
        else {
            continue;
        };
        tell(&format!("working {request_id}"));
        released.wait_for(|released| *released).await.expect("the child lives");
        let request = EnvelopeId(request_id.parse().expect("an id"));
        let answer = CommsCommand::response(name("other"), request, ResponseStatus::Completed, json!("done"));
        match peer.send(answer).await {
            // Answered in an earlier life, in a run that did not commit any more.
            Ok(_) | Err(SendError::RequestClosed(_)) => tell(&format!("answered {request_id}")),
            Err(error) => return Err(CoreExecutorError::Retryable { error: error.to_string(), retry_after: None }),
        }
    }
    Ok(CoreApplyOutput::text("done"))
}

fn name(text: &str) -> PeerName {
    PeerName::new(text).expect("a name")
}

/// A child, and what it says. Killed when it is dropped.
struct Process {
    child: Child,
    stdin: ChildStdin,
    said: mpsc::Receiver<String>,
    address: String,
    /// What it has acknowledged, by kind.
    acknowledged: BTreeMap<&'static str, BTreeSet<CorrelationId>>,
}

impl Process {
    fn start(role: Role, folder: &Path) -> Process {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "child", "--nocapture"]).env(ROLE, role.name()).env(FOLDER, folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (says, said) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // Ends with the child, or when nobody listens.
            lines.filter_map(|line| line.strip_prefix("peer: ").map(str::to_owned)).all(|line| says.send(line).is_ok());
        });
        let mut process = Process { child, stdin, said, address: String::new(), acknowledged: BTreeMap::new() };
        process.address = process.wait_for("address");
        process
    }

    fn command(&mut self, words: &str) {
        self.stdin.write_all(format!("{words}\n").as_bytes()).expect("the child reads");
    }

    /// What it says after this word.
    fn wait_for(&mut self, word: &str) -> String {
        loop {
            let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no {word}: {error}"));
            if let Some(rest) = self.heard(&line, word) {
                return rest;
            }
        }
    }

    fn heard(&mut self, line: &str, word: &str) -> Option<String> {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        for kind in ["asked", "said"] {
            if first == kind {
                self.acknowledged
                    .entry(kind)
                    .or_default()
                    .insert(CorrelationId::from_uuid(rest.parse().expect("an id")));
            }
        }
        (first == word).then(|| rest.to_owned())
    }

    /// SIGKILL, and what it has still said before.
    fn kill(mut self) -> BTreeMap<&'static str, BTreeSet<CorrelationId>> {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        while let Ok(line) = self.said.recv() {
            self.heard(&line, "");
        }
        std::mem::take(&mut self.acknowledged)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both, and all that was acknowledged in lives that are over.
struct Pair<'a> {
    folder: &'a Path,
    asks: Process,
    answers: Process,
    acknowledged: BTreeMap<&'static str, BTreeSet<CorrelationId>>,
}

impl<'a> Pair<'a> {
    fn start(folder: &'a Path) -> Pair<'a> {
        let (asks, answers) = (Process::start(Role::Asks, folder), Process::start(Role::Answers, folder));
        let mut pair = Pair { folder, asks, answers, acknowledged: BTreeMap::new() };
        pair.introduce();
        pair
    }

    /// Each learns where the other one is now.
    fn introduce(&mut self) {
        let (asks, answers) = (self.asks.address.clone(), self.answers.address.clone());
        for (process, address) in [(&mut self.asks, answers), (&mut self.answers, asks)] {
            process.command(&format!("pin {address}"));
            process.wait_for("pinned");
        }
    }

    /// Kills one, and starts it again on what is left.
    fn kill(&mut self, role: Role) {
        let process = if role == Role::Asks { &mut self.asks } else { &mut self.answers };
        // Killed before the next one begins: its store has one owner.
        process.child.kill().expect("killed");
        process.child.wait().expect("gone");
        let gone = std::mem::replace(process, Process::start(role, self.folder));
        for (kind, ids) in gone.kill() {
            self.acknowledged.entry(kind).or_default().extend(ids);
        }
        self.introduce();
    }
}

async fn journal(folder: &Path, role: Role) -> Vec<Arc<Entry>> {
    let store = SqliteStore::open_read_only(folder.join(role.name())).expect("opened");
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    loop {
        let after = entries.last().map_or(Seq::ZERO, |entry| entry.seq);
        let page = store.read(role.session(), after, 1_000).await.expect("read");
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

/// What was sent, by kind, and what is not over.
fn sent(journal: &[Arc<Entry>]) -> (BTreeMap<CorrelationId, OutgoingKind>, BTreeSet<CorrelationId>) {
    let (mut all, mut open) = (BTreeMap::new(), BTreeSet::new());
    for entry in journal {
        match &entry.record {
            Record::PeerSent(outgoing) => {
                all.insert(outgoing.id, outgoing.kind);
                open.insert(outgoing.id);
            }
            Record::PeerDelivered { id } if all[id] != OutgoingKind::Request => drop(open.remove(id)),
            Record::PeerGivenUp { id } => drop(open.remove(id)),
            _ => {}
        }
    }
    let ended = terminals(journal);
    open.retain(|id| !ended.contains_key(id));
    (all, open)
}

/// The terminal responses that were admitted, by request.
fn terminals(journal: &[Arc<Entry>]) -> BTreeMap<CorrelationId, Vec<TerminalStatus>> {
    let mut ends: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for peer in peers(journal).map(|(_, peer)| peer) {
        if let Some(PeerConvention::ResponseTerminal { request_id, status }) = &peer.convention {
            let request = CorrelationId::from_uuid(request_id.parse().expect("an id"));
            ends.entry(request).or_default().push(*status);
        }
    }
    ends
}

/// What peers have sent, with the envelope's id.
fn peers(journal: &[Arc<Entry>]) -> impl Iterator<Item = (CorrelationId, &Peer)> {
    journal.iter().filter_map(|entry| match &entry.record {
        Record::InputAccepted(accepted) => match &accepted.input.body {
            InputBody::Peer(peer) => Some((accepted.input.header.correlation_id?, peer)),
            _ => None,
        },
        _ => None,
    })
}

#[test]
fn every_request_ends_once_and_no_message_is_lost_or_doubled_whoever_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut pair = Pair::start(folder.path());
    let rounds = if std::env::var_os("WINDLASS_DEEP").is_some() { 60 } else { 6 };
    for round in 0..rounds {
        pair.answers.command("hold");
        for n in 0..4 {
            pair.asks.command(&format!("ask {round}-{n}"));
            pair.asks.command(&format!("say {round}-{n}"));
        }
        match round % 3 {
            // While the other one works on what it has asked.
            0 => {
                pair.answers.wait_for("working");
                pair.kill(Role::Asks);
                pair.answers.command("release");
                // Seen by whoever works, before the next round holds it again.
                pair.answers.wait_for("answered");
            }
            // While it works.
            1 => {
                pair.answers.wait_for("working");
                pair.kill(Role::Answers);
            }
            // While things are sent, and answers too, at any moment.
            _ => {
                pair.answers.command("release");
                pair.asks.wait_for(if round % 2 == 0 { "asked" } else { "said" });
                pair.kill(if round % 2 == 0 { Role::Asks } else { Role::Answers });
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let quiet = async {
            loop {
                let asker = journal(folder.path(), Role::Asks).await;
                let answerer = journal(folder.path(), Role::Answers).await;
                if sent(&asker).1.is_empty() && sent(&answerer).1.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, quiet).await.expect("everything that was sent ends");
    });
    for process in [pair.asks, pair.answers] {
        for (kind, ids) in process.kill() {
            pair.acknowledged.entry(kind).or_default().extend(ids);
        }
    }
    let (asker, answerer) = runtime
        .block_on(async { (journal(folder.path(), Role::Asks).await, journal(folder.path(), Role::Answers).await) });

    let (all, _) = sent(&asker);
    let ends = terminals(&asker);
    let mut heard: BTreeMap<CorrelationId, u32> = BTreeMap::new();
    peers(&answerer).for_each(|(id, _)| *heard.entry(id).or_default() += 1);
    for (id, kind) in &all {
        assert_eq!(heard.get(id), Some(&1), "{kind:?} {id} is admitted once");
        let ended: &[TerminalStatus] = ends.get(id).map_or(&[], Vec::as_slice);
        let expected: &[_] = if *kind == OutgoingKind::Request { &[TerminalStatus::Completed] } else { &[] };
        assert_eq!(ended, expected, "{kind:?} {id}");
    }
    assert_eq!(heard.len(), all.len(), "and nothing else came");
    for (kind, ids) in &pair.acknowledged {
        let lost: Vec<_> = ids.iter().filter(|id| !all.contains_key(id)).collect();
        assert!(lost.is_empty(), "{kind} and lost: {lost:?}");
        assert!(ids.len() >= rounds, "{kind}: the test has something to lose");
    }
}
