//! A mapping resolved against one version of its table: physical expressions over just the columns that they read.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_sql::sqlparser::ast::Spanned;
use datafusion_sql::sqlparser::tokenizer::Location;
use syncline_schemas::entity::{Entity, Field, Kind, Merge};
use syncline_schemas::table::TableSchema;

use super::coerce::{self, RowFault};
use super::expression::{self, Refused, Resolved};
use super::{Mapping, sql};
use crate::error::MappingFault;

/// Where the value of an entity's field comes from.
#[derive(Debug)]
pub(crate) enum FieldSource {
    /// The mapping's expression.
    Mapped(Arc<dyn PhysicalExpr>),
    /// The field's default, one value.
    Default(ArrayRef),
    /// Nothing: null here, and where contributions are summed nothing is added.
    Missing,
    /// The entity's own derivation, or the stamp: not the mapping's business.
    Computed,
}

/// A mapping that can run on batches of one version of its table.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// Columns of the table that it reads, by index, ascending.
    pub(crate) inputs: Vec<usize>,
    /// Those of `inputs` that the log may leave out of a change.
    pub(crate) carried: Vec<usize>,
    /// The shape of the evaluated batch: `inputs` alone.
    pub(crate) input_schema: SchemaRef,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// One per field of the entity.
    pub(crate) fields: Vec<FieldSource>,
}

impl Compiled {
    pub(crate) fn new(mapping: &Mapping, table: &TableSchema) -> Result<Self, MappingFault> {
        let columns = table.columns_schema();
        let fault = |refused: Refused, at: Location| MappingFault {
            place: sql::place(&mapping.file, refused.at.unwrap_or(at)),
            reason: refused.reason,
        };
        let start = Location { line: 1, column: 1 };
        if table.key_indexes().is_empty() {
            let reason = format!("{} has no key to tell its rows apart; give it a PRIMARY KEY", table.table);
            return Err(MappingFault { place: mapping.query.table.place(&mapping.file), reason });
        }
        let filter_at = mapping.query.filter.as_ref().map_or(start, |filter| filter.span().start);
        let scope = expression::qualified(&mapping.query.alias, &columns).map_err(|refused| fault(refused, start))?;
        let filter = match &mapping.query.filter {
            Some(filter) => Some(Resolved::new(filter.clone(), &scope).map_err(|refused| fault(refused, filter_at))?),
            None => None,
        };
        let mut outputs: Vec<Option<(Resolved, Location)>> = vec![None; mapping.entity.fields.len()];
        for output in &mapping.query.outputs {
            let index = target(mapping.entity, &output.field, &outputs)
                .map_err(|reason| fault(Refused { reason, at: None }, output.at))?;
            let resolved = Resolved::new(output.expr.clone(), &scope).map_err(|refused| fault(refused, output.at))?;
            outputs[index] = Some((resolved, output.at));
        }
        let used: BTreeSet<usize> = outputs
            .iter()
            .flatten()
            .map(|(resolved, _)| resolved)
            .chain(&filter)
            .flat_map(Resolved::columns)
            .filter_map(|name| columns.index_of(name).ok())
            .collect();
        let inputs: Vec<usize> = used.into_iter().collect();
        let input_schema = Arc::new(
            columns.project(&inputs).map_err(|error| fault(Refused { reason: error.to_string(), at: None }, start))?,
        );
        let scope = expression::qualified(&mapping.query.alias, &plain(&input_schema))
            .map_err(|refused| fault(refused, start))?;
        let fields = mapping
            .entity
            .fields
            .iter()
            .zip(outputs)
            .map(|(field, output)| match output {
                Some((resolved, at)) => bind(&resolved, &scope, field).map_err(|refused| fault(refused, at)),
                None => unmapped(mapping.entity, field).map_err(|reason| fault(Refused { reason, at: None }, start)),
            })
            .collect::<Result<_, _>>()?;
        let filter =
            filter.map(|filter| filter.bind(&scope)).transpose().map_err(|refused| fault(refused, filter_at))?;
        if let Some(filter) = &filter {
            let data_type = filter.data_type(&input_schema).unwrap_or(DataType::Null);
            if data_type != DataType::Boolean {
                let reason = format!("WHERE gives {data_type}, not true or false");
                return Err(fault(Refused { reason, at: None }, filter_at));
            }
        }
        let carried = inputs.iter().copied().filter(|&index| table.columns[index].can_be_absent).collect();
        Ok(Self { inputs, carried, input_schema, filter, fields })
    }
}

/// The shape without metadata, which expressions do not look at.
fn plain(schema: &Schema) -> Schema {
    Schema::new(schema.fields().clone())
}

fn target(entity: &Entity, name: &str, outputs: &[Option<(Resolved, Location)>]) -> Result<usize, String> {
    let Some((index, field)) = entity.field(name) else {
        let known: Vec<&str> = entity
            .fields
            .iter()
            .filter(|field| field.derived.is_none() && !field.stamp)
            .map(|field| field.name.as_str())
            .collect();
        return Err(format!("{} has no field \"{name}\"; it has {}", entity.name, known.join(", ")));
    };
    if field.derived.is_some() || field.stamp {
        return Err(format!("{name} is computed by Syncline and cannot be mapped"));
    }
    if outputs[index].is_some() {
        return Err(format!("{name} is mapped twice"));
    }
    Ok(index)
}

fn bind(resolved: &Resolved, scope: &DFSchema, field: &Field) -> Result<FieldSource, Refused> {
    let bound = resolved.bind(scope)?;
    let data_type = bound.data_type(scope.as_arrow())?;
    coerce::accepts(&data_type, field.field_type)
        .map_err(|reason| Refused { reason: format!("{}: {reason}", field.name), at: None })?;
    Ok(FieldSource::Mapped(bound))
}

fn unmapped(entity: &Entity, field: &Field) -> Result<FieldSource, String> {
    if field.derived.is_some() || field.stamp {
        return Ok(FieldSource::Computed);
    }
    // Zero is what a summed field starts from; a default there must not be added once per contribution.
    if entity.kind == Kind::Summed && field.merge == Merge::Sum {
        return Ok(FieldSource::Missing);
    }
    match &field.default {
        Some(text) => default_value(field, text).map(FieldSource::Default),
        None if field.required => Err(format!("{} needs the field {}", entity.name, field.name)),
        None => Ok(FieldSource::Missing),
    }
}

fn default_value(field: &Field, text: &str) -> Result<ArrayRef, String> {
    let value: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let target = field.field_type.arrow();
    let parsed = match arrow::compute::cast(&value, &target) {
        Ok(parsed) => parsed,
        Err(error) => return Err(format!("default of {}: {error}", field.name)),
    };
    let mut faults: Vec<(usize, RowFault)> = Vec::new();
    let value = coerce::to_field(&parsed, field, &mut faults);
    match faults.first() {
        Some((_, fault)) => Err(format!("default {text:?}: {}", fault.reason)),
        None => Ok(value),
    }
}
