//! Amounts and rates that an ERP does not store as they are meant (domain 2.4).

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, i256};
use syncline_schemas::entity::FieldType;

use super::arguments::Arguments;
use super::fault::Fault;
use super::function::{Definition, Gives, Takes};
use super::units::{places, positive, rounded};
use crate::mapping::decimal::{Exact, Rounding};

pub(super) static DEFINITIONS: [Definition; 3] = [
    Definition {
        name: "sap_amount",
        takes: &[("amount", Takes::Number), ("currency_decimals", Takes::Number)],
        required: 2,
        repeats: false,
        gives: Gives::Type(|| FieldType::Money.arrow()),
        run: sap_amount,
    },
    Definition {
        name: "sap_rate",
        takes: &[("rate", Takes::Number), ("from_factor", Takes::Number), ("to_factor", Takes::Number)],
        required: 3,
        repeats: false,
        gives: Gives::Type(rate),
        run: sap_rate,
    },
    Definition {
        name: "d365_rate",
        takes: &[("rate", Takes::Number)],
        required: 1,
        repeats: false,
        gives: Gives::Type(rate),
        run: d365_rate,
    },
];

/// Decimals that SAP stores every amount with.
const SAP_DECIMALS: i32 = 2;
/// Units of currency that D365 states a rate for.
const D365_UNITS: Exact = Exact { units: i256::from_i128(100), scale: 0 };

fn rate() -> DataType {
    FieldType::Rate.arrow()
}

fn sap_amount(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let (amount, decimals) = (arguments.number(0), arguments.number(1));
    let scale = arguments.scale();
    arguments.decimals(|row| {
        let decimals = places(decimals(row)?, scale, Fault::CurrencyDecimalsUnfit)?;
        let Exact { units, scale: written } = amount(row)?;
        // amount * 10^(2 - decimals)
        Ok(Exact { units, scale: written + decimals - SAP_DECIMALS }.at_scale(scale)?)
    })
}

fn sap_rate(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let (rate, from_factor, to_factor) = (arguments.number(0), arguments.number(1), arguments.number(2));
    let scale = arguments.scale();
    arguments.decimals(|row| {
        let factor = |factor: Exact| positive(factor, Fault::RateFactorUnfit, Fault::RateFactorUnfit);
        let (from, to) = (factor(from_factor(row)?)?, factor(to_factor(row)?)?);
        let rate = rate(row)?;
        if rate.units.is_negative() {
            let rate = Exact { units: rate.units.wrapping_neg(), scale: rate.scale };
            return quoted([to, Exact::ONE], [rate, from], scale);
        }
        let rate = positive(rate, Fault::RateZero, Fault::RateNegative)?;
        quoted([rate, to], [from, Exact::ONE], scale)
    })
}

fn d365_rate(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let (rate, scale) = (arguments.number(0), arguments.scale());
    arguments.decimals(|row| {
        let rate = positive(rate(row)?, Fault::RateZero, Fault::RateNegative)?;
        quoted([rate, Exact::ONE], [D365_UNITS, Exact::ONE], scale)
    })
}

/// A rate, which must not be rounded to nothing.
fn quoted(over: [Exact; 2], under: [Exact; 2], scale: i32) -> Result<i128, Fault> {
    match rounded(over, under, scale, Rounding::HalfEven, scale)? {
        0 => Err(Fault::RateTooSmall),
        rate => Ok(rate),
    }
}
