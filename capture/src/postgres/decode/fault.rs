//! Why a change cannot be taken, as errors that name its place.

use syncline_schemas::table::TableSchema;

use super::table::{Fault, Shape};
use crate::CaptureError;
use crate::value::ValueFault;

/// What is wrong with a change.
pub(super) enum RowFault {
    Malformed(&'static str),
    UnknownRelation(u32),
    Row {
        table: usize,
        fault: Fault,
    },
    /// The operator does not want it to be followed.
    Truncated {
        table: usize,
    },
    /// The table has no key, and its rows were counted in another shape.
    Outdated(u32),
}

impl From<&'static str> for RowFault {
    fn from(reason: &'static str) -> Self {
        Self::Malformed(reason)
    }
}

impl Shape {
    /// A row's fault as an error that names table and column.
    pub(crate) fn error(&self, at: &str, fault: Fault) -> CaptureError {
        let TableSchema { source, table, columns, .. } = &self.schema;
        let protocol = |reason| CaptureError::Protocol { source_id: source.clone(), at: at.to_owned(), reason };
        match fault {
            Fault::Width { columns, values } => {
                protocol(format!("a row of table {table} has {values} values where {columns} columns are known"))
            }
            Fault::Value { column, fault: ValueFault::Malformed(what) } => {
                protocol(format!("table {table} column {}: {what}", columns[column].name))
            }
            Fault::Value { column, fault: ValueFault::Special(problem) } => CaptureError::Value {
                source_id: source.clone(),
                at: at.to_owned(),
                table: table.clone(),
                column: columns[column].name.clone(),
                problem,
                is_key: columns[column].key_ordinal.is_some(),
            },
        }
    }

    /// The error of a table that was emptied where that is to stop the source.
    pub(super) fn truncated(&self, at: &str) -> CaptureError {
        let TableSchema { source, table, .. } = &self.schema;
        CaptureError::Unfit {
            source_id: source.clone(),
            object: format!("table {table}"),
            reason: format!("was truncated at {at}, and truncate is \"stop\""),
            remedy: "what was delivered of it stays; set truncate = \"apply\" and restart to have its rows taken back"
                .to_owned(),
        }
    }
}
