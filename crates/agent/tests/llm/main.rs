//! Does the LLM agent do what it promises? Against a provider that plays both dialects byte for byte.

mod crash;
mod judges;
mod provider;
#[path = "../python/mod.rs"]
mod python;
mod rig;
mod talk;
mod tools;
mod wire;
