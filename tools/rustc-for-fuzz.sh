#!/bin/sh
# The compiler of a fuzz build, as RUSTC_WORKSPACE_WRAPPER: our own crates report to the engine which branches they
# take and what they compare; the dependencies stay as `make test` built them. Works on the stable toolchain.
#
# The flags are those of LLVM's coverage for libFuzzer. No sanitizer: our crates have no unsafe code.
exec "$@" --cfg fuzzing -C opt-level=1 -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares
