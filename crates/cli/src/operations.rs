//! `windlass ops`: which background work does a session wait to hear of?

use crate::{arguments::Listing, completion, failure::Failure, output};
use windlass_client::api::{CancelOperation, OperationView};

/// List the background work of a session, or show one operation
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: its id or name
    #[arg(add = completion::sessions())]
    session: String,
    /// The operation's id
    operation: Option<String>,
    /// Call it off
    #[arg(long, requires = "operation")]
    cancel: bool,
    /// Why it is called off, in words
    #[arg(long, value_name = "TEXT", requires = "cancel")]
    reason: Option<String>,
    #[command(flatten)]
    list: Listing,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Some(operation) = &args.operation else { return list(args) };
    args.list.ask.tell(async |client| {
        if args.cancel {
            let cancel = CancelOperation { reason: args.reason.clone() };
            return client.cancel_operation(&args.session, operation, &cancel).await;
        }
        client.operation(&args.session, operation).await
    })
}

fn list(args: &Args) -> Result<(), Failure> {
    args.list.tell(
        async |client, paging| client.operations(&args.session, &paging).await,
        ["id", "name", "status", "created at", "detail"],
        |operation: &OperationView| {
            let said = operation.progress.last().map(|update| update.message.clone());
            let detail = operation.detail.clone().or(said).unwrap_or_default();
            let status = output::word(&operation.status);
            [operation.id.to_string(), operation.display_name.clone(), status, operation.created_at.to_string(), detail]
        },
    )
}
