//! Which executors come with Windlass?

#![forbid(unsafe_code)]

pub mod eliza;
mod program;

pub use program::Program;
