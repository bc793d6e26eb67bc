//! MySQL 8.0 to 9.x and MariaDB 10.6 to 12 by their binary logs.
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
//! server    who answers, whether its log can be followed, and whether it is the one to go on with
//! site      of several servers the one that a session is with
//! catalog   what tables there are, in the words of the log
//! position  how far the source has been read, as bytes
//! place     where in its files a server's log is read
//! retention how long a server keeps its log
//! session   connect, check, copy, follow the log, close its gaps
//! copy/     the tables, piece by piece while the stream waits
//! wire/     a thin client
//! decoder   transactions, moves, absent values, cuts: events in, rows in builders out
//! ```

mod bytes;
mod catalog;
mod config;
mod copy;
mod decoder;
mod event;
#[cfg(test)]
mod fixture_tests;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod grants;
mod gtid;
mod place;
mod position;
mod retention;
mod row;
mod scope;
mod server;
mod session;
mod site;
pub mod url;
mod wire;

pub use catalog::tables;
pub use config::{Address, Host, LogGap, MySqlConfig, SnapshotMode, SpecialValues, TablePatterns, Tls, Truncates};
pub use grants::dba_script;
pub use position::{begin_again, describe_position};
pub use server::check;
pub use session::follow;
