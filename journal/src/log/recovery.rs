//! Opening a log after anything: a stop, a kill, a power failure, damage.
//!
//! Only the last segment is read: a segment is created after everything before it was durable, and its head says how far
//! each source was. In the last segment records are read until one does not prove itself. What then?
//!
//! ```text
//! ... [g=5 #5][g=5 #6][g=7 #7][????????????????       torn tail: cut before the first invalid record
//! ... [g=5 #5][g=5 #6][g=7 #7][??][g=7 #9]             torn tail: #9 is of the same group, no one was told of it
//! ... [g=5 #5][g=5 #6][??????][g=8 #8]                 damage: #8 was written after everything before 8 was durable
//! ```
//!
//! A group is written after the one before it is durable, and each record names its group's first offset. So if the
//! record of offset `n` is invalid and any valid record of a group `> n` follows, `n` was durable once: refuse. If none
//! follows, `n` can only be of the last group, which was being written: cut.
//!
//! Two things look like a torn tail and are not: damage to the last group of all, and a log that was restored from an
//! older backup. Both are caught by [`crate::Journal::open`] if the state had applied the lost entries.
//!
//! Before anything is called durable again it is made so: names are synced (a rename may not have been), and the last
//! group is written again and synced. A sync that failed may have marked pages clean that never reached the disk; only
//! writing them again makes the next sync honest.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use syncline_schemas::ident::{LogOffset, Position, SourceId};
use tracing::warn;

use super::Resume;
use super::record::{self, Fault, HEAD_BYTES, Head, MAGIC};
use super::segment::{self, Checkpoint, Segment};
use super::writer::Writer;
use crate::disk::{Disk, DiskFile};
use crate::error::JournalError;
use crate::limits::Limits;

/// A log that is ready to be written.
pub(super) struct Recovered {
    pub(super) writer: Writer,
    /// The last durable offset.
    pub(super) durable: LogOffset,
    /// First offset and bytes of every segment.
    pub(super) segments: BTreeMap<LogOffset, u64>,
}

/// Opens the log in an existing folder, or begins one.
pub(super) fn recover(disk: Arc<dyn Disk>, dir: &Path, limits: Limits) -> Result<Recovered, JournalError> {
    let mut segments = list_segments(&*disk, dir)?;
    let Some((&first, _)) = segments.last_key_value() else {
        return begin(disk, dir, limits);
    };
    disk.sync_dir(dir).map_err(JournalError::io("sync", dir))?;
    let (segment, checkpoint) = segment::open(&*disk, dir, first)?;
    let tail =
        Scan { segment: &segment, next: first, at: segment.records_at, group_at: segment.records_at, checkpoint }
            .run()?;
    settle(&segment, &tail)?;
    segments.insert(first, tail.at);
    let durable = LogOffset(tail.next.0 - 1);
    let writer = Writer {
        disk,
        dir: dir.to_owned(),
        limits,
        segment_first: first,
        segment_bytes: tail.at,
        checkpoint: tail.checkpoint,
        segment,
        buffer: Vec::new(),
    };
    Ok(Recovered { writer, durable, segments })
}

fn begin(disk: Arc<dyn Disk>, dir: &Path, limits: Limits) -> Result<Recovered, JournalError> {
    let first = LogOffset::START.next();
    let checkpoint = Checkpoint::new();
    let segment = segment::create(&*disk, dir, first, &checkpoint).map_err(|(path, source)| JournalError::Io {
        action: "create",
        path,
        source,
    })?;
    let segment_bytes = segment.records_at;
    let dir = dir.to_owned();
    let writer =
        Writer { disk, dir, limits, segment, segment_first: first, segment_bytes, checkpoint, buffer: Vec::new() };
    Ok(Recovered { writer, durable: LogOffset::START, segments: BTreeMap::from([(first, segment_bytes)]) })
}

/// First offset and bytes of the segments found; removes the unfinished ones.
fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<BTreeMap<LogOffset, u64>, JournalError> {
    let mut segments = BTreeMap::new();
    for name in disk.list(dir).map_err(JournalError::io("list", dir))? {
        let path = dir.join(&name);
        if let Some(first) = segment::first_of_name(&name) {
            let file = disk.open(&path).map_err(JournalError::io("open", &path))?;
            segments.insert(first, file.len().map_err(JournalError::io("measure", &path))?);
        } else if name.ends_with(segment::UNFINISHED_SUFFIX) {
            disk.remove(&path).map_err(JournalError::io("remove", &path))?;
        } else {
            warn!(path = %path.display(), "a file that is no segment lies in the log's folder, leaving it alone");
        }
    }
    Ok(segments)
}

/// Reads records while they prove themselves.
struct Scan<'a> {
    segment: &'a Segment,
    /// The offset that the next record must have.
    next: LogOffset,
    /// Where it must begin, in bytes.
    at: u64,
    /// Where the last group begins.
    group_at: u64,
    checkpoint: Checkpoint,
}

impl Scan<'_> {
    fn run(mut self) -> Result<Self, JournalError> {
        let file = &*self.segment.file;
        let end = file.len().map_err(JournalError::io("measure", &self.segment.path))?;
        while self.at < end {
            match record::read(file, self.at, end, self.next).and_then(|(head, body)| self.accept(&head, &body)) {
                Ok(()) => {}
                Err(Fault::Io(source)) => return Err(JournalError::io("read", &self.segment.path)(source)),
                Err(Fault::Invalid(reason)) => {
                    self.check_torn(end, reason)?;
                    break;
                }
            }
        }
        Ok(self)
    }

    fn accept(&mut self, head: &Head, body: &[u8]) -> Result<(), Fault> {
        let (source, position) = head.origin(body).map_err(Fault::Invalid)?;
        let resume = Resume { position: Position::new(position.to_vec()), txn_end: head.txn_end(), offset: self.next };
        self.checkpoint.insert(SourceId::new(source), resume);
        if head.group() == self.next {
            self.group_at = self.at;
        }
        self.at += head.record_bytes();
        self.next = self.next.next();
        Ok(())
    }

    /// Ok where the invalid record at `self.at` is the torn tail.
    fn check_torn(&self, end: u64, reason: &'static str) -> Result<(), JournalError> {
        let path = &self.segment.path;
        let rest = read_range(&*self.segment.file, self.at, end).map_err(JournalError::io("read", path))?;
        if holds_later_group(&rest, self.next) {
            let (path, byte, offset) = (path.clone(), self.at, self.next);
            return Err(JournalError::Corrupt { path, byte, offset, reason });
        }
        warn!(path = %path.display(), byte = self.at, bytes = end - self.at, offset = %self.next, reason,
            "cutting what was being written when the log last stopped");
        Ok(())
    }
}

/// True where a record lies in the bytes that was written after `offset` was durable.
fn holds_later_group(bytes: &[u8], offset: LogOffset) -> bool {
    (0..bytes.len().saturating_sub(HEAD_BYTES - 1)).any(|at| {
        bytes[at..at + MAGIC.len()] == MAGIC
            && Head::parse(std::array::from_fn(|i| bytes[at + i])).is_ok_and(|head| {
                head.group() > offset
                    && bytes[at + HEAD_BYTES..].get(..head.body_bytes()).is_some_and(|body| head.proves(body))
            })
    })
}

/// Cuts what did not prove itself and makes the rest durable.
fn settle(segment: &Segment, tail: &Scan<'_>) -> Result<(), JournalError> {
    let file = &*segment.file;
    let settle = || {
        if file.len()? > tail.at {
            file.set_len(tail.at)?;
        }
        let group = read_range(file, tail.group_at, tail.at)?;
        file.write_at(&group, tail.group_at)?;
        file.sync()
    };
    settle().map_err(JournalError::io("repair the end of", &segment.path))
}

fn read_range(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<Vec<u8>> {
    let len = usize::try_from(to - from).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, from)?;
    Ok(bytes)
}
