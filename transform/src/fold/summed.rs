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

use arrow::array::{Array, ArrayRef};
use arrow::compute::interleave;
use syncline_schemas::entity::Entity;
use syncline_schemas::rowcode;

use super::difference::Published;
use super::emit::{Emitted, Lineage, field_types};
use super::held;
use super::logic::Logic;
use super::totals::{Layout, Totals};
use super::touched::{Read, Touched};
use super::{ContributionChange, Seen, Writes};
use crate::TransformError;
use crate::state::{Space, State};

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
    let touched = Touched::load(changes, prefix, Read::All, state)?;
    let before = Totals::load(&layout, &touched.stored)?;
    let after = before.apply(entity, &layout, changes, &touched)?;
    let Touched { keys, lineage, stored, .. } = touched;
    let sums =
        Sums { entity, logic, prefix, keys: &keys, lineage: &lineage, told: &stored, stored: &stored, given: &[] };
    sums.tell(&layout, &before, after, now, state, writes)
}

/// Records by field that is not summed: the last that gave it a value, or what it says.
pub(super) type Givers = Vec<Option<Vec<u8>>>;

/// Adds the changes of a step up, and tells nothing yet; gives the keys that they touch, what was stored of each, and which
/// records gave the fields that are not summed. Those fields stay: the record may yet say otherwise.
pub(super) fn add<'a>(
    entity: &Entity,
    prefix: &[u8],
    changes: &'a [ContributionChange],
    state: &dyn State,
    writes: &mut Writes,
) -> Result<(Touched<'a>, Vec<Givers>), TransformError> {
    let layout = Layout::new(entity);
    let touched = Touched::load(changes, prefix, Read::All, state)?;
    let before = Totals::load(&layout, &touched.stored)?;
    let added = before.apply(entity, &layout, changes, &touched)?;
    let after = Totals { held: before.held.clone(), last: before.last.clone(), ..added };
    after.write(prefix, &touched.keys, &touched.stored, writes)?;
    let mut givers = vec![vec![None; layout.last.len()]; touched.keys.len()];
    let moves = changes.iter().zip(&touched.slots);
    let giving: Vec<_> =
        moves.filter_map(|(change, &[_, to])| Some((&change.key, to?, change.new.as_ref()?))).collect();
    let columns = rowcode::decode(&field_types(entity).1, giving.iter().map(|(.., new)| new.row()))?;
    for (place, (index, _)) in layout.last.iter().enumerate() {
        for (_, (key, slot, _)) in giving.iter().enumerate().filter(|(row, _)| !columns[*index].is_null(*row)) {
            givers[*slot][place] = Some((*key).clone());
        }
    }
    Ok((touched, givers))
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
    /// What the last records say that gave fields which are not summed, where they still do.
    pub(super) given: &'a [Givers],
}

impl Sums<'_> {
    /// The rows that sinks have not seen yet, of sums that are in state.
    pub(super) fn fold(&self, now: Seen, state: &dyn State, writes: &mut Writes) -> Result<Emitted, TransformError> {
        let layout = Layout::new(self.entity);
        let (before, after) = (Totals::load(&layout, self.told)?, Totals::load(&layout, self.stored)?);
        let last = self.last(&layout, &after)?;
        let after = Totals { held: vec![false; self.keys.len()], last, ..after };
        self.tell(&layout, &before, after, now, state, writes)
    }

    /// The fields that are not summed.
    fn last(&self, layout: &Layout<'_>, stored: &Totals) -> Result<Vec<ArrayRef>, TransformError> {
        let (_, types) = field_types(self.entity);
        let mut last = Vec::with_capacity(layout.last.len());
        for (place, ((index, _), held)) in layout.last.iter().zip(&stored.last).enumerate() {
            let given =
                self.given.iter().enumerate().filter_map(|(slot, by_field)| Some((slot, by_field[place].as_ref()?)));
            let (slots, rows): (Vec<usize>, Vec<&[u8]>) = given.map(|(slot, row)| (slot, row.as_slice())).unzip();
            let columns = rowcode::decode(&types, rows)?;
            let mut sources: Vec<(usize, usize)> = (0..held.len()).map(|slot| (0, slot)).collect();
            for (row, slot) in slots.into_iter().enumerate().filter(|(row, _)| !columns[*index].is_null(*row)) {
                sources[slot] = (1, row);
            }
            last.push(interleave(&[held.as_ref(), columns[*index].as_ref()], &sources)?);
        }
        Ok(last)
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
