//! Which source rows a row of state was made of, and where in the log they are: from state alone, beside the fold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, TimestampMicrosecondType, UInt32Type};
use syncline_schemas::frame::{COMMIT_TS, Frame, POS, TableBatch};
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_schemas::rowcode;
use syncline_schemas::table::TableSchema;

use super::catalog::{self, Table, table_text};
use super::changes::column;
use super::contribution::{Contribution, JoinedRow};
use super::exceptions::{Texts, texts};
use super::index;
use super::multiset;
use super::stored::{Layouts, undated};
use super::tables;
use crate::TransformError;
use crate::state::{Space, State};

/// A source row and the log entry that state has it from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// What was found.
    pub found: Found,
}

/// What a join found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No such row.
    Nothing,
    /// A row, with what is known of the columns that mappings read of it.
    Row(SourceRow, Texts),
    /// More than one, of which none is joined.
    Several,
}

/// Where the frame of a log entry has rows from; without those that it does not hold.
///
/// # Errors
/// [`TransformError::State`] where the frame does not read.
pub fn positions(frame: &Frame, rows: HashSet<SourceRow>) -> Result<HashMap<SourceRow, Whereabouts>, TransformError> {
    let mut found = HashMap::new();
    for batch in &frame.batches {
        let wanted = rows.iter().filter(|row| row.source == frame.source && row.table == batch.table);
        let wanted: Vec<&SourceRow> = wanted.collect();
        if wanted.is_empty() {
            continue;
        }
        let places = places(&frame.source, batch)?;
        let positions = column(batch, POS)?.as_dictionary::<UInt32Type>();
        let commits = column(batch, COMMIT_TS)?.as_primitive::<TimestampMicrosecondType>();
        for row in wanted {
            // Of equal rows without a key nobody knows which it was: the last.
            let place = multiset::hash_in(&row.bytes).and_then(|hash| places.get(hash.as_slice()));
            let Some(&place) = places.get(&row.bytes).or(place) else { continue };
            let text = positions.values().as_string::<i32>().value(positions.key(place).unwrap_or_default());
            let whereabouts = Whereabouts { position: text.to_owned(), committed_at: commits.value(place) };
            found.insert(row.clone(), whereabouts);
        }
    }
    Ok(found)
}

/// Where the rows of a batch stand, of several changes the last: by key, or by what they say where they have none.
fn places(source: &SourceId, batch: &TableBatch) -> Result<HashMap<Vec<u8>, usize>, TransformError> {
    let keys = super::shape(source, batch).key_indexes();
    if keys.is_empty() {
        let hashes = multiset::hashes(batch)?;
        return Ok(hashes.iter().enumerate().map(|(row, hash)| (hash.to_vec(), row)).collect());
    }
    let keys: Vec<_> = keys.into_iter().map(|at| Arc::clone(batch.rows.column(at))).collect();
    let keys = rowcode::encode(&keys)?;
    Ok((0..keys.len()).map(|row| (keys.row(row).to_vec(), row)).collect())
}

/// Names and shapes as state knows them.
pub(super) struct Shapes(BTreeMap<Table, TableSchema>);

impl Shapes {
    pub(super) fn read(state: &dyn State) -> Result<Self, TransformError> {
        Ok(Self(catalog::known_shapes(state)?))
    }

    pub(super) fn row(&self, (source, table): &Table, bytes: &[u8], at: LogOffset) -> SourceRow {
        let shape = self.0.get(&(source.clone(), table.clone()));
        let key = shape.map(|shape| {
            let (names, types): (Vec<String>, Vec<DataType>) = multiset::key_of(shape).into_iter().unzip();
            let columns = rowcode::decode(&types, [bytes]).unwrap_or_default();
            texts(&names.iter().map(String::as_str).collect::<Vec<_>>(), &columns)
        });
        let key = key.unwrap_or_default();
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

/// What state knows of names, shapes and layouts, read once for many rows.
pub struct Sources<'a> {
    state: &'a dyn State,
    mappings: HashMap<String, [u8; 4]>,
    shapes: Shapes,
    layouts: Layouts,
    tables: HashMap<String, [u8; 4]>,
    indexes: HashMap<[u8; 4], String>,
}

impl<'a> Sources<'a> {
    /// Reads what there is to know.
    ///
    /// # Errors
    /// [`TransformError::State`] where the state cannot be read.
    pub fn read(state: &'a dyn State) -> Result<Self, TransformError> {
        let numbered = |kind| catalog::numbered(state, kind).map(Vec::into_iter);
        Ok(Self {
            state,
            mappings: numbered(catalog::MAPPING)?.map(|known| (known.name, known.id)).collect(),
            shapes: Shapes::read(state)?,
            layouts: Layouts::open(state)?,
            tables: numbered(tables::JOINED)?.map(|known| (known.name, known.id)).collect(),
            indexes: numbered(tables::INDEX)?.map(|known| (known.id, known.name)).collect(),
        })
    }

    /// What a source row looked for in the tables that a mapping joins, join by join; nothing of those that it did not come
    /// to.
    ///
    /// # Errors
    /// [`TransformError::State`] where the state cannot be read.
    pub fn lookups(&self, mapping: &str, row: &SourceRow) -> Result<Vec<Lookup>, TransformError> {
        let Some(id) = self.mappings.get(mapping) else { return Ok(Vec::new()) };
        let record = self.state.get(Space::Contributions, &[id, row.bytes.as_slice()].concat())?;
        let Some(record) = record else { return Ok(Vec::new()) };
        let joined = Contribution::decode(&record)?.joined;
        let mut lookups = Vec::new();
        for (join, values) in joined.iter().flat_map(JoinedRow::looked) {
            let Some(table) = catalog::known_role(self.state, mapping, join + 1)? else { continue };
            let Some(shape) = self.shapes.0.get(&table) else { continue };
            let (names, found) = match catalog::known_lookup(self.state, mapping, join)? {
                None => (key_names(shape), self.found(&table, values)?),
                Some(id) => {
                    let prefix = index::joined_prefix(id, values);
                    let entries = self.state.scan(Space::Index, &prefix, &[], 2)?;
                    let found = match entries.as_slice() {
                        [] => Found::Nothing,
                        [(entry, _)] => self.found(&table, &entry[prefix.len()..])?,
                        _ => Found::Several,
                    };
                    (self.index_columns(&table, id), found)
                }
            };
            let wanted = values_of(shape, &names, values);
            lookups.push(Lookup { table: format!("{}.{}", table.0, table.1), wanted, found });
        }
        Ok(lookups)
    }

    /// The row of a joined table with a key.
    fn found(&self, table: &Table, key: &[u8]) -> Result<Found, TransformError> {
        let Some(id) = self.tables.get(&table_text(table)) else { return Ok(Found::Nothing) };
        let Some(bytes) = self.state.get(Space::Rows, &[id, key].concat())? else { return Ok(Found::Nothing) };
        let (at, row) = undated(&bytes)?;
        let wanted = self.layouts.schema_of(row)?;
        let read = self.layouts.read([row], &wanted)?;
        let names: Vec<&str> = wanted.fields().iter().map(|field| field.name().as_str()).collect();
        let sent = |place: &usize| !read.lacking.iter().any(|(_, column)| column == place);
        let values = texts(&names, &read.columns).into_iter().enumerate().filter(|(place, _)| sent(place));
        Ok(Found::Row(self.shapes.row(table, key, at), values.map(|(_, value)| value).collect()))
    }

    /// The columns of an index.
    fn index_columns(&self, table: &Table, index: u32) -> Vec<String> {
        let known = self.indexes.get(&index.to_be_bytes());
        let columns = known.and_then(|known| known.strip_prefix(&table_text(table)));
        columns.iter().flat_map(|columns| columns.split('\0').skip(1)).map(str::to_owned).collect()
    }
}
