//! Exact decimals: whole numbers with a scale.

use super::fault::{INEXACT, OUT_OF_RANGE};

/// Most digits of a decimal.
pub(super) const DIGITS_MAX: u8 = 38;

/// What becomes of digits that are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Rounding {
    /// To the nearest, a half to the even digit: what adds up without a bias.
    HalfEven,
    /// To the nearest, a half away from zero.
    HalfUp,
    /// Towards zero.
    Down,
    /// Away from zero.
    Up,
    /// Such a row is refused.
    Exact,
}

impl Rounding {
    pub(super) const WORDS: [(&str, Self); 5] = [
        ("half_even", Self::HalfEven),
        ("half_up", Self::HalfUp),
        ("down", Self::Down),
        ("up", Self::Up),
        ("exact", Self::Exact),
    ];
}

/// The same number with another scale.
///
/// # Errors
/// A fault's word where there is no such number.
pub(super) fn rescale(digits: i128, from: u8, to: u8, rounding: Rounding) -> Result<i128, &'static str> {
    let power = |exponent: u8| 10_i128.checked_pow(u32::from(exponent)).ok_or(OUT_OF_RANGE);
    let limit = power(DIGITS_MAX)?;
    let rescaled = if to >= from {
        digits.checked_mul(power(to - from)?).ok_or(OUT_OF_RANGE)?
    } else {
        let unit = power(from - to)?;
        let (whole, rest) = (digits / unit, digits % unit);
        let twice = rest.unsigned_abs().checked_mul(2).ok_or(OUT_OF_RANGE)?;
        let half = twice.cmp(&unit.unsigned_abs());
        let away = match rounding {
            _ if rest == 0 => false,
            Rounding::HalfEven => half.is_gt() || (half.is_eq() && whole % 2 != 0),
            Rounding::HalfUp => half.is_ge(),
            Rounding::Down => false,
            Rounding::Up => true,
            Rounding::Exact => return Err(INEXACT),
        };
        if away { whole + digits.signum() } else { whole }
    };
    if rescaled.unsigned_abs() < limit.unsigned_abs() { Ok(rescaled) } else { Err(OUT_OF_RANGE) }
}

/// The shortest text of a decimal.
pub(super) fn text(digits: i128, scale: u8) -> String {
    let mut out = Vec::new();
    crate::planning::json::put_decimal(digits, usize::from(scale), &mut out);
    String::from_utf8_lossy(&out).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_half_goes_where_the_rounding_says_on_both_sides_of_zero() {
        for (rounding, up, down, even) in [
            (Rounding::HalfEven, 2, -2, 2),
            (Rounding::HalfUp, 2, -2, 3),
            (Rounding::Down, 1, -1, 2),
            (Rounding::Up, 2, -2, 3),
        ] {
            assert_eq!(rescale(15, 1, 0, rounding), Ok(up), "{rounding:?}");
            assert_eq!(rescale(-15, 1, 0, rounding), Ok(down), "{rounding:?}");
            assert_eq!(rescale(25, 1, 0, rounding), Ok(even), "{rounding:?}");
        }
        assert_eq!(rescale(15, 1, 0, Rounding::Exact), Err(INEXACT));
        assert_eq!(rescale(10, 1, 0, Rounding::Exact), Ok(1));
        assert_eq!(rescale(i128::MAX / 2, 0, 2, Rounding::Exact), Err(OUT_OF_RANGE));
    }

    proptest! {
        #[test]
        fn no_rounding_is_further_off_than_one_unit(digits in -(10_i128.pow(28))..10_i128.pow(28), places in 0_u8..9) {
            for (_, rounding) in Rounding::WORDS {
                if let Ok(rounded) = rescale(digits, 9, places, rounding) {
                    let unit = 10_i128.pow(u32::from(9 - places));
                    let off = (rounded * unit - digits).abs();
                    let most = match rounding {
                        Rounding::HalfEven | Rounding::HalfUp => off * 2 <= unit,
                        Rounding::Exact => off == 0,
                        Rounding::Down | Rounding::Up => off < unit,
                    };
                    prop_assert!(most, "{digits} to {places}: {rounded} by {rounding:?}");
                }
            }
        }
    }
}
