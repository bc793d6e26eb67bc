//! What a sink makes of the outbox: the newest row per key, checked for what no sink may ever see.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt8Type;
use arrow::util::display::array_value_to_string;
use syncline_schemas::delta::{self, DELETE};
use syncline_schemas::entity;
use syncline_transform::state::OutboxStep;

/// Fields by name; the stamp is left out.
pub(crate) type Row = BTreeMap<String, Option<String>>;
/// Rows by entity and key.
pub(crate) type Rows = BTreeMap<(String, Vec<String>), Row>;

/// One canonical change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) entity: String,
    pub(crate) version: Vec<u8>,
    pub(crate) key: Vec<String>,
    /// None for a delete.
    pub(crate) row: Option<Row>,
}

impl Delta {
    /// A field of an upsert as text.
    pub(crate) fn get(&self, field: &str) -> Option<&str> {
        self.row.as_ref().expect("an upsert")[field].as_deref()
    }

    /// A quantity of an upsert without the zeros behind its point.
    pub(crate) fn quantity(&self, field: &str) -> &str {
        self.get(field).expect("a value").trim_end_matches('0').trim_end_matches('.')
    }
}

pub(crate) fn deltas(step: &OutboxStep) -> Vec<Delta> {
    let batches = delta::decode(&step.bytes).expect("own bytes");
    let decoded: Vec<Delta> = batches
        .iter()
        .flat_map(|batch| {
            let entity = entity::get(&batch.entity).expect("a canonical entity");
            assert_eq!(batch.rows.schema(), entity.delta_schema());
            (0..batch.rows.num_rows()).map(move |row| {
                let text = |column: usize| {
                    let values = batch.rows.column(column);
                    (!values.is_null(row)).then(|| array_value_to_string(values, row).expect("printable"))
                };
                let fields =
                    || entity.fields.iter().enumerate().map(|(i, field)| (field, text(i + delta::SYSTEM_COLUMNS)));
                let removed = batch.rows.column(0).as_primitive::<UInt8Type>().value(row) == DELETE;
                let values: Row = fields()
                    .filter(|(field, _)| !field.stamp)
                    .map(|(field, text)| (field.name.clone(), text))
                    .collect();
                Delta {
                    entity: batch.entity.clone(),
                    version: batch.rows.column(1).as_fixed_size_binary().value(row).to_vec(),
                    key: fields().filter(|(field, _)| field.key).map(|(_, text)| text.expect("a key")).collect(),
                    row: (!removed).then_some(values),
                }
            })
        })
        .collect();
    assert_eq!(decoded.len(), step.rows as usize, "the step says how many rows it holds");
    decoded
}

/// Current rows, applied in outbox order.
#[derive(Default)]
pub(crate) struct Current {
    pub(crate) rows: Rows,
    newest: Vec<u8>,
}

impl Current {
    /// Applies a step.
    ///
    /// # Panics
    /// Where a version does not rise or a delta changes nothing.
    pub(crate) fn apply(&mut self, step: &OutboxStep) {
        for delta in deltas(step) {
            assert!(delta.version > self.newest, "versions rise: {delta:?}");
            self.newest.clone_from(&delta.version);
            let key = (delta.entity.clone(), delta.key.clone());
            let before = match &delta.row {
                Some(row) => self.rows.insert(key, row.clone()),
                None => self.rows.remove(&key),
            };
            assert_ne!(before, delta.row, "a delta without a change: {delta:?}");
        }
    }
}
