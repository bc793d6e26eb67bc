//! A change into the log, frame by frame, from the kept contents alone.
//!
//! ```text
//! tables that go away, or whose key is another one   deletes of all old rows, in the old shape
//! tables that are new or changed                     deletes, then the others, in the new shape; the shape before its first row
//! the last frame                                     txn_end = true, position "whole"; all before it "cut"
//! ```
//!
//! Rows that the log holds from an interrupted attempt are passed over by their number. A frame holds one batch per table,
//! so a table with both kinds of rows begins a second frame, of the same transaction.

use std::path::PathBuf;

use syncline_schemas::frame::{Frame, LogEntry, Op, TableBatch};
use syncline_schemas::ident::{LogOffset, SourceId};
use syncline_schemas::table::TableSchema;
use tracing::debug;

use super::change::{Changes, Stamp};
use super::content::{self, Read};
use super::kept::{self, Kept};
use super::position::{Cut, Entry, SeedsPosition};
use super::table::{self, Table};
use crate::error::Listed;
use crate::progress::{OpCounts, now_us};
use crate::{CaptureError, LogSink, Progress, StopSignal};

/// Limits of a frame; tests shrink them.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameLimits {
    pub(super) rows: u32,
    pub(super) bytes: usize,
}

/// What appending a change needs beside the change.
pub(super) struct Appender<'a> {
    pub(super) source: &'a SourceId,
    pub(super) kept: &'a Kept,
    pub(super) log: &'a dyn LogSink,
    pub(super) progress: &'a Progress,
    pub(super) stop: &'a StopSignal,
    pub(super) limits: FrameLimits,
}

/// Rows on their way into a frame.
struct Pending<'c> {
    cut: &'c Cut,
    /// Rows of the change that still have to be passed over, because the log holds them.
    skip: u64,
    /// Rows of the change up to here, those in `batches` included.
    rows: u64,
    batches: Vec<TableBatch>,
    frame_rows: u32,
    frame_bytes: usize,
    counts: OpCounts,
}

impl Appender<'_> {
    /// Appends what is missing of a change; the offset of its last frame, or `None` where it was stopped before that.
    pub(super) fn append(&self, cut: &Cut) -> Result<Option<LogOffset>, CaptureError> {
        let mut pending = Pending {
            cut,
            skip: cut.rows,
            rows: 0,
            batches: Vec::new(),
            frame_rows: 0,
            frame_bytes: 0,
            counts: OpCounts::default(),
        };
        for (name, entry) in &cut.from {
            if self.goes_away(name, entry, cut.to.get(name))? {
                let changes = Changes::removal(self.table(name, entry)?);
                if !self.add(&changes, entry, &mut pending)? {
                    return Ok(None);
                }
            }
        }
        for (name, entry) in &cut.to {
            let before = cut.from.get(name);
            if before == Some(entry) {
                continue;
            }
            let changes = self.changes(name, before, entry, cut.from.is_empty())?;
            if !self.add(&changes, entry, &mut pending)? {
                return Ok(None);
            }
        }
        if pending.skip > 0 {
            let reason = format!("it names {} rows of a change that has {}", cut.rows, pending.rows);
            return Err(self.misfit(reason));
        }
        self.hand_over(&mut pending, true).map(Some)
    }

    /// True where all old rows go: the table does, or its rows are told apart by another key.
    fn goes_away(&self, name: &str, old: &Entry, new: Option<&Entry>) -> Result<bool, CaptureError> {
        let Some(new) = new else { return Ok(true) };
        Ok(new != old && !table::same_key(&self.schema(name, old)?, &self.schema(name, new)?))
    }

    fn changes(&self, name: &str, old: Option<&Entry>, new: &Entry, is_first: bool) -> Result<Changes, CaptureError> {
        let new = self.table(name, new)?;
        let old = old.map(|old| self.table(name, old)).transpose()?;
        Ok(match old {
            Some(old) if table::same_key(&old.schema, &new.schema) => Changes::between(old, new),
            _ => Changes::all(new, if is_first { Op::Read } else { Op::Insert }),
        })
    }

    /// Adds rows, handing over each frame that is full before the next one begins; false where it was stopped.
    fn add(&self, changes: &Changes, entry: &Entry, pending: &mut Pending<'_>) -> Result<bool, CaptureError> {
        let count = changes.len() as u64;
        let passed = pending.skip.min(count);
        pending.skip -= passed;
        pending.rows += passed;
        let mut next = usize::try_from(passed).expect("no more than the rows of a table");
        if passed == count && count > 0 {
            return Ok(true);
        }
        if pending.batches.iter().any(|batch| batch.table == changes.schema().table) {
            self.hand_over(pending, false)?;
        }
        if count > 0 || changes.is_new_shape() {
            self.log.append(LogEntry::Schema(changes.schema().clone()))?;
        }
        let position = kept::short(entry.hash);
        let stamp = Stamp { commit_us: pending.cut.loaded_us, position: &position };
        while next < changes.len() {
            if pending.is_full(self.limits) {
                if self.stop.is_stopped() {
                    return Ok(false);
                }
                self.hand_over(pending, false)?;
            }
            let begin = next;
            let ord = pending.frame_rows;
            while next < changes.len() && !pending.is_full(self.limits) {
                pending.frame_rows += 1;
                pending.frame_bytes += changes.row_bytes(next);
                pending.counts.add(changes.op(next));
                next += 1;
            }
            pending.rows += (next - begin) as u64;
            let batch = changes.batch(begin..next, ord, &stamp).map_err(|error| CaptureError::Batch {
                source_id: self.source.clone(),
                table: changes.schema().table.clone(),
                error,
            })?;
            pending.batches.push(batch);
        }
        Ok(true)
    }

    fn hand_over(&self, pending: &mut Pending<'_>, is_last: bool) -> Result<LogOffset, CaptureError> {
        let position = if is_last {
            SeedsPosition::Whole(pending.cut.to.clone())
        } else {
            SeedsPosition::Cut(Cut { rows: pending.rows, ..pending.cut.clone() })
        };
        let frame = Frame {
            source: self.source.clone(),
            position: position.encode(),
            captured_at: now_us(),
            txn_end: is_last,
            batches: std::mem::take(&mut pending.batches),
        };
        debug!(source = %self.source, rows = frame.row_count(), is_last, "appending a change of the seeds");
        let offset = self.log.append(LogEntry::Frame(frame))?;
        self.progress.observe_frame(&std::mem::take(&mut pending.counts));
        (pending.frame_rows, pending.frame_bytes) = (0, 0);
        Ok(offset)
    }

    /// A content that was read before, so a fault in it means that it is another one now.
    fn table(&self, name: &str, entry: &Entry) -> Result<Table, CaptureError> {
        let bytes = self.kept.read(entry.hash)?;
        let read = content::table(&self.file(entry), name, &bytes, Read::AsBefore(&entry.layout));
        read.map(|(table, _)| table).map_err(|faults| self.misfit(Listed(&faults).to_string()))
    }

    fn schema(&self, name: &str, entry: &Entry) -> Result<TableSchema, CaptureError> {
        let bytes = self.kept.read(entry.hash)?;
        let read = content::schema(&self.file(entry), name, &bytes, &entry.layout);
        read.map_err(|faults| self.misfit(Listed(&faults).to_string()))
    }

    fn file(&self, entry: &Entry) -> PathBuf {
        self.kept.path(entry.hash)
    }

    fn misfit(&self, reason: String) -> CaptureError {
        misfit(self.source, reason)
    }
}

/// The journal's position is not what this reader writes.
pub(super) fn misfit(source: &SourceId, reason: String) -> CaptureError {
    CaptureError::Unfit {
        source_id: source.clone(),
        object: "the journal's position".to_owned(),
        reason,
        remedy: "run the Syncline that wrote it; else restore the whole data_dir from one backup".to_owned(),
    }
}

impl Pending<'_> {
    const fn is_full(&self, limits: FrameLimits) -> bool {
        self.frame_rows >= limits.rows || self.frame_bytes >= limits.bytes
    }
}
