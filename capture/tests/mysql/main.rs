//! The MySQL reader on a real MariaDB.

mod follow;
mod log;
mod refusals;
mod server;
