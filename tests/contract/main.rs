//! The contract: what is written about it, and what a running fleet makes of it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should panic"
)]

mod markdown;

mod asyncapi;
mod configuration;
mod logging;
mod messages;
mod metrics;
mod names;
mod operations;

mod accounts;
mod definitions;
mod discovery;
mod recipes;
mod topology;
