//! Which mappings there are, by what number state knows them, and their compiled forms.
//!
//! State holds what mappings made of rows, so it is only good for the very mappings that made it. Their fingerprints are
//! kept beside it; a daemon that is started with others stops before it mixes two truths.

use std::collections::HashMap;

use syncline_schemas::entity;
use syncline_schemas::ident::{LogOffset, TableId};
use syncline_schemas::table::TableSchema;

use super::Writes;
use super::logic::Logic;
use crate::TransformError;
use crate::mapping::Mapping;
use crate::mapping::compile::Compiled;
use crate::state::{Cursor, Space, State};

const MAPPING: &str = "mapping/";
const ENTITY: &str = "entity/";
const TABLE: &str = "table/";

struct Member {
    mapping: Mapping,
    id: u32,
    entity: usize,
    /// The one table whose rows it has seen; a second of the same name would mix with it key by key.
    table: Option<TableId>,
    /// The newest shape of the driving table and the mapping compiled for it.
    compiled: Option<(u32, Compiled)>,
}

/// The mappings of a daemon.
pub(super) struct Roster {
    members: Vec<Member>,
    entity_ids: Vec<u32>,
    logic: Vec<Logic>,
    registrations: Writes,
}

impl Roster {
    pub(super) fn open(mut mappings: Vec<Mapping>, cursor: Cursor, state: &dyn State) -> Result<Self, TransformError> {
        mappings.sort_by(|left, right| left.name.cmp(&right.name));
        let mut registrations = Writes::new();
        let known = known_mappings(state)?;
        let started = cursor.folded > LogOffset::START || cursor.step > 0;
        if started {
            refuse_changes(&mappings, &known)?;
        }
        let mut next = known.values().map(|(id, _)| id + 1).max().unwrap_or(1);
        let mut members = Vec::new();
        for mapping in mappings {
            let id = known.get(&mapping.name).map_or_else(
                || {
                    next += 1;
                    next - 1
                },
                |(id, _)| *id,
            );
            let value = [&id.to_be_bytes()[..], &mapping.fingerprint.to_be_bytes()[..]].concat();
            registrations.push((Space::Catalog, format!("{MAPPING}{}", mapping.name).into_bytes(), Some(value)));
            let entity = entity::all()
                .iter()
                .position(|entity| entity.name == mapping.entity.name)
                .expect("a mapping's entity is one of all entities");
            let table = known_table(state, &mapping.name)?;
            members.push(Member { mapping, id, entity, table, compiled: None });
        }
        let entity_ids = entity_ids(state, &mut registrations)?;
        let logic = entity::all().iter().map(Logic::new).collect::<Result<_, _>>()?;
        Ok(Self { members, entity_ids, logic, registrations })
    }

    /// What must be written with the next step.
    pub(super) fn registrations(&self) -> &Writes {
        &self.registrations
    }

    /// They have been written.
    pub(super) fn registered(&mut self) {
        self.registrations.clear();
    }

    pub(super) fn logic(&self, entity: usize) -> &Logic {
        &self.logic[entity]
    }

    pub(super) fn entity_prefix(&self, entity: usize) -> [u8; 4] {
        self.entity_ids[entity].to_be_bytes()
    }

    /// Entity and state number of a mapping.
    pub(super) fn identity(&self, member: usize) -> (usize, u32) {
        (self.members[member].entity, self.members[member].id)
    }

    /// Checks every mapping that a new shape of a table drives.
    pub(super) fn check(&mut self, schema: &TableSchema) -> Result<(), TransformError> {
        for member in self.members.iter_mut().filter(|member| drives(member, schema)) {
            bind(member, &schema.table, &mut self.registrations)?;
            member.mapping.check(schema)?;
        }
        Ok(())
    }

    /// The mappings that a table drives, compiled for its shape.
    pub(super) fn mappings_of(&mut self, schema: &TableSchema) -> Result<Vec<usize>, TransformError> {
        let mut driven = Vec::new();
        for (index, member) in self.members.iter_mut().enumerate().filter(|(_, member)| drives(member, schema)) {
            bind(member, &schema.table, &mut self.registrations)?;
            if !matches!(member.compiled, Some((version, _)) if version == schema.version) {
                member.compiled = Some((schema.version, Compiled::new(&member.mapping, schema)?));
            }
            driven.push(index);
        }
        Ok(driven)
    }

    /// Entity, state number and compiled form of a mapping that [`Roster::mappings_of`] gave.
    pub(super) fn compiled(&self, member: usize) -> (usize, u32, &Compiled) {
        let Member { compiled, entity, id, .. } = &self.members[member];
        let (_, compiled) = compiled.as_ref().expect("mappings_of compiles what it gives");
        (*entity, *id, compiled)
    }
}

/// Ties a mapping to the first table that drives it.
fn bind(member: &mut Member, table: &TableId, registrations: &mut Writes) -> Result<(), TransformError> {
    match &member.table {
        Some(bound) if bound == table => Ok(()),
        Some(bound) => Err(member.mapping.table_ambiguous(bound, table).into()),
        None => {
            let value = format!("{}\0{}", table.schema, table.name).into_bytes();
            registrations.push((Space::Catalog, table_key(&member.mapping.name), Some(value)));
            member.table = Some(table.clone());
            Ok(())
        }
    }
}

fn table_key(mapping: &str) -> Vec<u8> {
    format!("{TABLE}{mapping}").into_bytes()
}

fn known_table(state: &dyn State, mapping: &str) -> Result<Option<TableId>, TransformError> {
    let Some(value) = state.get(Space::Catalog, &table_key(mapping))? else { return Ok(None) };
    let text = std::str::from_utf8(&value).ok().and_then(|text| text.split_once('\0'));
    let damaged = || TransformError::State("the catalogue of driving tables does not decode".to_owned());
    text.map(|(schema, name)| Some(TableId::new(schema, name))).ok_or_else(damaged)
}

fn drives(member: &Member, schema: &TableSchema) -> bool {
    member.mapping.source == schema.source && member.mapping.drives(&schema.table)
}

/// Mappings by name: state number and fingerprint.
fn known_mappings(state: &dyn State) -> Result<HashMap<String, (u32, u64)>, TransformError> {
    let damaged = || TransformError::State("the catalogue of mappings does not decode".to_owned());
    let mut known = HashMap::new();
    for (key, value) in state.scan(Space::Catalog, MAPPING.as_bytes(), usize::MAX)? {
        let name = String::from_utf8(key[MAPPING.len()..].to_vec()).map_err(|_| damaged())?;
        let (id, fingerprint) = value.split_at_checked(4).ok_or_else(damaged)?;
        let id = u32::from_be_bytes(id.try_into().map_err(|_| damaged())?);
        let fingerprint = u64::from_be_bytes(fingerprint.try_into().map_err(|_| damaged())?);
        known.insert(name, (id, fingerprint));
    }
    Ok(known)
}

fn refuse_changes(mappings: &[Mapping], known: &HashMap<String, (u32, u64)>) -> Result<(), TransformError> {
    const REMEDY: &str = "the rows delivered so far were computed without this change; undo it, or point data_dir to an \
                          empty folder and drop the slot to copy the source again";
    for mapping in mappings {
        let how = match known.get(&mapping.name) {
            None => "was added",
            Some((_, fingerprint)) if *fingerprint != mapping.fingerprint => "was changed",
            Some(_) => continue,
        };
        return Err(TransformError::MappingsChanged {
            mapping: mapping.file.clone(),
            reason: format!("{how}: {REMEDY}"),
        });
    }
    let removed = known.keys().find(|name| mappings.iter().all(|mapping| mapping.name != **name));
    removed.map_or(Ok(()), |name| {
        Err(TransformError::MappingsChanged { mapping: name.clone(), reason: format!("was removed: {REMEDY}") })
    })
}

/// Numbers of entities in state, given once and kept.
fn entity_ids(state: &dyn State, registrations: &mut Writes) -> Result<Vec<u32>, TransformError> {
    let damaged = || TransformError::State("the catalogue of entities does not decode".to_owned());
    let known: HashMap<Vec<u8>, u32> = state
        .scan(Space::Catalog, ENTITY.as_bytes(), usize::MAX)?
        .into_iter()
        .map(|(key, id)| Ok((key, u32::from_be_bytes(id.as_slice().try_into().map_err(|_| damaged())?))))
        .collect::<Result<_, TransformError>>()?;
    let mut next = known.values().max().map_or(1, |id| id + 1);
    let mut ids = Vec::new();
    for entity in entity::all() {
        let key = format!("{ENTITY}{}", entity.name).into_bytes();
        let id = known.get(&key).copied().unwrap_or_else(|| {
            registrations.push((Space::Catalog, key, Some(next.to_be_bytes().to_vec())));
            next += 1;
            next - 1
        });
        ids.push(id);
    }
    Ok(ids)
}
