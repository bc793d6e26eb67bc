//! How to read the rows of a source table: its columns, their types and its key, as versions in the log.
//!
//! A schema entry precedes the first row that needs it, so a replay of the log never has to ask the source what a
//! row looked like.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::frame;
use crate::ident::{SourceId, TableId};

/// Field metadata that keeps the source's own type name, as in `numeric`.
pub const SOURCE_TYPE: &str = "syncline.source_type";
/// Field metadata that marks a key column with its place in the key, from 0.
pub const KEY_ORDINAL: &str = "syncline.key";
/// Field metadata that marks a column whose value can be absent from a change: the log may not send it.
pub const CAN_BE_ABSENT: &str = "syncline.can_be_absent";

/// One column of a source table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's own name, unquoted.
    pub name: String,
    /// The Arrow type that holds its values exactly.
    pub data_type: DataType,
    /// The source's own type name, as in `numeric(12,2)`.
    pub source_type: String,
    /// Its place in the table's key, from 0.
    pub key_ordinal: Option<u32>,
    /// True where the log may leave the value out of a change (PostgreSQL: unchanged TOAST).
    pub can_be_absent: bool,
}

/// A version of a table's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// The source it belongs to.
    pub source: SourceId,
    /// The table.
    pub table: TableId,
    /// Identifies the shape among those of its table: another shape has another number, which need not be a higher one.
    /// Rows name the version that they need.
    pub version: u32,
    /// The columns, in the table's order.
    pub columns: Vec<Column>,
}

impl TableSchema {
    /// Indexes of the key columns in key order; empty where the table has no key.
    #[must_use]
    pub fn key_indexes(&self) -> Vec<usize> {
        let mut keys: Vec<(u32, usize)> =
            self.columns.iter().enumerate().filter_map(|(i, c)| Some((c.key_ordinal?, i))).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, i)| i).collect()
    }

    /// The columns alone, without meta columns: what a mapping's SQL sees.
    #[must_use]
    pub fn columns_schema(&self) -> Schema {
        Schema::new(self.columns.iter().map(column_field).collect::<Vec<_>>())
    }

    /// The shape of a raw batch: the columns, then `_op`, `_ord`, `_commit_ts`, `_pos`, `_absent`.
    ///
    /// Every column is nullable: a delete carries only its key.
    #[must_use]
    pub fn batch_schema(&self) -> SchemaRef {
        let mut fields: Vec<Field> = self.columns.iter().map(column_field).collect();
        fields.extend(frame::meta_fields());
        Arc::new(Schema::new(fields))
    }
}

fn column_field(column: &Column) -> Field {
    let mut metadata = std::collections::HashMap::from([(SOURCE_TYPE.to_owned(), column.source_type.clone())]);
    if let Some(ordinal) = column.key_ordinal {
        metadata.insert(KEY_ORDINAL.to_owned(), ordinal.to_string());
    }
    if column.can_be_absent {
        metadata.insert(CAN_BE_ABSENT.to_owned(), "true".to_owned());
    }
    Field::new(&column.name, column.data_type.clone(), true).with_metadata(metadata)
}

/// Reads a column back from the field that [`TableSchema::columns_schema`] made.
#[must_use]
pub fn column_of_field(field: &Field) -> Column {
    let metadata = field.metadata();
    Column {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        source_type: metadata.get(SOURCE_TYPE).cloned().unwrap_or_default(),
        key_ordinal: metadata.get(KEY_ORDINAL).and_then(|text| text.parse().ok()),
        can_be_absent: metadata.contains_key(CAN_BE_ABSENT),
    }
}

/// The type of `_commit_ts` and of every canonical instant: microseconds, UTC.
#[must_use]
pub fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}
