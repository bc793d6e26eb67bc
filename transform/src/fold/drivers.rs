//! Driving rows that a step evaluates: those that its frame changed, and those whose joined rows changed.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use syncline_schemas::ident::LogOffset;
use syncline_schemas::table::column_of_field;

use super::changes::Changes;
use super::contribution::Contribution;
use super::emit::Lineage;
use super::joined::stored_value;
use super::roster::Driving;
use super::stored::Layouts;
use crate::TransformError;
use crate::state::{Space, State, get_all};

/// Driving rows of one mapping, each with the record that state holds of it.
pub(super) struct Drivers {
    /// State keys of their records: the mapping's number and the driving key.
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) old: Vec<Option<Vec<u8>>>,
    /// The driver whose record holds the last good contribution: itself, or the one it moved from. None where that is
    /// another row's.
    pub(super) origins: Vec<Option<usize>>,
    pub(super) lineage: Vec<Lineage>,
    /// The log entry of each row.
    pub(super) at: Vec<LogOffset>,
    /// The table is read anew: also what stays as it was gets the log entry at hand.
    pub(super) renews: bool,
    /// Those that are there now, ascending; row `i` of `batch` is driver `live[i]`.
    pub(super) live: Vec<usize>,
    /// What the mapping reads of them.
    pub(super) batch: RecordBatch,
    /// Rows of `batch` with the columns whose values were never seen.
    pub(super) lacking: HashMap<usize, Vec<usize>>,
}

impl Drivers {
    /// The name of a column of the batch.
    pub(super) fn name(&self, column: usize) -> String {
        self.batch.schema_ref().field(column).name().clone()
    }

    /// The rows that the frame of a log entry changed; `table` is their place in the lineage.
    pub(super) fn changed(
        at: LogOffset,
        mapping: u32,
        driving: &Driving,
        changes: &Changes<'_>,
        table: usize,
        state: &dyn State,
        layouts: &Layouts,
    ) -> Result<Self, TransformError> {
        let len = changes.changes.len();
        let keys: Vec<Vec<u8>> = (0..len).map(|i| record_key(mapping, changes.key(i))).collect();
        let old = get_all(state, Space::Contributions, &keys)?;
        let live: Vec<usize> = (0..len).filter(|&i| !changes.changes[i].removed).collect();
        let mut lacking: HashMap<usize, Vec<usize>> = HashMap::new();
        let columns = input(driving, changes, &live, &old, layouts, &mut lacking)?;
        Ok(Self {
            origins: changes.changes.iter().map(|change| change.origin).collect(),
            lineage: changes.changes.iter().map(|change| Lineage { cause: table, row: change.last }).collect(),
            at: vec![at; len],
            renews: false,
            batch: batch(driving, columns, live.len())?,
            keys,
            old,
            live,
            lacking,
        })
    }

    /// Rows that are in state, to be evaluated as they are.
    pub(super) fn stored(
        driving: &Driving,
        found: Vec<(Vec<u8>, Lineage)>,
        state: &dyn State,
        layouts: &Layouts,
    ) -> Result<Self, TransformError> {
        let (mut keys, mut old, mut lineage) = (Vec::new(), Vec::new(), Vec::new());
        let (found, from): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let records = get_all(state, Space::Contributions, &found)?;
        for ((key, record), from) in found.into_iter().zip(records).zip(from) {
            // Without a source row there is nothing to evaluate: the row is gone or was never of interest.
            let Some(record) = record else { continue };
            if Contribution::decode(&record)?.joined.is_some() {
                keys.push(key);
                old.push(Some(record));
                lineage.push(from);
            }
        }
        let sources = old.iter().flatten().map(|record| source_row(record)).collect::<Result<Vec<_>, _>>()?;
        let (at, sources): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
        let read = layouts.read(sources, &driving.inputs.schema)?;
        let mut lacking: HashMap<usize, Vec<usize>> = HashMap::new();
        for (row, column) in read.lacking {
            lacking.entry(row).or_default().push(column);
        }
        let len = keys.len();
        Ok(Self {
            origins: (0..len).map(Some).collect(),
            live: (0..len).collect(),
            batch: batch(driving, read.columns, len)?,
            at,
            renews: false,
            keys,
            old,
            lineage,
            lacking,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

/// State key of the record of a driving row.
pub(super) fn record_key(mapping: u32, driving_key: &[u8]) -> Vec<u8> {
    [&mapping.to_be_bytes(), driving_key].concat()
}

/// The number of the mapping in a record's key.
pub(super) fn mapping_of(record_key: &[u8]) -> Result<u32, TransformError> {
    let damaged = || TransformError::State("the key of a record does not decode".to_owned());
    Ok(u32::from_be_bytes(*record_key.first_chunk().ok_or_else(damaged)?))
}

/// The driving key in a record's key.
pub(super) fn driving_key(record_key: &[u8]) -> &[u8] {
    &record_key[size_of::<u32>()..]
}

fn source_row(record: &[u8]) -> Result<(LogOffset, &[u8]), TransformError> {
    let missing = || TransformError::State("a joined row has no source row".to_owned());
    let record = Contribution::decode(record)?;
    Ok((record.at, record.joined.ok_or_else(missing)?.source))
}

fn batch(driving: &Driving, columns: Vec<ArrayRef>, len: usize) -> Result<RecordBatch, TransformError> {
    let options = RecordBatchOptions::new().with_row_count(Some(len));
    Ok(RecordBatch::try_new_with_options(Arc::clone(&driving.inputs.schema), columns, &options)?)
}

/// The columns that the mapping reads, one row per live change.
fn input(
    driving: &Driving,
    changes: &Changes<'_>,
    live: &[usize],
    old: &[Option<Vec<u8>>],
    layouts: &Layouts,
    lacking: &mut HashMap<usize, Vec<usize>>,
) -> Result<Vec<ArrayRef>, TransformError> {
    let rows = &changes.batch.rows;
    let whole =
        live.len() == rows.num_rows() && live.iter().enumerate().all(|(row, &i)| changes.changes[i].last == row);
    let partial = live.iter().any(|&i| changes.is_partial(i));
    let mut columns = Vec::with_capacity(driving.inputs.columns.len());
    for (at, &index) in driving.inputs.columns.iter().enumerate() {
        if whole && !partial {
            columns.push(Arc::clone(rows.column(index)));
            continue;
        }
        let column = column_of_field(rows.schema().field(index));
        let wanted = Schema::new(vec![driving.inputs.schema.field(at).clone()]);
        let before = |origin: usize| {
            let Some(record) = old[origin].as_deref().map(Contribution::decode).transpose()? else { return Ok(None) };
            match record.joined {
                Some(joined) => stored_value(Some(joined.source), layouts, &wanted),
                None => Ok(record.carried(&column)),
            }
        };
        let mut lacks = Vec::new();
        columns.push(changes.gather(index, live, &before, &mut lacks)?);
        lacks.into_iter().for_each(|row| lacking.entry(row).or_default().push(at));
    }
    Ok(columns)
}
