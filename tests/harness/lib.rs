//! Shared by several suites: engines, a whole fleet, and fault injection.
//!
//! One `nats-server` and one embedded table serve a test binary. Every test has a separate table, subject prefix and
//! simulator, so tests can run in parallel and repeatedly.

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
pub mod nodes;
pub mod process;
pub mod queue;
pub mod rig;
