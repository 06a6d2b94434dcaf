//! Is it meant that way? What cannot be taken back is asked for once more.

use crate::{arguments::OfSession, failure::Failure, output};
use std::io::{IsTerminal as _, Write as _};
use windlass_client::api::SessionView;

/// Whether a verb that cannot be taken back is to be done.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Consent {
    /// Do not ask; nobody is asked where standard input is no terminal
    #[arg(long, short)]
    yes: bool,
    /// Show the session that it would be done to, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Consent {
    /// Whether to go on. What is about to be done is told in the words of `what`, for example `destroy`.
    pub(crate) fn to(self, what: &str, of: &OfSession) -> Result<bool, Failure> {
        let asks = !self.yes && std::io::stdin().is_terminal();
        if !self.dry_run && !asks {
            return Ok(true);
        }
        let session = of.ask.of(async |client| client.session(&of.session).await)?;
        if self.dry_run {
            output::note(format_args!("would {what} this session; nothing was done"));
            of.ask.format.fields(&session)?;
            return Ok(false);
        }
        if agreed(what, &of.session, &session)? { Ok(true) } else { Err(Failure::failed("nothing was done")) }
    }
}

/// Asks at the terminal.
fn agreed(what: &str, name: &str, session: &SessionView) -> Result<bool, Failure> {
    let gate = output::word(&session.gate);
    let mut stderr = anstream::stderr();
    write!(stderr, "{what} {name}, which is {gate} and has {} open inputs? [y/N] ", session.open_inputs)?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
