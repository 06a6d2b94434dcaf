//! Does the LLM agent do what it promises? Against a provider that plays both dialects byte for byte.

mod crash;
mod jobs;
mod judges;
mod length;
mod people;
mod provider;
#[path = "../python/mod.rs"]
mod python;
mod rig;
mod settings;
mod talk;
mod tools;
mod wire;
