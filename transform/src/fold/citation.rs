//! References between entities: a row is good once the rows that it cites are there (domain 0.6).
//!
//! A reference counts where some mapping fills the entity that it leads to. A row that cites what is not there is parked: it
//! is held like a faulty one, its source row is kept, and the index finds it by the key that it waits for. When that key
//! appears it is evaluated again. One that cites several absent rows waits for them one after the other.
//!
//! Deleting a cited row takes nothing back: what was said of it was true when it was said, and a target keeps what refers to
//! a deleted master. Invariant: within a step entities are emitted in their order, and references lead only backwards in
//! it, so a row and what it cites may come in one transaction in any order.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use syncline_schemas::entity::{self, Entity, Reference};
use syncline_schemas::rowcode;

use super::roster::Citation;
use crate::TransformError;
use crate::mapping::RowFault;
use crate::state::{Space, State, get_all};

/// Keys that are known to be there: some 4 MiB. It saves most reads, as facts cite the same masters again and again.
const KNOWN: usize = 64 * 1024;

/// Keys in [`Space::Entities`] that are there. Forgetting is always right.
#[derive(Debug, Default)]
pub(super) struct Known(HashSet<Vec<u8>>);

impl Known {
    fn add(&mut self, key: Vec<u8>) {
        if self.0.len() >= KNOWN {
            self.0.clear();
        }
        self.0.insert(key);
    }
}

/// Which entity rows are there, as they will be when the step at hand is committed.
pub(super) struct Present<'s> {
    state: &'s dyn State,
    known: Known,
    fresh: HashMap<Vec<u8>, bool>,
}

impl<'s> Present<'s> {
    pub(super) fn new(state: &'s dyn State, known: Known) -> Self {
        Self { state, known, fresh: HashMap::new() }
    }

    /// What may be used for the next step, once this one is committed.
    pub(super) fn into_known(self) -> Known {
        self.known
    }

    /// The step makes a key appear or disappear.
    pub(super) fn change(&mut self, key: Vec<u8>, there: bool) {
        if !there {
            self.known.0.remove(&key);
        }
        self.fresh.insert(key, there);
    }

    /// Those of the keys that are not there.
    fn absent<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>) -> Result<HashSet<&'k [u8]>, TransformError> {
        let (mut absent, mut asked) = (HashSet::new(), HashSet::new());
        for key in keys {
            match self.fresh.get(key) {
                Some(true) => {}
                Some(false) => drop(absent.insert(key)),
                None => drop(asked.insert(key)),
            }
        }
        let asked: Vec<&[u8]> = asked.into_iter().collect();
        let found = get_all(self.state, Space::Entities, &asked)?;
        for (key, found) in asked.into_iter().zip(found) {
            if found.is_some() {
                self.known.add(key.to_vec());
            } else {
                absent.insert(key);
            }
        }
        Ok(absent)
    }
}

/// A row that cites what is not there.
pub(super) struct Missing {
    pub(super) row: usize,
    pub(super) citation: usize,
    /// What it waits for: a key in [`Space::Entities`].
    pub(super) key: Vec<u8>,
}

/// The rows that cite what is not there, each with the first such citation. `fields` are all fields of the entity.
pub(super) fn missing(
    entity: &Entity,
    citations: &[Citation],
    fields: &[ArrayRef],
    present: &mut Present<'_>,
) -> Result<Vec<Missing>, TransformError> {
    let mut missing: Vec<Missing> = Vec::new();
    let mut waits: HashSet<usize> = HashSet::new();
    for (citation, cites) in citations.iter().enumerate() {
        let unsure = unsure(&entity.references[cites.reference], cites.prefix, fields, present)?;
        let absent = present.absent(unsure.iter().map(|(_, key)| key.as_slice()))?;
        for (row, key) in unsure.iter().filter(|(_, key)| absent.contains(key.as_slice())) {
            if !cites.parks || waits.insert(*row) {
                missing.push(Missing { row: *row, citation, key: key.clone() });
            }
        }
    }
    Ok(missing)
}

/// Rows that cite something, with its key, but for those of which it is known to be there: most of them, and they cost no
/// allocation.
fn unsure(
    reference: &Reference,
    prefix: [u8; 4],
    fields: &[ArrayRef],
    present: &Present<'_>,
) -> Result<Vec<(usize, Vec<u8>)>, TransformError> {
    let columns: Vec<ArrayRef> = reference.fields.iter().map(|&at| ArrayRef::clone(&fields[at])).collect();
    let Some(last) = columns.last() else { return Ok(Vec::new()) };
    let is_empty = |row: usize| *last.data_type() == DataType::Utf8 && last.as_string::<i32>().value(row).is_empty();
    let rows = rowcode::encode(&columns)?;
    let (mut key, mut unsure) = (prefix.to_vec(), Vec::new());
    for row in 0..last.len() {
        if columns.iter().any(|column| column.is_null(row)) || is_empty(row) {
            continue;
        }
        key.truncate(prefix.len());
        key.extend_from_slice(rows.row(row));
        if !present.known.0.contains(&key) {
            unsure.push((row, key.clone()));
        }
    }
    Ok(unsure)
}

/// Why a row waits.
pub(super) fn fault(entity: &Entity, reference: &Reference) -> RowFault {
    let fields: Vec<&str> = reference.fields.iter().map(|&at| entity.fields[at].name.as_str()).collect();
    let reason = format!("there is no {} with the key in {}; waits for it", reference.entity, fields.join(", "));
    RowFault { rule: reference.id.clone(), field: fields.last().copied().unwrap_or_default().to_owned(), reason }
}

/// The place of an entity among all.
pub(super) fn entity_index(name: &str) -> usize {
    entity::all().iter().position(|entity| entity.name == name).expect("references are checked when they are read")
}
