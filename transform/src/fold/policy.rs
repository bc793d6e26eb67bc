//! What becomes of a table that changes its columns.
//!
//! The log holds the change at its place, so whoever stops at it has folded all before it and nothing after it; the sources
//! are read on meanwhile. A renamed column is one that was dropped and one that was added.

use std::collections::{BTreeMap, BTreeSet};

use syncline_schemas::table::{Column, TableSchema};

use crate::TransformError;

/// How a table's columns can change. Its key cannot: see [`TransformError::KeyChanged`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShapeChange {
    /// A column came.
    AddedColumn,
    /// A column went.
    DroppedColumn,
    /// A column has another type of the source, if only a longer one.
    ChangedType,
}

impl ShapeChange {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AddedColumn, Self::DroppedColumn, Self::ChangedType];

    /// Its name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AddedColumn => "added_column",
            Self::DroppedColumn => "dropped_column",
            Self::ChangedType => "changed_type",
        }
    }
}

/// What to do about shapes; by default every change is taken and a mapping that it does not fit is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShapePolicy {
    /// A mapping that no longer fits a table is put aside, so that the others go on.
    pub misfits_aside: bool,
    /// Changes of tables that mappings read, before which the fold stops.
    pub stop_at: BTreeSet<ShapeChange>,
}

impl ShapePolicy {
    /// Refuses a change that somebody wants to look at first.
    pub(super) fn admit(&self, before: &TableSchema, after: &TableSchema) -> Result<(), TransformError> {
        let Some((change, what)) = changes(before, after).into_iter().find(|(change, _)| self.stop_at.contains(change))
        else {
            return Ok(());
        };
        let table = format!("{}.{}", after.source, after.table);
        Err(TransformError::ShapeRefused { table, what, change: change.as_str() })
    }
}

/// What differs, column by column.
fn changes(before: &TableSchema, after: &TableSchema) -> Vec<(ShapeChange, String)> {
    let by_name = |shape: &'_ TableSchema| -> BTreeMap<String, Column> {
        shape.columns.iter().map(|column| (column.name.clone(), column.clone())).collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    let mut changes = Vec::new();
    for column in &before.columns {
        match new.get(&column.name) {
            None => changes.push((ShapeChange::DroppedColumn, format!("lost column {}", column.name))),
            Some(now) if now.source_type != column.source_type || now.data_type != column.data_type => {
                let (was, is) = (&column.source_type, &now.source_type);
                let what = format!("has column {} as {is}, which was {was}", column.name);
                changes.push((ShapeChange::ChangedType, what));
            }
            Some(_) => {}
        }
    }
    let added = after.columns.iter().filter(|column| !old.contains_key(&column.name));
    changes.extend(added.map(|column| (ShapeChange::AddedColumn, format!("has a new column {}", column.name))));
    changes
}
