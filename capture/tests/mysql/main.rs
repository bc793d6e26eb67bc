//! The MySQL reader against a real MariaDB, private to the tests.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test says what it expects by panicking")]

mod anew;
mod copying;
mod failover;
mod follow;
mod gap;
mod log;
mod mariadb;
mod network;
mod partial_json;
#[path = "../postgres/proxy.rs"]
#[allow(dead_code, reason = "another test does more with it")]
mod proxy;
mod refusals;
mod security;
mod server;
