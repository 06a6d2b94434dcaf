//! Which secrets are there, and how are they kept out of what is said?
//!
//! What this process [knows](know) of is [hidden] in all that it logs, whoever says it. What one agent was given is
//! hidden in all that is told of this agent, to people and to models: also what is too short to be looked for everywhere,
//! and what is left of it where an excerpt ends.

pub(crate) mod given;
mod known;

pub use known::{hidden, know};
