//! Entities whose measures add up over every contribution of every mapping and source.
//!
//! A change takes the old contribution back and adds the new one, so no scan is ever needed. All sums of a step are
//! computed column by column. The last contribution vanishing leaves zeros, never a missing row: a planner that keeps
//! yesterday's stock because nobody said "none" is the failure this prevents (domain 0.4). Sums that do not fit their
//! fields are held: the last row that did stays until they do again.
//!
//! ```text
//! state row = rowcode of: contributions UInt64 | held Boolean
//!                         | per summed field: sum Decimal128, contributions that gave it UInt64
//!                         | the other mapped fields, each the last value that was given
//!                         | times delivered UInt64, where the entity has a revision
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int32Array, UInt64Array, new_null_array};
use arrow::compute::{filter, interleave, take};
use arrow::datatypes::{DataType, Decimal128Type, UInt64Type};
use syncline_schemas::entity::{Entity, Field, Merge};
use syncline_schemas::rowcode;

use super::contribution::Contributed;
use super::difference::Published;
use super::emit::{Emitted, Lineage, field_types};
use super::held;
use super::logic::Logic;
use super::touched::Touched;
use super::{ContributionChange, Seen, Writes};
use crate::TransformError;
use crate::mapping::RowFault;
use crate::mapping::coerce::misfit_fault;
use crate::mapping::decimal::within;
use crate::state::{Space, State};

/// Sums in state have all the digits of an `i128`; the field's own precision is checked when they are emitted.
const SUM: DataType = DataType::Decimal128(38, 0);

/// The entity's non-key fields by what becomes of them.
struct Layout<'a> {
    /// Index among the non-key fields.
    sums: Vec<(usize, &'a Field)>,
    last: Vec<(usize, &'a Field)>,
    revision: Option<usize>,
    /// Types of the state row, and where in it the last values begin.
    types: Vec<DataType>,
    last_from: usize,
}

impl<'a> Layout<'a> {
    fn new(entity: &'a Entity) -> Self {
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
struct Totals {
    contributions: Vec<u64>,
    /// The sums do not fit their fields, so sinks have an older row.
    held: Vec<bool>,
    /// Per summed field: the sums and how many contributions gave the field.
    sums: Vec<(Vec<i128>, Vec<u64>)>,
    last: Vec<ArrayRef>,
    /// How often sinks were given a row; none where nobody asks.
    delivered: Option<Vec<u64>>,
}

/// Folds the changes of a step into the rows to emit.
pub(super) fn fold(
    entity: &Entity,
    logic: &Logic,
    prefix: &[u8],
    now: Seen,
    changes: &[ContributionChange],
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Emitted, TransformError> {
    let layout = Layout::new(entity);
    let touched = Touched::load(changes, prefix, state)?;
    let before = Totals::load(&layout, &touched.stored)?;
    let after = before.apply(entity, &layout, changes, &touched)?;
    let Touched { keys, lineage, stored, .. } = touched;
    let sums = Sums { entity, logic, prefix, keys: &keys, lineage: &lineage, told: &stored, stored: &stored };
    sums.tell(&layout, &before, after, now, state, writes)
}

/// Adds the changes of a step up, and tells nothing yet; gives the keys that they touch, and what was stored of each.
pub(super) fn add<'a>(
    entity: &Entity,
    prefix: &[u8],
    changes: &'a [ContributionChange],
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Touched<'a>, TransformError> {
    let layout = Layout::new(entity);
    let touched = Touched::load(changes, prefix, state)?;
    let before = Totals::load(&layout, &touched.stored)?;
    let after = Totals { held: before.held.clone(), ..before.apply(entity, &layout, changes, &touched)? };
    after.write(prefix, &touched.keys, &touched.stored, writes)?;
    Ok(touched)
}

/// Sums of one entity, beside what they were when sinks were last told of them.
pub(super) struct Sums<'a> {
    pub(super) entity: &'a Entity,
    pub(super) logic: &'a Logic,
    pub(super) prefix: &'a [u8],
    pub(super) keys: &'a [&'a [u8]],
    pub(super) lineage: &'a [Lineage],
    /// What state held of each.
    pub(super) told: &'a [Option<Vec<u8>>],
    /// What it holds now.
    pub(super) stored: &'a [Option<Vec<u8>>],
}

impl Sums<'_> {
    /// The rows that sinks have not seen yet, of sums that are in state.
    pub(super) fn fold(&self, now: Seen, state: &dyn State, writes: &mut Writes) -> Result<Emitted, TransformError> {
        let layout = Layout::new(self.entity);
        let (before, after) = (Totals::load(&layout, self.told)?, Totals::load(&layout, self.stored)?);
        let after = Totals { held: vec![false; self.keys.len()], ..after };
        self.tell(&layout, &before, after, now, state, writes)
    }

    fn tell(
        &self,
        layout: &Layout<'_>,
        before: &Totals,
        mut after: Totals,
        now: Seen,
        state: &dyn State,
        writes: &mut Writes,
    ) -> Result<Emitted, TransformError> {
        let Self { entity, logic, prefix, keys, .. } = *self;
        let (shown, shows) = (before.visible(layout)?, after.visible(layout)?);
        let differs = |slot: &usize| match &self.told[*slot] {
            // One that came and went in between never was.
            None => after.contributions[*slot] > 0,
            Some(_) => before.held[*slot] || shown.row(*slot) != shows.row(*slot),
        };
        let changed: Vec<usize> = (0..keys.len()).filter(differs).collect();
        after.count(&changed);
        let (fields, faults) = after.rows(entity, logic, layout, keys, &changed)?;
        for &slot in changed.iter().filter(|&&slot| before.held[slot] && !faults.contains_key(&slot)) {
            writes.push((Space::Held, held::sum_key(prefix, keys[slot]), None));
        }
        let fitting = changed.iter().filter(|slot| !faults.contains_key(slot));
        let lineage: Vec<Lineage> = fitting.map(|&slot| self.lineage[slot]).collect();
        for (slot, fault) in faults {
            after.held[slot] = true;
            if let Some(counts) = &mut after.delivered {
                counts[slot] -= 1;
            }
            let place = held::sum_key(prefix, keys[slot]);
            let record = if before.held[slot] { state.get(Space::Held, &place)? } else { None };
            writes.push((Space::Held, place, Some(held::record(&fault, String::new(), now, record)?)));
        }
        after.write(prefix, keys, self.stored, writes)?;
        for (slot, key) in keys.iter().enumerate() {
            if self.told[slot].is_none() && after.contributions[slot] == 0 {
                writes.push((Space::Entities, [prefix, key].concat(), None));
            }
        }
        // Sums are cited by nobody, and never go.
        Ok(Emitted { fields, upserts: vec![true; lineage.len()], lineage, presence: Vec::new() })
    }
}

/// What sinks have of some keys, by what state holds of each.
pub(super) fn published(
    entity: &Entity,
    logic: &Logic,
    keys: &[Vec<u8>],
    stored: &[Option<Vec<u8>>],
) -> Result<Vec<Published>, TransformError> {
    let layout = Layout::new(entity);
    let totals = Totals::load(&layout, stored)?;
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let there: Vec<usize> = (0..keys.len()).filter(|&slot| stored[slot].is_some() && !totals.held[slot]).collect();
    let (fields, faults) = totals.rows(entity, logic, &layout, &keys, &there)?;
    let rows = rowcode::encode(&fields[entity.key_len()..])?;
    let held = |slot: usize| totals.held[slot] || faults.contains_key(&slot);
    let mut published: Vec<Published> =
        (0..keys.len()).map(|slot| if held(slot) { Published::Held } else { Published::Nothing }).collect();
    for (row, slot) in there.into_iter().filter(|slot| !faults.contains_key(slot)).enumerate() {
        published[slot] = Published::Row(rows.row(row).to_vec());
    }
    Ok(published)
}

/// The state row of a key of which the last contribution has gone.
pub(super) fn emptied(entity: &Entity, stored: &[u8]) -> Result<Vec<u8>, TransformError> {
    let layout = Layout::new(entity);
    let before = Totals::load(&layout, &[Some(stored.to_vec())])?;
    let sums = before.sums.iter().map(|_| (vec![0], vec![0])).collect();
    let after = Totals { contributions: vec![0], held: vec![false], sums, ..before };
    Ok(after.encode()?.row(0).to_vec())
}

/// The state row of a key, counting on from what an older state has had delivered of it; none where it stays as it is.
pub(super) fn counting_on(entity: &Entity, was: Option<&[u8]>, is: &[u8]) -> Result<Option<Vec<u8>>, TransformError> {
    if entity.fields.iter().all(|field| !field.revision) {
        return Ok(None);
    }
    let layout = Layout::new(entity);
    let stored = [was.map(<[u8]>::to_vec), Some(is.to_vec())];
    let mut totals = Totals::load(&layout, &stored)?;
    let shown = totals.visible(&layout)?;
    let is_delivered = !totals.held[1] && (was.is_none() || totals.held[0] || shown.row(0) != shown.row(1));
    let Some(counts) = &mut totals.delivered else { return Ok(None) };
    counts[1] = counts[0] + u64::from(is_delivered);
    let row = totals.encode()?.row(1).to_vec();
    Ok((row != is).then_some(row))
}

impl Totals {
    fn load(layout: &Layout<'_>, stored: &[Option<Vec<u8>>]) -> Result<Self, TransformError> {
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

    fn apply(
        &self,
        entity: &Entity,
        layout: &Layout<'_>,
        changes: &[ContributionChange],
        touched: &Touched<'_>,
    ) -> Result<Self, TransformError> {
        let (_, types) = field_types(entity);
        let side = |pick: fn(&ContributionChange) -> Option<&Contributed>| {
            let rows: Vec<&Contributed> = changes.iter().filter_map(pick).collect();
            let slots: Vec<usize> = rows.iter().map(|row| touched.slots[row.key()]).collect();
            rowcode::decode(&types, rows.iter().map(|row| row.row())).map(|columns| (slots, columns))
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
        let delivered = self.delivered.clone();
        Ok(Self { contributions, held: vec![false; self.held.len()], sums, last, delivered })
    }

    /// Takes the rows of some slots for delivered once more.
    fn count(&mut self, changed: &[usize]) {
        if let Some(counts) = &mut self.delivered {
            changed.iter().for_each(|&slot| counts[slot] += 1);
        }
    }

    /// Writes the state rows that differ from what is stored.
    fn write(
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

    fn encode(&self) -> Result<rowcode::Rows, TransformError> {
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
    fn visible(&self, layout: &Layout<'_>) -> Result<rowcode::Rows, TransformError> {
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
    fn rows(
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
