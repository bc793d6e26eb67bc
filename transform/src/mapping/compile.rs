//! A mapping resolved against one version of each of its tables: physical expressions over just the columns they read.
//!
//! ```text
//! driving columns -> prefilter -> join 1 -> .. -> join n -> filter -> fields
//! ```
//!
//! The part of WHERE that reads the driving table alone runs before the joins: what it excludes is never looked up.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr, Spanned};
use datafusion_sql::sqlparser::tokenizer::Location;
use syncline_schemas::entity::{Entity, Field, Kind, Merge};
use syncline_schemas::table::{Column, TableSchema};

use super::coerce::{self, RowFault};
use super::edge::{self, Edge};
use super::expression::{Bound, Refused, Scope};
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

/// What a mapping reads of one of its tables: a matter of its text and that table alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// Columns by index, ascending.
    pub(crate) columns: Vec<usize>,
    /// The shape of a batch of them, without metadata, which expressions do not look at.
    pub(crate) schema: SchemaRef,
}

impl Inputs {
    /// The columns of `table` that the mapping can mean where it calls the table `alias`.
    pub(crate) fn new(mapping: &Mapping, alias: &str, table: &TableSchema) -> Self {
        let read = |name: &str| mapping.query.reads(alias, name);
        let columns: Vec<usize> = (0..table.columns.len()).filter(|&i| read(&table.columns[i].name)).collect();
        let field = |&i: &usize| ArrowField::new(&table.columns[i].name, table.columns[i].data_type.clone(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        Self { columns, schema }
    }
}

/// A mapping that can run on batches of one version of its tables.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// What WHERE says of the driving table alone.
    pub(crate) prefilter: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) edges: Vec<Edge>,
    /// The rest of WHERE.
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// One per field of the entity.
    pub(crate) fields: Vec<FieldSource>,
}

impl Compiled {
    /// `joined` are the shapes of the joined tables, in the order of the joins.
    pub(crate) fn new(mapping: &Mapping, table: &TableSchema, joined: &[&TableSchema]) -> Result<Self, MappingFault> {
        let joins = mapping.roles().skip(1).zip(joined);
        if let Some((role, keyless)) = joins.into_iter().find(|(_, table)| table.key_indexes().is_empty()) {
            let reason = format!(
                "{} has no key to tell its rows apart, and so may stand in FROM alone; give it a PRIMARY KEY to join it",
                keyless.table
            );
            return Err(MappingFault { place: role.place(&mapping.file), reason });
        }
        let start = Location { line: 1, column: 1 };
        let fault = |refused: Refused, at: Location| MappingFault {
            place: sql::place(&mapping.file, refused.at.unwrap_or(at)),
            reason: refused.reason,
        };
        let inputs = Inputs::new(mapping, &mapping.query.alias, table);
        let driving =
            Scope::new(&mapping.query.alias, &inputs.schema, &plain(table)).map_err(|refused| fault(refused, start))?;
        let (mut scope, mut edges) = (driving.clone(), Vec::new());
        for (join, joined) in mapping.query.joins.iter().zip(joined) {
            let (edge, wider) =
                edge::bind(mapping, join, joined, &scope).map_err(|(refused, at)| fault(refused, at))?;
            edges.push(edge);
            scope = wider;
        }
        let (before, after) = split(mapping, &driving, !edges.is_empty());
        let filter = |condition: Option<Expr>, scope: &Scope| {
            let Some(condition) = condition else { return Ok(None) };
            let at = condition.span().start;
            condition_over(condition, scope).map(Some).map_err(|refused| fault(refused, at))
        };
        let fields = fields(mapping, &scope, fault)?;
        let (prefilter, filter) = (filter(before, &driving)?, filter(after, &scope)?);
        Ok(Self { prefilter, edges, filter, fields })
    }
}

/// All columns of a table, without metadata.
pub(crate) fn plain(table: &TableSchema) -> Schema {
    let field = |column: &Column| ArrowField::new(&column.name, column.data_type.clone(), true);
    Schema::new(table.columns.iter().map(field).collect::<Vec<_>>())
}

/// Takes WHERE apart: what reads the driving table alone, and the rest.
fn split(mapping: &Mapping, driving: &Scope, joins: bool) -> (Option<Expr>, Option<Expr>) {
    let Some(condition) = mapping.query.filter.clone() else { return (None, None) };
    if !joins {
        return (Some(condition), None);
    }
    let mut parts = Vec::new();
    conjuncts(condition, &mut parts);
    let (before, after): (Vec<Expr>, Vec<Expr>) = parts.into_iter().partition(|part| driving.covers(part));
    let all = |parts: Vec<Expr>| {
        parts.into_iter().reduce(|left, right| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::And,
            right: Box::new(right),
        })
    };
    (all(before), all(after))
}

fn conjuncts(condition: Expr, out: &mut Vec<Expr>) {
    match condition {
        Expr::Nested(inner) => conjuncts(*inner, out),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(*left, out);
            conjuncts(*right, out);
        }
        other => out.push(other),
    }
}

fn condition_over(condition: Expr, scope: &Scope) -> Result<Arc<dyn PhysicalExpr>, Refused> {
    let Bound { expr, data_type } = scope.bind(condition)?;
    if data_type != DataType::Boolean {
        return Err(Refused { reason: format!("WHERE gives {data_type}, not true or false"), at: None });
    }
    Ok(expr)
}

fn fields(
    mapping: &Mapping,
    scope: &Scope,
    fault: impl Fn(Refused, Location) -> MappingFault,
) -> Result<Vec<FieldSource>, MappingFault> {
    let entity = mapping.entity;
    let mut outputs: Vec<Option<&sql::Output>> = vec![None; entity.fields.len()];
    for output in &mapping.query.outputs {
        let index =
            target(entity, &output.field, &outputs).map_err(|reason| fault(Refused { reason, at: None }, output.at))?;
        outputs[index] = Some(output);
    }
    let sources = entity.fields.iter().zip(outputs).map(|(field, output)| match output {
        Some(output) => bind(output, scope, field).map_err(|refused| fault(refused, output.at)),
        None => unmapped(entity, field)
            .map_err(|reason| fault(Refused { reason, at: None }, Location { line: 1, column: 1 })),
    });
    sources.collect()
}

fn target(entity: &Entity, name: &str, outputs: &[Option<&sql::Output>]) -> Result<usize, String> {
    let Some((index, field)) = entity.field(name) else {
        let known: Vec<&str> =
            entity.fields.iter().filter(|field| !field.is_computed()).map(|field| field.name.as_str()).collect();
        return Err(format!("{} has no field \"{name}\"; it has {}", entity.name, known.join(", ")));
    };
    if field.is_computed() {
        return Err(format!("{name} is computed by Syncline and cannot be mapped"));
    }
    if outputs[index].is_some() {
        return Err(format!("{name} is mapped twice"));
    }
    Ok(index)
}

fn bind(output: &sql::Output, scope: &Scope, field: &Field) -> Result<FieldSource, Refused> {
    let Bound { expr, data_type } = scope.bind(output.expr.clone())?;
    coerce::accepts(&data_type, field.field_type)
        .map_err(|reason| Refused { reason: format!("{}: {reason}", field.name), at: None })?;
    Ok(FieldSource::Mapped(expr))
}

fn unmapped(entity: &Entity, field: &Field) -> Result<FieldSource, String> {
    if field.is_computed() {
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

/// A field's default as a column of one row.
pub(crate) fn default_value(field: &Field, text: &str) -> Result<ArrayRef, String> {
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
