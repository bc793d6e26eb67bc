//! What turns one content of a table into another, row by row, and the batches that say so. Pure.
//!
//! Deletes come first, in the order of the old rows, then the others in the order of the new ones: a position counts rows
//! of exactly this order, so it is a part of the position's format.

use std::collections::HashMap;
use std::ops::Range;

use arrow::array::{Array, RecordBatch, new_null_array};
use arrow::compute::interleave;
use arrow::error::ArrowError;
use syncline_schemas::frame::{Op, TableBatch};
use syncline_schemas::table::TableSchema;

use super::table::Table;
use crate::feed::meta::{self, Stamp};

/// Changes of one table, all in one shape: that of its new content.
pub(super) struct Changes {
    old: Option<Table>,
    new: Table,
    /// Deletes with rows of the old content, all others with rows of the new one.
    rows: Vec<(Op, usize)>,
}

impl Changes {
    /// From nothing: rows of the very first load are read, later ones inserted.
    pub(super) fn all(new: Table, op: Op) -> Self {
        let rows = (0..new.len()).map(|row| (op, row)).collect();
        Self { old: None, new, rows }
    }

    /// To nothing, in the old shape.
    pub(super) fn removal(old: Table) -> Self {
        let rows = (0..old.len()).map(|row| (Op::Delete, row)).collect();
        let new = old.emptied();
        Self { old: Some(old), new, rows }
    }

    /// Between two contents with the same key. In another shape every row is another row.
    pub(super) fn between(old: Table, new: Table) -> Self {
        let same_shape = old.schema == new.schema;
        let by_key: HashMap<&[u8], usize> = (0..old.len()).map(|row| (old.keys.row(row), row)).collect();
        let mut stays = vec![false; old.len()];
        let mut changed = Vec::new();
        for row in 0..new.len() {
            match by_key.get(new.keys.row(row)) {
                None => changed.push((Op::Insert, row)),
                Some(&before) => {
                    stays[before] = true;
                    if !same_shape || old.rows.row(before) != new.rows.row(row) {
                        changed.push((Op::Update, row));
                    }
                }
            }
        }
        drop(by_key);
        let gone = stays.iter().enumerate().filter(|(_, stays)| !**stays).map(|(row, _)| (Op::Delete, row));
        let rows = gone.chain(changed).collect();
        Self { old: Some(old), new, rows }
    }

    pub(super) fn schema(&self) -> &TableSchema {
        &self.new.schema
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn op(&self, row: usize) -> Op {
        self.rows[row].0
    }

    /// About how much a row adds to a frame.
    pub(super) fn row_bytes(&self, row: usize) -> usize {
        match self.rows[row] {
            (Op::Delete, row) => self.old.as_ref().map_or(0, |old| old.keys.row(row).len()),
            (_, row) => self.new.rows.row(row).len(),
        }
    }

    /// Some of the rows as a batch whose `_ord` begins at `ord`. A delete carries its key alone.
    pub(super) fn batch(&self, range: Range<usize>, ord: u32, stamp: &Stamp<'_>) -> Result<TableBatch, ArrowError> {
        let rows = &self.rows[range];
        let schema = &self.new.schema;
        let old_keys = self.old.as_ref().map(|old| old.schema.key_indexes());
        let picks: Vec<(usize, usize)> =
            rows.iter().map(|&(op, row)| if op == Op::Delete { (1, row) } else { (0, row) }).collect();
        let without_value: Vec<(usize, usize)> =
            picks.iter().map(|&(side, row)| if side == 1 { (1, 0) } else { (0, row) }).collect();
        let mut columns = Vec::with_capacity(schema.columns.len() + 5);
        for (i, column) in schema.columns.iter().enumerate() {
            let here = &self.new.columns[i];
            let key = column.key_ordinal.and_then(|ordinal| usize::try_from(ordinal).ok());
            columns.push(match (&self.old, &old_keys, key) {
                (Some(old), Some(keys), Some(ordinal)) => {
                    let there: &dyn Array = &old.columns[keys[ordinal]];
                    interleave(&[here.as_ref(), there], &picks)?
                }
                _ => {
                    let nothing = new_null_array(here.data_type(), 1);
                    interleave(&[here.as_ref(), nothing.as_ref()], &without_value)?
                }
            });
        }
        columns.extend(meta::columns(rows.iter().map(|(op, _)| *op as u8).collect(), ord, stamp)?);
        Ok(TableBatch {
            table: schema.table.clone(),
            schema_version: schema.version,
            rows: RecordBatch::try_new(schema.batch_schema(), columns)?,
        })
    }
}
