//! What the callers of the log and its writer thread share, behind one lock.
//!
//! Invariant: `durable <= last`; every entry in between is in the queue or in the group that is being written. Entries
//! get their offset and their place in the queue under the lock, so the queue is contiguous. The lock is never held over
//! an operation of the disk.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use syncline_schemas::ident::LogOffset;

use super::record::Pending;
use super::segment::{self, Checkpoint};
use super::writer::{Failure, Writer, Written};
use crate::disk::Disk;
use crate::error::JournalError;
use crate::limits::Limits;

/// Told of every rise of `durable`.
pub(super) type OnDurable = Box<dyn Fn(LogOffset) + Send + Sync>;

pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) limits: Limits,
    state: Mutex<State>,
    /// Something was queued, or the log is to close.
    pub(super) work: Condvar,
    /// The queue was taken, or will never be.
    pub(super) room: Condvar,
    /// `durable` rose, or never will, or whoever waits is to look around.
    pub(super) synced: Condvar,
    pub(super) on_durable: Mutex<Option<OnDurable>>,
    /// One trim at a time, so that segments vanish oldest first.
    trim: Mutex<()>,
}

pub(super) struct State {
    pub(super) queue: VecDeque<Pending>,
    pub(super) queued_bytes: u64,
    /// The offset given last.
    pub(super) last: LogOffset,
    pub(super) durable: LogOffset,
    /// How far each source is, durably.
    pub(super) checkpoint: Checkpoint,
    /// First offset and durable bytes of every segment.
    pub(super) segments: BTreeMap<LogOffset, u64>,
    pub(super) condition: Condition,
    /// How often waiting was called off.
    pub(super) wakes: u64,
}

pub(super) enum Condition {
    Open,
    /// Closed by its owner; what is queued is still written.
    Closed,
    /// The disk refused.
    Failed {
        path: PathBuf,
        error: Arc<io::Error>,
    },
}

/// The segment that holds a record.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) first: LogOffset,
    /// Durable bytes in it.
    pub(super) bytes: u64,
}

impl State {
    pub(super) fn new(durable: LogOffset, checkpoint: Checkpoint, segments: BTreeMap<LogOffset, u64>) -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            last: durable,
            durable,
            checkpoint,
            segments,
            condition: Condition::Open,
            wakes: 0,
        }
    }

    /// The error that a closed or failed log answers.
    pub(super) fn check_open(&self) -> Result<(), JournalError> {
        match &self.condition {
            Condition::Open => Ok(()),
            Condition::Closed => Err(JournalError::LogClosed),
            Condition::Failed { .. } => self.check_failed(),
        }
    }

    /// The error that a failed log answers.
    pub(super) fn check_failed(&self) -> Result<(), JournalError> {
        match &self.condition {
            Condition::Open | Condition::Closed => Ok(()),
            Condition::Failed { path, error } => {
                Err(JournalError::LogFailed { path: path.clone(), durable: self.durable, source: Arc::clone(error) })
            }
        }
    }

    /// The oldest offset held, or the first to come.
    pub(super) fn first(&self) -> LogOffset {
        *self.segments.first_key_value().expect("a log has at least one segment").0
    }
}

impl Shared {
    pub(super) fn new(writer: &Writer, state: State) -> Self {
        Self {
            disk: Arc::clone(&writer.disk),
            dir: writer.dir.clone(),
            limits: writer.limits,
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Condvar::new(),
            synced: Condvar::new(),
            on_durable: Mutex::new(None),
            trim: Mutex::new(()),
        }
    }

    /// No code panics while it holds the lock, so a poisoned one is as good as new.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segment that holds a record, `None` where the record is not durable yet.
    pub(super) fn held(&self, wanted: LogOffset) -> Result<Option<Held>, JournalError> {
        let state = self.lock();
        if wanted > state.durable {
            return Ok(None);
        }
        let segment = state.segments.range(..=wanted).next_back();
        let (&first, &bytes) = segment.ok_or_else(|| JournalError::Trimmed { wanted, first: state.first() })?;
        Ok(Some(Held { first, bytes }))
    }

    /// The last offset of the oldest segments that end up to an offset and were last written so long ago.
    pub(super) fn aged(&self, upto: LogOffset, age: Duration) -> Result<LogOffset, JournalError> {
        // No segment vanishes while it is looked at.
        let _one_at_a_time = self.trim.lock().unwrap_or_else(PoisonError::into_inner);
        let firsts: Vec<LogOffset> = self.lock().segments.keys().copied().collect();
        let mut aged = LogOffset(firsts.first().map_or(0, |first| first.0 - 1));
        for (&first, next) in firsts.iter().zip(firsts.iter().skip(1)) {
            let last = LogOffset(next.0 - 1);
            if last > upto {
                break;
            }
            let path = segment::path(&self.dir, first);
            let written = self.disk.modified(&path).map_err(JournalError::io("read the age of", path))?;
            // One that claims to be of the future is young.
            if SystemTime::now().duration_since(written).unwrap_or_default() < age {
                break;
            }
            aged = last;
        }
        Ok(aged)
    }

    /// Removes the segments that hold nothing after an offset, oldest first; the last one stays.
    pub(super) fn trim(&self, upto: LogOffset) -> Result<(), JournalError> {
        let _one_at_a_time = self.trim.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((first, bytes)) = self.take_trimmable(upto) {
            let path = segment::path(&self.dir, first);
            if let Err(error) = self.disk.remove(&path) {
                self.lock().segments.insert(first, bytes);
                return Err(JournalError::io("remove", path)(error));
            }
            // Names vanish oldest first, also over a power failure: a log has no hole.
            self.disk.sync_dir(&self.dir).map_err(JournalError::io("sync", &self.dir))?;
        }
        Ok(())
    }

    /// Takes the oldest segment out of sight, so that a reader is told that it is gone before it is.
    fn take_trimmable(&self, upto: LogOffset) -> Option<(LogOffset, u64)> {
        let mut state = self.lock();
        let next_first = *state.segments.keys().nth(1)?;
        if next_first > upto.next() {
            return None;
        }
        state.segments.pop_first()
    }

    /// The writer thread: takes everything queued, writes it, publishes it, until the log closes or fails.
    pub(super) fn run(&self, mut writer: Writer) {
        // Should the writer panic, its callers must get an error rather than wait for ever.
        let _stopped = Stopped(self);
        while let Some(mut queue) = self.take() {
            while !queue.is_empty() {
                match writer.write_group(&mut queue) {
                    Ok(written) => self.publish(written),
                    Err(failure) => return self.fail(failure),
                }
            }
        }
    }

    /// Waits for entries; `None` where the log was closed and everything is written.
    fn take(&self) -> Option<VecDeque<Pending>> {
        let mut state = self.lock();
        while state.queue.is_empty() {
            if state.check_open().is_err() {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.queued_bytes = 0;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        self.room.notify_all();
        Some(queue)
    }

    pub(super) fn publish(&self, written: Written) {
        let mut state = self.lock();
        state.durable = written.upto;
        state.checkpoint.extend(written.reached);
        state.segments.insert(written.segment_first, written.segment_bytes);
        drop(state);
        self.synced.notify_all();
        if let Some(call) = &*self.on_durable.lock().unwrap_or_else(PoisonError::into_inner) {
            call(written.upto);
        }
    }

    fn fail(&self, (path, error): Failure) {
        let mut state = self.lock();
        let durable = state.durable;
        tracing::error!(path = %path.display(), %error, %durable, "writing the log failed");
        state.condition = Condition::Failed { path, error: Arc::new(error) };
        state.queue.clear();
        state.queued_bytes = 0;
    }
}

/// Wakes everyone when the writer thread ends, for whatever reason.
struct Stopped<'a>(&'a Shared);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error =
                io::Error::other("the writer of the log stopped by a defect; report it with the log lines above");
            self.0.fail((self.0.dir.clone(), error));
        }
        self.0.room.notify_all();
        self.0.synced.notify_all();
    }
}
