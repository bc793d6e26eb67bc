//! A compiled mapping over a batch of driving rows: whole columns at a time, faults row by row.
//!
//! DataFusion fails a whole batch for one bad value. The batch is then halved until the bad rows stand alone: two
//! evaluations per halving for each bad row, nothing for good batches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::DataType;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use syncline_schemas::entity::Entity;

use super::logic::Logic;
use crate::functions::Fault;
use crate::mapping::RowFault;
use crate::mapping::coerce::to_field;
use crate::mapping::compile::{Compiled, FieldSource};

/// The result for the rows of a batch; rows that the filter excludes are in neither list.
pub(crate) struct Evaluated {
    /// Input rows that passed, ascending; row `i` of `fields` belongs to input row `rows[i]`.
    pub(crate) rows: Vec<u32>,
    /// One column per field of the entity, in the field's type.
    pub(crate) fields: Vec<ArrayRef>,
    /// Input rows that cannot be delivered.
    pub(crate) faults: Vec<(u32, RowFault)>,
}

/// Evaluates filter, fields, derived fields and rules.
pub(crate) fn evaluate(
    compiled: &Compiled,
    entity: &Entity,
    logic: &Logic,
    batch: &RecordBatch,
) -> Result<Evaluated, arrow::error::ArrowError> {
    let mut faults: Vec<(u32, RowFault)> = Vec::new();
    let all: Vec<u32> = (0..u32::try_from(batch.num_rows()).expect("a batch has fewer rows than u32")).collect();
    let mut stage = Stage { rows: all, batch: batch.clone() };
    if let Some(filter) = &compiled.filter {
        let kept = match run(filter, &stage.batch) {
            Ok(kept) => kept,
            Err(_) => {
                stage.drop_failing(filter, "WHERE", &mut faults)?;
                run(filter, &stage.batch).map_err(|error| internal(&error))?
            }
        };
        stage.keep(kept.as_boolean())?;
    }
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
    let mut bad: Vec<(usize, RowFault)> = field_faults;
    bad.extend(logic.apply(entity, &mut fields)?);
    let fields = stage.drop_faulty(fields, bad, &mut faults)?;
    Ok(Evaluated { rows: stage.rows, fields, faults })
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
                    to_field(&values, field, &mut faults)
                }
                FieldSource::Default(value) => take(value, &UInt32Array::from(vec![0; len]), None)?,
                FieldSource::Missing | FieldSource::Computed => new_null_array(&field.field_type.arrow(), len),
            });
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
        fields.iter().map(|column| arrow::compute::filter(column, &mask)).collect()
    }
}

/// One expression over a batch as a column of plain text or numbers.
pub(crate) fn run(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    let values = expr.evaluate(batch)?.into_array(batch.num_rows())?;
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
