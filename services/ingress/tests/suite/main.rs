//! The ingress against fakes of its ports: every rule of the HTTP API that can be broken without a fleet.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy spares test functions only, and the rig beside them has to fail loudly too"
)]

mod admin;
mod answers;
mod callers;
mod claims;
mod console;
mod cors;
mod deletions;
mod events;
mod fleet;
mod hostile;
mod observed;
mod openapi;
mod orders;
mod patience;
mod rates;
mod readiness;
mod records;
mod relay;
mod sandboxes;
mod serving;
mod support;
mod tls;
mod tokens;
mod undelivered;
mod wire;
