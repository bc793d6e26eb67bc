//! Why one of our functions has no value for a row: a rule's id and a reason that names the remedy and no value.
//!
//! A fault travels inside DataFusion's error, fails the batch and is found again once halving has left the row alone.

use datafusion_common::DataFusionError;
use thiserror::Error;

use crate::mapping::decimal::Misfit;

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Fault {
    /// A text, or a float that is none.
    #[error("a value is not a number")]
    NotANumber,
    /// Beyond Decimal(28, s).
    #[error("the result has more digits before the point than its type holds")]
    Overflow,
    /// What lies between does not fit 256 bits.
    #[error("the numbers have too many digits together to be converted exactly")]
    TooManyDigits,
    #[error("no unit conversion: the denominator is zero")]
    DenominatorZero,
    #[error("no unit conversion: the denominator is negative")]
    DenominatorNegative,
    #[error("no unit conversion: the numerator is zero")]
    NumeratorZero,
    #[error("no unit conversion: the numerator is negative")]
    NumeratorNegative,
    #[error("no unit conversion: the factor is zero")]
    FactorZero,
    #[error("no unit conversion: the factor is negative")]
    FactorNegative,
    #[error("no rounding mode is called so; write 'half_even', 'half_up', 'up' or 'down'")]
    RoundingUnknown,
    #[error("a quantity is rounded to a whole number of decimals from 0 to 9")]
    DecimalsUnfit,
    #[error("a date is not 8 digits of year, month and day; write NULL for what is none")]
    NotADate,
    #[error("the time is out of the calendar's range; make sentinels NULL with null_if_sentinel() first")]
    TimeOutOfRange,
    #[error("no time zone is called so; write a name of the IANA database such as 'Europe/Berlin'")]
    ZoneUnknown,
    #[error("no valid GTIN: it is 8, 12, 13 or 14 digits with a right check digit; ask gtin_valid() first")]
    NotAGtin,
    #[error("no amount: a currency has a whole number of decimals from 0 to 6")]
    CurrencyDecimalsUnfit,
    #[error("no exchange rate: the rate is zero")]
    RateZero,
    #[error("no exchange rate: the rate is negative")]
    RateNegative,
    #[error("no exchange rate: a ratio factor is not greater than zero; SAP keeps the factors in TCURF")]
    RateFactorUnfit,
    #[error("no exchange rate: the result is not zero, but smaller than 12 decimals can say")]
    RateTooSmall,
}

impl Fault {
    /// The rule that the row breaks.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::Overflow | Self::TooManyDigits => "DQ_OVERFLOW",
            Self::NotAGtin => "DQ_GTIN_CHECK",
            Self::NotANumber | Self::RoundingUnknown | Self::NotADate | Self::ZoneUnknown => "DQ_DOMAIN",
            Self::DenominatorZero
            | Self::DenominatorNegative
            | Self::NumeratorZero
            | Self::NumeratorNegative
            | Self::FactorZero
            | Self::FactorNegative
            | Self::DecimalsUnfit
            | Self::TimeOutOfRange
            | Self::CurrencyDecimalsUnfit
            | Self::RateZero
            | Self::RateNegative
            | Self::RateFactorUnfit
            | Self::RateTooSmall => "DQ_RANGE",
        }
    }

    /// The fault inside an error, where one of our functions is its cause.
    pub(crate) fn of(error: &DataFusionError) -> Option<Self> {
        match error.find_root() {
            DataFusionError::External(cause) => cause.downcast_ref::<Self>().copied(),
            _ => None,
        }
    }
}

impl From<Fault> for DataFusionError {
    fn from(fault: Fault) -> Self {
        Self::External(Box::new(fault))
    }
}

impl From<Misfit> for Fault {
    fn from(misfit: Misfit) -> Self {
        match misfit {
            Misfit::Overflow => Self::Overflow,
            Misfit::NotANumber => Self::NotANumber,
        }
    }
}
