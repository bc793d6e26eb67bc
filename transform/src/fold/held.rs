//! Why a driving row or a sum is held, as the operator will read it: one record per mapping and driving key, or per
//! entity key.

use std::collections::BTreeMap;

use syncline_schemas::ident::LogOffset;

use crate::TransformError;
use crate::mapping::RowFault;
use crate::state::{Space, State};

const FAULT: u8 = 0;
const WAITING: u8 = 1;
const SUM: u8 = 2;

/// Key of the record of a row that breaks a rule.
pub(super) fn fault_key(contribution: &[u8]) -> Vec<u8> {
    [&[FAULT], contribution].concat()
}

/// Key of the record of a row that waits for another to let go of its entity key.
pub(super) fn waiting_key(contribution: &[u8]) -> Vec<u8> {
    [&[WAITING], contribution].concat()
}

/// Key of the record of a sum that does not fit its fields.
pub(super) fn sum_key(prefix: &[u8], entity_key: &[u8]) -> Vec<u8> {
    [&[SUM], prefix, entity_key].concat()
}

/// The record: rule, field, reason and log offset, a line each.
pub(super) fn record(fault: &RowFault, offset: LogOffset) -> Vec<u8> {
    format!("{}\n{}\n{}\n{offset}", fault.rule, fault.field, fault.reason).into_bytes()
}

/// The record of a waiting row.
pub(super) fn waiting() -> Vec<u8> {
    "DQ_ID_AMBIGUOUS\n\nanother row of the source already gives this key; the first one stands until it is gone\n"
        .as_bytes()
        .to_vec()
}

/// Rows that one mapping holds for one rule, or the sums of one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRows {
    /// The mapping; none for sums, to which several may add.
    pub mapping: Option<String>,
    /// The entity.
    pub entity: String,
    /// The rule, as in `DQ_REQUIRED`.
    pub rule: String,
    /// How many.
    pub rows: u64,
}

/// What is held at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldNow {
    /// By mapping, entity and rule; nothing that is zero.
    pub by: Vec<HeldRows>,
    /// False where a mapping holds more rows than were looked at, so that the counts are the least that is held.
    pub complete: bool,
}

/// Counts what is held now, looking at so many rows of each mapping and kind at most.
///
/// # Errors
/// [`TransformError::State`] where the state cannot be read.
pub fn held_now(state: &dyn State, limit: usize) -> Result<HeldNow, TransformError> {
    let mut now = HeldNow { by: Vec::new(), complete: true };
    for (name, id) in numbered(state, b"mapping/")? {
        let mut rules = BTreeMap::new();
        for kind in [FAULT, WAITING] {
            now.complete &= count_rules(state, kind, id, limit, &mut rules)?;
        }
        let stem = name.rsplit('/').next().unwrap_or(&name);
        let entity = stem.split('.').next().unwrap_or(stem).to_owned();
        let held = |(rule, rows)| HeldRows { mapping: Some(name.clone()), entity: entity.clone(), rule, rows };
        now.by.extend(rules.into_iter().map(held));
    }
    for (entity, id) in numbered(state, b"entity/")? {
        let mut rules = BTreeMap::new();
        now.complete &= count_rules(state, SUM, id, limit, &mut rules)?;
        let held = |(rule, rows)| HeldRows { mapping: None, entity: entity.clone(), rule, rows };
        now.by.extend(rules.into_iter().map(held));
    }
    Ok(now)
}

/// Names in the catalogue under a prefix, each with the number that begins its keys.
fn numbered(state: &dyn State, prefix: &[u8]) -> Result<Vec<(String, [u8; 4])>, TransformError> {
    let known = state.scan(Space::Catalog, prefix, &[], usize::MAX)?.into_iter().filter_map(|(key, value)| {
        let name = String::from_utf8(key.get(prefix.len()..)?.to_vec()).ok()?;
        Some((name, *value.first_chunk()?))
    });
    Ok(known.collect())
}

/// Adds up records by rule; false where there may be more.
fn count_rules(
    state: &dyn State,
    kind: u8,
    id: [u8; 4],
    limit: usize,
    rules: &mut BTreeMap<String, u64>,
) -> Result<bool, TransformError> {
    let records = state.scan(Space::Held, &[&[kind], id.as_slice()].concat(), &[], limit)?;
    let complete = records.len() < limit;
    for (_, record) in records {
        let rule = record.split(|&byte| byte == b'\n').next().unwrap_or_default();
        *rules.entry(String::from_utf8_lossy(rule).into_owned()).or_default() += 1;
    }
    Ok(complete)
}
