//! A thin client: blocking, on the caller's thread, for queries and the log.
//!
//! `mysql_async` 0.37 knows the protocol, but its stream of the log cannot be used here: it takes a compressed transaction
//! apart before anybody sees it, whole and in memory, and says nothing of one that it cannot take apart; it panics on an
//! event that is cut short; it cannot ask MariaDB for the texts of statements, nor go on behind a GTID that has a tag. So
//! packets come straight from the socket that the PostgreSQL client uses, and events are handed on as they arrived.
//!
//! ```text
//! inbox       one 1 MiB buffer; packets are borrowed from it
//! greeting    what the server says first, and the answer
//! auth        proofs of the password: SHA-1, SHA-256, Ed25519; clear text on protected connections only
//! login       start-up
//! connection  packets, errors of the server, queries
//! fault       what the server's errors mean
//! dump        the request for the log
//! ```

mod auth;
mod connection;
mod dump;
mod fault;
mod greeting;
mod inbox;
mod login;

pub(crate) use connection::{Connection, Row};
pub(crate) use dump::{Dump, Fill};
pub(crate) use login::Login;
