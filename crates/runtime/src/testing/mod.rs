//! What do tests of this crate, of stores and of embedders share?

pub mod faulty_store;
pub mod store_suite;
