//! Canonical changes on their way from the transform through the outbox to the sinks.
//!
//! A delta is an absolute row image with a version, never an increment: at-least-once transport then has
//! effectively-once effect at any target that keeps the highest version per key (domain 0.2).
//!
//! ```text
//! _op            UInt8                 1 upsert, 2 delete (only the key fields carry values)
//! _version       FixedSizeBinary(16)   see Version; rises within a batch
//! _source_system Utf8                  lineage of the change that caused this version
//! _source_table  Utf8
//! _source_pos    Utf8
//! _commit_ts     Timestamp(us, UTC)    commit at the source
//! _captured_ts   Timestamp(us, UTC)    received by the reader
//! then the entity's fields, see Entity::fields_schema
//! ```

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};

use crate::SchemaError;
use crate::bytes::{Reader, length, put_str};
use crate::ipc;
use crate::table::instant;

/// Name of the operation column.
pub const OP: &str = "_op";
/// Name of the version column.
pub const VERSION: &str = "_version";
/// Name of the lineage column for the source's configured name.
pub const SOURCE_SYSTEM: &str = "_source_system";
/// Name of the lineage column for the driving table.
pub const SOURCE_TABLE: &str = "_source_table";
/// Name of the lineage column for the commit's position.
pub const SOURCE_POS: &str = "_source_pos";
/// Name of the column with the source's commit time.
pub const COMMIT_TS: &str = "_commit_ts";
/// Name of the column with the reader's receipt time.
pub const CAPTURED_TS: &str = "_captured_ts";
/// How many system columns precede the entity's fields.
pub const SYSTEM_COLUMNS: usize = 7;

/// `_op` of a row that is to be created or replaced.
pub const UPSERT: u8 = 1;
/// `_op` of a row that is gone.
pub const DELETE: u8 = 2;
/// `_op` of a key whose row stays as it is, whatever that is; in full loads only, never in the outbox.
pub const KEEP: u8 = 3;

/// The system columns in their order.
#[must_use]
pub fn system_fields() -> [Field; SYSTEM_COLUMNS] {
    [
        Field::new(OP, DataType::UInt8, false),
        Field::new(VERSION, DataType::FixedSizeBinary(16), false),
        Field::new(SOURCE_SYSTEM, DataType::Utf8, false),
        Field::new(SOURCE_TABLE, DataType::Utf8, false),
        Field::new(SOURCE_POS, DataType::Utf8, false),
        Field::new(COMMIT_TS, instant(), false),
        Field::new(CAPTURED_TS, instant(), false),
    ]
}

/// Changed rows of one entity, in version order.
#[derive(Debug, Clone)]
pub struct DeltaBatch {
    /// The entity's name, as in `inventory_balance`.
    pub entity: String,
    /// The rows: system columns, then the entity's fields (all nullable here, as deletes carry only keys).
    pub rows: RecordBatch,
}

const FORMAT: u8 = 1;

/// Bytes of one outbox entry.
///
/// # Errors
/// [`SchemaError::Arrow`] where Arrow cannot write a batch.
pub fn encode(deltas: &[DeltaBatch]) -> Result<Vec<u8>, SchemaError> {
    let mut out = vec![FORMAT];
    out.extend_from_slice(&length(deltas.len()).to_le_bytes());
    for delta in deltas {
        put_str(&mut out, &delta.entity);
        ipc::put_batch(&mut out, &delta.rows)?;
    }
    Ok(out)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`SchemaError::Malformed`] on other bytes.
pub fn decode(bytes: &[u8]) -> Result<Vec<DeltaBatch>, SchemaError> {
    decode_of(bytes, &|_| true)
}

/// Reads the batches of some entities and passes over the others, which costs next to nothing.
///
/// # Errors
/// [`SchemaError::Malformed`] on other bytes.
pub fn decode_of(bytes: &[u8], wanted: &dyn Fn(&str) -> bool) -> Result<Vec<DeltaBatch>, SchemaError> {
    let mut reader = Reader::new("an outbox entry", bytes);
    let format = reader.u8()?;
    if format != FORMAT {
        return Err(reader.malformed(format!("format {format} is not {FORMAT}; a newer Syncline wrote it")));
    }
    let mut batches = Vec::new();
    for _ in 0..reader.u32()? {
        let entity = reader.str()?.to_owned();
        if wanted(&entity) {
            batches.push(DeltaBatch { entity, rows: ipc::get_batch(&mut reader)? });
        } else {
            ipc::skip_batch(&mut reader)?;
        }
    }
    Ok(batches)
}
