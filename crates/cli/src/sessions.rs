//! `windlass sessions`: which sessions are there, and what are they told about themselves?

use crate::{
    arguments::{Ask, Listing, OfSession, label},
    completion,
    control::{self, Ending},
    failure::Failure,
    output,
};
use windlass_client::{
    Client, ClientError, SessionFilter,
    api::{CreateSession, SessionView, UpdateSession},
};

/// List, show, create, change and remove sessions
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List sessions (the default)
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show a session
    Show(OfSession),
    /// Create a session
    New(New),
    /// Change what a session is told about itself
    Set(Set),
    /// Remove a destroyed session and all that was written of it
    #[command(visible_alias = "delete")]
    Rm(Ending),
}

#[derive(clap::Args)]
struct List {
    /// Only those that this agent runs
    #[arg(long, value_name = "AGENT", add = completion::agents())]
    agent: Option<String>,
    /// Only the one of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only those with this label
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Only those in this state: open, retired, stopped or destroyed
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    #[command(flatten)]
    page: Listing,
}

#[derive(clap::Args)]
struct New {
    /// Its name: 1 to 64 of A-Z a-z 0-9 _ - [default: none, only an id]
    name: Option<String>,
    /// The agent that runs it [default: the server's]
    #[arg(long, value_name = "AGENT", add = completion::agents())]
    agent: Option<String>,
    /// A label to find it by
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Peer requests with this intent start no runs
    #[arg(long, value_name = "INTENT")]
    silent_intent: Vec<String>,
    /// Hear peers while it has no executor
    #[arg(long)]
    keep_alive: bool,
    /// Its policy: a name, or name@version [default: the built-in one]
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
#[group(id = "changes", required = true, multiple = true,
        args = ["label", "no_labels", "silent_intent", "no_silent_intents", "keep_alive", "policy", "no_policy"])]
struct Set {
    /// The session: its id or name
    #[arg(add = completion::sessions())]
    session: String,
    /// Its labels from now on are these
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// No labels
    #[arg(long, conflicts_with = "label")]
    no_labels: bool,
    /// Peer requests with these intents, and no others, start no runs
    #[arg(long, value_name = "INTENT")]
    silent_intent: Vec<String>,
    /// All peer requests start runs
    #[arg(long, conflicts_with = "silent_intent")]
    no_silent_intents: bool,
    /// Whether to hear peers while it has no executor
    #[arg(long, value_name = "BOOL")]
    keep_alive: Option<bool>,
    /// Its policy from now on: a name, or name@version
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// The built-in policy
    #[arg(long, conflicts_with = "policy")]
    no_policy: bool,
    #[command(flatten)]
    ask: Ask,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        None => list(&args.list),
        Some(Verb::Ls(args)) => list(args),
        Some(Verb::Show(of)) => of.ask.tell(async |client| client.session(&of.session).await),
        Some(Verb::New(args)) => args.ask.tell(async |client| new(&client, args).await),
        Some(Verb::Set(args)) => {
            args.ask.tell(async |client| client.update_session(&args.session, &changes(args)).await)
        }
        Some(Verb::Rm(ending)) => control::remove(ending),
    }
}

fn list(args: &List) -> Result<(), Failure> {
    let filter = SessionFilter {
        agent: args.agent.clone(),
        name: args.name.clone(),
        labels: args.label.clone(),
        state: args.state.clone(),
    };
    args.page.tell(
        async |client, paging| client.sessions(&filter, &paging).await,
        ["id", "name", "agent", "state", "open inputs", "updated at"],
        |session: &SessionView| {
            let name = session.name.clone().unwrap_or_default();
            let agent = session.agent.clone().unwrap_or_default();
            let state = output::word(&session.state);
            let inputs = session.open_inputs.to_string();
            [session.id.to_string(), name, agent, state, inputs, session.updated_at.to_string()]
        },
    )
}

async fn new(client: &Client, args: &New) -> Result<SessionView, ClientError> {
    let settings = CreateSession {
        id: None,
        name: args.name.clone(),
        agent: args.agent.clone(),
        labels: args.label.iter().cloned().collect(),
        silent_intents: args.silent_intent.clone(),
        keep_alive: args.keep_alive,
        policy: args.policy.clone(),
    };
    let (session, created) = client.create_session(&settings).await?;
    if !created {
        output::note("it was there, with the same settings");
    }
    Ok(session)
}

fn changes(args: &Set) -> UpdateSession {
    let labels = (args.no_labels || !args.label.is_empty()).then(|| args.label.iter().cloned().collect());
    let intents = (args.no_silent_intents || !args.silent_intent.is_empty()).then(|| args.silent_intent.clone());
    let policy = match (args.no_policy, &args.policy) {
        (true, _) => Some(None),
        (false, Some(policy)) => Some(Some(policy.clone())),
        (false, None) => None,
    };
    UpdateSession { labels, silent_intents: intents, keep_alive: args.keep_alive, policy }
}
