//! Sums while an entry takes several steps: they are added up in state, and told once, when no step will change them any more.
//!
//! A sum that sinks see must be that of a source transaction's end. Where one step adds and a later one takes back, the sum
//! in between may be of a key that never was, or the last that fits its field. So each changed sum is set aside with what
//! it was before the entry; its end compares the two. A sum that a hundred frames change is one delta.
//!
//! ```text
//! S | entity u32 | key -> cause of its last change, as in tasks.rs | 1 and its state row before the entry, or 0
//! ```

use syncline_schemas::entity::{self, Entity};

use super::citation::{Known, Present};
use super::emit::{Cause, CauseText, Lineage, Origin};
use super::summed::{self, Sums};
use super::unit::Progress;
use super::{ContributionChange, Fold, Work, Writes, index};
use crate::TransformError;
use crate::state::{Space, State, get_all};

const WAS_NOT: u8 = 0;
const WAS: u8 = 1;

/// Adds the changes of a step up, and sets the sums aside.
pub(super) fn add(
    entity: &Entity,
    prefix: &[u8],
    changes: &[ContributionChange],
    origin: &Origin<'_>,
    state: &dyn State,
    writes: &mut Writes,
) -> Result<(), TransformError> {
    let touched = summed::add(entity, prefix, changes, state, writes)?;
    let places: Vec<Vec<u8>> = touched.keys.iter().map(|key| index::deferred(&[prefix, key].concat())).collect();
    let aside = get_all(state, Space::Index, &places)?;
    for (slot, (place, aside)) in places.into_iter().zip(aside).enumerate() {
        let mut value = Vec::new();
        origin.text(touched.lineage[slot])?.put(&mut value);
        match (aside, &touched.stored[slot]) {
            (Some(aside), _) => value.extend_from_slice(CauseText::take(&aside).ok_or_else(damaged)?.1),
            (None, Some(row)) => {
                value.push(WAS);
                value.extend_from_slice(row);
            }
            (None, None) => value.push(WAS_NOT),
        }
        writes.push((Space::Index, place, Some(value)));
    }
    Ok(())
}

fn damaged() -> TransformError {
    TransformError::State("a sum that was set aside does not decode".to_owned())
}

impl Fold {
    /// Tells sinks of sums that were set aside, in a step of its own; false where there are none. `now` is when what has no
    /// other time happened.
    pub(super) fn tell(&mut self, now: i64, work: &mut Work<'_, '_>) -> Result<bool, TransformError> {
        let aside = work.state.scan(Space::Index, &index::deferred_prefix(), &[], self.chunk)?;
        let place = |entry: &[u8]| entry[index::deferred_prefix().len()..].to_vec();
        let Some((first, _)) = aside.first() else { return Ok(false) };
        let prefix: [u8; 4] = *place(first).first_chunk().ok_or_else(damaged)?;
        let (mut writes, mut places, mut told, mut causes) = (Writes::new(), Vec::new(), Vec::new(), Vec::new());
        for (entry, value) in aside {
            let place = place(&entry);
            // Of one entity at a time.
            if !place.starts_with(&prefix) {
                break;
            }
            let (cause, before) = CauseText::take(&value).ok_or_else(damaged)?;
            let (&was, row) = before.split_first().ok_or_else(damaged)?;
            causes.push(Cause::Text(cause.timed(now)));
            told.push((was == WAS).then(|| row.to_vec()));
            places.push(place);
            writes.push((Space::Index, entry, None));
        }
        let stored = get_all(work.state, Space::Entities, &places)?;
        let entity_index = self.roster.entity_of(prefix).ok_or_else(damaged)?;
        let keys: Vec<&[u8]> = places.iter().map(|place| &place[prefix.len()..]).collect();
        let lineage: Vec<Lineage> = (0..causes.len()).map(|cause| Lineage { cause, row: 0 }).collect();
        let sums = Sums {
            entity: &entity::all()[entity_index],
            logic: self.roster.logic(entity_index),
            prefix: &prefix,
            keys: &keys,
            lineage: &lineage,
            told: &told,
            stored: &stored,
        };
        let emitted = sums.fold(work.seen(), work.state, &mut writes)?;
        let origin = Origin { epoch: self.epoch, offset: work.offset, causes };
        let mut present = Present::new(work.state, Known::default());
        let delivered = self.deliver(0, entity_index, emitted, &origin, &mut present, &mut writes, work)?;
        self.go_on(writes, delivered.deltas, Progress::Tasks, work)?;
        self.tasks |= delivered.leaves_tasks;
        Ok(true)
    }
}
