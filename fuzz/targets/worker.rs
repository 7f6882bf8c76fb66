//! The engine on NATS requests, as a worker reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::worker::hold(input));
