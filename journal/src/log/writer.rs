//! The writable end of the log: groups of records into the last segment, and the step to a new one.
//!
//! A group is one write and one sync, whatever the number of entries that arrived meanwhile: the cost of a sync is
//! shared by all that wait for it. There is never more than one group on disk that is not durable, and a group never
//! spans two segments; [`super::recovery`] rests on both.
//!
//! After an error a writer must not be used again: what the disk holds behind the last durable group is unknown until
//! the log is opened anew.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use syncline_schemas::ident::LogOffset;

use super::Resume;
use super::record::Pending;
use super::segment::{self, Checkpoint, Segment};
use crate::disk::Disk;
use crate::limits::Limits;

/// The place of a refusal of the disk, and the refusal.
pub(super) type Failure = (PathBuf, io::Error);

/// What has become durable.
pub(super) struct Written {
    /// The last offset.
    pub(super) upto: LogOffset,
    /// How far the sources of the group are now.
    pub(super) reached: Checkpoint,
    /// First offset of the segment that holds the group.
    pub(super) segment_first: LogOffset,
    /// Bytes in that segment.
    pub(super) segment_bytes: u64,
}

/// The writable end.
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) limits: Limits,
    pub(super) segment: Segment,
    pub(super) segment_first: LogOffset,
    /// Bytes in the segment, all durable.
    pub(super) segment_bytes: u64,
    /// How far every source is.
    pub(super) checkpoint: Checkpoint,
    pub(super) buffer: Vec<u8>,
}

impl Writer {
    /// Makes entries from the front of the queue durable, as many as the segment takes and at least one.
    ///
    /// # Panics
    /// On an empty queue.
    pub(super) fn write_group(&mut self, queue: &mut VecDeque<Pending>) -> Result<Written, Failure> {
        let front = queue.front().expect("a group has an entry");
        let group = front.offset;
        if !self.takes(front) {
            self.roll(group)?;
        }
        self.buffer.clear();
        let mut reached = Checkpoint::new();
        let mut upto = group;
        while let Some(entry) = queue.pop_front_if(|entry| self.takes(entry)) {
            entry.encode(group, &mut self.buffer);
            upto = entry.offset;
            let resume = Resume { position: entry.position, txn_end: entry.txn_end, offset: entry.offset };
            reached.insert(entry.source, resume);
        }
        self.write_buffer().map_err(|error| (self.segment.path.clone(), error))?;
        self.checkpoint.extend(reached.clone());
        Ok(Written { upto, reached, segment_first: self.segment_first, segment_bytes: self.segment_bytes })
    }

    /// True where the entry fits behind what is in the buffer, or is alone in the segment.
    fn takes(&self, entry: &Pending) -> bool {
        let end = self.segment_bytes + self.buffer.len() as u64;
        end == self.segment.records_at || end + entry.record_bytes() <= self.limits.segment_bytes
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.segment.file.write_at(&self.buffer, self.segment_bytes)?;
        self.segment.file.sync()?;
        self.segment_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        // One huge entry must not hold its memory for ever.
        self.buffer.shrink_to(usize::try_from(self.limits.queue_bytes).unwrap_or(usize::MAX));
        Ok(())
    }

    fn roll(&mut self, first: LogOffset) -> Result<(), Failure> {
        self.segment = segment::create(&*self.disk, &self.dir, first, &self.checkpoint)?;
        self.segment_first = first;
        self.segment_bytes = self.segment.records_at;
        Ok(())
    }
}
