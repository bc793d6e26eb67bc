//! Mappings that no longer fit a table that they read, put aside so that the others go on.
//!
//! A mapping that lost a column cannot say any more what its rows mean. From the entry on that brings the shape nothing is evaluated
//! under it: what it contributed stays as it is, as a row does that is held. It is put aside for good, also where the column comes
//! back, because of the rows between nobody knows; it counts again in a state that is computed anew, as a replay does.

use std::collections::BTreeSet;

use syncline_schemas::table::TableSchema;

use super::catalog;
use super::roster::{Member, Roster};
use super::tables::alike;
use crate::TransformError;
use crate::error::MappingFault;
use crate::mapping::compile::Compiled;

impl Roster {
    /// Puts the mappings aside that cannot go on with a shape.
    pub(super) fn put_misfits_aside(&mut self, shape: &TableSchema) -> Result<(), TransformError> {
        let misfits: Vec<(usize, MappingFault)> = self
            .members
            .iter()
            .enumerate()
            .filter_map(|(place, member)| Some((place, self.misfit(member, shape)?)))
            .collect();
        if misfits.is_empty() {
            return Ok(());
        }
        let mut tables = BTreeSet::new();
        for (place, fault) in misfits {
            let member = &mut self.members[place];
            catalog::register_misfit(&member.mapping.name, &fault, &mut self.registrations);
            tables.extend(member.roles[1..].iter().flatten().cloned());
            member.put_aside(fault);
        }
        let mut used = BTreeSet::new();
        for member in &self.members {
            let Some((compiled, tables)) = member.compiled() else { continue };
            let joined = tables.zip(&compiled.edges).filter(|(_, edge)| !edge.by_key);
            used.extend(joined.filter_map(|(table, edge)| self.tables.index_of(self.tables.get(table)?, &edge.on)));
        }
        self.tables.retire_indexes_but(&used, &mut self.registrations);
        // As after a restart: of what it joined nothing more is kept than the others read.
        let shapes: Vec<TableSchema> = tables.iter().filter_map(|table| self.shapes.get(table).cloned()).collect();
        shapes.iter().try_for_each(|shape| self.keep_joined(shape))
    }

    /// Why a mapping cannot go on with a shape, as far as the other tables that it reads are known.
    fn misfit(&self, member: &Member, shape: &TableSchema) -> Option<MappingFault> {
        let mapping = &member.mapping;
        if member.misfit.is_some() || !mapping.reads(&shape.source, &shape.table) {
            return None;
        }
        let table = (shape.source.clone(), shape.table.clone());
        let mut shapes = Vec::new();
        for (role, bound) in mapping.roles().zip(&member.roles) {
            let is_meant = role.means(&mapping.source, &table.0, &table.1);
            match bound {
                Some(bound) if is_meant && *bound != table => {
                    return Some(mapping.table_ambiguous(role, &bound.1, &table.1));
                }
                _ if is_meant => shapes.push(Some(shape)),
                bound => shapes.push(bound.as_ref().and_then(|bound| self.shapes.get(bound))),
            }
        }
        let shapes: Vec<&TableSchema> = shapes.into_iter().collect::<Option<_>>()?;
        let compiled = Compiled::new(mapping, shapes[0], &shapes[1..]);
        compiled.err().or_else(|| lost_index(member, shape))
    }
}

/// The fault of a mapping that finds rows by a column whose values now have other bytes than those in the index.
fn lost_index(member: &Member, shape: &TableSchema) -> Option<MappingFault> {
    let (compiled, tables) = member.compiled()?;
    let mut joins = tables.zip(&compiled.edges).zip(&member.mapping.query.joins);
    joins.find_map(|((table, edge), join)| {
        if edge.by_key || table.0 != shape.source || table.1 != shape.table {
            return None;
        }
        let lost = edge.on.iter().find(|on| {
            let column = shape.columns.iter().find(|column| column.name == on.name);
            column.is_none_or(|column| !alike(&column.data_type, &on.data_type))
        })?;
        let reason =
            format!("column {} of {}, by which its rows are found, has another type now", lost.name, shape.table);
        Some(MappingFault { place: join.table.place(&member.mapping.file), reason })
    })
}
