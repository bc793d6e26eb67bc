//! From what an expression gives to what a field holds: exactly, or with a fault on that row.
//!
//! Which types a field takes is decided when the mapping is compiled ([`accepts`]); which values it takes is decided
//! here, row by row. A value is never altered silently: the only rounding is the one of [`super::decimal`].

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use syncline_schemas::entity::{Field, FieldType};

use super::decimal::{self, Misfit};

/// Why a row is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// The rule's id, as in `DQ_REQUIRED`.
    pub rule: String,
    /// The field, or empty where the row as a whole is meant.
    pub field: String,
    /// What is wrong; names no value.
    pub reason: String,
}

/// Says why a field cannot take values of a type.
pub(crate) fn accepts(from: &DataType, to: FieldType) -> Result<(), String> {
    let fits = match to {
        FieldType::String | FieldType::Code => {
            matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) || from.is_integer()
        }
        FieldType::Quantity | FieldType::Money | FieldType::UnitPrice | FieldType::Rate => decimal::is_numeric(from),
        FieldType::Date => matches!(from, DataType::Date32),
        FieldType::Instant => matches!(from, DataType::Timestamp(_, _)),
        FieldType::Boolean => matches!(from, DataType::Boolean),
        FieldType::Integer => from.is_integer(),
    };
    if fits || matches!(from, DataType::Null) {
        return Ok(());
    }
    let remedy = match to {
        FieldType::Date => "; write CAST(... AS DATE)",
        FieldType::Instant => "; write CAST(... AS TIMESTAMP(6))",
        FieldType::Integer => "; write CAST(... AS INT)",
        FieldType::String | FieldType::Code => "; write CAST(... AS VARCHAR)",
        FieldType::Boolean => "; write a comparison, as in x = 'Y'",
        FieldType::Quantity | FieldType::Money | FieldType::UnitPrice | FieldType::Rate => {
            "; write CAST(... AS DECIMAL(28, 9))"
        }
    };
    Err(format!("a {from} is no {to:?}{remedy}"))
}

/// Converts a column to the field's type and checks its values; faulty rows are reported once each.
pub(crate) fn to_field(array: &ArrayRef, field: &Field, faults: &mut Vec<(usize, RowFault)>) -> ArrayRef {
    let target = field.field_type.arrow();
    let converted = match (&target, array.data_type()) {
        (_, DataType::Null) => new_null_array(&target, array.len()),
        (wanted, given) if wanted == given && !matches!(wanted, DataType::Decimal128(_, _)) => Arc::clone(array),
        (DataType::Decimal128(_, scale), _) => {
            let mut misfits = Vec::new();
            let converted = decimal::to_scale(array, *scale, &mut misfits);
            faults.extend(misfits.into_iter().map(|(row, misfit)| (row, misfit_fault(field, misfit))));
            converted
        }
        _ => cast(array, &target, field, faults),
    };
    check_values(&converted, field, faults);
    converted
}

pub(crate) fn misfit_fault(field: &Field, misfit: Misfit) -> RowFault {
    let (rule, reason) = match misfit {
        Misfit::Overflow => ("DQ_OVERFLOW", "has more digits before the point than the field holds"),
        Misfit::NotANumber => ("DQ_DOMAIN", "is not a number"),
    };
    fault(rule, field, reason)
}

/// No key of a business has so many bytes, and the store takes no more than 64 KiB of all parts of one.
pub(crate) const KEY_TEXT_MAX: usize = 4096;

/// Texts that are too long for a key.
pub(crate) fn too_long(array: &ArrayRef, field: &Field) -> Vec<(usize, RowFault)> {
    let Some(texts) = array.as_string_opt::<i32>() else { return Vec::new() };
    let long = (0..texts.len()).filter(|&row| !texts.is_null(row) && texts.value(row).len() > KEY_TEXT_MAX);
    let reason = format!("is longer than the {KEY_TEXT_MAX} bytes of a key");
    long.map(|row| (row, fault("DQ_RANGE", field, &reason))).collect()
}

fn fault(rule: &str, field: &Field, reason: &str) -> RowFault {
    RowFault { rule: rule.to_owned(), field: field.name.clone(), reason: format!("{} {reason}", field.name) }
}

/// Casts; a value that only became null by the cast did not fit.
fn cast(array: &ArrayRef, target: &DataType, field: &Field, faults: &mut Vec<(usize, RowFault)>) -> ArrayRef {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let converted = cast_with_options(array, target, &options)
        .expect("types that cannot be cast were refused when the mapping was compiled");
    if converted.null_count() > array.null_count() {
        let lost = (0..array.len()).filter(|&row| converted.is_null(row) && !array.is_null(row));
        faults.extend(lost.map(|row| (row, fault("DQ_RANGE", field, "is out of the field's range"))));
    }
    converted
}

fn check_values(array: &ArrayRef, field: &Field, faults: &mut Vec<(usize, RowFault)>) {
    if field.required && array.null_count() > 0 {
        let known: std::collections::HashSet<usize> = faults.iter().map(|(row, _)| *row).collect();
        let missing = (0..array.len()).filter(|&row| array.is_null(row) && !known.contains(&row));
        faults.extend(missing.map(|row| (row, fault("DQ_REQUIRED", field, "has no value"))));
    }
    if !field.values.is_empty() {
        let codes = array.as_string::<i32>();
        let strange = (0..array.len())
            .filter(|&row| !codes.is_null(row) && !field.values.iter().any(|allowed| allowed == codes.value(row)));
        let reason = format!("is none of {}", field.values.join(", "));
        faults.extend(strange.map(|row| (row, fault("DQ_DOMAIN", field, &reason))));
    }
}
