//! The engine on this machine: the suite of every engine, and what a sandbox sees and may do from inside.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails should panic")]

mod images;
mod isolation;
mod limits;
mod machine;
mod networks;
mod restarts;
mod users;

use machine::Machine;

testkit::engine_suite!(Machine::new());
