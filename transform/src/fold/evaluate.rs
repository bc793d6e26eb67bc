//! A compiled mapping over a batch of driving rows: whole columns at a time, faults row by row.
//!
//! ```text
//! prefilter -> joins, one after the other -> filter -> fields -> derived fields, rules
//! ```
//!
//! DataFusion fails a whole batch for one bad value. The batch is then halved until the bad rows stand alone: two
//! evaluations per halving for each bad row, nothing for good batches.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_empty_array,
    new_null_array,
};
use arrow::compute::{filter, filter_record_batch, interleave, take};
use arrow::datatypes::{DataType, Schema};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use syncline_schemas::entity::{Entity, Field};

use super::join::{Joins, Wanted};
use super::logic::Logic;
use crate::TransformError;
use crate::functions::Fault;
use crate::mapping::coerce::{to_field, too_long};
use crate::mapping::compile::{Compiled, FieldSource, default_value};
use crate::mapping::edge::Edge;
use crate::mapping::rules::{Action, Rules};
use crate::mapping::sql::JoinKind;
use crate::mapping::{Mapping, RowFault};

/// The result for the rows of a batch; rows that the filter excludes are in neither list.
pub(crate) struct Evaluated {
    /// Input rows that passed, ascending; row `i` of `fields` belongs to input row `rows[i]`.
    pub(crate) rows: Vec<u32>,
    /// One column per field of the entity, in the field's type.
    pub(crate) fields: Vec<ArrayRef>,
    /// Input rows that cannot be delivered.
    pub(crate) faults: Vec<(u32, RowFault)>,
    /// Input rows that the prefilter let through to the joins.
    pub(crate) joined: Vec<bool>,
    /// What they looked for, by join.
    pub(crate) looked: Vec<LookedFor>,
    /// Rows that passed although they break a rule.
    pub(crate) warnings: u64,
}

impl Evaluated {
    /// Rows of which nothing can be said yet.
    pub(super) fn nothing(entity: &Entity, inputs: usize) -> Self {
        let fields = entity.fields.iter().map(|field| new_null_array(&field.field_type.arrow(), 0)).collect();
        Self {
            rows: Vec::new(),
            fields,
            faults: Vec::new(),
            joined: vec![true; inputs],
            looked: Vec::new(),
            warnings: 0,
        }
    }

    /// Takes rows out that did pass.
    pub(super) fn retain(&mut self, stays: &BooleanArray) -> Result<(), arrow::error::ArrowError> {
        self.rows =
            self.rows.iter().zip(stays).filter(|(_, stays)| *stays == Some(true)).map(|(row, _)| *row).collect();
        self.fields = self.fields.iter().map(|column| filter(column, stays)).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// What the rows of a batch looked for in one join.
pub(crate) struct LookedFor {
    wanted: Wanted,
    /// By input row: its place in `wanted`.
    places: Vec<Option<u32>>,
}

impl LookedFor {
    /// The values that an input row looked for; none where it did not come so far or a value was null.
    pub(super) fn values(&self, input: usize) -> Option<&[u8]> {
        self.wanted.of(self.places[input]? as usize)
    }
}

/// Evaluates filter, joins, fields, derived fields and rules.
pub(super) fn evaluate(
    compiled: &Compiled,
    mapping: &Mapping,
    logic: &Logic,
    batch: &RecordBatch,
    joins: &Joins<'_>,
) -> Result<Evaluated, TransformError> {
    let (entity, rules) = (mapping.entity, &mapping.rules);
    let mut faults: Vec<(u32, RowFault)> = Vec::new();
    let all: Vec<u32> = (0..u32::try_from(batch.num_rows()).expect("a batch has fewer rows than u32")).collect();
    let mut stage = Stage { rows: all, batch: batch.clone() };
    stage.filter(compiled.prefilter.as_ref(), &mut faults)?;
    let mut joined = vec![false; batch.num_rows()];
    stage.rows.iter().for_each(|&row| joined[row as usize] = true);
    let mut looked = Vec::with_capacity(compiled.edges.len());
    for (join, edge) in compiled.edges.iter().enumerate() {
        looked.push(stage.join(join, edge, joins, batch.num_rows(), &mut faults)?);
    }
    stage.filter(compiled.filter.as_ref(), &mut faults)?;
    let (mut fields, field_faults) = match stage.fields(compiled, entity) {
        Ok(fields) => fields,
        Err(_) => {
            for (source, field) in compiled.fields.iter().zip(&entity.fields) {
                if let FieldSource::Mapped(expr) = source {
                    stage.drop_failing(expr, &field.name, &mut faults)?;
                }
            }
            stage.fields(compiled, entity)?
        }
    };
    let (mut bad, fixed) = fix(field_faults, entity, rules, &mut fields)?;
    let (broken, warned) = logic.apply(entity, rules, &mut fields)?;
    bad.extend(broken);
    let fields = stage.drop_faulty(fields, bad, &mut faults)?;
    Ok(Evaluated { rows: stage.rows, fields, faults, joined, looked, warnings: fixed + warned })
}

/// Puts what the mapping allows in place of values that no field takes: nothing, or the field's default. Gives the faults
/// that stay, and how many do not.
fn fix(
    faults: Faults,
    entity: &Entity,
    rules: &Rules,
    fields: &mut [ArrayRef],
) -> Result<(Faults, u64), arrow::error::ArrowError> {
    let mut stays = Faults::new();
    let mut fixable: BTreeMap<usize, (ArrayRef, HashSet<usize>)> = BTreeMap::new();
    for (row, fault) in faults {
        let at = entity.fields.iter().position(|field| field.name == fault.field);
        let value = at.filter(|_| rules.of(&fault.rule) == Some(Action::Fix)).and_then(|at| {
            let Field { default, required, field_type, .. } = &entity.fields[at];
            let nothing = || (!required).then(|| new_null_array(&field_type.arrow(), 1));
            let value = default.as_ref().and_then(|text| default_value(&entity.fields[at], text).ok());
            Some((at, value.or_else(nothing)?))
        });
        match value {
            Some((at, value)) => drop(fixable.entry(at).or_insert((value, HashSet::new())).1.insert(row)),
            None => stays.push((row, fault)),
        }
    }
    let mut fixed = 0;
    for (at, (value, rows)) in fixable {
        let picks: Vec<_> =
            (0..fields[at].len()).map(|row| if rows.contains(&row) { (1, 0) } else { (0, row) }).collect();
        fields[at] = interleave(&[fields[at].as_ref(), value.as_ref()], &picks)?;
        fixed += rows.len() as u64;
    }
    Ok((stays, fixed))
}

/// Faults by row of the batch at hand.
type Faults = Vec<(usize, RowFault)>;

/// The rows still in play and their columns.
struct Stage {
    rows: Vec<u32>,
    batch: RecordBatch,
}

impl Stage {
    fn keep(&mut self, mask: &BooleanArray) -> Result<(), arrow::error::ArrowError> {
        if mask.true_count() == mask.len() {
            return Ok(());
        }
        self.batch = filter_record_batch(&self.batch, mask)?;
        self.rows = self.rows.iter().zip(mask).filter(|(_, keep)| *keep == Some(true)).map(|(row, _)| *row).collect();
        Ok(())
    }

    /// Keeps the rows for which a condition is true.
    fn filter(
        &mut self,
        condition: Option<&Arc<dyn PhysicalExpr>>,
        faults: &mut Vec<(u32, RowFault)>,
    ) -> Result<(), arrow::error::ArrowError> {
        let Some(condition) = condition else { return Ok(()) };
        let kept = self.run_or_drop(condition, "WHERE", faults)?;
        self.keep(kept.as_boolean())
    }

    /// An expression over the rows in play; those on which it fails are taken out.
    fn run_or_drop(
        &mut self,
        expr: &Arc<dyn PhysicalExpr>,
        what: &str,
        faults: &mut Vec<(u32, RowFault)>,
    ) -> Result<ArrayRef, arrow::error::ArrowError> {
        if let Ok(values) = run(expr, &self.batch) {
            return Ok(values);
        }
        self.drop_failing(expr, what, faults)?;
        run(expr, &self.batch).map_err(|error| internal(&error))
    }

    /// Adds the columns of a joined table; rows without a match go where the join is an inner one.
    fn join(
        &mut self,
        join: usize,
        edge: &Edge,
        joins: &Joins<'_>,
        inputs: usize,
        faults: &mut Vec<(u32, RowFault)>,
    ) -> Result<LookedFor, TransformError> {
        for expr in &edge.wanted {
            self.run_or_drop(expr, "ON", faults)?;
        }
        let values: Vec<ArrayRef> = edge
            .wanted
            .iter()
            .map(|expr| run(expr, &self.batch).map_err(|error| internal(&error)))
            .collect::<Result<_, _>>()?;
        let wanted = Wanted::new(&values, edge)?;
        let mut places = vec![None; inputs];
        for (place, &row) in self.rows.iter().enumerate() {
            places[row as usize] = Some(u32::try_from(place).expect("a batch has fewer rows than u32"));
        }
        let found = joins.look_up(join, edge, &wanted)?;
        self.widen(edge, found.columns)?;
        let mut mask = if edge.kind == JoinKind::Inner { found.found } else { vec![true; self.rows.len()] };
        for (row, fault) in found.faults {
            mask[row] = false;
            faults.push((self.rows[row], fault));
        }
        self.keep(&BooleanArray::from(mask))?;
        Ok(LookedFor { wanted, places })
    }

    fn widen(&mut self, edge: &Edge, added: Vec<ArrayRef>) -> Result<(), arrow::error::ArrowError> {
        let schema = self.batch.schema();
        let fields: Vec<_> = schema.fields().iter().chain(edge.adds.fields()).cloned().collect();
        let columns = self.batch.columns().iter().cloned().chain(added).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        self.batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
        Ok(())
    }

    /// Takes the rows on which an expression fails out of play.
    fn drop_failing(
        &mut self,
        expr: &Arc<dyn PhysicalExpr>,
        field: &str,
        faults: &mut Vec<(u32, RowFault)>,
    ) -> Result<(), arrow::error::ArrowError> {
        let bad = bad_rows(&self.batch, expr);
        if bad.is_empty() {
            return Ok(());
        }
        let mut mask = vec![true; self.rows.len()];
        for (row, kind) in bad {
            mask[row] = false;
            let reason = format!("{field}: {}", kind.reason);
            faults.push((self.rows[row], RowFault { rule: kind.rule.to_owned(), field: field.to_owned(), reason }));
        }
        self.keep(&BooleanArray::from(mask))
    }

    /// The entity's columns, those that the mapping does not give filled in.
    fn fields(
        &self,
        compiled: &Compiled,
        entity: &Entity,
    ) -> Result<(Vec<ArrayRef>, Faults), arrow::error::ArrowError> {
        let len = self.batch.num_rows();
        let mut faults = Vec::new();
        let mut fields = Vec::with_capacity(entity.fields.len());
        for (source, field) in compiled.fields.iter().zip(&entity.fields) {
            fields.push(match source {
                FieldSource::Mapped(expr) => {
                    let values = run(expr, &self.batch).map_err(|error| internal(&error))?;
                    // Of each field its own: what is wrong with one must not hide what is wrong with the next.
                    let mut own = Vec::new();
                    let converted = to_field(&values, field, &mut own);
                    faults.append(&mut own);
                    converted
                }
                FieldSource::Default(value) => take(value, &UInt32Array::from(vec![0; len]), None)?,
                FieldSource::Missing | FieldSource::Computed => new_null_array(&field.field_type.arrow(), len),
            });
        }
        for (at, column) in fields.iter().enumerate().filter(|(at, _)| is_looked_up(entity, *at)) {
            faults.extend(too_long(column, &entity.fields[at]));
        }
        Ok((fields, faults))
    }

    /// Takes faulty rows out of play; a row with several faults is reported with its first.
    fn drop_faulty(
        &mut self,
        fields: Vec<ArrayRef>,
        mut bad: Vec<(usize, RowFault)>,
        faults: &mut Vec<(u32, RowFault)>,
    ) -> Result<Vec<ArrayRef>, arrow::error::ArrowError> {
        if bad.is_empty() {
            return Ok(fields);
        }
        bad.sort_by_key(|(row, _)| *row);
        bad.dedup_by_key(|(row, _)| *row);
        let mut mask = vec![true; self.rows.len()];
        for (row, fault) in bad {
            mask[row] = false;
            faults.push((self.rows[row], fault));
        }
        let mask = BooleanArray::from(mask);
        self.rows = self.rows.iter().zip(&mask).filter(|(_, keep)| *keep == Some(true)).map(|(row, _)| *row).collect();
        fields.iter().map(|column| filter(column, &mask)).collect()
    }
}

/// True for a field by which state finds rows.
fn is_looked_up(entity: &Entity, at: usize) -> bool {
    at < entity.key_len() || entity.references.iter().any(|reference| reference.fields.contains(&at))
}

/// One expression over a batch as a column of plain text or numbers.
pub(crate) fn run(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    let values = if batch.num_rows() == 0 {
        // Without rows nothing is computed: a constant that cannot be would fail for all of none.
        new_empty_array(&expr.data_type(batch.schema_ref())?)
    } else {
        expr.evaluate(batch)?.into_array(batch.num_rows())?
    };
    // Some functions answer with string views, which neither rows nor Parquet writers of old take.
    if matches!(values.data_type(), DataType::Utf8View | DataType::LargeUtf8) {
        return Ok(arrow::compute::cast(&values, &DataType::Utf8)?);
    }
    Ok(values)
}

/// An expression that just succeeded on every row alone cannot fail on all of them.
fn internal(error: &DataFusionError) -> arrow::error::ArrowError {
    arrow::error::ArrowError::ComputeError(kind_of(error).reason)
}

/// Rows on which an expression fails, found by halving.
fn bad_rows(batch: &RecordBatch, expr: &Arc<dyn PhysicalExpr>) -> Vec<(usize, Kind)> {
    let mut bad = Vec::new();
    let mut todo = vec![(0, batch.num_rows())];
    while let Some((start, len)) = todo.pop() {
        let Err(error) = run(expr, &batch.slice(start, len)) else { continue };
        if len <= 1 {
            bad.push((start, kind_of(&error)));
        } else {
            todo.push((start + len / 2, len - len / 2));
            todo.push((start, len / 2));
        }
    }
    bad
}

/// What went wrong on a row.
struct Kind {
    rule: &'static str,
    reason: String,
}

/// What went wrong without the value that Arrow likes to quote: row values reach no log line.
fn kind_of(error: &DataFusionError) -> Kind {
    use arrow::error::ArrowError;
    if let Some(fault) = Fault::of(error) {
        return Kind { rule: fault.rule(), reason: fault.to_string() };
    }
    let reason = match error.find_root() {
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::DivideByZero => "division by zero",
            ArrowError::CastError(_) | ArrowError::ParseError(_) => "a value cannot be cast to the wanted type",
            ArrowError::ArithmeticOverflow(_) => "a number grew out of its type",
            _ => "the expression cannot be computed for this row",
        },
        _ => "the expression cannot be computed for this row",
    };
    Kind { rule: "DQ_EXPRESSION", reason: reason.to_owned() }
}
