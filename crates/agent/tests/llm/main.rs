//! Does the LLM agent do what it promises? Against a provider that plays both dialects byte for byte.

mod crash;
mod judges;
mod provider;
mod rig;
mod talk;
mod tools;
mod wire;
