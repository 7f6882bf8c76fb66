//! The engine on frames between runner and supervisor.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::supervisor_frames::hold(input));
