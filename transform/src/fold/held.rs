//! Why a driving row or a sum is held, as the operator will read it: one record per mapping and driving key, or per
//! entity key. That a row waits for its key is not only told: it says who does not own the key ([`super::plain`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use syncline_schemas::ident::LogOffset;

use super::catalog::{self, Numbered};
use crate::TransformError;
use crate::mapping::RowFault;
use crate::state::{Space, State};

/// Kinds of records, which begin their keys: a row that breaks a rule, one that waits for its key, a sum that does not fit.
pub(super) const FAULT: u8 = 0;
pub(super) const WAITING: u8 = 1;
pub(super) const SUM: u8 = 2;
/// Rows that are delivered and do not go together, see [`super::group`].
pub(super) const GROUP: u8 = 3;
/// All kinds.
pub(super) const KINDS: [u8; 4] = [FAULT, WAITING, SUM, GROUP];

/// True for the key of a row or a sum that is held.
#[must_use]
pub fn is_held(key: &[u8]) -> bool {
    key.first().is_some_and(|kind| [FAULT, WAITING, SUM].contains(kind))
}

/// When something was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The log entry.
    pub offset: LogOffset,
    /// When it was captured, in microseconds since 1970.
    pub at: i64,
}

/// Why something is held: rule, field, reason and position in the source, then where it was seen first and last, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) rule: String,
    pub(super) field: String,
    pub(super) reason: String,
    pub(super) position: String,
    pub(super) first: Seen,
    pub(super) last: Seen,
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        // A line each: names of columns and positions come from the source.
        let lines = [&self.rule, &self.field, &self.reason, &self.position].map(|line| line.replace('\n', " "));
        let mut text = lines.join("\n");
        for Seen { offset, at } in [self.first, self.last] {
            let _ = write!(text, "\n{offset} {at}");
        }
        text.into_bytes()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, TransformError> {
        let read = || {
            let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
            let mut text = || lines.next().map(str::to_owned);
            let (rule, field, reason, position) = (text()?, text()?, text()?, text()?);
            let mut seen = || {
                let line = text()?;
                let (offset, at) = line.split_once(' ')?;
                Some(Seen { offset: LogOffset(offset.parse().ok()?), at: at.parse().ok()? })
            };
            Some(Self { rule, field, reason, position, first: seen()?, last: seen()? })
        };
        read().ok_or_else(|| TransformError::State("the record of a held row does not decode".to_owned()))
    }
}

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

/// The record of a fault, whose beginning is kept where the record before was of the same.
pub(super) fn record(
    fault: &RowFault,
    position: String,
    now: Seen,
    before: Option<Vec<u8>>,
) -> Result<Vec<u8>, TransformError> {
    let RowFault { rule, field, reason } = fault.clone();
    let before = before.as_deref().map(Record::decode).transpose()?;
    let first = before.filter(|it| it.rule == rule && it.field == field).map_or(now, |it| it.first);
    Ok(Record { rule, field, reason, position, first, last: now }.encode())
}

/// The record of a row that waits for its key.
pub(super) fn waiting(now: Seen) -> Vec<u8> {
    let reason = "another row of the source already gives this key; the first one stands until it is gone".to_owned();
    let (rule, field, position) = ("DQ_ID_AMBIGUOUS".to_owned(), String::new(), String::new());
    Record { rule, field, reason, position, first: now, last: now }.encode()
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
    for Numbered { name, id } in catalog::numbered(state, catalog::MAPPING)? {
        let mut rules = BTreeMap::new();
        for kind in [FAULT, WAITING] {
            now.complete &= count_rules(state, kind, id, limit, &mut rules)?;
        }
        let entity = catalog::entity_of(&name).to_owned();
        let held = |(rule, rows)| HeldRows { mapping: Some(name.clone()), entity: entity.clone(), rule, rows };
        now.by.extend(rules.into_iter().map(held));
    }
    for Numbered { name: entity, id } in catalog::numbered(state, catalog::ENTITY)? {
        let mut rules = BTreeMap::new();
        now.complete &= count_rules(state, SUM, id, limit, &mut rules)?;
        let held = |(rule, rows)| HeldRows { mapping: None, entity: entity.clone(), rule, rows };
        now.by.extend(rules.into_iter().map(held));
    }
    Ok(now)
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
