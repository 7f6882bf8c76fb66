//! The contract: the documents about it agree with the code and with a running fleet.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should panic"
)]

mod markdown;

mod access;
mod asyncapi;
mod claims;
mod configuration;
mod listing;
mod logging;
mod messages;
mod metrics;
mod names;
mod nodes;
mod operations;
mod pools;
mod previous;
mod templates;

mod accounts;
mod definitions;
mod discovery;
mod recipes;
mod topology;
