//! The columns of a table beside those of its entity: what a release added is added there too, anything else is refused.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field};
use deltalake_core::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake_core::kernel::{StructField, StructType};

use super::shape::Shape;
use crate::SinkError;

/// Fields as Delta has them.
pub(super) fn kernel<'f>(
    shape: &Shape,
    fields: impl Iterator<Item = &'f Field>,
) -> Result<Vec<StructField>, SinkError> {
    fields
        .map(|field| {
            field.try_into_kernel().map_err(|error| SinkError::Shape {
                entity: shape.entity.clone(),
                reason: format!("column {} has no Delta type: {error}", field.name()),
            })
        })
        .collect()
}

/// Columns that a table lacks.
///
/// # Errors
/// What else differs.
pub(super) fn missing(shape: &Shape, found: &StructType) -> Result<Vec<Field>, String> {
    let mut found: HashMap<&str, &StructField> = found.fields().map(|field| (field.name().as_str(), field)).collect();
    let mut missing = Vec::new();
    for wanted in shape.schema.fields() {
        let Some(field) = found.remove(wanted.name().as_str()) else {
            if !wanted.is_nullable() {
                return Err(format!("the table has no column {}", wanted.name()));
            }
            missing.push(wanted.as_ref().clone());
            continue;
        };
        let data_type: Result<DataType, _> = field.data_type().try_into_arrow();
        if !data_type.as_ref().is_ok_and(|found| found == wanted.data_type()) {
            return Err(format!("column {} is {}, wanted {}", wanted.name(), field.data_type(), wanted.data_type()));
        }
    }
    let mut unknown: Vec<_> = found.into_keys().collect();
    unknown.sort_unstable();
    match unknown.as_slice() {
        [] => Ok(missing),
        names => Err(format!("the table has unknown columns: {}", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use syncline_schemas::entity::{self, Entity};
    use url::Url;

    use super::*;
    use crate::Class;
    use crate::lake::config::StoreOptions;
    use crate::lake::shape::Kind;
    use crate::lake::store::Place;
    use crate::lake::table::Table;

    fn table(folder: &Path, entity: &Entity) -> Table {
        let url = Url::from_directory_path(folder).expect("absolute");
        let place = Place::open(&url, &StoreOptions::default()).expect("a place");
        Table::new(&place, Shape::new(entity, Kind::Current, &Arc::default()), "test")
    }

    fn without(field: &str) -> Entity {
        let mut entity = entity::get("item").expect("known").clone();
        let before = entity.fields.len();
        entity.fields.retain(|other| other.name != field);
        assert_eq!(entity.fields.len(), before - 1);
        entity
    }

    #[tokio::test]
    async fn a_field_that_a_release_adds_becomes_a_column_of_the_table_that_is_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let full = entity::get("item").expect("known");
        let added = &full.fields.last().expect("fields").name;
        table(folder.path(), &without(added)).open().await.expect("made");
        let mut newer = table(folder.path(), full);
        newer.open().await.expect("brought up to date");
        assert_eq!(newer.version(), 1);
        let mut again = table(folder.path(), full);
        assert!(again.load().await.expect("there"));
        again.open().await.expect("nothing to do");
        assert_eq!(again.version(), 1, "columns are added once");
    }

    #[tokio::test]
    async fn an_older_release_refuses_a_table_with_columns_that_it_does_not_know() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let full = entity::get("item").expect("known");
        let added = &full.fields.last().expect("fields").name;
        table(folder.path(), full).open().await.expect("made");
        let error = table(folder.path(), &without(added)).open().await.expect_err("unknown column");
        assert_eq!(error.class(), Class::Definite);
        assert!(error.to_string().contains(added.as_str()) && error.to_string().contains("current/item"), "{error}");
    }

    #[tokio::test]
    async fn a_column_of_another_type_is_named_with_both_types() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let full = entity::get("item").expect("known");
        let mut other = full.clone();
        let field = other.fields.last_mut().expect("fields");
        field.field_type = entity::FieldType::Rate;
        let name = field.name.clone();
        table(folder.path(), &other).open().await.expect("made");
        let error = table(folder.path(), full).open().await.expect_err("another type").to_string();
        assert!(error.contains(&name) && error.contains("decimal(28,12)"), "{error}");
    }
}
