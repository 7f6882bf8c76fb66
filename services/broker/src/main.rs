//! The sandbox broker: one binary, many roles. See `broker --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    broker::cli::main()
}
