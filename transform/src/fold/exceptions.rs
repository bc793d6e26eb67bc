//! What is held, row by row: why, since when, and of which source row or entity key.
//!
//! Read from state beside the fold, which goes on meanwhile: each record is one that was there, the list is of no single
//! moment.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use syncline_schemas::entity;
use syncline_schemas::rowcode;
use xxhash_rust::xxh3::xxh3_64;

use super::catalog::{self, Numbered};
use super::contribution::take_run;
use super::emit::field_types;
use super::held::{self, Record, Seen};
use super::multiset;
use crate::TransformError;
use crate::state::{Space, State};

/// Records read at a time.
const PAGE: usize = 1_000;

/// Names with their values as text; none where there is no value.
pub type Texts = Vec<(String, Option<String>)>;

/// A row or a sum that is held, or a row that does not go together with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// The same as long as the same row is held for the same reason: 16 hexadecimal digits.
    pub fingerprint: String,
    /// The mapping; none for a sum, to which several may add, and for delivered rows.
    pub mapping: Option<String>,
    /// The entity.
    pub entity: String,
    /// The rule that it breaks, as in `DQ_REQUIRED`.
    pub rule: String,
    /// The field at fault; empty where it is the row as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What names it, column by column: the key of the source row, or of the sum. Empty where the table is not known.
    pub key: Texts,
    /// Table of the source row, as in `erp.public.stock`; empty for a sum.
    pub table: String,
    /// Where in the log it began to be held.
    pub first: Seen,
    /// Where in the log it was last found wanting.
    pub last: Seen,
    /// Where in the source's own log that was; empty where no single row was at fault.
    pub position: String,
}

/// How numbers and keys in records are read.
struct Names {
    /// By kind and number: what it belongs to.
    owners: HashMap<(u8, [u8; 4]), Owner>,
}

struct Owner {
    mapping: Option<String>,
    entity: String,
    table: String,
    key: Vec<(String, DataType)>,
}

/// Calls `visit` with what is held, mapping by mapping, until it says that it has enough.
///
/// # Errors
/// [`TransformError::State`] where the state cannot be read.
pub fn exceptions(state: &dyn State, visit: &mut dyn FnMut(Exception) -> bool) -> Result<(), TransformError> {
    let names = Names::read(state)?;
    for kind in held::KINDS {
        let mut after = Vec::new();
        loop {
            let records = state.scan(Space::Held, &[kind], &after, PAGE)?;
            let Some((last, _)) = records.last() else { break };
            after.clone_from(last);
            for (key, value) in &records {
                if let Some(exception) = names.exception(key, value)?
                    && !visit(exception)
                {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

impl Names {
    fn read(state: &dyn State) -> Result<Self, TransformError> {
        let shapes = catalog::known_shapes(state)?;
        let mut owners = HashMap::new();
        for Numbered { name, id } in catalog::numbered(state, catalog::MAPPING)? {
            let table = catalog::known_role(state, &name, 0)?;
            let shape = table.as_ref().and_then(|table| shapes.get(table));
            let key = shape.map(multiset::key_of);
            let table = table.map(|(source, table)| format!("{source}.{table}")).unwrap_or_default();
            for kind in [held::FAULT, held::WAITING] {
                let owner = Owner {
                    entity: catalog::entity_of(&name).to_owned(),
                    mapping: Some(name.clone()),
                    table: table.clone(),
                    key: key.clone().unwrap_or_default(),
                };
                owners.insert((kind, id), owner);
            }
        }
        for Numbered { name, id } in catalog::numbered(state, catalog::ENTITY)? {
            let Some(entity) = entity::get(&name) else { continue };
            let fields = entity.fields.iter().map(|field| field.name.clone());
            let key: Vec<_> = fields.zip(field_types(entity).0).collect();
            for kind in [held::SUM, held::GROUP] {
                let (entity, key) = (name.clone(), key.clone());
                owners.insert((kind, id), Owner { mapping: None, entity, table: String::new(), key });
            }
        }
        Ok(Self { owners })
    }

    /// None where it belongs to nothing that is known.
    fn exception(&self, key: &[u8], value: &[u8]) -> Result<Option<Exception>, TransformError> {
        let parts = key.split_first().and_then(|(&kind, rest)| Some((kind, rest.split_first_chunk::<4>()?)));
        let Some((kind, (id, row_key))) = parts else { return Ok(None) };
        // Those of a group have their rule in front.
        let row_key = if kind == held::GROUP { take_run(row_key).map_or(row_key, |(_, key)| key) } else { row_key };
        let Some(owner) = self.owners.get(&(kind, *id)) else { return Ok(None) };
        let Record { rule, field, reason, position, first, last } = Record::decode(value)?;
        // Of names and not of numbers, which another set of mappings gives anew.
        let owned = owner.mapping.as_ref().unwrap_or(&owner.entity).as_bytes();
        let fingerprint = xxh3_64(&[&[kind], owned, row_key, rule.as_bytes(), field.as_bytes()].join(&0));
        Ok(Some(Exception {
            fingerprint: format!("{fingerprint:016x}"),
            mapping: owner.mapping.clone(),
            entity: owner.entity.clone(),
            rule,
            field,
            reason,
            key: owner.texts(row_key),
            table: owner.table.clone(),
            first,
            last,
            position,
        }))
    }
}

impl Owner {
    /// A key as text; empty where it does not read with what is known of the table now.
    fn texts(&self, key: &[u8]) -> Texts {
        let types: Vec<DataType> = self.key.iter().map(|(_, data_type)| data_type.clone()).collect();
        let Ok(columns) = rowcode::decode(&types, [key]) else { return Texts::new() };
        texts(&self.key.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), &columns)
    }
}

/// The only row of some columns.
pub(super) fn texts(names: &[&str], columns: &[ArrayRef]) -> Texts {
    let text = |column: &ArrayRef| {
        let options = FormatOptions::default();
        let value = ArrayFormatter::try_new(column.as_ref(), &options).ok()?;
        (!column.is_null(0)).then(|| value.value(0).to_string())
    };
    names.iter().zip(columns).map(|(name, column)| ((*name).to_owned(), text(column))).collect()
}
