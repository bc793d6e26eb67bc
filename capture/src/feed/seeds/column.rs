//! One column's Arrow builder, fed with the text of cells.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};

use super::config::CellType;
use crate::value;

/// A column under construction.
pub(super) enum Column {
    Text(StringBuilder),
    Integer(Int32Builder),
    Bigint(Int64Builder),
    Decimal { builder: Decimal128Builder, precision: u8, scale: i8 },
    Boolean(BooleanBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

/// The cell's text is not of the column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrongType;

impl From<value::ValueFault> for WrongType {
    fn from(_: value::ValueFault) -> Self {
        Self
    }
}

/// Calls one method on whichever builder it is.
macro_rules! each {
    ($column:expr, $inner:ident => $call:expr) => {
        match $column {
            Column::Text($inner) => $call,
            Column::Integer($inner) => $call,
            Column::Bigint($inner) => $call,
            Column::Decimal { builder: $inner, .. } => $call,
            Column::Boolean($inner) => $call,
            Column::Date($inner) => $call,
            Column::Timestamp($inner) => $call,
        }
    };
}

impl Column {
    pub(super) fn new(cell_type: CellType) -> Self {
        match cell_type {
            CellType::Text => Self::Text(StringBuilder::new()),
            CellType::Integer => Self::Integer(Int32Builder::new()),
            CellType::Bigint => Self::Bigint(Int64Builder::new()),
            CellType::Decimal { precision, scale } => Self::Decimal {
                builder: Decimal128Builder::new().with_data_type(cell_type.data_type()),
                precision,
                scale: scale.cast_signed(),
            },
            CellType::Boolean => Self::Boolean(BooleanBuilder::new()),
            CellType::Date => Self::Date(Date32Builder::new()),
            CellType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new()),
        }
    }

    pub(super) fn append_null(&mut self) {
        each!(self, builder => builder.append_null());
    }

    /// Appends a cell; where it is of another type nothing is appended.
    pub(super) fn append(&mut self, text: &str) -> Result<(), WrongType> {
        let bytes = text.as_bytes();
        match self {
            Self::Text(builder) => builder.append_value(text),
            Self::Integer(builder) => builder.append_value(value::narrow(bytes)?),
            Self::Bigint(builder) => builder.append_value(value::integer(bytes)?),
            Self::Decimal { builder, precision, scale } => {
                builder.append_value(value::decimal(bytes, *precision, *scale)?);
            }
            Self::Boolean(builder) => builder.append_value(boolean(text)?),
            Self::Date(builder) => builder.append_value(value::date(bytes)?),
            Self::Timestamp(builder) => builder.append_value(value::timestamp(text.replacen('T', " ", 1).as_bytes())?),
        }
        Ok(())
    }

    pub(super) fn finish(self) -> ArrayRef {
        each!(self, builder => { let mut builder = builder; Arc::new(builder.finish()) })
    }
}

/// Spreadsheets write TRUE, people true, databases t.
fn boolean(text: &str) -> Result<bool, WrongType> {
    let is = |words: [&str; 3]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    match () {
        () if is(["true", "t", "1"]) => Ok(true),
        () if is(["false", "f", "0"]) => Ok(false),
        () => Err(WrongType),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_taken_exactly_or_not_at_all() {
        let takes = |cell_type: &str, text: &str| Column::new(cell_type.parse().expect("a type")).append(text).is_ok();
        for (cell_type, right, wrong) in [
            ("integer", "-2147483648", "2147483648"),
            ("integer", "007", "1.0"),
            ("bigint", "9223372036854775807", "9223372036854775808"),
            ("decimal(5,2)", "-999.99", "1000"),
            ("decimal(5,2)", "1.5000", "1.005"),
            ("decimal(5,2)", "0.01", "1,5"),
            ("boolean", "TRUE", "yes"),
            ("date", "2024-02-29", "29.02.2024"),
            ("date", "1970-01-01", "2023-02-29"),
            ("timestamp", "2024-02-29 13:05:00.25", "2024-02-29"),
            ("timestamp", "2024-02-29T13:05:00", "2024-02-29 13:05:00Z"),
        ] {
            assert!(takes(cell_type, right), "{cell_type} {right}");
            assert!(!takes(cell_type, wrong), "{cell_type} {wrong}");
        }
    }
}
