//! `windlass tail`: what is happening in these sessions, now?

use crate::{
    arguments::Ask,
    completion,
    failure::{Exit, Failure},
    notation, output,
};
use windlass::{Entry, Record, Seq, Timestamp};
use windlass_client::{Event, Follow, api};

/// Follow sessions: every entry once and in order, progress live
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The sessions: ids or names
    #[arg(required = true, add = completion::sessions())]
    session: Vec<String>,
    /// Begin after this position of the one session: 0 for the beginning [default: what comes from now on]
    #[arg(long, value_name = "POSITION")]
    after: Option<String>,
    /// End after so many entries
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Leave out live progress
    #[arg(long)]
    no_progress: bool,
    #[command(flatten)]
    ask: Ask,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    args.ask.of(async |client| {
        let mut follow = Follow::sessions(&args.session);
        match (&args.after, args.session.as_slice()) {
            (Some(position), [_]) if !is_position(position) => {
                return Err(Failure::new(Exit::Usage, format!("--after {position}: a position is a number"))
                    .hint("windlass journal SESSION, or tail --json, shows the position of each entry"));
            }
            (Some(position), _) => follow = follow.after(position),
            (None, [session]) => follow = follow.after(client.session(session).await?.head.to_string()),
            (None, _) => {}
        }
        if args.no_progress {
            follow = follow.without_progress();
        }
        let mut events = client.events(follow);
        let mut left = args.limit.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(event) = events.next().await? else { break };
            left -= u64::from(matches!(event, Event::Entry(_)));
            args.ask.format.item(&event, |event| tell(event, args.session.len() > 1))?;
        }
        Ok::<_, Failure>(())
    })
}

/// A position as the journal shows it, or as the events of a stream have it for their id: `seq.micros`.
fn is_position(text: &str) -> bool {
    let (seq, at) = text.split_once('.').unwrap_or((text, "0"));
    seq.parse::<u64>().is_ok() && u64::from_str_radix(at, 16).is_ok()
}

fn tell(event: &Event, named: bool) -> Result<(), Failure> {
    let (session, text) = match event {
        Event::Entry(entry) => (Some(entry.session), line(entry)),
        Event::Progress(progress) => {
            (Some(progress.session), format!("  {} {}", progress.run, output::plain(&progress.delta)))
        }
        Event::Lagged(lagged) => (Some(lagged.session), format!("  missed {} pieces of progress", lagged.missed)),
        Event::Gap(gap) => (Some(gap.session), format!("entries before {} are no longer kept", gap.oldest)),
        Event::End(end) => (end.session, format!("end: {}", end.reason)),
        other => (None, serde_json::to_string(other).map_err(Failure::failed)?),
    };
    match session {
        Some(session) if named => output::line(format_args!("{session} {text}")),
        _ => output::line(text),
    }
}

/// The entry in the notation of `windlass journal`; as JSON if its record is of a newer server.
fn line(event: &api::Event) -> String {
    match serde_json::from_value::<Record>(event.record.clone()) {
        Ok(record) => notation::entry(&Entry { seq: Seq(event.seq), at: Timestamp::from(event.at), record }),
        Err(_) => format!("{} {} {}", event.at, event.seq, event.record),
    }
}
