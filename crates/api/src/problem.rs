//! How does the server say what went wrong? RFC 9457, with a stable code.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A problem, as `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemDetails {
    /// A URI that names the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words, the same for every problem of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code, to decide by.
    pub code: String,
    /// What happened here, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Names the request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// The places of the request that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Whatever else belongs to the code: `limit`, where one was reached; `oldest` to `cursor_expired`.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub more: Map<String, Value>,
}

/// One place of a request that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// The place, as a JSON pointer (RFC 6901) into the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The query parameter or header, if it is none of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}
