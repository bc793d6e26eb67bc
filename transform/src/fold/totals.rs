//! The sums of one entity as columns, one slot per key: read from state rows, changed, and written back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int32Array, UInt64Array, new_null_array};
use arrow::compute::{filter, interleave, take};
use arrow::datatypes::{DataType, Decimal128Type, UInt64Type};
use syncline_schemas::entity::{Entity, Field, Merge};
use syncline_schemas::rowcode;

use super::contribution::Contributed;
use super::emit::field_types;
use super::logic::Logic;
use super::touched::Touched;
use super::{ContributionChange, Writes};
use crate::TransformError;
use crate::mapping::RowFault;
use crate::mapping::coerce::misfit_fault;
use crate::mapping::decimal::within;
use crate::state::Space;

/// Sums in state have all the digits of an `i128`; the field's own precision is checked when they are emitted.
const SUM: DataType = DataType::Decimal128(38, 0);

/// The entity's non-key fields by what becomes of them.
pub(super) struct Layout<'a> {
    /// Index among the non-key fields.
    pub(super) sums: Vec<(usize, &'a Field)>,
    pub(super) last: Vec<(usize, &'a Field)>,
    pub(super) revision: Option<usize>,
    /// Types of the state row, and where in it the last values begin.
    pub(super) types: Vec<DataType>,
    pub(super) last_from: usize,
}

impl<'a> Layout<'a> {
    pub(super) fn new(entity: &'a Entity) -> Self {
        let rest = || entity.fields[entity.key_len()..].iter().enumerate();
        let mapped = || rest().filter(|(_, field)| !field.is_computed());
        let sums: Vec<_> = mapped().filter(|(_, field)| field.merge == Merge::Sum).collect();
        let last: Vec<_> = mapped().filter(|(_, field)| field.merge == Merge::Last).collect();
        let mut types = vec![DataType::UInt64, DataType::Boolean];
        types.extend(sums.iter().flat_map(|_| [SUM, DataType::UInt64]));
        types.extend(last.iter().map(|(_, field)| field.field_type.arrow()));
        let last_from = types.len() - last.len();
        let revision = rest().find(|(_, field)| field.revision).map(|(index, _)| index);
        types.extend(revision.map(|_| DataType::UInt64));
        Self { sums, last, revision, types, last_from }
    }
}

/// Sums of every touched key, one vector slot per key.
pub(super) struct Totals {
    pub(super) contributions: Vec<u64>,
    /// The sums do not fit their fields, so sinks have an older row.
    pub(super) held: Vec<bool>,
    /// Per summed field: the sums and how many contributions gave the field.
    pub(super) sums: Vec<(Vec<i128>, Vec<u64>)>,
    pub(super) last: Vec<ArrayRef>,
    /// How often sinks were given a row; none where nobody asks.
    pub(super) delivered: Option<Vec<u64>>,
}

impl Totals {
    pub(super) fn load(layout: &Layout<'_>, stored: &[Option<Vec<u8>>]) -> Result<Self, TransformError> {
        let mut empty: Vec<ArrayRef> =
            vec![Arc::new(UInt64Array::from(vec![0])), Arc::new(BooleanArray::from(vec![false]))];
        for _ in &layout.sums {
            empty.push(Arc::new(Decimal128Array::from(vec![0]).with_data_type(SUM)));
            empty.push(Arc::new(UInt64Array::from(vec![0])));
        }
        empty.extend(layout.last.iter().map(|(_, field)| new_null_array(&field.field_type.arrow(), 1)));
        empty.extend(layout.revision.map(|_| -> ArrayRef { Arc::new(UInt64Array::from(vec![0])) }));
        let empty = rowcode::encode(&empty)?;
        let columns = rowcode::decode(&layout.types, stored.iter().map(|row| row.as_deref().unwrap_or(empty.row(0))))?;
        let counts = |column: &ArrayRef| column.as_primitive::<UInt64Type>().values().to_vec();
        let sums = columns[2..layout.last_from]
            .chunks_exact(2)
            .map(|pair| (pair[0].as_primitive::<Decimal128Type>().values().to_vec(), counts(&pair[1])))
            .collect();
        let held = columns[1].as_boolean().values().iter().collect();
        let last_to = layout.last_from + layout.last.len();
        let last = columns[layout.last_from..last_to].to_vec();
        Ok(Self { contributions: counts(&columns[0]), held, sums, last, delivered: columns.get(last_to).map(counts) })
    }

    pub(super) fn apply(
        &self,
        entity: &Entity,
        layout: &Layout<'_>,
        changes: &[ContributionChange],
        touched: &Touched<'_>,
    ) -> Result<Self, TransformError> {
        let (_, types) = field_types(entity);
        let side = |at: usize, pick: fn(&ContributionChange) -> Option<&Contributed>| {
            let slots: Vec<usize> = touched.slots.iter().filter_map(|moved| moved[at]).collect();
            let rows: Vec<&[u8]> = changes.iter().filter_map(pick).map(Contributed::row).collect();
            rowcode::decode(&types, rows).map(|columns| (slots, columns))
        };
        let (old_slots, old) = side(0, |change| change.old.as_ref())?;
        let (new_slots, new) = side(1, |change| change.new.as_ref())?;
        let mut contributions = self.contributions.clone();
        old_slots.iter().for_each(|&slot| contributions[slot] -= 1);
        new_slots.iter().for_each(|&slot| contributions[slot] += 1);
        let mut sums = self.sums.clone();
        for ((index, _), (totals, given)) in layout.sums.iter().zip(&mut sums) {
            for (slot, value) in old_slots.iter().zip(old[*index].as_primitive::<Decimal128Type>()) {
                totals[*slot] -= value.unwrap_or(0);
                given[*slot] -= u64::from(value.is_some());
            }
            for (slot, value) in new_slots.iter().zip(new[*index].as_primitive::<Decimal128Type>()) {
                totals[*slot] += value.unwrap_or(0);
                given[*slot] += u64::from(value.is_some());
            }
        }
        let mut last = Vec::with_capacity(self.last.len());
        for ((index, _), held) in layout.last.iter().zip(&self.last) {
            if new[*index].null_count() == new_slots.len() {
                last.push(Arc::clone(held));
                continue;
            }
            let mut sources: Vec<(usize, usize)> = (0..held.len()).map(|slot| (0, slot)).collect();
            for (row, &slot) in new_slots.iter().enumerate().filter(|(row, _)| !new[*index].is_null(*row)) {
                sources[slot] = (1, row);
            }
            last.push(interleave(&[held.as_ref(), new[*index].as_ref()], &sources)?);
        }
        let delivered = self.delivered.clone();
        Ok(Self { contributions, held: vec![false; self.held.len()], sums, last, delivered })
    }

    /// Takes the rows of some slots for delivered once more.
    pub(super) fn count(&mut self, changed: &[usize]) {
        if let Some(counts) = &mut self.delivered {
            changed.iter().for_each(|&slot| counts[slot] += 1);
        }
    }

    /// Writes the state rows that differ from what is stored.
    pub(super) fn write(
        &self,
        prefix: &[u8],
        keys: &[&[u8]],
        stored: &[Option<Vec<u8>>],
        writes: &mut Writes,
    ) -> Result<(), TransformError> {
        let rows = self.encode()?;
        for (slot, key) in keys.iter().enumerate() {
            if stored[slot].as_deref() != Some(rows.row(slot)) {
                writes.push((Space::Entities, [prefix, key].concat(), Some(rows.row(slot).to_vec())));
            }
        }
        Ok(())
    }

    pub(super) fn encode(&self) -> Result<rowcode::Rows, TransformError> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(self.contributions.clone())),
            Arc::new(BooleanArray::from(self.held.clone())),
        ];
        for (totals, given) in &self.sums {
            columns.push(Arc::new(Decimal128Array::from(totals.clone()).with_data_type(SUM)));
            columns.push(Arc::new(UInt64Array::from(given.clone())));
        }
        columns.extend(self.last.iter().cloned());
        columns.extend(self.delivered.iter().map(|counts| -> ArrayRef { Arc::new(UInt64Array::from(counts.clone())) }));
        Ok(rowcode::encode(&columns)?)
    }

    /// Rows that are equal where sinks see no difference.
    pub(super) fn visible(&self, layout: &Layout<'_>) -> Result<rowcode::Rows, TransformError> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(layout.sums.len() + self.last.len());
        for ((_, field), (totals, given)) in layout.sums.iter().zip(&self.sums) {
            let values: Decimal128Array = totals
                .iter()
                .zip(given)
                .map(|(&total, &given)| (field.required || given > 0).then_some(total))
                .collect();
            columns.push(Arc::new(values));
        }
        columns.extend(self.last.iter().cloned());
        Ok(rowcode::encode(&columns)?)
    }

    /// All fields of some slots' rows, and why some of them cannot be: those are left out.
    pub(super) fn rows(
        &self,
        entity: &Entity,
        logic: &Logic,
        layout: &Layout<'_>,
        keys: &[&[u8]],
        changed: &[usize],
    ) -> Result<(Vec<ArrayRef>, BTreeMap<usize, RowFault>), TransformError> {
        let (key_types, row_types) = field_types(entity);
        let mut fields = rowcode::decode(&key_types, changed.iter().map(|&slot| keys[slot]))?;
        fields.extend(row_types.iter().map(|data_type| new_null_array(data_type, changed.len())));
        let key_len = entity.key_len();
        let mut bad: Vec<(usize, RowFault)> = Vec::new();
        for ((index, field), (totals, given)) in layout.sums.iter().zip(&self.sums) {
            let mut value = |(row, &slot): (usize, &usize)| {
                if !field.required && given[slot] == 0 {
                    return None;
                }
                within(totals[slot]).map_err(|misfit| bad.push((row, misfit_fault(field, misfit)))).ok()
            };
            let values: Decimal128Array = changed.iter().enumerate().map(&mut value).collect();
            fields[key_len + index] = Arc::new(values.with_data_type(field.field_type.arrow()));
        }
        let picks = changed.iter().map(|&slot| u64::try_from(slot).expect("usize fits u64"));
        let picks = UInt64Array::from_iter_values(picks);
        for ((index, _), values) in layout.last.iter().zip(&self.last) {
            fields[key_len + index] = take(values, &picks, None)?;
        }
        if let (Some(index), Some(counts)) = (layout.revision, &self.delivered) {
            let again = |slot: &usize| i32::try_from(counts[*slot].saturating_sub(1)).unwrap_or(i32::MAX);
            fields[key_len + index] = Arc::new(Int32Array::from_iter_values(changed.iter().map(again)));
        }
        bad.extend(logic.derive(entity, &mut fields)?);
        let mut faults = BTreeMap::new();
        for (row, fault) in bad {
            faults.entry(changed[row]).or_insert(fault);
        }
        if !faults.is_empty() {
            let fits: BooleanArray = changed.iter().map(|slot| Some(!faults.contains_key(slot))).collect();
            fields = fields.iter().map(|column| filter(column, &fits)).collect::<Result<_, _>>()?;
        }
        Ok((fields, faults))
    }
}
