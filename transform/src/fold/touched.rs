//! The entity keys that a step's contribution changes touch, in the order of their first touch.

use std::collections::HashMap;

use super::ContributionChange;
use super::contribution::Contributed;
use super::emit::Lineage;
use crate::TransformError;
use crate::state::{Space, State, get_all};

/// Touched keys, one slot each.
pub(super) struct Touched<'a> {
    pub(super) keys: Vec<&'a [u8]>,
    /// By change: the slot of the key that it takes back from, and of the one that it gives to.
    pub(super) slots: Vec<[Option<usize>; 2]>,
    /// The last change that touched the key.
    pub(super) lineage: Vec<Lineage>,
    /// What state holds of the key, where that was read.
    pub(super) stored: Vec<Option<Vec<u8>>>,
    /// Whether it was.
    pub(super) is_read: Vec<bool>,
}

/// Of which touched keys state is read.
pub(super) enum Read {
    All,
    /// Those that a change leaves or enters.
    Moved,
}

impl<'a> Touched<'a> {
    pub(super) fn load(
        changes: &'a [ContributionChange],
        prefix: &[u8],
        read: Read,
        state: &dyn State,
    ) -> Result<Self, TransformError> {
        let mut touched = Self {
            keys: Vec::with_capacity(changes.len()),
            slots: Vec::with_capacity(changes.len()),
            lineage: Vec::with_capacity(changes.len()),
            stored: Vec::new(),
            is_read: Vec::new(),
        };
        let mut known: HashMap<&[u8], usize> = HashMap::with_capacity(changes.len());
        for change in changes {
            let mut touch = |key| {
                let next = touched.keys.len();
                let slot = *known.entry(key).or_insert(next);
                if slot == next {
                    touched.keys.push(key);
                    touched.lineage.push(change.lineage);
                }
                touched.lineage[slot] = change.lineage;
                slot
            };
            let [old, new] = [&change.old, &change.new].map(|side| side.as_ref().map(Contributed::key));
            let from = old.map(&mut touch);
            // Mostly a row stays under its key.
            let to = if old == new { from } else { new.map(touch) };
            touched.slots.push([from, to]);
        }
        let wanted: Vec<usize> = match read {
            Read::All => (0..touched.keys.len()).collect(),
            Read::Moved => touched.moved(),
        };
        let places: Vec<Vec<u8>> = wanted.iter().map(|&slot| [prefix, touched.keys[slot]].concat()).collect();
        touched.stored.resize(touched.keys.len(), None);
        touched.is_read.resize(touched.keys.len(), false);
        for (slot, stored) in wanted.into_iter().zip(get_all(state, Space::Entities, &places)?) {
            (touched.stored[slot], touched.is_read[slot]) = (stored, true);
        }
        Ok(touched)
    }

    /// Slots of the keys that a change leaves or enters, ascending.
    fn moved(&self) -> Vec<usize> {
        let moves = self.slots.iter().filter(|[from, to]| from != to);
        let mut slots: Vec<usize> = moves.flatten().flatten().copied().collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}
