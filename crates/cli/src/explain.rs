//! `windlass explain`: why is this input not running, or how did it end?
//!
//! Asks the server where one is named; otherwise folds the journal, beside a running process, and changes nothing.

use crate::{
    arguments::Ask,
    completion,
    failure::Failure,
    journal, notation, output,
    place::{Place, session_id},
};
use serde::Serialize;
use std::{collections::BTreeSet, sync::Arc};
use windlass::{
    Cause, Entry, Explanation, IdempotencyKey, InputId, InputRef, InputState, Limits, Outcome, PolicyTable, Record,
    RunId, Seq, Session, SessionId, Store,
};
use windlass_client::api;

/// Say why an input is not running, or how it ended
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: its id, or the name that chat was given
    #[arg(add = completion::sessions())]
    session: String,
    /// The input: its id; without a server also its idempotency key
    #[arg(add = completion::inputs())]
    input: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Serialize)]
struct Document {
    session: SessionId,
    input: InputId,
    state: Option<InputState>,
    /// While it is open: why it is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<Explanation>,
    /// When it is over: how it ended.
    outcome: Option<Outcome>,
    /// The entries that tell of it and of its runs.
    history: Vec<Arc<Entry>>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.ask.connection.is_meant(&args.place)? {
        let explanation = args.ask.of(async |client| client.explain(&args.session, &args.input).await)?;
        return args.ask.format.tell(&explanation, tell_of_server);
    }
    let session = session_id(&args.session);
    let file = args.place.existing_store_of(args.ask.connection.config())?;
    let document = crate::runtime()?.block_on(async {
        let store = journal::open(&file, session, &args.session).await?;
        let input = find(&store, session, args).await?;
        story(&store, session, input).await
    })?;
    args.ask.format.tell(&document, tell)
}

async fn find(store: &impl Store, session: SessionId, args: &Args) -> Result<InputId, Failure> {
    let by = match args.input.parse() {
        Ok(id) => InputRef::Id(id),
        Err(_) => InputRef::Key(IdempotencyKey::new(args.input.as_str()).map_err(Failure::not_found)?),
    };
    match store.input(session, &by).await? {
        Some(row) => Ok(row.input),
        None => Err(Failure::not_found(format!("session {} has no input {}", args.session, args.input))
            .hint(format!("windlass journal {}", args.session))),
    }
}

/// Folds the journal and keeps what concerns the input.
async fn story(store: &windlass::SqliteStore, session: SessionId, input: InputId) -> Result<Document, Failure> {
    let mut fold = Session::new(session, Limits::default(), Arc::new(PolicyTable::reference()));
    let mut document = Document { session, input, state: None, explanation: None, outcome: None, history: Vec::new() };
    let mut settled = Vec::new();
    let mut last = None;
    let mut whole = true;
    let mut runs = BTreeSet::new();
    let mut after = Seq::ZERO;
    loop {
        let (pruned, page) = journal::page(store, session, after).await?;
        // A fold needs every entry; what is left still tells the input's own story.
        whole &= pruned == Seq::ZERO;
        let Some(end) = page.last() else { break };
        after = end.seq;
        last = Some(end.at);
        for entry in page {
            if whole {
                fold.replay(&entry, &mut settled)
                    .map_err(|corrupt| Failure::failed(format!("store_corrupt: {corrupt}")).hint("windlass verify"))?;
            }
            if names(&entry.record, input, &mut runs) {
                document.history.push(entry);
            }
        }
        document.outcome =
            document.outcome.or_else(|| settled.iter().find(|s| s.input == input).map(|s| s.outcome.clone()));
        settled.clear();
    }
    document.state = document.outcome.as_ref().map(Outcome::state);
    if whole && document.outcome.is_none() {
        let mut explanation = fold.explain(input, last.unwrap_or_default());
        if explanation.cause == Cause::NoExecutor {
            // Whether one is attached is known to the process that owns the session, not to its journal.
            explanation.sentence = "it is ready, and runs as soon as an executor is attached".into();
        }
        document.state = explanation.state;
        document.explanation = Some(explanation);
    }
    if document.state.is_none() {
        document.state = store.input(session, &InputRef::Id(input)).await?.and_then(|row| row.settled);
    }
    Ok(document)
}

/// Whether the record is part of the input's story; `runs` are those that it was part of so far.
fn names(record: &Record, input: InputId, runs: &mut BTreeSet<RunId>) -> bool {
    match record {
        Record::InputAccepted(accepted) => {
            accepted.input.id() == input || accepted.replaces.is_some_and(|replaced| replaced.older == input)
        }
        Record::InputsSettled { inputs, .. } => inputs.contains(&input),
        Record::ContextAppended { receipt } => receipt.contributing_input_ids.contains(&input),
        Record::RunStarted(started) => {
            if started.inputs.contains(&input) || started.asides.contains(&input) {
                runs.insert(started.run);
            }
            runs.contains(&started.run)
        }
        Record::RunSteered { run, inputs } => {
            if inputs.contains(&input) {
                runs.insert(*run);
            }
            inputs.contains(&input)
        }
        Record::BoundaryCommitted(boundary) => runs.contains(&boundary.receipt.run_id),
        Record::RunEnded(ended) => runs.contains(&ended.run),
        _ => false,
    }
}

fn tell_of_server(explanation: &api::Explanation) -> Result<(), Failure> {
    output::line(format!("input {} is {}", explanation.id, output::word(&explanation.state)))?;
    output::line(format!("  because: {}", explanation.sentence))?;
    let result = explanation.result.as_ref().map(output::word);
    let at = explanation.next_eligible.map(|at| at.to_string());
    let row = explanation.policy_row.map(|row| format!("row[{row}]"));
    let position = explanation.position.map(|position| position.to_string());
    let tries = (explanation.tries > 0).then(|| explanation.tries.to_string());
    for (name, value) in [
        ("outcome", result),
        ("before it in its lane", position),
        ("not before", at),
        ("tries since the last boundary", tries),
        ("policy", row),
    ] {
        if let Some(value) = value {
            output::line(format!("  {name}: {value}"))?;
        }
    }
    Ok(())
}

fn tell(document: &Document) -> Result<(), Failure> {
    let state = document.state.map_or_else(|| "open".into(), windlass::notation::input_state);
    output::line(format!("input {} is {state}", document.input))?;
    if let Some(outcome) = &document.outcome {
        output::line(format!("  outcome: {}", notation::end(outcome)))?;
    }
    if let Some(explanation) = &document.explanation {
        output::line(format!("  because: {}", explanation.sentence))?;
        if let Some(position) = explanation.position {
            output::line(format!("  before it in its lane: {position}"))?;
        }
        if let Some(at) = explanation.next_eligible {
            output::line(format!("  not before: {}", notation::moment(at)))?;
        }
        if explanation.tries > 0 {
            output::line(format!("  tries since the last boundary: {}", explanation.tries))?;
        }
    }
    document.history.iter().try_for_each(|entry| output::line(format!("  {}", notation::entry(entry))))
}
