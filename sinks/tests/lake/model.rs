//! The outbox and what must become of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt8Array,
};
use arrow::datatypes::DataType;
use syncline_schemas::delta::{self, DeltaBatch};
use syncline_schemas::entity;
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::{DeltaSource, OutboxEntry, OutboxIter, Reject, SinkError, Span};

/// A wide key of text, and one with a date in it.
pub(crate) const ENTITIES: [&str; 3] = ["item", "inventory_balance", "supplier_item"];

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// A row as an independent reader must see it: column to text, null left out.
pub(crate) type Row = BTreeMap<String, String>;

/// Key, upsert or delete, seed of the values.
type Change = (u64, bool, u64);

/// The outbox with the tables that follow from it.
#[derive(Default)]
pub(crate) struct Model {
    entries: Vec<OutboxEntry>,
    /// By entity and key.
    pub(crate) current: BTreeMap<(String, u64), Row>,
    /// By entity, in version order.
    pub(crate) history: BTreeMap<String, Vec<Row>>,
    /// Offset, entity, key and what a change made of it.
    steps: Vec<(LogOffset, &'static str, u64, Option<Row>)>,
}

impl Model {
    pub(crate) fn last(&self) -> LogOffset {
        LogOffset(self.entries.len() as u64)
    }

    /// Rows of an entity's current table as they were at an offset, in version order.
    pub(crate) fn current_at(&self, entity: &str, offset: LogOffset) -> Vec<Row> {
        let mut rows: BTreeMap<u64, Option<&Row>> = BTreeMap::new();
        for (_, _, key, row) in self.steps.iter().filter(|(at, of, ..)| *at <= offset && *of == entity) {
            rows.insert(*key, row.as_ref());
        }
        let mut rows: Vec<Row> = rows.into_values().flatten().cloned().collect();
        rows.sort_by(|left, right| left["_version"].cmp(&right["_version"]));
        rows
    }

    /// Rows of an entity's history as they were at an offset.
    pub(crate) fn history_at(&self, entity: &str, offset: LogOffset) -> Vec<Row> {
        let count = self.steps.iter().filter(|(at, of, ..)| *at <= offset && *of == entity).count();
        self.history.get(entity).map(|rows| rows[..count].to_vec()).unwrap_or_default()
    }

    /// Adds an entry with random changes of random keys below `keys`.
    pub(crate) fn entry(&mut self, random: &mut Random, keys: u64) {
        let mut changes = Vec::new();
        for entity in ENTITIES {
            if random.below(3) > 0 {
                let rows = (0..=random.below(40))
                    .map(|_| (random.below(keys), random.below(4) > 0, random.below(u64::MAX)))
                    .collect();
                changes.push((entity, rows));
            }
        }
        self.push(changes);
    }

    /// Adds an entry that creates a range of keys.
    pub(crate) fn upserts(&mut self, entity: &'static str, keys: Range<u64>) {
        self.push(vec![(entity, keys.map(|key| (key, true, key * 7_919)).collect())]);
    }

    fn push(&mut self, changes: Vec<(&'static str, Vec<Change>)>) {
        let offset = self.last().next();
        let mut row = 0;
        let mut deltas = Vec::new();
        for (entity, changes) in changes {
            let versions = changes.iter().map(|_| {
                row += 1;
                Version::new(1, offset, row)
            });
            let versions: Vec<Version> = versions.collect();
            let batch = batch(entity, &changes, &versions);
            for (i, (key, upsert, _)) in changes.iter().enumerate() {
                let all = describe(&batch, i);
                let place = (entity.to_owned(), *key);
                let row = upsert.then(|| current_row(all.clone()));
                self.steps.push((offset, entity, *key, row.clone()));
                match row {
                    Some(row) => self.current.insert(place, row),
                    None => self.current.remove(&place),
                };
                self.history.entry(entity.to_owned()).or_default().push(history_row(all));
            }
            deltas.push(DeltaBatch { entity: entity.to_owned(), rows: batch });
        }
        self.entries.push(OutboxEntry { offset, deltas });
    }
}

impl DeltaSource for Model {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        let within = move |entry: &&OutboxEntry| entry.offset > span.after && entry.offset <= span.upto;
        Ok(Box::new(self.entries.iter().filter(within).cloned().map(Ok)))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        panic!("a lake refuses nothing: {rejects:?}");
    }
}

fn current_row(mut row: Row) -> Row {
    row.remove(delta::OP);
    row.remove(delta::CAPTURED_TS);
    row
}

fn history_row(mut row: Row) -> Row {
    let commit = row.remove(delta::COMMIT_TS).expect("every delta has one");
    row.insert("_valid_from".into(), commit);
    row
}

/// A row as text per column: decimals and dates as they are written, instants in microseconds.
pub(crate) fn describe(batch: &RecordBatch, row: usize) -> Row {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type, TimestampMicrosecondType};
    let mut described = Row::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if column.is_null(row) {
            continue;
        }
        let text = match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
            DataType::Boolean => column.as_boolean().value(row).to_string(),
            DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
            DataType::Date32 => {
                let day = column.as_primitive::<Date32Type>().value_as_date(row).expect("a day");
                day.to_string()
            }
            DataType::Decimal128(_, _) => column.as_primitive::<Decimal128Type>().value_as_string(row),
            DataType::Timestamp(_, _) => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
            DataType::UInt8 => {
                let op = column.as_primitive::<arrow::datatypes::UInt8Type>().value(row);
                if op == delta::UPSERT { "upsert".into() } else { "delete".into() }
            }
            DataType::FixedSizeBinary(16) => {
                let bytes: [u8; 16] = column.as_fixed_size_binary().value(row).try_into().expect("16 bytes");
                Version::from_bytes(bytes).to_string()
            }
            other => panic!("no column has the type {other}"),
        };
        described.insert(field.name().clone(), text);
    }
    described
}

fn batch(entity: &str, changes: &[Change], versions: &[Version]) -> RecordBatch {
    let entity = entity::get(entity).expect("known");
    let instant = |value: i64| {
        let values = changes.iter().map(|(_, _, seed)| value + i64::try_from(seed % 86_400_000_000).expect("small"));
        Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC")) as ArrayRef
    };
    let text = |value: &str| Arc::new(StringArray::from(vec![value; changes.len()])) as ArrayRef;
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from_iter_values(
            changes.iter().map(|(_, upsert, _)| if *upsert { delta::UPSERT } else { delta::DELETE }),
        )),
        Arc::new(
            FixedSizeBinaryArray::try_from_iter(versions.iter().map(|version| version.as_bytes())).expect("16 bytes"),
        ),
        text("erp"),
        text("public.stock"),
        text("0/16B3748"),
        instant(1_790_000_000_000_123),
        instant(1_790_000_000_500_123),
    ];
    let key_len = entity.key_len();
    for (i, field) in entity.fields.iter().enumerate() {
        let value = |(key, upsert, seed): &Change| -> Option<i64> {
            let mixed = i64::try_from(seed.rotate_left(u32::try_from(i).expect("few fields")) >> 2).expect("62 bits");
            match i < key_len {
                // The last key field tells keys apart, the others only shape their order.
                true if i + 1 == key_len => Some(i64::try_from(*key).expect("small")),
                true => Some(i64::try_from(key / 20 % 3).expect("small")),
                false => (*upsert && (field.required || mixed % 5 != 0)).then_some(mixed),
            }
        };
        columns.push(column(&field.field_type.arrow(), changes.iter().map(value)));
    }
    RecordBatch::try_new(entity.delta_schema(), columns).expect("the entity's columns")
}

fn column(data_type: &DataType, values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let small = |value: i64| i32::try_from(value % 20_000).expect("small");
    match data_type {
        DataType::Utf8 => {
            Arc::new(values.map(|value| value.map(|value| format!("ä-{value:05}"))).collect::<StringArray>())
        }
        DataType::Boolean => Arc::new(values.map(|value| value.map(|value| value % 2 == 0)).collect::<BooleanArray>()),
        DataType::Int32 => Arc::new(values.map(|value| value.map(small)).collect::<Int32Array>()),
        DataType::Date32 => Arc::new(values.map(|value| value.map(small)).collect::<Date32Array>()),
        DataType::Timestamp(_, _) => {
            let micros = values.map(|value| value.map(|value| value % 4_000_000_000_000_000));
            Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        DataType::Decimal128(precision, scale) => {
            // Far beyond what a double holds, so that no reader gets away with one.
            let wide = values.map(|value| value.map(|value| i128::from(value) * 1_000_003 - 7));
            let wide = wide.collect::<Decimal128Array>().with_precision_and_scale(*precision, *scale);
            Arc::new(wide.expect("28 digits"))
        }
        other => panic!("no field has the type {other}"),
    }
}
