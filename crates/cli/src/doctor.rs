//! `windlass doctor`: what would keep a server from working here, and what is to be done about it?
//!
//! Looks and changes nothing that is kept; its only writing is a small file beside the store, which it removes.

use crate::{
    arguments::block_on,
    config::agents_without_keys,
    connection::Connection,
    failure::{Exit, Failure},
    output::{self, Format},
    serve::Settings,
};
use serde::Serialize;
use std::{
    io::Write as _,
    path::Path,
    time::{Duration, Instant, SystemTime},
};
use windlass::{
    SqliteStore, StoreError,
    agent::sandbox::{Profile, Sandbox},
};

/// Check configuration, store, lock, disk, clock, sandbox and server, and say what to do
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    format: Format,
}

/// Which server; the configuration file is that of the settings.
#[derive(clap::Args, Clone, Debug)]
struct Server {
    /// The server's address [default: the profile's, or http://127.0.0.1:7420]
    #[arg(long, env = "WINDLASS_URL", value_name = "URL", help_heading = "Server")]
    url: Option<String>,
    /// The connection of this name in the configuration file
    #[arg(long, env = "WINDLASS_PROFILE", value_name = "NAME", help_heading = "Server")]
    profile: Option<String>,
}

/// What was looked at, and how it is.
#[derive(Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    detail: String,
    #[serde(rename = "try", skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// Works, and could do better; or could not be looked at.
    Note,
    Wrong,
}

/// A commit needs a few syncs; slower ones than this are felt.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// A store that was written so much later than now was written by another clock.
const SKEW: Duration = Duration::from_secs(5);
/// 2026-01-01: before this no clock is right.
const EARLIEST: u64 = 1_767_225_600;

#[derive(Serialize)]
struct Document<'f> {
    ok: bool,
    findings: &'f [Finding],
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut findings = Vec::new();
    match args.settings.config() {
        Ok(config) => {
            findings.push(ok("config", "can be used"));
            let hint = "set it where the server starts; until then the agent's inputs wait";
            let lacking = agents_without_keys(&config)?;
            findings.extend(lacking.iter().map(|lacking| note("agent", lacking.to_string(), hint)));
        }
        Err(failure) => findings.push(wrong("config", &failure)),
    }
    match args.settings.store() {
        Ok(file) => {
            findings.push(clock(&file));
            findings.extend(store(&file));
        }
        Err(failure) => findings.push(wrong("store", &failure)),
    }
    findings.push(sandbox());
    findings.push(server(args)?);
    let all_is_well = findings.iter().all(|finding| finding.state != State::Wrong);
    let document = Document { ok: all_is_well, findings: &findings };
    args.format.tell(&document, |document| document.findings.iter().try_for_each(tell))?;
    if all_is_well { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
}

fn tell(finding: &Finding) -> Result<(), Failure> {
    let (style, mark) = match finding.state {
        State::Ok => (output::GOOD, "ok   "),
        State::Note => (output::NOTE, "note "),
        State::Wrong => (output::WRONG, "WRONG"),
    };
    output::line(format_args!("{style}{mark}{style:#} {}: {}", finding.name, finding.detail))?;
    match &finding.hint {
        Some(hint) => output::line(format_args!("      try: {hint}")),
        None => Ok(()),
    }
}

fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
    Finding { name, state: State::Ok, detail: detail.into(), hint: None }
}

fn note(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { name, state: State::Note, detail: detail.into(), hint: Some(hint.into()) }
}

fn wrong(name: &'static str, failure: &Failure) -> Finding {
    let (detail, hint) = failure.parts();
    Finding { name, state: State::Wrong, detail: detail.to_owned(), hint: hint.map(str::to_owned) }
}

fn clock(store: &Path) -> Finding {
    let now = SystemTime::now();
    let hint = "set the clock, and keep it by NTP";
    if now < SystemTime::UNIX_EPOCH + Duration::from_secs(EARLIEST) {
        return wrong("clock", &Failure::failed("it says a time long past").hint(hint));
    }
    let written = store.metadata().and_then(|metadata| metadata.modified()).ok();
    match written.and_then(|written| written.duration_since(now).ok()) {
        Some(ahead) if ahead > SKEW => note("clock", format!("the store was written {ahead:.0?} in the future"), hint),
        _ => ok("clock", "plausible"),
    }
}

/// The store's file, who writes it, and the disk below it.
fn store(file: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.exists() {
        findings.push(match SqliteStore::open_read_only(file) {
            Ok(_) => ok("store", format!("{} can be read", file.display())),
            Err(error) => wrong("store", &error.into()),
        });
        // Taking the lock is the only way to ask who holds it; it is let go at once.
        findings.push(match windlass::sqlite::try_lock(file) {
            Ok(()) => ok("lock", "free: no server runs on this store"),
            Err(error @ StoreError::Locked { .. }) => ok("lock", error.to_string()),
            Err(error) => wrong("lock", &error.into()),
        });
    } else {
        findings.push(note("store", format!("there is none yet at {}", file.display()), "windlass serve makes it"));
    }
    let folder = file.parent().filter(|folder| folder.is_dir());
    findings.push(match folder.map(sync) {
        None => note("disk", "the store's folder does not exist yet", "windlass serve makes it"),
        Some(Ok(took)) if took > SLOW_SYNC => {
            let hint = "a disk of its own, not a network file system; every acceptance waits for a sync";
            note("disk", format!("a sync takes {took:.1?}"), hint)
        }
        Some(Ok(took)) => ok("disk", format!("a sync takes {took:.1?}")),
        Some(Err(error)) => {
            let failure = Failure::failed(format!("the store's folder cannot be written: {error}"));
            wrong("disk", &failure.hint("make room, or give the folder to this user"))
        }
    });
    findings
}

/// Writes and syncs a small file, and removes it.
fn sync(folder: &Path) -> std::io::Result<Duration> {
    let file = folder.join(format!(".windlass-doctor-{}", std::process::id()));
    let begun = Instant::now();
    let written = std::fs::File::create_new(&file).and_then(|mut probe| {
        probe.write_all(&[0; 4096])?;
        probe.sync_all()
    });
    let took = begun.elapsed();
    std::fs::remove_file(&file)?;
    written.map(|()| took)
}

/// Whether programs that models start can be kept in their workspaces.
fn sandbox() -> Finding {
    match Sandbox::default().or(Profile::Workspace).check(Some(Path::new("/"))) {
        Ok(()) => ok("sandbox", "models can be kept in their workspaces"),
        Err(error) => {
            note("sandbox", error.to_string(), "Linux 6.2 or later, with Landlock among its security modules")
        }
    }
}

/// The server: a note if nobody is there and nobody said that somebody should be.
fn server(args: &Args) -> Result<Finding, Failure> {
    let connection = Connection::of(args.server.url.clone(), args.server.profile.clone(), args.settings.file.clone());
    let client = match connection.client() {
        Ok(client) => client,
        Err(failure) => return Ok(wrong("server", &failure)),
    };
    block_on(async {
        let ready = match client.ready().await {
            Ok(ready) => client.version().await.map(|version| (ready, version)),
            Err(error) => Err(error),
        };
        Ok(match ready {
            Ok((ready, version)) => {
                let version = output::plain(&version["version"]);
                let detail = format!("{} is ready, version {version}", client.url());
                match ready["sessions_without_executor"].as_u64() {
                    None | Some(0) => ok("server", detail),
                    Some(sessions) => note(
                        "server",
                        format!("{detail}; sessions whose agent cannot be made: {sessions}"),
                        "windlass explain SESSION INPUT says why; the server's log names them",
                    ),
                }
            }
            Err(windlass_client::ClientError::Unreachable { .. }) if !connection.is_named() => {
                note("server", format!("nobody listens at {}", client.url()), "windlass serve")
            }
            Err(error) => wrong("server", &error.into()),
        })
    })
}
