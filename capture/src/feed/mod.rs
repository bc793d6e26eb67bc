//! What reaches the log from files rather than from a database's own log.

pub mod seeds;
