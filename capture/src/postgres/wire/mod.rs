//! A thin PostgreSQL client: blocking, on the caller's thread, for queries, `COPY ... TO STDOUT` and the log stream.
//!
//! One client serves all three because they must agree on everything that shapes a value: encoding, date style, time
//! zone, digits. Existing drivers either have no replication mode or copy every message on its way through channels;
//! here a message is decoded where it was received.
//!
//! ```text
//! inbox       one 1 MiB buffer; messages are borrowed from it
//! connection  start-up, messages, errors of the server
//! auth        trust, clear text (protected connections only), md5, SCRAM-SHA-256
//! query       simple queries and COPY
//! replication the messages inside the log stream
//! ```

mod auth;
mod connection;
mod inbox;
mod query;
mod replication;

pub(crate) use connection::{Connection, Fill, Purpose};
pub(crate) use query::{Row, quote_identifier, quote_literal};
pub(crate) use replication::{StreamMessage, status_update};
