//! Joins of a batch: for each driving row the one row of another table that holds the wanted values.
//!
//! Each distinct value is looked up once per batch. Null finds nothing, as in SQL. Two rows that hold the same values make
//! the driving rows that look for them faulty: which of them is meant nobody can say.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use syncline_schemas::rowcode::{self, Rows};

use super::index;
use super::joined::Joined;
use super::overlay::Overlay;
use super::stored::{Layouts, spread, undated};
use crate::TransformError;
use crate::mapping::RowFault;
use crate::mapping::edge::Edge;

/// The slot of a row that looks for nothing, because a value is null or too long to be indexed.
const NOTHING: u32 = u32::MAX;

/// Longer values are joined to nothing: no key of a server is that long, and the store takes no more than 64 KiB of all parts
/// of a key.
pub(super) const JOIN_BYTES_MAX: usize = 16 * 1024;

/// The joined tables of one mapping, in the order of its joins.
pub(super) struct Joins<'a> {
    pub(super) overlay: &'a Overlay<'a>,
    pub(super) layouts: &'a Layouts,
    /// Each table, and the index that finds its rows where that is not its key.
    pub(super) tables: Vec<(&'a Joined, Option<u32>)>,
}

/// The values that rows look for in one join.
pub(crate) struct Wanted {
    values: Rows,
    /// For each row the first with the same values.
    slots: Vec<u32>,
}

/// What a join found for the rows of a batch.
pub(super) struct Looked {
    /// The columns that the joined table adds, null where nothing was found.
    pub(super) columns: Vec<ArrayRef>,
    pub(super) found: Vec<bool>,
    pub(super) faults: Vec<(usize, RowFault)>,
}

impl Wanted {
    /// `values` are the wanted values of each join column.
    pub(super) fn new(values: &[ArrayRef], edge: &Edge) -> Result<Self, TransformError> {
        // A value that does not fit the column's type is in no row.
        let options = CastOptions { safe: true, ..CastOptions::default() };
        let values: Vec<ArrayRef> = values
            .iter()
            .zip(&edge.on)
            .map(|(column, on)| {
                // Whole numbers have the same bytes whatever their size, and the column may get a larger type one day.
                let wanted = if on.data_type.is_signed_integer() { &DataType::Int64 } else { &on.data_type };
                if column.data_type() == wanted {
                    Ok(Arc::clone(column))
                } else {
                    cast_with_options(column, wanted, &options)
                }
            })
            .collect::<Result<_, ArrowError>>()?;
        let rows = rowcode::encode(&values)?;
        let mut slots = Vec::with_capacity(rows.len());
        let mut known: HashMap<&[u8], u32> = HashMap::new();
        for row in 0..rows.len() {
            if values.iter().any(|column| column.is_null(row)) || rows.row(row).len() > JOIN_BYTES_MAX {
                slots.push(NOTHING);
                continue;
            }
            let next = u32::try_from(row).expect("a batch has fewer rows than u32");
            slots.push(*known.entry(rows.row(row)).or_insert(next));
        }
        drop(known);
        Ok(Self { values: rows, slots })
    }

    /// A row for each of the values, in their order: neighbours lie side by side in the store.
    fn distinct(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.slots.len()).filter(|&row| self.slots[row] as usize == row).collect();
        rows.sort_unstable_by_key(|&row| self.values.row(row));
        rows
    }

    /// The values that a row looks for; none where one of them is null.
    pub(super) fn of(&self, row: usize) -> Option<&[u8]> {
        let slot = self.slots[row];
        (slot != NOTHING).then(|| self.values.row(slot as usize))
    }
}

/// One distinct value's row.
#[derive(Clone, Copy)]
enum Match {
    None,
    /// Place among the rows that were found.
    Row(u32),
    Several,
}

impl Joins<'_> {
    /// Looks up what the rows want in a join.
    pub(super) fn look_up(&self, join: usize, edge: &Edge, wanted: &Wanted) -> Result<Looked, TransformError> {
        let (table, join_index) = self.tables[join];
        let mut matches: Vec<Match> = vec![Match::None; wanted.slots.len()];
        let mut rows: Vec<Vec<u8>> = Vec::new();
        for row in wanted.distinct() {
            matches[row] = self.find(table, join_index, wanted.values.row(row), &mut rows)?;
        }
        let found = rows.iter().map(|row| Ok(undated(row)?.1)).collect::<Result<Vec<_>, TransformError>>()?;
        let read = self.layouts.read(found, &edge.adds)?;
        let lacks: HashMap<u32, usize> =
            read.lacking.iter().map(|&(row, column)| (u32::try_from(row).unwrap_or(NOTHING), column)).collect();
        let mut faults = Vec::new();
        let mut picks: Vec<Option<u32>> = Vec::with_capacity(wanted.slots.len());
        for (row, &slot) in wanted.slots.iter().enumerate() {
            let found = if slot == NOTHING { Match::None } else { matches[slot as usize] };
            picks.push(match found {
                Match::None => None,
                Match::Row(at) => {
                    if let Some(&column) = lacks.get(&at) {
                        faults.push((row, lacking_fault(table, edge.adds.field(column).name())));
                    }
                    Some(at)
                }
                Match::Several => {
                    faults.push((row, ambiguous_fault(table, edge)));
                    None
                }
            });
        }
        let found = picks.iter().map(Option::is_some).collect();
        let columns = spread(&read.columns, &UInt32Array::from(picks))?;
        Ok(Looked { columns, found, faults })
    }

    fn find(
        &self,
        table: &Joined,
        join_index: Option<u32>,
        values: &[u8],
        rows: &mut Vec<Vec<u8>>,
    ) -> Result<Match, TransformError> {
        let key = match join_index {
            None => table.row_key(values),
            Some(id) => {
                let prefix = index::joined_prefix(id, values);
                match self.overlay.first_two(&prefix)?.as_slice() {
                    [] => return Ok(Match::None),
                    [entry] => table.row_key(&entry[prefix.len()..]),
                    _ => return Ok(Match::Several),
                }
            }
        };
        let Some(row) = self.overlay.row(&key)? else { return Ok(Match::None) };
        rows.push(row.into_owned());
        Ok(Match::Row(u32::try_from(rows.len() - 1).expect("a batch has fewer rows than u32")))
    }
}

fn lacking_fault(table: &Joined, column: &str) -> RowFault {
    RowFault {
        rule: "DQ_ABSENT".to_owned(),
        field: String::new(),
        reason: format!(
            "the log did not send column {column} of {} and its value was never seen; take a snapshot of the table",
            table.table
        ),
    }
}

fn ambiguous_fault(table: &Joined, edge: &Edge) -> RowFault {
    let columns: Vec<&str> = edge.on.iter().map(|on| on.name.as_str()).collect();
    RowFault {
        rule: "DQ_JOIN_AMBIGUOUS".to_owned(),
        field: String::new(),
        reason: format!("more than one row of {} has this {}; a join takes one", table.table, columns.join(", ")),
    }
}
