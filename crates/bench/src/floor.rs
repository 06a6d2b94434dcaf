//! What would the same work cost with nothing of ours in the way?
//!
//! A target is a ratio to one of these, measured in the same run, on the same runtime flavour, with as many threads.

pub mod channel;
pub mod disk;
pub mod sqlite;
