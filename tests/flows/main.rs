//! The stories of the broker on a whole fleet: real NATS, real HTTP, a real table, a CSP that answers over HTTP.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should panic"
)]

mod binary;
mod claims;
mod contention;
mod deletions;
mod doors;
mod pool;
mod shutdown;
mod ticks;
