//! `windlass agents`: who can run sessions, and does it work?

use crate::{
    arguments::{Page, ask, more},
    connection::Connection,
    failure::Failure,
    output,
};

/// List and try the server's agents
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// List the agents
    Ls(List),
    /// Let an agent answer a small prompt, outside of any session; exit code 1 if it cannot
    Test(Test),
}

#[derive(clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    connection: Connection,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct Test {
    /// The agent's name
    agent: String,
    #[command(flatten)]
    connection: Connection,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls(args) => {
            let client = args.connection.client()?;
            let page = ask(async { Ok(client.agents(&args.page.paging()).await?) })?;
            if args.json {
                return output::document(&page);
            }
            let row = |agent: &windlass_client::api::Agent| {
                let default = if agent.default { "default" } else { "" };
                [agent.name.clone(), agent.kind.clone(), default.into(), agent.detail.clone().unwrap_or_default()]
            };
            output::table(["name", "kind", "default", "detail"], page.items.iter().map(row))?;
            more(page.next_cursor.as_ref());
            Ok(())
        }
        Verb::Test(args) => {
            let client = args.connection.client()?;
            let test = ask(async { Ok(client.test_agent(&args.agent).await?) })?;
            if args.json { output::document(&test) } else { output::fields(&test) }?;
            if test.ok { Ok(()) } else { Err(Failure::failed(format!("{} cannot be used", test.name))) }
        }
    }
}
