//! Fifty sandboxes leave nothing behind. In a process of its own, whose descriptors are counted.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails should panic")]

#[expect(dead_code, reason = "the other tests need more of it")]
#[path = "engine/machine.rs"]
mod machine;

use machine::Machine;
use testkit::engine::suite::{Failure, cycles_leave_nothing};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cycles_leave_no_trace() -> Result<(), Failure> {
    cycles_leave_nothing(&Machine::new(), 50).await
}
