//! The table of an output: the entity's fields as columns, and which cycle each row is of.

use std::fmt::Write as _;

use arrow::array::ArrayRef;
use syncline_schemas::entity::{self, Entity, FieldType};
use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::outputs::{CYCLE_ID, PUBLISHED_TS};
use syncline_schemas::table::{Column as ColumnShape, TableSchema};
use xxhash_rust::xxh3::xxh3_64;

use super::column::Column;

/// The schema of the tables, as in `outputs.forecast`.
const SCHEMA: &str = "outputs";

/// A column: a field of the entity, or one of the cycle's that the entity lacks.
pub(super) struct Field {
    pub(super) name: String,
    pub(super) field_type: FieldType,
    pub(super) key: bool,
    pub(super) required: bool,
    /// What a row means that leaves it out.
    pub(super) default: Option<String>,
}

/// An output and its table.
pub(super) struct Table {
    pub(super) output: &'static str,
    pub(super) fields: Vec<Field>,
    pub(super) schema: TableSchema,
}

impl Table {
    pub(super) fn new(source: &SourceId, output: &'static str) -> Self {
        let entity = entity::get(output).expect("a test holds that every output is an entity");
        let fields = fields(entity);
        let schema = schema(source, output, &fields);
        Self { output, fields, schema }
    }

    /// Builders of all its columns, in their order.
    pub(super) fn columns(&self) -> Vec<Column> {
        self.fields.iter().map(|field| Column::new(field.field_type)).collect()
    }

    /// One row without any value, for what is said of the table as a whole.
    pub(super) fn nothing(&self) -> Vec<ArrayRef> {
        let mut columns = self.columns();
        columns.iter_mut().for_each(Column::append_null);
        columns.iter_mut().map(Column::finish).collect()
    }
}

fn fields(entity: &Entity) -> Vec<Field> {
    let own = entity.fields.iter().map(|field| Field {
        name: field.name.clone(),
        field_type: field.field_type,
        key: field.key,
        required: field.required,
        default: field.default.clone(),
    });
    let of_cycle = [(CYCLE_ID, FieldType::String), (PUBLISHED_TS, FieldType::Instant)];
    let lacking = of_cycle.into_iter().filter(|(name, _)| entity.field(name).is_none()).map(|(name, field_type)| {
        Field { name: name.to_owned(), field_type, key: false, required: false, default: None }
    });
    own.chain(lacking).collect()
}

/// Another shape has another version.
fn schema(source: &SourceId, output: &str, fields: &[Field]) -> TableSchema {
    let mut shape = String::new();
    let mut keys = 0..;
    let columns = fields.iter().map(|field| {
        let key_ordinal = if field.key { keys.next() } else { None };
        let source_type = format!("{:?}", field.field_type).to_lowercase();
        let written = write!(shape, "{}:{}\0{source_type}\0{key_ordinal:?}\0", field.name.len(), field.name);
        written.expect("a String takes every text");
        ColumnShape {
            name: field.name.clone(),
            data_type: field.field_type.arrow(),
            source_type,
            key_ordinal,
            can_be_absent: false,
        }
    });
    let columns = columns.collect();
    let version = u32::try_from(xxh3_64(shape.as_bytes()) >> 32).expect("32 bits are left").max(1);
    TableSchema { source: source.clone(), table: TableId::new(SCHEMA, output), version, columns }
}

/// The shapes of the tables of some outputs: they follow from the contract, so nobody has to be asked.
#[must_use]
pub fn table_schemas(source: &SourceId, outputs: &[&'static str]) -> Vec<TableSchema> {
    outputs.iter().map(|output| Table::new(source, output).schema).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_says_of_each_row_which_cycle_it_is_of() {
        for schema in table_schemas(&SourceId::new("plan"), &syncline_schemas::outputs::OUTPUTS) {
            let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
            assert_eq!(names.iter().filter(|name| [CYCLE_ID, PUBLISHED_TS].contains(name)).count(), 2, "{names:?}");
            assert!(!schema.key_indexes().is_empty());
        }
    }
}
