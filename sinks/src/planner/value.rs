//! Is a JSON value a value of a field? Looks at the bytes only; nothing is parsed twice and nothing allocated.

use syncline_schemas::entity::{Field, FieldType};

/// Whole and fractional digits of a decimal type.
fn decimal_digits(field_type: FieldType) -> Option<(usize, usize)> {
    match field_type {
        FieldType::Quantity | FieldType::UnitPrice => Some((19, 9)),
        FieldType::Money => Some((22, 6)),
        FieldType::Rate => Some((16, 12)),
        _ => None,
    }
}

/// Says what is wrong with a value, which is compact JSON text.
///
/// # Errors
/// What the field wants, without repeating the value.
pub(super) fn check(field: &Field, json: &str) -> Result<(), String> {
    if let Some((whole, fraction)) = decimal_digits(field.field_type) {
        let sound = text(json).is_some_and(|text| is_decimal(text, whole, fraction));
        return wanted(sound, || format!("a decimal string with at most {whole} and {fraction} digits"));
    }
    match field.field_type {
        FieldType::Date => wanted(text(json).is_some_and(is_date), || "a date as \"2026-05-26\"".into()),
        FieldType::Instant => {
            wanted(text(json).is_some_and(is_instant), || "an instant as \"2026-05-26T10:00:01.120000Z\"".into())
        }
        FieldType::Boolean => wanted(matches!(json, "true" | "false"), || "true or false".into()),
        FieldType::Integer => wanted(json.parse::<i32>().is_ok(), || "an integer of 32 bits".into()),
        FieldType::Code if !field.values.is_empty() => {
            let known = text(json).is_some_and(|text| field.values.iter().any(|value| value == text));
            wanted(known, || format!("one of {}", field.values.join(", ")))
        }
        _ => wanted(json.starts_with('"'), || "a string".into()),
    }
}

fn wanted(sound: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if sound { Ok(()) } else { Err(format!("wanted {}", what())) }
}

/// The characters of a JSON string without escapes; values that are checked further need none.
fn text(json: &str) -> Option<&str> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('\\')).then_some(inner)
}

fn is_decimal(text: &str, whole_max: usize, fraction_max: usize) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let magnitude = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, "0"));
    digits(whole)
        && digits(fraction)
        && whole.trim_start_matches('0').len() <= whole_max
        && fraction.trim_end_matches('0').len() <= fraction_max
}

/// A number of exactly so many digits, within bounds.
fn number(text: Option<&str>, bounds: std::ops::RangeInclusive<u32>) -> bool {
    text.is_some_and(|text| {
        text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse().is_ok_and(|number: u32| bounds.contains(&number))
    })
}

fn is_date(text: &str) -> bool {
    let separators = text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    separators && number(text.get(..4), 0..=9_999) && number(text.get(5..7), 1..=12) && number(text.get(8..10), 1..=31)
}

/// RFC 3339 in UTC, with or without a fraction.
fn is_instant(text: &str) -> bool {
    let Some((date, time)) = text.split_once('T') else { return false };
    let Some(time) = time.strip_suffix('Z') else { return false };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    is_date(date)
        && time.len() == 8
        && time.as_bytes()[2] == b':'
        && time.as_bytes()[5] == b':'
        && number(time.get(..2), 0..=23)
        && number(time.get(3..5), 0..=59)
        && number(time.get(6..8), 0..=60)
        && (1..=9).contains(&fraction.len())
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_number_or_date_never_passes_for_a_value() {
        for sound in ["0", "-110.000000000", "9999999999999999999.999999999", "007", "1.50000000000000"] {
            assert!(is_decimal(sound, 19, 9), "{sound}");
        }
        for broken in ["", "-", ".5", "1.", "1e3", "NaN", "10000000000000000000", "0.0000000001", "1.2.3", "+1"] {
            assert!(!is_decimal(broken, 19, 9), "{broken}");
        }
        for sound in ["2026-05-26T10:00:01.120000Z", "1969-12-31T23:59:59Z"] {
            assert!(is_instant(sound), "{sound}");
        }
        for broken in [
            "2026-05-26",
            "2026-13-26T10:00:01Z",
            "2026-05-26T10:00:01+02:00",
            "2026-05-26T1é:00:01Z",
            "T",
            "+010000-01-01T00:00:00Z",
        ] {
            assert!(!is_instant(broken), "{broken}");
        }
        assert!(is_date("2000-02-29") && !is_date("2000-2-29") && !is_date("2000-00-01"));
    }
}
