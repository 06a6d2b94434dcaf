//! In whose trace does a request stand?

use http::HeaderMap;
use windlass_core::TraceContext;

/// What a request says in its header `traceparent` (W3C Trace Context). One that is not understood, or comes twice, is
/// passed over, as the recommendation asks.
pub(crate) fn of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all("traceparent").iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok()?.parse().ok(),
        _ => None,
    }
}
