//! `windlass send` and `windlass wait`: how does something reach an agent, and how does its sender hear the end of it?

use crate::{
    arguments::{Ask, duration, input_id},
    completion,
    failure::{Exit, Failure},
    output::{self, Format},
};
use indicatif::ProgressBar;
use serde::Serialize;
use std::{io::Read as _, time::Duration};
use windlass::{Gate, InputId, SessionId};
use windlass_client::{
    Client, ClientError, SendInput,
    api::{Admission, Completion, CompletionStatus},
};

/// Send a prompt to a session, and wait for the answer if asked to
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The session: its id or name
    #[arg(add = completion::sessions())]
    session: String,
    /// What to say; - reads standard input
    text: String,
    /// Wait for the answer, at most so long [default: 5m]; restarts of the server are no matter
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, require_equals = true,
          default_missing_value = "5m")]
    wait: Option<Duration>,
    /// Join the run that is on, if one is
    #[arg(long)]
    steer: bool,
    /// Makes a repetition recognisable: the same key and text is accepted once
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The agent that runs the session, if it is created now [default: the server's]
    #[arg(long, value_name = "AGENT", conflicts_with = "no_create", add = completion::agents())]
    agent: Option<String>,
    /// Do not create a session that does not exist
    #[arg(long)]
    no_create: bool,
    #[command(flatten)]
    ask: Ask,
}

/// Wait until an input is over; restarts of the server are no matter
#[derive(clap::Args)]
pub(crate) struct Wait {
    /// The session: its id or name
    #[arg(add = completion::sessions())]
    session: String,
    /// The input's id
    #[arg(add = completion::inputs(), value_parser = input_id)]
    input: InputId,
    /// At most so long
    #[arg(value_name = "TIME", value_parser = duration, default_value = "5m")]
    time: Duration,
    #[command(flatten)]
    ask: Ask,
}

/// An input that is over.
#[derive(Serialize)]
struct Document {
    id: InputId,
    session: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Admission>,
    result: Completion,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut input = SendInput::prompt(text(&args.text)?);
    if args.steer {
        input = input.steer();
    }
    if let Some(key) = &args.key {
        input = input.key(key);
    }
    if !args.no_create {
        input = input.create(args.agent.clone());
    }
    let Some(time) = args.wait else {
        let admitted = args.ask.of(async |client| match client.send(&args.session, &input).await {
            Ok(admitted) => Ok(admitted),
            Err(error) => Err(advised(&client, &args.session, error).await),
        })?;
        return args.ask.format.tell(&admitted, |admitted| output::line(admitted.id));
    };
    let spinner = spinner("waiting for the answer");
    let answer = args.ask.of(async |client| match client.send_and_wait(&args.session, &input, time).await {
        Ok(answer) => Ok(answer),
        Err(error) => Err(advised(&client, &args.session, error).await),
    });
    spinner.finish_and_clear();
    let answer = answer?;
    let document =
        Document { id: answer.id, session: answer.session, outcome: Some(answer.outcome), result: answer.completion };
    tell(&document, &args.session, args.ask.format)
}

/// An error, with what helps where the session takes no inputs.
async fn advised(client: &Client, session: &str, error: ClientError) -> Failure {
    let takes_none = error.code() == "session_state_conflict";
    let shown = if takes_none { client.session(session).await.ok() } else { None };
    let failure = Failure::from(error);
    let agent = shown.as_ref().and_then(|shown| shown.agent.as_ref());
    let agent = agent.map(|agent| format!(" --agent {agent}")).unwrap_or_default();
    match shown.map(|shown| shown.gate) {
        Some(Gate::Stopped) => failure.hint(format!("windlass sessions new {session}{agent}, which revives it")),
        Some(Gate::Retired) => failure.hint(format!("windlass reset {session}, or another session")),
        _ => failure,
    }
}

pub(crate) fn wait(args: &Wait) -> Result<(), Failure> {
    let spinner = spinner("waiting for the end");
    let ended = args.ask.of(async |client| {
        // A name means the session of the token's tenant, which only the server knows.
        let session = client.session(&args.session).await?.id;
        let result = client.wait(session, args.input, args.time).await?;
        Ok::<_, ClientError>(Document { id: args.input, session, outcome: None, result })
    });
    spinner.finish_and_clear();
    tell(&ended?, &args.session, args.ask.format)
}

/// Tells how an input ended; the exit code says whether it was good.
fn tell(document: &Document, session: &str, format: Format) -> Result<(), Failure> {
    let result = &document.result;
    let is_asked = result.status == CompletionStatus::CallbackPending;
    let end = match result.status {
        CompletionStatus::Completed | CompletionStatus::CompletedWithoutResult | CompletionStatus::CallbackPending => {
            None
        }
        CompletionStatus::Forgotten | CompletionStatus::Unknown => {
            Some(Failure::failed("the input is over; how it ended is not known here any more"))
        }
        CompletionStatus::Abandoned
        | CompletionStatus::Failed
        | CompletionStatus::Cancelled
        | CompletionStatus::Superseded
        | CompletionStatus::Coalesced => Some(
            Failure::new(Exit::RunFailed, how(result))
                .hint(format!("windlass explain {} {}", document.session, document.id)),
        ),
    };
    format.tell(document, |_| if end.is_none() { output::line(words(result)) } else { Ok(()) })?;
    if is_asked && format.is_text() {
        output::note(format_args!("it waits for an answer: windlass send {session} \"...\" --wait"));
    }
    end.map_or(Ok(()), Err)
}

/// How a run did not do what was asked, in one line.
fn how(result: &Completion) -> String {
    let status = serde_json::to_value(result.status).unwrap_or_default();
    let mut line = output::plain(&status);
    for part in [&result.reason, &result.error].into_iter().flatten() {
        line = format!("{line}: {part}");
    }
    match result.by {
        Some(by) => format!("{line} by {by}"),
        None => line,
    }
}

/// What a run said, or asks.
fn words(result: &Completion) -> String {
    match (&result.text, &result.structured, &result.tool_args) {
        (Some(text), ..) if !text.is_empty() => text.clone(),
        (_, Some(structured), _) => structured.to_string(),
        (.., Some(args)) => match args.get("question").and_then(|question| question.as_str()) {
            Some(question) => question.to_owned(),
            None => format!("waits for {}: {args}", result.tool_name.as_deref().unwrap_or("a tool")),
        },
        _ => String::new(),
    }
}

fn text(argument: &str) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| {
        Failure::new(Exit::Rejected, format!("standard input cannot be read: {error}")).hint("text in UTF-8")
    })?;
    // What a shell adds to the end of a text is not part of it.
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Shows at a terminal that something is going on.
fn spinner(what: &'static str) -> ProgressBar {
    if output::is_quiet() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
