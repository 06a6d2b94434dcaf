//! Why was a model not heard to the end, and may it be asked again?

use reqwest::{StatusCode, header::HeaderMap};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// The most of a provider's error page that is quoted.
const EXCERPT: usize = 600;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub(crate) struct ModelError {
    /// Stable.
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    pub(crate) class: Class,
}

/// What may be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Ask again, not before this has passed if the provider said so.
    Retryable(Option<Duration>),
    /// Asking again gives the same.
    Final,
    /// The conversation is too long for the model.
    Overflow,
}

impl ModelError {
    pub(crate) fn retryable(code: &'static str, detail: impl Into<String>) -> ModelError {
        ModelError { code, detail: detail.into(), class: Class::Retryable(None) }
    }

    pub(crate) fn fatal(code: &'static str, detail: impl Into<String>) -> ModelError {
        ModelError { code, detail: detail.into(), class: Class::Final }
    }

    /// What a response that is no success says.
    pub(crate) fn of_status(status: StatusCode, headers: &HeaderMap, body: &str) -> ModelError {
        let json: Option<Value> = serde_json::from_str(body).ok();
        let said = json.as_ref().and_then(|json| json.get("error")).and_then(Said::of);
        let words = said.as_ref().map_or_else(|| page(body), Said::words);
        let detail = format!("HTTP {}: {words}", status.as_u16());
        let overflows = said.as_ref().is_some_and(Said::is_overflow);
        let (code, class) = match status.as_u16() {
            400 | 413 | 422 if overflows => ("context_overflow", Class::Overflow),
            429 if said.as_ref().is_some_and(|said| said.has("insufficient_quota")) => {
                ("provider_quota_exhausted", Class::Final)
            }
            429 => ("provider_rate_limited", Class::Retryable(retry_after(headers, SystemTime::now()))),
            408 | 409 | 425 | 500..=599 => {
                ("provider_unavailable", Class::Retryable(retry_after(headers, SystemTime::now())))
            }
            401 | 403 => ("provider_denied", Class::Final),
            404 => ("provider_not_found", Class::Final),
            300..=399 => ("provider_redirected", Class::Final),
            _ => ("provider_refused", Class::Final),
        };
        ModelError { code, detail, class }
    }

    /// The error that a response of success holds, if it holds one.
    pub(crate) fn within(json: &Value) -> Option<ModelError> {
        ModelError::named(json.get("error")?)
    }

    /// What a member `error` says.
    pub(crate) fn named(error: &Value) -> Option<ModelError> {
        let said = Said::of(error)?;
        let detail = said.words();
        if said.is_overflow() {
            return Some(ModelError { code: "context_overflow", detail, class: Class::Overflow });
        }
        let status = said.status.unwrap_or_default();
        let is = |names: &[&str]| names.iter().any(|name| said.has(name));
        Some(if status == 429 || is(&["rate_limit_error", "rate_limit_exceeded"]) {
            ModelError::retryable("provider_rate_limited", detail)
        } else if is(&["insufficient_quota", "billing_error"]) {
            ModelError::fatal("provider_quota_exhausted", detail)
        } else if is(&["authentication_error", "permission_error"]) || status == 401 || status == 403 {
            ModelError::fatal("provider_denied", detail)
        } else if is(&["invalid_request_error", "not_found_error", "request_too_large"]) || (400..500).contains(&status)
        {
            ModelError::fatal("provider_refused", detail)
        } else {
            // Overloaded, or an error of the provider's own; also what we do not know: retries are counted.
            ModelError::retryable("provider_unavailable", detail)
        })
    }
}

/// What an error object of a provider says.
struct Said<'v> {
    message: &'v str,
    names: Vec<&'v str>,
    status: Option<u64>,
}

impl<'v> Said<'v> {
    fn of(error: &'v Value) -> Option<Said<'v>> {
        if error.is_null() {
            return None;
        }
        if let Some(message) = error.as_str() {
            return Some(Said { message, names: Vec::new(), status: None });
        }
        let text = |name: &str| error.get(name).and_then(Value::as_str);
        let status = ["code", "status"].iter().find_map(|name| error.get(name).and_then(Value::as_u64));
        let names = ["type", "code"].into_iter().filter_map(text).collect();
        Some(Said { message: text("message").unwrap_or_default(), names, status })
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// Providers agree on no code for this; some have only words.
    fn is_overflow(&self) -> bool {
        let words = ["prompt is too long", "maximum context length", "context window", "exceeds the available context"];
        self.has("context_length_exceeded")
            || self.has("exceed_context_size_error")
            || words.iter().any(|words| self.message.contains(words))
    }

    fn words(&self) -> String {
        let mut words = self.names.join(", ");
        if !self.message.is_empty() {
            words =
                if words.is_empty() { excerpt(self.message) } else { format!("{words}: {}", excerpt(self.message)) };
        }
        if words.is_empty() { "an error without words".into() } else { words }
    }
}

/// The beginning of a text.
pub(crate) fn excerpt(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What is said of a page that is not JSON.
pub(crate) fn page(body: &str) -> String {
    match body.trim() {
        "" => "an empty page".into(),
        html if html.starts_with('<') => format!("a page for browsers: {}", excerpt(html)),
        other => excerpt(other),
    }
}

/// How long the provider asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(millis) = text("retry-after-ms").and_then(|millis| millis.parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let after = text("retry-after")?;
    match after.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => httpdate::parse_http_date(after).ok().map(|at| at.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn every_refusal_has_its_class() {
        for (status, body, code, class) in [
            (429, r#"{"error":{"message":"slow"}}"#, "provider_rate_limited", Class::Retryable(None)),
            (429, r#"{"error":{"code":"insufficient_quota"}}"#, "provider_quota_exhausted", Class::Final),
            (500, "", "provider_unavailable", Class::Retryable(None)),
            (502, "<html>bad gateway</html>", "provider_unavailable", Class::Retryable(None)),
            (529, r#"{"error":{"type":"overloaded_error"}}"#, "provider_unavailable", Class::Retryable(None)),
            (400, r#"{"error":{"code":"context_length_exceeded"}}"#, "context_overflow", Class::Overflow),
            (400, r#"{"error":{"message":"prompt is too long: 9 > 8"}}"#, "context_overflow", Class::Overflow),
            (400, r#"{"error":{"message":"no"}}"#, "provider_refused", Class::Final),
            (401, "{}", "provider_denied", Class::Final),
            (404, "", "provider_not_found", Class::Final),
            (307, "", "provider_redirected", Class::Final),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let error = ModelError::of_status(status, &HeaderMap::new(), body);
            assert_eq!((error.code, error.class), (code, class), "{status} {body}");
        }
    }

    #[test]
    fn errors_within_a_success_are_found() {
        for (body, expected) in [
            (r#"{"choices":[],"error":null}"#, None),
            (r#"{"error":"model is loading"}"#, Some("provider_unavailable")),
            (r#"{"error":{"type":"overloaded_error","message":"busy"}}"#, Some("provider_unavailable")),
            (r#"{"error":{"type":"rate_limit_error"}}"#, Some("provider_rate_limited")),
            (r#"{"error":{"code":429}}"#, Some("provider_rate_limited")),
            (r#"{"error":{"type":"invalid_request_error"}}"#, Some("provider_refused")),
            (r#"{"error":{"code":401,"message":"key"}}"#, Some("provider_denied")),
        ] {
            let json = serde_json::from_str(body).expect("JSON");
            assert_eq!(ModelError::within(&json).map(|error| error.code), expected, "{body}");
        }
    }

    #[test]
    fn what_the_provider_asks_for_is_read_in_every_form() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        for (name, value, expected) in [
            ("retry-after", "3", Some(3_000)),
            ("retry-after", "0.5", Some(500)),
            ("retry-after-ms", "250", Some(250)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("retry-after", "-1", None),
            ("retry-after", "soon", None),
            ("retry-after", "1e300", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_millis), "{name}: {value}");
        }
    }

    #[test]
    fn pages_are_quoted_in_part_and_without_the_key() {
        let page = format!("<html>{}</html>", "ä".repeat(10_000));
        let error = ModelError::of_status(StatusCode::BAD_GATEWAY, &HeaderMap::new(), &page);
        assert!(error.detail.chars().count() < 700, "{}", error.detail.len());
        // Cut within the key, wherever the excerpt ends.
        let key = "sk-secret-0123456789";
        for before in EXCERPT - key.len()..EXCERPT {
            let page = format!("{}{key} is wrong", "x".repeat(before));
            let error = ModelError::of_status(StatusCode::UNAUTHORIZED, &HeaderMap::new(), &page);
            let detail = crate::secrets::given::hidden(&error.detail, &[key.into()]);
            assert!(!detail.contains("sk-s"), "{before}: {detail}");
            assert!(
                detail.contains("xx***…") || detail.ends_with("…") && !detail.contains("***"),
                "{before}: {detail}"
            );
        }
    }
}
