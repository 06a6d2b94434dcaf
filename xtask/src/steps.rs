//! How is a step of the suite run, timed and told?

use crate::root;
use std::{process::Command, time::Instant};

/// How a step went.
pub(crate) enum Outcome {
    /// Well. The note says what there is to say.
    Passed(String),
    /// Badly: what was printed, and what to try.
    Failed { output: String, try_this: String },
    /// It could not be run here: what is missing, and how to get it.
    Skipped(String),
}

/// Tests that ran, over all steps.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// Runs a step and prints its line. A failure without failed tests counts as one.
pub(crate) fn step(name: &str, tally: &mut Tally, work: impl FnOnce(&mut Tally) -> anyhow::Result<Outcome>) {
    let start = Instant::now();
    let failed_before = tally.failed;
    let outcome =
        work(tally).unwrap_or_else(|error| Outcome::Failed { output: format!("{error:#}"), try_this: String::new() });
    let seconds = start.elapsed().as_secs_f64();
    match outcome {
        Outcome::Passed(note) => println!("ok    {name:<12} {seconds:>6.1} s  {note}"),
        Outcome::Skipped(reason) => println!("skip  {name:<12} {seconds:>6.1} s  {reason}"),
        Outcome::Failed { output, try_this } => {
            tally.failed += u64::from(tally.failed == failed_before);
            println!("FAIL  {name:<12} {seconds:>6.1} s");
            println!("{}", output.trim_end());
            if !try_this.is_empty() {
                println!("try: {try_this}");
            }
        }
    }
}

/// Runs a command to its end, with what it printed on either stream, in order of stream.
pub(crate) fn capture(command: &mut Command) -> anyhow::Result<(Option<i32>, String)> {
    let output = command
        .output()
        .map_err(|error| anyhow::anyhow!("cannot start {}: {error}", command.get_program().display()))?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok((output.status.code(), text))
}

/// Runs a command that must end well.
pub(crate) fn must(command: &mut Command, try_this: &str) -> anyhow::Result<Outcome> {
    let (code, output) = capture(command)?;
    Ok(if code == Some(0) {
        Outcome::Passed(String::new())
    } else {
        Outcome::Failed { output, try_this: try_this.to_owned() }
    })
}

/// The cargo that runs us, at the root of the repository.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    // What cargo tells xtask about itself is not for the cargo that xtask starts.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR")
    {
        command.env_remove(name);
    }
    command.current_dir(root()).args(arguments);
    command
}

/// Whether a cargo subcommand is installed.
pub(crate) fn installed(subcommand: &str) -> bool {
    cargo([subcommand, "--version"]).output().is_ok_and(|output| output.status.success())
}
