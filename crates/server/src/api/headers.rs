//! Which headers does an input come with?

use crate::problem::{Code, Problem};
use http::HeaderMap;
use std::time::Duration;
use windlass_core::IdempotencyKey;

/// The idempotency key of a request, bare (`order-17`) or as a structured string (`"order-17"`).
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let invalid = |detail: String| Problem::new(Code::IdempotencyKeyInvalid).detail(detail);
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("the header Idempotency-Key came twice; send one".into()));
    }
    let bare = value.to_str().map_err(|_| invalid("a key holds visible ASCII characters only".into()))?.trim();
    let text = bare.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(bare);
    IdempotencyKey::new(text).map(Some).map_err(|error| invalid(error.to_string()))
}

/// How long the caller would wait for the outcome (RFC 7240, `Prefer: wait=N`), at most `limit`. A preference that is
/// not understood is passed over, as the RFC asks.
pub(super) fn wait(headers: &HeaderMap, limit: Duration) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        value.trim().trim_matches('"').parse::<u64>().ok()
    })?;
    Some(Duration::from_secs(seconds).min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_key_is_bare_or_quoted_and_one() {
        let long = "k".repeat(256);
        for (values, key) in [
            (&[][..], Ok(None)),
            (&["order-17"], Ok(Some("order-17"))),
            (&["\"order-17\""], Ok(Some("order-17"))),
            (&[""], Err(())),
            (&["\"\""], Err(())),
            (&["a b"], Err(())),
            (&["a", "b"], Err(())),
            (&[long.as_str()], Err(())),
        ] {
            let values: Vec<_> = values.iter().map(|value| ("idempotency-key", *value)).collect();
            let found = idempotency_key(&headers(&values));
            assert_eq!(
                found.as_ref().map(|key| key.as_ref().map(IdempotencyKey::as_str)).map_err(|_| ()),
                key,
                "{values:?}"
            );
        }
    }

    #[test]
    fn the_wait_is_found_among_preferences_and_bounded() {
        let limit = Duration::from_secs(120);
        for (values, seconds) in [
            (&[][..], None),
            (&["wait=5"], Some(5)),
            (&["respond-async, wait=7; q=1"], Some(7)),
            (&["respond-async", "WAIT=\"9\""], Some(9)),
            (&["wait=99999"], Some(120)),
            (&["wait=soon"], None),
            (&["wait"], None),
        ] {
            let values: Vec<_> = values.iter().map(|value| ("prefer", *value)).collect();
            assert_eq!(wait(&headers(&values), limit), seconds.map(Duration::from_secs), "{values:?}");
        }
    }
}
