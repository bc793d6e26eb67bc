//! Dates, times and years as the log packs them.
//!
//! A date with a zero in it is none in any calendar, but the server takes it: a policy decides. A `TIME` is a span that
//! may be negative and longer than a day, which no type of Arrow holds exactly, so it stays the server's text.
//!
//! ```text
//! date       day 5 bits | month 4 | year, little-endian
//! datetime   1 | year * 13 + month 17 bits | day 5 | hour 5 | minute 6 | second 6, big-endian | fraction
//! timestamp  seconds since 1970, big-endian | fraction
//! time       1 | 0 | hour 10 bits | minute 6 | second 6, big-endian | fraction; negative ones as their complement
//! ```
//! A fraction has a byte for every two digits.

use std::fmt::Write;

use crate::mysql::bytes::{big_endian, little_endian};
use crate::value::{DAY_US, ValueFault, days_of};

const ZERO: ValueFault = ValueFault::Special("a date with a zero in it, which is in no calendar");
const DATE: ValueFault = ValueFault::Malformed("a date has another form");
const TIME: ValueFault = ValueFault::Malformed("a time has another form");

/// Digits of a fraction that are stored.
const DIGITS_MAX: u8 = 6;

/// Bytes of a fraction.
pub(super) fn fraction_len(digits: u8) -> usize {
    usize::from(digits.min(DIGITS_MAX).div_ceil(2))
}

/// Microseconds of a fraction.
fn fraction_us(bytes: &[u8]) -> Option<i64> {
    let value = i64::try_from(big_endian(bytes)).ok()?;
    let us = value * [1_000_000, 10_000, 100, 1].get(bytes.len())?;
    (us < 1_000_000).then_some(us)
}

fn days(year: i64, month: i64, day: i64) -> Result<i64, ValueFault> {
    match days_of(year, month, day) {
        Some(days) => Ok(days),
        // With ALLOW_INVALID_DATES there are days that no month has, too.
        None if month <= 12 && day <= 31 => Err(ZERO),
        None => Err(DATE),
    }
}

/// Days since 1970.
pub(super) fn date(bytes: &[u8]) -> Result<i32, ValueFault> {
    let packed = i64::try_from(little_endian(bytes)).map_err(|_| DATE)?;
    let days = days(packed >> 9, packed >> 5 & 15, packed & 31)?;
    i32::try_from(days).map_err(|_| DATE)
}

/// Parts of a moment packed into 41 bits.
fn parts(packed: i64) -> (i64, i64, i64, i64, i64, i64) {
    let (ymd, hms) = (packed >> 17, packed & 0x1_ffff);
    let (year_month, day) = (ymd >> 5, ymd & 31);
    (year_month / 13, year_month % 13, day, hms >> 12, hms >> 6 & 63, hms & 63)
}

/// Microseconds since 1970 of a moment without a time zone.
#[inline]
pub(super) fn datetime(bytes: &[u8]) -> Result<i64, ValueFault> {
    let (packed, fraction) = bytes.split_at_checked(5).ok_or(DATE)?;
    let packed = i64::try_from(big_endian(packed)).map_err(|_| DATE)?.checked_sub(1 << 39).filter(|it| *it >= 0);
    let (year, month, day, hour, minute, second) = parts(packed.ok_or(DATE)?);
    let us = fraction_us(fraction).filter(|_| hour < 24 && minute < 60 && second < 60).ok_or(DATE)?;
    let seconds = (hour * 60 + minute) * 60 + second;
    Ok(days(year, month, day)? * DAY_US + seconds * 1_000_000 + us)
}

/// Microseconds since 1970. The first second of 1970 is no moment for the server but its zero.
#[inline]
pub(super) fn timestamp(bytes: &[u8]) -> Result<i64, ValueFault> {
    let (seconds, fraction) = bytes.split_at_checked(4).ok_or(DATE)?;
    let seconds = i64::try_from(big_endian(seconds)).map_err(|_| DATE)?;
    let us = fraction_us(fraction).ok_or(DATE)?;
    if seconds == 0 { Err(ZERO) } else { Ok(seconds * 1_000_000 + us) }
}

pub(super) fn year(bytes: &[u8]) -> Result<i16, ValueFault> {
    match bytes {
        [0] => Ok(0),
        [year] => Ok(1900 + i16::from(*year)),
        _ => Err(ValueFault::Malformed("a year has another form")),
    }
}

/// A number of so many digits at the beginning of a text, and what follows it.
fn number(text: &[u8], len: usize) -> Result<(i64, &[u8]), ValueFault> {
    let (digits, rest) = text.split_at_checked(len).ok_or(DATE)?;
    let value = digits
        .iter()
        .try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')).ok_or(DATE))?;
    Ok((value, rest))
}

/// As [`number`], behind a sign of its own.
fn number_behind(text: &[u8], sign: u8, len: usize) -> Result<(i64, &[u8]), ValueFault> {
    let (first, rest) = text.split_first().ok_or(DATE)?;
    if *first == sign { number(rest, len) } else { Err(DATE) }
}

fn days_of_text(text: &[u8]) -> Result<(i64, &[u8]), ValueFault> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number_behind(rest, b'-', 2)?;
    let (day, rest) = number_behind(rest, b'-', 2)?;
    Ok((days(year, month, day)?, rest))
}

/// As [`date`], of one as the server writes it: `2024-02-29`.
pub(super) fn date_of_text(text: &[u8]) -> Result<i32, ValueFault> {
    match days_of_text(text)? {
        (days, []) => i32::try_from(days).map_err(|_| DATE),
        _ => Err(DATE),
    }
}

/// As [`datetime`], of one as the server writes it, with up to six digits of a second: `2024-02-29 23:59:59.5`.
pub(super) fn datetime_of_text(text: &[u8]) -> Result<i64, ValueFault> {
    let (days, rest) = days_of_text(text)?;
    let (hour, rest) = number_behind(rest, b' ', 2)?;
    let (minute, rest) = number_behind(rest, b':', 2)?;
    let (second, rest) = number_behind(rest, b':', 2)?;
    let digits = rest.len().saturating_sub(1);
    let fraction = match rest {
        [] => 0,
        _ if digits <= usize::from(DIGITS_MAX) => number_behind(rest, b'.', digits)?.0,
        _ => return Err(DATE),
    };
    let scale = 10_i64.pow(u32::from(DIGITS_MAX).saturating_sub(u32::try_from(digits).map_err(|_| DATE)?));
    let seconds = (hour * 60 + minute) * 60 + second;
    Ok(days * DAY_US + seconds * 1_000_000 + fraction * scale)
}

/// A span as the server writes it: `-838:59:59.000000`.
pub(super) fn put_time(bytes: &[u8], digits: u8, out: &mut String) -> Result<(), ValueFault> {
    let fraction_bits = u32::try_from(fraction_len(digits) * 8).map_err(|_| TIME)?;
    if bytes.len() != 3 + fraction_len(digits) {
        return Err(TIME);
    }
    let packed = i64::try_from(big_endian(bytes)).map_err(|_| TIME)? - (1 << (23 + fraction_bits));
    let span = packed.unsigned_abs();
    let hms = span >> fraction_bits;
    let fraction = (span & ((1 << fraction_bits) - 1)) * [1_000_000, 10_000, 100, 1][fraction_len(digits)];
    let sign = if packed < 0 { "-" } else { "" };
    put_span(sign, (hms >> 12 & 0x3ff, hms >> 6 & 63, hms & 63), fraction, digits, out)
}

fn put_span(
    sign: &str,
    (hours, minutes, seconds): (u64, u64, u64),
    us: u64,
    digits: u8,
    out: &mut String,
) -> Result<(), ValueFault> {
    if minutes > 59 || seconds > 59 || us > 999_999 {
        return Err(TIME);
    }
    write!(out, "{sign}{hours:02}:{minutes:02}:{seconds:02}").map_err(|_| TIME)?;
    if digits > 0 {
        let digits = digits.min(DIGITS_MAX);
        let fraction = us / 10_u64.pow(u32::from(DIGITS_MAX - digits));
        write!(out, ".{fraction:0width$}", width = usize::from(digits)).map_err(|_| TIME)?;
    }
    Ok(())
}

/// A moment inside JSON: 40 bits of it and 24 of microseconds, as the server writes it there.
pub(super) fn put_json(packed: i64, form: Form, out: &mut String) -> Result<(), ValueFault> {
    let span = packed.unsigned_abs();
    let us = span & 0xff_ffff;
    if form == Form::Time {
        let hms = span >> 24;
        let sign = if packed < 0 { "-" } else { "" };
        return put_span(sign, (hms >> 12 & 0x3ff, hms >> 6 & 63, hms & 63), us, DIGITS_MAX, out);
    }
    let (year, month, day, hour, minute, second) = parts(i64::try_from(span >> 24).map_err(|_| DATE)?);
    write!(out, "{year:04}-{month:02}-{day:02}").map_err(|_| DATE)?;
    if form == Form::DateTime {
        write!(out, " {hour:02}:{minute:02}:{second:02}.{us:06}").map_err(|_| DATE)?;
    }
    Ok(())
}

/// What of a moment is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Date,
    Time,
    DateTime,
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Written independently of the reading side: the manual's numbers.
    fn pack_time(is_negative: bool, hour: i64, minute: i64, second: i64, us: i64, digits: u8) -> Vec<u8> {
        let bytes = usize::from(digits.div_ceil(2));
        let scale = [1_000_000, 10_000, 100, 1][bytes];
        let bits = 8 * bytes;
        let value = ((hour << 12 | minute << 6 | second) << bits) + us / scale;
        let value = (1_i64 << (23 + bits)) + if is_negative { -value } else { value };
        value.to_be_bytes()[5 - bytes..].to_vec()
    }

    pub(crate) fn pack_datetime(year: i64, month: i64, day: i64, hms: (i64, i64, i64)) -> Vec<u8> {
        let value = (1 << 39) | ((year * 13 + month) << 5 | day) << 17 | hms.0 << 12 | hms.1 << 6 | hms.2;
        i64::to_be_bytes(value)[3..].to_vec()
    }

    fn span(bytes: &[u8], digits: u8) -> String {
        let mut text = String::new();
        put_time(bytes, digits, &mut text).unwrap();
        text
    }

    #[test]
    fn a_span_of_weeks_and_one_before_midnight_are_kept() {
        assert_eq!(span(&pack_time(true, 838, 59, 59, 0, 0), 0), "-838:59:59");
        assert_eq!(span(&pack_time(false, 838, 59, 59, 0, 0), 0), "838:59:59");
        assert_eq!(span(&pack_time(true, 0, 0, 0, 10_000, 2), 2), "-00:00:00.01");
        assert_eq!(span(&[0x7f, 0xff, 0xff, 0xff], 2), "-00:00:00.01", "of the server's source");
        assert_eq!(span(&pack_time(false, 0, 0, 1, 500_000, 1), 1), "00:00:01.5");
    }

    #[test]
    fn a_zero_date_is_no_day_of_1970_and_no_error_of_the_log() {
        assert_eq!(date(&[0, 0, 0]), Err(ZERO));
        assert_eq!(date(&[0x20, 0xcf, 0x0f]), Err(ZERO), "2023-09-00");
        assert_eq!(datetime(&pack_datetime(0, 0, 0, (0, 0, 0))), Err(ZERO));
        assert_eq!(datetime(&pack_datetime(2023, 2, 30, (0, 0, 0))), Err(ZERO));
        assert_eq!(timestamp(&[0, 0, 0, 0]), Err(ZERO));
        assert_eq!(timestamp(&[0, 0, 0, 1, 0x27, 0x0f]), Ok(1_999_900));
        assert_eq!(timestamp(&[255, 255, 255, 255]), Ok(4_294_967_295_000_000));
        assert_eq!(datetime(&pack_datetime(1970, 1, 2, (1, 2, 3))), Ok(DAY_US + 3_723_000_000));
        assert_eq!(datetime(&pack_datetime(1969, 12, 31, (23, 59, 59))), Ok(-1_000_000));
        assert_eq!((year(&[0]), year(&[255])), (Ok(0), Ok(2155)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_span_reads_as_it_was(is_negative in any::<bool>(), hour in 0_i64..839, minute in 0_i64..60, second in 0_i64..60, us in 0_i64..1_000_000, digits in 0_u8..=6) {
            let scale = 10_i64.pow(u32::from(6 - digits));
            let us = us / scale * scale;
            let packed = pack_time(is_negative, hour, minute, second, us, digits);
            let fraction = if digits > 0 { format!(".{:06}", us)[..=usize::from(digits)].to_owned() } else { String::new() };
            let sign = if is_negative && (hour, minute, second, us) != (0, 0, 0, 0) { "-" } else { "" };
            prop_assert_eq!(span(&packed, digits), format!("{sign}{hour:02}:{minute:02}:{second:02}{fraction}"));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9), digits in any::<u8>(), packed in any::<i64>()) {
            let _ = (date(&bytes), datetime(&bytes), timestamp(&bytes), year(&bytes));
            let _ = put_time(&bytes, digits, &mut String::new());
            for form in [Form::Date, Form::Time, Form::DateTime] {
                let _ = put_json(packed, form, &mut String::new());
            }
        }
    }
}
