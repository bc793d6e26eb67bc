//! The MySQL reader against a real MariaDB, private to the tests.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test says what it expects by panicking")]

mod anew;
mod copying;
mod follow;
mod gap;
mod log;
mod refusals;
mod security;
mod server;
