//! The load tool. See `bench --help`.

use std::process::ExitCode;

/// The same allocator as in the broker, because a measured fleet may run in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bench::main()
}
