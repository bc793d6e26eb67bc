//! One column's Arrow builder, fed with JSON values as they stand in the page. Exact: no number passes through a float.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Int32Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::DataType;
use syncline_schemas::entity::FieldType;

use crate::value;

/// What a value should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted(pub(super) &'static str);

/// A column under construction.
pub(super) enum Column {
    Text(StringBuilder),
    Decimal { builder: Decimal128Builder, precision: u8, scale: i8 },
    Date(Date32Builder),
    Instant(TimestampMicrosecondBuilder),
    Boolean(BooleanBuilder),
    Integer(Int32Builder),
}

/// Calls one method on whichever builder it is.
macro_rules! each {
    ($column:expr, $inner:ident => $call:expr) => {
        match $column {
            Column::Text($inner) => $call,
            Column::Decimal { builder: $inner, .. } => $call,
            Column::Date($inner) => $call,
            Column::Instant($inner) => $call,
            Column::Boolean($inner) => $call,
            Column::Integer($inner) => $call,
        }
    };
}

impl Column {
    pub(super) fn new(field_type: FieldType) -> Self {
        let data_type = field_type.arrow();
        match field_type {
            FieldType::String | FieldType::Code => Self::Text(StringBuilder::new()),
            FieldType::Quantity | FieldType::Money | FieldType::UnitPrice | FieldType::Rate => {
                let DataType::Decimal128(precision, scale) = data_type else { unreachable!("the four are decimals") };
                Self::Decimal { builder: Decimal128Builder::new().with_data_type(data_type), precision, scale }
            }
            FieldType::Date => Self::Date(Date32Builder::new()),
            FieldType::Instant => Self::Instant(TimestampMicrosecondBuilder::new().with_data_type(data_type)),
            FieldType::Boolean => Self::Boolean(BooleanBuilder::new()),
            FieldType::Integer => Self::Integer(Int32Builder::new()),
        }
    }

    pub(super) fn append_null(&mut self) {
        each!(self, builder => builder.append_null());
    }

    /// Appends the text that a value has in a JSON string; nothing where it is of another type.
    pub(super) fn append_text(&mut self, text: &str) -> Result<(), Wanted> {
        match self {
            Self::Text(builder) => builder.append_value(text),
            Self::Decimal { builder, precision, scale } => {
                builder.append_value(decimal(text, *precision, *scale)?);
            }
            Self::Date(builder) => builder.append_value(date(text)?),
            Self::Instant(builder) => builder.append_value(instant(text)?),
            Self::Boolean(_) => return Err(Wanted("true or false")),
            Self::Integer(_) => return Err(Wanted("an integer of 32 bits")),
        }
        Ok(())
    }

    /// Appends a JSON value that is not null.
    pub(super) fn append(&mut self, json: &str) -> Result<(), Wanted> {
        match self {
            Self::Boolean(builder) => match json {
                "true" => builder.append_value(true),
                "false" => builder.append_value(false),
                _ => return Err(Wanted("true or false")),
            },
            Self::Integer(builder) => {
                builder.append_value(json.parse().map_err(|_| Wanted("an integer of 32 bits"))?);
            }
            _ => {
                let text = text(json).ok_or(self.wanted())?;
                self.append_text(&text)?;
            }
        }
        Ok(())
    }

    const fn wanted(&self) -> Wanted {
        Wanted(match self {
            Self::Text(_) => "a string",
            Self::Decimal { .. } => DECIMAL,
            Self::Date(_) => DATE,
            Self::Instant(_) => INSTANT,
            Self::Boolean(_) => "true or false",
            Self::Integer(_) => "an integer of 32 bits",
        })
    }

    /// The values so far; the builder begins again.
    pub(super) fn finish(&mut self) -> ArrayRef {
        each!(self, builder => Arc::new(builder.finish()))
    }
}

const DECIMAL: &str = "a decimal string whose digits fit the field, as in \"12.5\"";
const DATE: &str = "a date as \"2026-05-26\"";
const INSTANT: &str = "an instant in UTC as \"2026-05-26T10:00:01.120000Z\"";

/// The characters of a JSON string.
fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, Wanted> {
    if text.ends_with('.') {
        return Err(Wanted(DECIMAL));
    }
    value::decimal(text.as_bytes(), precision, scale).map_err(|_| Wanted(DECIMAL))
}

fn date(text: &str) -> Result<i32, Wanted> {
    if text.len() != "2026-05-26".len() {
        return Err(Wanted(DATE));
    }
    value::date(text.as_bytes()).map_err(|_| Wanted(DATE))
}

/// Microseconds since 1970 of an RFC 3339 instant in UTC. Digits of the fraction beyond the sixth must be zeros.
pub(super) fn instant(text: &str) -> Result<i64, Wanted> {
    let read = || {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let digits = fraction.trim_end_matches('0');
        let sound = date.len() == 10 && whole.len() == 8 && digits.len() <= 6 && fraction.len() <= 9;
        let digits = if digits.is_empty() { "0" } else { digits };
        let sound = sound && !fraction.is_empty();
        sound.then(|| value::timestamp(format!("{date} {whole}.{digits}").as_bytes()).ok())?
    };
    read().ok_or(Wanted(INSTANT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_taken_exactly_or_not_at_all() {
        let takes = |field_type: FieldType, json: &str| Column::new(field_type).append(json).is_ok();
        for (field_type, right, wrong) in [
            (FieldType::String, r#""a\"b\u00e9""#, "12"),
            (FieldType::Code, r#""""#, "true"),
            (FieldType::Quantity, r#""-9999999999999999999.999999999""#, "12.5"),
            (FieldType::Quantity, r#""0""#, r#""1.""#),
            (FieldType::Quantity, r#""1.5000000000000""#, r#""1e3""#),
            (FieldType::Rate, r#""0.950000000001""#, r#""0.9500000000001""#),
            (FieldType::Date, r#""2024-02-29""#, r#""2023-02-29""#),
            (FieldType::Date, r#""1970-01-01""#, r#""02024-02-29""#),
            (FieldType::Instant, r#""2026-05-26T10:00:01.120000000Z""#, r#""2026-05-26T10:00:01.1200001Z""#),
            (FieldType::Instant, r#""2026-05-26T10:00:01Z""#, r#""2026-05-26T10:00:01+02:00""#),
            (FieldType::Instant, r#""2026-05-26T10:00:01.5Z""#, r#""2026-05-26T10:00:01.Z""#),
            (FieldType::Boolean, "true", r#""true""#),
            (FieldType::Integer, "-2147483648", "2147483648"),
        ] {
            assert!(takes(field_type, right), "{field_type:?} {right}");
            assert!(!takes(field_type, wrong), "{field_type:?} {wrong}");
        }
        assert_eq!(instant("1970-01-01T00:00:01.5Z"), Ok(1_500_000));
    }
}
