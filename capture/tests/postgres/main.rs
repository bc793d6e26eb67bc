//! The PostgreSQL reader against real servers, each private to the tests.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test says what it expects by panicking")]

mod anew;
mod binary;
mod changes;
mod columns;
mod confirm;
mod copying;
mod failover;
mod gap;
mod growth;
mod in_progress;
mod locks;
mod log;
mod matrix;
mod messages;
mod model;
mod multisets;
mod network;
mod other;
mod partitions;
mod proxy;
mod refusals;
mod restart;
mod security;
mod server;
mod snapshot;
mod tables;
mod types;
