//! How does the server say that it did not do what it was asked?
//!
//! Every refusal and error is an RFC 9457 problem with a stable `code`, out of one table. A detail says what is wrong
//! and what to try; it holds no secret, no SQL, no path of the machine and nothing of another tenant.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use std::{borrow::Cow, fmt, time::Duration};
use windlass_api::{FieldError, ProblemDetails};
use windlass_core::{ControlRefused, OpsLifecycleError, RejectReason};
use windlass_runtime::{
    OpsError, SessionError, WaitError, blob::BlobError, documents::DocumentError, store::StoreError,
};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $title:literal $(, $retry:ident)?;)+) => {
        /// What went wrong. The text form is stable API; clients decide by it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $title] $name,)+
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Code] = &[$(Code::$name),+];

            /// Its stable text form.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code,)+ }
            }

            /// The HTTP status that it is answered with.
            pub const fn status(self) -> StatusCode {
                let status: u16 = match self { $(Code::$name => $status,)+ };
                match StatusCode::from_u16(status) {
                    Ok(status) => status,
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
                }
            }

            /// What it means, in words that never change.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)+ }
            }

            /// Whether the same request may succeed later.
            pub const fn retryable(self) -> bool {
                match self { $(Code::$name => codes!(@retry $($retry)?),)+ }
            }

            /// The code of this text form.
            pub fn parse(text: &str) -> Option<Code> {
                match text { $($code => Some(Code::$name),)+ _ => None }
            }
        }
    };
    (@retry retryable) => { true };
    (@retry) => { false };
}

codes! {
    Unauthenticated = "unauthenticated", 401, "A token is needed";
    TokenMalformed = "token_malformed", 401, "The token is not one of this server";
    TokenExpired = "token_expired", 401, "The token has expired";
    TokenRevoked = "token_revoked", 401, "The token was revoked";
    ForbiddenScope = "forbidden_scope", 403, "The token does not allow this";
    OriginNotAllowed = "origin_not_allowed", 403, "Pages of this origin may not call the server";
    HostNotAllowed = "host_not_allowed", 421, "The server does not answer under this host name";
    NotFound = "not_found", 404, "There is no such thing";
    Gone = "gone", 410, "It was there, and is no more";
    MethodNotAllowed = "method_not_allowed", 405, "The route does not take this method";
    NotAcceptable = "not_acceptable", 406, "The server cannot answer in the wanted media type";
    UnsupportedMediaType = "unsupported_media_type", 415, "The route does not take this media type";
    InvalidJson = "invalid_json", 400, "The body is not valid JSON";
    InvalidUtf8 = "invalid_utf8", 400, "The text is not valid UTF-8";
    JsonTooDeep = "json_too_deep", 400, "The JSON is nested too deeply";
    DuplicateKey = "duplicate_key", 400, "An object has the same key twice";
    SchemaViolation = "schema_violation", 422, "A value is not what the field takes";
    UnknownField = "unknown_field", 422, "The request takes no such field";
    UnknownInputType = "unknown_input_type", 422, "There is no such kind of input";
    ReservedMetadata = "reserved_metadata", 422, "Only the server itself sets this field";
    InvalidId = "invalid_id", 400, "The id is not well formed";
    InvalidCursor = "invalid_cursor", 400, "The cursor is not one of this server";
    CursorAhead = "cursor_ahead", 400, "The cursor lies beyond the last event";
    CursorExpired = "cursor_expired", 410, "What the cursor asks for is no longer kept";
    IncarnationChanged = "incarnation_changed", 409, "The store was restored since the cursor was made";
    InvalidHeader = "invalid_header", 400, "A header is not well formed";
    PayloadTooLarge = "payload_too_large", 413, "It carries too much";
    UriTooLong = "uri_too_long", 414, "The URI is too long";
    HeadersTooLarge = "headers_too_large", 431, "The headers are too large or too many";
    RequestTimeout = "request_timeout", 408, "The body took too long to arrive", retryable;
    IdempotencyKeyInvalid = "idempotency_key_invalid", 400, "The idempotency key is not well formed";
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The idempotency key was used for something else";
    InputIdReused = "input_id_reused", 409, "The input id was used for something else";
    DurabilityViolation = "durability_violation", 422, "The durability does not fit the kind of input";
    HandlingModeInvalid = "handling_mode_invalid", 422, "The handling mode does not fit the kind of input";
    RejectedByPolicy = "rejected_by_policy", 409, "The policy refuses the input while a run is on", retryable;
    NotADeadLetter = "not_a_dead_letter", 409, "The input is no dead letter";
    InvalidMedia = "invalid_media", 422, "Inline media is not valid base64";
    BlobStoreRequired = "blob_store_required", 422, "There is no blob store for inline media";
    QueueFull = "queue_full", 429, "Too many inputs wait", retryable;
    RateLimited = "rate_limited", 429, "Too many requests", retryable;
    QuotaExceeded = "quota_exceeded", 429, "The quota is used up", retryable;
    TooManyStreams = "too_many_streams", 429, "Too many streams or waits are open", retryable;
    SessionStateConflict = "session_state_conflict", 409, "The state of the session does not allow this";
    SettingsConflict = "settings_conflict", 409, "It exists with other settings";
    PreconditionFailed = "precondition_failed", 412, "It has changed since it was read";
    StaleEpoch = "stale_epoch", 409, "Somebody else owns it by now", retryable;
    RunClosed = "run_closed", 409, "The run is over";
    OperationConflict = "operation_conflict", 409, "The state of the operation does not allow this";
    BlobHashMismatch = "blob_hash_mismatch", 422, "The bytes do not have the hash that was given";
    BlobMissing = "blob_missing", 422, "A blob that is named is not there";
    BlobCorrupt = "blob_corrupt", 500, "The stored bytes are not what was written";
    PolicyInvalid = "policy_invalid", 422, "The policy cannot be used";
    PeerUnknown = "peer_unknown", 404, "There is no such peer";
    PeerSignatureInvalid = "peer_signature_invalid", 401, "The signature of the envelope does not fit";
    PeerExpired = "peer_expired", 401, "The envelope has expired";
    PeerReplay = "peer_replay", 409, "The envelope was seen before";
    PeerAudience = "peer_audience", 403, "The envelope is addressed to somebody else";
    PeerUnreachable = "peer_unreachable", 502, "The peer cannot be reached", retryable;
    LoopDetected = "loop_detected", 409, "The message has gone through too many peers";
    Draining = "draining", 503, "The server is shutting down", retryable;
    Overloaded = "overloaded", 503, "The server has too much to do", retryable;
    ExecutorUnavailable = "executor_unavailable", 503, "The agent of the session cannot be started", retryable;
    StoreUnavailable = "store_unavailable", 503, "The store is out of reach", retryable;
    StoreReadOnly = "store_read_only", 503, "The store cannot be written", retryable;
    StorageFull = "storage_full", 507, "There is no room in the store", retryable;
    StoreCorrupt = "store_corrupt", 500, "What is stored is not what was written";
    CommitOutcomeUnknown = "commit_outcome_unknown", 503, "Whether it was done is not known", retryable;
    Internal = "internal", 500, "The server failed";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An RFC 9457 problem. An error of every handler; the response is `application/problem+json`.
///
/// ```
/// use windlass_server::{Code, Problem};
/// let problem = Problem::new(Code::SchemaViolation).pointer("/text").detail("text: a string is wanted");
/// assert_eq!(problem.code().status(), 422);
/// ```
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    more: Map<String, Value>,
    retry_after: Option<Duration>,
    /// What only the log may hear.
    cause: Option<String>,
}

impl Problem {
    /// A problem of this kind, which its title already explains.
    pub fn new(code: Code) -> Problem {
        Problem { code, detail: None, errors: Vec::new(), more: Map::new(), retry_after: None, cause: None }
    }

    /// A bug of ours. The cause goes to the log, never to the client.
    pub fn internal(cause: impl fmt::Display) -> Problem {
        Problem { cause: Some(cause.to_string()), ..Problem::new(Code::Internal) }
    }

    /// Says what is wrong and what to try.
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Problem {
        self.detail = Some(detail.into());
        self
    }

    /// Says where in the body: a JSON pointer, with the detail said so far.
    pub fn pointer(mut self, pointer: impl Into<String>) -> Problem {
        let detail = self.detail.clone().unwrap_or(Cow::Borrowed(self.code.title()));
        self.errors.push(FieldError {
            pointer: Some(pointer.into()),
            detail: detail.into_owned(),
            ..FieldError::default()
        });
        self
    }

    /// Says which query parameter or header, with the detail said so far.
    pub fn parameter(mut self, name: impl Into<String>) -> Problem {
        let detail = self.detail.clone().unwrap_or(Cow::Borrowed(self.code.title()));
        self.errors.push(FieldError {
            parameter: Some(name.into()),
            detail: detail.into_owned(),
            ..FieldError::default()
        });
        self
    }

    /// Says one thing more, as a member of its own, for programs.
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Problem {
        self.more.insert(member.to_owned(), value.into());
        self
    }

    /// Names the limit that was reached, as the member `limit`.
    pub(crate) fn limit(self, limit: impl Into<u64>) -> Problem {
        self.with("limit", limit.into())
    }

    /// A problem at a place of the body; the detail names the place too.
    pub(crate) fn at(code: Code, pointer: String, detail: &str) -> Problem {
        let place = if pointer.is_empty() { String::new() } else { format!("{pointer}: ") };
        Problem::new(code).detail(detail.to_owned()).pointer(pointer).detail(format!("{place}{detail}"))
    }

    /// Says when to try again: the header `Retry-After`, in whole seconds, at least one.
    pub fn retry_after(mut self, after: Duration) -> Problem {
        self.retry_after = Some(after);
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the client is told, without the request's id.
    pub fn text(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.code.title())
    }

    /// A problem out of a text `code: what; what to try`, as the errors of the runtime are written.
    pub(crate) fn of_text(code: Code, text: &str) -> Problem {
        let text = text.strip_prefix(code.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
        Problem::new(code).detail(text.to_owned())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text())
    }
}

impl std::error::Error for Problem {}

impl Problem {
    /// The response, with the id under which the log knows the request.
    pub(crate) fn respond(&self, request_id: &str) -> Response {
        let wire = ProblemDetails {
            kind: format!("https://windlass.dev/errors/{}", self.code),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            code: self.code.as_str().to_owned(),
            detail: Some(self.text().to_owned()),
            request_id: (!request_id.is_empty()).then(|| request_id.to_owned()),
            retryable: self.code.retryable(),
            errors: self.errors.clone(),
            more: self.more.clone(),
        };
        let body = serde_json::to_vec(&wire).expect("strings and numbers always serialise");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for Problem {
    /// The guard of the server finds the problem in the extensions and sends it with the request's id.
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(code = %self.code, cause, "a request failed");
        }
        let mut response = self.respond("");
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        // What these say of files and processes is for the operator only.
        let (code, detail) = match &error {
            StoreError::Fenced { .. } | StoreError::Conflict { .. } => {
                (Code::StaleEpoch, "the session was opened elsewhere; try again")
            }
            StoreError::Unknown(_) => (
                Code::CommitOutcomeUnknown,
                "the store broke while it wrote; retry with the same idempotency key to find out",
            ),
            StoreError::Full(_) => (Code::StorageFull, "nothing was written; writing resumes when there is room"),
            StoreError::ReadOnly(_) => (Code::StoreReadOnly, "nothing was written; try again later"),
            StoreError::Corrupt { .. } | StoreError::Newer { .. } => {
                (Code::StoreCorrupt, "what is stored cannot be read; the operator has to look at it")
            }
            StoreError::Pruned { oldest } => {
                return Problem::new(Code::CursorExpired)
                    .detail(format!("entries up to {oldest} are no longer kept; begin after it"))
                    .with("oldest", oldest.0);
            }
            _ => (Code::StoreUnavailable, "nothing was written; try again"),
        };
        Problem { cause: Some(error.to_string()), ..Problem::new(code).detail(detail) }.patient()
    }
}

impl From<DocumentError> for Problem {
    fn from(error: DocumentError) -> Problem {
        match error {
            DocumentError::Store(error) => error.into(),
            error => Problem::of_text(Code::parse(error.code()).unwrap_or(Code::SchemaViolation), &error.to_string()),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Problem {
        match error {
            BlobError::Missing(blob) => {
                Problem::new(Code::NotFound).detail(format!("blob {} is not here; upload it first", blob.as_str()))
            }
            BlobError::Corrupt(blob) => Problem::new(Code::BlobCorrupt)
                .detail(format!("blob {} is damaged; upload it again to heal it", blob.as_str())),
            BlobError::Unavailable(cause) => {
                Problem { cause: Some(cause.to_string()), ..Problem::new(Code::StoreUnavailable) }.patient()
            }
        }
    }
}

impl From<ControlRefused> for Problem {
    fn from(refused: ControlRefused) -> Problem {
        let code = Code::parse(refused.code()).unwrap_or(Code::SessionStateConflict);
        Problem::new(code).detail(refused.to_string())
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Problem {
        match error {
            // The same words whether it is missing or another tenant's.
            SessionError::NotFound(_) => Problem::new(Code::NotFound).detail("no such session"),
            SessionError::Refused(refused) => refused.into(),
            SessionError::Store(error) => error.into(),
            SessionError::Blob(error) => error.into(),
            SessionError::Corrupt { .. } => Problem {
                cause: Some(error.to_string()),
                ..Problem::new(Code::StoreCorrupt).detail("the session cannot be read; the operator has to look at it")
            },
            SessionError::Draining => Problem::new(Code::Draining).detail("nothing was admitted; try again").patient(),
            SessionError::Closed(_) => Problem::new(Code::RunClosed),
            SessionError::Panicked(cause) => Problem::internal(cause)
                .detail("whether the call was done is unknown; try again with the same idempotency key"),
            SessionError::Executor(cause) => Problem {
                cause: Some(cause),
                ..Problem::new(Code::ExecutorUnavailable).detail("the inputs wait; see the server's log for the cause")
            }
            .patient(),
            error => Problem::internal(error),
        }
    }
}

impl From<WaitError> for Problem {
    fn from(error: WaitError) -> Problem {
        match error {
            WaitError::NoSuchInput => Problem::new(Code::NotFound).detail("the session has no such input"),
            WaitError::Session(error) => error.into(),
        }
    }
}

impl From<RejectReason> for Problem {
    fn from(reason: RejectReason) -> Problem {
        let code = Code::parse(reason.code()).unwrap_or(Code::SchemaViolation);
        let problem = Problem::new(code).detail(reason.to_string());
        let problem = match reason {
            RejectReason::QueueFull { limit, .. }
            | RejectReason::PayloadTooLarge { limit, .. }
            | RejectReason::PayloadTooDeep { limit, .. } => problem.limit(limit),
            _ => problem,
        };
        let problem = match reason.field() {
            "" => problem,
            field => problem.pointer(format!("/{}", field.trim_start_matches("header.").replace('.', "/"))),
        };
        if code.retryable() { problem.patient() } else { problem }
    }
}

impl From<OpsLifecycleError> for Problem {
    fn from(error: OpsLifecycleError) -> Problem {
        use OpsLifecycleError as E;
        let (code, limit) = match error {
            E::NotFound { .. } => (Code::NotFound, None),
            E::MaxConcurrentExceeded { limit, .. } => (Code::QuotaExceeded, Some(limit)),
            E::GateClosed => (Code::SessionStateConflict, None),
            E::TooLarge { limit, .. } => (Code::PayloadTooLarge, Some(limit)),
            E::RunClosed => (Code::RunClosed, None),
            _ => (Code::OperationConflict, None),
        };
        let text = error.to_string();
        let problem = Problem::new(code);
        let problem = problem.detail(text.split_once(": ").map_or(text.clone(), |(_, detail)| detail.to_owned()));
        match limit {
            Some(limit) => problem.limit(limit),
            None => problem,
        }
    }
}

impl From<OpsError> for Problem {
    fn from(error: OpsError) -> Problem {
        match error {
            OpsError::Refused(error) => error.into(),
            OpsError::Session(error) => error.into(),
        }
    }
}

impl Problem {
    /// Worth a try in a second.
    fn patient(self) -> Problem {
        self.retry_after(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use windlass_core::{InvalidProfile, RuntimeState};

    #[test]
    fn every_code_has_one_name_and_an_error_status() {
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code}");
        }
    }

    #[test]
    fn a_refused_control_has_the_code_that_the_core_gives_it() {
        for refused in [
            ControlRefused::State { state: RuntimeState::Destroyed },
            ControlRefused::TooManyIntents { given: 300, limit: 256 },
            ControlRefused::Profile(InvalidProfile::TenantIsFixed),
            ControlRefused::Profile(InvalidProfile::TooManyLabels { given: 65, limit: 64 }),
            ControlRefused::Profile(InvalidProfile::UnknownPolicy),
            ControlRefused::ChangedSince,
        ] {
            let problem = Problem::from(refused);
            assert_eq!(problem.code().as_str(), refused.code(), "{refused}");
            assert!(!problem.code().retryable(), "waiting does not help: {refused}");
        }
    }

    #[test]
    fn what_the_store_says_of_the_machine_stays_in_the_log() {
        let problem = Problem::from(StoreError::Unavailable("cannot open /var/lib/windlass/windlass.db".into()));
        let text = serde_json::to_string(&problem.errors).unwrap() + problem.text();
        assert!(!text.contains("/var"), "{text}");
        assert_eq!(problem.code(), Code::StoreUnavailable);
    }
}
