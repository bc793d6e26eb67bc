//! Entities with exactly one contributor per key: the row is that contributor's row.
//!
//! State keeps, per entity key, the contributors that claim it, oldest first. The first owns the row. A second one does
//! not make the row flap between two truths: it waits, visibly held, until the owner lets go.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use syncline_schemas::entity::Entity;
use syncline_schemas::rowcode;

use super::contribution::{Contributed, Contribution, put_run, take_run};
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
    for change in changes {
        let slot = |side: &Option<Contributed>| side.as_ref().map(|contributed| touched.slots[contributed.key()]);
        let (left, entered) = (slot(&change.old), slot(&change.new));
        if left != entered {
            if let Some(slot) = left {
                claims[slot].change().retain(|claimant| *claimant != change.key);
            }
            if let Some(slot) = entered {
                claims[slot].change().push(&change.key);
            }
        }
        changed.insert(&change.key, change);
    }
    claims.iter().filter(|claim| claim.after.is_some()).for_each(|claim| hold_waiting(claim, now, writes));
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

/// Those that wait for the key are held; those that wait no longer are not.
fn hold_waiting(claim: &Claims<'_>, now: Seen, writes: &mut Writes) {
    let waited = claim.before.get(1..).unwrap_or_default();
    let waits = claim.now().get(1..).unwrap_or_default();
    // Sets, because a mapping with too coarse a key makes a whole table wait for one row.
    let (were, are): (HashSet<_>, HashSet<_>) = (waited.iter().collect(), waits.iter().collect());
    for released in waited.iter().filter(|claimant| !are.contains(claimant)) {
        writes.push((Space::Held, held::waiting_key(released), None));
    }
    for caught in waits.iter().filter(|claimant| !were.contains(claimant)) {
        writes.push((Space::Held, held::waiting_key(caught), Some(held::waiting(now))));
    }
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
