//! The engine on the headers of a principal, as a worker reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::principal::hold(input));
