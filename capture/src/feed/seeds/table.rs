//! A table in memory: its shape, its columns, and its keys and rows as bytes to compare.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::array::{ArrayRef, new_empty_array};
use syncline_schemas::SchemaError;
use syncline_schemas::ident::{SEEDS, SourceId, TableId};
use syncline_schemas::rowcode::{self, Rows};
use syncline_schemas::table::{Column, TableSchema};
use xxhash_rust::xxh3::xxh3_64;

use super::config::CellType;

/// How a content is read: what was declared about it, as places in its header. A part of its identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// The key's columns in key order; at least one, each once.
    pub(super) keys: Vec<u16>,
    /// The types of the columns that are not text.
    pub(super) types: BTreeMap<u16, CellType>,
}

impl Layout {
    /// The type of each of so many columns.
    pub(super) fn cell_types(&self, columns: usize) -> Vec<CellType> {
        let place = |i: usize| u16::try_from(i).ok();
        (0..columns).map(|i| place(i).and_then(|i| self.types.get(&i).copied()).unwrap_or(CellType::Text)).collect()
    }
}

/// A table with all its rows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) schema: TableSchema,
    pub(super) columns: Vec<ArrayRef>,
    /// The key of each row.
    pub(super) keys: Rows,
    /// Each row whole.
    pub(super) rows: Rows,
}

impl Table {
    /// Columns of the schema's types and of one length.
    pub(super) fn new(schema: TableSchema, columns: Vec<ArrayRef>) -> Result<Self, SchemaError> {
        let key: Vec<ArrayRef> = schema.key_indexes().into_iter().map(|i| ArrayRef::clone(&columns[i])).collect();
        Ok(Self { keys: rowcode::encode(&key)?, rows: rowcode::encode(&columns)?, schema, columns })
    }

    /// The same table without its rows.
    pub(super) fn emptied(&self) -> Self {
        let columns = self.columns.iter().map(|column| new_empty_array(column.data_type())).collect();
        Self { schema: self.schema.clone(), columns, keys: Rows::default(), rows: Rows::default() }
    }

    /// How many rows.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
}

/// The shape of a table from its header and layout; another shape has another version.
pub(super) fn schema(name: &str, header: &[String], layout: &Layout) -> TableSchema {
    let types = layout.cell_types(header.len());
    let mut shape = String::new();
    let columns: Vec<Column> = header
        .iter()
        .zip(types)
        .enumerate()
        .map(|(i, (name, cell_type))| {
            let key = layout.keys.iter().position(|key| usize::from(*key) == i);
            let key_ordinal = key.and_then(|place| u32::try_from(place).ok());
            let written = write!(shape, "{}:{name}\0{cell_type}\0{key_ordinal:?}\0", name.len());
            written.expect("a String takes every text");
            Column {
                name: name.clone(),
                data_type: cell_type.data_type(),
                source_type: cell_type.to_string(),
                key_ordinal,
                can_be_absent: false,
            }
        })
        .collect();
    let version = u32::try_from(xxh3_64(shape.as_bytes()) >> 32).expect("32 bits are left").max(1);
    TableSchema { source: SourceId::new(SEEDS), table: TableId::new(SEEDS, name), version, columns }
}

/// True where a key of one shape can be the key of the other: the same columns of the same types in the same order.
pub(super) fn same_key(one: &TableSchema, other: &TableSchema) -> bool {
    let key = |schema: &TableSchema| -> Vec<_> {
        schema.key_indexes().into_iter().map(|i| schema.columns[i].clone()).collect()
    };
    key(one) == key(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(header: &[&str], keys: &[u16], types: &[(u16, CellType)]) -> TableSchema {
        let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
        schema("uom", &header, &Layout { keys: keys.to_vec(), types: types.iter().copied().collect() })
    }

    #[test]
    fn the_version_follows_from_the_shape_alone() {
        let uom = of(&["code", "num"], &[0], &[]);
        assert_eq!(uom, of(&["code", "num"], &[0], &[]));
        let others = [
            of(&["code", "den"], &[0], &[]),
            of(&["code", "num"], &[1], &[]),
            of(&["code", "num"], &[0, 1], &[]),
            of(&["code", "num"], &[0], &[(1, CellType::Integer)]),
            of(&["code", "num", "x"], &[0], &[]),
        ];
        assert!(others.iter().all(|other| other.version != uom.version));
        assert_eq!(uom.table.to_string(), "seeds.uom");
    }

    #[test]
    fn a_key_of_another_type_or_order_is_another_key() {
        let one = of(&["a", "b", "c"], &[0, 1], &[]);
        assert!(same_key(&one, &of(&["c", "a", "b"], &[1, 2], &[(0, CellType::Date)])));
        assert!(!same_key(&one, &of(&["a", "b", "c"], &[1, 0], &[])));
        assert!(!same_key(&one, &of(&["a", "b", "c"], &[0, 1], &[(1, CellType::Integer)])));
        assert!(!same_key(&one, &of(&["a", "b", "c"], &[0], &[])));
    }
}
