//! The MySQL reader against a real MariaDB, private to the tests.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test says what it expects by panicking")]

mod copying;
mod follow;
mod log;
mod partial_json;
mod refusals;
mod security;
mod server;
