//! Entities with exactly one contributor per key: the row is that contributor's row.
//!
//! State keeps, per entity key, the contributors that claim it, oldest first. The first owns the row. A second one does
//! not make the row flap between two truths: it waits, visibly held, until the owner lets go.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use syncline_schemas::entity::Entity;
use syncline_schemas::rowcode;

use super::contribution::{Contributed, Contribution, put_run, take_run};
use super::difference::Published;
use super::emit::{Emitted, field_types, null_row};
use super::held;
use super::touched::Touched;
use super::{ContributionChange, Seen, Writes};
use crate::TransformError;
use crate::state::{Space, State};

/// Claims on one entity key, oldest first, before and after the step.
struct Claims<'a> {
    before: Vec<&'a [u8]>,
    /// None while the step has not changed them.
    after: Option<Vec<&'a [u8]>>,
}

impl<'a> Claims<'a> {
    fn now(&self) -> &[&'a [u8]] {
        self.after.as_deref().unwrap_or(&self.before)
    }

    fn change(&mut self) -> &mut Vec<&'a [u8]> {
        self.after.get_or_insert_with(|| self.before.clone())
    }
}

/// Folds the changes of a step into the rows to emit.
pub(super) fn fold(
    entity: &Entity,
    prefix: &[u8],
    now: Seen,
    changes: &[ContributionChange],
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Emitted, TransformError> {
    let touched = Touched::load(changes, prefix, state)?;
    let mut claims = touched
        .stored
        .iter()
        .map(|bytes| decode(bytes.as_deref()).map(|before| Claims { before, after: None }))
        .collect::<Result<Vec<_>, _>>()?;
    let mut changed: HashMap<&[u8], &ContributionChange> = HashMap::with_capacity(changes.len());
    let mut leavers: HashMap<usize, HashSet<&[u8]>> = HashMap::new();
    let mut entrants: Vec<(usize, &[u8])> = Vec::new();
    for change in changes {
        let slot = |side: &Option<Contributed>| side.as_ref().map(|contributed| touched.slots[contributed.key()]);
        let (left, entered) = (slot(&change.old), slot(&change.new));
        if left != entered {
            if let Some(slot) = left {
                leavers.entry(slot).or_default().insert(&change.key);
            }
            entrants.extend(entered.map(|slot| (slot, change.key.as_slice())));
        }
        changed.insert(&change.key, change);
    }
    // Of each key at once: a mapping with too coarse a key makes a whole table claim one.
    for (slot, leavers) in leavers {
        claims[slot].change().retain(|claimant| !leavers.contains(claimant));
    }
    entrants.into_iter().for_each(|(slot, claimant)| claims[slot].change().push(claimant));
    hold_waiting(&claims, now, writes);
    emit(entity, prefix, &touched, &claims, &changed, state, writes)
}

fn emit(
    entity: &Entity,
    prefix: &[u8],
    touched: &Touched<'_>,
    claims: &[Claims<'_>],
    changed: &HashMap<&[u8], &ContributionChange>,
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Emitted, TransformError> {
    let gone = null_row(entity)?;
    let (mut keys, mut images, mut upserts, mut lineage) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut presence = Vec::new();
    for (slot, claim) in claims.iter().enumerate() {
        let key = touched.keys[slot];
        let now = claim.now();
        if now != claim.before {
            let value = (!now.is_empty()).then(|| encode(now));
            if now.is_empty() != claim.before.is_empty() {
                presence.push(([prefix, key].concat(), !now.is_empty(), touched.lineage[slot]));
            }
            writes.push((Space::Entities, [prefix, key].concat(), value));
        }
        let (owned, owns) = (claim.before.first(), now.first());
        // Only those that wait have changed.
        if owned == owns && owns.is_none_or(|owner| !changed.contains_key(owner)) {
            continue;
        }
        let was = row_of(owned, changed, |change| change.old.as_ref(), state)?;
        let is = row_of(owns, changed, |change| change.new.as_ref(), state)?;
        if was == is {
            continue;
        }
        upserts.push(is.is_some());
        images.push(is.unwrap_or(Cow::Borrowed(&gone)));
        lineage.push(touched.lineage[slot]);
        keys.push(key);
    }
    let (key_types, row_types) = field_types(entity);
    let mut fields = rowcode::decode(&key_types, keys)?;
    fields.extend(rowcode::decode(&row_types, images.iter().map(AsRef::as_ref))?);
    Ok(Emitted { fields, upserts, lineage, presence })
}

/// What sinks have of some keys, by what state holds of each.
pub(super) fn published(stored: &[Option<Vec<u8>>], state: &dyn State) -> Result<Vec<Published>, TransformError> {
    let unchanged = HashMap::new();
    let row = |bytes: &Option<Vec<u8>>| {
        let claimants = decode(bytes.as_deref())?;
        let row = row_of(claimants.first(), &unchanged, |_| None, state)?;
        Ok(row.map_or(Published::Nothing, |row| Published::Row(row.into_owned())))
    };
    stored.iter().map(row).collect()
}

/// The row of an owner, before or after the step; of one that did not change, the row in state.
fn row_of<'a>(
    owner: Option<&&[u8]>,
    changed: &HashMap<&[u8], &'a ContributionChange>,
    side: fn(&ContributionChange) -> Option<&Contributed>,
    state: &dyn State,
) -> Result<Option<Cow<'a, [u8]>>, TransformError> {
    let Some(owner) = owner else { return Ok(None) };
    let missing = || TransformError::State("a claimant has no contribution".to_owned());
    if let Some(change) = changed.get(*owner) {
        return Ok(Some(Cow::Borrowed(side(change).ok_or_else(missing)?.row())));
    }
    let record = state.get(Space::Contributions, owner)?.ok_or_else(missing)?;
    let (_, row) = Contribution::decode(&record)?.value.ok_or_else(missing)?;
    Ok(Some(Cow::Owned(row.to_vec())))
}

/// Those that wait for a key are held; those that wait no longer are not. A row may let go of one key and wait for another.
fn hold_waiting(claims: &[Claims<'_>], now: Seen, writes: &mut Writes) {
    let (mut released, mut caught) = (Writes::new(), Writes::new());
    for claim in claims.iter().filter(|claim| claim.after.is_some()) {
        let waited = claim.before.get(1..).unwrap_or_default();
        let waits = claim.now().get(1..).unwrap_or_default();
        let (were, are): (HashSet<_>, HashSet<_>) = (waited.iter().collect(), waits.iter().collect());
        let gone = waited.iter().filter(|claimant| !are.contains(claimant));
        released.extend(gone.map(|claimant| (Space::Held, held::waiting_key(claimant), None)));
        let fresh = waits.iter().filter(|claimant| !were.contains(claimant));
        caught.extend(fresh.map(|claimant| (Space::Held, held::waiting_key(claimant), Some(held::waiting(now)))));
    }
    writes.append(&mut released);
    writes.append(&mut caught);
}

fn encode(claimants: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for claimant in claimants {
        put_run(&mut out, claimant);
    }
    out
}

fn decode(bytes: Option<&[u8]>) -> Result<Vec<&[u8]>, TransformError> {
    let mut rest = bytes.unwrap_or_default();
    let mut claimants = Vec::new();
    while !rest.is_empty() {
        let damaged = || TransformError::State("claims on a key do not decode".to_owned());
        let (claimant, left) = take_run(rest).ok_or_else(damaged)?;
        claimants.push(claimant);
        rest = left;
    }
    Ok(claimants)
}
