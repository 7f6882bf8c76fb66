//! The engine on HTTP requests, as the ingress reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::request::hold(input));
