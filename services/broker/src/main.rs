//! The sandbox broker: one binary, many roles. See `broker --help`.

use std::process::ExitCode;

/// A claim makes some hundred small allocations on several threads; with the C library's allocator they took a fifth of
/// the processor time of a busy fleet.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    broker::cli::main()
}
