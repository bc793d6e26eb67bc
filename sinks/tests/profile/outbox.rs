//! An outbox in memory, filled with rows as texts.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, FixedSizeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array};
use arrow::compute::cast;
use syncline_schemas::delta::{DELETE, DeltaBatch, UPSERT};
use syncline_schemas::entity;
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::{DeltaSource, OutboxEntry, OutboxIter, Reject, SinkError, Span};

/// A change: the entity, its fields as texts, and whether it is a delete.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) entity: &'static str,
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) deleted: bool,
}

/// A row that is there; key fields that are not given are empty, the company is C1.
pub(crate) fn upsert(entity: &'static str, fields: &[(&str, &str)]) -> Change {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Change { entity, fields, deleted: false }
}

/// A row that is gone.
pub(crate) fn delete(entity: &'static str, fields: &[(&str, &str)]) -> Change {
    Change { deleted: true, ..upsert(entity, fields) }
}

/// Entries by offset, from 1.
#[derive(Default)]
pub(crate) struct Outbox {
    entries: BTreeMap<u64, Vec<DeltaBatch>>,
    refused: Mutex<Vec<Reject>>,
}

impl Outbox {
    /// Appends an entry of some changes.
    pub(crate) fn push(&mut self, changes: &[Change]) -> LogOffset {
        let offset = LogOffset(self.entries.len() as u64 + 1);
        let mut by_entity: BTreeMap<&'static str, Vec<(u32, &Change)>> = BTreeMap::new();
        for (row, change) in (0..).zip(changes) {
            by_entity.entry(change.entity).or_default().push((row, change));
        }
        let deltas = by_entity
            .into_iter()
            .map(|(entity, changes)| DeltaBatch { entity: entity.to_owned(), rows: rows(entity, offset, &changes) });
        self.entries.insert(offset.0, deltas.collect());
        offset
    }

    /// Everything.
    pub(crate) fn span(&self) -> Span {
        Span { after: LogOffset::START, upto: LogOffset(self.entries.len() as u64) }
    }

    /// What was appended last.
    pub(crate) fn last(&self) -> Span {
        Span { after: LogOffset(self.entries.len() as u64 - 1), ..self.span() }
    }

    /// Code and field of every refused row, by its key there.
    pub(crate) fn refused(&self) -> BTreeMap<String, (String, Option<String>, bool)> {
        let refused = self.refused.lock().expect("sound");
        refused.iter().map(|it| (it.key.clone(), (it.code.clone(), it.field.clone(), it.retryable))).collect()
    }
}

fn rows(name: &str, offset: LogOffset, changes: &[(u32, &Change)]) -> RecordBatch {
    let entity = entity::get(name).expect("canonical");
    let count = changes.len();
    let text = |text: &str| Arc::new(StringArray::from(vec![text; count])) as ArrayRef;
    let instant =
        |micros: i64| Arc::new(TimestampMicrosecondArray::from(vec![micros; count]).with_timezone("UTC")) as ArrayRef;
    let ops: Vec<u8> = changes.iter().map(|(_, change)| if change.deleted { DELETE } else { UPSERT }).collect();
    let versions = changes.iter().map(|(row, _)| Version::new(1, offset, *row).as_bytes().to_vec());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(ops)),
        Arc::new(FixedSizeBinaryArray::try_from_iter(versions).expect("16 bytes each")),
        text("erp"),
        text("public.t"),
        text("0/16B3748"),
        instant(1_779_789_601_120_000),
        instant(1_779_789_601_121_000),
    ];
    for field in &entity.fields {
        let value = |change: &Change| match change.fields.get(&field.name) {
            Some(value) => Some(value.clone()),
            None if field.name == "company_id" => Some("C1".to_owned()),
            None if field.name == "valid_from" => Some("1970-01-01".to_owned()),
            None if field.key => Some(String::new()),
            None => None,
        };
        let texts: ArrayRef = Arc::new(StringArray::from_iter(changes.iter().map(|(_, change)| value(change))));
        columns.push(cast(&texts, &field.field_type.arrow()).expect("a value of its type"));
    }
    RecordBatch::try_new(entity.delta_schema(), columns).expect("canonical shape")
}

impl DeltaSource for Outbox {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        let range = (Bound::Excluded(span.after.0), Bound::Included(span.upto.0));
        let entries = self.entries.range(range);
        Ok(Box::new(
            entries.map(|(offset, deltas)| Ok(OutboxEntry { offset: LogOffset(*offset), deltas: deltas.clone() })),
        ))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        self.refused.lock().expect("sound").extend(rejects);
        Ok(())
    }
}
