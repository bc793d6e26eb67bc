//! What can go wrong between a mapping file and a delta.

use std::fmt;

use syncline_schemas::SchemaError;
use thiserror::Error;

/// A fault in a mapping, with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}: {reason}")]
pub struct MappingFault {
    /// Where.
    pub place: Place,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// A place in a mapping file; line and column count from 1, 0 where the file as a whole is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the operator knows it.
    pub file: String,
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

/// Why folding stopped. Nothing of the step at hand has been committed then.
#[derive(Debug, Error)]
pub enum TransformError {
    /// A mapping no longer fits what the log holds.
    #[error(transparent)]
    Mapping(#[from] MappingFault),
    /// The set of mappings is not the one that the state was computed with.
    #[error("{mapping}: {reason}")]
    MappingsChanged {
        /// The mapping.
        mapping: String,
        /// How it differs and what to do.
        reason: String,
    },
    /// The state was written by another version of this program.
    #[error(
        "the state in data_dir was written by another version of Syncline, with other entities or other records; run that \
         version, or start over with an empty data_dir and empty targets"
    )]
    OtherFormat,
    /// A table's rows can no longer be told apart as before.
    #[error(
        "{table}: {reason}; rows are kept by that key, so what is known of the table is of no use any more: point data_dir \
         to an empty folder and drop the slot to copy the source again"
    )]
    KeyChanged {
        /// The source and the table.
        table: String,
        /// What changed.
        reason: String,
    },
    /// A table changed in a way at which the operator wants to stop.
    #[error(
        "{table} {what}, and {change} is in stop_at of [mappings]: nothing behind that is folded, and the log keeps it; see to \
         the mappings, take {change} out of stop_at and restart"
    )]
    ShapeRefused {
        /// The source and the table.
        table: String,
        /// How it changed.
        what: String,
        /// The kind of change, as configured.
        change: &'static str,
    },
    /// A row breaks a rule at which its mapping wants to stop.
    #[error(
        "{mapping}: a row of log entry {offset} breaks {rule}, which is to halt: {reason}; set the rule \
         otherwise in the mapping, which `syncline replay` applies"
    )]
    Halted {
        /// The mapping's file.
        mapping: String,
        /// The rule.
        rule: String,
        /// The entry.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The log entry at hand contradicts what came before it.
    #[error("log entry {offset}: {reason}")]
    Entry {
        /// The entry.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// State bytes are not what was written.
    #[error("state: {0}")]
    State(String),
    /// Bytes or types of rows.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Arrow refused a computation that our own types rule out.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}
