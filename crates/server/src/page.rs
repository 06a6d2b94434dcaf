//! How does a caller get from one page of a list to the next?
//!
//! By the cursor in the body, or by the link in the head, whichever he knows how to follow.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use serde::Serialize;
use windlass_api::{JournalPage, Page, PeerPage};

/// A page, as the answer of a route.
pub(crate) struct Listed<P>(pub(crate) P);

/// What comes in pages.
pub(crate) trait Paged: Serialize {
    /// Where the next page begins, and the parameter that says so.
    fn next(&self) -> Option<Next>;
}

/// The parameter that leads to the next page. Only the route's guard knows the others.
#[derive(Clone, Debug)]
pub(crate) struct Next(&'static str, String);

impl<T: Serialize> Paged for Page<T> {
    fn next(&self) -> Option<Next> {
        self.next_cursor.clone().map(|cursor| Next("cursor", cursor))
    }
}

impl Paged for PeerPage {
    fn next(&self) -> Option<Next> {
        self.next_cursor.clone().map(|cursor| Next("cursor", cursor))
    }
}

impl Paged for JournalPage {
    fn next(&self) -> Option<Next> {
        self.next_after.map(|after| Next("after", after.to_string()))
    }
}

impl<P: Paged> IntoResponse for Listed<P> {
    fn into_response(self) -> Response {
        let next = self.0.next();
        let mut response = Json(self.0).into_response();
        if let Some(next) = next {
            response.extensions_mut().insert(next);
        }
        response
    }
}

impl Next {
    /// Puts the link into the head of an answer to a request with this query (RFC 8288). It is relative to the request, so
    /// that it is right behind any proxy.
    pub(crate) fn link(response: &mut Response, query: Option<&str>) {
        let Some(Next(name, value)) = response.extensions_mut().remove() else { return };
        let mut target = form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
        let others = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        target.extend_pairs(others.filter(|(other, _)| other != name)).append_pair(name, &value);
        let link = HeaderValue::try_from(format!("<{}>; rel=\"next\"", target.finish()));
        response.headers_mut().insert(header::LINK, link.expect("a form is visible ASCII"));
    }
}
