//! The engine on what the provider and the table answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::answers::hold(input));
