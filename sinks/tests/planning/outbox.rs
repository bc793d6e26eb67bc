//! An outbox in memory, and the state that a target must end in.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt8Array,
};
use arrow::datatypes::DataType;
use syncline_schemas::delta::{DELETE, DeltaBatch, UPSERT};
use syncline_schemas::entity::{self, Entity, Kind};
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::{DeltaSource, OutboxEntry, OutboxIter, Reject, SinkError, Span};

/// A change of one row; the number stands for all its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: u32,
    pub(crate) value: Option<i64>,
    pub(crate) version: Version,
}

/// Entries by offset.
#[derive(Default)]
pub(crate) struct Outbox {
    entries: BTreeMap<u64, Vec<DeltaBatch>>,
    /// Entity and key to the newest change, and how many changes there were.
    pub(crate) newest: BTreeMap<(String, u32), Change>,
    pub(crate) rows: u64,
    /// Entries that were read.
    pub(crate) read: Arc<AtomicU64>,
    /// Rows that were refused.
    pub(crate) refused: Mutex<Vec<Reject>>,
}

impl Outbox {
    /// Appends an entry; versions follow from the epoch and the offset.
    pub(crate) fn push(&mut self, epoch: u32, changes: &[(&str, u32, Option<i64>)]) -> LogOffset {
        let offset = LogOffset(self.entries.len() as u64 + 1);
        let mut by_entity: BTreeMap<&str, Vec<Change>> = BTreeMap::new();
        for (row, (name, key, value)) in (0_u32..).zip(changes) {
            let change = Change { key: *key, value: *value, version: Version::new(epoch, offset, row) };
            self.newest.insert(((*name).to_owned(), *key), change.clone());
            self.rows += 1;
            by_entity.entry(name).or_default().push(change);
        }
        let deltas = by_entity
            .into_iter()
            .map(|(name, changes)| DeltaBatch { entity: name.to_owned(), rows: rows(canonical(name), &changes) })
            .collect();
        self.entries.insert(offset.0, deltas);
        offset
    }

    /// Appends an entry as it is.
    pub(crate) fn push_raw(&mut self, deltas: Vec<DeltaBatch>) -> LogOffset {
        let offset = self.entries.len() as u64 + 1;
        self.entries.insert(offset, deltas);
        LogOffset(offset)
    }

    /// Everything.
    pub(crate) fn span(&self) -> Span {
        Span { after: LogOffset::START, upto: LogOffset(self.entries.len() as u64) }
    }
}

impl DeltaSource for Outbox {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        Ok(Box::new(self.entries.range((Bound::Excluded(span.after.0), Bound::Included(span.upto.0))).map(
            |(offset, deltas)| {
                self.read.fetch_add(1, Ordering::Relaxed);
                Ok(OutboxEntry { offset: LogOffset(*offset), deltas: deltas.clone() })
            },
        )))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        self.refused.lock().expect("sound").extend(rejects);
        Ok(())
    }
}

pub(crate) fn canonical(name: &str) -> &'static Entity {
    entity::get(name).expect("canonical")
}

/// The text of a key's field: its first field is shared by 5 keys, the last key field tells keys apart.
pub(crate) fn key_text(entity: &Entity, field: usize, key: u32) -> String {
    if field + 1 == entity.key_len() { format!("k\"{key}") } else { format!("p{}", key % 5) }
}

/// The quantity that a value stands for, in billionths.
pub(crate) fn quantity(value: i64) -> i128 {
    i128::from(value) * 500_000_000
}

/// A batch of an entity in its canonical shape.
pub(crate) fn rows(entity: &Entity, changes: &[Change]) -> RecordBatch {
    let count = changes.len();
    let text = |text: &str| Arc::new(StringArray::from(vec![text; count])) as ArrayRef;
    let instant =
        |micros: i64| Arc::new(TimestampMicrosecondArray::from(vec![micros; count]).with_timezone("UTC")) as ArrayRef;
    let ops: Vec<u8> = changes.iter().map(|change| if change.value.is_some() { UPSERT } else { DELETE }).collect();
    let versions = changes.iter().map(|change| change.version.as_bytes().to_vec());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(ops)),
        Arc::new(FixedSizeBinaryArray::try_from_iter(versions).expect("16 bytes each")),
        text("erp"),
        text("public.stock"),
        text("0/16B3748"),
        instant(1_779_789_601_120_000),
        instant(1_779_789_601_121_000),
    ];
    for (i, field) in entity.fields.iter().enumerate() {
        columns.push(if field.key { key_column(entity, i, changes) } else { value_column(entity, i, changes) });
    }
    RecordBatch::try_new(entity.delta_schema(), columns).expect("canonical shape")
}

fn key_column(entity: &Entity, field: usize, changes: &[Change]) -> ArrayRef {
    assert_eq!(entity.fields[field].field_type.arrow(), DataType::Utf8, "the entities of these tests have text keys");
    Arc::new(StringArray::from_iter_values(changes.iter().map(|change| key_text(entity, field, change.key))))
}

fn value_column(entity: &Entity, field: usize, changes: &[Change]) -> ArrayRef {
    let field = &entity.fields[field];
    let values = || changes.iter().map(|change| change.value);
    let code = field.values.first().cloned().unwrap_or_else(|| "x\ty".to_owned());
    match field.field_type.arrow() {
        DataType::Utf8 => Arc::new(StringArray::from_iter(values().map(|value| value.map(|_| code.as_str())))),
        DataType::Decimal128(precision, scale) => Arc::new(
            Decimal128Array::from_iter(values().map(|value| value.map(quantity)))
                .with_precision_and_scale(precision, scale)
                .expect("canonical decimal"),
        ),
        DataType::Date32 => Arc::new(Date32Array::from_iter(values().map(|value| value.map(|_| 20_000)))),
        DataType::Boolean => Arc::new(BooleanArray::from_iter(values().map(|value| value.map(|value| value > 0)))),
        DataType::Int32 => Arc::new(Int32Array::from_iter(values().map(|value| value.map(|_| 7)))),
        _ => Arc::new(
            TimestampMicrosecondArray::from_iter(values().map(|value| value.map(|value| value * 1_000_003)))
                .with_timezone("UTC"),
        ),
    }
}

/// True where every change must arrive, not only the newest per key.
pub(crate) fn is_event(name: &str) -> bool {
    canonical(name).kind == Kind::Event
}
