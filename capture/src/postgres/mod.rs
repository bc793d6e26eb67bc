//! PostgreSQL 14 and later by logical replication with pgoutput.
//!
//! ```text
//! config, url            what the operator says
//! wire/                  a thin client: sockets, TLS, authentication, queries, COPY, the stream's messages
//! decode/                pgoutput and COPY to Arrow; pure
//! catalog, types         the tables as the server describes them
//! scope, mark            which tables are read (candidates: of which), and whether they are still what they were
//! publication, publish   what of them the server gives, and having it give what is wanted
//! preflight, check       what must hold, and the DBA's script
//! session, gap           connect, inspect, create, copy or continue; what to do where the log has a gap
//! copy/                  the tables, piece by piece while the stream waits
//! stream, pace           the loop that follows the log
//! messages               what applications put into the log themselves
//! spool                  transactions in progress, until they end
//! watch                  the tables meanwhile
//! ```

mod candidates;
mod catalog;
mod check;
mod config;
mod copy;
mod decode;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gap;
mod guard;
mod log_end;
mod lsn;
mod mark;
mod messages;
mod pace;
mod position;
mod preflight;
mod publication;
mod publish;
mod scope;
mod session;
mod spool;
mod stream;
mod types;
pub mod url;
mod watch;
mod wire;

use crate::{finding, pattern};

pub use check::{check, dba_script, table_schemas};
pub use config::{
    Columns, DrainTo, Host, LogGap, Mapped, PostgresConfig, SnapshotMode, SpecialValues, SpoolConfig, Tls, Truncates,
};
pub use finding::{Finding, Remedy, Severity};
pub use guard::{guard, reads_slot};
pub use lsn::{Lsn, LsnError};
pub use pattern::{PatternError, Prefixes, TablePatterns};
pub use position::{begin_again, end_of};
pub use session::run;
