//! The real reconciler together with all other workers: syncs among claims and deletions in seeded orders, and what an
//! expiry run reads and ends.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails should panic")]

mod expiry;
mod identities;
mod interleavings;
mod world;
