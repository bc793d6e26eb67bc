//! Which source rows a row of state was made of, and where in the log they are: from state alone, beside the fold.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, TimestampMicrosecondType, UInt32Type};
use syncline_schemas::frame::{COMMIT_TS, Frame, POS};
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_schemas::rowcode;
use syncline_schemas::table::TableSchema;

use super::catalog::{self, Table};
use super::changes::column;
use super::contribution::{Contribution, JoinedRow};
use super::exceptions::{Texts, texts};
use super::index;
use super::stored::{Layouts, undated};
use super::tables;
use crate::TransformError;
use crate::state::{Space, State};

/// A source row and the log entry that state has it from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRow {
    /// Its source.
    pub source: SourceId,
    /// Its table.
    pub table: TableId,
    /// Its key, column by column; empty where what is known of the table now does not read it.
    pub key: Texts,
    /// The entry that made it what it is. A later one that changed nothing of what mappings read is not told.
    pub at: LogOffset,
    bytes: Vec<u8>,
}

/// Where a row stands in its source's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// The position, as the source writes it.
    pub position: String,
    /// Its commit, in microseconds since 1970.
    pub committed_at: i64,
}

/// What a driving row looked for in a joined table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The joined table, as in `erp.public.item`.
    pub table: String,
    /// The columns that were compared and the values that were wanted.
    pub wanted: Texts,
    /// The row that was found, with the columns that mappings read of it.
    pub found: Option<(SourceRow, Texts)>,
}

impl SourceRow {
    /// Where the frame of its log entry has it from; none where the frame does not hold it.
    ///
    /// # Errors
    /// [`TransformError::State`] where the frame does not read.
    pub fn position(&self, frame: &Frame) -> Result<Option<Whereabouts>, TransformError> {
        let batch = frame.batches.iter().find(|batch| frame.source == self.source && batch.table == self.table);
        let Some(batch) = batch else { return Ok(None) };
        let shape = super::shape(&frame.source, batch);
        let keys = shape.key_indexes().into_iter().map(|at| Arc::clone(batch.rows.column(at)));
        let keys = rowcode::encode(&keys.collect::<Vec<_>>())?;
        let Some(row) = (0..keys.len()).rev().find(|&row| keys.row(row) == self.bytes) else { return Ok(None) };
        let positions = column(batch, POS)?.as_dictionary::<UInt32Type>();
        let position = positions.values().as_string::<i32>().value(positions.key(row).unwrap_or_default());
        let commits = column(batch, COMMIT_TS)?.as_primitive::<TimestampMicrosecondType>();
        Ok(Some(Whereabouts { position: position.to_owned(), committed_at: commits.value(row) }))
    }
}

/// Names and shapes as state knows them.
pub(super) struct Shapes(HashMap<Table, TableSchema>);

impl Shapes {
    pub(super) fn read(state: &dyn State) -> Result<Self, TransformError> {
        Ok(Self(catalog::known_shapes(state)?))
    }

    pub(super) fn row(&self, (source, table): &Table, bytes: &[u8], at: LogOffset) -> SourceRow {
        let shape = self.0.get(&(source.clone(), table.clone()));
        let key = shape.map(|shape| values_of(shape, &key_names(shape), bytes)).unwrap_or_default();
        SourceRow { source: source.clone(), table: table.clone(), key, at, bytes: bytes.to_vec() }
    }
}

/// Values of some columns of a table; none where they do not read with what is known of it now.
fn values_of(shape: &TableSchema, names: &[String], bytes: &[u8]) -> Texts {
    let known = |name: &String| shape.columns.iter().find(|column| column.name == *name);
    let types: Option<Vec<DataType>> = names.iter().map(|name| Some(known(name)?.data_type.clone())).collect();
    let columns = types.and_then(|types| rowcode::decode(&types, [bytes]).ok()).unwrap_or_default();
    texts(&names.iter().map(String::as_str).collect::<Vec<_>>(), &columns)
}

fn key_names(shape: &TableSchema) -> Vec<String> {
    shape.key_indexes().into_iter().map(|at| shape.columns[at].name.clone()).collect()
}

/// What a source row looked for in the tables that a mapping joins, join by join; nothing of those that it did not come to.
///
/// # Errors
/// [`TransformError::State`] where the state cannot be read.
pub fn lookups(state: &dyn State, mapping: &str, row: &SourceRow) -> Result<Vec<Lookup>, TransformError> {
    let known = catalog::numbered(state, catalog::MAPPING)?;
    let Some(known) = known.into_iter().find(|known| known.name == mapping) else { return Ok(Vec::new()) };
    let record = state.get(Space::Contributions, &[&known.id, row.bytes.as_slice()].concat())?;
    let Some(record) = record else { return Ok(Vec::new()) };
    let joined = Contribution::decode(&record)?.joined;
    let (shapes, layouts) = (Shapes::read(state)?, Layouts::open(state)?);
    let mut lookups = Vec::new();
    for (join, values) in joined.iter().flat_map(JoinedRow::looked) {
        let Some(table) = catalog::known_role(state, mapping, join + 1)? else { continue };
        let Some(shape) = shapes.0.get(&table) else { continue };
        let (names, key) = match catalog::known_lookup(state, mapping, join)? {
            None => (key_names(shape), Some(values.to_vec())),
            Some(id) => {
                let prefix = index::joined_prefix(id, values);
                let found = state.scan(Space::Index, &prefix, &[], 1)?;
                let key = found.into_iter().next().map(|(entry, _)| entry[prefix.len()..].to_vec());
                (tables::index_columns(state, &table, id)?, key)
            }
        };
        let found = match key {
            Some(key) => found(state, &shapes, &layouts, &table, &key)?,
            None => None,
        };
        let wanted = values_of(shape, &names, values);
        lookups.push(Lookup { table: format!("{}.{}", table.0, table.1), wanted, found });
    }
    Ok(lookups)
}

/// A row of a joined table, with what is kept of it.
fn found(
    state: &dyn State,
    shapes: &Shapes,
    layouts: &Layouts,
    table: &Table,
    key: &[u8],
) -> Result<Option<(SourceRow, Texts)>, TransformError> {
    let Some(id) = tables::number_of(state, table)? else { return Ok(None) };
    let Some(bytes) = state.get(Space::Rows, &[&id, key].concat())? else { return Ok(None) };
    let (at, row) = undated(&bytes)?;
    let wanted = layouts.schema_of(row)?;
    let read = layouts.read([row], &wanted)?;
    let names: Vec<&str> = wanted.fields().iter().map(|field| field.name().as_str()).collect();
    Ok(Some((shapes.row(table, key, at), texts(&names, &read.columns))))
}
