//! Names and numbers in state: which mapping, entity, joined table and index has which number, and the shapes of tables.
//!
//! A number is given once and kept, so that keys in state stay short; what is given in a step is committed with it.
//!
//! ```text
//! mapping/<name>                    u32, u64 fingerprint of its text and its entity
//! entity/<name>                     u32
//! meaning/<name>                    u64 hash of what its rows meant when the state began
//! joined/<source>\0<schema>\0<name>                    u32
//! index/<source>\0<schema>\0<name>\0<column>\0...      u32; of one that is not kept any more index/\0<u32>
//! role/<mapping>\0<role>            the table that plays it: source \0 schema \0 name
//! lookup/<mapping>\0<join>           the index that finds its rows, where it does not join by key
//! shape/<source>\0<schema>\0<name>  the newest shape of a table, as in the log
//! ready/<mapping>                   its rows have been evaluated since all its tables are known
//! misfit/<mapping>                  why it is put aside: file \0 line \0 column \0 reason
//! layout/<u32>                      columns of stored rows, see stored.rs
//! sweep/<source>\0<schema>\0<name>  since when the table is read anew, see sweep.rs
//! format                            what wrote it, see below
//! open, progress                    see unit.rs
//! ```

use std::collections::{BTreeMap, HashMap};

use syncline_schemas::entity::{self, Entity};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::table::TableSchema;
use xxhash_rust::xxh3::xxh3_64;

use super::Writes;
use crate::TransformError;
use crate::error::{MappingFault, Place};
use crate::state::{Space, State};

pub(super) const MAPPING: &str = "mapping/";
pub(super) const ENTITY: &str = "entity/";
const SHAPE: &str = "shape/";
const ROLE: &str = "role/";
const READY: &str = "ready/";
const MISFIT: &str = "misfit/";
const LOOKUP: &str = "lookup/";
const MEANING: &str = "meaning/";
/// Key of what wrote a state. Rows in it are without names and types, so to any other it would say something else.
const FORMAT: &[u8] = b"format";
/// The way in which records are written; another one with every change of it.
const RECORDS: u32 = 3;

/// A table of a source.
pub(super) type Table = (SourceId, TableId);

/// The text that names a table in keys and values.
pub(super) fn table_text((source, table): &Table) -> String {
    format!("{source}\0{}\0{}", table.schema, table.name)
}

fn damaged(what: &str) -> TransformError {
    TransformError::State(format!("the catalogue of {what} does not decode"))
}

fn number(value: &[u8], what: &str) -> Result<u32, TransformError> {
    Ok(u32::from_be_bytes(value.try_into().map_err(|_| damaged(what))?))
}

/// What this program writes: its records, and the entities as it knows them.
fn format() -> Vec<u8> {
    let layouts: Vec<String> = entity::all().iter().map(Entity::layout).collect();
    [RECORDS.to_be_bytes().as_slice(), &xxh3_64(layouts.join("\n").as_bytes()).to_be_bytes()].concat()
}

/// Refuses a state that another program wrote; one that holds nothing is marked as our own.
pub(super) fn refuse_other_format(state: &dyn State, registrations: &mut Writes) -> Result<(), TransformError> {
    match state.get(Space::Catalog, FORMAT)? {
        Some(found) if found == format() => Ok(()),
        None if state.scan(Space::Catalog, &[], &[], 1)?.is_empty() => {
            registrations.push((Space::Catalog, FORMAT.to_vec(), Some(format())));
            for entity in entity::all() {
                let key = format!("{MEANING}{}", entity.name).into_bytes();
                registrations.push((Space::Catalog, key, Some(meaning(entity).to_vec())));
            }
            Ok(())
        }
        _ => Err(TransformError::OtherFormat),
    }
}

fn meaning(entity: &Entity) -> [u8; 8] {
    xxh3_64(entity.meaning().as_bytes()).to_be_bytes()
}

/// True where rows of an entity meant something else when the state began than they do now.
pub(super) fn meant_otherwise(state: &dyn State, entity: &Entity) -> Result<bool, TransformError> {
    let known = state.get(Space::Catalog, format!("{MEANING}{}", entity.name).as_bytes())?;
    Ok(known.is_some_and(|known| known != meaning(entity)))
}

/// Numbers of one kind of name.
pub(super) struct Numbers {
    prefix: &'static str,
    known: HashMap<String, u32>,
    next: u32,
}

impl Numbers {
    pub(super) fn open(prefix: &'static str, state: &dyn State) -> Result<Self, TransformError> {
        let mut known = HashMap::new();
        for (key, value) in state.scan(Space::Catalog, prefix.as_bytes(), &[], usize::MAX)? {
            let name = String::from_utf8(key[prefix.len()..].to_vec()).map_err(|_| damaged(prefix))?;
            known.insert(name, number(&value, prefix)?);
        }
        let next = known.values().max().map_or(1, |id| id + 1);
        Ok(Self { prefix, known, next })
    }

    /// The number of a name, which it gets where it has none; true where it is fresh.
    pub(super) fn of(&mut self, name: &str, registrations: &mut Writes) -> (u32, bool) {
        if let Some(id) = self.known.get(name) {
            return (*id, false);
        }
        let id = self.next;
        self.next += 1;
        self.known.insert(name.to_owned(), id);
        let key = format!("{}{name}", self.prefix).into_bytes();
        registrations.push((Space::Catalog, key, Some(id.to_be_bytes().to_vec())));
        (id, true)
    }

    /// Forgets the name of a number, which no other name gets: something of it may be left in state.
    pub(super) fn retire(&mut self, id: u32, registrations: &mut Writes) {
        let Some(name) = self.known.iter().find(|(_, known)| **known == id).map(|(name, _)| name.clone()) else {
            return;
        };
        self.known.remove(&name);
        registrations.push((Space::Catalog, format!("{}{name}", self.prefix).into_bytes(), None));
        let retired = format!("\0{id}");
        let key = format!("{}{retired}", self.prefix).into_bytes();
        registrations.push((Space::Catalog, key, Some(id.to_be_bytes().to_vec())));
        self.known.insert(retired, id);
    }
}

/// Why a mapping is put aside, where it is.
pub(super) fn known_misfit(state: &dyn State, mapping: &str) -> Result<Option<MappingFault>, TransformError> {
    let Some(value) = state.get(Space::Catalog, format!("{MISFIT}{mapping}").as_bytes())? else { return Ok(None) };
    let text = String::from_utf8(value).map_err(|_| damaged("misfits"))?;
    let mut parts = text.splitn(4, '\0');
    let mut part = || parts.next().ok_or_else(|| damaged("misfits"));
    let (file, line, column, reason) = (part()?.to_owned(), part()?, part()?, part()?.to_owned());
    let count = |text: &str| text.parse().map_err(|_| damaged("misfits"));
    Ok(Some(MappingFault { place: Place { file, line: count(line)?, column: count(column)? }, reason }))
}

pub(super) fn register_misfit(mapping: &str, fault: &MappingFault, registrations: &mut Writes) {
    let MappingFault { place: Place { file, line, column }, reason } = fault;
    let value = format!("{file}\0{line}\0{column}\0{reason}");
    registrations.push((Space::Catalog, format!("{MISFIT}{mapping}").into_bytes(), Some(value.into_bytes())));
}

/// Numbers of entities, joined tables and indexes.
pub(super) fn entity_numbers(state: &dyn State) -> Result<Numbers, TransformError> {
    Numbers::open(ENTITY, state)
}

/// A name with the number that begins its keys.
pub(super) struct Numbered {
    pub(super) name: String,
    pub(super) id: [u8; 4],
}

/// The names of a kind that have numbers.
pub(super) fn numbered(state: &dyn State, kind: &str) -> Result<Vec<Numbered>, TransformError> {
    let known = state.scan(Space::Catalog, kind.as_bytes(), &[], usize::MAX)?.into_iter().filter_map(|(key, value)| {
        let name = String::from_utf8(key.get(kind.len()..)?.to_vec()).ok()?;
        Some(Numbered { name, id: *value.first_chunk()? })
    });
    Ok(known.collect())
}

/// The entity that a mapping fills, by its name.
pub(super) fn entity_of(mapping: &str) -> &str {
    let stem = mapping.rsplit('/').next().unwrap_or(mapping);
    stem.split('.').next().unwrap_or(stem)
}

/// Mappings by name: state number and fingerprint.
pub(super) fn known_mappings(state: &dyn State) -> Result<HashMap<String, (u32, u64)>, TransformError> {
    let damaged = || damaged("mappings");
    let mut known = HashMap::new();
    for (key, value) in state.scan(Space::Catalog, MAPPING.as_bytes(), &[], usize::MAX)? {
        let name = String::from_utf8(key[MAPPING.len()..].to_vec()).map_err(|_| damaged())?;
        let (id, fingerprint) = value.split_at_checked(4).ok_or_else(damaged)?;
        let fingerprint = u64::from_be_bytes(fingerprint.try_into().map_err(|_| damaged())?);
        known.insert(name, (number(id, "mappings")?, fingerprint));
    }
    Ok(known)
}

pub(super) fn register_mapping(name: &str, id: u32, fingerprint: u64, registrations: &mut Writes) {
    let value = [&id.to_be_bytes()[..], &fingerprint.to_be_bytes()[..]].concat();
    registrations.push((Space::Catalog, format!("{MAPPING}{name}").into_bytes(), Some(value)));
}

fn role_key(mapping: &str, role: usize) -> Vec<u8> {
    format!("{ROLE}{mapping}\0{role}").into_bytes()
}

/// The table that plays a role in a mapping, where that is known.
pub(super) fn known_role(state: &dyn State, mapping: &str, role: usize) -> Result<Option<Table>, TransformError> {
    let Some(value) = state.get(Space::Catalog, &role_key(mapping, role))? else { return Ok(None) };
    let text = std::str::from_utf8(&value).map_err(|_| damaged("tables"))?;
    let mut parts = text.split('\0');
    let (Some(source), Some(schema), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(damaged("tables"));
    };
    Ok(Some((SourceId::new(source), TableId::new(schema, name))))
}

pub(super) fn register_role(mapping: &str, role: usize, table: &Table, registrations: &mut Writes) {
    registrations.push((Space::Catalog, role_key(mapping, role), Some(table_text(table).into_bytes())));
}

/// The newest shape of every table that a mapping reads.
pub(super) fn known_shapes(state: &dyn State) -> Result<BTreeMap<Table, TableSchema>, TransformError> {
    let mut shapes = BTreeMap::new();
    for (_, value) in state.scan(Space::Catalog, SHAPE.as_bytes(), &[], usize::MAX)? {
        let LogEntry::Schema(shape) = LogEntry::decode(&value)? else { return Err(damaged("shapes")) };
        shapes.insert((shape.source.clone(), shape.table.clone()), shape);
    }
    Ok(shapes)
}

pub(super) fn register_shape(shape: &TableSchema, registrations: &mut Writes) -> Result<(), TransformError> {
    let table = (shape.source.clone(), shape.table.clone());
    let value = LogEntry::Schema(shape.clone()).encode()?;
    registrations.push((Space::Catalog, format!("{SHAPE}{}", table_text(&table)).into_bytes(), Some(value)));
    Ok(())
}

fn lookup_key(mapping: &str, join: usize) -> Vec<u8> {
    format!("{LOOKUP}{mapping}\0{join}").into_bytes()
}

/// The index that finds the rows of a join; none where they are found by their key.
pub(super) fn known_lookup(state: &dyn State, mapping: &str, join: usize) -> Result<Option<u32>, TransformError> {
    let id = state.get(Space::Catalog, &lookup_key(mapping, join))?;
    id.map(|id| number(&id, "lookups")).transpose()
}

pub(super) fn register_lookup(mapping: &str, join: usize, index: u32, registrations: &mut Writes) {
    registrations.push((Space::Catalog, lookup_key(mapping, join), Some(index.to_be_bytes().to_vec())));
}

fn ready_key(mapping: &str) -> Vec<u8> {
    format!("{READY}{mapping}").into_bytes()
}

pub(super) fn is_ready(state: &dyn State, mapping: &str) -> Result<bool, TransformError> {
    Ok(state.get(Space::Catalog, &ready_key(mapping))?.is_some())
}

pub(super) fn register_ready(mapping: &str, registrations: &mut Writes) {
    registrations.push((Space::Catalog, ready_key(mapping), Some(Vec::new())));
}
