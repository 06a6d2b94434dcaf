//! `windlass completion` and `windlass man`: how does a shell, or a reader of manuals, learn the verbs?
//!
//! A shell asks the binary at every press of the key, so that it knows the sessions and agents of the server as well. The
//! server is the one of the environment or of the default profile: flags of the line are not looked at.

use crate::{arguments::block_on, connection::Connection, failure::Failure, output};
use clap::CommandFactory as _;
use clap_complete::{ArgValueCompleter, CompleteEnv, CompletionCandidate, env::Shells};
use std::{ffi::OsStr, path::PathBuf, time::Duration};
use windlass_client::{Client, ClientError, InputFilter, Paging, SessionFilter};

/// What tells the binary that a shell asks.
const ASKED: &str = "WINDLASS_COMPLETE";
/// Whoever presses a key waits no longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Print what makes a shell complete verbs, sessions and inputs; for example: source <(windlass completion bash)
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Write the manual pages, one per verb
#[derive(clap::Args)]
pub(crate) struct Man {
    /// The folder to write them to; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let shells = Shells::builtins();
    let shell = args.shell.to_string();
    let shell = shells.completer(&shell).ok_or_else(|| Failure::failed(format!("{shell} cannot be completed in")))?;
    let mut script = Vec::new();
    shell.write_registration(ASKED, "windlass", "windlass", "windlass", &mut script)?;
    output::text(&String::from_utf8_lossy(&script))
}

pub(crate) fn man(args: &Man) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.dir)?;
    Ok(clap_mangen::generate_to(crate::Cli::command(), &args.dir)?)
}

/// Answers, and ends the process, if a shell asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(crate::Cli::command).var(ASKED).complete();
}

/// Completes the names and ids of sessions.
pub(crate) fn sessions() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| {
        candidates(begun, async |client| {
            let page = client.sessions(&SessionFilter::default(), &whole_page()).await?;
            Ok(page.items.into_iter().map(|session| session.name.unwrap_or_else(|| session.id.to_string())).collect())
        })
    })
}

/// Completes the ids of the open inputs and dead letters of the session that is the word before.
pub(crate) fn inputs() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| {
        let words: Vec<_> = std::env::args_os().collect();
        // The line ends in the session and what was begun.
        let Some(session) = words.iter().rev().nth(1).and_then(|word| word.to_str()) else { return Vec::new() };
        candidates(begun, async |client| {
            let page = client.inputs(session, &InputFilter::default(), &whole_page()).await?;
            Ok(page.items.into_iter().map(|input| input.id.to_string()).collect())
        })
    })
}

/// Completes the names of agents.
pub(crate) fn agents() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| {
        candidates(begun, async |client| {
            Ok(client.agents(&whole_page()).await?.items.into_iter().map(|agent| agent.name).collect())
        })
    })
}

fn whole_page() -> Paging {
    Paging { limit: Some(500), cursor: None }
}

/// What the server knows that begins so; nothing if it cannot be asked: a completion is no place for errors.
fn candidates(
    begun: &OsStr,
    question: impl AsyncFnOnce(Client) -> Result<Vec<String>, ClientError>,
) -> Vec<CompletionCandidate> {
    let known = block_on(async {
        let client = Connection::of_environment().client()?;
        let answer = tokio::time::timeout(PATIENCE, question(client)).await.map_err(Failure::failed)?;
        Ok(answer?)
    });
    let begun = begun.to_str().unwrap_or_default();
    let fitting = known.unwrap_or_default().into_iter().filter(|word| word.starts_with(begun));
    fitting.map(CompletionCandidate::new).collect()
}
