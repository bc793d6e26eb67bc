//! The log as a reader sees it: the seam between capture and the journal.

use std::time::Duration;

use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::LogOffset;

use crate::CaptureError;

/// Where readers put what they decoded.
///
/// Contract: offsets rise in the order of the calls to [`LogSink::append`]; when offset `n` is durable, so are all
/// before it; a crash keeps a prefix. The reader confirms to its source only what [`LogSink::durable`] covers.
pub trait LogSink: Send + Sync {
    /// Appends an entry; the order of calls is the order in the log. Blocks while the log's queue is full.
    ///
    /// # Errors
    /// [`CaptureError::Log`] when the log failed or stopped.
    fn append(&self, entry: LogEntry) -> Result<LogOffset, CaptureError>;

    /// The highest offset that is fsynced.
    ///
    /// # Errors
    /// [`CaptureError::Log`] when the log failed.
    fn durable(&self) -> Result<LogOffset, CaptureError>;

    /// Waits until `offset` is fsynced or the time is over; the answer is as of [`LogSink::durable`] in both cases.
    ///
    /// # Errors
    /// [`CaptureError::Log`] when the log failed.
    fn wait_durable(&self, offset: LogOffset, timeout: Duration) -> Result<LogOffset, CaptureError>;
}
