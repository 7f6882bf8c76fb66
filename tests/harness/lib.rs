//! The rig of the flow tests: real servers, and a whole fleet in this process for each test.
//!
//! One `nats-server` and one embedded table serve a test binary; every test has its own table, its own subject
//! prefix and its own simulator, so tests run side by side and twice in a row.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a rig that cannot be set up should panic, and its tests fail"
)]

pub mod clock;
pub mod http;
pub mod queue;
pub mod rig;
pub mod servers;
pub mod wait;
