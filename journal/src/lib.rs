//! The journal: what the daemon must not lose, in one data folder under one lock.
//!
//! ```text
//!   capture                      transform                                  sinks
//!      | append                     | read, fold             commit           | scan, move cursor
//!      v                            |                          |              v
//!   +------------------------------------+      +---------------------------------------------+
//!   | log/   segments, append-only       |      | state/   LSM, atomic commits                |
//!   | raw entries, each with the source  | ---> | contributions entities tables held | outbox |
//!   | and the position it reached        |      | cursors: transform, one per sink            |
//!   +------------------------------------+      +---------------------------------------------+
//!     authority of: what was captured,            authority of: what was applied and delivered
//!     how far each source is
//! ```
//!
//! Two stores, each the only authority of its own facts, rather than one:
//!
//! - **Cost.** A raw entry is written once, in order, and read once, in order. An append-only file does that with a write
//!   amplification of 1.0; an LSM with separated values writes it 1.5 to 1.9 times, a B-tree 2.0 to 2.4 times.
//! - **Failure.** The log is the one place where a fact exists that nobody can send again. Whether a bad byte is a torn
//!   tail (cut) or damage (refuse) must be our decision, see [`log`]; the store's library cuts some damage silently.
//! - **Size.** The state is larger than memory, is read by key 100,000 times a second and changes in place: that is an
//!   LSM, and no reason to put the log into it.
//!
//! They cannot disagree: the state is a deterministic fold of the log, and "state + cursor + outbox" is one commit. If a
//! power failure takes the newest commits, the next start folds the same entries again and gets the same bytes. Only
//! two things could break that, and [`OpenLog::open_store`] refuses both by name: a log that no longer holds what the state
//! needs next, and a log that ends before what the state has applied.
//!
//! Invariants: a source is released only behind [`Log::durable`]; the transform reads only what is durable, so
//! `cursor <= durable` always; the log is trimmed only up to the transform's cursor, after [`Store::sync`]
//! ([`Journal::trim`]).

mod disk;
mod error;
mod journal;
pub mod limits;
pub mod log;
pub mod store;

pub use error::JournalError;
pub use journal::{Journal, OpenLog, SPOOL_DIR, TRANSFORM_CURSOR};
pub use limits::{Limits, MEMORY_MIN};
pub use log::{Log, LogReader, Record, Resume};
pub use store::{Bytes, Commit, Durability, Scan, Snapshot, Space, Store};
