//! The load tool. See `bench --help`.

use std::process::ExitCode;

/// As in the broker: a measured fleet of this process has to allocate as it would there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bench::main()
}
