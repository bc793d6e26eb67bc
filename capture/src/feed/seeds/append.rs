//! A change into the log, frame by frame, from the kept contents alone.
//!
//! ```text
//! shapes of tables that are new or changed           before any row: whoever joins tables waits for all of them
//! tables that go away, or whose key is another one   deletes of all old rows, in the old shape
//! tables that are new or changed                     deletes, then the others, in the new shape
//! the last frame                                     txn_end = true, position "whole"; all before it "cut"
//! ```
//!
//! Rows that the log holds from an interrupted attempt are passed over by their number. A frame holds one batch per table,
//! so a table with both kinds of rows begins a second frame, of the same transaction.

use syncline_schemas::frame::{Frame, LogEntry, Op, TableBatch};
use syncline_schemas::ident::{LogOffset, SourceId};
use syncline_schemas::table::TableSchema;
use tracing::debug;

use super::change::Changes;
use super::kept::{self, Kept, misfit};
use super::position::{Cut, Entry, SeedsPosition};
use super::table;
use crate::feed::meta::Stamp;
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
        let changed = || cut.to.iter().filter(|(name, entry)| cut.from.get(*name) != Some(entry));
        for (name, entry) in changed() {
            let before = cut.from.get(name);
            let schema = self.kept.schema(name, entry)?;
            // Where old rows go first, the old shape is still needed.
            if before.map_or(Ok(true), |before| Ok(table::same_key(&self.kept.schema(name, before)?, &schema)))? {
                self.log_shape(&schema)?;
            }
        }
        for (name, entry) in &cut.from {
            if self.goes_away(name, entry, cut.to.get(name))? {
                let changes = Changes::removal(self.kept.table(name, entry)?);
                if !self.add(&changes, entry, &mut pending)? {
                    return Ok(None);
                }
            }
        }
        for (name, entry) in changed() {
            let changes = self.changes(name, cut.from.get(name), entry, cut.from.is_empty())?;
            if !self.add(&changes, entry, &mut pending)? {
                return Ok(None);
            }
        }
        if pending.skip > 0 {
            let reason = format!("it names {} rows of a change that has {}", cut.rows, pending.rows);
            return Err(misfit(self.source, reason));
        }
        self.hand_over(&mut pending, true).map(Some)
    }

    /// True where all old rows go: the table does, or its rows are told apart by another key.
    fn goes_away(&self, name: &str, old: &Entry, new: Option<&Entry>) -> Result<bool, CaptureError> {
        let Some(new) = new else { return Ok(true) };
        Ok(new != old && !table::same_key(&self.kept.schema(name, old)?, &self.kept.schema(name, new)?))
    }

    fn changes(&self, name: &str, old: Option<&Entry>, new: &Entry, is_first: bool) -> Result<Changes, CaptureError> {
        let new = self.kept.table(name, new)?;
        let old = old.map(|old| self.kept.table(name, old)).transpose()?;
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
        self.log_shape(changes.schema())?;
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

    /// Puts a shape into the log, unless it is the last one there of its table.
    fn log_shape(&self, schema: &TableSchema) -> Result<(), CaptureError> {
        if !self.progress.has_logged(schema) {
            self.log.append(LogEntry::Schema(schema.clone()))?;
            self.progress.observe_shape(schema);
        }
        Ok(())
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
}

impl Pending<'_> {
    const fn is_full(&self, limits: FrameLimits) -> bool {
        self.frame_rows >= limits.rows || self.frame_bytes >= limits.bytes
    }
}
