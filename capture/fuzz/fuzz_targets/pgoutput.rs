//! Any bytes as a log stream: the decoder answers with rows or an error, never with a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_capture::postgres::fuzz::decode(bytes));
