//! `windlass explain`: why is this input not running, or how did it end?
//!
//! Asks the server where one is named; otherwise reads the journal, beside a running process, and changes nothing. As
//! JSON both say the same.

use crate::{
    arguments::{Ask, input_id},
    completion,
    failure::{Exit, Failure},
    journal, notation, output,
    place::{Place, session_id},
};
use std::{collections::BTreeSet, sync::Arc};
use windlass::{
    Cause, Entry, IdempotencyKey, InputId, InputRef, InputRow, Limits, Outcome, PolicyTable, Record, RunId, Seq,
    Session, SessionId, SqliteStore, Store,
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

/// What the journal of a session says of an input.
struct Story {
    /// What a server would answer.
    explanation: api::Explanation,
    /// When it is over and that is still kept: how it ended.
    outcome: Option<Outcome>,
    /// The entries that tell of it and of its runs.
    history: Vec<Arc<Entry>>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.ask.connection.is_meant(&args.place)? {
        let input = input_id(&args.input).map_err(|problem| Failure::new(Exit::Usage, problem))?;
        let explanation = args.ask.of(async |client| client.explain(&args.session, &input.to_string()).await)?;
        return args.ask.format.tell(&explanation, tell_cause);
    }
    let session = session_id(&args.session);
    let file = args.place.existing_store_of(args.ask.connection.config())?;
    let story = crate::runtime()?.block_on(async {
        let store = journal::open(&file, session, &args.session).await?;
        let row = find(&store, session, args).await?;
        story(&store, row).await
    })?;
    args.ask.format.tell(&story.explanation, |explanation| tell(explanation, &story))
}

async fn find(store: &impl Store, session: SessionId, args: &Args) -> Result<InputRow, Failure> {
    let by = match args.input.parse() {
        Ok(id) => InputRef::Id(id),
        Err(_) => InputRef::Key(IdempotencyKey::new(args.input.as_str()).map_err(Failure::not_found)?),
    };
    match store.input(session, &by).await? {
        Some(row) => Ok(row),
        None => Err(Failure::not_found(format!("session {} has no input {}", args.session, args.input))
            .hint(format!("windlass journal {}", args.session))),
    }
}

/// Reads the journal and keeps what concerns the input.
async fn story(store: &SqliteStore, row: InputRow) -> Result<Story, Failure> {
    let InputRow { session, input, .. } = row;
    let (mut history, mut runs) = (Vec::new(), BTreeSet::new());
    let (mut outcome, mut accepted) = (None, None);
    let mut after = Seq::ZERO;
    loop {
        let (_, page) = journal::page(store, session, after).await?;
        let Some(end) = page.last() else { break };
        after = end.seq;
        for entry in page {
            if !names(&entry.record, input, &mut runs) {
                continue;
            }
            if let (Some(state), true) = (row.settled, row.settled_seq == Some(entry.seq)) {
                outcome = entry.record.outcome_of(input, state);
            }
            if row.accepted_seq == entry.seq {
                accepted = Some(Arc::clone(&entry));
            }
            history.push(entry);
        }
    }
    let explanation = match row.settled {
        Some(state) => {
            let (decision, policy_row) = match accepted.as_ref().map(|entry| &entry.record) {
                Some(Record::InputAccepted(accepted)) => (Some(accepted.decision.clone()), accepted.policy_row),
                _ => (None, None),
            };
            let result = outcome.as_ref().map_or_else(api::Completion::forgotten, api::Completion::from);
            api::Explanation::of_settled(input, state, decision, policy_row, Some(result))
        }
        None => why_open(store, session, input).await?,
    };
    Ok(Story { explanation, outcome, history })
}

/// Why an open input is not running, as the session itself would say.
async fn why_open(store: &SqliteStore, session: SessionId, input: InputId) -> Result<api::Explanation, Failure> {
    let changed = || Failure::failed("the session has changed while it was read").hint("the same command again");
    let kept = store.load(session).await?.ok_or_else(changed)?;
    let snapshot = kept.snapshot.as_ref().map(|(_, snapshot)| &**snapshot);
    let policy = Arc::new(PolicyTable::reference());
    let session = Session::recover(session, Limits::default(), policy, snapshot, &kept.tail)
        .map_err(|corrupt| Failure::failed(format!("store_corrupt: {corrupt}")).hint("windlass verify"))?;
    let mut said = session.explain(input, session.last_at());
    if said.cause == Cause::NoExecutor {
        // Whether one is attached is known to the process that owns the session, not to its journal.
        said.sentence = "it is ready, and runs as soon as an executor is attached".into();
    }
    api::Explanation::of_open(said).ok_or_else(changed)
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

fn tell_cause(explanation: &api::Explanation) -> Result<(), Failure> {
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

fn tell(explanation: &api::Explanation, story: &Story) -> Result<(), Failure> {
    match &story.outcome {
        Some(outcome) => {
            output::line(format!("input {} is {}", explanation.id, output::word(&explanation.state)))?;
            output::line(format!("  outcome: {}", notation::end(outcome)))?;
        }
        None => tell_cause(explanation)?,
    }
    story.history.iter().try_for_each(|entry| output::line(format!("  {}", notation::entry(entry))))
}
