//! The ports: what services ask of the world outside, as traits. Each has an adapter in a crate of its own, and a fake in
//! `tests/testkit`.

pub mod bus;
pub mod clock;
pub mod provider;
pub mod random;
pub mod secrets;
pub mod store;
