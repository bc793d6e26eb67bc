//! The fraction that a factor stands for: 0.08333333333333333 is one twelfth that somebody had to write down (domain 2.4).
//!
//! A continued fraction gives the best fractions for each size of denominator, one after the other. The first is taken
//! that has a denominator of at most a million, is nearer than 10^-12, and is nearer than chance brings a fraction of its
//! size: a thousand times nearer than such fractions lie to each other. Without the last condition one in two of the
//! factors that are exact with many decimals would be bent to a fraction nearby. For the same reason a factor of at most
//! eleven decimals always means what it says: the pound of 0.45359237 kg is not 340759/751245 kg.

use arrow::datatypes::i256;

use super::fault::Fault;
use crate::mapping::decimal::{Exact, common_divisor};

/// The largest denominator that is looked for.
const DENOMINATOR_MAX: i128 = 1_000_000;
/// What a factor may be away from its fraction is less than one by this.
const NEARER_THAN: i128 = 1_000_000_000_000;
/// How many times nearer than chance.
const TIMES_NEARER: i128 = 1_000;
/// A decimal with no more places than this cannot be within [`NEARER_THAN`] of a fraction that it was rounded from.
const PLAIN_DECIMALS: i32 = 11;

/// A factor as a fraction of whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fraction {
    pub(super) num: Exact,
    pub(super) den: Exact,
    /// False where no fraction with a denominator up to a million was found and the factor is taken as it is written.
    pub(super) is_simple: bool,
}

impl Fraction {
    /// The fraction of a factor, which is greater than zero.
    pub(super) fn of(factor: Exact) -> Result<Self, Fault> {
        if factor.units == i256::ZERO {
            return Err(Fault::FactorZero);
        }
        if factor.units.is_negative() {
            return Err(Fault::FactorNegative);
        }
        let Exact { units, scale } = factor.trimmed();
        if scale <= 0 {
            return Ok(Self { num: Exact { units, scale }, den: Exact::ONE, is_simple: true });
        }
        let ten = i256::from_i128(10);
        let power = u32::try_from(scale).ok().and_then(|scale| ten.checked_pow(scale)).ok_or(Fault::TooManyDigits)?;
        let common = common_divisor(units, power);
        let (num, den) = (units.wrapping_div(common), power.wrapping_div(common));
        let is_simple = den <= i256::from_i128(DENOMINATOR_MAX);
        if !is_simple
            && scale > PLAIN_DECIMALS
            && let (Some(num), Some(den)) = (num.to_i128(), den.to_i128())
            && let Some((num, den)) = nearby(num, den)
        {
            return Ok(Self::whole(i256::from_i128(num), i256::from_i128(den), true));
        }
        Ok(Self::whole(num, den, is_simple))
    }

    fn whole(num: i256, den: i256, is_simple: bool) -> Self {
        Self { num: Exact { units: num, scale: 0 }, den: Exact { units: den, scale: 0 }, is_simple }
    }
}

/// The fraction that `num / den` was rounded from, if there is one.
fn nearby(num: i128, den: i128) -> Option<(i128, i128)> {
    let wide = i256::from_i128;
    let (mut dividend, mut divisor) = (num, den);
    // Numerators and denominators of the last two convergents.
    let (mut last, mut before) = ((1_i128, 0_i128), (0_i128, 1_i128));
    while divisor != 0 {
        let (term, rest) = (dividend / divisor, dividend % divisor);
        let next = (term.checked_mul(last.0)?.checked_add(before.0)?, term.checked_mul(last.1)?.checked_add(before.1)?);
        if next.1 > DENOMINATOR_MAX {
            return None;
        }
        // What num / den is away from it is rest / (den * next.1).
        let is_near = wide(rest).checked_mul(wide(NEARER_THAN))? < wide(den).checked_mul(wide(next.1))?;
        let is_surely_meant = wide(rest).checked_mul(wide(next.1 * TIMES_NEARER))? <= wide(den);
        if next.0 > 0 && is_near && is_surely_meant {
            return Some(next);
        }
        (dividend, divisor) = (divisor, rest);
        (before, last) = (last, next);
    }
    None
}

/// Fractions of a column of factors, which repeat: there are few units.
#[derive(Default)]
pub(super) struct Fractions(Option<(Exact, Fraction)>);

impl Fractions {
    pub(super) fn of(&mut self, factor: Exact) -> Result<Fraction, Fault> {
        if let Some((known, fraction)) = self.0
            && known == factor
        {
            return Ok(fraction);
        }
        let fraction = Fraction::of(factor)?;
        self.0 = Some((factor, fraction));
        Ok(fraction)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(text: &str) -> Exact {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let units = i256::from_string(&format!("{whole}{decimals}")).expect("digits");
        Exact { units, scale: i32::try_from(decimals.len()).expect("short") }
    }

    fn fraction(text: &str) -> Option<(i128, i128)> {
        let fraction = Fraction::of(exact(text)).expect("a factor");
        let whole = |side: Exact| side.whole().expect("whole");
        fraction.is_simple.then(|| (whole(fraction.num), whole(fraction.den)))
    }

    #[test]
    fn factors_that_were_rounded_are_seen_through() {
        let cases = [
            ("0.08333333333333333", (1, 12)),
            ("0.083333333333333333000", (1, 12)),
            ("0.083333333333", (1, 12)),
            ("0.3333333333333333", (1, 3)),
            ("0.1428571428571428571", (1, 7)),
            ("0.30000000000000004", (3, 10)),
            ("12.000000000000002", (12, 1)),
            ("1.6666666666666667", (5, 3)),
            ("0.000001000001000001", (1, 999_999)),
            ("12", (12, 1)),
            ("0.0254", (127, 5_000)),
        ];
        for (text, wanted) in cases {
            assert_eq!(fraction(text), Some(wanted), "{text}");
        }
    }

    #[test]
    fn factors_that_are_exact_with_many_decimals_stay_what_they_are() {
        // Pound, cubic foot, gallon, cubic inch, ounce, grain, fluid ounce, cubic yard; and what fits no fraction.
        let texts = [
            "0.45359237",
            "0.028316846592",
            "0.003785411784",
            "0.000016387064",
            "0.028349523125",
            "0.00006479891",
            "0.0295735295625",
            "0.764554857984",
            "0.083333333",
            "0.00000000000005",
            "0.1234567890123456789",
        ];
        for text in texts {
            let (written, found) = (exact(text), Fraction::of(exact(text)).expect("a factor"));
            assert!(!found.is_simple, "{text}");
            let scale = u32::try_from(written.scale).expect("positive");
            let power = i256::from_i128(10).checked_pow(scale).expect("small");
            assert_eq!(found.num.units.checked_mul(power), written.units.checked_mul(found.den.units), "{text}");
        }
    }

    #[test]
    fn a_factor_is_greater_than_zero() {
        assert_eq!(Fraction::of(exact("0.00")), Err(Fault::FactorZero));
        assert_eq!(Fraction::of(exact("-1.5")), Err(Fault::FactorNegative));
        assert_eq!(Fraction::of(Exact { units: i256::ONE, scale: 99 }), Err(Fault::TooManyDigits));
    }

    proptest! {
        /// Whatever fraction of units somebody had, 18 decimals of it lead back, and so does the shortest text of the double.
        #[test]
        fn every_fraction_is_found_again(num in 1_i128..1_000_000, den in 1_i128..1_000_000) {
            let common = common_divisor(i256::from_i128(num), i256::from_i128(den)).as_i128();
            let lowest = (num / common, den / common);
            let rounded = (num * 10_i128.pow(18) * 2 + den) / (den * 2);
            prop_assume!(rounded > 0);
            let written = Fraction::of(Exact { units: i256::from_i128(rounded), scale: 18 }).expect("a factor");
            prop_assert_eq!((written.num.whole(), written.den.whole()), (Some(lowest.0), Some(lowest.1)));
            let parts = [num, den].map(|part| f64::from(i32::try_from(part).expect("small")));
            let double = (parts[0] / parts[1]).to_string();
            let decimals = double.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            // Larger doubles have too few decimals, and now and then one has few by chance.
            if num <= 5 * den && decimals > 11 {
                prop_assert_eq!(fraction(&double), Some(lowest), "{}", double);
            }
        }
    }
}
