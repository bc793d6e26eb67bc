//! A table that is read anew beside the changes that go on: rows of which nothing comes meanwhile are gone at the source.
//!
//! Every record of a row carries the log entry that made it. Between the two rows that say where the reading begins and
//! ends, each row that comes gets the entry it came with, also where it says what it said before. So at the end the rows that
//! are older than the beginning are those that the source has no more; tasks take them back.
//!
//! ```text
//! sweep/<table> -> u64 log entry where it begins | u64 where it ends, or nothing
//! ```

use std::collections::BTreeMap;

use syncline_schemas::delta::DeltaBatch;
use syncline_schemas::ident::LogOffset;

use super::catalog::{self, Table};
use super::changes::Changes;
use super::contribution::Contribution;
use super::emit::{Cause, Lineage, Origin};
use super::step::Part;
use super::stored::undated;
use super::tasks::{self, Task, What, Why};
use super::{Fold, Work, Writes};
use crate::TransformError;
use crate::state::{Pair, Space, State};

const SWEEP: &str = "sweep/";

fn place(table: &Table) -> Vec<u8> {
    format!("{SWEEP}{}", catalog::table_text(table)).into_bytes()
}

/// True where a table was ever read anew.
pub(super) fn any(state: &dyn State) -> Result<bool, TransformError> {
    Ok(!state.scan(Space::Catalog, SWEEP.as_bytes(), &[], 1)?.is_empty())
}

/// Where the last reading of a table begins, and where it ends.
fn read(table: &Table, state: &dyn State) -> Result<Option<(LogOffset, Option<LogOffset>)>, TransformError> {
    let Some(value) = state.get(Space::Catalog, &place(table))? else { return Ok(None) };
    let damaged = || TransformError::State("the beginning of a sweep does not decode".to_owned());
    let (parts, []) = value.as_chunks::<8>() else { return Err(damaged()) };
    match parts {
        [begin] => Ok(Some((LogOffset(u64::from_be_bytes(*begin)), None))),
        [begin, end] => Ok(Some((LogOffset(u64::from_be_bytes(*begin)), Some(LogOffset(u64::from_be_bytes(*end)))))),
        _ => Err(damaged()),
    }
}

/// True where a table was read anew at the log entry of its changes.
pub(super) fn covers(
    table: &Table,
    changes: &Changes<'_>,
    at: LogOffset,
    state: &dyn State,
) -> Result<bool, TransformError> {
    Ok(changes.sweep_begins.is_some()
        || read(table, state)?.is_some_and(|(begin, end)| begin <= at && end.is_none_or(|end| at <= end)))
}

impl Fold {
    /// Notes where tables of a frame begin to be read anew and have been; gives what is to be done then.
    pub(super) fn look_for_sweeps(
        &mut self,
        at: LogOffset,
        tables: &[(Table, Changes<'_>)],
        part: Part,
        writes: &mut Writes,
        work: &Work<'_, '_>,
    ) -> Result<Vec<Task>, TransformError> {
        let mut left = BTreeMap::new();
        for (cause, (table, changes)) in tables.iter().enumerate() {
            if changes.sweep_begins.is_some() {
                self.sweeps = true;
                writes.push((Space::Catalog, place(table), Some(at.0.to_be_bytes().to_vec())));
            }
            let Some(row) = changes.sweep_ends else { continue };
            let Some((before, _)) = read(table, work.state)? else { continue };
            writes.push((Space::Catalog, place(table), Some([before.0.to_be_bytes(), at.0.to_be_bytes()].concat())));
            let why = Lineage { cause, row };
            if matches!(part, Part::Whole | Part::Joined)
                && let Some(joined) = self.roster.tables.get(table)
            {
                left.insert((0, joined.id), Task::new(What::StaleJoined { table: joined.id, before }, Why::Row(why)));
            }
            let members = self.roster.members.iter().filter(|member| member.is_driven_by(table));
            for member in members.filter(|member| part.drives(self.roster.level(member.entity))) {
                let what = What::StaleDriving { mapping: member.id, before };
                left.insert((1, member.id), Task::new(what, Why::Row(why)));
            }
        }
        Ok(left.into_values().collect())
    }

    /// Takes back a chunk of the rows of which nothing came.
    pub(super) fn take_back_stale(
        &mut self,
        task: Task,
        now: i64,
        work: &mut Work<'_, '_>,
    ) -> Result<(Writes, Vec<DeltaBatch>), TransformError> {
        let (space, of) = match task.what {
            What::StaleDriving { mapping, .. } => (Space::Contributions, mapping),
            What::StaleJoined { table, .. } => (Space::Rows, table),
            _ => return Err(TransformError::State("a task is not of rows that are gone".to_owned())),
        };
        let mut records = work.state.scan(space, &of.to_be_bytes(), &task.after, self.chunk)?;
        let last = if records.len() == self.chunk { records.last().map(|(key, _)| key.clone()) } else { None };
        let Why::Text(cause) = &task.why else {
            return Err(TransformError::State("a task in state names a row of a frame".to_owned()));
        };
        let causes = vec![Cause::Text(cause.clone().timed(now))];
        let origin = Origin { epoch: self.epoch, offset: work.offset, causes };
        let (why, mut writes, mut deltas) = (Lineage { cause: 0, row: 0 }, Writes::new(), Vec::new());
        records = stale(&task.what, records)?;
        match task.what {
            What::StaleDriving { mapping, .. } => {
                if let Some(entity) = self.roster.member(mapping).map(|member| member.entity) {
                    let emitted = self.withdraw(entity, mapping, records, why, &origin, &mut writes, work)?;
                    self.tasks |= emitted.leaves_tasks;
                    deltas = emitted.deltas;
                }
            }
            _ => self.remove_joined(of, records, why, &origin, &mut writes)?,
        }
        tasks::record_reached(task, last, &mut writes)?;
        Ok((writes, deltas))
    }
}

/// Those of the records that are older than the beginning.
fn stale(what: &What, records: Vec<Pair>) -> Result<Vec<Pair>, TransformError> {
    let is_stale = |record: &[u8]| match what {
        What::StaleDriving { before, .. } => Contribution::decode(record).map(|record| record.at < *before),
        What::StaleJoined { before, .. } => undated(record).map(|(at, _)| at < *before),
        _ => Ok(false),
    };
    let mut stale = Vec::new();
    for (key, record) in records {
        if is_stale(&record)? {
            stale.push((key, record));
        }
    }
    Ok(stale)
}
