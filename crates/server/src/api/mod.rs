//! Which routes does the API have, and what do they share?
//!
//! One file per subject. A handler reads its request by the letter, asks the runtime, and says what became of it in the
//! types of `windlass-api`; it decides nothing itself. Nothing here waits behind a run, and no answer takes more work
//! than its limits say.

pub(crate) mod admit;
pub(crate) mod agents;
pub(crate) mod blobs;
mod check;
pub(crate) mod control;
mod cursor;
pub(crate) mod events;
mod fanout;
#[cfg(test)]
mod gone;
mod headers;
pub(crate) mod inputs;
pub(crate) mod journal;
pub(crate) mod operations;
pub(crate) mod peers;
mod places;
pub(crate) mod policies;
mod policy_book;
mod quota;
mod reach;
pub(crate) mod runs;
pub(crate) mod sessions;
pub(crate) mod transcript;

pub(crate) use policy_book::PolicyBook;

use crate::{
    auth::Scope as S,
    config::LimitsConfig,
    problem::{Code, Problem},
    routes::Routes,
};
use http::Method;
use serde::Deserialize;
use std::sync::Arc;

/// What the handlers of the API share beyond the state of the server.
pub(crate) struct Api {
    owners: reach::Owners,
    channels: fanout::Channels,
    streams: places::Places,
    waits: places::Places,
    quota: quota::Quota,
    uploads: places::Places,
    policies: Arc<PolicyBook>,
    incoming: peers::carry::Incoming,
    remotes: peers::remote::Remotes,
}

impl Api {
    pub(crate) fn new(limits: &LimitsConfig, policies: Arc<PolicyBook>, remotes: peers::remote::Remotes) -> Api {
        let count = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        Api {
            owners: reach::Owners::default(),
            channels: fanout::Channels::default(),
            streams: places::Places::new("streams", count(limits.streams_per_token)),
            waits: places::Places::new("waits", count(limits.waits_per_token)),
            quota: quota::Quota::default(),
            uploads: places::Places::new("uploads", count(limits.uploads_per_token)),
            policies,
            incoming: peers::carry::Incoming::default(),
            remotes,
        }
    }
}

/// The parts of a path, read by name.
pub(crate) struct Named<T>(T);

/// The parameters of a list.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// At most so many items; large ones make a page shorter.
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub(crate) limit: Option<u32>,
    /// Where the page begins: the `next_cursor` of the one before.
    pub(crate) cursor: Option<String>,
}

/// The items of a page, if its caller does not say how many.
const PAGE: u32 = 100;

/// How many items a page may have.
pub(crate) fn page_limit(limit: Option<u32>) -> Result<u32, Problem> {
    let most = crate::limits::PAGE;
    match limit.unwrap_or(PAGE) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        _ => {
            let detail = format!("1 to {most} is taken");
            Err(Problem::new(Code::SchemaViolation).detail(detail).parameter("limit").limit(most))
        }
    }
}

/// Every route of the API, with its scope.
#[rustfmt::skip]
pub(crate) fn routes(routes: Routes) -> Routes {
    let (get, post, put) = (Method::GET, Method::POST, Method::PUT);
    let (patch, delete) = (Method::PATCH, Method::DELETE);
    routes
        .route(post.clone(), "/v1/sessions", S::SessionsWrite, sessions::create)
        .route(get.clone(), "/v1/sessions", S::SessionsRead, sessions::list)
        .route(get.clone(), "/v1/sessions/{session}", S::SessionsRead, sessions::get)
        .route(patch, "/v1/sessions/{session}", S::SessionsWrite, sessions::update)
        .route(delete.clone(), "/v1/sessions/{session}", S::SessionsWrite, sessions::delete)
        .route(post.clone(), "/v1/sessions/{session}/inputs", S::InputsWrite, admit::admit)
        .route(get.clone(), "/v1/sessions/{session}/inputs", S::SessionsRead, inputs::list)
        .route(get.clone(), "/v1/sessions/{session}/inputs/{input}", S::SessionsRead, inputs::get)
        .route(delete, "/v1/sessions/{session}/inputs/{input}", S::InputsWrite, inputs::withdraw)
        .route(get.clone(), "/v1/sessions/{session}/inputs/{input}/wait", S::SessionsRead, inputs::wait)
        .route(get.clone(), "/v1/sessions/{session}/inputs/{input}/explain", S::SessionsRead, inputs::explain)
        .route(post.clone(), "/v1/sessions/{session}/inputs/{input}/redrive", S::InputsWrite, inputs::redrive)
        .route(get.clone(), "/v1/dead-letters", S::SessionsRead, inputs::dead_letters)
        .route(post.clone(), "/v1/sessions/{session}/interrupt", S::SessionsControl, control::interrupt)
        .route(post.clone(), "/v1/sessions/{session}/stop", S::SessionsControl, control::stop)
        .route(post.clone(), "/v1/sessions/{session}/hold", S::SessionsControl, control::hold)
        .route(post.clone(), "/v1/sessions/{session}/release", S::SessionsControl, control::release)
        .route(post.clone(), "/v1/sessions/{session}/retire", S::SessionsControl, control::retire)
        .route(post.clone(), "/v1/sessions/{session}/recycle", S::SessionsControl, control::recycle)
        .route(post.clone(), "/v1/sessions/{session}/reset", S::SessionsControl, control::reset)
        .route(post.clone(), "/v1/sessions/{session}/recover", S::SessionsControl, control::recover)
        .route(post.clone(), "/v1/sessions/{session}/destroy", S::SessionsControl, control::destroy)
        .route(get.clone(), "/v1/sessions/{session}/runs", S::SessionsRead, runs::list)
        .route(get.clone(), "/v1/sessions/{session}/runs/{run}", S::SessionsRead, runs::get)
        .route(get.clone(), "/v1/sessions/{session}/runs/{run}/receipts/{sequence}", S::SessionsRead, runs::receipt)
        .route(get.clone(), "/v1/sessions/{session}/transcript", S::SessionsRead, transcript::list)
        .route(get.clone(), "/v1/sessions/{session}/journal", S::SessionsRead, journal::list)
        .route(get.clone(), "/v1/sessions/{session}/operations", S::OpsRead, operations::list)
        .route(post.clone(), "/v1/sessions/{session}/operations", S::OpsWrite, operations::register)
        .route(get.clone(), "/v1/sessions/{session}/operations/{operation}", S::OpsRead, operations::get)
        .route(get.clone(), "/v1/sessions/{session}/operations/{operation}/wait", S::OpsRead, operations::wait)
        .route(post.clone(), "/v1/sessions/{session}/operations/{operation}/complete", S::OpsWrite, operations::complete)
        .route(post.clone(), "/v1/sessions/{session}/operations/{operation}/fail", S::OpsWrite, operations::fail)
        .route(post.clone(), "/v1/sessions/{session}/operations/{operation}/progress", S::OpsWrite, operations::progress)
        .route(post.clone(), "/v1/sessions/{session}/operations/{operation}/cancel", S::OpsWrite, operations::cancel)
        .route(get.clone(), "/v1/sessions/{session}/peers", S::PeersSend, peers::list)
        .route(post.clone(), "/v1/sessions/{session}/peers/messages", S::PeersSend, peers::send)
        .route(post.clone(), windlass_peers::DOOR, S::Public, peers::remote::take)
        .route(get.clone(), "/v1/sessions/{session}/events", S::EventsRead, events::session)
        .route(get.clone(), "/v1/events", S::EventsRead, events::several)
        .route(put, "/v1/policies/{name}", S::ExecutorsAdmin, policies::upload)
        .route(get.clone(), "/v1/policies", S::SessionsRead, policies::list)
        .route(get.clone(), "/v1/policies/{name}", S::SessionsRead, policies::get)
        .route(post.clone(), "/v1/policies/{name}/explain", S::SessionsRead, policies::explain)
        .route(post.clone(), "/v1/policies/{name}/replay", S::SessionsRead, policies::replay)
        .route(post.clone(), "/v1/blobs", S::BlobsWrite, blobs::upload)
        .route(get.clone(), "/v1/blobs/{blob}", S::BlobsRead, blobs::download)
        .route(get, "/v1/agents", S::SessionsRead, agents::list)
        .route(post, "/v1/agents/{name}/test", S::ExecutorsAdmin, agents::test)
}
