//! `windlass inputs`, `withdraw`, `dead` and `redrive`: what was addressed to a session, and what became of it?

use crate::{
    arguments::{Listing, OfInput},
    completion,
    failure::Failure,
    output,
};
use windlass_client::{
    InputFilter,
    api::{InputPhase, InputView},
};

/// List the inputs of a session
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: its id or name
    #[arg(add = completion::sessions())]
    session: String,
    /// Only those that are open, done, or dead letters
    #[arg(long, value_enum)]
    state: Option<State>,
    #[command(flatten)]
    list: Listing,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum State {
    Open,
    Done,
    Dead,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let state = args.state.map(|state| match state {
        State::Open => InputPhase::Open,
        State::Done => InputPhase::Done,
        State::Dead => InputPhase::Dead,
    });
    let filter = InputFilter { state };
    args.list.tell(async |client, paging| client.inputs(&args.session, &filter, &paging).await, HEADS, row)
}

pub(crate) fn dead(list: &Listing) -> Result<(), Failure> {
    list.tell(async |client, paging| client.dead_letters(&paging).await, HEADS, row)
}

pub(crate) fn withdraw(of: &OfInput) -> Result<(), Failure> {
    let withdrawn = of.ask.of(async |client| client.withdraw(&of.session, &of.input.to_string()).await)?;
    of.ask.format.tell(&withdrawn, |withdrawn| output::line(output::word(&withdrawn.state)))
}

pub(crate) fn redrive(of: &OfInput) -> Result<(), Failure> {
    let admitted = of.ask.of(async |client| client.redrive(&of.session, &of.input.to_string()).await)?;
    of.ask.format.tell(&admitted, |admitted| output::line(admitted.id))
}

const HEADS: [&str; 7] = ["session", "id", "kind", "state", "result", "accepted at", "detail"];

fn row(input: &InputView) -> [String; 7] {
    let kind = input.kind.as_ref().map(output::word).unwrap_or_default();
    let result = input.result.as_ref();
    let end = result.map(|result| output::word(&result.status)).unwrap_or_default();
    let detail = result.and_then(|result| result.error.clone().or_else(|| result.reason.clone()));
    let at = input.accepted_at.map(|at| at.to_string()).unwrap_or_default();
    [
        input.session.to_string(),
        input.id.to_string(),
        kind,
        output::word(&input.state),
        end,
        at,
        detail.unwrap_or_default(),
    ]
}
