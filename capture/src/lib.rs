//! Capture: a database's own change log, or a folder of files, becomes frames.
//!
//! A reader runs on a thread of its own, blocking, one session at a time: it connects, copies the tables where nothing
//! was read before, then follows the log until it is stopped, has drained or fails. It hands every entry to a
//! [`LogSink`] and never releases anything upstream before the sink says that it is durable. Whoever supervises the
//! reader starts it again from the newest position that it appended, once that is durable; [`CaptureError::class`] says
//! whether that can help.
//!
//! ```text
//! database log -> wire (bytes) -> decode (messages, Arrow builders; pure) -> LogSink -> durable -> confirmed upstream
//! ```
//!
//! Contract of every reader: commit order; no gap after the position it is given; repeats of nothing; an event that it
//! does not understand stops it with a precise error.

mod endpoint;
mod error;
pub mod feed;
mod finding;
mod limits;
mod log;
mod meta;
pub mod mysql;
mod pattern;
mod policy;
pub mod postgres;
mod progress;
mod requests;
mod round;
mod server_url;
mod stop;
mod transport;
mod value;

pub use error::{CaptureError, Class};
pub use finding::{Finding, Remedy, Script, Severity};
pub use log::LogSink;
pub use progress::{Progress, State};
pub use requests::Requests;
pub use stop::StopSignal;

use syncline_schemas::ident::Position;

/// Where the journal says that a source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The position in the newest frame of the source.
    pub position: Position,
    /// Whether that frame ended a transaction.
    pub txn_end: bool,
}

/// Why a reader returned without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The stop signal was given.
    Stopped,
    /// Everything up to the asked position is durable and confirmed.
    Drained,
}
