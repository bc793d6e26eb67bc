//! Any bytes as a binary log of MySQL or MariaDB: the decoder answers with rows or an error, never with a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| syncline_capture::mysql::fuzz::decode(bytes));
