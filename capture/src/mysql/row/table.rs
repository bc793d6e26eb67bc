//! One table's shape and builders: rows of cells in, a record batch with the meta columns out.

use std::fmt::{Display, Write};
use std::mem;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use syncline_schemas::frame::{Op, TableBatch};
use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::table::{Column as SchemaColumn, TableSchema};
use xxhash_rust::xxh3::xxh3_64;

use super::column::Column;
use super::image::{Cell, Layout};
use super::kind::Kind;
use crate::CaptureError;
use crate::limits::FRAME_ROWS_MAX;
use crate::meta::MetaColumns;
use crate::mysql::event::table_map::TableMap;
use crate::value::ValueFault;

/// A version of a table's shape with all that decoding its rows needs.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) schema: TableSchema,
    /// How to read each column.
    pub(crate) kinds: Vec<Kind>,
    /// Where the values of its rows lie.
    pub(crate) layout: Layout,
    /// Which columns the server computes out of others.
    computed: Vec<bool>,
    /// Indexes of the key columns in key order.
    pub(crate) keys: Vec<usize>,
    /// The batch's Arrow schema, shared by all batches.
    arrow: SchemaRef,
}

impl Shape {
    /// The shape of a table as the log describes it. `declared` names the columns that tell its rows apart, where the
    /// table has no key that says so.
    ///
    /// Any column but those of the key can be absent: how much of a row is logged is every session's own affair.
    pub(crate) fn of(source: &SourceId, map: &TableMap, declared: Option<&[String]>) -> Result<Self, CaptureError> {
        let table = TableId::new(&map.database, &map.table);
        let unfit = |reason: String, remedy: String| CaptureError::Unfit {
            source_id: source.clone(),
            object: format!("table {table}"),
            reason,
            remedy,
        };
        if !map.is_full {
            let reason = "is described in the log without the names of its columns".to_owned();
            return Err(unfit(reason, "SET GLOBAL binlog_row_metadata = 'FULL'".to_owned()));
        }
        let place = |name: &String| map.columns.iter().position(|column| column.name == *name);
        let keys: Option<Vec<usize>> = match declared {
            Some(names) => names.iter().map(place).collect(),
            None => Some(map.key.clone()),
        };
        let Some(keys) = keys else {
            let reason = "lacks a column that keys names for it".to_owned();
            return Err(unfit(reason, "correct keys in the configuration".to_owned()));
        };
        if keys.is_empty() {
            let reason = "has no primary key, so updates and deletes cannot be followed".to_owned();
            let remedy = format!(
                "ALTER TABLE {table} ADD PRIMARY KEY (...); or name the columns that tell its rows apart under keys; \
                 or exclude it with \"!{table}\" in tables"
            );
            return Err(unfit(reason, remedy));
        }
        let (mut kinds, mut columns) = (Vec::new(), Vec::new());
        for (i, column) in map.columns.iter().enumerate() {
            let kind = Kind::of(column).map_err(|unread| {
                unfit(format!("column {} {}", column.name, unread.reason), unread.remedy.to_owned())
            })?;
            let key_ordinal = keys.iter().position(|key| *key == i).and_then(|place| u32::try_from(place).ok());
            columns.push(SchemaColumn {
                name: column.name.clone(),
                data_type: kind.data_type(),
                source_type: kind.type_name(),
                key_ordinal,
                can_be_absent: key_ordinal.is_none(),
            });
            kinds.push(kind);
        }
        let version = version(&columns);
        let schema = TableSchema { source: source.clone(), table, version, columns };
        let (layout, arrow) = (Layout::of(&kinds), schema.batch_schema());
        let computed = map.columns.iter().map(|column| column.is_computed).collect();
        Ok(Self { schema, kinds, layout, computed, keys, arrow })
    }

    /// True where rows of either are read in the same way into the same columns.
    pub(crate) fn reads_as(&self, other: &Self) -> bool {
        self.schema == other.schema && self.kinds == other.kinds && self.computed == other.computed
    }

    /// A row's fault as an error that names table and column.
    pub(crate) fn error(&self, at: &str, fault: Fault) -> CaptureError {
        let TableSchema { source, table, columns, .. } = &self.schema;
        let protocol = |reason: String| CaptureError::Protocol { source_id: source.clone(), at: at.to_owned(), reason };
        let column_of = |column: usize| columns.get(column).map(|column| column.name.clone()).unwrap_or_default();
        match fault {
            Fault::Row(reason) => protocol(format!("a row of table {table}: {reason}")),
            Fault::Computed { column } => CaptureError::Unfit {
                source_id: source.clone(),
                object: format!("table {table}"),
                reason: format!(
                    "has an update in the log ({at}) without column {}, which the server computes and does not log then",
                    column_of(column)
                ),
                remedy: format!("make it a column that is written, or exclude the table with \"!{table}\" in tables"),
            },
            Fault::Value { column, fault: ValueFault::Malformed(what) } => {
                protocol(format!("table {table} column {}: {what}", column_of(column)))
            }
            Fault::Value { column, fault: ValueFault::Special(problem) } => CaptureError::Value {
                source_id: source.clone(),
                at: at.to_owned(),
                table: table.clone(),
                column: column_of(column),
                problem,
                is_key: self.keys.contains(&column),
            },
        }
    }
}

/// A number that follows from the shape alone, so that every session finds the same one.
fn version(columns: &[SchemaColumn]) -> u32 {
    let mut text = String::new();
    for SchemaColumn { name, data_type, source_type, key_ordinal, can_be_absent } in columns {
        let written =
            write!(text, "{}:{name}\0{data_type}\0{source_type}\0{key_ordinal:?}\0{can_be_absent}\0", name.len());
        written.expect("a String takes every text");
    }
    let hash = xxh3_64(text.as_bytes());
    u32::try_from(hash >> 32).expect("32 bits are left").max(1)
}

/// What all rows of a transaction and each row's place have to carry.
#[derive(Debug)]
pub(crate) struct Stamp<'a, P> {
    pub(crate) ord: u32,
    pub(crate) commit_us: i64,
    pub(crate) at: &'a P,
}

// Derived ones would want `P` to be `Copy`, which is only referred to.
impl<P> Clone for Stamp<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Stamp<'_, P> {}

/// Why a row could not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It does not lie as the table's columns do.
    Row(&'static str),
    /// An update leaves out what the server computes, of which nobody knows whether it is another now.
    Computed { column: usize },
    /// A value of a column could not be taken.
    Value { column: usize, fault: ValueFault },
}

const OUTSIDE: Fault = Fault::Row("a value lies outside of it");
/// Absent would say that the column is as it was.
const WITHOUT_BEFORE: &str = "of a JSON value it says what was changed, and not what it was before; \
     SET GLOBAL binlog_row_image = 'FULL' or binlog_row_value_options = '', have applications connect anew, and have \
     `syncline replay --reread` copy the tables again";

/// A row's cells with the bytes that they lie in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowView<'a> {
    pub(crate) cells: &'a [Cell],
    pub(crate) bytes: &'a [u8],
}

impl<'a> RowView<'a> {
    /// The value of a column, if it has one.
    pub(crate) fn value(self, column: usize) -> Option<&'a [u8]> {
        match *self.cells.get(column)? {
            Cell::Value { start, end } => self.bytes.get(start..end),
            Cell::Changed { .. } | Cell::Null | Cell::Absent => None,
        }
    }

    pub(crate) fn cell(self, column: usize) -> Cell {
        self.cells.get(column).copied().unwrap_or(Cell::Absent)
    }
}

/// The rows of one table since the last frame; each says where in the log it stands, which for those that a query read is
/// another thing than for those that were logged.
pub(crate) struct TableBuilder<P> {
    shape: Arc<Shape>,
    nulls_specials: bool,
    columns: Vec<Column>,
    meta: MetaColumns<P>,
    mask: Vec<u8>,
}

impl<P: Clone + PartialEq + Display> TableBuilder<P> {
    /// `nulls_specials` has values that Arrow's exact types cannot hold taken as NULL, but for keys.
    pub(crate) fn new(shape: Arc<Shape>, nulls_specials: bool) -> Self {
        let columns = shape.kinds.iter().map(|kind| Column::new(kind, 0)).collect();
        let mask = vec![0; shape.kinds.len().div_ceil(8)];
        Self { shape, nulls_specials, columns, meta: MetaColumns::default(), mask }
    }

    pub(crate) const fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    pub(crate) fn rows(&self) -> usize {
        self.meta.rows()
    }

    /// Bytes of the values that were compressed, of which the log's own size says nothing.
    pub(crate) fn unpacked_len(&self) -> usize {
        self.columns.iter().map(Column::unpacked_len).sum()
    }

    /// Appends a row of the log; what did not come is taken from `old` where that holds it, and is marked absent otherwise.
    #[inline]
    pub(crate) fn append(
        &mut self,
        op: Op,
        stamp: Stamp<'_, P>,
        row: RowView<'_>,
        old: Option<RowView<'_>>,
    ) -> Result<(), Fault> {
        self.put(op, stamp, row, old, Column::append)
    }

    /// Appends a row as a query writes it.
    #[inline]
    pub(crate) fn append_written(&mut self, op: Op, stamp: Stamp<'_, P>, row: RowView<'_>) -> Result<(), Fault> {
        self.put(op, stamp, row, None, Column::append_written)
    }

    #[inline]
    fn put(
        &mut self,
        op: Op,
        stamp: Stamp<'_, P>,
        row: RowView<'_>,
        old: Option<RowView<'_>>,
        append: impl Fn(&mut Column, &[u8]) -> Result<(), ValueFault>,
    ) -> Result<(), Fault> {
        let mut any_absent = false;
        for (i, column) in self.columns.iter_mut().enumerate() {
            let (cell, bytes) = match (row.cell(i), old) {
                (Cell::Absent, Some(old)) => (old.cell(i), old.bytes),
                (cell, _) => (cell, row.bytes),
            };
            let is_key = || self.shape.keys.contains(&i);
            let value = match cell {
                Cell::Value { start, end } => bytes.get(start..end).ok_or(OUTSIDE)?,
                Cell::Changed { start, end } => {
                    let changes = bytes.get(start..end).ok_or(OUTSIDE)?;
                    let before = old.and_then(|old| old.value(i)).ok_or(Fault::Row(WITHOUT_BEFORE))?;
                    column.append_changed(before, changes).map_err(|fault| Fault::Value { column: i, fault })?;
                    continue;
                }
                Cell::Null | Cell::Absent if is_key() => return Err(Fault::Row("a column of the key has no value")),
                Cell::Null => {
                    column.append_null();
                    continue;
                }
                Cell::Absent if self.shape.computed[i] && matches!(op, Op::Update | Op::MoveIn) => {
                    return Err(Fault::Computed { column: i });
                }
                Cell::Absent => {
                    any_absent = true;
                    self.mask[i / 8] |= 1 << (i % 8);
                    column.append_null();
                    continue;
                }
            };
            match append(column, value) {
                Ok(()) => {}
                // A key without its value would be another row's.
                Err(ValueFault::Special(_)) if self.nulls_specials && !is_key() => column.append_null(),
                Err(fault) => return Err(Fault::Value { column: i, fault }),
            }
        }
        let absent = any_absent.then_some(self.mask.as_slice());
        self.meta.append(op, stamp.ord, stamp.commit_us, stamp.at, absent);
        if any_absent {
            self.mask.fill(0);
        }
        Ok(())
    }

    /// Appends a row without values, which says something of the whole table.
    pub(crate) fn append_whole(&mut self, op: Op, stamp: Stamp<'_, P>) {
        self.columns.iter_mut().for_each(Column::append_null);
        self.meta.append(op, stamp.ord, stamp.commit_us, stamp.at, None);
    }

    /// The rows so far as a batch, if there are any; the builder starts again.
    pub(crate) fn take(&mut self) -> Result<Option<TableBatch>, ArrowError> {
        let rows = self.rows();
        if rows == 0 {
            return Ok(None);
        }
        let room = rows.min(FRAME_ROWS_MAX as usize);
        let fresh = self.shape.kinds.iter().map(|kind| Column::new(kind, room)).collect();
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
