//! The durable session runtime.
#![forbid(unsafe_code)]

pub mod blob;
pub mod memory;
pub mod object_blobs;
pub mod store;
pub mod testing;
