//! `windlass journal`: what happened to a session, entry by entry?
//!
//! Reads beside a running process and changes nothing.

use crate::{
    failure::Failure,
    notation,
    output::{self, Format},
    place::{Place, session_id},
};
use std::{path::Path, sync::Arc};
use windlass::{Entry, Seq, SessionId, SqliteStore, Store, StoreError};
use windlass_client::api::{Event, JournalPage};

/// Entries read at once.
const PAGE: u32 = 1_000;

/// Print a session's journal
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: its id, or the name that chat was given
    session: String,
    /// Only entries after this position
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let session = session_id(&args.session);
    let file = args.place.existing_store()?;
    crate::runtime()?.block_on(async {
        let store = open(&file, session, &args.session).await?;
        let mut after = Seq(args.after);
        // One document is whole before it is printed; anything else goes on its way at once.
        let mut items = Vec::new();
        loop {
            let (pruned, page) = page(&store, session, after).await?;
            if pruned > Seq::ZERO {
                output::note(format!("entries up to {pruned} are no longer kept"));
            }
            let Some(last) = page.last() else { break };
            after = last.seq;
            for entry in page {
                let event = Event::of(session, &entry).map_err(Failure::failed)?;
                if args.format.is_one_document() {
                    items.push(event);
                } else {
                    args.format.item(&event, |_| output::line(notation::entry(&entry)))?;
                }
            }
        }
        if args.format.is_one_document() {
            args.format.tell(&JournalPage { items, next_after: None }, |_| Ok(()))?;
        }
        Ok(())
    })
}

/// Opens the store for reading, and makes sure that it has the session.
pub(crate) async fn open(file: &Path, session: SessionId, name: &str) -> Result<SqliteStore, Failure> {
    let store = SqliteStore::open_read_only(file)?;
    match store.session(session).await? {
        Some(_) => Ok(store),
        None => Err(Failure::not_found(format!("there is no session {name} in {}", file.display()))
            .hint("another --dir, or the name that chat was given with --session")),
    }
}

/// The next entries, and up to where they are no longer kept if some are missing before them.
pub(crate) async fn page(
    store: &SqliteStore,
    session: SessionId,
    after: Seq,
) -> Result<(Seq, Vec<Arc<Entry>>), Failure> {
    match store.read(session, after, PAGE).await {
        Ok(page) => Ok((Seq::ZERO, page)),
        Err(StoreError::Pruned { oldest }) => Ok((oldest, store.read(session, oldest, PAGE).await?)),
        Err(error) => Err(error.into()),
    }
}
