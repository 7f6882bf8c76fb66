//! The ingress with fakes of its ports: every rule of the HTTP API that does not need a fleet.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy spares test functions only, and the rig beside them has to fail loudly too"
)]

mod admin;
mod callers;
mod claims;
mod console;
mod cors;
mod deletions;
mod events;
mod fleet;
mod hostile;
mod native;
mod observability;
mod openapi;
mod operator_actions;
mod provisions;
mod rates;
mod raw_http;
mod readiness;
mod records;
mod relay;
mod responses;
mod sandboxes;
mod serving;
mod support;
mod timeouts;
mod tls;
mod tokens;
mod undelivered;
