//! Does every command of the README do what it is shown for?

mod common;

use common::{Said, Served, journal_of_has, run, wait_until, windlass};
use std::{os::unix::fs::PermissionsExt, path::Path, process::Child};

/// The commands of the blocks of shell, without what is said of them.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).expect("a README");
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a first part").to_owned());
    let lines = blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.map(|line| line.split(" # ").next().expect("a first part").trim().to_owned()).collect()
}

/// The words of a command; a quoted one is one.
fn words(command: &str) -> Vec<String> {
    let quoted = command.split('"').enumerate();
    let words = quoted.flat_map(|(at, part)| match at % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_whitespace().map(str::to_owned).collect(),
    });
    words.collect()
}

fn last_input(dir: &Path, session: &str) -> String {
    let journal = run(windlass(dir).args(["journal", session, "--json"])).json();
    let mut entries = journal["items"].as_array().expect("entries").iter().rev();
    let accepted = entries.find_map(|entry| entry["record"].get("input_accepted")).expect("an input");
    accepted["input"]["header"]["id"].as_str().expect("an id").to_owned()
}

/// The reader: does line after line, in two terminals.
struct Reader {
    dir: tempfile::TempDir,
    server: Option<Served>,
    /// What waits in the other terminal.
    waiting: Option<Child>,
}

impl Reader {
    fn command(&self, words: &[String]) -> std::process::Command {
        let mut command = match &self.server {
            Some(server) => server.windlass(&[]),
            None => windlass(self.dir.path()),
        };
        command.args(words).current_dir(self.dir.path());
        command
    }

    fn does(&mut self, command: &str) {
        let mut words = words(command);
        let verb = words.get(1).cloned();
        let dir = self.dir.path().to_owned();
        match (words[0].clone().as_str(), verb.as_deref()) {
            // The checks run these themselves, or are these.
            ("cargo", _) => assert!(
                ["cargo run --release -- demo", "cargo xtask test", "cargo install --path crates/cli"]
                    .contains(&command),
                "nobody runs this: {command}"
            ),
            ("windlass", Some("serve")) => self.server = Some(Served::start(&dir)),
            ("kill", _) => {
                wait_until("the run", || journal_of_has(&dir, "demo", r#""/slow 5""#));
                self.server = self.server.take().map(Served::killed_and_started);
                let answered = Said::of(self.waiting.take().expect("a wait").wait_with_output().expect("it ends"));
                assert_eq!(answered.code, Some(0), "{answered:?}");
                assert!(!answered.out.is_empty(), "{answered:?}");
            }
            ("windlass", Some("tail")) => {
                words.extend(["--after", "0", "--limit", "3"].map(str::to_owned));
                let said = run(&mut self.command(&words[1..]));
                assert!(said.code == Some(0) && said.out.contains("input_accepted"), "{command}: {said:?}");
            }
            ("windlass", Some("send")) if command.contains("/slow") => {
                self.waiting = Some(self.command(&words[1..]).spawn().expect("the binary runs"));
            }
            ("windlass", Some(verb)) => {
                // From here on without a server.
                if verb == "chat" {
                    self.server = None;
                }
                for word in &mut words {
                    match word.as_str() {
                        "SESSION" => *word = "demo".to_owned(),
                        "INPUT" => *word = last_input(&dir, "demo"),
                        _ => {}
                    }
                }
                let said = run(&mut self.command(&words[1..]));
                assert_eq!(said.code, Some(0), "{command}: {said:?}");
                assert!(verb == "chat" || !said.out.is_empty(), "{command}: {said:?}");
            }
            _ => panic!("the README shows what nobody tries: {command}"),
        }
    }
}

#[test]
fn what_the_readme_shows_happens() {
    let dir = tempfile::tempdir().expect("a folder");
    let agent = dir.path().join("my-agent");
    std::fs::write(&agent, "#!/bin/sh\ncat > /dev/null\necho hello\n").expect("a program");
    std::fs::set_permissions(&agent, PermissionsExt::from_mode(0o755)).expect("ours");
    let mut reader = Reader { dir, server: None, waiting: None };
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        reader.does(&command);
    }
}
