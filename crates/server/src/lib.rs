//! The Windlass server: sessions over HTTP and server-sent events.
//!
//! [`serve()`] runs one until it is told to end; [`Server`] is one that a test or an embedder holds. What is here is the
//! edge: connections and their times, tokens, tenants and scopes, limits, problems, health, what is counted and logged.
//! The routes of the API are in `api`. What is not here: no decision about an input, no SQL.
#![forbid(unsafe_code)]

mod api;
pub mod auth;
pub mod config;
mod guard;
mod handover;
mod health;
mod inherited;
pub mod json;
pub mod limits;
mod listener;
pub mod logging;
pub mod openapi;
#[cfg(feature = "otlp")]
mod otlp;
mod outlet;
mod page;
pub mod problem;
mod routes;
mod serve;
pub mod shape;
mod state;
pub mod telemetry;
pub mod testing;
mod tls;
mod trace;

pub use api::peers::remote::{PeerInvalid, PeersError, peer_key};
pub use auth::{Principal, Scope, Scopes, Tenant};
pub use config::Config;
pub use guard::{ClientIp, RequestId};
pub use json::{StrictJson, StrictQuery};
pub use problem::{Code, Problem};
pub use routes::{Route, Routes};
pub use serve::{ServeError, Server, ServerBuilder, routes, serve};
pub use state::{AgentCatalog, AppState};
pub use tls::TlsError;
