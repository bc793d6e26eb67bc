//! Exact decimals: any number to a fixed scale with one rounding, half to even, and overflow as a fault (domain 2.4).

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};

/// Why a value is no decimal of the wanted size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// More digits before the point than the field has.
    Overflow,
    /// Not a number at all.
    NotANumber,
}

/// The digits that fields of domain 2.1 have in all.
const PRECISION: u8 = 28;

/// 10^28: no unscaled value reaches it.
const LIMIT: i128 = 10_i128.pow(PRECISION as u32);

/// True for types that [`to_scale`] takes.
pub(crate) fn is_numeric(data_type: &DataType) -> bool {
    data_type.is_numeric() && !matches!(data_type, DataType::Float16) || matches!(data_type, DataType::Utf8)
}

/// Converts numbers or their text to `Decimal128(28, scale)`; misfits become null and are reported with their row.
pub(crate) fn to_scale(array: &ArrayRef, scale: i8, misfits: &mut Vec<(usize, Misfit)>) -> ArrayRef {
    let target = i32::from(scale);
    let convert: Box<dyn Fn(usize) -> Result<i128, Misfit> + '_> = match array.data_type() {
        DataType::Decimal32(_, s) => {
            let (values, s) = (array.as_primitive::<Decimal32Type>().values(), i32::from(*s));
            Box::new(move |i| rescale(i128::from(values[i]), s, target))
        }
        DataType::Decimal64(_, s) => {
            let (values, s) = (array.as_primitive::<Decimal64Type>().values(), i32::from(*s));
            Box::new(move |i| rescale(i128::from(values[i]), s, target))
        }
        DataType::Decimal128(_, s) => {
            let (values, s) = (array.as_primitive::<Decimal128Type>().values(), i32::from(*s));
            Box::new(move |i| rescale(values[i], s, target))
        }
        DataType::Decimal256(_, s) => {
            let (values, s) = (array.as_primitive::<Decimal256Type>().values(), i32::from(*s));
            Box::new(move |i| rescale_wide(values[i], s, target))
        }
        DataType::Int8 => integers::<Int8Type>(array, target),
        DataType::Int16 => integers::<Int16Type>(array, target),
        DataType::Int32 => integers::<Int32Type>(array, target),
        DataType::Int64 => integers::<Int64Type>(array, target),
        DataType::UInt8 => integers::<UInt8Type>(array, target),
        DataType::UInt16 => integers::<UInt16Type>(array, target),
        DataType::UInt32 => integers::<UInt32Type>(array, target),
        DataType::UInt64 => integers::<UInt64Type>(array, target),
        // The shortest text that reads back as the same float is what the source's users see.
        DataType::Float32 => {
            let values = array.as_primitive::<Float32Type>().values();
            Box::new(move |i| parse(&values[i].to_string(), target))
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>().values();
            Box::new(move |i| parse(&values[i].to_string(), target))
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            Box::new(move |i| parse(values.value(i).trim(), target))
        }
        other => unreachable!("{other} was refused when the mapping was compiled"),
    };
    let values = (0..array.len()).map(|i| {
        if array.is_null(i) {
            return None;
        }
        convert(i).map_err(|misfit| misfits.push((i, misfit))).ok()
    });
    let array: Decimal128Array = values.collect();
    std::sync::Arc::new(
        array.with_precision_and_scale(PRECISION, scale).expect("field types have a scale within their precision"),
    )
}

fn integers<'a, T>(array: &'a ArrayRef, scale: i32) -> Box<dyn Fn(usize) -> Result<i128, Misfit> + 'a>
where
    T: arrow::datatypes::ArrowPrimitiveType,
    T::Native: Into<i128>,
{
    let values = array.as_primitive::<T>().values();
    Box::new(move |i| rescale(values[i].into(), 0, scale))
}

/// Refuses what a field's digits cannot hold.
pub(crate) fn within(value: i128) -> Result<i128, Misfit> {
    if value.unsigned_abs() < LIMIT.unsigned_abs() { Ok(value) } else { Err(Misfit::Overflow) }
}

/// 10^exponent, where it fits.
fn power(exponent: i32) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

fn rescale(value: i128, from: i32, to: i32) -> Result<i128, Misfit> {
    if from <= to {
        let factor = power(to - from).ok_or(Misfit::Overflow)?;
        return within(value.checked_mul(factor).ok_or(Misfit::Overflow)?);
    }
    // A divisor beyond i128 leaves nothing of a value that fits i128.
    let Some(divisor) = power(from - to) else { return Ok(0) };
    let (quotient, rest) = (value / divisor, (value % divisor).abs());
    within(half_even(quotient, value.signum(), rest.cmp(&(divisor - rest))))
}

/// Rounds a quotient by how its rest compares with what the rest lacks to the next.
fn half_even(quotient: i128, sign: i128, rest: std::cmp::Ordering) -> i128 {
    match rest {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + sign,
        std::cmp::Ordering::Equal => quotient + if quotient % 2 == 0 { 0 } else { sign },
    }
}

fn rescale_wide(value: i256, from: i32, to: i32) -> Result<i128, Misfit> {
    let ten = i256::from_i128(10);
    if from <= to {
        let factor = power(to - from).map(i256::from_i128).ok_or(Misfit::Overflow)?;
        let scaled = value.checked_mul(factor).and_then(i256::to_i128);
        return within(scaled.ok_or(Misfit::Overflow)?);
    }
    let exponent = u32::try_from(from - to).map_err(|_| Misfit::Overflow)?;
    let Some(divisor) = ten.checked_pow(exponent) else { return Ok(0) };
    let quotient = value.checked_div(divisor).and_then(i256::to_i128).ok_or(Misfit::Overflow)?;
    let rest = value.checked_rem(divisor).map(i256::wrapping_abs).ok_or(Misfit::Overflow)?;
    let sign = if value < i256::ZERO { -1 } else { 1 };
    within(half_even(quotient, sign, rest.cmp(&divisor.wrapping_sub(rest))))
}

/// Reads `[+-]digits[.digits][e[+-]digits]`.
fn parse(text: &str, scale: i32) -> Result<i128, Misfit> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| Misfit::NotANumber)?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mut value, mut fraction, mut point, mut seen) = (i256::ZERO, 0_i32, false, false);
    for &byte in digits {
        match byte {
            b'0'..=b'9' => {
                let digit = i256::from_i128(i128::from(byte - b'0'));
                let grown = value.checked_mul(i256::from_i128(10)).and_then(|value| value.checked_add(digit));
                value = grown.ok_or(Misfit::Overflow)?;
                fraction += i32::from(point);
                seen = true;
            }
            b'.' if !point => point = true,
            _ => return Err(Misfit::NotANumber),
        }
    }
    if !seen {
        return Err(Misfit::NotANumber);
    }
    let value = if negative { value.wrapping_neg() } else { value };
    rescale_wide(value, fraction.saturating_sub(exponent), scale)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tie_goes_to_the_even_neighbour() {
        let ties = [("0.0000000005", 0), ("0.0000000015", 2), ("-0.0000000025", -2), ("0.00000000050001", 1)];
        for (text, wanted) in ties {
            assert_eq!(parse(text, 9), Ok(wanted), "{text}");
        }
        assert_eq!(rescale(25, 1, 0), Ok(2));
        assert_eq!(rescale(35, 1, 0), Ok(4));
    }

    #[test]
    fn what_does_not_fit_is_reported_and_never_wrapped() {
        assert_eq!(parse("1e20", 9), Err(Misfit::Overflow));
        assert_eq!(parse("1e18", 9), Ok(10_i128.pow(27)));
        assert_eq!(parse("NaN", 9), Err(Misfit::NotANumber));
        assert_eq!(parse("", 9), Err(Misfit::NotANumber));
        assert_eq!(parse("1.2.3", 9), Err(Misfit::NotANumber));
        let mut misfits = Vec::new();
        let array: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.1), None, Some(f64::INFINITY)]));
        let converted = to_scale(&array, 9, &mut misfits);
        assert_eq!(converted.as_primitive::<Decimal128Type>().value(0), 100_000_000);
        assert_eq!(misfits, vec![(2, Misfit::NotANumber)]);
    }

    proptest! {
        #[test]
        fn every_way_in_gives_the_same_decimal(value in -10_i64.pow(17)..10_i64.pow(17), scale in 0_i8..16) {
            let decimal: ArrayRef = Arc::new(
                Decimal128Array::from(vec![i128::from(value)]).with_precision_and_scale(30, scale).expect("valid"),
            );
            let text: ArrayRef = Arc::new(StringArray::from(vec![format!("{value}e-{scale}")]));
            let mut misfits = Vec::new();
            let left = to_scale(&decimal, 9, &mut misfits);
            let right = to_scale(&text, 9, &mut misfits);
            prop_assert!(misfits.is_empty());
            prop_assert_eq!(&left, &right);
        }
    }
}
