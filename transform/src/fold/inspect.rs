//! What the rows of a mapping give now, row by row: for whoever writes a mapping, or asks why a canonical row is as it is.
//!
//! Read from state beside the fold, as [`super::exceptions`] is.

use syncline_schemas::entity::{self, Entity};
use syncline_schemas::rowcode;

use super::catalog::{self, Numbered};
use super::contribution::Contribution;
use super::drivers::driving_key;
use super::emit::field_types;
use super::exceptions::{Texts, texts};
use super::held;
use super::sources::{Shapes, SourceRow};
use crate::TransformError;
use crate::state::{Space, State};

/// Records read at a time.
const PAGE: usize = 1_000;

/// What one source row contributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The mapping.
    pub mapping: String,
    /// What it fills.
    pub entity: &'static Entity,
    /// The source row.
    pub source_row: SourceRow,
    /// The canonical row, field by field; the last good one where the row is held, none where it never was good. A sum has
    /// the contribution of this row alone, and fields that entities compute by themselves are not part of it.
    pub row: Option<Texts>,
    /// Why the row is held, or waits for another to let go of its key: rule and reason.
    pub held: Option<(String, String)>,
}

/// Calls `visit` with what the rows of a mapping give, in the order of their keys, until it says that it has enough. False
/// where state knows no such mapping.
///
/// # Errors
/// [`TransformError::State`] where the state cannot be read.
pub fn given(state: &dyn State, mapping: &str, visit: &mut dyn FnMut(Given) -> bool) -> Result<bool, TransformError> {
    let known = catalog::numbered(state, catalog::MAPPING)?;
    let Some(Numbered { id, .. }) = known.into_iter().find(|known| known.name == mapping) else { return Ok(false) };
    let Some(entity) = entity::get(catalog::entity_of(mapping)) else { return Ok(false) };
    let Some(table) = catalog::known_role(state, mapping, 0)? else { return Ok(true) };
    let shapes = Shapes::read(state)?;
    let mut after = Vec::new();
    loop {
        let records = state.scan(Space::Contributions, &id, &after, PAGE)?;
        let Some((last, _)) = records.last() else { return Ok(true) };
        after.clone_from(last);
        for (key, bytes) in &records {
            let record = Contribution::decode(bytes)?;
            // A row that the filter excludes is kept for its joins only.
            if record.value.is_none() && !record.held {
                continue;
            }
            let source_row = shapes.row(&table, driving_key(key), record.at);
            let held = reason(state, key, record.held)?;
            let row = record.value.map(|(key, row)| row_texts(entity, key, row)).transpose()?;
            if !visit(Given { mapping: mapping.to_owned(), entity, source_row, row, held }) {
                return Ok(true);
            }
        }
    }
}

/// Names of the mappings that state knows and that fill an entity.
///
/// # Errors
/// [`TransformError::State`] where the state cannot be read.
pub fn mappings_of(state: &dyn State, entity: &str) -> Result<Vec<String>, TransformError> {
    let known = catalog::numbered(state, catalog::MAPPING)?.into_iter().map(|known| known.name);
    Ok(known.filter(|name| catalog::entity_of(name) == entity).collect())
}

/// Why a row is held: it has a fault, or another one stands under its key.
fn reason(state: &dyn State, record_key: &[u8], faulty: bool) -> Result<Option<(String, String)>, TransformError> {
    let place = if faulty { held::fault_key(record_key) } else { held::waiting_key(record_key) };
    let Some(bytes) = state.get(Space::Held, &place)? else { return Ok(None) };
    let record = held::Record::decode(&bytes)?;
    Ok(Some((record.rule, record.reason)))
}

/// Fields that mappings give, in their order.
fn row_texts(entity: &Entity, key: &[u8], row: &[u8]) -> Result<Texts, TransformError> {
    let (key_types, row_types) = field_types(entity);
    let mut columns = rowcode::decode(&key_types, [key])?;
    columns.extend(rowcode::decode(&row_types, [row])?);
    let names: Vec<&str> = entity.fields.iter().map(|field| field.name.as_str()).collect();
    let all = texts(&names, &columns).into_iter().zip(&entity.fields);
    Ok(all.filter(|(_, field)| !field.is_computed()).map(|(text, _)| text).collect())
}
