//! `windlass policy explain`: what would be done with such an input, and which row says so?

use crate::{failure::Failure, output};
use serde::Serialize;
use std::path::{Path, PathBuf};
use windlass::{HandlingMode, InputKind, PolicyQuery, PolicyTable, Ruling, SourceKind, policy_from_toml};

/// What policies say
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    Explain(Explain),
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
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Explained<'e> {
    kind: InputKind,
    mode: Option<HandlingMode>,
    source: SourceKind,
    busy: bool,
    policy: &'e str,
    #[serde(flatten)]
    ruling: Ruling,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    let Verb::Explain(args) = verb;
    let (table, policy) = match &args.policy {
        Some(file) => (load(file)?, file.display().to_string()),
        None => (PolicyTable::reference(), "built-in".to_owned()),
    };
    let query = PolicyQuery { kind: Some(args.kind), mode: args.mode, source: args.source, busy: args.busy };
    let ruling = table.decide(query);
    if args.json {
        let (kind, mode, source, busy) = (args.kind, args.mode, args.source, args.busy);
        return output::document(&Explained { kind, mode, source, busy, policy: &policy, ruling });
    }
    let row = match ruling.row {
        Some(row) => format!("row[{row}]"),
        None => "no row: queued, wakes nobody".to_owned(),
    };
    output::line(format!("{} by {row} of the {policy} table, version {}", args.kind.as_str(), table.version))?;
    let decision = serde_json::to_value(&ruling.decision).map_err(Failure::failed)?;
    for (field, value) in decision.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        output::line(format!("  {field} = {value}"))?;
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
