//! What reaches the log from files and services rather than from a database's own log.

mod meta;
pub mod outputs;
pub mod seeds;
