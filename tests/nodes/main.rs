//! Nodes as real processes with real sandboxes: runners of the built binary that are killed, stopped and replaced at every
//! step. After each, the sandboxes of this machine are those that the records name, and what ended left no process.
//!
//! Needs a machine that allows namespaces, and bubblewrap (root on Debian): `make test-engine`. `make test-docker` runs the same
//! tests with nodes on Docker.

mod docker;
mod fleet;
mod frozen;
mod killed;
mod lost;
mod networks;
mod node;
