//! Does the client keep its word against a server that does exactly as the test says?

mod calls;
mod events;
mod script;
mod waits;
