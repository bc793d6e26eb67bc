//! Exact decimals: any number to a fixed scale, and quotients of numbers, each with one rounding and with overflow as a
//! fault (domain 2.4). What a row holds is read as [`Exact`] and stays so until that rounding; no binary float takes part.

use std::cmp::Ordering;

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

/// What exponents of texts are cut to, so that sums of scales are small numbers: 256 bits hold 76 digits.
const EXPONENT_MAX: i32 = 1_000;

/// True for types that [`to_scale`] takes.
pub(crate) fn is_numeric(data_type: &DataType) -> bool {
    data_type.is_numeric() && !matches!(data_type, DataType::Float16) || matches!(data_type, DataType::Utf8)
}

/// A number as it is written: `units / 10^scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exact {
    pub(crate) units: i256,
    pub(crate) scale: i32,
}

/// Where a quotient lies that is none of the wanted decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// The nearer one, of two equally near the even one.
    HalfEven,
    /// The nearer one, of two equally near the one away from zero.
    HalfUp,
    /// The one away from zero.
    Up,
    /// The one towards zero.
    Down,
}

impl Rounding {
    /// True where a quotient cut off towards zero becomes the next away from it; `to_next` compares what was cut off with
    /// what it lacks to the next.
    fn moves_on(self, is_odd: bool, has_rest: bool, to_next: Ordering) -> bool {
        match self {
            Self::HalfEven => to_next == Ordering::Greater || to_next == Ordering::Equal && is_odd,
            Self::HalfUp => to_next != Ordering::Less,
            Self::Up => has_rest,
            Self::Down => false,
        }
    }
}

impl Exact {
    pub(crate) const ONE: Self = Self { units: i256::ONE, scale: 0 };

    fn new(units: i128, scale: i32) -> Self {
        Self { units: i256::from_i128(units), scale }
    }

    /// The digits at a scale, within those of a field; rounded half to even.
    pub(crate) fn at_scale(self, scale: i32) -> Result<i128, Misfit> {
        match self.units.to_i128() {
            Some(units) => rescale(units, self.scale, scale),
            None => rescale_wide(self.units, self.scale, scale),
        }
    }

    /// The number, where it is a whole one within the digits of a field.
    pub(crate) fn whole(self) -> Option<i128> {
        let Self { units, scale } = self.trimmed();
        if scale > 0 { None } else { Self { units, scale }.at_scale(0).ok() }
    }

    /// The same number without zeros at its end.
    pub(crate) fn trimmed(self) -> Self {
        let (ten, mut trimmed) = (i256::from_i128(10), self);
        if trimmed.units == i256::ZERO {
            return Self { units: i256::ZERO, scale: 0 };
        }
        while trimmed.units.checked_rem(ten) == Some(i256::ZERO) {
            trimmed.units = trimmed.units.wrapping_div(ten);
            trimmed.scale -= 1;
        }
        trimmed
    }
}

/// Reads the numbers of an array of a type that [`is_numeric`] takes; the row must not be null.
pub(crate) fn reader(array: &ArrayRef) -> Box<dyn Fn(usize) -> Result<Exact, Misfit> + '_> {
    match array.data_type() {
        DataType::Decimal32(_, s) => {
            let (values, s) = (array.as_primitive::<Decimal32Type>().values(), i32::from(*s));
            Box::new(move |i| Ok(Exact::new(i128::from(values[i]), s)))
        }
        DataType::Decimal64(_, s) => {
            let (values, s) = (array.as_primitive::<Decimal64Type>().values(), i32::from(*s));
            Box::new(move |i| Ok(Exact::new(i128::from(values[i]), s)))
        }
        DataType::Decimal128(_, s) => {
            let (values, s) = (array.as_primitive::<Decimal128Type>().values(), i32::from(*s));
            Box::new(move |i| Ok(Exact::new(values[i], s)))
        }
        DataType::Decimal256(_, s) => {
            let (values, s) = (array.as_primitive::<Decimal256Type>().values(), i32::from(*s));
            Box::new(move |i| Ok(Exact { units: values[i], scale: s }))
        }
        DataType::Int8 => integers::<Int8Type>(array),
        DataType::Int16 => integers::<Int16Type>(array),
        DataType::Int32 => integers::<Int32Type>(array),
        DataType::Int64 => integers::<Int64Type>(array),
        DataType::UInt8 => integers::<UInt8Type>(array),
        DataType::UInt16 => integers::<UInt16Type>(array),
        DataType::UInt32 => integers::<UInt32Type>(array),
        DataType::UInt64 => integers::<UInt64Type>(array),
        // The shortest text that reads back as the same float is what the source's users see.
        DataType::Float32 => {
            let values = array.as_primitive::<Float32Type>().values();
            Box::new(move |i| parse(&values[i].to_string()))
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>().values();
            Box::new(move |i| parse(&values[i].to_string()))
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            Box::new(move |i| parse(values.value(i).trim()))
        }
        other => unreachable!("{other} was refused when the mapping was compiled"),
    }
}

fn integers<T>(array: &ArrayRef) -> Box<dyn Fn(usize) -> Result<Exact, Misfit> + '_>
where
    T: arrow::datatypes::ArrowPrimitiveType,
    T::Native: Into<i128>,
{
    let values = array.as_primitive::<T>().values();
    Box::new(move |i| Ok(Exact::new(values[i].into(), 0)))
}

/// Converts numbers or their text to `Decimal128(28, scale)`; misfits become null and are reported with their row.
pub(crate) fn to_scale(array: &ArrayRef, scale: i8, misfits: &mut Vec<(usize, Misfit)>) -> ArrayRef {
    let target = i32::from(scale);
    let values = if let DataType::Decimal128(_, from) = array.data_type() {
        // What most columns are, without a detour over 256 bits.
        let (values, from) = (array.as_primitive::<Decimal128Type>().values(), i32::from(*from));
        collect(array, misfits, |i| rescale(values[i], from, target))
    } else {
        let read = reader(array);
        collect(array, misfits, |i| read(i)?.at_scale(target))
    };
    std::sync::Arc::new(sized(values, scale))
}

fn collect(
    array: &ArrayRef,
    misfits: &mut Vec<(usize, Misfit)>,
    value: impl Fn(usize) -> Result<i128, Misfit>,
) -> Decimal128Array {
    let values = (0..array.len()).map(|i| {
        if array.is_null(i) {
            return None;
        }
        value(i).map_err(|misfit| misfits.push((i, misfit))).ok()
    });
    values.collect()
}

/// Unscaled values as a column of a field's type.
pub(crate) fn sized(values: Decimal128Array, scale: i8) -> Decimal128Array {
    values.with_precision_and_scale(PRECISION, scale).expect("field types have a scale within their precision")
}

/// Refuses what a field's digits cannot hold.
pub(crate) fn within(value: i128) -> Result<i128, Misfit> {
    if value.unsigned_abs() < LIMIT.unsigned_abs() { Ok(value) } else { Err(Misfit::Overflow) }
}

/// 10^exponent, where it fits.
fn power(exponent: i32) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// 10^exponent, where it fits.
fn power_wide(exponent: i32) -> Option<i256> {
    i256::from_i128(10).checked_pow(u32::try_from(exponent).ok()?)
}

fn rescale(value: i128, from: i32, to: i32) -> Result<i128, Misfit> {
    if value == 0 {
        return Ok(0);
    }
    let shift = to.checked_sub(from).ok_or(Misfit::Overflow)?;
    if shift >= 0 {
        let factor = power(shift).ok_or(Misfit::Overflow)?;
        return within(value.checked_mul(factor).ok_or(Misfit::Overflow)?);
    }
    // A divisor beyond i128 leaves nothing of a value that fits i128.
    let Some(divisor) = power(-shift) else { return Ok(0) };
    within(divide(value, divisor, Rounding::HalfEven))
}

fn rescale_wide(value: i256, from: i32, to: i32) -> Result<i128, Misfit> {
    let shift = to.checked_sub(from).ok_or(Misfit::Overflow)?;
    if shift >= 0 {
        let scaled = power_wide(shift).and_then(|factor| value.checked_mul(factor)).and_then(i256::to_i128);
        return within(scaled.ok_or(Misfit::Overflow)?);
    }
    let Some(divisor) = power_wide(-shift) else { return Ok(0) };
    within(divide_wide(value, divisor, Rounding::HalfEven).to_i128().ok_or(Misfit::Overflow)?)
}

/// The product of two numbers divided by that of two others, in units of 10^-scale, rounded once. The divisors are greater
/// than zero. `None` where what lies between does not fit 256 bits even after everything common is taken out.
pub(crate) fn ratio(over: [Exact; 2], under: [Exact; 2], scale: i32, rounding: Rounding) -> Option<i256> {
    if let Some(quotient) = quotient(over, under, scale, rounding) {
        return Some(i256::from_i128(quotient));
    }
    quotient_wide(over, under, scale, rounding).or_else(|| {
        let (mut over, mut under) = (over.map(Exact::trimmed), under.map(Exact::trimmed));
        for left in &mut over {
            for right in &mut under {
                let common = common_divisor(left.units, right.units);
                left.units = left.units.checked_div(common)?;
                right.units = right.units.checked_div(common)?;
            }
        }
        quotient_wide(over, under, scale, rounding)
    })
}

/// The ratio where 128 bits do, which are several times faster.
fn quotient(over: [Exact; 2], under: [Exact; 2], scale: i32, rounding: Rounding) -> Option<i128> {
    let product = |[one, other]: [Exact; 2]| one.units.to_i128()?.checked_mul(other.units.to_i128()?);
    let shift = scale + under[0].scale + under[1].scale - over[0].scale - over[1].scale;
    let (numerator, denominator) = (product(over)?, product(under)?);
    Some(if shift >= 0 {
        divide(numerator.checked_mul(power(shift)?)?, denominator, rounding)
    } else {
        divide(numerator, denominator.checked_mul(power(-shift)?)?, rounding)
    })
}

fn quotient_wide(over: [Exact; 2], under: [Exact; 2], scale: i32, rounding: Rounding) -> Option<i256> {
    let product = |[one, other]: [Exact; 2]| one.units.checked_mul(other.units);
    let shift = scale + under[0].scale + under[1].scale - over[0].scale - over[1].scale;
    let (numerator, denominator) = (product(over)?, product(under)?);
    Some(if shift >= 0 {
        divide_wide(numerator.checked_mul(power_wide(shift)?)?, denominator, rounding)
    } else {
        divide_wide(numerator, denominator.checked_mul(power_wide(-shift)?)?, rounding)
    })
}

/// The greatest number that divides both; 1 for zeros.
pub(crate) fn common_divisor(one: i256, other: i256) -> i256 {
    let (mut one, mut other) = (one.wrapping_abs(), other.wrapping_abs());
    while other != i256::ZERO {
        (one, other) = (other, one.wrapping_rem(other));
    }
    if one == i256::ZERO { i256::ONE } else { one }
}

/// Divides by a number greater than zero and rounds.
fn divide(numerator: i128, denominator: i128, rounding: Rounding) -> i128 {
    let quotient = numerator / denominator;
    // Cheaper than a second division.
    let rest = (numerator - quotient * denominator).abs();
    let to_next = rest.cmp(&(denominator - rest));
    if rounding.moves_on(quotient % 2 != 0, rest != 0, to_next) { quotient + numerator.signum() } else { quotient }
}

/// The same in 256 bits.
fn divide_wide(numerator: i256, denominator: i256, rounding: Rounding) -> i256 {
    let quotient = numerator.wrapping_div(denominator);
    let rest = numerator.wrapping_sub(quotient.wrapping_mul(denominator)).wrapping_abs();
    let to_next = rest.cmp(&denominator.wrapping_sub(rest));
    let is_odd = quotient.wrapping_rem(i256::from_i128(2)) != i256::ZERO;
    if rounding.moves_on(is_odd, rest != i256::ZERO, to_next) {
        quotient.wrapping_add(numerator.signum())
    } else {
        quotient
    }
}

/// Reads `[+-]digits[.digits][e[+-]digits]`.
fn parse(text: &str) -> Result<Exact, Misfit> {
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
    // Beyond a thousand every number is zero or too large, however much further the exponent goes.
    let scale = fraction.saturating_sub(exponent).clamp(-EXPONENT_MAX, EXPONENT_MAX);
    Ok(Exact { units: if negative { value.wrapping_neg() } else { value }, scale })
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
            assert_eq!(parse(text).and_then(|exact| exact.at_scale(9)), Ok(wanted), "{text}");
        }
        assert_eq!(rescale(25, 1, 0), Ok(2));
        assert_eq!(rescale(35, 1, 0), Ok(4));
    }

    #[test]
    fn what_does_not_fit_is_reported_and_never_wrapped() {
        let cases = [
            ("1e20", Err(Misfit::Overflow)),
            ("1e18", Ok(10_i128.pow(27))),
            ("1000e2147483647", Err(Misfit::Overflow)),
            ("1000e-2147483647", Ok(0)),
            ("0e999", Ok(0)),
            ("NaN", Err(Misfit::NotANumber)),
            ("", Err(Misfit::NotANumber)),
            ("1.2.3", Err(Misfit::NotANumber)),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse(text).and_then(|exact| exact.at_scale(9)), wanted, "{text}");
        }
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
