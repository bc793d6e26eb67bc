//! Nodes that hold the same items (domain 2.5, H6): most likely one node that was entered twice.
//!
//! Two nodes are twins where each has three items or more and they share 95 % of all that they have. Sets are never compared:
//! how many items a node has and how many two nodes share is kept in state, and an item that moves changes only the numbers
//! of nodes that it lies under. A membership with an end does not count: items that moved on have left nothing behind.
//!
//! ```text
//! Index  N | 0 | item's group               nodes that the item was counted under, each behind its length
//!        N | 1 | tree's group | node        how many items it has, u64
//!        N | 2 | tree's group | node | node how many both have, u64; once each way
//! ```
//!
//! What is found is listed at the later node of the two, in the order of their keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::datatypes::DataType;
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::rowcode;

use super::{Group, open_until_closed, place};
use crate::TransformError;
use crate::fold::contribution::{put_run, take_run};
use crate::fold::emit::field_types;
use crate::fold::{Work, Writes};
use crate::mapping::RowFault;
use crate::state::{Space, State};

/// The rule, one of the nodes' entity.
pub(super) const RULE: &str = "H6";
/// The entities of the nodes and of what lies under them, and how many fields name a tree.
pub(super) const NODES: &str = "item_hierarchy";
pub(super) const MEMBERS: &str = "item_hierarchy_member";
const TREE_FIELDS: usize = 2;
/// Nodes of fewer items share them by chance.
const ITEMS_MIN: u64 = 3;
const SHARED_MIN_PERCENT: u64 = 95;

/// Of a row of one value that is not null.
const BITMAP: &[u8] = &[0];

const NUMBERS: u8 = b'N';
const COUNTED: u8 = 0;
const ITEMS: u8 = 1;
const SHARED: u8 = 2;

/// A node of a tree: the tree's group, and the id as it lies in the node's key behind that. Together they are the key.
type Node = (Vec<u8>, Vec<u8>);

/// The numbers of one step, and the nodes whose numbers it has changed.
pub(super) struct Twins<'a> {
    state: &'a dyn State,
    numbers: BTreeMap<Vec<u8>, u64>,
    counted: BTreeMap<Vec<u8>, Vec<u8>>,
    changed: BTreeSet<Node>,
}

impl<'a> Twins<'a> {
    pub(super) fn new(state: &'a dyn State) -> Self {
        Self { state, numbers: BTreeMap::new(), counted: BTreeMap::new(), changed: BTreeSet::new() }
    }

    /// Counts an item's memberships as they are now, instead of as they were.
    pub(super) fn count(&mut self, members: &Group<'_>, group: &[u8]) -> Result<(), TransformError> {
        let open = (0..members.rows).filter(|&row| members.date("valid_to", row).is_none());
        let now: BTreeSet<&str> = open.filter_map(|row| members.text("node_id", row)).collect();
        let now = now.into_iter().map(code).collect::<Result<BTreeSet<Vec<u8>>, _>>()?;
        let counted = [&[NUMBERS, COUNTED][..], group].concat();
        let before = self.state.get(Space::Index, &counted)?.unwrap_or_default();
        let before = nodes(&before);
        if before == now {
            return Ok(());
        }
        let tree = tree_of(members.entity, group)?;
        for (nodes, by) in [(&before, -1), (&now, 1)] {
            for node in nodes {
                self.add(&items(&tree, node), by)?;
                for other in nodes.iter().filter(|other| *other != node) {
                    self.add(&shared(&tree, node, Some(other)), by)?;
                }
                self.changed.insert((tree.clone(), node.clone()));
            }
        }
        let mut value = Vec::new();
        now.iter().for_each(|node| put_run(&mut value, node));
        self.counted.insert(counted, value);
        Ok(())
    }

    fn number(&self, key: &[u8]) -> Result<u64, TransformError> {
        if let Some(number) = self.numbers.get(key) {
            return Ok(*number);
        }
        self.state.get(Space::Index, key)?.map_or(Ok(0), |bytes| decode(&bytes))
    }

    fn add(&mut self, key: &[u8], by: i64) -> Result<(), TransformError> {
        let number = self.number(key)?.checked_add_signed(by).ok_or_else(damaged)?;
        self.numbers.insert(key.to_vec(), number);
        Ok(())
    }

    /// The nodes that share items with one, in the order of their keys, with how many.
    fn partners(&self, (tree, node): &Node) -> Result<BTreeMap<Vec<u8>, u64>, TransformError> {
        let prefix = shared(tree, node, None);
        let mut partners = BTreeMap::new();
        for (key, bytes) in self.state.scan(Space::Index, &prefix, &[], usize::MAX)? {
            partners.insert(key[prefix.len()..].to_vec(), decode(&bytes)?);
        }
        let newer = self.numbers.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        partners.extend(newer.map(|(key, number)| (key[prefix.len()..].to_vec(), *number)));
        partners.retain(|_, number| *number > 0);
        Ok(partners)
    }

    /// The first node before one that holds the same, with how many items are in both and in either.
    fn twin(&self, at: &Node) -> Result<Option<(Vec<u8>, u64, u64)>, TransformError> {
        let (tree, node) = at;
        let own = self.number(&items(tree, node))?;
        for (other, both) in self.partners(at)?.into_iter().take_while(|(other, _)| other < node) {
            let others = self.number(&items(tree, &other))?;
            let either = own + others - both;
            if own.min(others) >= ITEMS_MIN && both * 100 >= either * SHARED_MIN_PERCENT {
                return Ok(Some((other, both, either)));
            }
        }
        Ok(None)
    }

    /// Lists what is found of the nodes whose numbers have changed, closes what was, and writes the numbers down.
    pub(super) fn finish(self, nodes: [u8; 4], work: &Work<'_, '_>, writes: &mut Writes) -> Result<(), TransformError> {
        let mut concerned = self.changed.clone();
        for node in &self.changed {
            let partners = self.partners(node)?.into_keys();
            concerned.extend(partners.map(|partner| (node.0.clone(), partner)));
        }
        for node in concerned {
            let mut fault = None;
            if let Some((other, both, either)) = self.twin(&node)? {
                let reason = format!("it holds the items of {}: {both} of {either} lie under both", text(&other)?);
                fault = Some(RowFault { rule: RULE.to_owned(), field: String::new(), reason });
            }
            let place = [place(nodes, RULE).as_slice(), &node.0, &node.1].concat();
            open_until_closed(place, fault, work, writes)?;
        }
        let number =
            |(key, number): (Vec<u8>, u64)| (Space::Index, key, (number > 0).then(|| number.to_be_bytes().to_vec()));
        writes.extend(self.numbers.into_iter().map(number));
        let counted = self.counted.into_iter();
        writes.extend(counted.map(|(key, value)| (Space::Index, key, (!value.is_empty()).then_some(value))));
        Ok(())
    }
}

fn items(tree: &[u8], node: &[u8]) -> Vec<u8> {
    [&[NUMBERS, ITEMS][..], tree, node].concat()
}

/// Of two nodes, or what begins those of one.
fn shared(tree: &[u8], node: &[u8], other: Option<&Vec<u8>>) -> Vec<u8> {
    [&[NUMBERS, SHARED][..], tree, node, other.map(Vec::as_slice).unwrap_or_default()].concat()
}

/// What names the tree of an item's group.
fn tree_of(entity: &Entity, group: &[u8]) -> Result<Vec<u8>, TransformError> {
    let (mut types, _) = field_types(entity);
    types.truncate(entity.group_fields);
    let columns = rowcode::decode(&types, [group])?;
    Ok(rowcode::encode(&columns[..TREE_FIELDS])?.row(0).to_vec())
}

/// A value behind others: without the bitmap of nulls, which is in front of them all and has none here.
fn code(node: &str) -> Result<Vec<u8>, TransformError> {
    let column: ArrayRef = Arc::new(StringArray::from(vec![node]));
    Ok(rowcode::encode(&[column])?.row(0)[BITMAP.len()..].to_vec())
}

fn text(node: &[u8]) -> Result<String, TransformError> {
    let row = [BITMAP, node].concat();
    let columns = rowcode::decode(&[DataType::Utf8], [row.as_slice()])?;
    Ok(columns[0].as_string::<i32>().value(0).to_owned())
}

fn nodes(bytes: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut rest = bytes;
    std::iter::from_fn(|| {
        let (node, left) = take_run(rest)?;
        rest = left;
        Some(node.to_vec())
    })
    .collect()
}

fn decode(bytes: &[u8]) -> Result<u64, TransformError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| damaged())
}

fn damaged() -> TransformError {
    TransformError::State("the numbers of items by node do not decode".to_owned())
}

/// The place of the nodes' entity among all.
pub(super) fn nodes_entity() -> usize {
    entity::all().iter().position(|entity| entity.name == NODES).expect("it is canonical")
}
