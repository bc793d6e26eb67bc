//! Source transactions as units: one that took several frames is folded when its last frame comes, from the log.
//!
//! ```text
//! frame, transaction goes on      set aside: only where it begins, and of which tables it has rows, is remembered
//! last frame                      0  indexes that are new are filled
//!                                 1  joined rows of every frame, in order
//!                                 2  driving rows of every frame, in order, against the joined rows as they are now:
//!                                    first those of entities that cite none, then those that cite these, and so on
//!                                 3  driving rows that the joined rows affect (tasks)
//! ```
//!
//! Each arrow is one or more steps; `progress` says in state which of them are committed, so that a crash goes on behind
//! them. Sinks see none before the entry is done. A frame with whole transactions is one step where nothing is left over.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use arrow::datatypes::UInt8Type;
use syncline_schemas::frame::{Frame, OP, Op};
use syncline_schemas::ident::{LogOffset, SourceId, TableId};

use super::changes::column;
use super::contribution::{put_run, take_run};
use super::step::{Outcome, Part};
use super::tasks::{self, What};
use super::{Fold, Work, Writes};
use crate::TransformError;
use crate::state::{Space, State};

const OPEN: &[u8] = b"open";
const PROGRESS: &[u8] = b"progress";

/// What an entry's committed steps have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// The joined rows of the frames up to this one.
    Joined(LogOffset),
    /// Those of all frames, the driving rows of all levels below this one, and its own of the frames up to this one.
    Driving { level: u8, done: LogOffset },
    /// All but the tasks.
    Tasks,
}

impl Progress {
    pub(super) fn read(state: &dyn State) -> Result<Option<Self>, TransformError> {
        let Some(value) = state.get(Space::Catalog, PROGRESS)? else { return Ok(None) };
        let damaged = || TransformError::State("the progress of an entry does not decode".to_owned());
        let ([stage, level], offset) = value.split_first_chunk().ok_or_else(damaged)?;
        let offset = LogOffset(u64::from_be_bytes(offset.try_into().map_err(|_| damaged())?));
        Ok(Some(match stage {
            1 => Self::Joined(offset),
            2 => Self::Driving { level: *level, done: offset },
            3 => Self::Tasks,
            _ => return Err(damaged()),
        }))
    }

    pub(super) fn write(self, writes: &mut Writes) {
        let (stage, level, offset) = match self {
            Self::Joined(done) => (1, 0, done),
            Self::Driving { level, done } => (2, level, done),
            Self::Tasks => (3, 0, LogOffset::START),
        };
        let value = [&[stage, level][..], &offset.0.to_be_bytes()].concat();
        writes.push((Space::Catalog, PROGRESS.to_vec(), Some(value)));
    }

    /// The write that says that the entry is done.
    pub(super) fn none() -> (Space, Vec<u8>, Option<Vec<u8>>) {
        (Space::Catalog, PROGRESS.to_vec(), None)
    }
}

/// A transaction that takes several steps, at work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    /// The log entry that ends it.
    pub(crate) entry: LogOffset,
    /// Its first frame, where it is one of the rows' own source.
    pub(crate) first: Option<LogOffset>,
}

/// A transaction whose frames are set aside until its last one comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Open {
    /// The first frame that counts.
    pub(super) first: LogOffset,
    /// The tables of which rows have come since.
    touched: BTreeSet<TableId>,
}

impl Open {
    /// The open transaction after one more frame at `offset`.
    ///
    /// One that begins by truncating every table of which rows have come makes all before it void: so a copy that broke off
    /// and began anew is folded once.
    fn and(before: Option<Self>, frame: &Frame, offset: LogOffset) -> Result<Self, TransformError> {
        let mut open = before.unwrap_or(Self { first: offset, touched: BTreeSet::new() });
        let mut tables = BTreeSet::new();
        let mut emptied = BTreeSet::new();
        for batch in &frame.batches {
            let operations = column(batch, OP)?.as_primitive::<UInt8Type>();
            if operations.values().first() == Some(&(Op::Truncate as u8)) {
                emptied.insert(batch.table.clone());
            }
            tables.insert(batch.table.clone());
        }
        if open.touched.is_subset(&emptied) {
            open.first = offset;
            open.touched.clear();
        }
        open.touched.extend(tables);
        Ok(open)
    }
}

/// The log is needed behind this offset.
pub(super) fn needs_after(open: &BTreeMap<SourceId, Open>, folded: LogOffset) -> LogOffset {
    let first = open.values().map(|open| LogOffset(open.first.0.saturating_sub(1))).min();
    first.map_or(folded, |first| first.min(folded))
}

/// The sources whose transaction is open.
pub(super) fn open_transactions(state: &dyn State) -> Result<BTreeMap<SourceId, Open>, TransformError> {
    let value = state.get(Space::Catalog, OPEN)?.unwrap_or_default();
    let mut rest = value.as_slice();
    let mut text = || {
        let (run, left) = take_run(rest)?;
        rest = left;
        std::str::from_utf8(run).ok()
    };
    let mut open = BTreeMap::new();
    while let Some(source) = text() {
        let mut read = || {
            let first = LogOffset(text()?.parse().ok()?);
            let tables: usize = text()?.parse().ok()?;
            let touched = (0..tables).map(|_| Some(TableId::new(text()?, text()?))).collect::<Option<_>>()?;
            Some(Open { first, touched })
        };
        let damaged = || TransformError::State("the open transactions do not decode".to_owned());
        open.insert(SourceId::new(source), read().ok_or_else(damaged)?);
    }
    Ok(open)
}

pub(super) fn open_record(open: &BTreeMap<SourceId, Open>) -> (Space, Vec<u8>, Option<Vec<u8>>) {
    let mut value = Vec::new();
    for (source, Open { first, touched }) in open {
        put_run(&mut value, source.as_str().as_bytes());
        put_run(&mut value, first.to_string().as_bytes());
        put_run(&mut value, touched.len().to_string().as_bytes());
        for name in touched.iter().flat_map(|table| [&table.schema, &table.name]) {
            put_run(&mut value, name.as_bytes());
        }
    }
    (Space::Catalog, OPEN.to_vec(), Some(value))
}

impl Fold {
    pub(super) fn fold_frame<'f>(&mut self, frame: &'f Frame, work: &mut Work<'f, '_>) -> Result<(), TransformError> {
        let mut open = self.open.clone();
        work.source = Some(&frame.source);
        if !frame.txn_end {
            let before = open.remove(&frame.source);
            open.insert(frame.source.clone(), Open::and(before, frame, work.offset)?);
            return self.finish(Writes::new(), Vec::new(), open, work);
        }
        let first = open.get(&frame.source).map_or(work.offset, |open| open.first);
        self.fill_first(frame, first, work)?;
        let mut last = (Writes::new(), Vec::new());
        match open.remove(&frame.source) {
            Some(open) => self.fold_several(open, frame, work)?,
            None if self.progress < Some(Progress::Tasks) => {
                let step = self.step(work.offset, frame, Part::Whole, work)?;
                if work.several || step.emitted.leaves_tasks {
                    self.go_on(step.writes, step.emitted.deltas, Progress::Tasks, work)?;
                    self.tasks = true;
                } else {
                    last = (step.writes, step.emitted.deltas);
                }
            }
            None => {}
        }
        if self.tasks || work.several {
            self.run_tasks(frame.captured_at, work)?;
        }
        let (writes, deltas) = last;
        self.finish(writes, deltas, open, work)
    }

    /// Puts the rows that were there before an index into it, before anything is looked up there.
    fn fill_first(&mut self, frame: &Frame, first: LogOffset, work: &mut Work<'_, '_>) -> Result<(), TransformError> {
        // Behind a crash it has been done, and frames of another shape may be in between.
        if self.progress.is_none() {
            for batch in &frame.batches {
                self.roster.observe(&frame.source, batch)?;
            }
        }
        let progress = self.progress.unwrap_or(Progress::Joined(LogOffset(first.0 - 1)));
        if self.roster.calls() {
            self.go_on(Writes::new(), Vec::new(), progress, work)?;
        }
        while self.tasks {
            let tasks = tasks::first(work.state)?;
            if !tasks.first().is_some_and(|task| matches!(task.what, What::Fill { .. })) {
                break;
            }
            let (writes, deltas) = self.task_step(tasks, frame.captured_at, work)?;
            self.go_on(writes, deltas, progress, work)?;
        }
        Ok(())
    }

    /// Folds a transaction whose earlier frames were set aside.
    fn fold_several(&mut self, open: Open, last: &Frame, work: &mut Work<'_, '_>) -> Result<(), TransformError> {
        let Open { first, mut touched } = open;
        work.first = first;
        let (log, end) = (work.log, work.offset);
        work.several = true;
        touched.extend(last.batches.iter().map(|batch| batch.table.clone()));
        if self.roster.joins() {
            let from = match self.progress {
                None => Some(first),
                Some(Progress::Joined(done)) => Some(first.max(done.next())),
                Some(_) => None,
            };
            if let Some(from) = from {
                let wants = self.roster.wants(&last.source, &touched, Part::Joined);
                let wants = |table: &TableId| wants.contains(table);
                log.frames(&last.source, from, end, &wants, &mut |at, frame| self.part(at, frame, Part::Joined, work))?;
                if from <= end {
                    self.part(end, last, Part::Joined, work)?;
                }
            }
        }
        for level in self.roster.levels_of(&last.source, &touched) {
            let from = match self.progress {
                Some(Progress::Tasks) => return Ok(()),
                Some(Progress::Driving { level: reached, .. }) if reached > level => continue,
                Some(Progress::Driving { level: reached, done }) if reached == level => first.max(done.next()),
                _ => first,
            };
            let part = Part::Driving { level };
            let wants = self.roster.wants(&last.source, &touched, part);
            let wants = |table: &TableId| wants.contains(table);
            log.frames(&last.source, from, end, &wants, &mut |at, frame| self.part(at, frame, part, work))?;
            if from <= end {
                self.part(end, last, part, work)?;
            }
        }
        Ok(())
    }

    /// One frame's share of a transaction, as steps of their own.
    fn part(
        &mut self,
        at: LogOffset,
        frame: &Frame,
        part: Part,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        let Outcome { writes, emitted } = self.step(at, frame, part, work)?;
        self.go_on(writes, emitted.deltas, part.progress(at), work)?;
        self.tasks |= emitted.leaves_tasks;
        Ok(())
    }

    /// Does what is to be done, chunk by chunk.
    fn run_tasks(&mut self, now: i64, work: &mut Work<'_, '_>) -> Result<(), TransformError> {
        loop {
            let tasks = tasks::first(work.state)?;
            let evaluates = tasks.first().is_some_and(|task| task.what.evaluates());
            if !evaluates && self.tell(now, work)? {
                continue;
            }
            if tasks.is_empty() {
                self.tasks = false;
                return Ok(());
            }
            let (writes, deltas) = self.task_step(tasks, now, work)?;
            self.go_on(writes, deltas, Progress::Tasks, work)?;
        }
    }
}
