//! `windlass token`: who may call the server?
//!
//! Through the server where one runs, because it alone writes the store; on the store itself where none does, so that the
//! first token can be made before anybody listens.

use crate::{
    arguments::{Paged, block_on, duration},
    connection::Connection,
    failure::{Exit, Failure},
    output::{self, Format},
    place::Place,
};
use std::{sync::Arc, time::Duration};
use windlass::{SqliteOptions, SqliteStore, StoreError, SystemClock};
use windlass_client::{
    Client, ExposeSecret as _, Paging,
    api::{CreateToken, CreatedToken, Page, TokenView},
};
use windlass_server::{
    Code, Scopes,
    auth::{NewToken, TokenId, Tokens},
};

/// Make, list and revoke tokens
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a token and print it, this once
    Create(Create),
    /// List tokens, without their secrets
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// End a token, at once and for good
    Revoke(Revoke),
}

#[derive(clap::Args)]
pub(crate) struct Create {
    /// What it is for, in words of your own
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// What it may do, for example inputs:write; more than one if repeated [default: everything; with --session-prefix, everything but administration]
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// The tenant that it speaks for [default: the one of who asks]
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only sessions whose name begins so
    #[arg(long, value_name = "PREFIX")]
    session_prefix: Option<String>,
    /// How long it holds, for example 720h [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires_in: Option<Duration>,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    page: Paged,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Args)]
pub(crate) struct Revoke {
    /// The token's id, as listed
    id: String,
    #[command(flatten)]
    at: At,
}

/// Where tokens are kept, and how they are told.
#[derive(clap::Args)]
struct At {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

/// Where the tokens are reached.
enum Reached {
    Server(Client),
    Store(Tokens),
}

impl At {
    async fn reach(&self) -> Result<Reached, Failure> {
        if self.connection.is_meant(&self.place)? {
            return Ok(Reached::Server(self.connection.client()?));
        }
        let file = self.place.store_of(self.connection.config())?;
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match SqliteStore::open(file, SqliteOptions::default()) {
            Ok(store) => {
                let tokens = Tokens::load(Arc::new(store), Arc::new(SystemClock)).await;
                Ok(Reached::Store(tokens.map_err(|problem| refused(&problem))?))
            }
            // A folder was named: which server holds it is not known, and another one must not be asked.
            Err(error @ StoreError::Locked { .. }) if self.place.named_store().is_some() => {
                Err(Failure::from(error).hint("--url of the server that holds it"))
            }
            // Whoever holds it is the server to ask.
            Err(StoreError::Locked { .. }) => Ok(Reached::Server(self.connection.client()?)),
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create(args) => {
            let made = block_on(create(args))?;
            args.at.format.tell(&made, |made| {
                output::note(format!("token {}, shown this once; keep it where others cannot read it", made.view.id));
                output::line(&made.token)
            })
        }
        Verb::Ls(args) => list(args),
        Verb::Revoke(args) => block_on(revoke(args)),
    }
}

async fn create(args: &Create) -> Result<CreatedToken, Failure> {
    let scopes = match &args.session_prefix {
        _ if !args.scope.is_empty() => args.scope.clone(),
        None => vec!["*".to_owned()],
        Some(_) => Scopes::all().without_administration().iter().map(|scope| scope.to_string()).collect(),
    };
    let token = CreateToken {
        name: args.name.clone(),
        tenant: args.tenant.clone(),
        scopes,
        session_prefix: args.session_prefix.clone(),
        expires_in: args.expires_in.map(|time| time.as_secs().max(1)),
    };
    match args.at.reach().await? {
        Reached::Server(client) => Ok(client.create_token(&token).await?),
        Reached::Store(tokens) => {
            let new = NewToken::of_operator(token, tokens.is_empty()).map_err(|problem| refused(&problem))?;
            let (row, secret) = tokens.create(new).await.map_err(|problem| refused(&problem))?;
            Ok(CreatedToken { token: secret.expose_secret().to_owned(), view: row.into() })
        }
    }
}

fn list(args: &Ls) -> Result<(), Failure> {
    let page = block_on(async {
        match args.at.reach().await? {
            Reached::Server(client) => Ok(client.tokens(&args.page.paging()).await?),
            Reached::Store(tokens) => {
                let Paging { limit, cursor } = args.page.paging();
                let after = cursor.as_deref().and_then(TokenId::parse);
                let limit = limit.unwrap_or(100).clamp(1, 500) as usize;
                let mut items: Vec<TokenView> =
                    tokens.list(None, after.as_ref(), limit + 1).into_iter().map(TokenView::from).collect();
                let more = items.len() > limit;
                items.truncate(limit);
                let next_cursor = items.last().filter(|_| more).map(|last| last.id.clone());
                Ok(Page { items, next_cursor })
            }
        }
    })?;
    let row = |token: &TokenView| {
        let ends = match (token.revoked_at, token.expires_at) {
            (Some(at), _) => format!("revoked {at}"),
            (None, Some(at)) => at.to_string(),
            (None, None) => String::new(),
        };
        let used = token.last_used_at.map(|at| at.to_string()).unwrap_or_default();
        let name = token.name.clone().unwrap_or_default();
        [token.id.clone(), name, token.tenant.clone(), token.scopes.join(" "), used, ends]
    };
    args.at.format.page(&page, ["id", "name", "tenant", "scopes", "last used", "ends"], row)
}

async fn revoke(args: &Revoke) -> Result<(), Failure> {
    match args.at.reach().await? {
        Reached::Server(client) => Ok(client.revoke_token(&args.id).await?),
        Reached::Store(tokens) => {
            let missing = || Failure::not_found(format!("there is no token {}", args.id)).hint("windlass token ls");
            let id = TokenId::parse(&args.id).ok_or_else(missing)?;
            if tokens.revoke(&id).await.map_err(|problem| refused(&problem))? { Ok(()) } else { Err(missing()) }
        }
    }
}

fn refused(problem: &windlass_server::Problem) -> Failure {
    let exit = if problem.code() == Code::SchemaViolation { Exit::Rejected } else { Exit::Failed };
    Failure::told(exit, &problem.to_string())
}
