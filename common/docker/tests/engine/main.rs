//! The engine on a real Docker (`make test-docker`): the suite of every engine, what a sandbox sees and may do from inside, and
//! failures of the engine.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails should panic")]

mod control;
mod dockerd;
mod failures;
mod images;
mod isolation;
mod limits;
mod machine;
mod networks;
mod outside;
mod ports;
mod registry;
mod without_supervisor;

use machine::Machine;

testkit::engine_suite!(Machine::new().await);
