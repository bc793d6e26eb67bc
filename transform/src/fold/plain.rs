//! Entities with exactly one contributor per key: the row is that contributor's row.
//!
//! State keeps, per entity key, the contributors that claim it, oldest first. The first owns the row. A second one does
//! not make the row flap between two truths: it waits, visibly held, until the owner lets go.

use std::collections::HashMap;

use syncline_schemas::entity::Entity;
use syncline_schemas::rowcode;

use super::contribution::{put_run, take_run};
use super::emit::{Emitted, Lineage, field_types, null_row};
use super::held;
use super::{ContributionChange, Writes};
use crate::TransformError;
use crate::state::{Space, State};

/// Claims on one entity key, before and after the frame.
struct Claims {
    before: Vec<Vec<u8>>,
    now: Vec<Vec<u8>>,
    lineage: Lineage,
}

/// Rows by contribution key, as they were and as they are.
#[derive(Default)]
struct Rows {
    before: HashMap<Vec<u8>, Vec<u8>>,
    now: HashMap<Vec<u8>, Vec<u8>>,
}

/// Folds the changes of a step into the rows to emit.
pub(super) fn fold(
    entity: &Entity,
    prefix: &[u8],
    changes: Vec<ContributionChange>,
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Emitted, TransformError> {
    let mut order: Vec<Vec<u8>> = Vec::new();
    let mut claims: HashMap<Vec<u8>, Claims> = HashMap::new();
    let mut rows = Rows::default();
    for change in changes {
        let ContributionChange { key, old, new, lineage } = change;
        let moved = old.as_ref().map(|(to, _)| to) != new.as_ref().map(|(to, _)| to);
        if let Some((entity_key, row)) = old {
            let claim = touch(&mut claims, &mut order, entity_key, prefix, lineage, state)?;
            if moved {
                claim.now.retain(|claimant| *claimant != key);
            }
            rows.before.insert(key.clone(), row);
        }
        if let Some((entity_key, row)) = new {
            let claim = touch(&mut claims, &mut order, entity_key, prefix, lineage, state)?;
            if moved {
                claim.now.push(key.clone());
            }
            rows.now.insert(key, row);
        }
    }
    emit(entity, prefix, order, &claims, &rows, state, writes)
}

fn touch<'a>(
    claims: &'a mut HashMap<Vec<u8>, Claims>,
    order: &mut Vec<Vec<u8>>,
    entity_key: Vec<u8>,
    prefix: &[u8],
    lineage: Lineage,
    state: &dyn State,
) -> Result<&'a mut Claims, TransformError> {
    if !claims.contains_key(&entity_key) {
        let before = decode(state.get(Space::Entities, &[prefix, &entity_key].concat())?.as_deref())?;
        order.push(entity_key.clone());
        claims.insert(entity_key.clone(), Claims { now: before.clone(), before, lineage });
    }
    let claim = claims.get_mut(&entity_key).expect("just inserted");
    claim.lineage = lineage;
    Ok(claim)
}

fn emit(
    entity: &Entity,
    prefix: &[u8],
    order: Vec<Vec<u8>>,
    claims: &HashMap<Vec<u8>, Claims>,
    rows: &Rows,
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Emitted, TransformError> {
    let gone = null_row(entity)?;
    let (mut keys, mut images, mut upserts, mut lineage) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for entity_key in order {
        let claim = &claims[&entity_key];
        if claim.now != claim.before {
            let value = (!claim.now.is_empty()).then(|| encode(&claim.now));
            writes.push((Space::Entities, [prefix, &entity_key].concat(), value));
            hold_waiting(claim, writes);
        }
        // A claimant that the frame did not change has the same row before and after: the one in state.
        let was = row_of(claim.before.first(), &rows.before, state)?;
        let is = row_of(claim.now.first(), &rows.now, state)?;
        if was == is {
            continue;
        }
        upserts.push(is.is_some());
        images.push(is.unwrap_or_else(|| gone.clone()));
        lineage.push(claim.lineage);
        keys.push(entity_key);
    }
    let (key_types, row_types) = field_types(entity);
    let mut fields = rowcode::decode(&key_types, keys.iter().map(Vec::as_slice))?;
    fields.extend(rowcode::decode(&row_types, images.iter().map(Vec::as_slice))?);
    Ok(Emitted { fields, upserts, lineage })
}

fn row_of(
    owner: Option<&Vec<u8>>,
    known: &HashMap<Vec<u8>, Vec<u8>>,
    state: &dyn State,
) -> Result<Option<Vec<u8>>, TransformError> {
    let Some(owner) = owner else { return Ok(None) };
    if let Some(row) = known.get(owner) {
        return Ok(Some(row.clone()));
    }
    let record = state.get(Space::Contributions, owner)?;
    let record = record.as_deref().map(super::contribution::Contribution::decode).transpose()?;
    let value = record.and_then(|record| record.value);
    let missing = || TransformError::State("a claimant has no contribution".to_owned());
    value.map(|(_, row)| Some(row)).ok_or_else(missing)
}

/// Those that wait for the key are held; those that wait no longer are not.
fn hold_waiting(claim: &Claims, writes: &mut Writes) {
    let waited = claim.before.get(1..).unwrap_or_default();
    let waits = claim.now.get(1..).unwrap_or_default();
    for released in waited.iter().filter(|claimant| !waits.contains(claimant)) {
        writes.push((Space::Held, held::waiting_key(released), None));
    }
    for caught in waits.iter().filter(|claimant| !waited.contains(claimant)) {
        writes.push((Space::Held, held::waiting_key(caught), Some(held::waiting())));
    }
}

fn encode(claimants: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for claimant in claimants {
        put_run(&mut out, claimant);
    }
    out
}

fn decode(bytes: Option<&[u8]>) -> Result<Vec<Vec<u8>>, TransformError> {
    let mut rest = bytes.unwrap_or_default();
    let mut claimants = Vec::new();
    while !rest.is_empty() {
        let damaged = || TransformError::State("claims on a key do not decode".to_owned());
        let (claimant, left) = take_run(rest).ok_or_else(damaged)?;
        claimants.push(claimant.to_vec());
        rest = left;
    }
    Ok(claimants)
}
