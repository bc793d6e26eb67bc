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

struct Member {
    mapping: Mapping,
    id: u32,
    entity: usize,
    /// The newest shape of the driving table and the mapping compiled for it.
    compiled: Option<(TableId, u32, Compiled)>,
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
            members.push(Member { mapping, id, entity, compiled: None });
        }
        let entity_ids = entity_ids(state, &mut registrations)?;
        let logic = entity::all().iter().map(Logic::new).collect::<Result<_, _>>()?;
        Ok(Self { members, entity_ids, logic, registrations })
    }

    /// What must be written with the next step.
    pub(super) fn take_registrations(&mut self) -> Writes {
        std::mem::take(&mut self.registrations)
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
    pub(super) fn check(&self, schema: &TableSchema) -> Result<(), TransformError> {
        let mut driven = self.members.iter().filter(|member| drives(member, schema));
        driven.try_for_each(|member| member.mapping.check(schema).map_err(TransformError::from))
    }

    /// The mappings that a table drives, compiled for its shape.
    pub(super) fn mappings_of(&mut self, schema: &TableSchema) -> Result<Vec<usize>, TransformError> {
        let mut driven = Vec::new();
        for (index, member) in self.members.iter_mut().enumerate().filter(|(_, member)| drives(member, schema)) {
            let current = matches!(
                &member.compiled,
                Some((table, version, _)) if *table == schema.table && *version == schema.version
            );
            if !current {
                let compiled = Compiled::new(&member.mapping, schema)?;
                member.compiled = Some((schema.table.clone(), schema.version, compiled));
            }
            driven.push(index);
        }
        Ok(driven)
    }

    pub(super) fn compiled(
        &self,
        member: usize,
        schema: &TableSchema,
    ) -> Result<(usize, u32, &Compiled), TransformError> {
        let Member { compiled, entity, id, mapping } = &self.members[member];
        match compiled {
            Some((table, version, compiled)) if *table == schema.table && *version == schema.version => {
                Ok((*entity, *id, compiled))
            }
            _ => Err(TransformError::State(format!("{} is driven by two tables", mapping.name))),
        }
    }
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
