//! `windlass inputs`, `withdraw`, `dead` and `redrive`: what was addressed to a session, and what became of it?

use crate::{
    arguments::{Page, ask, more},
    connection::Connection,
    failure::Failure,
    output,
};
use windlass_client::{
    InputFilter,
    api::{self, InputPhase, InputView},
};

/// List the inputs of a session
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: its id or name
    session: String,
    /// Only those that are open, done, or dead letters
    #[arg(long, value_enum)]
    state: Option<State>,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    connection: Connection,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum State {
    Open,
    Done,
    Dead,
}

/// List the dead letters of all sessions
#[derive(clap::Args)]
pub(crate) struct Dead {
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    connection: Connection,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// One input.
#[derive(clap::Args)]
pub(crate) struct One {
    /// The session: its id or name
    session: String,
    /// The input's id
    input: String,
    #[command(flatten)]
    connection: Connection,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let state = args.state.map(|state| match state {
        State::Open => InputPhase::Open,
        State::Done => InputPhase::Done,
        State::Dead => InputPhase::Dead,
    });
    let page = ask(async { Ok(client.inputs(&args.session, &InputFilter { state }, &args.page.paging()).await?) })?;
    list(&page, args.json)
}

pub(crate) fn dead(args: &Dead) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let page = ask(async { Ok(client.dead_letters(&args.page.paging()).await?) })?;
    list(&page, args.json)
}

pub(crate) fn withdraw(args: &One) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let withdrawn = ask(async { Ok(client.withdraw(&args.session, &args.input).await?) })?;
    if args.json { output::document(&withdrawn) } else { output::line(output::word(&withdrawn.state)) }
}

pub(crate) fn redrive(args: &One) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let admitted = ask(async { Ok(client.redrive(&args.session, &args.input).await?) })?;
    if args.json { output::document(&admitted) } else { output::line(admitted.id) }
}

fn list(page: &api::Page<InputView>, json: bool) -> Result<(), Failure> {
    if json {
        return output::document(page);
    }
    let row = |input: &InputView| {
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
    };
    let heads = ["session", "id", "kind", "state", "result", "accepted at", "detail"];
    output::table(heads, page.items.iter().map(row))?;
    more(page.next_cursor.as_ref());
    Ok(())
}
