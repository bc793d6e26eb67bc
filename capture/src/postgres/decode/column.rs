//! One column's Arrow builder, fed with the server's text, or with its binary form where a kind has one.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};

use super::kind::{ArrayElement, Kind};
use super::{array, binary};
use crate::value::{self, ValueFault};

pub(super) enum Column {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Decimal { builder: Decimal128Builder, precision: u8, scale: i8 },
    Text(StringBuilder),
    Uuid(StringBuilder),
    Jsonb(StringBuilder),
    Numeric { builder: StringBuilder, text: String },
    Array { builder: StringBuilder, json: String, element: ArrayElement, delimiter: u8 },
    Bytea { builder: BinaryBuilder, bytes: Vec<u8> },
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampTz(TimestampMicrosecondBuilder),
}

/// Calls one method on whichever builder it is.
macro_rules! each {
    ($column:expr, $inner:ident => $call:expr) => {
        match $column {
            Column::Bool($inner) => $call,
            Column::Int2($inner) => $call,
            Column::Int4($inner) => $call,
            Column::Int8($inner) => $call,
            Column::Float4($inner) => $call,
            Column::Float8($inner) => $call,
            Column::Decimal { builder: $inner, .. } => $call,
            Column::Text($inner) | Column::Uuid($inner) | Column::Jsonb($inner) => $call,
            Column::Numeric { builder: $inner, .. } => $call,
            Column::Array { builder: $inner, .. } => $call,
            Column::Bytea { builder: $inner, .. } => $call,
            Column::Date($inner) => $call,
            Column::Time($inner) => $call,
            Column::Timestamp($inner) | Column::TimestampTz($inner) => $call,
        }
    };
}

impl Column {
    /// An empty builder with room for `rows`.
    pub(super) fn new(kind: Kind, rows: usize) -> Self {
        /// Text is short more often than not; the builder doubles where it is not.
        const TEXT_BYTES: usize = 12;
        let text = || StringBuilder::with_capacity(rows, rows * TEXT_BYTES);
        match kind {
            Kind::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            Kind::Int2 => Self::Int2(Int16Builder::with_capacity(rows)),
            Kind::Int4 => Self::Int4(Int32Builder::with_capacity(rows)),
            Kind::Int8 => Self::Int8(Int64Builder::with_capacity(rows)),
            Kind::Float4 => Self::Float4(Float32Builder::with_capacity(rows)),
            Kind::Float8 => Self::Float8(Float64Builder::with_capacity(rows)),
            Kind::Decimal { precision, scale } => Self::Decimal {
                builder: Decimal128Builder::with_capacity(rows).with_data_type(kind.data_type()),
                precision,
                scale,
            },
            Kind::Text | Kind::Written => Self::Text(text()),
            Kind::Uuid => Self::Uuid(text()),
            Kind::Jsonb => Self::Jsonb(text()),
            Kind::Numeric => Self::Numeric { builder: text(), text: String::new() },
            Kind::Array { element, delimiter } => {
                Self::Array { builder: text(), json: String::new(), element, delimiter }
            }
            Kind::Bytea => {
                Self::Bytea { builder: BinaryBuilder::with_capacity(rows, rows * TEXT_BYTES), bytes: Vec::new() }
            }
            Kind::Date => Self::Date(Date32Builder::with_capacity(rows)),
            Kind::Time => Self::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            Kind::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows)),
            Kind::TimestampTz => {
                Self::TimestampTz(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(kind.data_type()))
            }
        }
    }

    pub(super) fn append_null(&mut self) {
        each!(self, builder => builder.append_null());
    }

    /// Appends a value; on a fault nothing is appended.
    #[inline]
    pub(super) fn append(&mut self, text: &[u8]) -> Result<(), ValueFault> {
        match self {
            Self::Bool(builder) => builder.append_value(value::boolean(text)?),
            Self::Int2(builder) => builder.append_value(value::narrow(text)?),
            Self::Int4(builder) => builder.append_value(value::narrow(text)?),
            Self::Int8(builder) => builder.append_value(value::integer(text)?),
            Self::Float4(builder) => builder.append_value(value::float(text)?),
            Self::Float8(builder) => builder.append_value(value::float(text)?),
            Self::Decimal { builder, precision, scale } => {
                builder.append_value(value::decimal(text, *precision, *scale)?);
            }
            Self::Text(builder) | Self::Uuid(builder) | Self::Jsonb(builder) | Self::Numeric { builder, .. } => {
                builder.append_value(utf8(text)?);
            }
            Self::Array { builder, json, element, delimiter } => {
                array::json(text, *element, *delimiter, json)?;
                builder.append_value(&*json);
            }
            Self::Bytea { builder, bytes } => {
                value::bytea(text, bytes)?;
                builder.append_value(&*bytes);
            }
            Self::Date(builder) => builder.append_value(value::date(text)?),
            Self::Time(builder) => builder.append_value(value::time(text)?),
            Self::Timestamp(builder) => builder.append_value(value::timestamp(text)?),
            Self::TimestampTz(builder) => builder.append_value(value::timestamp_utc(text)?),
        }
        Ok(())
    }

    /// As [`Self::append`], of the value's binary form. Gives how many bytes it has grown by where that is without bound: a numeric of
    /// a few bytes can have 131,072 digits.
    #[inline]
    pub(super) fn append_binary(&mut self, bytes: &[u8]) -> Result<usize, ValueFault> {
        match self {
            Self::Bool(builder) => builder.append_value(binary::boolean(bytes)?),
            Self::Int2(builder) => builder.append_value(i16::from_be_bytes(binary::fixed(bytes)?)),
            Self::Int4(builder) => builder.append_value(i32::from_be_bytes(binary::fixed(bytes)?)),
            Self::Int8(builder) => builder.append_value(i64::from_be_bytes(binary::fixed(bytes)?)),
            Self::Float4(builder) => {
                let value = f32::from_be_bytes(binary::fixed(bytes)?);
                builder.append_value(if value.is_nan() { f32::NAN } else { value });
            }
            Self::Float8(builder) => {
                let value = f64::from_be_bytes(binary::fixed(bytes)?);
                builder.append_value(if value.is_nan() { f64::NAN } else { value });
            }
            Self::Decimal { builder, precision, scale } => {
                builder.append_value(binary::decimal(bytes, *precision, *scale)?);
            }
            Self::Text(builder) => builder.append_value(utf8(bytes)?),
            Self::Uuid(builder) => builder.append_value(utf8(&binary::uuid(bytes)?)?),
            Self::Jsonb(builder) => builder.append_value(utf8(binary::jsonb(bytes)?)?),
            Self::Numeric { builder, text } => {
                binary::numeric(bytes, text)?;
                builder.append_value(&*text);
                return Ok(text.len().saturating_sub(bytes.len()));
            }
            Self::Array { .. } => self.append(bytes)?,
            Self::Bytea { builder, .. } => builder.append_value(bytes),
            Self::Date(builder) => builder.append_value(binary::date(bytes)?),
            Self::Time(builder) => builder.append_value(binary::time(bytes)?),
            Self::Timestamp(builder) | Self::TimestampTz(builder) => builder.append_value(binary::timestamp(bytes)?),
        }
        Ok(0)
    }

    pub(super) fn finish(self) -> ArrayRef {
        each!(self, builder => { let mut builder = builder; Arc::new(builder.finish()) })
    }
}

fn utf8(text: &[u8]) -> Result<&str, ValueFault> {
    std::str::from_utf8(text).map_err(|_| ValueFault::Malformed("a text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bytes_of_a_numeric_that_become_a_hundred_thousand_digits_are_told() {
        // One group of digits with the largest weight, no digit behind the point: 1 and 131,068 zeros.
        let bytes = [&[0, 1][..], &i16::MAX.to_be_bytes(), &[0; 4], &[0, 1]].concat();
        let mut column = Column::new(Kind::Numeric, 1);
        assert_eq!(column.append_binary(&bytes).unwrap(), 1 + 4 * 32_767 - bytes.len());
        assert_eq!(Column::new(Kind::Int4, 1).append_binary(&[0; 4]).unwrap(), 0);
    }
}
