//! How do the tests run the real binary?

#![allow(dead_code, reason = "each test file uses some of it")]

use serde_json::Value;
use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The binary, in a folder of its own and out of reach of the tester's settings.
pub(crate) fn windlass(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command.env_remove("WINDLASS_LOG").env("WINDLASS_DIR", dir);
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
    run(windlass(dir).args(["journal", "chat"])).out.contains(text)
}

/// Sends a signal by name.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().expect("kill runs");
    assert!(sent.success());
}
