//! Quantities from one unit to another: exact until the one rounding at the end (domain 2.4, vectors V3 to V5 and V16).

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, i256};
use syncline_schemas::entity::FieldType;

use super::arguments::Arguments;
use super::fault::Fault;
use super::fraction::{Fraction, Fractions};
use super::function::{Definition, Gives, Takes};
use crate::mapping::decimal::{self, Exact, Rounding};

const BY_FACTOR: &[(&str, Takes)] = &[("qty", Takes::Number), ("factor", Takes::Number)];
const FACTOR: &[(&str, Takes)] = &[("factor", Takes::Number)];

pub(super) static DEFINITIONS: [Definition; 6] = [
    Definition {
        name: "convert",
        takes: &[
            ("qty", Takes::Number),
            ("num", Takes::Number),
            ("den", Takes::Number),
            ("mode", Takes::Rounding),
            ("decimals", Takes::Number),
        ],
        required: 3,
        repeats: false,
        gives: Gives::Type(quantity),
        run: convert,
    },
    Definition {
        name: "multiply_exact",
        takes: BY_FACTOR,
        required: 2,
        repeats: false,
        gives: Gives::Type(quantity),
        run: |arguments| by_factor(arguments, |factor| (factor.num, factor.den)),
    },
    Definition {
        name: "divide_exact",
        takes: BY_FACTOR,
        required: 2,
        repeats: false,
        gives: Gives::Type(quantity),
        run: |arguments| by_factor(arguments, |factor| (factor.den, factor.num)),
    },
    Definition {
        name: "factor_num",
        takes: FACTOR,
        required: 1,
        repeats: false,
        gives: Gives::Type(quantity),
        run: |arguments| side(arguments, |factor| factor.num),
    },
    Definition {
        name: "factor_den",
        takes: FACTOR,
        required: 1,
        repeats: false,
        gives: Gives::Type(quantity),
        run: |arguments| side(arguments, |factor| factor.den),
    },
    Definition {
        name: "factor_is_fraction",
        takes: FACTOR,
        required: 1,
        repeats: false,
        gives: Gives::Type(|| DataType::Boolean),
        run: factor_is_fraction,
    },
];

fn quantity() -> DataType {
    FieldType::Quantity.arrow()
}

/// The rounding mode of a name.
pub(super) fn rounding(name: &str) -> Result<Rounding, Fault> {
    match name {
        "half_even" => Ok(Rounding::HalfEven),
        "half_up" => Ok(Rounding::HalfUp),
        "up" => Ok(Rounding::Up),
        "down" => Ok(Rounding::Down),
        _ => Err(Fault::RoundingUnknown),
    }
}

/// A ratio at some decimals, in the digits that a field of `scale` holds.
pub(super) fn rounded(
    over: [Exact; 2],
    under: [Exact; 2],
    decimals: i32,
    mode: Rounding,
    scale: i32,
) -> Result<i128, Fault> {
    let units = decimal::ratio(over, under, decimals, mode).ok_or(Fault::TooManyDigits)?;
    Ok(Exact { units, scale: decimals }.at_scale(scale)?)
}

/// Refuses numbers that are not greater than zero.
pub(super) fn positive(number: Exact, if_zero: Fault, if_negative: Fault) -> Result<Exact, Fault> {
    if number.units == i256::ZERO {
        Err(if_zero)
    } else if number.units.is_negative() {
        Err(if_negative)
    } else {
        Ok(number)
    }
}

/// A whole number of decimals, up to a limit.
pub(super) fn places(number: Exact, max: i32, otherwise: Fault) -> Result<i32, Fault> {
    let places = number.whole().and_then(|places| i32::try_from(places).ok());
    places.filter(|places| (0..=max).contains(places)).ok_or(otherwise)
}

fn convert(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let (qty, num, den) = (arguments.number(0), arguments.number(1), arguments.number(2));
    let mode = (arguments.len() > 3).then(|| arguments.named(3, rounding));
    let decimals = (arguments.len() > 4).then(|| arguments.number(4));
    let scale = arguments.scale();
    arguments.decimals(|row| {
        let num = positive(num(row)?, Fault::NumeratorZero, Fault::NumeratorNegative)?;
        let den = positive(den(row)?, Fault::DenominatorZero, Fault::DenominatorNegative)?;
        let mode = mode.as_ref().map_or(Ok(Rounding::HalfEven), |mode| mode(row))?;
        let decimals = match &decimals {
            Some(decimals) => places(decimals(row)?, scale, Fault::DecimalsUnfit)?,
            None => scale,
        };
        rounded([qty(row)?, num], [den, Exact::ONE], decimals, mode, scale)
    })
}

/// Multiplies with the first of two sides of a factor's fraction and divides by the second.
fn by_factor(arguments: &Arguments, sides: fn(Fraction) -> (Exact, Exact)) -> Result<ArrayRef, Fault> {
    let (qty, factor) = (arguments.number(0), arguments.number(1));
    let (mut fractions, scale) = (Fractions::default(), arguments.scale());
    arguments.decimals(|row| {
        let (over, under) = sides(fractions.of(factor(row)?)?);
        rounded([qty(row)?, over], [under, Exact::ONE], scale, Rounding::HalfEven, scale)
    })
}

fn side(arguments: &Arguments, side: fn(Fraction) -> Exact) -> Result<ArrayRef, Fault> {
    let factor = arguments.number(0);
    let (mut fractions, scale) = (Fractions::default(), arguments.scale());
    arguments.decimals(|row| Ok(side(fractions.of(factor(row)?)?).at_scale(scale)?))
}

fn factor_is_fraction(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let factor = arguments.number(0);
    let mut fractions = Fractions::default();
    arguments.booleans(|row| Ok(fractions.of(factor(row)?)?.is_simple))
}
