//! The text of one value becomes a number, by hand: this is the innermost loop of a backlog. Seeds share it, so that a
//! value means the same whichever way it came.
//!
//! The forms are fixed (a session sets ISO dates, UTC, hex bytea, shortest floats), so anything else is malformed and
//! stops the reader. Values that are valid in PostgreSQL but not in the exact Arrow type are *special*: a policy decides.

/// Why a value could not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueFault {
    /// Valid at the source, not in the column's exact type.
    Special(&'static str),
    /// Not the text that the server writes for this type.
    Malformed(&'static str),
}

use ValueFault::{Malformed, Special};

pub(crate) const NAN: ValueFault = Special("NaN, which an exact decimal cannot hold");
pub(crate) const INFINITE_NUMERIC: ValueFault = Special("an infinite numeric, which an exact decimal cannot hold");
pub(crate) const TOO_MANY_DIGITS: ValueFault = Malformed("a numeric has more digits than its type declares");
pub(crate) const INFINITE: ValueFault = Special("an infinite date or timestamp");
pub(crate) const BEFORE_CHRIST: ValueFault = Special("a date or timestamp before Christ");
pub(crate) const DAYS_RANGE: ValueFault = Special("a date beyond the range of days");
pub(crate) const MICROSECONDS_RANGE: ValueFault = Special("a timestamp beyond the range of microseconds");
pub(crate) const MIDNIGHT: ValueFault = Special("the time 24:00:00, which is no time of a day");

pub(crate) const DAY_US: i64 = 86_400_000_000;

fn digit(byte: u8) -> Option<u8> {
    let value = byte.wrapping_sub(b'0');
    (value < 10).then_some(value)
}

pub(crate) fn boolean(text: &[u8]) -> Result<bool, ValueFault> {
    match text {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(Malformed("a boolean is neither t nor f")),
    }
}

#[inline]
pub(crate) fn integer(text: &[u8]) -> Result<i64, ValueFault> {
    const FAULT: ValueFault = Malformed("an integer has another form");
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return Err(FAULT);
    }
    // Downwards, because the lowest integer has no positive counterpart.
    let mut value = 0_i64;
    for &byte in digits {
        let digit = i64::from(digit(byte).ok_or(FAULT)?);
        value = value.checked_mul(10).and_then(|value| value.checked_sub(digit)).ok_or(FAULT)?;
    }
    if negative { Ok(value) } else { value.checked_neg().ok_or(FAULT) }
}

/// An integer of a narrower type.
#[inline]
pub(crate) fn narrow<T: TryFrom<i64>>(text: &[u8]) -> Result<T, ValueFault> {
    T::try_from(integer(text)?).map_err(|_| Malformed("an integer exceeds its type"))
}

pub(crate) fn float<T: std::str::FromStr>(text: &[u8]) -> Result<T, ValueFault> {
    let text = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    text.ok_or(Malformed("a float has another form"))
}

/// A decimal as the integer that it is at the given scale.
#[inline]
pub(crate) fn decimal(text: &[u8], precision: u8, scale: i8) -> Result<i128, ValueFault> {
    const FAULT: ValueFault = Malformed("a numeric has another form");
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if !digits.first().is_some_and(u8::is_ascii_digit) {
        return Err(match digits {
            b"NaN" => NAN,
            b"Infinity" => INFINITE_NUMERIC,
            _ => FAULT,
        });
    }
    let mut fraction_left = scale;
    let mut in_fraction = false;
    let mut value = 0_i128;
    for &byte in digits {
        if byte == b'.' && !in_fraction {
            in_fraction = true;
            continue;
        }
        let digit = i128::from(digit(byte).ok_or(FAULT)?);
        if in_fraction {
            if fraction_left == 0 {
                // More digits than the type declares are only possible as zeros.
                if digit == 0 {
                    continue;
                }
                return Err(FAULT);
            }
            fraction_left -= 1;
        }
        value = value.checked_mul(10).and_then(|value| value.checked_add(digit)).ok_or(FAULT)?;
    }
    for _ in 0..fraction_left {
        value = value.checked_mul(10).ok_or(FAULT)?;
    }
    if value >= 10_i128.pow(u32::from(precision.min(38))) {
        return Err(TOO_MANY_DIGITS);
    }
    Ok(if negative { -value } else { value })
}

/// Reads `len` digits.
#[inline]
fn fixed(text: &[u8], at: usize, len: usize) -> Option<i64> {
    let mut value = 0;
    for &byte in text.get(at..at + len)? {
        value = value * 10 + i64::from(digit(byte)?);
    }
    Some(value)
}

const DATE_FAULT: ValueFault = Malformed("a date has another form");

/// Splits special dates off: infinities and years before Christ.
fn ensure_ordinary(text: &[u8]) -> Result<(), ValueFault> {
    match text {
        b"infinity" | b"-infinity" => Err(INFINITE),
        _ if text.ends_with(b" BC") => Err(BEFORE_CHRIST),
        _ => Ok(()),
    }
}

/// Days since 1970 and the length of the date's text: `YYYY-MM-DD`, with more digits for far years.
#[inline]
fn leading_date(text: &[u8]) -> Result<(i64, usize), ValueFault> {
    let year_len = text.iter().position(|&byte| byte == b'-').filter(|len| (4..=7).contains(len));
    let year_len = year_len.ok_or(DATE_FAULT)?;
    let part = |at, len| fixed(text, at, len).ok_or(DATE_FAULT);
    let (year, month, day) = (part(0, year_len)?, part(year_len + 1, 2)?, part(year_len + 4, 2)?);
    if text.get(year_len + 3) != Some(&b'-') || !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return Err(DATE_FAULT);
    }
    Ok((days_from_civil(year, month, day), year_len + 6))
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a day that there is in the calendar, for years from 0 on.
pub(crate) fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_a_day = year >= 0 && (1..=12).contains(&month) && day >= 1 && day <= days_in(year, month);
    is_a_day.then(|| days_from_civil(year, month, day))
}

/// Days since 1970 in the proleptic Gregorian calendar, for years from 0 on (after Hinnant's `days_from_civil`).
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March put the leap day last; 1970-01-01 is day 719,468 counted from 0000-03-01.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A date as days since 1970.
pub(crate) fn date(text: &[u8]) -> Result<i32, ValueFault> {
    ensure_ordinary(text)?;
    let (days, len) = leading_date(text)?;
    if len != text.len() {
        return Err(DATE_FAULT);
    }
    i32::try_from(days).map_err(|_| DAYS_RANGE)
}

/// Microseconds of `HH:MM:SS[.ffffff]`, up to and including 24:00:00.
#[inline]
fn clock(text: &[u8]) -> Option<i64> {
    let (hours, minutes, seconds) = (fixed(text, 0, 2)?, fixed(text, 3, 2)?, fixed(text, 6, 2)?);
    if text[2] != b':' || text[5] != b':' || minutes > 59 || seconds > 59 {
        return None;
    }
    let fraction = match text.get(8..)? {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            let scale = u32::try_from(6 - digits.len()).ok()?;
            fixed(digits, 0, digits.len())? * 10_i64.pow(scale)
        }
        _ => return None,
    };
    let total = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction;
    (total <= DAY_US).then_some(total)
}

/// A time of day as microseconds since midnight.
pub(crate) fn time(text: &[u8]) -> Result<i64, ValueFault> {
    match clock(text) {
        Some(DAY_US) => Err(MIDNIGHT),
        Some(us) => Ok(us),
        None => Err(Malformed("a time has another form")),
    }
}

/// A timestamp without time zone as microseconds since 1970.
#[inline]
pub(crate) fn timestamp(text: &[u8]) -> Result<i64, ValueFault> {
    const FAULT: ValueFault = Malformed("a timestamp has another form");
    ensure_ordinary(text)?;
    let (days, len) = leading_date(text)?;
    if text.get(len) != Some(&b' ') {
        return Err(FAULT);
    }
    let us = clock(&text[len + 1..]).filter(|us| *us < DAY_US).ok_or(FAULT)?;
    let total = days.checked_mul(DAY_US).and_then(|total| total.checked_add(us));
    total.ok_or(MICROSECONDS_RANGE)
}

/// A timestamp with time zone, which the session has the server write in UTC.
#[inline]
pub(crate) fn timestamp_utc(text: &[u8]) -> Result<i64, ValueFault> {
    ensure_ordinary(text)?;
    timestamp(text.strip_suffix(b"+00").ok_or(Malformed("a timestamp is not in UTC"))?)
}

/// Writes bytes as the server does: `\x6869`.
pub(crate) fn put_bytea(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push_str("\\x");
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

/// Undoes `\x6869` into `out`.
pub(crate) fn bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), ValueFault> {
    const FAULT: ValueFault = Malformed("a bytea is not in hex form");
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(FAULT),
    };
    out.clear();
    let (pairs, odd) = text.strip_prefix(b"\\x").ok_or(FAULT)?.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(FAULT);
    }
    for [high, low] in pairs {
        out.push(nibble(*high)? << 4 | nibble(*low)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An independent way to the calendar: counts days one month at a time.
    fn civil(days: i64) -> String {
        let (mut year, mut month, mut left) = (1970, 1, days);
        while left < 0 {
            month -= 1;
            if month == 0 {
                (year, month) = (year - 1, 12);
            }
            left += days_in(year, month);
        }
        while left >= days_in(year, month) {
            left -= days_in(year, month);
            month += 1;
            if month == 13 {
                (year, month) = (year + 1, 1);
            }
        }
        format!("{year:04}-{month:02}-{:02}", left + 1)
    }

    /// As the server writes it: no trailing zeros in the fraction, no fraction for whole seconds.
    fn clock_text(us: i64) -> String {
        let seconds = us / 1_000_000;
        let whole = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        match us % 1_000_000 {
            0 => whole,
            fraction => format!("{whole}.{}", format!("{fraction:06}").trim_end_matches('0')),
        }
    }

    proptest! {
        #[test]
        fn integers_read_back(value in any::<i64>()) {
            prop_assert_eq!(integer(value.to_string().as_bytes()), Ok(value));
        }

        #[test]
        fn decimals_read_back_at_their_scale(units in -(10_i128.pow(37))..10_i128.pow(37), scale in 0_usize..20) {
            let digits = format!("{:0width$}", units.abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let sign = if units < 0 { "-" } else { "" };
            let point = if scale == 0 { "" } else { "." };
            let text = format!("{sign}{whole}{point}{fraction}");
            prop_assert_eq!(decimal(text.as_bytes(), 38, i8::try_from(scale).expect("small")), Ok(units), "{}", text);
        }

        #[test]
        fn dates_and_timestamps_read_back(days in -719_000_i64..1_000_000, us in 0..DAY_US) {
            let day = civil(days);
            prop_assert_eq!(date(day.as_bytes()), Ok(i32::try_from(days).expect("small")), "{}", day);
            let clock = clock_text(us);
            prop_assert_eq!(time(clock.as_bytes()), Ok(us), "{}", clock);
            prop_assert_eq!(timestamp(format!("{day} {clock}").as_bytes()), Ok(days * DAY_US + us));
            prop_assert_eq!(timestamp_utc(format!("{day} {clock}+00").as_bytes()), Ok(days * DAY_US + us));
        }

        #[test]
        fn floats_read_back(value in any::<f64>().prop_filter("NaN differs from itself", |value| !value.is_nan())) {
            prop_assert_eq!(float(value.to_string().as_bytes()), Ok(value));
        }

        #[test]
        fn bytes_read_back(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut out = Vec::new();
            prop_assert_eq!(bytea(format!("\\x{text}").as_bytes(), &mut out), Ok(()));
            prop_assert_eq!(out, value);
        }

        #[test]
        fn no_bytes_make_a_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut out = Vec::new();
            let _ = (boolean(&text), integer(&text), narrow::<i16>(&text), float::<f32>(&text));
            let _ = (decimal(&text, 38, 9), date(&text), time(&text), timestamp(&text), timestamp_utc(&text));
            let _ = bytea(&text, &mut out);
        }

        #[test]
        fn no_near_miss_makes_a_parser_panic(text in "[-0-9:. +BCinfty]{0,30}") {
            let text = text.as_bytes();
            let _ = (integer(text), decimal(text, 5, 5), date(text), time(text), timestamp(text), timestamp_utc(text));
        }
    }

    #[test]
    fn special_values_are_told_from_malformed_ones() {
        assert!(matches!(decimal(b"NaN", 10, 2), Err(Special(_))));
        for text in ["infinity", "-infinity", "0044-03-15 BC", "0044-03-15 00:00:00+00 BC"] {
            assert!(matches!(timestamp_utc(text.as_bytes()), Err(Special(_))), "{text}");
        }
        assert!(matches!(timestamp(b"294276-12-31 23:59:59.999999"), Err(Special(_))));
        assert!(matches!(time(b"24:00:00"), Err(Special(_))));
        for text in ["2024-02-30", "2023-02-29", "2024-13-01", "2024-1-01", "24-01-01"] {
            assert!(matches!(date(text.as_bytes()), Err(Malformed(_))), "{text}");
        }
        assert!(matches!(decimal(b"123.45", 4, 2), Err(Malformed(_))));
        assert!(matches!(timestamp_utc(b"2024-01-01 00:00:00+02"), Err(Malformed(_))));
        assert_eq!(integer(b"-9223372036854775808"), Ok(i64::MIN));
        assert!(integer(b"9223372036854775808").is_err());
        assert_eq!(date(b"5874897-12-31"), Ok(2_145_042_905));
    }
}
