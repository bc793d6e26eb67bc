//! Values in the form that `COPY (FORMAT binary)` has: network byte order, as the types' `send` functions write them.
//!
//! A value means the same as its text that the stream has, to the last special one: both ways lead to the same builders, and
//! what the text has no form for is malformed.

use std::fmt::Write as _;

use crate::value::{
    BEFORE_CHRIST, DAYS_RANGE, INFINITE, INFINITE_NUMERIC, MICROSECONDS_RANGE, MIDNIGHT, NAN, TOO_MANY_DIGITS,
    ValueFault,
};

/// 2000-01-01 in days since 1970.
const EPOCH_DAYS: i64 = 10_957;
const DAY_US: i64 = 86_400_000_000;
/// 0001-01-01 in days since 1970.
const FIRST_DAY: i64 = -719_162;
const NUMERIC_FAULT: ValueFault = ValueFault::Malformed("a numeric has another form");

/// The bytes of a value of fixed width.
#[inline]
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueFault> {
    bytes.try_into().map_err(|_| ValueFault::Malformed("a value has another width than its type"))
}

pub(super) fn boolean(bytes: &[u8]) -> Result<bool, ValueFault> {
    match bytes {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(ValueFault::Malformed("a boolean is neither 0 nor 1")),
    }
}

const POWERS: [i128; 39] = {
    let mut powers = [1; 39];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// A numeric: groups of four digits, of which the first has the weight `10000 ^ weight`, without zeros at either end, and how many
/// digits are shown behind the point (`numeric_send`).
struct Numeric<'a> {
    sign: u16,
    weight: i16,
    shown: u16,
    groups: &'a [[u8; 2]],
}

const NEGATIVE: u16 = 0x4000;
const IS_NAN: u16 = 0xC000;
const IS_INFINITE: u16 = 0xD000;
const IS_MINUS_INFINITE: u16 = 0xF000;

impl<'a> Numeric<'a> {
    #[inline]
    fn parse(bytes: &'a [u8]) -> Result<Self, ValueFault> {
        let (&[n, m, w, v, s, t, d, e], groups) = bytes.split_first_chunk::<8>().ok_or(NUMERIC_FAULT)?;
        let (groups, odd) = groups.as_chunks::<2>();
        let is_whole = groups.len() == usize::from(u16::from_be_bytes([n, m])) && odd.is_empty();
        if !is_whole || groups.iter().any(|group| u16::from_be_bytes(*group) > 9999) {
            return Err(NUMERIC_FAULT);
        }
        let (sign, weight, shown) =
            (u16::from_be_bytes([s, t]), i16::from_be_bytes([w, v]), u16::from_be_bytes([d, e]));
        Ok(Self { sign, weight, shown, groups })
    }

    /// The group of a weight; zeros where none is stored.
    fn group(&self, weight: i32) -> u16 {
        let place = usize::try_from(i32::from(self.weight) - weight).ok();
        place.and_then(|place| self.groups.get(place)).map_or(0, |group| u16::from_be_bytes(*group))
    }
}

/// A decimal as the integer that it is at the given scale.
pub(super) fn decimal(bytes: &[u8], precision: u8, scale: i8) -> Result<i128, ValueFault> {
    let Numeric { sign, weight, groups, .. } = Numeric::parse(bytes)?;
    let negative = match sign {
        0 => false,
        NEGATIVE => true,
        IS_NAN => return Err(NAN),
        IS_INFINITE | IS_MINUS_INFINITE => return Err(INFINITE_NUMERIC),
        _ => return Err(NUMERIC_FAULT),
    };
    // Of the group's last digit.
    let mut exponent = i32::from(weight) * 4 + i32::from(scale);
    let mut value = 0_i128;
    for group in groups {
        let part = at_exponent(u16::from_be_bytes(*group), exponent)?;
        value = value.checked_add(part).ok_or(TOO_MANY_DIGITS)?;
        exponent -= 4;
    }
    if value >= POWERS[usize::from(precision.min(38))] {
        return Err(TOO_MANY_DIGITS);
    }
    Ok(if negative { -value } else { value })
}

/// A numeric of any length as the server writes it, in place of what `text` holds.
pub(super) fn numeric(bytes: &[u8], text: &mut String) -> Result<(), ValueFault> {
    let numeric = Numeric::parse(bytes)?;
    text.clear();
    match numeric.sign {
        0 => {}
        NEGATIVE => text.push('-'),
        IS_NAN | IS_INFINITE | IS_MINUS_INFINITE => {
            text.push_str(match numeric.sign {
                IS_NAN => "NaN",
                IS_INFINITE => "Infinity",
                _ => "-Infinity",
            });
            return Ok(());
        }
        _ => return Err(NUMERIC_FAULT),
    }
    let weight = i32::from(numeric.weight);
    write!(text, "{}", if weight < 0 { 0 } else { numeric.group(weight) }).expect("a text takes every digit");
    for weight in (0..weight).rev() {
        write!(text, "{:04}", numeric.group(weight)).expect("a text takes every digit");
    }
    if numeric.shown > 0 {
        text.push('.');
        let end = text.len() + usize::from(numeric.shown);
        for weight in 1..=i32::from(numeric.shown.div_ceil(4)) {
            write!(text, "{:04}", numeric.group(-weight)).expect("a text takes every digit");
        }
        text.truncate(end);
    }
    Ok(())
}

/// The text of a `jsonb`, behind the version of its form.
pub(super) fn jsonb(bytes: &[u8]) -> Result<&[u8], ValueFault> {
    bytes.strip_prefix(&[1]).ok_or(ValueFault::Malformed("a jsonb has a version that is not known"))
}

#[inline]
fn at_exponent(digits: u16, exponent: i32) -> Result<i128, ValueFault> {
    if digits == 0 {
        return Ok(0);
    }
    if let Ok(exponent) = usize::try_from(exponent) {
        let unit = POWERS.get(exponent).ok_or(TOO_MANY_DIGITS)?;
        return unit.checked_mul(digits.into()).ok_or(TOO_MANY_DIGITS);
    }
    // More digits than the type declares are only possible as zeros.
    let unit = match exponent {
        -1 => 10,
        -2 => 100,
        -3 => 1000,
        _ => return Err(NUMERIC_FAULT),
    };
    if digits.is_multiple_of(unit) { Ok(i128::from(digits / unit)) } else { Err(NUMERIC_FAULT) }
}

/// A date as days since 1970.
#[inline]
pub(super) fn date(bytes: &[u8]) -> Result<i32, ValueFault> {
    let days = i32::from_be_bytes(fixed(bytes)?);
    if days == i32::MAX || days == i32::MIN {
        return Err(INFINITE);
    }
    let days = i64::from(days) + EPOCH_DAYS;
    if days < FIRST_DAY {
        return Err(BEFORE_CHRIST);
    }
    i32::try_from(days).map_err(|_| DAYS_RANGE)
}

/// A time of day as microseconds since midnight.
pub(super) fn time(bytes: &[u8]) -> Result<i64, ValueFault> {
    match i64::from_be_bytes(fixed(bytes)?) {
        DAY_US => Err(MIDNIGHT),
        us @ 0..DAY_US => Ok(us),
        _ => Err(ValueFault::Malformed("a time has another form")),
    }
}

/// A timestamp, with or without time zone, as microseconds since 1970.
#[inline]
pub(super) fn timestamp(bytes: &[u8]) -> Result<i64, ValueFault> {
    let us = i64::from_be_bytes(fixed(bytes)?);
    if us == i64::MAX || us == i64::MIN {
        return Err(INFINITE);
    }
    let us = us.checked_add(EPOCH_DAYS * DAY_US).ok_or(MICROSECONDS_RANGE)?;
    if us < FIRST_DAY * DAY_US { Err(BEFORE_CHRIST) } else { Ok(us) }
}

/// A UUID as the server writes it.
pub(super) fn uuid(bytes: &[u8]) -> Result<[u8; 36], ValueFault> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes: [u8; 16] = fixed(bytes)?;
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|place| !matches!(place, 8 | 13 | 18 | 23));
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    places.zip(nibbles).for_each(|(place, nibble)| text[place] = DIGITS[usize::from(nibble)]);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value;

    /// As `numeric_send` writes a text, by hand: groups of four digits around the point, without zeros at either end.
    fn sent(text: &str) -> Vec<u8> {
        let (sign, digits) = text.strip_prefix('-').map_or((0_u16, text), |digits| (0x4000, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
        let padded = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
        let digits = format!("{whole}{padded}");
        let mut groups: Vec<u16> =
            digits.as_bytes().chunks(4).map(|group| std::str::from_utf8(group).unwrap().parse().unwrap()).collect();
        let mut weight = i16::try_from(whole.len() / 4).unwrap() - 1;
        while groups.last() == Some(&0) {
            groups.pop();
        }
        while groups.first() == Some(&0) {
            groups.remove(0);
            weight -= 1;
        }
        let sign = if groups.is_empty() { 0 } else { sign };
        if groups.is_empty() {
            weight = 0;
        }
        let (count, dscale) = (u16::try_from(groups.len()).unwrap(), u16::try_from(fraction.len()).unwrap());
        let head = [count.to_be_bytes(), weight.to_be_bytes(), sign.to_be_bytes(), dscale.to_be_bytes()].concat();
        [head, groups.into_iter().flat_map(u16::to_be_bytes).collect()].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_numeric_is_the_same_in_both_forms(units in -(10_i128.pow(38))..10_i128.pow(38), cut in 0_u32..38, scale in 0_usize..30, more in 0_usize..6) {
            let digits = format!("{:0width$}", (units / 10_i128.pow(cut)).abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let sign = if units < 0 { "-" } else { "" };
            let point = if scale + more == 0 { "" } else { "." };
            let text = format!("{sign}{whole}{point}{fraction}{}", "0".repeat(more));
            let mut written = "before".to_owned();
            numeric(&sent(&text), &mut written).unwrap();
            // Zero has no sign.
            let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.' | b'-'));
            prop_assert_eq!(written, if is_zero { text.trim_start_matches('-') } else { &text });
            for (precision, scale) in [(38, scale), (20, scale), (38, scale.saturating_sub(1)), (38, scale + 3)] {
                let scale = i8::try_from(scale).unwrap();
                let (read, wanted) = (decimal(&sent(&text), precision, scale), value::decimal(text.as_bytes(), precision, scale));
                prop_assert_eq!(read.is_ok(), wanted.is_ok(), "{} at {}: {:?} {:?}", text, scale, read, wanted);
                prop_assert!(read.is_err() || read == wanted, "{} at {}", text, scale);
            }
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..24), scale in 0_i8..38) {
            let _ = (numeric(&bytes, &mut String::new()), jsonb(&bytes).is_ok());
            let _ = (boolean(&bytes), decimal(&bytes, 38, scale), date(&bytes), time(&bytes), timestamp(&bytes), uuid(&bytes));
        }
    }

    #[test]
    fn special_values_are_those_of_the_text() {
        let sign = |sign: u16| [&[0; 4][..], &sign.to_be_bytes(), &[0; 2]].concat();
        assert_eq!(decimal(&sign(0xC000), 10, 2), value::decimal(b"NaN", 10, 2));
        assert_eq!(decimal(&sign(0xD000), 10, 2), value::decimal(b"Infinity", 10, 2));
        assert_eq!(decimal(&sign(0xF000), 10, 2), value::decimal(b"-Infinity", 10, 2));
        for (bits, wanted) in [(0xC000, "NaN"), (0xD000, "Infinity"), (0xF000, "-Infinity")] {
            let mut text = String::new();
            numeric(&sign(bits), &mut text).unwrap();
            assert_eq!(text, wanted);
        }
        assert_eq!(date(&i32::MAX.to_be_bytes()), value::date(b"infinity"));
        assert_eq!(timestamp(&i64::MIN.to_be_bytes()), value::timestamp(b"-infinity"));
        let days = |text: &[u8]| i64::from(value::date(text).unwrap()) - EPOCH_DAYS;
        let first = days(b"0001-01-01");
        assert_eq!(date(&i32::try_from(first).unwrap().to_be_bytes()), value::date(b"0001-01-01"));
        assert_eq!(date(&i32::try_from(first - 1).unwrap().to_be_bytes()), value::date(b"0001-12-31 BC"));
        assert_eq!(timestamp(&(first * DAY_US).to_be_bytes()), value::timestamp(b"0001-01-01 00:00:00"));
        assert_eq!(timestamp(&(first * DAY_US - 1).to_be_bytes()), value::timestamp(b"0001-12-31 23:59:59.999999 BC"));
        let last = (i64::MAX - 1).to_be_bytes();
        assert_eq!(timestamp(&last), value::timestamp(b"294276-12-31 23:59:59.999999"));
        assert_eq!(date(&i32::try_from(days(b"5874897-12-31")).unwrap().to_be_bytes()), value::date(b"5874897-12-31"));
        assert_eq!(time(&DAY_US.to_be_bytes()), value::time(b"24:00:00"));
        assert_eq!(time(&1_i64.to_be_bytes()), value::time(b"00:00:00.000001"));
        let bytes: Vec<u8> = (0x10..0x20).collect();
        assert_eq!(&uuid(&bytes).unwrap(), b"10111213-1415-1617-1819-1a1b1c1d1e1f");
    }
}
