//! The log: raw entries of all sources in one order, each with the position its source reached.
//!
//! ```text
//! append --> queue (bounded in bytes) --> writer thread: one write, one fdatasync per group --> durable --> readers
//!                                              |
//!                                  log/00000000000000000001.seg, 00000000000000004211.seg, ...
//! ```
//!
//! [`Log::append`] gives the offset and returns; [`Log::wait_durable`] says when it is safe to release the source.
//! Position and data are one checksummed record, so nothing can disagree about "how far": [`Log::resume`] is derived
//! from the records, never stored beside them.
//!
//! Write amplification is 1.0 plus 40 bytes a record; an LSM writes a blob 1.5 to 1.9 times, a B-tree twice.
//!
//! Invariants: offsets are contiguous from 1; readers see only what is durable; after an error of the disk nothing more
//! is accepted, and nothing beyond [`Log::durable`] was ever promised.

#[cfg(test)]
mod crash_tests;
mod reader;
mod record;
mod recovery;
mod segment;
mod shared;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use syncline_schemas::ident::{LogOffset, Position, SourceId};

pub use self::reader::{LogReader, Record};
use self::record::Pending;
use self::shared::{Condition, Shared, State};
use crate::disk::{Disk, RealDisk};
use crate::error::JournalError;
use crate::limits::{ENTRY_BYTES, Limits, POSITION_BYTES, SOURCE_NAME_BYTES, SOURCES};

/// How far a source is, by its last durable entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The position in that entry.
    pub position: Position,
    /// False where a transaction goes on after it.
    pub txn_end: bool,
    /// The entry.
    pub offset: LogOffset,
}

/// The open log; clones are the same log. The last one to go writes what is queued and ends the writer thread.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
    /// Kept until the last clone has gone, so that nobody else opens what this one may still write to.
    _lock: Option<Arc<File>>,
}

struct Inner {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens the log in a folder, creating both where missing. The caller holds the data folder's lock.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] and [`JournalError::Format`] where its files are not what was written; a torn tail is
    /// cut and is no error. [`JournalError::Io`].
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, JournalError> {
        fs::create_dir_all(dir).map_err(JournalError::io("create", dir))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            RealDisk.sync_dir(parent).map_err(JournalError::io("sync", parent))?;
        }
        Self::open_on(Arc::new(RealDisk), dir, limits)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, dir: &Path, limits: Limits) -> Result<Self, JournalError> {
        let recovered = recovery::recover(disk, dir, limits)?;
        let writer = recovered.writer;
        let state = State::new(recovered.durable, writer.checkpoint.clone(), recovered.segments);
        let shared = Arc::new(Shared::new(&writer, state));
        let thread = thread::Builder::new()
            .name("log-writer".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(writer)
            })
            .map_err(JournalError::io("start the writer of", dir))?;
        Ok(Self { inner: Arc::new(Inner { shared, writer: Mutex::new(Some(thread)) }), _lock: None })
    }

    /// The same, holding the lock of its data folder.
    pub(crate) fn locked_by(self, lock: &Arc<File>) -> Self {
        Self { _lock: Some(Arc::clone(lock)), ..self }
    }

    /// Queues an entry and returns its offset, before it is durable. Blocks while the queue is full.
    ///
    /// Never skips: offsets are given in the order of the calls, and an entry is durable only after all before it.
    ///
    /// # Errors
    /// [`JournalError::LogFailed`] after an error of the disk, [`JournalError::LogClosed`];
    /// [`JournalError::EntryTooLarge`] and [`JournalError::TooManySources`] beyond a limit.
    pub fn append(
        &self,
        source: &SourceId,
        position: &Position,
        txn_end: bool,
        payload: Vec<u8>,
    ) -> Result<LogOffset, JournalError> {
        let shared = &self.inner.shared;
        check_sizes(source, position, &payload, shared.limits)?;
        let mut entry =
            Pending { offset: LogOffset::START, source: source.clone(), position: position.clone(), txn_end, payload };
        let bytes = entry.record_bytes();
        let mut state = shared.lock();
        if state.checkpoint.len() >= SOURCES && !state.checkpoint.contains_key(source) {
            return Err(JournalError::TooManySources { origin: source.to_string(), max: SOURCES });
        }
        loop {
            state.check_open()?;
            if state.queue.is_empty() || state.queued_bytes + bytes <= shared.limits.queue_bytes {
                break;
            }
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let offset = state.last.next();
        entry.offset = offset;
        state.last = offset;
        state.queued_bytes += bytes;
        state.queue.push_back(entry);
        drop(state);
        shared.work.notify_one();
        Ok(offset)
    }

    /// The last offset that survives anything but the loss of the disk.
    #[must_use]
    pub fn durable(&self) -> LogOffset {
        self.inner.shared.lock().durable
    }

    /// Has a function called with the last durable offset whenever that rises. It runs between two writes and holds the
    /// next one up, so it must be short.
    pub fn on_durable(&self, call: impl Fn(LogOffset) + Send + Sync + 'static) {
        *self.inner.shared.on_durable.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(call));
    }

    /// Has everybody who waits in [`Log::wait_durable`] return, as if the time were over: a stop need not wait for that.
    pub fn wake(&self) {
        self.inner.shared.lock().wakes += 1;
        self.inner.shared.synced.notify_all();
    }

    /// Waits until an offset is durable or the time is over; returns the last durable offset, which may be less.
    ///
    /// # Errors
    /// [`JournalError::LogFailed`] after an error of the disk, even where the offset is durable;
    /// [`JournalError::LogClosed`] where a closed log will not reach it.
    pub fn wait_durable(&self, at_least: LogOffset, timeout: Duration) -> Result<LogOffset, JournalError> {
        let shared = &self.inner.shared;
        let deadline = Instant::now() + timeout;
        let mut state = shared.lock();
        let wakes = state.wakes;
        loop {
            state.check_failed()?;
            if state.durable >= at_least {
                return Ok(state.durable);
            }
            if state.last < at_least {
                state.check_open()?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.wakes != wakes {
                return Ok(state.durable);
            }
            state = shared.synced.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The oldest offset held; in an empty log the first to come.
    #[must_use]
    pub fn first(&self) -> LogOffset {
        self.inner.shared.lock().first()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.inner.shared.lock().segments.values().sum()
    }

    /// How far a source is, durably; `None` where the log never had an entry of it.
    #[must_use]
    pub fn resume(&self, source: &SourceId) -> Option<Resume> {
        self.inner.shared.lock().checkpoint.get(source).cloned()
    }

    /// A reader of what follows an offset.
    ///
    /// # Errors
    /// [`JournalError::Trimmed`] where that is no longer held, [`JournalError::BeyondEnd`] where the offset itself is
    /// not durable.
    pub fn reader(&self, after: LogOffset) -> Result<LogReader, JournalError> {
        let state = self.inner.shared.lock();
        if after > state.durable {
            return Err(JournalError::BeyondEnd { after, last: state.durable });
        }
        if after.next() < state.first() {
            return Err(JournalError::Trimmed { wanted: after.next(), first: state.first() });
        }
        drop(state);
        Ok(LogReader::new(Arc::clone(&self.inner.shared), after))
    }

    /// The last offset, up to `upto`, of the segments that were last written at least so long ago: what may be given to
    /// [`Log::trim`] where entries are kept for a time. The offset before the first one where there are none.
    ///
    /// The age is that of the file, so that it counts on while no process has the log open.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn aged(&self, upto: LogOffset, age: Duration) -> Result<LogOffset, JournalError> {
        self.inner.shared.aged(upto, age)
    }

    /// Removes the segments that hold nothing after an offset; the last one stays.
    ///
    /// # Errors
    /// [`JournalError::Io`]; the segment that could not be removed and those after it stay.
    pub fn trim(&self, upto: LogOffset) -> Result<(), JournalError> {
        self.inner.shared.trim(upto)
    }

    /// Writes what is queued and ends the writer thread; every later append is refused.
    ///
    /// # Errors
    /// [`JournalError::LogFailed`] where something queued could not be made durable.
    pub fn close(&self) -> Result<(), JournalError> {
        self.inner.stop();
        self.inner.shared.lock().check_failed()
    }
}

impl Inner {
    fn stop(&self) {
        let mut state = self.shared.lock();
        if matches!(state.condition, Condition::Open) {
            state.condition = Condition::Closed;
        }
        drop(state);
        self.shared.work.notify_one();
        self.shared.room.notify_all();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panic of the writer has been turned into a failed log.
            drop(writer.join());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

fn check_sizes(source: &SourceId, position: &Position, payload: &[u8], limits: Limits) -> Result<(), JournalError> {
    let parts = [
        ("the payload", payload.len(), limits.entry_bytes.min(ENTRY_BYTES)),
        ("the position", position.as_bytes().len(), POSITION_BYTES as u64),
        ("the name", source.as_str().len(), SOURCE_NAME_BYTES as u64),
    ];
    match parts.into_iter().find(|(_, bytes, max)| *bytes as u64 > *max) {
        Some((what, bytes, max)) => {
            Err(JournalError::EntryTooLarge { what, origin: source.as_str().chars().take(64).collect(), bytes, max })
        }
        None => Ok(()),
    }
}
