//! What several suites of tests need: engines and a whole fleet to run against, and ways to break things on
//! purpose.
//!
//! One `nats-server` and one embedded table serve a test binary; every test has its own table, its own subject
//! prefix and its own simulator, so tests run side by side and twice in a row.

pub mod wait;

pub mod dynamodb;
pub mod dynamodb_local;
pub mod nats_cli;
pub mod servers;

pub mod deletions;
pub mod freezing_proxy;
pub mod lossy_proxy;
pub mod secrets;

pub mod clock;
pub mod http;
pub mod process;
pub mod queue;
pub mod rig;
