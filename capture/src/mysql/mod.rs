//! MySQL 8.0 to 9.x and MariaDB 10.6 to 12 by their binary logs: following the log. Tables are not
//! copied yet, so no source of a configuration is read by it.
//!
//! ```text
//! bytes     numbers and texts out of bytes, within bounds; pure, as all but wire/
//! gtid/     which transactions there are, and were
//! event/    events of the log
//! row/      rows to Arrow builders
//! config    what the operator says
//! url       a part of that
//! grants    what the user may do, and the DBA's script
//! scope     which tables are read, and how statements name them
//! server    who answers, and whether its log can be followed
//! position  how far the source has been read, as bytes
//! session   connect, check, follow the log
//! wire/     a thin client
//! decoder   transactions, moves, absent values, cuts: events in, rows in builders out
//! ```

mod bytes;
mod config;
mod decoder;
mod event;
#[cfg(test)]
mod fixture_tests;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod grants;
mod gtid;
mod position;
mod row;
mod scope;
mod server;
mod session;
pub mod url;
mod wire;

pub use config::{Host, MySqlConfig, SpecialValues, TablePatterns, Tls, Truncates};
pub use grants::dba_script;
pub use position::describe_position;
pub use server::check;
pub use session::follow;
