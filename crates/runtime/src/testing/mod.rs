//! What do tests of this crate, of stores and of embedders share?

pub mod documents_suite;
pub mod faulty_store;
mod manual_executor;
pub mod store_suite;

pub use crate::clock::ManualClock;
pub use manual_executor::{ManualExecutor, ManualRun, Runs};

use windlass_core::{Input, InputId, SessionId, Timestamp};

/// Session number `n`.
pub fn session(n: u128) -> SessionId {
    SessionId::from_uuid(uuid::Uuid::from_u128(n))
}

/// Input id number `n`.
pub fn input_id(n: u128) -> InputId {
    InputId::from_uuid(uuid::Uuid::from_u128(n))
}

/// A prompt with the id number `n`.
pub fn input(n: u128, text: &str) -> Input {
    Input::prompt(input_id(n), Timestamp::ZERO, text)
}
