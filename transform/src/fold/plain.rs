//! Entities with exactly one contributor per key: the row is that contributor's row.
//!
//! State keeps, per entity key, the contributors that claim it, oldest first. The first owns the row. A second one does
//! not make the row flap between two truths: it waits, visibly held, until the owner lets go. Whoever has a key and is not held for
//! it owns it: a change that leaves a row under its key asks for that, and does not read the claims.
//!
//! Where an entry takes several steps, claims change step by step, and sinks are told once ([`super::deferred`]).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use syncline_schemas::entity::Entity;
use syncline_schemas::rowcode;

use super::contribution::{Contributed, Contribution, put_run, take_run};
use super::difference::Published;
use super::emit::{Emitted, Lineage, field_types, null_row};
use super::held;
use super::touched::{Read, Touched};
use super::{ContributionChange, Seen, Writes};
use crate::TransformError;
use crate::state::{Space, State, get_all};

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
    let touched = Touched::load(changes, prefix, Read::Moved, state)?;
    let (mut claims, changed) = claims(changes, &touched)?;
    find_owners(changes, &touched, &mut claims, state)?;
    hold_waiting(&claims, now, writes);
    emit(entity, prefix, &touched, &claims, &changed, state, writes)
}

/// What changes do to the claims on the keys that they touch, and the changes by their key.
#[expect(clippy::type_complexity, reason = "two halves of one look at the changes")]
fn claims<'a>(
    changes: &'a [ContributionChange],
    touched: &'a Touched<'a>,
) -> Result<(Vec<Claims<'a>>, HashMap<&'a [u8], &'a ContributionChange>), TransformError> {
    let mut claims = touched
        .stored
        .iter()
        .map(|bytes| decode(bytes.as_deref()).map(|before| Claims { before, after: None }))
        .collect::<Result<Vec<_>, _>>()?;
    let mut changed: HashMap<&[u8], &ContributionChange> = HashMap::with_capacity(changes.len());
    let mut leavers: HashMap<usize, HashSet<&[u8]>> = HashMap::new();
    let mut entrants: Vec<(usize, &[u8])> = Vec::new();
    for (change, &[left, entered]) in changes.iter().zip(&touched.slots) {
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
    // Of those that come in one transaction the order must not depend on how it was cut.
    entrants.sort_by_key(|(_, claimant)| *claimant);
    entrants.into_iter().for_each(|(slot, claimant)| claims[slot].change().push(claimant));
    Ok((claims, changed))
}

/// Of keys that no change leaves or enters the claims were not read: they stay as they are. Of whoever owns such a key it only
/// counts whether it changed; one that has a key and does not wait for it owns it.
fn find_owners<'a>(
    changes: &'a [ContributionChange],
    touched: &Touched<'_>,
    claims: &mut [Claims<'a>],
    state: &dyn State,
) -> Result<(), TransformError> {
    let stays = changes.iter().zip(&touched.slots).filter_map(|(change, &[from, to])| {
        let slot = from.filter(|_| from == to)?;
        (!touched.is_read[slot]).then_some((slot, change.key.as_slice()))
    });
    let (slots, claimants): (Vec<usize>, Vec<&[u8]>) = stays.unzip();
    let places: Vec<Vec<u8>> = claimants.iter().map(|claimant| held::waiting_key(claimant)).collect();
    let waits = get_all(state, Space::Held, &places)?;
    for ((slot, claimant), _) in slots.into_iter().zip(claimants).zip(waits).filter(|(_, waits)| waits.is_none()) {
        claims[slot].before.push(claimant);
    }
    Ok(())
}

/// What changes of a step do, where sinks are told of it later.
pub(super) struct Unsaid<'a> {
    pub(super) touched: Touched<'a>,
    /// By key, of those whose row may be another: what sinks were told of it, see [`Told`].
    pub(super) told: Vec<Option<Option<Vec<u8>>>>,
    /// Keys that have come or gone.
    pub(super) presence: Vec<(Vec<u8>, bool, Lineage)>,
}

/// Takes the changes of a step into the claims, and tells nothing yet.
pub(super) fn add<'a>(
    prefix: &[u8],
    now: Seen,
    changes: &'a [ContributionChange],
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Unsaid<'a>, TransformError> {
    let touched = Touched::load(changes, prefix, Read::All, state)?;
    let (mut told, mut presence) = (vec![None; touched.keys.len()], Vec::new());
    let (claims, changed) = claims(changes, &touched)?;
    hold_waiting(&claims, now, writes);
    for (slot, claim) in claims.iter().enumerate() {
        let key = [prefix, touched.keys[slot]].concat();
        let now = claim.now();
        let owned = claim.before.first();
        if claim.after.is_some() || owned.is_some_and(|owner| changed.contains_key(owner)) {
            let row = row_of(owned, &changed, |change| change.old.as_ref(), state)?;
            told[slot] = Some(row.map(|row| Told { claims: &encode(&claim.before), row: &row }.encode()));
        }
        if now != claim.before {
            if now.is_empty() != claim.before.is_empty() {
                presence.push((key.clone(), !now.is_empty(), touched.lineage[slot]));
            }
            writes.push((Space::Entities, key, (!now.is_empty()).then(|| encode(now))));
        }
    }
    drop((claims, changed));
    Ok(Unsaid { touched, told, presence })
}

/// The claims on a key when sinks were last told of its row, and that row.
pub(super) struct Told<'a> {
    claims: &'a [u8],
    pub(super) row: &'a [u8],
}

impl<'a> Told<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_run(&mut out, self.claims);
        out.extend_from_slice(self.row);
        out
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, TransformError> {
        let damaged = || TransformError::State("what was told of a row does not decode".to_owned());
        let (claims, row) = take_run(bytes).ok_or_else(damaged)?;
        Ok(Self { claims, row })
    }
}

/// The rows that sinks have not seen yet, of keys whose claims are in state. Whoever claimed a key before comes before those
/// who came since, in the order that there was.
#[expect(clippy::too_many_arguments, reason = "as of a step")]
pub(super) fn tell(
    entity: &Entity,
    prefix: &[u8],
    now: Seen,
    keys: &[&[u8]],
    lineage: &[Lineage],
    told: &[Option<Vec<u8>>],
    stored: &[Option<Vec<u8>>],
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Emitted, TransformError> {
    let told = told.iter().map(|told| told.as_deref().map(Told::decode).transpose()).collect::<Result<Vec<_>, _>>()?;
    let (gone, unchanged) = (null_row(entity)?, HashMap::new());
    let mut claims = Vec::with_capacity(keys.len());
    let (mut changed_keys, mut images, mut upserts, mut causes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (slot, key) in keys.iter().enumerate() {
        let before = decode(told[slot].as_ref().map(|told| told.claims))?;
        let now = decode(stored[slot].as_deref())?;
        let after = in_order(&before, &now);
        let is = row_of(after.first(), &unchanged, |_| None, state)?;
        if after != now {
            writes.push((Space::Entities, [prefix, key].concat(), Some(encode(&after))));
            claims.push(Claims { before: now, after: Some(after) });
        }
        if told[slot].as_ref().map(|told| told.row) == is.as_deref() {
            continue;
        }
        upserts.push(is.is_some());
        images.push(is.unwrap_or(Cow::Borrowed(&gone)));
        causes.push(lineage[slot]);
        changed_keys.push(*key);
    }
    hold_waiting(&claims, now, writes);
    let (key_types, row_types) = field_types(entity);
    let mut fields = rowcode::decode(&key_types, changed_keys)?;
    fields.extend(rowcode::decode(&row_types, images.iter().map(AsRef::as_ref))?);
    Ok(Emitted { fields, upserts, lineage: causes, presence: Vec::new() })
}

/// Claimants, those of before first, as if all others had come at once.
fn in_order<'a>(before: &[&'a [u8]], now: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let (were, are): (HashSet<_>, HashSet<_>) = (before.iter().collect(), now.iter().collect());
    let mut ordered: Vec<&[u8]> = before.iter().filter(|claimant| are.contains(claimant)).copied().collect();
    let stay = ordered.len();
    ordered.extend(now.iter().filter(|claimant| !were.contains(claimant)));
    ordered[stay..].sort_unstable();
    ordered
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
