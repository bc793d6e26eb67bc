//! One table's builders: rows of cells in, a record batch with the meta columns out.
//!
//! Snapshot and stream share it, so that a value ends in the same builder whichever way it came.

use std::mem;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use syncline_schemas::frame::{Op, TableBatch};
use syncline_schemas::table::TableSchema;

use super::column::Column;
use super::kind::Kind;
use super::message::Cell;
use crate::limits::FRAME_ROWS_MAX;
use crate::meta::MetaColumns;
use crate::postgres::config::SpecialValues;
use crate::postgres::lsn::Lsn;
use crate::value::ValueFault;

/// A version of a table's shape with all that decoding its rows needs.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) schema: TableSchema,
    /// How to read each column.
    pub(crate) kinds: Vec<Kind>,
    /// Indexes of the key columns in key order.
    pub(crate) keys: Vec<usize>,
    /// The batch's Arrow schema, shared by all batches.
    pub(crate) arrow: SchemaRef,
}

impl Shape {
    pub(crate) fn new(schema: TableSchema, kinds: Vec<Kind>) -> Self {
        let (keys, arrow) = (schema.key_indexes(), schema.batch_schema());
        Self { schema, kinds, keys, arrow }
    }

    /// Whether every value is read in the server's binary form, too.
    pub(crate) fn has_binary(&self) -> bool {
        self.kinds.iter().all(|kind| kind.has_binary())
    }

    /// The key's columns in their order with what their values depend on: `item_id Int32, site character(6)`.
    ///
    /// Rows of two keys cannot be told to be the same. A padded text changes with its length, any other type only with
    /// its Arrow type.
    pub(crate) fn key(&self) -> String {
        let column = |&i: &usize| {
            let column = &self.schema.columns[i];
            if column.source_type.starts_with("character(") {
                return format!("{} {}", column.name, column.source_type);
            }
            format!("{} {}", column.name, column.data_type)
        };
        self.keys.iter().map(column).collect::<Vec<_>>().join(", ")
    }
}

/// What all rows of a transaction and each row's place have to carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) ord: u32,
    pub(crate) commit_us: i64,
    pub(crate) position: Lsn,
}

/// Why a row could not be taken.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The row has another number of columns than its table.
    Width { columns: usize, values: usize },
    /// A value of a column could not be taken.
    Value { column: usize, fault: ValueFault },
}

/// A row's cells with the bytes that they lie in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowView<'a> {
    pub(crate) cells: &'a [Cell],
    pub(crate) bytes: &'a [u8],
}

impl<'a> RowView<'a> {
    /// The value of a column, in the form in which it came, if it has one.
    pub(crate) fn value(self, column: usize) -> Option<&'a [u8]> {
        match *self.cells.get(column)? {
            Cell::Text { start, end } | Cell::Binary { start, end } => Some(&self.bytes[start..end]),
            Cell::Null | Cell::Unchanged => None,
        }
    }
}

/// The rows of one table since the last frame.
pub(crate) struct TableBuilder {
    shape: Arc<Shape>,
    special_values: SpecialValues,
    columns: Vec<Column>,
    /// Bytes that values have beyond those that they came with.
    swollen: usize,
    meta: MetaColumns<Lsn>,
    mask: Vec<u8>,
}

impl TableBuilder {
    pub(crate) fn new(shape: Arc<Shape>, special_values: SpecialValues) -> Self {
        let columns = shape.kinds.iter().map(|kind| Column::new(*kind, 0)).collect();
        let mask = vec![0; shape.kinds.len().div_ceil(8)];
        Self { shape, special_values, columns, swollen: 0, meta: MetaColumns::default(), mask }
    }

    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    pub(crate) fn rows(&self) -> usize {
        self.meta.rows()
    }

    /// Appends a row; an unchanged value is taken from `old` where that holds it, and is marked absent otherwise.
    #[inline]
    pub(crate) fn append(
        &mut self,
        op: Op,
        stamp: Stamp,
        row: RowView<'_>,
        old: Option<RowView<'_>>,
    ) -> Result<(), Fault> {
        if row.cells.len() != self.columns.len() {
            return Err(Fault::Width { columns: self.columns.len(), values: row.cells.len() });
        }
        let mut any_absent = false;
        for (i, (column, cell)) in self.columns.iter_mut().zip(row.cells).enumerate() {
            let (cell, bytes) = match (*cell, old) {
                (Cell::Unchanged, Some(old)) => (old.cells.get(i).copied().unwrap_or(Cell::Unchanged), old.bytes),
                (cell, _) => (cell, row.bytes),
            };
            let appended = match cell {
                Cell::Text { start, end } => Some(column.append(&bytes[start..end]).map(|()| 0)),
                Cell::Binary { start, end } => Some(column.append_binary(&bytes[start..end])),
                Cell::Null | Cell::Unchanged => None,
            };
            // Of the old row only the key may have been sent.
            if appended.is_none() && row.cells[i] == Cell::Unchanged {
                any_absent = true;
                self.mask[i / 8] |= 1 << (i % 8);
            }
            match appended {
                Some(Ok(more)) => self.swollen += more,
                None => column.append_null(),
                // A key without its value would be another row's.
                Some(Err(ValueFault::Special(_)))
                    if self.special_values == SpecialValues::Null && !self.shape.keys.contains(&i) =>
                {
                    column.append_null();
                }
                Some(Err(fault)) => return Err(Fault::Value { column: i, fault }),
            }
        }
        self.meta.append(op, stamp.ord, stamp.commit_us, &stamp.position, any_absent.then_some(self.mask.as_slice()));
        if any_absent {
            self.mask.fill(0);
        }
        Ok(())
    }

    /// Bytes that values have beyond those that they came with, since this was asked last.
    pub(crate) fn take_swollen(&mut self) -> usize {
        mem::take(&mut self.swollen)
    }

    /// Appends a row without values, which says something of the whole table: that it was emptied, or is read anew.
    pub(crate) fn append_whole(&mut self, op: Op, stamp: Stamp) {
        self.columns.iter_mut().for_each(Column::append_null);
        self.meta.append(op, stamp.ord, stamp.commit_us, &stamp.position, None);
    }

    /// The rows so far as a batch, if there are any; the builder starts again.
    pub(crate) fn take(&mut self) -> Result<Option<TableBatch>, ArrowError> {
        let rows = self.rows();
        if rows == 0 {
            return Ok(None);
        }
        let room = rows.min(FRAME_ROWS_MAX as usize);
        let fresh = self.shape.kinds.iter().map(|kind| Column::new(*kind, room)).collect();
        let mut arrays: Vec<ArrayRef> =
            mem::replace(&mut self.columns, fresh).into_iter().map(Column::finish).collect();
        mem::take(&mut self.meta).finish(&mut arrays)?;
        Ok(Some(TableBatch {
            table: self.shape.schema.table.clone(),
            schema_version: self.shape.schema.version,
            rows: RecordBatch::try_new(Arc::clone(&self.shape.arrow), arrays)?,
        }))
    }
}
