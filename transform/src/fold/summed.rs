//! Entities whose measures add up over every contribution of every mapping and source.
//!
//! A change takes the old contribution back and adds the new one, so no scan is ever needed. All sums of a step are
//! computed column by column. The last contribution vanishing leaves zeros, never a missing row: a planner that keeps
//! yesterday's stock because nobody said "none" is the failure this prevents (domain 0.4).
//!
//! ```text
//! state row = rowcode of: contributions UInt64 | per summed field: sum Decimal128, contributions that gave it UInt64
//!                         | the other mapped fields, each the last value that was given
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, UInt32Array, UInt64Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Decimal128Type, UInt64Type};
use syncline_schemas::entity::{Entity, Field, Merge};
use syncline_schemas::rowcode;

use super::emit::{Emitted, Lineage, field_types};
use super::logic::Logic;
use super::{ContributionChange, Writes};
use crate::TransformError;
use crate::state::{Space, State};

/// Sums in state have all the digits of an `i128`; the field's own precision is checked when they are emitted.
const SUM: DataType = DataType::Decimal128(38, 0);

/// The entity's non-key fields by what becomes of them.
struct Layout<'a> {
    /// Index among the non-key fields.
    sums: Vec<(usize, &'a Field)>,
    last: Vec<(usize, &'a Field)>,
    types: Vec<DataType>,
}

impl<'a> Layout<'a> {
    fn new(entity: &'a Entity) -> Self {
        let mapped = || {
            entity.fields[entity.key_len()..]
                .iter()
                .enumerate()
                .filter(|(_, field)| field.derived.is_none() && !field.stamp)
        };
        let sums: Vec<_> = mapped().filter(|(_, field)| field.merge == Merge::Sum).collect();
        let last: Vec<_> = mapped().filter(|(_, field)| field.merge == Merge::Last).collect();
        let mut types = vec![DataType::UInt64];
        types.extend(sums.iter().flat_map(|_| [SUM, DataType::UInt64]));
        types.extend(last.iter().map(|(_, field)| field.field_type.arrow()));
        Self { sums, last, types }
    }
}

/// Entity key and other fields.
type Contributed = (Vec<u8>, Vec<u8>);

/// Sums of every touched key, one vector slot per key.
struct Totals {
    contributions: Vec<u64>,
    /// Per summed field: the sums and how many contributions gave the field.
    sums: Vec<(Vec<i128>, Vec<u64>)>,
    last: Vec<ArrayRef>,
}

/// Folds the changes of a step into the rows to emit.
pub(super) fn fold(
    entity: &Entity,
    logic: &Logic,
    prefix: &[u8],
    changes: &[ContributionChange],
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Emitted, TransformError> {
    let layout = Layout::new(entity);
    let keys = touched_keys(changes);
    let stored: Vec<Option<Vec<u8>>> =
        keys.order.iter().map(|key| state.get(Space::Entities, &[prefix, key].concat())).collect::<Result<_, _>>()?;
    let before = Totals::load(&layout, &stored)?;
    let after = before.apply(entity, &layout, changes, &keys)?;
    let (encoded_before, encoded_after) = (before.encode()?, after.encode()?);
    let mut changed = Vec::new();
    for (slot, key) in keys.order.iter().enumerate() {
        let fresh = stored[slot].is_none();
        if fresh || encoded_before.row(slot) != encoded_after.row(slot) {
            let value = encoded_after.row(slot).to_vec();
            writes.push((Space::Entities, [prefix, key].concat(), Some(value)));
        }
        if fresh || !after.same(&before, slot)? {
            changed.push(u32::try_from(slot).expect("a step touches fewer keys than u32"));
        }
    }
    after.emit(entity, logic, &layout, &keys, &changed)
}

/// Entity keys in the order of their first touch.
struct Keys<'a> {
    order: Vec<&'a [u8]>,
    slots: HashMap<&'a [u8], usize>,
    lineage: Vec<Lineage>,
}

fn touched_keys(changes: &[ContributionChange]) -> Keys<'_> {
    let mut keys = Keys { order: Vec::new(), slots: HashMap::new(), lineage: Vec::new() };
    for change in changes {
        for (entity_key, _) in change.old.iter().chain(&change.new) {
            let next = keys.order.len();
            let slot = *keys.slots.entry(entity_key).or_insert(next);
            if slot == next {
                keys.order.push(entity_key);
                keys.lineage.push(change.lineage);
            }
            keys.lineage[slot] = change.lineage;
        }
    }
    keys
}

impl Totals {
    fn load(layout: &Layout<'_>, stored: &[Option<Vec<u8>>]) -> Result<Self, TransformError> {
        let mut empty: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(vec![0]))];
        for _ in &layout.sums {
            empty.push(Arc::new(Decimal128Array::from(vec![0]).with_data_type(SUM)));
            empty.push(Arc::new(UInt64Array::from(vec![0])));
        }
        empty.extend(layout.last.iter().map(|(_, field)| new_null_array(&field.field_type.arrow(), 1)));
        let empty = rowcode::encode(&empty)?;
        let columns = rowcode::decode(&layout.types, stored.iter().map(|row| row.as_deref().unwrap_or(empty.row(0))))?;
        let counts = |column: &ArrayRef| column.as_primitive::<UInt64Type>().values().to_vec();
        let sums = columns[1..=layout.sums.len() * 2]
            .chunks_exact(2)
            .map(|pair| (pair[0].as_primitive::<Decimal128Type>().values().to_vec(), counts(&pair[1])))
            .collect();
        Ok(Self { contributions: counts(&columns[0]), sums, last: columns[1 + layout.sums.len() * 2..].to_vec() })
    }

    fn apply(
        &self,
        entity: &Entity,
        layout: &Layout<'_>,
        changes: &[ContributionChange],
        keys: &Keys<'_>,
    ) -> Result<Self, TransformError> {
        let (_, types) = field_types(entity);
        let side = |pick: fn(&ContributionChange) -> Option<&Contributed>| {
            let rows: Vec<&Contributed> = changes.iter().filter_map(pick).collect();
            let slots: Vec<usize> = rows.iter().map(|(key, _)| keys.slots[key.as_slice()]).collect();
            rowcode::decode(&types, rows.iter().map(|(_, row)| row.as_slice())).map(|columns| (slots, columns))
        };
        let (old_slots, old) = side(|change| change.old.as_ref())?;
        let (new_slots, new) = side(|change| change.new.as_ref())?;
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
            let mut sources: Vec<(usize, usize)> = (0..held.len()).map(|slot| (0, slot)).collect();
            for (row, &slot) in new_slots.iter().enumerate().filter(|(row, _)| !new[*index].is_null(*row)) {
                sources[slot] = (1, row);
            }
            last.push(interleave(&[held.as_ref(), new[*index].as_ref()], &sources)?);
        }
        Ok(Self { contributions, sums, last })
    }

    fn encode(&self) -> Result<rowcode::Rows, TransformError> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(self.contributions.clone()))];
        for (totals, given) in &self.sums {
            columns.push(Arc::new(Decimal128Array::from(totals.clone()).with_data_type(SUM)));
            columns.push(Arc::new(UInt64Array::from(given.clone())));
        }
        columns.extend(self.last.iter().cloned());
        Ok(rowcode::encode(&columns)?)
    }

    /// True where a key's row, as sinks see it, is the same.
    fn same(&self, other: &Self, slot: usize) -> Result<bool, TransformError> {
        let sums = self.sums.iter().zip(&other.sums).all(|((sums, given), (was, was_given))| {
            sums[slot] == was[slot] && (given[slot] == 0) == (was_given[slot] == 0)
        });
        Ok(sums && self.last.iter().zip(&other.last).all(|(now, was)| now.slice(slot, 1) == was.slice(slot, 1)))
    }

    fn emit(
        &self,
        entity: &Entity,
        logic: &Logic,
        layout: &Layout<'_>,
        keys: &Keys<'_>,
        changed: &[u32],
    ) -> Result<Emitted, TransformError> {
        let slots: Vec<usize> = changed.iter().map(|&slot| slot as usize).collect();
        let (key_types, row_types) = field_types(entity);
        let mut fields = rowcode::decode(&key_types, slots.iter().map(|&slot| keys.order[slot]))?;
        fields.extend(row_types.iter().map(|data_type| new_null_array(data_type, slots.len())));
        let key_len = entity.key_len();
        for ((index, field), (totals, given)) in layout.sums.iter().zip(&self.sums) {
            let values: Decimal128Array =
                slots.iter().map(|&slot| (field.required || given[slot] > 0).then_some(totals[slot])).collect();
            fields[key_len + index] = Arc::new(values.with_data_type(field.field_type.arrow()));
        }
        let picks = UInt32Array::from(changed.to_vec());
        for ((index, _), values) in layout.last.iter().zip(&self.last) {
            fields[key_len + index] = take(values, &picks, None)?;
        }
        if let Some((_, fault)) = logic.derive(entity, &mut fields)?.into_iter().next() {
            return Err(TransformError::State(format!("{}: {} ({})", entity.name, fault.reason, fault.rule)));
        }
        let lineage = slots.iter().map(|&slot| keys.lineage[slot]).collect();
        Ok(Emitted { fields, upserts: vec![true; slots.len()], lineage })
    }
}
