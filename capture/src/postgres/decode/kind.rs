//! How a column's values are read, and which Arrow type holds them exactly.

use arrow::datatypes::{DataType, TimeUnit};
use syncline_schemas::table::instant;

/// How to read a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// `numeric(precision, scale)` within 38 digits.
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// A text, whose binary form is the same.
    Text,
    /// Every other type: what the server writes for the value.
    Written,
    /// Any other numeric, as text.
    Numeric,
    Uuid,
    Jsonb,
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
    /// As JSON text.
    Array {
        element: ArrayElement,
        delimiter: u8,
    },
}

/// How an array's elements are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ArrayElement {
    Number,
    Bool,
    Text,
}

impl Kind {
    /// Whether it is read in the server's binary form, too. Any other is text there as well.
    pub(crate) const fn has_binary(self) -> bool {
        !matches!(self, Self::Written | Self::Array { .. })
    }

    /// The Arrow type.
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Text | Self::Written | Self::Numeric | Self::Uuid | Self::Jsonb | Self::Array { .. } => {
                DataType::Utf8
            }
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => instant(),
        }
    }
}
