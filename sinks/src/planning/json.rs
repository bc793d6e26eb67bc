//! Arrow values as JSON text, column by column: straight from the buffers into the body, nothing in between.
//!
//! This is the most expensive step on the way to an HTTP target, so a column's type is resolved once per batch and a
//! value costs a few ns. Forms: decimals are strings in the shortest exact form (`"110"`, `"0.5"`); instants are RFC 3339
//! in UTC with six places; dates are ISO 8601; null is `null`.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int32Type, TimeUnit, TimestampMicrosecondType};

/// A column that knows how to write its values.
pub(super) struct JsonColumn<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Text(&'a StringArray),
    Decimal { values: &'a [i128], scale: usize },
    Date(&'a [i32]),
    Instant(&'a [i64]),
    Bool(&'a BooleanArray),
    Integer(&'a [i32]),
}

impl<'a> JsonColumn<'a> {
    /// Resolves the type; `None` for one that no canonical field has.
    pub(super) fn resolve(array: &'a ArrayRef) -> Option<Self> {
        let values = match array.data_type() {
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Decimal128(_, scale) => Values::Decimal {
                values: array.as_primitive::<Decimal128Type>().values(),
                scale: usize::try_from(*scale).ok()?,
            },
            DataType::Date32 => Values::Date(array.as_primitive::<Date32Type>().values()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Values::Instant(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            DataType::Boolean => Values::Bool(array.as_boolean()),
            DataType::Int32 => Values::Integer(array.as_primitive::<Int32Type>().values()),
            _ => return None,
        };
        Some(Self { nulls: array.nulls(), values })
    }

    /// Appends the value of a row.
    pub(super) fn put(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(b"null");
            return;
        }
        match &self.values {
            Values::Text(texts) => put_text(texts.value(row), out),
            Values::Decimal { values, scale } => put_decimal(values[row], *scale, out),
            Values::Date(days) => {
                out.push(b'"');
                put_date(i64::from(days[row]), out);
                out.push(b'"');
            }
            Values::Instant(micros) => put_instant(micros[row], out),
            Values::Bool(bools) => out.extend_from_slice(if bools.value(row) { b"true" } else { b"false" }),
            Values::Integer(integers) => {
                out.extend_from_slice(itoa::Buffer::new().format(integers[row]).as_bytes());
            }
        }
    }
}

impl JsonColumn<'_> {
    /// Appends the value of a row as bare text; false where it is null.
    pub(super) fn put_plain(&self, row: usize, out: &mut Vec<u8>) -> bool {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return false;
        }
        if let Values::Text(texts) = &self.values {
            out.extend_from_slice(texts.value(row).as_bytes());
            return true;
        }
        let from = out.len();
        self.put(row, out);
        if out[from] == b'"' {
            out.remove(from);
            out.pop();
        }
        true
    }
}

/// Appends a JSON string.
pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain..i]);
        plain = i + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                put_hex(&[control], out);
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// Appends lower-case hex digits.
pub(crate) fn put_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// Appends a decimal as a string in its shortest exact form.
pub(crate) fn put_decimal(value: i128, scale: usize, out: &mut Vec<u8>) {
    out.push(b'"');
    if value < 0 {
        out.push(b'-');
    }
    let magnitude = value.unsigned_abs();
    // Nearly every quantity fits 64 bits, whose digits come three times as fast.
    let (mut small, mut large) = (itoa::Buffer::new(), itoa::Buffer::new());
    let digits = match u64::try_from(magnitude) {
        Ok(magnitude) => small.format(magnitude),
        Err(_) => large.format(magnitude),
    }
    .as_bytes();
    let whole = digits.len().saturating_sub(scale);
    if whole == 0 {
        out.push(b'0');
    } else {
        out.extend_from_slice(&digits[..whole]);
    }
    let fraction = &digits[whole..];
    if let Some(last) = fraction.iter().rposition(|&digit| digit != b'0') {
        out.push(b'.');
        out.resize(out.len() + scale - fraction.len(), b'0');
        out.extend_from_slice(&fraction[..=last]);
    }
    out.push(b'"');
}

/// Appends an instant, microseconds since 1970, as a string.
pub(crate) fn put_instant(micros: i64, out: &mut Vec<u8>) {
    const DAY: i64 = 86_400_000_000;
    let of_day = micros.rem_euclid(DAY);
    out.push(b'"');
    put_date(micros.div_euclid(DAY), out);
    let seconds = of_day / 1_000_000;
    out.push(b'T');
    put_digits(seconds / 3_600, 2, out);
    out.push(b':');
    put_digits(seconds / 60 % 60, 2, out);
    out.push(b':');
    put_digits(seconds % 60, 2, out);
    out.push(b'.');
    put_digits(of_day % 1_000_000, 6, out);
    out.extend_from_slice(b"Z\"");
}

/// Appends `2026-05-26` for days since 1970; years beyond four digits carry a sign and six digits, as ISO 8601 expands.
pub(crate) fn put_date(days: i64, out: &mut Vec<u8>) {
    // Howard Hinnant's civil_from_days: eras of 400 years that begin in March, so that the leap day is the last one.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if (0..=9_999).contains(&year) {
        put_digits(year, 4, out);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        put_digits(year.abs(), 6, out);
    }
    out.push(b'-');
    put_digits(month, 2, out);
    out.push(b'-');
    put_digits(day, 2, out);
}

/// Appends a number that is not negative, with leading zeros.
fn put_digits(value: i64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.resize(out.len() + width.saturating_sub(digits.len()), b'0');
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn decimals_are_exact_and_as_short_as_can_be() {
        for (value, scale, text) in [
            (110_000_000_000, 9, "\"110\""),
            (0, 9, "\"0\""),
            (-1, 9, "\"-0.000000001\""),
            (-1_500_000_000, 9, "\"-1.5\""),
            (10, 0, "\"10\""),
            (9_999_999_999_999_999_999_999_999_999, 6, "\"9999999999999999999999.999999\""),
        ] {
            assert_eq!(written(|out| put_decimal(value, scale, out)), text);
        }
    }

    #[test]
    fn instants_and_dates_hold_at_leap_days_and_before_1970() {
        assert_eq!(written(|out| put_instant(1_779_789_601_120_000, out)), "\"2026-05-26T10:00:01.120000Z\"");
        assert_eq!(written(|out| put_instant(-1, out)), "\"1969-12-31T23:59:59.999999Z\"");
        for (days, text) in
            [(0, "1970-01-01"), (11_016, "2000-02-29"), (-719_528, "0000-01-01"), (2_932_897, "+010000-01-01")]
        {
            assert_eq!(written(|out| put_date(days, out)), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back_as_it_was(text in any::<String>()) {
            let json = written(|out| put_text(&text, out));
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
        }

        #[test]
        fn any_decimal_reads_back_exactly(value in any::<i128>(), scale in 0_usize..13) {
            let json = written(|out| put_decimal(value, scale, out));
            let text: String = serde_json::from_str(&json).expect("JSON");
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let digits = format!("{whole}{fraction:0<scale$}");
            prop_assert_eq!(digits.parse::<i128>().expect("digits"), value);
        }
    }
}
