//! Raw batches from plain values, shaped as a reader shapes them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray, UInt8Array, UInt32Array,
};
use arrow::datatypes::DataType;
use syncline_schemas::frame::{Frame, LogEntry, Op, TableBatch};
use syncline_schemas::ident::{Position, SourceId, TableId};
use syncline_schemas::table::{Column, TableSchema, instant};

/// Commit time of the first row of every frame, microseconds since 1970.
pub(crate) const COMMITTED_AT: i64 = 1_700_000_000_000_000;

/// A value of a source row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(String),
    /// Unscaled.
    Decimal(i128),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// One change of a source row; `absent` lists the columns that the log did not send.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) op: Op,
    pub(crate) values: Vec<Value>,
    pub(crate) absent: Vec<usize>,
}

impl Change {
    pub(crate) fn new(op: Op, values: Vec<Value>) -> Self {
        Self { op, values, absent: Vec::new() }
    }

    pub(crate) fn insert<const N: usize>(values: [Value; N]) -> Self {
        Self::new(Op::Insert, values.to_vec())
    }

    pub(crate) fn update<const N: usize>(values: [Value; N]) -> Self {
        Self::new(Op::Update, values.to_vec())
    }

    /// A delete as the log sends it: the first column is the key.
    pub(crate) fn removal(op: Op, key: i64, width: usize) -> Self {
        let mut values = vec![Value::Null; width];
        values[0] = Value::Int(key);
        Self::new(op, values)
    }

    pub(crate) fn truncate(width: usize) -> Self {
        Self::new(Op::Truncate, vec![Value::Null; width])
    }
}

/// The type of the decimals in the tests' tables.
pub(crate) fn numeric() -> DataType {
    DataType::Decimal128(14, 3)
}

/// A table of source `erp` whose first column is its key; a type with a `?` can be absent.
pub(crate) fn table(name: &str, columns: &[(&str, &str)]) -> TableSchema {
    let columns = columns
        .iter()
        .enumerate()
        .map(|(i, (name, source_type))| {
            let base = source_type.trim_end_matches('?');
            let data_type = match base {
                "bigint" => DataType::Int64,
                "integer" => DataType::Int32,
                "numeric(14,3)" => numeric(),
                "numeric(38,3)" => DataType::Decimal128(38, 3),
                "double precision" => DataType::Float64,
                "timestamp" => DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None),
                _ => DataType::Utf8,
            };
            Column {
                name: (*name).to_owned(),
                data_type,
                source_type: base.to_owned(),
                key_ordinal: (i == 0).then_some(0),
                can_be_absent: source_type.ends_with('?'),
            }
        })
        .collect();
    TableSchema { source: SourceId::new("erp"), table: TableId::new("public", name), version: 1, columns }
}

/// The rows of one table with their `_ord`.
pub(crate) fn batch(schema: &TableSchema, changes: &[(u32, Change)]) -> TableBatch {
    let mut columns: Vec<ArrayRef> = schema
        .columns
        .iter()
        .enumerate()
        .map(|(c, column)| values(&column.data_type, changes.iter().map(|(_, change)| &change.values[c])))
        .collect();
    let ords: Vec<u32> = changes.iter().map(|(ord, _)| *ord).collect();
    let times = ords.iter().map(|ord| COMMITTED_AT + i64::from(*ord));
    let positions: StringArray = ords.iter().map(|ord| Some(format!("0/{ord:X}"))).collect();
    let keys = UInt32Array::from_iter_values(0..u32::try_from(ords.len()).expect("small"));
    let masks: Vec<Option<Vec<u8>>> =
        changes.iter().map(|(_, change)| mask(&change.absent, schema.columns.len())).collect();
    columns.push(Arc::new(UInt8Array::from_iter_values(changes.iter().map(|(_, change)| change.op as u8))));
    columns.push(Arc::new(UInt32Array::from(ords.clone())));
    columns.push(Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_data_type(instant())));
    columns.push(Arc::new(DictionaryArray::new(keys, Arc::new(positions))));
    columns.push(Arc::new(masks.iter().map(Option::as_deref).collect::<BinaryArray>()));
    let rows = RecordBatch::try_new(schema.batch_schema(), columns).expect("columns fit the schema");
    TableBatch { table: schema.table.clone(), schema_version: schema.version, rows }
}

fn mask(absent: &[usize], columns: usize) -> Option<Vec<u8>> {
    let mut mask = vec![0; columns.div_ceil(8)];
    absent.iter().for_each(|&column| mask[column / 8] |= 1 << (column % 8));
    (!absent.is_empty()).then_some(mask)
}

fn values<'a>(data_type: &DataType, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    let int = |value: &Value| if let Value::Int(value) = value { Some(*value) } else { None };
    match data_type {
        DataType::Int64 => Arc::new(values.map(int).collect::<Int64Array>()),
        DataType::Int32 => {
            Arc::new(values.map(|value| int(value).map(|v| i32::try_from(v).expect("small"))).collect::<Int32Array>())
        }
        // Doubles are given as the text that they are printed as.
        DataType::Float64 => {
            let double = |value: &Value| {
                if let Value::Text(value) = value { Some(value.parse::<f64>().expect("a double")) } else { None }
            };
            Arc::new(values.map(double).collect::<Float64Array>())
        }
        DataType::Timestamp(_, _) => Arc::new(values.map(int).collect::<TimestampMicrosecondArray>()),
        DataType::Decimal128(_, _) => {
            let decimal = |value: &Value| if let Value::Decimal(value) = value { Some(*value) } else { None };
            Arc::new(values.map(decimal).collect::<Decimal128Array>().with_data_type(data_type.clone()))
        }
        _ => {
            let text = |value: &'a Value| if let Value::Text(value) = value { Some(value.as_str()) } else { None };
            Arc::new(values.map(text).collect::<StringArray>())
        }
    }
}

/// A frame of source `erp`; the changes are numbered through in the order given.
pub(crate) fn frame(changes: &[(&TableSchema, Change)], txn_end: bool) -> LogEntry {
    let mut tables: Vec<(&TableSchema, Vec<(u32, Change)>)> = Vec::new();
    for (ord, (schema, change)) in (0..).zip(changes) {
        let index = tables.iter().position(|(known, _)| known.table == schema.table).unwrap_or_else(|| {
            tables.push((schema, Vec::new()));
            tables.len() - 1
        });
        tables[index].1.push((ord, change.clone()));
    }
    LogEntry::Frame(Frame {
        source: SourceId::new("erp"),
        position: Position::new(vec![1]),
        captured_at: COMMITTED_AT + 1_000,
        txn_end,
        batches: tables.iter().map(|(schema, changes)| batch(schema, changes)).collect(),
    })
}
