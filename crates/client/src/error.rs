//! What can go wrong between a client and its server, and what does it mean to a script?

use std::time::Duration;
use windlass_api::ProblemDetails;

/// Why a call has no answer, or a bad one.
///
/// [`ClientError::code`] is stable and for programs, the text is for people, [`ClientError::exit_code`] is what a command
/// line ends with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's address, or the token for it, cannot be used at all. Nothing was sent.
    #[error("{0}")]
    Settings(String),
    /// Nobody answers at the address, or the connection was lost before the answer was whole.
    #[error("no answer from {url}: {detail}")]
    Unreachable {
        /// The server's address.
        url: String,
        /// What the system says.
        detail: String,
        /// Whether the request may have arrived. If not, nothing has happened.
        sent: bool,
    },
    /// The server says no, and why (RFC 9457).
    #[error("{}", told(problem))]
    Problem {
        /// What it says.
        problem: Box<ProblemDetails>,
        /// When to try again, if it says so.
        retry_after: Option<Duration>,
    },
    /// An answer that is not one of a Windlass server: often a proxy's.
    #[error("{url} does not answer like a Windlass server: {detail}")]
    NotWindlass {
        /// The server's address.
        url: String,
        /// Its HTTP status, if it came so far.
        status: Option<u16>,
        /// What was found instead.
        detail: String,
    },
    /// A wait came to its deadline. The input is safe and goes on; ask for it again by its id or key.
    #[error("{input} is still {state} at the deadline")]
    WaitTimedOut {
        /// The input that was waited for.
        input: String,
        /// Where it was when last heard of.
        state: String,
    },
}

impl ClientError {
    /// The stable name of what went wrong: the server's own code, or `unreachable`, `not_windlass`, `wait_timed_out`,
    /// `settings`.
    pub fn code(&self) -> &str {
        match self {
            ClientError::Settings(_) => "settings",
            ClientError::Unreachable { .. } => "unreachable",
            ClientError::Problem { problem, .. } => problem.code.as_str(),
            ClientError::NotWindlass { .. } => "not_windlass",
            ClientError::WaitTimedOut { .. } => "wait_timed_out",
        }
    }

    /// What the command line ends with: 1 failed, 3 not found, 4 not authorised, 5 conflict, 6 rejected, 7 wait timed
    /// out, 8 unreachable, 78 configuration.
    pub fn exit_code(&self) -> u8 {
        match self {
            ClientError::Settings(_) => 78,
            ClientError::Unreachable { .. } | ClientError::NotWindlass { .. } => 8,
            ClientError::WaitTimedOut { .. } => 7,
            ClientError::Problem { problem, .. } => match (problem.code.as_str(), problem.status) {
                ("rejected_by_policy", _) => 6,
                ("idempotency_key_reused", _) | (_, 409 | 412) => 5,
                (_, 401 | 403) => 4,
                (_, 404 | 410) => 3,
                (_, 502..=504) => 8,
                (_, 400..=499) => 6,
                _ => 1,
            },
        }
    }

    /// Whether the same call may do better later, without a change to it.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } => true,
            ClientError::Problem { problem, .. } => problem.retryable,
            // A proxy says so while the server behind it is away.
            ClientError::NotWindlass { status, .. } => matches!(status, Some(502..=504)),
            ClientError::Settings(_) | ClientError::WaitTimedOut { .. } => false,
        }
    }

    /// Whether the same call may fare better without anybody deciding anew: a policy that refuses has decided.
    pub(crate) fn passes(&self) -> bool {
        let decided = matches!(self, ClientError::Problem { problem, .. } if problem.code == "rejected_by_policy");
        self.is_transient() && !decided
    }

    /// Whether it is certain that the call changed nothing.
    pub(crate) fn nothing_happened(&self) -> bool {
        matches!(self, ClientError::Settings(_) | ClientError::Unreachable { sent: false, .. })
    }
}

fn told(problem: &ProblemDetails) -> String {
    let mut lines = vec![format!("{}: {}", problem.code, problem.detail.as_deref().unwrap_or(&problem.title))];
    for error in &problem.errors {
        let place = error.pointer.as_deref().or(error.parameter.as_deref()).unwrap_or_default();
        // The problem's own words are often those of its one fault.
        if problem.detail.as_deref() != Some(&error.detail) {
            lines.push(format!("  at {place}: {}", error.detail));
        }
    }
    lines.join("\n")
}
