//! `windlass ops`: which background work does a session wait to hear of?

use crate::{
    arguments::{Page, ask, more},
    connection::Connection,
    failure::Failure,
    output,
};
use windlass_client::api::{CancelOperation, OperationView};

/// List the background work of a session, or show one operation
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: its id or name
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
    page: Page,
    #[command(flatten)]
    connection: Connection,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    if let Some(operation) = &args.operation {
        let operation = ask(async {
            if args.cancel {
                let cancel = CancelOperation { reason: args.reason.clone() };
                return Ok(client.cancel_operation(&args.session, operation, &cancel).await?);
            }
            Ok(client.operation(&args.session, operation).await?)
        })?;
        return if args.json { output::document(&operation) } else { output::fields(&operation) };
    }
    let page = ask(async { Ok(client.operations(&args.session, &args.page.paging()).await?) })?;
    if args.json {
        return output::document(&page);
    }
    let row = |operation: &OperationView| {
        let said = operation.progress.last().map(|update| update.message.clone());
        let detail = operation.detail.clone().or(said).unwrap_or_default();
        let status = output::word(&operation.status);
        [operation.id.to_string(), operation.display_name.clone(), status, operation.created_at.to_string(), detail]
    };
    output::table(["id", "name", "status", "created at", "detail"], page.items.iter().map(row))?;
    more(page.next_cursor.as_ref());
    Ok(())
}
