//! A frame: a run of whole source transactions, one Arrow batch per table.
//!
//! Large batches under load, no waiting when idle: a reader cuts a frame at a commit when it is large enough or when
//! its connection has nothing more to give. Rows of one table sit together for speed; `_ord` restores the total order
//! across the tables of a frame. A transaction too large for one frame is spread over several, of which only the last
//! has [`Frame::txn_end`]; nothing of it becomes visible to sinks before that one.
//!
//! Invariants: `_ord` is unique within a frame and rises in log order; `position` is what the source must be asked for
//! to get the rows after this frame; a frame without batches only moves the position.
//!
//! ```text
//! columns of the table, then
//! _op        UInt8                    see Op
//! _ord       UInt32                   order within the frame
//! _commit_ts Timestamp(us, UTC)       the source's commit time
//! _pos       Dictionary(UInt32,Utf8)  the commit's position as the source's tools print it, for lineage
//! _absent    Binary, nullable         bit i set = column i was not sent; absent is not NULL
//! ```

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};

use crate::SchemaError;
use crate::bytes::{Reader, put_bytes, put_str};
use crate::ident::{Position, SourceId, TableId};
use crate::table::{TableSchema, column_of_field, instant};
use crate::{ipc, table};

/// Name of the operation column.
pub const OP: &str = "_op";
/// Name of the order column.
pub const ORD: &str = "_ord";
/// Name of the commit time column.
pub const COMMIT_TS: &str = "_commit_ts";
/// Name of the lineage position column.
pub const POS: &str = "_pos";
/// Name of the absent mask column.
pub const ABSENT: &str = "_absent";
/// How many meta columns follow the table's own.
pub const META_COLUMNS: usize = 5;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Copied by a snapshot.
    Read = 1,
    /// Inserted.
    Insert = 2,
    /// Updated, key unchanged.
    Update = 3,
    /// Deleted; only the key columns carry values unless the log sent more.
    Delete = 4,
    /// All rows of the table removed; no column carries a value.
    Truncate = 5,
    /// The old key of a changed key: a delete, followed at the next `_ord` by its [`Op::MoveIn`].
    MoveOut = 6,
    /// The new key of a changed key: an insert.
    MoveIn = 7,
    /// The table is read anew from here on; no column carries a value.
    SweepBegin = 8,
    /// It has been: rows of which nothing has come since its [`Op::SweepBegin`] are gone at the source. No column carries a
    /// value.
    SweepEnd = 9,
}

impl Op {
    /// Reads the byte of an `_op` column.
    ///
    /// # Errors
    /// [`SchemaError::Malformed`] on a byte that is no operation.
    pub fn from_u8(byte: u8) -> Result<Self, SchemaError> {
        Ok(match byte {
            1 => Self::Read,
            2 => Self::Insert,
            3 => Self::Update,
            4 => Self::Delete,
            5 => Self::Truncate,
            6 => Self::MoveOut,
            7 => Self::MoveIn,
            8 => Self::SweepBegin,
            9 => Self::SweepEnd,
            other => {
                return Err(SchemaError::Malformed {
                    what: "an _op",
                    at: 0,
                    reason: format!("no operation is {other}"),
                });
            }
        })
    }

    /// True where the row is gone after it.
    #[must_use]
    pub const fn removes(self) -> bool {
        matches!(self, Self::Delete | Self::MoveOut)
    }
}

/// The meta columns in their order.
#[must_use]
pub fn meta_fields() -> [Field; META_COLUMNS] {
    let position = DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8));
    [
        Field::new(OP, DataType::UInt8, false),
        Field::new(ORD, DataType::UInt32, false),
        Field::new(COMMIT_TS, instant(), false),
        Field::new(POS, position, false),
        Field::new(ABSENT, DataType::Binary, true),
    ]
}

/// The rows of one table in a frame.
#[derive(Debug, Clone)]
pub struct TableBatch {
    /// The table.
    pub table: TableId,
    /// The [`TableSchema::version`] that reads the rows.
    pub schema_version: u32,
    /// The rows, shaped by [`TableSchema::batch_schema`].
    pub rows: RecordBatch,
}

/// A run of whole source transactions, or a part of one (see [`Frame::txn_end`]).
#[derive(Debug, Clone)]
pub struct Frame {
    /// Where it was read.
    pub source: SourceId,
    /// How far the source has been read with it.
    pub position: Position,
    /// When the reader cut it, microseconds since 1970 by the daemon's clock.
    pub captured_at: i64,
    /// False while a transaction goes on in the next frame of this source.
    pub txn_end: bool,
    /// At most one batch per table: a reader cuts the frame where the shape of a table changes.
    pub batches: Vec<TableBatch>,
}

impl Frame {
    /// Rows in all batches.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.batches.iter().map(|batch| batch.rows.num_rows()).sum()
    }
}

/// What the log holds.
#[derive(Debug, Clone)]
pub enum LogEntry {
    /// The shape of the rows that follow.
    Schema(TableSchema),
    /// Rows.
    Frame(Frame),
}

/// First byte of an entry; a change of layout takes the next number.
const FORMAT: u8 = 1;
const KIND_SCHEMA: u8 = 1;
const KIND_FRAME: u8 = 2;

impl LogEntry {
    /// The source that it came from.
    #[must_use]
    pub const fn source(&self) -> &SourceId {
        match self {
            Self::Schema(schema) => &schema.source,
            Self::Frame(frame) => &frame.source,
        }
    }

    /// Bytes for the log: little-endian, strings with a `u32` length, batches as Arrow IPC streams.
    ///
    /// # Errors
    /// [`SchemaError::Arrow`] where Arrow cannot write a batch.
    pub fn encode(&self) -> Result<Vec<u8>, SchemaError> {
        let mut out = vec![FORMAT];
        match self {
            Self::Schema(schema) => {
                out.push(KIND_SCHEMA);
                put_str(&mut out, schema.source.as_str());
                put_table(&mut out, &schema.table);
                out.extend_from_slice(&schema.version.to_le_bytes());
                ipc::put_batch(&mut out, &RecordBatch::new_empty(std::sync::Arc::new(schema.columns_schema())))?;
            }
            Self::Frame(frame) => {
                out.push(KIND_FRAME);
                put_str(&mut out, frame.source.as_str());
                put_bytes(&mut out, frame.position.as_bytes());
                out.extend_from_slice(&frame.captured_at.to_le_bytes());
                out.push(u8::from(frame.txn_end));
                out.extend_from_slice(&crate::bytes::length(frame.batches.len()).to_le_bytes());
                for batch in &frame.batches {
                    put_table(&mut out, &batch.table);
                    out.extend_from_slice(&batch.schema_version.to_le_bytes());
                    ipc::put_batch(&mut out, &batch.rows)?;
                }
            }
        }
        Ok(out)
    }

    /// Reads what [`LogEntry::encode`] wrote.
    ///
    /// # Errors
    /// [`SchemaError::Malformed`] on any other bytes; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, SchemaError> {
        Self::decode_of(bytes, &|_, _| true)
    }

    /// As [`Self::decode`], without the rows of tables that nobody wants: their columns stay compressed.
    ///
    /// # Errors
    /// As [`Self::decode`], of what is decoded.
    pub fn decode_of(bytes: &[u8], wants: &dyn Fn(&SourceId, &TableId) -> bool) -> Result<Self, SchemaError> {
        let mut reader = Reader::new("a log entry", bytes);
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(reader.malformed(format!("format {format} is not {FORMAT}; a newer Syncline wrote it")));
        }
        match reader.u8()? {
            KIND_SCHEMA => {
                let source = SourceId::new(reader.str()?);
                let table = get_table(&mut reader)?;
                let version = reader.u32()?;
                let shape = ipc::get_batch(&mut reader)?;
                let columns = shape.schema().fields().iter().map(|field| column_of_field(field)).collect();
                Ok(Self::Schema(table::TableSchema { source, table, version, columns }))
            }
            KIND_FRAME => {
                let source = SourceId::new(reader.str()?);
                let position = Position::new(reader.bytes()?.to_vec());
                let captured_at = reader.i64()?;
                let txn_end = reader.u8()? != 0;
                let mut batches = Vec::new();
                for _ in 0..reader.u32()? {
                    let table = get_table(&mut reader)?;
                    let schema_version = reader.u32()?;
                    if wants(&source, &table) {
                        batches.push(TableBatch { table, schema_version, rows: ipc::get_batch(&mut reader)? });
                    } else {
                        ipc::skip_batch(&mut reader)?;
                    }
                }
                Ok(Self::Frame(Frame { source, position, captured_at, txn_end, batches }))
            }
            other => Err(reader.malformed(format!("no kind of entry is {other}"))),
        }
    }
}

fn put_table(out: &mut Vec<u8>, table: &TableId) {
    put_str(out, &table.schema);
    put_str(out, &table.name);
}

fn get_table(reader: &mut Reader<'_>) -> Result<TableId, SchemaError> {
    let schema = reader.str()?;
    Ok(TableId::new(schema, reader.str()?))
}
