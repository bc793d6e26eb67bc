//! Codes of items and places: check digits and one spelling for one thing (domain 2.3, vector V17).

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::DataType;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::arguments::Arguments;
use super::fault::Fault;
use super::function::{Definition, Gives, Takes};

const CODE: &[(&str, Takes)] = &[("code", Takes::Text)];

pub(super) static DEFINITIONS: [Definition; 4] = [
    Definition {
        name: "gtin_valid",
        takes: CODE,
        required: 1,
        repeats: false,
        gives: Gives::Type(|| DataType::Boolean),
        run: |arguments| valid(arguments, is_gtin),
    },
    Definition {
        name: "gtin14",
        takes: CODE,
        required: 1,
        repeats: false,
        gives: Gives::Type(|| DataType::Utf8),
        run: gtin14,
    },
    Definition {
        name: "gln_valid",
        takes: CODE,
        required: 1,
        repeats: false,
        gives: Gives::Type(|| DataType::Boolean),
        run: |arguments| valid(arguments, is_gln),
    },
    Definition {
        name: "normalize_code",
        takes: CODE,
        required: 1,
        repeats: false,
        gives: Gives::Type(|| DataType::Utf8),
        run: normalize_code,
    },
];

fn is_gtin(code: &str) -> bool {
    matches!(code.len(), 8 | 12 | 13 | 14) && has_check_digit(code)
}

fn is_gln(code: &str) -> bool {
    code.len() == 13 && has_check_digit(code)
}

/// True for digits of which the last is the check digit: weights 1, 3, 1, ... from the right add up to a multiple of ten.
/// Zeros alone would, too, but are what systems write where they have no number.
fn has_check_digit(code: &str) -> bool {
    let (mut sum, mut is_zero) = (0_usize, true);
    for (place, byte) in code.bytes().rev().enumerate() {
        if !byte.is_ascii_digit() {
            return false;
        }
        sum += usize::from(byte - b'0') * if place % 2 == 0 { 1 } else { 3 };
        is_zero &= byte == b'0';
    }
    sum % 10 == 0 && !is_zero
}

fn valid(arguments: &Arguments, is_valid: fn(&str) -> bool) -> Result<ArrayRef, Fault> {
    let code = arguments.text(0);
    arguments.booleans(|row| Ok(is_valid(code(row).trim())))
}

fn gtin14(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let code = arguments.text(0);
    let padded: StringArray = arguments.rows(|row| {
        let code = code(row).trim();
        if is_gtin(code) { Ok(Some(format!("{code:0>14}"))) } else { Err(Fault::NotAGtin) }
    })?;
    Ok(Arc::new(padded))
}

fn normalize_code(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let code = arguments.text(0);
    let normal: StringArray = arguments.rows(|row| Ok(Some(normal(code(row)))))?;
    Ok(Arc::new(normal))
}

fn normal(code: &str) -> Cow<'_, str> {
    let code = code.trim();
    if !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_digit()) {
        let stripped = code.trim_start_matches('0');
        return Cow::Borrowed(if stripped.is_empty() { "0" } else { stripped });
    }
    if is_nfc(code) { Cow::Borrowed(code) } else { Cow::Owned(code.nfc().collect()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn v17_the_check_digit_decides() {
        assert!(is_gtin("6291041500213"));
        assert!(!is_gtin("6291041500214"));
    }

    proptest! {
        /// Of the ten last digits exactly one is right, and zeros in front change nothing.
        #[test]
        fn one_check_digit_in_ten_is_right(body in "[0-9]{11}[1-9]", length in prop::sample::select(vec![8_usize, 12, 13, 14])) {
            let body = format!("0{body}");
            let body = &body[body.len() + 1 - length..];
            let right: Vec<String> = (0..10).map(|digit| format!("{body}{digit}")).filter(|code| is_gtin(code)).collect();
            prop_assert_eq!(right.len(), 1);
            let digits = right[0].chars().rev().map(|digit| digit.to_digit(10).expect("a digit"));
            let sum: u32 = digits.zip([1, 3].into_iter().cycle()).map(|(digit, weight)| digit * weight).sum();
            prop_assert_eq!(sum % 10, 0);
            prop_assert_eq!(is_gln(&right[0]), length == 13);
        }

        #[test]
        fn a_normal_code_is_its_own_normal_form(code in "\\PC{0,12}|[ 0]{0,3}[0-9]{0,6} ?|e\u{301}{0,2}[A-Z]?") {
            let once = normal(&code).into_owned();
            prop_assert_eq!(normal(&once), once.as_str());
            let wrapped = format!(" {code}\t");
            prop_assert_eq!(normal(&wrapped), once.as_str());
        }
    }
}
