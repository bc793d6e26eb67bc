//! What an entity computes by itself: derived fields and quality rules, over whole columns.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion_common::DFSchema;
use datafusion_physical_expr::PhysicalExpr;
use syncline_schemas::entity::{self, Entity, Kind};

use super::evaluate::run;
use crate::error::{MappingFault, Place};
use crate::mapping::RowFault;
use crate::mapping::coerce::{accepts, to_field};
use crate::mapping::expression::Resolved;
use crate::mapping::rules::{Action, Rules};

/// An entity's derived fields and rules, ready to run.
pub(crate) struct Logic {
    schema: SchemaRef,
    derived: Vec<(usize, Arc<dyn PhysicalExpr>)>,
    rules: Vec<(usize, Arc<dyn PhysicalExpr>)>,
    /// Rules that some mapping has its own word for: counted where the mapping is.
    overridden: Vec<String>,
}

impl Logic {
    pub(crate) fn new(entity: &Entity, overridden: Vec<String>) -> Result<Self, MappingFault> {
        let fault = |reason: String| MappingFault {
            place: Place { file: format!("canonical/{}.toml", entity.name), line: 0, column: 0 },
            reason,
        };
        let columns: Vec<Field> =
            entity.fields.iter().map(|field| Field::new(&field.name, field.field_type.arrow(), true)).collect();
        let schema = Arc::new(Schema::new(columns));
        let scope = DFSchema::try_from(Arc::clone(&schema)).map_err(|error| fault(error.to_string()))?;
        let bind = |text: &str| Resolved::from_text(text, &scope)?.bind(&scope);
        let mut derived = Vec::new();
        for (index, field) in entity.fields.iter().enumerate() {
            if let Some(text) = &field.derived {
                let expr =
                    bind(text).map_err(|refused| fault(format!("derived field {}: {}", field.name, refused.reason)))?;
                let data_type = expr.data_type(&schema).map_err(|error| fault(error.to_string()))?;
                accepts(&data_type, field.field_type).map_err(|reason| fault(format!("{}: {reason}", field.name)))?;
                derived.push((index, expr));
            }
        }
        let mut rules = Vec::new();
        for (index, rule) in entity.rules.iter().enumerate() {
            if entity.kind == Kind::Summed && rule.action == entity::Action::Reject {
                return Err(fault(format!("rule {}: a sum cannot be rejected, only its contributions", rule.id)));
            }
            rules.push((
                index,
                bind(&rule.when).map_err(|refused| fault(format!("rule {}: {}", rule.id, refused.reason)))?,
            ));
        }
        Ok(Self { schema, derived, rules, overridden })
    }

    /// Fills the derived columns in and says which rows break a rule that holds them, and how many one that the mapping lets
    /// pass with a count.
    ///
    /// Sums derive when they are emitted, not when a contribution is made: see [`Logic::derive`].
    pub(crate) fn apply(
        &self,
        entity: &Entity,
        own: &Rules,
        fields: &mut [ArrayRef],
    ) -> Result<(Vec<(usize, RowFault)>, u64), ArrowError> {
        if entity.kind == Kind::Summed {
            return Ok((Vec::new(), 0));
        }
        let (mut faults, mut warnings) = (self.derive(entity, fields)?, 0);
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), fields.to_vec())?;
        for (index, expr) in &self.rules {
            let rule = &entity.rules[*index];
            let holds = match own.of(&rule.id) {
                // A fix is for values that no field takes; what the rule says of those that it takes stays.
                None | Some(Action::Fix) => Action::from(rule.action) == Action::Reject,
                Some(Action::Ignore) => continue,
                Some(action) => action != Action::Warn,
            };
            let counts = self.overridden.contains(&rule.id);
            if !(holds || counts) {
                continue;
            }
            let broken = run(expr, &batch)?;
            let broken = broken.as_boolean();
            if !holds {
                warnings += broken.true_count() as u64;
                continue;
            }
            let rows = (0..broken.len()).filter(|&row| !broken.is_null(row) && broken.value(row));
            faults.extend(
                rows.map(|row| {
                    (row, RowFault { rule: rule.id.clone(), field: String::new(), reason: rule.doc.clone() })
                }),
            );
        }
        Ok((faults, warnings))
    }

    /// Computes the derived columns in their order.
    pub(crate) fn derive(
        &self,
        entity: &Entity,
        fields: &mut [ArrayRef],
    ) -> Result<Vec<(usize, RowFault)>, ArrowError> {
        let mut faults = Vec::new();
        for (index, expr) in &self.derived {
            let batch = RecordBatch::try_new(Arc::clone(&self.schema), fields.to_vec())?;
            let mut own = Vec::new();
            fields[*index] = to_field(&run(expr, &batch)?, &entity.fields[*index], &mut own);
            faults.append(&mut own);
        }
        Ok(faults)
    }

    /// How many of the rows break a warning rule, all rules together.
    pub(crate) fn warnings(&self, entity: &Entity, fields: &[ArrayRef]) -> Result<u64, ArrowError> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), fields.to_vec())?;
        let mut count = 0;
        for (index, expr) in &self.rules {
            let rule = &entity.rules[*index];
            if rule.action == entity::Action::Warn && !self.overridden.contains(&rule.id) {
                count += run(expr, &batch)?.as_boolean().true_count() as u64;
            }
        }
        Ok(count)
    }
}
