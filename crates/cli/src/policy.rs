//! `windlass policy`: what would be done with such an input, which row says so, and what would another table change?
//!
//! A table in a file, or the built-in one, is asked here; one that a server keeps is asked there.

use crate::{
    arguments::{Ask, Listing},
    completion,
    failure::Failure,
    output,
};
use std::path::{Path, PathBuf};
use windlass::{HandlingMode, InputKind, PolicyQuery, PolicyTable, Ruling, SourceKind, policy_from_toml};
use windlass_client::api::{self, ExplainPolicy, PolicyExplained, ReplayPolicy};

/// What servers call the built-in table.
const BUILT_IN: &str = "default";

/// Keep, ask and try out policies
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Keep a table on the server under a name; sessions name it
    Upload(Upload),
    /// List the server's policies, or show one
    #[command(visible_alias = "list")]
    Ls(Ls),
    Explain(Explain),
    /// Say what a server's policy would have decided otherwise over a recorded span
    Replay(Replay),
}

#[derive(clap::Args)]
pub(crate) struct Upload {
    /// Its name
    name: String,
    /// The table, in TOML
    file: PathBuf,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
pub(crate) struct Ls {
    /// Show this one, with its rows: a name, or name@version
    name: Option<String>,
    #[command(flatten)]
    list: Listing,
}

#[derive(clap::Args)]
pub(crate) struct Replay {
    /// The policy: a name, or name@version
    name: String,
    /// The session whose journal it is tried on: its id or name
    #[arg(add = completion::sessions())]
    session: String,
    /// From the entry after this position
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// At most so many entries
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    limit: u32,
    #[command(flatten)]
    ask: Ask,
}

/// Say what a policy does with an input
#[derive(clap::Args)]
pub(crate) struct Explain {
    /// The kind of input, for example prompt or peer_request
    #[arg(long, value_parser = kind)]
    kind: InputKind,
    /// The handling mode it asks for
    #[arg(long, value_parser = mode)]
    mode: Option<HandlingMode>,
    /// Where it comes from
    #[arg(long, value_parser = source, default_value = "operator")]
    source: SourceKind,
    /// While a run is on
    #[arg(long)]
    busy: bool,
    /// A policy table in TOML [default: the built-in table]
    #[arg(long, value_name = "FILE.toml")]
    policy: Option<PathBuf>,
    /// A policy that the server keeps: a name, or name@version
    #[arg(long, value_name = "NAME", conflicts_with = "policy")]
    name: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Upload(args) => {
            // Refused here with its line, before anything is sent.
            load(&args.file)?;
            let text = std::fs::read_to_string(&args.file)?;
            args.ask.tell(async |client| client.upload_policy(&args.name, text).await)
        }
        Verb::Ls(args) => list(args),
        Verb::Explain(args) => explain(args),
        Verb::Replay(args) => replay(args),
    }
}

fn list(args: &Ls) -> Result<(), Failure> {
    if let Some(name) = &args.name {
        return args.list.ask.tell(async |client| client.policy(name).await);
    }
    args.list.tell(
        async |client, paging| client.policies(&paging).await,
        ["name", "version", "updated at"],
        |policy: &api::PolicyView| {
            // Nobody has uploaded it.
            let is_built_in = policy.name == BUILT_IN;
            let at = if is_built_in { "built in".to_owned() } else { policy.updated_at.to_string() };
            [policy.name.clone(), policy.version.to_string(), at]
        },
    )
}

fn replay(args: &Replay) -> Result<(), Failure> {
    let span = ReplayPolicy { session: args.session.clone(), after: args.after, limit: args.limit };
    let replayed = args.ask.of(async |client| client.replay_policy(&args.name, &span).await)?;
    args.ask.format.tell(&replayed, tell_replayed)
}

fn tell_replayed(replayed: &api::PolicyReplayed) -> Result<(), Failure> {
    let (decisions, differ) = (replayed.decisions, replayed.differences.len());
    output::line(format!(
        "{differ} of {decisions} decisions would differ by {} version {}",
        replayed.name, replayed.version
    ))?;
    for difference in &replayed.differences {
        output::line(format!("  {} at {}:", difference.input, difference.seq))?;
        let [recorded, replayed] = [&difference.recorded, &difference.replayed].map(serde_json::to_value);
        let (recorded, replayed) = (recorded.map_err(Failure::failed)?, replayed.map_err(Failure::failed)?);
        for (field, now) in replayed.as_object().into_iter().flatten() {
            let before = &recorded[field];
            if before != now && field != "policy_version" {
                output::line(format!("    {field}: {} becomes {}", output::plain(before), output::plain(now)))?;
            }
        }
    }
    if let Some(after) = replayed.next_after {
        output::note(format!("there is more: --after {after}"));
    }
    Ok(())
}

fn explain(args: &Explain) -> Result<(), Failure> {
    let said = match &args.name {
        Some(name) => {
            let question =
                ExplainPolicy { kind: args.kind, handling_mode: args.mode, source: args.source, busy: args.busy };
            args.ask.of(async |client| client.explain_policy(name, &question).await)?
        }
        None => explain_here(args)?,
    };
    args.ask.format.tell(&said, |said| tell(args.kind, said))
}

/// What a server would answer, had it kept the table. Its name is the file's, or that of the built-in one there.
fn explain_here(args: &Explain) -> Result<PolicyExplained, Failure> {
    let (table, name) = match &args.policy {
        Some(file) => (load(file)?, file.display().to_string()),
        None => (PolicyTable::reference(), BUILT_IN.to_owned()),
    };
    let query = PolicyQuery { kind: Some(args.kind), mode: args.mode, source: args.source, busy: args.busy };
    let Ruling { row, decision } = table.decide(query);
    Ok(PolicyExplained { name, version: table.version, row: row.map(|row| row as u32), decision })
}

fn tell(kind: InputKind, said: &PolicyExplained) -> Result<(), Failure> {
    let row = match said.row {
        Some(row) => format!("row[{row}]"),
        None => "no row: queued, wakes nobody".to_owned(),
    };
    output::line(format!("{} by {row} of the table {}, version {}", kind.as_str(), said.name, said.version))?;
    let decision = serde_json::to_value(&said.decision).map_err(Failure::failed)?;
    for (field, value) in decision.as_object().into_iter().flatten() {
        output::line(format!("  {field} = {}", output::plain(value)))?;
    }
    Ok(())
}

/// Reads a table, and refuses one that cannot be used, naming the place.
fn load(file: &Path) -> Result<PolicyTable, Failure> {
    let at = |error: &dyn std::fmt::Display| Failure::config(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| at(&error))?;
    policy_from_toml(&text).map_err(|error| at(&error))
}

/// Reads a name as the journal writes it.
fn named<T: serde::de::DeserializeOwned>(name: &str, known: &[&str]) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .map_err(|_| format!("not one of {}", known.join(", ")))
}

fn kind(name: &str) -> Result<InputKind, String> {
    named(name, &InputKind::ALL.map(InputKind::as_str))
}

fn mode(name: &str) -> Result<HandlingMode, String> {
    named(name, &["queue", "steer"])
}

fn source(name: &str) -> Result<SourceKind, String> {
    named(name, &["operator", "peer", "flow", "system", "external"])
}
