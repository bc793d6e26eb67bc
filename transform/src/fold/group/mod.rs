//! Rules over rows that belong together: whether the nodes of a tree are one, whether the conversions of an item agree.
//!
//! A group is the rows of an entity that share its first key fields. One whose rows a step has changed is looked at once more
//! before the entry is finished, as a task among [the others](super::tasks). The rows are delivered as they are, because none
//! of them is wrong alone; what does not go together is listed beside what is held, and closes by itself.
//!
//! ```text
//! held  3 | entity u32 | rule, varint length in front | key of the row that it is about   ->  see held.rs
//! ```

mod members;
mod tree;
mod twins;
mod units;

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type, Int64Type};
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::rowcode;

use self::twins::Twins;
use super::contribution::put_run;
use super::difference::Published;
use super::emit::{Emitted, field_types};
use super::held;
use super::tasks::{Task, What, Why};
use super::{Fold, Work, Writes, plain};
use crate::TransformError;
use crate::mapping::RowFault;
use crate::state::Space;

/// What does not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// The row that it is about.
    row: usize,
    rule: &'static str,
    reason: String,
}

/// The rows of a group, column by column, in key order.
struct Group<'a> {
    entity: &'a Entity,
    columns: Vec<ArrayRef>,
    rows: usize,
}

impl Group<'_> {
    fn column(&self, field: &str) -> &ArrayRef {
        let (at, _) = self.entity.field(field).expect("a rule names fields of its entity");
        &self.columns[at]
    }

    /// A text; none where it is null or empty.
    fn text(&self, field: &str, row: usize) -> Option<&str> {
        let texts = self.column(field).as_string::<i32>();
        (!texts.is_null(row)).then(|| texts.value(row)).filter(|text| !text.is_empty())
    }

    fn flag(&self, field: &str, row: usize) -> bool {
        let flags = self.column(field).as_boolean();
        !flags.is_null(row) && flags.value(row)
    }

    fn integer(&self, field: &str, row: usize) -> Option<i64> {
        let column = self.column(field);
        if column.is_null(row) {
            return None;
        }
        let narrow = column.as_primitive_opt::<Int32Type>().map(|values| i64::from(values.value(row)));
        narrow.or_else(|| column.as_primitive_opt::<Int64Type>().map(|values| values.value(row)))
    }

    /// Days since 1970.
    fn date(&self, field: &str, row: usize) -> Option<i32> {
        let days = self.column(field).as_primitive::<Date32Type>();
        (!days.is_null(row)).then(|| days.value(row))
    }

    /// A number in units of its last digit.
    fn units(&self, field: &str, row: usize) -> i128 {
        self.column(field).as_primitive::<Decimal128Type>().value(row)
    }

    fn judge(&self) -> Vec<Finding> {
        match self.entity.name.as_str() {
            twins::NODES => tree::judge(self),
            twins::MEMBERS => members::judge(self),
            "uom_conversion" => units::judge(self),
            _ => Vec::new(),
        }
    }
}

/// The groups whose rows have changed, as tasks.
pub(super) fn touched(entity: &Entity, prefix: [u8; 4], emitted: &Emitted) -> Result<Vec<Task>, TransformError> {
    if entity.group_fields == 0 || emitted.upserts.is_empty() {
        return Ok(Vec::new());
    }
    let groups = rowcode::encode(&emitted.fields[..entity.group_fields])?;
    let mut tasks = BTreeMap::new();
    for (row, lineage) in emitted.lineage.iter().enumerate() {
        tasks.entry(groups.row(row)).or_insert(*lineage);
    }
    let task =
        |(group, lineage): (&[u8], _)| Task::new(What::Group { prefix, group: group.to_vec() }, Why::Row(lineage));
    Ok(tasks.into_iter().map(task).collect())
}

impl Fold {
    /// Looks at groups again, until so many rows are read.
    pub(super) fn look_at_groups(&self, tasks: Vec<Task>, work: &Work<'_, '_>) -> Result<Writes, TransformError> {
        let (mut writes, mut read) = (Writes::new(), 0);
        let mut twins = Twins::new(work.state);
        for task in tasks {
            let What::Group { prefix, group } = &task.what else { break };
            if read >= self.chunk {
                break;
            }
            if let Some(index) = self.roster.entity_of(*prefix) {
                read += look(&entity::all()[index], *prefix, group, &mut twins, work, &mut writes)?;
            }
            task.remove(&mut writes);
        }
        twins.finish(self.roster.entity_prefix(twins::nodes_entity()), work, &mut writes)?;
        Ok(writes)
    }
}

/// Compares what does not go together in a group with what was known of it; gives the number of its rows.
fn look(
    entity: &Entity,
    prefix: [u8; 4],
    group: &[u8],
    twins: &mut Twins<'_>,
    work: &Work<'_, '_>,
    writes: &mut Writes,
) -> Result<usize, TransformError> {
    let stored = work.state.scan(Space::Entities, &[&prefix, group].concat(), &[], usize::MAX)?;
    let (keys, claims): (Vec<_>, Vec<_>) = stored.into_iter().map(|(key, claims)| (key, Some(claims))).unzip();
    let published = plain::published(&claims, work.state)?;
    let rows = keys.iter().zip(&published);
    let rows = rows.filter_map(|(key, row)| if let Published::Row(row) = row { Some((key, row)) } else { None });
    let rows: Vec<(&[u8], &[u8])> = rows.map(|(key, row)| (&key[prefix.len()..], row.as_slice())).collect();
    let (key_types, row_types) = field_types(entity);
    let mut columns = rowcode::decode(&key_types, rows.iter().map(|(key, _)| *key))?;
    columns.extend(rowcode::decode(&row_types, rows.iter().map(|(_, row)| *row))?);
    let members = Group { entity, columns, rows: rows.len() };
    let findings = members.judge();
    if entity.name == twins::MEMBERS {
        twins.count(&members, group)?;
    }

    let mut open: BTreeSet<Vec<u8>> = BTreeSet::new();
    // Those of twins are opened and closed by what lies under the nodes.
    for rule in entity.group_rules.iter().filter(|rule| rule.id != twins::RULE) {
        let begin = [place(prefix, &rule.id).as_slice(), group].concat();
        open.extend(work.state.scan(Space::Held, &begin, &[], usize::MAX)?.into_iter().map(|(key, _)| key));
    }
    for Finding { row, rule, reason } in findings {
        let place = [place(prefix, rule).as_slice(), rows[row].0].concat();
        open.remove(&place);
        let fault = RowFault { rule: rule.to_owned(), field: String::new(), reason };
        open_until_closed(place, Some(fault), work, writes)?;
    }
    writes.extend(open.into_iter().map(|closed| (Space::Held, closed, None)));
    Ok(rows.len())
}

/// Lists what was found at a place, since when it was; or nothing any more.
fn open_until_closed(
    place: Vec<u8>,
    fault: Option<RowFault>,
    work: &Work<'_, '_>,
    writes: &mut Writes,
) -> Result<(), TransformError> {
    let before = work.state.get(Space::Held, &place)?;
    match fault {
        Some(fault) => {
            let record = held::record(&fault, String::new(), work.seen(), before)?;
            writes.push((Space::Held, place, Some(record)));
        }
        None => writes.extend(before.map(|_| (Space::Held, place, None))),
    }
    Ok(())
}

/// What begins the keys of a rule's records.
fn place(prefix: [u8; 4], rule: &str) -> Vec<u8> {
    let mut place = [&[held::GROUP], prefix.as_slice()].concat();
    put_run(&mut place, rule.as_bytes());
    place
}
