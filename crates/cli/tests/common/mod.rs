//! How do the tests run the real binary?

#![allow(dead_code, reason = "each test file uses some of it")]

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What of the tester's own settings must not reach the binary.
const SETTINGS: [&str; 9] = [
    "WINDLASS_LOG",
    "WINDLASS_URL",
    "WINDLASS_PROFILE",
    "WINDLASS_TOKEN",
    "WINDLASS_TOKEN_FILE",
    "WINDLASS_CONFIG",
    "RUST_LOG",
    "HTTP_PROXY",
    "http_proxy",
];

/// The binary, in a folder of its own and out of reach of the tester's settings.
pub(crate) fn windlass(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    for name in SETTINGS {
        command.env_remove(name);
    }
    command.env("WINDLASS_DIR", dir).env("XDG_CONFIG_HOME", dir.join("config"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).expect("the command speaks UTF-8");
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    pub(crate) fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("one JSON document, not ({error}): {self:?}"))
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Said {
    Said::of(command.output().expect("the binary runs"))
}

/// Chats: every line of `text` is said, and everything is read.
pub(crate) fn chat(dir: &Path, arguments: &[&str], text: &[u8]) -> Said {
    let mut child = windlass(dir).arg("chat").args(arguments).stdin(Stdio::piped()).spawn().expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(text).expect("it listens");
    Said::of(child.wait_with_output().expect("it ends"))
}

/// Looks again and again until something is so, because other processes give no signal.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the journal of the chat has an entry with this text.
pub(crate) fn journal_has(dir: &Path, text: &str) -> bool {
    journal_of_has(dir, "chat", text)
}

/// Whether the journal of a session has an entry with this text.
pub(crate) fn journal_of_has(dir: &Path, session: &str, text: &str) -> bool {
    run(windlass(dir).args(["journal", session])).out.contains(text)
}

/// Sends a signal by name.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

/// An address at which nobody listens.
pub(crate) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string()
}

/// A server in a process of its own, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Served {
    child: Child,
    /// What it says on standard error, once it has ended.
    log: Option<JoinHandle<std::io::Result<String>>>,
    pub(crate) url: String,
    dir: PathBuf,
    /// How long it took until it was ready.
    pub(crate) ready_after: Duration,
}

impl Served {
    /// Starts a server on this folder, at a port that the system chooses.
    pub(crate) fn start(dir: &Path) -> Served {
        Served::listening(dir, "127.0.0.1:0", &[])
    }

    /// Starts a server at this address, with these flags, and waits until it is ready.
    pub(crate) fn listening(dir: &Path, listen: &str, flags: &[&str]) -> Served {
        Served::by(dir, windlass(dir).args(["serve", "--listen", listen]).args(flags))
    }

    /// Starts a server on this folder by a command, and waits until it is ready.
    pub(crate) fn by(dir: &Path, command: &mut Command) -> Served {
        let begun = Instant::now();
        let mut child = command.spawn().expect("the binary runs");
        let mut log = child.stderr.take().expect("a pipe");
        // Whoever is not read from stops at a full pipe.
        let log = std::thread::spawn(move || {
            let mut said = String::new();
            log.read_to_string(&mut said).map(|_| said)
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("text");
        let ready_after = begun.elapsed();
        let Some(url) = line.trim_end().strip_prefix("listening on ") else {
            panic!("the server ended before it was ready: {:?}", log.join());
        };
        Served { child, log: Some(log), url: url.to_owned(), dir: dir.to_owned(), ready_after }
    }

    /// A command that talks to this server.
    pub(crate) fn windlass(&self, arguments: &[&str]) -> Command {
        let mut command = windlass(&self.dir);
        command.env("WINDLASS_URL", &self.url).args(arguments);
        command
    }

    /// Runs a command that talks to this server, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        run(&mut self.windlass(arguments))
    }

    /// Kills it as power losses do, and starts it anew at the same address.
    pub(crate) fn killed_and_started(mut self) -> Served {
        self.kill();
        let address = self.url.strip_prefix("http://").expect("a plain address").to_owned();
        Served::listening(&self.dir.clone(), &address, &[])
    }

    /// Kills it and does not start it again.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for its end, and says with which code it did.
    pub(crate) fn ended(mut self) -> Option<i32> {
        self.child.wait().expect("it is ours").code()
    }

    /// Waits for its end, and says with which code it did and what its log says.
    pub(crate) fn ended_with_log(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().expect("it is ours").code();
        let log = self.log.take().expect("taken once").join().expect("no panic").expect("text");
        (code, log)
    }

    /// Asks it to end, and says with which code it did.
    pub(crate) fn terminated(self) -> Option<i32> {
        self.signal("TERM");
        self.ended()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
