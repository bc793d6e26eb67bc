//! Which mappings there are, which tables play their roles, and their compiled forms.
//!
//! Tables become known one by one, as the log shows their shapes. A mapping is compiled when all its tables are; until then
//! its rows are kept and contribute nothing.

use std::collections::{BTreeSet, HashMap, HashSet};

use syncline_schemas::entity;
use syncline_schemas::frame::TableBatch;
use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::table::{Column, TableSchema};

use super::Writes;
use super::catalog::{self, Table};
use super::citation::entity_index;
use super::logic::Logic;
use super::policy::ShapePolicy;
use super::step::Part;
use super::stored::Layouts;
use super::tables::{Tables, alike};
use super::tasks::{self, What};
use crate::TransformError;
use crate::error::MappingFault;
use crate::mapping::Mapping;
use crate::mapping::compile::{Compiled, Inputs};
use crate::mapping::rules::{self, Action};
use crate::state::State;

/// What a mapping reads of its driving table: known before the tables that it joins are.
#[derive(Debug)]
pub(super) struct Driving {
    pub(super) inputs: Inputs,
    /// Those inputs that the log may leave out of a change, with their place among the inputs.
    carried: Vec<(usize, Column)>,
    /// How its rows are kept; none where the mapping joins and cites nothing and they need not be.
    pub(super) layout: Option<u32>,
}

impl Driving {
    pub(super) fn carried(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.carried.iter().map(|(at, column)| (*at, column))
    }
}

/// A reference that counts under a mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Citation {
    /// Its place among the references of the mapping's entity.
    pub(super) reference: usize,
    /// What begins the keys of the cited entity in state.
    pub(super) prefix: [u8; 4],
    /// Rows that cite what is not there wait for it; otherwise they are delivered and counted.
    pub(super) parks: bool,
}

/// A mapping at work.
pub(super) struct Member {
    pub(super) mapping: Mapping,
    pub(super) id: u32,
    pub(super) entity: usize,
    /// The table of each role, where it is known: the driving table, then the joined ones. A second table of the same name
    /// would mix with it key by key.
    pub(super) roles: Vec<Option<Table>>,
    pub(super) driving: Option<Driving>,
    compiled: Option<Compiled>,
    pub(super) citations: Vec<Citation>,
    /// Its rows have been evaluated since all its tables are known.
    ready: bool,
    /// Why it is put aside, where it is.
    pub(super) misfit: Option<MappingFault>,
}

impl Member {
    /// Whether rows of a table drive it.
    pub(super) fn is_driven_by(&self, table: &Table) -> bool {
        self.misfit.is_none() && self.roles[0].as_ref() == Some(table)
    }

    /// Has nothing evaluated under it any more.
    pub(super) fn put_aside(&mut self, fault: MappingFault) {
        (self.driving, self.compiled) = (None, None);
        self.misfit = Some(fault);
    }

    pub(super) fn joins(&self) -> bool {
        self.roles.len() > 1
    }

    /// Rows may be evaluated again without a change of their own.
    fn keeps_rows(&self) -> bool {
        self.joins() || self.citations.iter().any(|citation| citation.parks)
    }

    /// The tables that it joins and its compiled form, once all of them are known.
    pub(super) fn compiled(&self) -> Option<(&Compiled, impl Iterator<Item = &Table>)> {
        Some((self.compiled.as_ref()?, self.roles[1..].iter().flatten()))
    }

    /// The joins in which a table takes part.
    pub(super) fn joins_of(&self, table: &Table) -> impl Iterator<Item = usize> {
        let plays = move |role: &Option<Table>| self.misfit.is_none() && role.as_ref() == Some(table);
        self.roles[1..].iter().enumerate().filter(move |(_, role)| plays(role)).map(|(join, _)| join)
    }
}

/// The mappings of a daemon and the tables they read.
pub(super) struct Roster {
    pub(super) members: Vec<Member>,
    entity_ids: Vec<u32>,
    logic: Vec<Logic>,
    /// By entity.
    levels: Vec<u8>,
    pub(super) shapes: HashMap<Table, TableSchema>,
    pub(super) tables: Tables,
    pub(super) layouts: Layouts,
    pub(super) registrations: Writes,
    /// True where the registrations hold tasks.
    calls: bool,
    pub(super) policy: ShapePolicy,
}

impl Roster {
    pub(super) fn open(mut mappings: Vec<Mapping>, state: &dyn State) -> Result<Self, TransformError> {
        mappings.sort_by(|left, right| left.name.cmp(&right.name));
        let mut registrations = Writes::new();
        catalog::refuse_other_format(state, &mut registrations)?;
        let known = catalog::known_mappings(state)?;
        let mut next = known.values().map(|(id, _)| id + 1).max().unwrap_or(1);
        let mut members = Vec::new();
        for mapping in mappings {
            let id = known.get(&mapping.name).map_or(next, |(id, _)| *id);
            next = next.max(id + 1);
            // Only what is new: after a crash the same steps must follow.
            if known.get(&mapping.name) != Some(&(id, mapping.fingerprint)) {
                catalog::register_mapping(&mapping.name, id, mapping.fingerprint, &mut registrations);
            }
            members.push(member(mapping, id, state)?);
        }
        let mut numbers = catalog::entity_numbers(state)?;
        let entity_ids: Vec<u32> =
            entity::all().iter().map(|entity| numbers.of(&entity.name, &mut registrations).0).collect();
        let own = || members.iter().map(|member| (member.mapping.entity, &member.mapping.rules));
        let logic = entity::all().iter().map(|entity| Logic::new(entity, rules::overridden(entity, own())));
        let logic = logic.collect::<Result<_, _>>()?;
        cite(&mut members, &entity_ids);
        let levels = levels(&members);
        let mut roster = Self {
            members,
            entity_ids,
            logic,
            levels,
            shapes: HashMap::new(),
            tables: Tables::open(state)?,
            layouts: Layouts::open(state)?,
            registrations,
            calls: false,
            policy: ShapePolicy::default(),
        };
        let shapes = catalog::known_shapes(state)?;
        shapes.values().try_for_each(|shape| roster.take_up(shape))?;
        shapes.keys().try_for_each(|table| roster.compile_all(table))?;
        Ok(roster)
    }

    /// What must be written with the next step.
    pub(super) fn registrations(&self) -> &Writes {
        &self.registrations
    }

    /// They have been written; true where tasks were among them.
    pub(super) fn registered(&mut self) -> bool {
        self.registrations.clear();
        std::mem::take(&mut self.calls)
    }

    /// True where tasks are to be written with the next step.
    pub(super) const fn calls(&self) -> bool {
        self.calls
    }

    /// True where any mapping joins a table.
    pub(super) fn joins(&self) -> bool {
        self.members.iter().any(Member::joins)
    }

    pub(super) fn logic(&self, entity: usize) -> &Logic {
        &self.logic[entity]
    }

    pub(super) fn entity_prefix(&self, entity: usize) -> [u8; 4] {
        self.entity_ids[entity].to_be_bytes()
    }

    /// The entity whose keys in state begin with a number.
    pub(super) fn entity_of(&self, prefix: [u8; 4]) -> Option<usize> {
        self.entity_ids.iter().position(|id| id.to_be_bytes() == prefix)
    }

    /// How far an entity is from those that cite none: it comes after all that its rows may wait for.
    pub(super) fn level(&self, entity: usize) -> u8 {
        self.levels[entity]
    }

    /// The levels of what some tables drive, from below.
    pub(super) fn levels_of(&self, source: &SourceId, tables: &BTreeSet<TableId>) -> BTreeSet<u8> {
        let driven = |member: &&Member| {
            let role = member.mapping.roles().next();
            role.is_some_and(|role| tables.iter().any(|table| role.means(&member.mapping.source, source, table)))
        };
        self.members.iter().filter(driven).map(|member| self.levels[member.entity]).collect()
    }

    /// Those of some tables that a part of a step takes rows of.
    pub(super) fn wants(&self, source: &SourceId, tables: &BTreeSet<TableId>, part: Part) -> BTreeSet<TableId> {
        let is_wanted = |table: &&TableId| {
            self.members.iter().any(|member| {
                let mut means = member.mapping.roles().map(|role| role.means(&member.mapping.source, source, table));
                let drives = means.next() == Some(true) && part.drives(self.levels[member.entity]);
                drives || !matches!(part, Part::Driving { .. }) && means.any(|joins| joins)
            })
        };
        tables.iter().filter(is_wanted).cloned().collect()
    }

    /// True where some mapping looks whether a row of an entity is there.
    pub(super) fn is_cited(&self, entity: usize) -> bool {
        let prefix = self.entity_prefix(entity);
        self.members.iter().any(|member| member.citations.iter().any(|it| it.prefix == prefix))
    }

    /// The fault of a mapping of which a table has not been seen yet; none where all have been.
    pub(super) fn unfed(&self) -> Option<MappingFault> {
        let missing = |member: &Member| {
            let role = member.mapping.roles().zip(&member.roles).find(|(_, table)| table.is_none());
            role.map(|(role, _)| member.mapping.table_missing(role))
        };
        self.members.iter().find_map(missing)
    }

    /// The member with a state number.
    pub(super) fn member(&self, id: u32) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Looks at the shape that a batch needs; gives its key columns where some mapping reads the table.
    pub(super) fn observe(
        &mut self,
        source: &SourceId,
        batch: &TableBatch,
    ) -> Result<Option<Vec<usize>>, TransformError> {
        let table = (source.clone(), batch.table.clone());
        if self.shapes.get(&table).is_none_or(|known| known.version != batch.schema_version) {
            self.observe_shape(&super::shape(source, batch))?;
        }
        // A mapping that did not fit does not fit the next time either.
        self.compile_all(&table)?;
        Ok(self.shapes.get(&table).map(TableSchema::key_indexes))
    }

    /// Looks at a new shape of a table: every mapping that reads it is checked against it.
    pub(super) fn observe_shape(&mut self, shape: &TableSchema) -> Result<(), TransformError> {
        let table = (shape.source.clone(), shape.table.clone());
        if self.shapes.get(&table) == Some(shape) {
            return self.compile_all(&table);
        }
        if !self.members.iter().any(|member| member.mapping.reads(&shape.source, &shape.table)) {
            return Ok(());
        }
        if let Some(known) = self.shapes.get(&table) {
            refuse_other_key(known, shape)?;
            self.policy.admit(known, shape)?;
        }
        if self.policy.misfits_aside {
            self.put_misfits_aside(shape)?;
        }
        self.take_up(shape)?;
        catalog::register_shape(shape, &mut self.registrations)?;
        self.compile_all(&table)
    }

    /// Gives a table its roles and its place among the joined ones.
    fn take_up(&mut self, shape: &TableSchema) -> Result<(), TransformError> {
        let table: Table = (shape.source.clone(), shape.table.clone());
        for member in self.members.iter_mut().filter(|member| member.misfit.is_none()) {
            bind(member, &table, &mut self.registrations)?;
        }
        self.shapes.insert(table.clone(), shape.clone());
        let reads = |member: &&mut Member| member.roles.iter().flatten().any(|role| *role == table);
        for member in self.members.iter_mut().filter(reads) {
            member.compiled = None;
            if member.is_driven_by(&table) {
                member.driving = Some(driving(member, shape, &mut self.layouts, &mut self.registrations)?);
            }
        }
        self.keep_joined(shape)
    }

    /// Keeps of a table what mappings read that join it, and nothing where none does.
    pub(super) fn keep_joined(&mut self, shape: &TableSchema) -> Result<(), TransformError> {
        let table: Table = (shape.source.clone(), shape.table.clone());
        let members = self.members.iter();
        let reads: Vec<(&Mapping, usize)> =
            members.flat_map(|member| member.joins_of(&table).map(|join| (&member.mapping, join))).collect();
        if reads.is_empty() {
            self.tables.forget(&table);
            return Ok(());
        }
        self.tables.keep(shape, &reads, &mut self.layouts, &mut self.registrations)
    }

    /// Compiles what reads a table and is not compiled, where all its tables are known.
    fn compile_all(&mut self, table: &Table) -> Result<(), TransformError> {
        let waits = |member: &&mut Member| member.compiled.is_none() && member.misfit.is_none();
        for member in self.members.iter_mut().filter(waits) {
            if !member.roles.iter().flatten().any(|role| role == table) {
                continue;
            }
            let shapes: Option<Vec<&TableSchema>> =
                member.roles.iter().map(|role| self.shapes.get(role.as_ref()?)).collect();
            let Some(shapes) = shapes else { continue };
            let compiled = Compiled::new(&member.mapping, shapes[0], &shapes[1..])?;
            let edges = compiled.edges.iter().zip(&shapes[1..]).enumerate();
            for (join, (edge, shape)) in edges.filter(|(_, (edge, _))| !edge.by_key) {
                let joined = (shape.source.clone(), shape.table.clone());
                if let Some((table, index)) = self.tables.index(&joined, &edge.on, &mut self.registrations)? {
                    tasks::put_call(What::Fill { table, index }, &joined, &mut self.registrations);
                    self.calls = true;
                }
                let index = self.tables.get(&joined).and_then(|joined| self.tables.index_of(joined, &edge.on));
                if let Some(index) = index.filter(|_| !member.ready) {
                    catalog::register_lookup(&member.mapping.name, join, index, &mut self.registrations);
                }
            }
            if !member.ready {
                member.ready = true;
                catalog::register_ready(&member.mapping.name, &mut self.registrations);
                if member.joins() {
                    tasks::put_call(What::All { mapping: member.id }, table, &mut self.registrations);
                    self.calls = true;
                }
            }
            member.compiled = Some(compiled);
        }
        Ok(())
    }
}

fn member(mapping: Mapping, id: u32, state: &dyn State) -> Result<Member, TransformError> {
    let entity = entity::all()
        .iter()
        .position(|entity| entity.name == mapping.entity.name)
        .expect("a mapping's entity is one of all entities");
    let roles = (0..mapping.roles().count())
        .map(|role| catalog::known_role(state, &mapping.name, role))
        .collect::<Result<_, _>>()?;
    let ready = catalog::is_ready(state, &mapping.name)?;
    let misfit = catalog::known_misfit(state, &mapping.name)?;
    Ok(Member { mapping, id, entity, roles, driving: None, compiled: None, citations: Vec::new(), ready, misfit })
}

/// Entities cite only those before them.
fn levels(members: &[Member]) -> Vec<u8> {
    let mut levels = vec![0_u8; entity::all().len()];
    for entity in 0..levels.len() {
        let own = members.iter().filter(|member| member.entity == entity);
        let cited = own.flat_map(|member| {
            let references = &member.mapping.entity.references;
            member.citations.iter().map(|citation| entity_index(&references[citation.reference].entity))
        });
        levels[entity] = cited.map(|cited| levels[cited] + 1).max().unwrap_or(0);
    }
    levels
}

/// Finds the references that count: those to entities that some mapping fills.
fn cite(members: &mut [Member], entity_ids: &[u32]) {
    let filled: HashSet<usize> = members.iter().map(|member| member.entity).collect();
    for member in members {
        let references = member.mapping.entity.references.iter().enumerate();
        let cited = references.map(|(reference, it)| (reference, entity_index(&it.entity)));
        let counts = cited.filter(|(_, cited)| filled.contains(cited));
        let prefix = |cited: usize| entity_ids[cited].to_be_bytes();
        let rules = &member.mapping.rules;
        let action = |reference: usize| rules.of(&member.mapping.entity.references[reference].id);
        member.citations = counts
            .filter(|(reference, _)| action(*reference) != Some(Action::Ignore))
            .map(|(reference, cited)| {
                let parks = action(reference) != Some(Action::Warn);
                Citation { reference, prefix: prefix(cited), parks }
            })
            .collect();
    }
}

/// Ties the roles of a mapping to the first table that answers to their names.
fn bind(member: &mut Member, table: &Table, registrations: &mut Writes) -> Result<(), TransformError> {
    for (number, role) in member.mapping.roles().enumerate() {
        if !role.means(&member.mapping.source, &table.0, &table.1) {
            continue;
        }
        match &member.roles[number] {
            Some(bound) if bound == table => {}
            Some(bound) => return Err(member.mapping.table_ambiguous(role, &bound.1, &table.1).into()),
            None => {
                catalog::register_role(&member.mapping.name, number, table, registrations);
                member.roles[number] = Some(table.clone());
            }
        }
    }
    Ok(())
}

fn driving(
    member: &Member,
    shape: &TableSchema,
    layouts: &mut Layouts,
    registrations: &mut Writes,
) -> Result<Driving, TransformError> {
    let inputs = Inputs::new(&member.mapping, &member.mapping.query.alias, shape);
    let carried = inputs.columns.iter().enumerate().map(|(at, &index)| (at, shape.columns[index].clone()));
    let carried = carried.filter(|(_, column)| column.can_be_absent).collect();
    let layout = if member.keeps_rows() { Some(layouts.id_of(&inputs.schema, registrations)?) } else { None };
    Ok(Driving { inputs, carried, layout })
}

/// State finds rows by their key, so another key would make every row a second one.
fn refuse_other_key(known: &TableSchema, shape: &TableSchema) -> Result<(), TransformError> {
    fn key(shape: &TableSchema) -> Vec<&Column> {
        shape.key_indexes().into_iter().map(|i| &shape.columns[i]).collect()
    }
    fn names(key: &[&Column]) -> String {
        key.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    }
    let (was, is) = (key(known), key(shape));
    let same = |(one, other): (&&Column, &&Column)| one.name == other.name && alike(&one.data_type, &other.data_type);
    if was.len() == is.len() && was.iter().zip(&is).all(same) {
        return Ok(());
    }
    let reason = if names(&was) == names(&is) { "has another type" } else { "is another one" };
    Err(TransformError::KeyChanged {
        table: format!("{}.{}", shape.source, shape.table),
        reason: format!("its key ({}) {reason} now ({})", names(&was), names(&is)),
    })
}
