//! The engine on messages, keys and files.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::messages::hold(input));
