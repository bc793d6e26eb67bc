//! The joined tables by name and by number, and how each is kept and indexed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use syncline_schemas::table::TableSchema;

use super::Writes;
use super::catalog::{Numbers, Table, table_text};
use super::joined::{JoinIndex, Joined};
use super::stored::Layouts;
use crate::TransformError;
use crate::mapping::Mapping;
use crate::mapping::edge::JoinColumn;
use crate::state::State;

pub(super) const JOINED: &str = "joined/";
pub(super) const INDEX: &str = "index/";

/// Tables that some mapping joins.
pub(super) struct Tables {
    numbers: Numbers,
    index_numbers: Numbers,
    known: BTreeMap<u32, Joined>,
}

impl Tables {
    pub(super) fn open(state: &dyn State) -> Result<Self, TransformError> {
        let (numbers, index_numbers) = (Numbers::open(JOINED, state)?, Numbers::open(INDEX, state)?);
        Ok(Self { numbers, index_numbers, known: BTreeMap::new() })
    }

    pub(super) fn get(&self, table: &Table) -> Option<&Joined> {
        self.known.values().find(|joined| joined.source == table.0 && joined.table == table.1)
    }

    pub(super) fn by_id(&self, id: u32) -> Option<&Joined> {
        self.known.get(&id)
    }

    /// Keeps of a table what the mappings read that join it; `reads` are those mappings and the number of the join.
    pub(super) fn keep(
        &mut self,
        shape: &TableSchema,
        reads: &[(&Mapping, usize)],
        layouts: &mut Layouts,
        registrations: &mut Writes,
    ) -> Result<(), TransformError> {
        let table: Table = (shape.source.clone(), shape.table.clone());
        let (id, _) = self.numbers.of(&table_text(&table), registrations);
        let read = |name: &str| {
            reads.iter().any(|(mapping, join)| mapping.query.reads(&mapping.query.joins[*join].alias, name))
        };
        let columns: BTreeSet<usize> = (0..shape.columns.len()).filter(|&i| read(&shape.columns[i].name)).collect();
        let field = |&i: &usize| Field::new(&shape.columns[i].name, shape.columns[i].data_type.clone(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        let layout = layouts.id_of(&schema, registrations)?;
        let mut indexes = self.known.remove(&id).map(|joined| joined.indexes).unwrap_or_default();
        for on in indexes.iter_mut().flat_map(|join_index: &mut JoinIndex| &mut join_index.on) {
            let column = shape.columns.iter().find(|column| column.name == on.name);
            let Some(column) = column.filter(|column| alike(&column.data_type, &on.data_type)) else {
                let reason = format!("column {}, on which mappings join it, is gone or has another type", on.name);
                return Err(TransformError::KeyChanged { table: format!("{}.{}", table.0, table.1), reason });
            };
            // Values can be larger now.
            on.data_type = column.data_type.clone();
        }
        let columns = columns.into_iter().collect();
        self.known.insert(id, Joined { id, source: table.0, table: table.1, columns, schema, layout, indexes });
        Ok(())
    }

    /// Nothing is kept of a table from here on.
    pub(super) fn forget(&mut self, table: &Table) {
        self.known.retain(|_, joined| joined.source != table.0 || joined.table != table.1);
    }

    /// Gives up indexes that nothing is found by any more.
    pub(super) fn retire_indexes_but(&mut self, used: &BTreeSet<u32>, registrations: &mut Writes) {
        for joined in self.known.values_mut() {
            let (kept, retired) = std::mem::take(&mut joined.indexes).into_iter().partition(|it| used.contains(&it.id));
            joined.indexes = kept;
            let retired: Vec<JoinIndex> = retired;
            retired.iter().for_each(|join_index| self.index_numbers.retire(join_index.id, registrations));
        }
    }

    /// Sees to it that a table is indexed by some columns; gives table and index where the index is new.
    pub(super) fn index(
        &mut self,
        table: &Table,
        on: &[JoinColumn],
        registrations: &mut Writes,
    ) -> Result<Option<(u32, u32)>, TransformError> {
        let missing = || TransformError::State("an indexed table is not kept".to_owned());
        let names: Vec<&str> = on.iter().map(|on| on.name.as_str()).collect();
        let (id, fresh) = self.index_numbers.of(&format!("{}\0{}", table_text(table), names.join("\0")), registrations);
        let joined = self.known.values_mut().find(|joined| joined.source == table.0 && joined.table == table.1);
        let joined = joined.ok_or_else(missing)?;
        if joined.indexes.iter().any(|join_index| join_index.id == id) {
            return Ok(None);
        }
        joined.indexes.push(JoinIndex { id, on: on.to_vec() });
        // What rows affect is asked for in this order, whichever mapping was compiled first.
        joined.indexes.sort_by_key(|join_index| join_index.id);
        Ok(fresh.then_some((joined.id, id)))
    }

    /// The index of a table by some columns.
    pub(super) fn index_of(&self, table: &Joined, on: &[JoinColumn]) -> Option<u32> {
        let same = |join_index: &&JoinIndex| join_index.on.iter().map(|on| &on.name).eq(on.iter().map(|on| &on.name));
        table.indexes.iter().find(same).map(|join_index| join_index.id)
    }
}

/// Whether values of two types have the same bytes in state: whole numbers have, whatever their size.
pub(super) fn alike(one: &arrow::datatypes::DataType, other: &arrow::datatypes::DataType) -> bool {
    one == other || one.is_signed_integer() && other.is_signed_integer()
}
