//! One mapping over the changes of its table: old contributions taken from state, new ones evaluated, the difference.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::interleave;
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::LogOffset;
use syncline_schemas::rowcode;
use syncline_schemas::table::{Column, column_of_field};

use super::changes::{Changes, Found};
use super::contribution::{Contributed, Contribution, must_carry};
use super::emit::Lineage;
use super::evaluate::evaluate;
use super::held;
use super::logic::Logic;
use super::{ContributionChange, FoldStats, Writes};
use crate::TransformError;
use crate::mapping::RowFault;
use crate::mapping::compile::Compiled;
use crate::state::{Space, State};

/// A mapping at work on one table of a step.
pub(super) struct Contributor<'a> {
    pub(super) id: u32,
    pub(super) entity: &'a Entity,
    pub(super) logic: &'a Logic,
    pub(super) compiled: &'a Compiled,
    pub(super) changes: &'a Changes<'a>,
    /// Index of the table in the step, for lineage.
    pub(super) table: usize,
    pub(super) offset: LogOffset,
}

/// Values that a later change may leave out, by column name.
type Carried = Vec<(String, Vec<u8>)>;

/// What evaluation said of one row.
enum Outcome {
    /// It is gone, or the filter excludes it.
    Nothing,
    /// It contributes: row of the evaluated fields.
    Good(usize),
    Faulty(RowFault),
}

impl Contributor<'_> {
    /// Appends what changed to `out` and the records to `writes`.
    pub(super) fn run(
        &self,
        state: &dyn State,
        writes: &mut Writes,
        out: &mut Vec<ContributionChange>,
        stats: &mut FoldStats,
    ) -> Result<(), TransformError> {
        let len = self.changes.changes.len();
        let mut old = self.stored(state)?;
        let live: Vec<usize> = (0..len).filter(|&i| !self.changes.changes[i].removed).collect();
        let mut lacking = HashMap::new();
        let batch = self.input(&live, &old, &mut lacking)?;
        let evaluated = evaluate(self.compiled, self.entity, self.logic, &batch)?;
        let mut outcomes: Vec<Outcome> = (0..len).map(|_| Outcome::Nothing).collect();
        for (row, &input) in evaluated.rows.iter().enumerate() {
            outcomes[live[input as usize]] = Outcome::Good(row);
        }
        for (input, fault) in evaluated.faults {
            outcomes[live[input as usize]] = Outcome::Faulty(fault);
        }
        for (input, fault) in lacking {
            outcomes[live[input]] = Outcome::Faulty(fault);
        }
        let (key_fields, other_fields) = evaluated.fields.split_at(self.entity.key_len());
        let (entity_keys, rows) = (rowcode::encode(key_fields)?, rowcode::encode(other_fields)?);
        let mut carried = self.carried(&batch, &live)?;
        let (mut bytes, mut changed) = (Vec::new(), Vec::new());
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let change = &self.changes.changes[i];
            let mut new = Contribution { carried: carried.remove(&i).unwrap_or_default(), ..Contribution::default() };
            let fault = match outcome {
                Outcome::Nothing => None,
                Outcome::Good(row) => {
                    new.value = Some((entity_keys.row(row), rows.row(row)));
                    None
                }
                Outcome::Faulty(fault) => Some(fault),
            };
            if fault.is_some() {
                new.held = true;
                // The last good one, which lies under the key that the row had when it was made.
                new.value = decode(&old[change.origin])?.value;
            }
            bytes.clear();
            if !new.is_empty() {
                new.encode(&mut bytes);
            }
            if fault.is_none() && old[i].as_deref().unwrap_or_default() == bytes {
                stats.unchanged += 1;
                continue;
            }
            let difference = Difference {
                key: contribution_key(self.id, self.changes.key(i)),
                old: decode(&old[i])?,
                new,
                fault,
                bytes: &bytes,
                lineage: Lineage { table: self.table, row: change.last },
            };
            if let Some(change) = difference.write(self.offset, writes, stats)? {
                changed.push((i, change));
            }
        }
        for (i, mut change) in changed {
            change.old = old[i].take().map(Contributed::of).transpose()?.flatten();
            out.push(change);
        }
        Ok(())
    }

    /// What state holds of each change's row.
    fn stored(&self, state: &dyn State) -> Result<Vec<Option<Vec<u8>>>, TransformError> {
        let mut key = Vec::new();
        (0..self.changes.changes.len())
            .map(|i| {
                key.clear();
                key.extend_from_slice(&self.id.to_be_bytes());
                key.extend_from_slice(self.changes.key(i));
                state.get(Space::Contributions, &key)
            })
            .collect()
    }

    /// The columns that the mapping reads, one row per live change.
    fn input(
        &self,
        live: &[usize],
        old: &[Option<Vec<u8>>],
        lacking: &mut HashMap<usize, RowFault>,
    ) -> Result<RecordBatch, TransformError> {
        let rows = &self.changes.batch.rows;
        let whole = live.len() == rows.num_rows()
            && live.iter().enumerate().all(|(row, &i)| self.changes.changes[i].last == row);
        let partial = live.iter().any(|&i| self.changes.is_partial(i));
        let mut columns = Vec::with_capacity(self.compiled.inputs.len());
        for &index in &self.compiled.inputs {
            columns.push(if whole && !partial {
                Arc::clone(rows.column(index))
            } else {
                self.gather(index, live, old, lacking)?
            });
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(live.len()));
        let schema = Arc::clone(&self.compiled.input_schema);
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    /// One column, each value from where it was last seen.
    fn gather(
        &self,
        index: usize,
        live: &[usize],
        old: &[Option<Vec<u8>>],
        lacking: &mut HashMap<usize, RowFault>,
    ) -> Result<ArrayRef, TransformError> {
        let here = Arc::clone(self.changes.batch.rows.column(index));
        let column = self.source_column(index);
        let nothing = new_null_array(here.data_type(), 1);
        let mut arrays: Vec<ArrayRef> = vec![here];
        let mut picks = Vec::with_capacity(live.len());
        for (input, &change) in live.iter().enumerate() {
            match self.changes.find(change, index) {
                Found::Here(row) => picks.push((0, row)),
                Found::Before(origin) => {
                    let record = old[origin].as_deref().map(Contribution::decode).transpose()?;
                    let value = record.and_then(|record| record.carried(&column));
                    if value.is_none() {
                        lacking.insert(input, lacking_fault(&column));
                    }
                    picks.push((arrays.len(), 0));
                    arrays.push(value.unwrap_or_else(|| Arc::clone(&nothing)));
                }
            }
        }
        let views: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
        Ok(interleave(&views, &picks)?)
    }

    fn source_column(&self, index: usize) -> Column {
        column_of_field(self.changes.batch.rows.schema().field(index))
    }

    /// Values that later changes may leave out, by change.
    fn carried(&self, batch: &RecordBatch, live: &[usize]) -> Result<HashMap<usize, Carried>, TransformError> {
        let mut carried: HashMap<usize, Carried> = HashMap::new();
        for &index in &self.compiled.carried {
            let column = self.source_column(index);
            let values = batch.column_by_name(&column.name).expect("carried columns are inputs");
            let rows = must_carry(&column, values);
            if rows.is_empty() {
                continue;
            }
            let encoded = rowcode::encode(std::slice::from_ref(values))?;
            for row in rows {
                carried.entry(live[row]).or_default().push((column.name.clone(), encoded.row(row).to_vec()));
            }
        }
        Ok(carried)
    }
}

fn lacking_fault(column: &Column) -> RowFault {
    RowFault {
        rule: "DQ_ABSENT".to_owned(),
        field: column.name.clone(),
        reason: format!(
            "the log did not send column {} and its value was never seen; take a snapshot or set REPLICA IDENTITY FULL",
            column.name
        ),
    }
}

/// State key of what a driving row contributes under a mapping.
pub(super) fn contribution_key(mapping: u32, driving_key: &[u8]) -> Vec<u8> {
    [&mapping.to_be_bytes(), driving_key].concat()
}

fn decode(record: &Option<Vec<u8>>) -> Result<Contribution<'_>, TransformError> {
    Ok(record.as_deref().map(Contribution::decode).transpose()?.unwrap_or_default())
}

/// The record of one driving row before and after.
struct Difference<'a> {
    key: Vec<u8>,
    old: Contribution<'a>,
    new: Contribution<'a>,
    fault: Option<RowFault>,
    /// The new record; empty for none.
    bytes: &'a [u8],
    lineage: Lineage,
}

impl Difference<'_> {
    /// Writes the records; gives what entities see of the change, its `old` left to the caller, who owns it.
    fn write(
        self,
        offset: LogOffset,
        writes: &mut Writes,
        stats: &mut FoldStats,
    ) -> Result<Option<ContributionChange>, TransformError> {
        let Self { key, old, new, fault, bytes, lineage } = self;
        if let Some(fault) = &fault {
            writes.push((Space::Held, held::fault_key(&key), Some(held::record(fault, offset))));
            stats.faulty += 1;
        } else if old.held {
            writes.push((Space::Held, held::fault_key(&key), None));
        }
        if new != old {
            let record = (!bytes.is_empty()).then(|| bytes.to_vec());
            writes.push((Space::Contributions, key.clone(), record));
        }
        if new.value == old.value {
            stats.unchanged += 1;
            return Ok(None);
        }
        let new = if new.value.is_some() { Contributed::of(bytes.to_vec())? } else { None };
        Ok(Some(ContributionChange { key, old: None, new, lineage }))
    }
}
