//! `windlass agents`: who can run sessions, and does it work?

use crate::{
    arguments::{Ask, Listing},
    completion,
    failure::Failure,
};
use windlass_client::api::Agent;

/// List and try the server's agents
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// List the agents
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Let an agent answer a small prompt, outside of any session; exit code 1 if it cannot
    Test(Test),
}

#[derive(clap::Args)]
pub(crate) struct Test {
    /// The agent's name
    #[arg(add = completion::agents())]
    agent: String,
    #[command(flatten)]
    ask: Ask,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls(list) => list.tell(
            async |client, paging| client.agents(&paging).await,
            ["name", "kind", "default", "detail"],
            |agent: &Agent| {
                let default = if agent.default { "default" } else { "" };
                [agent.name.clone(), agent.kind.clone(), default.into(), agent.detail.clone().unwrap_or_default()]
            },
        ),
        Verb::Test(args) => {
            let test = args.ask.of(async |client| client.test_agent(&args.agent).await)?;
            args.ask.format.fields(&test)?;
            if test.ok { Ok(()) } else { Err(Failure::failed(format!("{} cannot be used", test.name))) }
        }
    }
}
