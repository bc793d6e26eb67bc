//! One cycle into the log: a beginning, its rows in frames, an end. One transaction, of which only the end is visible.
//!
//! The marks have frames of their own, because the fold finds where a reading began in what it has committed before.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use syncline_schemas::frame::{Frame, LogEntry, META_COLUMNS, Op, TableBatch};
use syncline_schemas::ident::{LogOffset, SourceId};
use syncline_schemas::outputs::PageOf;
use tracing::debug;

use super::column::Column;
use super::config::{NoPage, OutputsConfig, Pages};
use super::page::{self, Cycle, Page};
use super::position::{Done, OutputsPosition};
use super::table::Table;
use crate::feed::meta::{self, Stamp};
use crate::progress::{OpCounts, now_us};
use crate::{CaptureError, LogSink, Progress, StopSignal};

/// Rows of a page: some hundred bytes each, well below what an answer may have.
const PAGE_ROWS: u32 = 2_000;

/// Limits of a frame; tests shrink them.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameLimits {
    pub(super) rows: u32,
    pub(super) bytes: usize,
}

/// Why a cycle is not in the log.
pub(super) enum Unpulled {
    Stopped,
    /// The platform has it no more; the log holds nothing of this attempt.
    Gone(CaptureError),
    Failed(CaptureError),
}

impl From<CaptureError> for Unpulled {
    fn from(error: CaptureError) -> Self {
        Self::Failed(error)
    }
}

/// What putting a cycle into the log needs beside the platform.
pub(super) struct Puller<'a> {
    pub(super) config: &'a OutputsConfig,
    pub(super) log: &'a dyn LogSink,
    pub(super) progress: &'a Progress,
    pub(super) stop: &'a StopSignal,
    pub(super) limits: FrameLimits,
    pub(super) table: &'a Table,
    /// The cycles that the log holds whole.
    pub(super) done: &'a Done,
    /// The transaction goes on behind the cycle.
    pub(super) again: bool,
}

/// Rows on their way into a frame.
struct Pending {
    columns: Vec<Column>,
    rows: u32,
    bytes: usize,
}

/// Asks for a page, in the words of capture.
pub(super) fn ask(
    config: &OutputsConfig,
    pages: &mut dyn Pages,
    of: PageOf<'_>,
    stop: &StopSignal,
) -> Result<Vec<u8>, Unpulled> {
    let unfit = |reason, remedy| CaptureError::Unfit {
        source_id: config.source.clone(),
        object: format!("{}, output {}", config.url, of.output),
        reason,
        remedy,
    };
    pages.page(of, stop).map_err(|fault| match fault {
        NoPage::Stopped => Unpulled::Stopped,
        NoPage::Gone { reason, remedy } => Unpulled::Gone(unfit(reason, remedy)),
        NoPage::Refused { reason, remedy } => Unpulled::Failed(unfit(reason, remedy)),
        NoPage::Away { reason } => Unpulled::Failed(away(config, reason)),
    })
}

/// The platform cannot be asked now.
pub(super) fn away(config: &OutputsConfig, reason: String) -> CaptureError {
    CaptureError::Unreachable {
        source_id: config.source.clone(),
        address: config.url.clone(),
        error: std::io::Error::other(reason),
    }
}

/// A page or a row breaks the contract.
pub(super) fn broken(source: &SourceId, output: &str, place: String, reason: String) -> CaptureError {
    CaptureError::Output { source_id: source.clone(), output: output.to_owned(), place, reason }
}

impl Puller<'_> {
    /// Puts a cycle into the log; `begun` is called once its beginning is there. Gives the last entry.
    pub(super) fn pull(&self, pages: &mut dyn Pages, id: &str, begun: &mut dyn FnMut()) -> Result<LogOffset, Unpulled> {
        let mut cursor: Option<String> = None;
        let mut cycle: Option<Cycle> = None;
        let mut read = 0_u64;
        let mut pending = Pending { columns: self.table.columns(), rows: 0, bytes: 0 };
        loop {
            let of = PageOf {
                output: self.table.output,
                cycle: Some(id),
                cursor: cursor.as_deref(),
                limit: Some(PAGE_ROWS),
            };
            let bytes = match ask(self.config, pages, of, self.stop) {
                // A part of it is in the log, so that another session has to finish this.
                Err(Unpulled::Gone(error)) if cycle.is_some() => {
                    let reason = format!("cycle {id} of {} went away while it was pulled: {error}", of.output);
                    return Err(away(self.config, reason).into());
                }
                answer => answer?,
            };
            self.progress.observe_message(bytes.len());
            let PageOfCycle { cycle: told, rows, next } = self.page(id, cycle.as_ref(), &bytes)?;
            if cycle.is_none() {
                self.mark(Op::SweepBegin, &told, false)?;
                begun();
            }
            for row in rows {
                read += 1;
                if read > told.row_count {
                    return Err(self.miscounted(&told, format!("has more rows than the {} it tells", told.row_count)));
                }
                page::append(self.table, &mut pending.columns, &told, row)
                    .map_err(|reason| self.broken(&told, format!("row {read}"), reason))?;
                pending.rows += 1;
                pending.bytes += row.get().len();
                if pending.rows >= self.limits.rows || pending.bytes >= self.limits.bytes {
                    self.hand_over(&mut pending, &told)?;
                }
            }
            cycle = Some(told.clone());
            match next {
                Some(next) => cursor = Some(next),
                None if read < told.row_count => {
                    let reason = format!("ends after {read} of {} rows", told.row_count);
                    return Err(self.miscounted(&told, reason));
                }
                None => {
                    if pending.rows > 0 {
                        self.hand_over(&mut pending, &told)?;
                    }
                    debug!(source = %self.config.source, output = self.table.output, rows = read, "pulled a cycle");
                    return Ok(self.mark(Op::SweepEnd, &told, true)?);
                }
            }
        }
    }

    /// A page of the cycle that says the same of it as those before.
    fn page<'b>(&self, id: &str, before: Option<&Cycle>, bytes: &'b [u8]) -> Result<PageOfCycle<'b>, CaptureError> {
        let broken =
            |reason: String| broken(&self.config.source, self.table.output, format!("a page of cycle {id}"), reason);
        let Page { cycle, rows, next } = page::read(self.table.output, bytes).map_err(broken)?;
        match cycle {
            Some(cycle) if cycle.id != id => Err(broken("is of another cycle".to_owned())),
            Some(cycle) if before.is_some_and(|before| *before != cycle) => {
                Err(broken("says another row_count or published_at than the one before".to_owned()))
            }
            Some(cycle) => Ok(PageOfCycle { cycle, rows, next }),
            None => Err(broken("has no cycle_id".to_owned())),
        }
    }

    fn broken(&self, cycle: &Cycle, what: String, reason: String) -> CaptureError {
        broken(&self.config.source, self.table.output, format!("{what} of cycle {}", cycle.id), reason)
    }

    fn miscounted(&self, cycle: &Cycle, reason: String) -> Unpulled {
        broken(&self.config.source, self.table.output, format!("cycle {}", cycle.id), reason).into()
    }

    /// Says that the table begins to be read anew, or that it has been.
    fn mark(&self, op: Op, cycle: &Cycle, is_last: bool) -> Result<LogOffset, CaptureError> {
        self.append(op, self.table.nothing(), 1, cycle, is_last)
    }

    fn hand_over(&self, pending: &mut Pending, cycle: &Cycle) -> Result<(), CaptureError> {
        let columns = pending.columns.iter_mut().map(Column::finish).collect();
        let rows = std::mem::take(&mut pending.rows);
        pending.bytes = 0;
        self.append(Op::Read, columns, rows, cycle, false)?;
        Ok(())
    }

    fn append(
        &self,
        op: Op,
        columns: Vec<ArrayRef>,
        rows: u32,
        cycle: &Cycle,
        is_last: bool,
    ) -> Result<LogOffset, CaptureError> {
        let batch = self.batch(op, columns, rows, cycle).map_err(|error| CaptureError::Batch {
            source_id: self.config.source.clone(),
            table: self.table.schema.table.clone(),
            error,
        })?;
        let mut counts = OpCounts::default();
        if op == Op::Read {
            (0..rows).for_each(|_| counts.add(op));
        }
        let (output, mut done) = (self.table.output.to_owned(), self.done.clone());
        if is_last {
            done.insert(output.clone(), cycle.id.clone());
        }
        let position = match (self.again, is_last) {
            (true, _) => OutputsPosition::Again(done),
            (false, true) => OutputsPosition::Whole(done),
            (false, false) => OutputsPosition::Cut { done, output, cycle: cycle.id.clone() },
        };
        let frame = Frame {
            source: self.config.source.clone(),
            position: position.encode(),
            captured_at: now_us(),
            txn_end: is_last && !self.again,
            batches: vec![batch],
        };
        let offset = self.log.append(LogEntry::Frame(frame))?;
        self.progress.observe_frame(&counts);
        Ok(offset)
    }

    fn batch(&self, op: Op, mut columns: Vec<ArrayRef>, rows: u32, cycle: &Cycle) -> Result<TableBatch, ArrowError> {
        let position = format!("{}/{}", self.table.output, cycle.id);
        let stamp = Stamp { commit_us: cycle.published_us, position: &position };
        columns.reserve(META_COLUMNS);
        columns.extend(meta::same(op, rows as usize, 0, &stamp)?);
        let schema = &self.table.schema;
        Ok(TableBatch {
            table: schema.table.clone(),
            schema_version: schema.version,
            rows: RecordBatch::try_new(schema.batch_schema(), columns)?,
        })
    }
}

/// A page that is of the cycle that was asked for.
struct PageOfCycle<'b> {
    cycle: Cycle,
    rows: Vec<&'b serde_json::value::RawValue>,
    next: Option<String>,
}
