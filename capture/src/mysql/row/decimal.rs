//! Exact decimals as the server packs them: nine digits in four bytes, on both sides of the point, the highest first.
//!
//! The highest bit is set for numbers that are not negative, and all bytes of negative ones are inverted, so that bytes
//! compare as numbers do.

use crate::value::ValueFault;

/// Digits that a group holds.
const GROUP: u8 = 9;
/// Bytes of a group of fewer digits.
const BYTES: [usize; 9] = [0, 1, 1, 2, 2, 3, 3, 4, 4];
/// What a group of so many digits counts up to.
const POWERS: [u32; 10] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];
/// Digits and, behind the point, digits that a decimal can have.
const PRECISION_MAX: u8 = 65;
const SCALE_MAX: u8 = 38;
/// Digits that an integer of 128 bits holds, whatever they are.
const UNSCALED_MAX: u8 = 38;

const FAULT: ValueFault = ValueFault::Malformed("a decimal has another form");

/// Digits before the point and behind it.
#[derive(Debug, Clone, Copy)]
struct Digits {
    whole: u8,
    fraction: u8,
}

fn digits(precision: u8, scale: u8) -> Option<Digits> {
    let is_decimal = (1..=PRECISION_MAX).contains(&precision) && scale <= SCALE_MAX && scale <= precision;
    is_decimal.then(|| Digits { whole: precision - scale, fraction: scale })
}

fn len_of(digits: u8) -> usize {
    usize::from(digits / GROUP) * 4 + BYTES[usize::from(digits % GROUP)]
}

/// Bytes of a decimal; none where there is no such decimal.
pub(super) fn len(precision: u8, scale: u8) -> Option<usize> {
    digits(precision, scale).map(|it| len_of(it.whole) + len_of(it.fraction))
}

/// Calls `take` with each group of digits, how many they are, and whether they stand behind the point; gives whether the
/// number is negative.
fn each_group(
    bytes: &[u8],
    precision: u8,
    scale: u8,
    mut take: impl FnMut(u32, u8, bool) -> Result<(), ValueFault>,
) -> Result<bool, ValueFault> {
    let Digits { whole, fraction } = digits(precision, scale).ok_or(FAULT)?;
    if bytes.len() != len_of(whole) + len_of(fraction) {
        return Err(FAULT);
    }
    let is_negative = bytes.first().is_some_and(|first| first & 0x80 == 0);
    let invert = if is_negative { 0xff } else { 0 };
    let mut at = 0;
    let mut group = |count: u8, is_fraction: bool| {
        let len = len_of(count);
        let mut value = 0_u32;
        for (i, byte) in bytes[at..at + len].iter().enumerate() {
            let sign = if at + i == 0 { 0x80 } else { 0 };
            value = value << 8 | u32::from(byte ^ sign ^ invert);
        }
        at += len;
        if value >= POWERS[usize::from(count)] { Err(FAULT) } else { take(value, count, is_fraction) }
    };
    if whole % GROUP > 0 {
        group(whole % GROUP, false)?;
    }
    (0..whole / GROUP).try_for_each(|_| group(GROUP, false))?;
    (0..fraction / GROUP).try_for_each(|_| group(GROUP, true))?;
    if fraction % GROUP > 0 {
        group(fraction % GROUP, true)?;
    }
    Ok(is_negative)
}

/// A decimal of at most 38 digits as the integer that it is at its scale.
#[inline]
pub(super) fn unscaled(bytes: &[u8], precision: u8, scale: u8) -> Result<i128, ValueFault> {
    if precision > UNSCALED_MAX {
        return Err(FAULT);
    }
    let mut value = 0_i128;
    let is_negative = each_group(bytes, precision, scale, |group, count, _| {
        value = value * i128::from(POWERS[usize::from(count)]) + i128::from(group);
        Ok(())
    })?;
    Ok(if is_negative { -value } else { value })
}

/// As [`unscaled`], of a decimal as the server writes it.
#[inline]
pub(super) fn unscaled_of_text(text: &[u8], scale: u8) -> Result<i128, ValueFault> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    // Nine digits at a time: multiplying 128 bits for each of them would cost more than all the rest.
    let (mut value, mut group, mut count) = (0_i128, 0_u32, 0);
    let mut behind = None;
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                (group, count) = (group * 10 + u32::from(byte - b'0'), count + 1);
                behind = behind.map(|behind: u8| behind + 1);
                if count == GROUP {
                    value = with_group(value, group, count)?;
                    (group, count) = (0, 0);
                }
            }
            b'.' if behind.is_none() => behind = Some(0),
            _ => return Err(FAULT),
        }
    }
    // The server writes all digits of the type behind the point.
    if digits.is_empty() || behind.unwrap_or(0) != scale {
        return Err(FAULT);
    }
    let value = with_group(value, group, count)?;
    Ok(if is_negative { -value } else { value })
}

/// Puts so many more digits behind those of a number.
#[inline]
fn with_group(value: i128, group: u32, count: u8) -> Result<i128, ValueFault> {
    let shifted = value.checked_mul(i128::from(POWERS[usize::from(count)]));
    shifted.and_then(|shifted| shifted.checked_add(i128::from(group))).ok_or(FAULT)
}

/// A decimal as the server writes it.
pub(super) fn put_text(bytes: &[u8], precision: u8, scale: u8, out: &mut String) -> Result<(), ValueFault> {
    use std::fmt::Write;
    let (mut whole, mut fraction) = (String::new(), String::new());
    let is_negative = each_group(bytes, precision, scale, |group, count, is_fraction| {
        let part = if is_fraction { &mut fraction } else { &mut whole };
        write!(part, "{group:0width$}", width = usize::from(count)).map_err(|_| FAULT)
    })?;
    let whole = whole.trim_start_matches('0');
    let is_zero = whole.is_empty() && fraction.bytes().all(|digit| digit == b'0');
    out.push_str(if is_negative && !is_zero { "-" } else { "" });
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(&fraction);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the server packs digits, written independently: from texts of digits.
    pub(crate) fn pack(text: &str, precision: u8, scale: u8) -> Vec<u8> {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole = format!("{whole:0>width$}", width = usize::from(precision - scale));
        let fraction = format!("{fraction:0<width$}", width = usize::from(scale));
        let mut out = Vec::new();
        let mut put = |digits: &str| {
            let len = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4][digits.len()];
            if len > 0 {
                out.extend_from_slice(&digits.parse::<u32>().unwrap().to_be_bytes()[4 - len..]);
            }
        };
        let whole = &whole[whole.len() - usize::from(precision - scale)..];
        put(&whole[..whole.len() % 9]);
        whole.as_bytes()[whole.len() % 9..].chunks(9).for_each(|part| put(std::str::from_utf8(part).unwrap()));
        fraction.as_bytes().chunks(9).for_each(|part| put(std::str::from_utf8(part).unwrap()));
        out[0] ^= 0x80;
        if is_negative {
            out.iter_mut().for_each(|byte| *byte ^= 0xff);
        }
        out
    }

    #[test]
    fn decimals_of_the_manual_read_back() {
        let packed = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        assert_eq!(unscaled(&packed, 14, 4), Ok(12_345_678_901_234));
        let mut text = String::new();
        let inverted: Vec<u8> = packed.iter().map(|byte| byte ^ 0xff).collect();
        put_text(&inverted, 14, 4, &mut text).unwrap();
        assert_eq!(text, "-1234567890.1234");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_digit_of_the_longest_decimal_is_kept(
            digits in "[0-9]{65}", precision in 1_u8..=65, scale in 0_u8..=38, is_negative in any::<bool>(),
        ) {
            let scale = scale.min(precision);
            let (whole, fraction) = digits[..usize::from(precision)].split_at(usize::from(precision - scale));
            let plain = match whole.trim_start_matches('0') { "" => "0", whole => whole };
            let dot = if scale > 0 { "." } else { "" };
            let is_zero = digits[..usize::from(precision)].bytes().all(|digit| digit == b'0');
            let wanted = format!("{}{plain}{dot}{fraction}", if is_negative && !is_zero { "-" } else { "" });
            let packed = pack(&wanted, precision, scale);
            prop_assert_eq!(len(precision, scale), Some(packed.len()));
            let mut text = String::new();
            put_text(&packed, precision, scale, &mut text).unwrap();
            prop_assert_eq!(&text, &wanted);
            if precision <= 38 {
                prop_assert_eq!(unscaled(&packed, precision, scale).unwrap(), wanted.replace('.', "").parse::<i128>().unwrap());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), precision in any::<u8>(), scale in any::<u8>()) {
            let _ = unscaled(&bytes, precision, scale);
            let _ = put_text(&bytes, precision, scale, &mut String::new());
            if let Some(len) = len(precision.clamp(1, 65), scale.min(38)) {
                let _ = unscaled(&vec![0x5a; len], precision.clamp(1, 65), scale.min(38));
            }
        }
    }
}
