//! The ports: what services need from outside, as traits. Each has an adapter in a separate crate and a fake in
//! `tests/testkit`.

pub mod backoff;
pub mod bus;
pub mod clock;
pub mod engine;
pub mod provider;
pub mod random;
pub mod secrets;
pub mod store;
