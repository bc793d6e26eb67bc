//! Dates that mean no date, and dates without separators (domain 2.4).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Date32Array};
use arrow::compute::nullif;
use arrow::datatypes::DataType;
use chrono::NaiveDate;

use super::arguments::Arguments;
use super::fault::Fault;
use super::function::{Definition, Gives, Takes};

pub(super) static DEFINITIONS: [Definition; 2] = [
    Definition {
        name: "null_if_sentinel",
        takes: &[("value", Takes::DateOrTime), ("sentinel", Takes::Date)],
        required: 1,
        repeats: true,
        gives: Gives::First,
        run: null_if_sentinel,
    },
    Definition {
        name: "parse_date8",
        takes: &[("value", Takes::Digits)],
        required: 1,
        repeats: false,
        gives: Gives::Type(|| DataType::Date32),
        run: parse_date8,
    },
];

/// Days since 1970 that stand for no date: the first of all, where SQL Server's calendar begins (Business Central),
/// D365, and the open end.
const SENTINELS: [i64; 4] = [-719_162, -79_257, -25_567, 2_932_896];

fn null_if_sentinel(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let day = arguments.day(0);
    let others: Vec<_> = (1..arguments.len()).map(|index| arguments.day(index)).collect();
    let is_sentinel: Vec<Option<bool>> = arguments.rows(|row| {
        let day = day(row);
        Ok(Some(SENTINELS.contains(&day) || others.iter().any(|other| other(row) == day)))
    })?;
    // A row with a null argument was not asked for and is null.
    let is_sentinel: BooleanArray = is_sentinel.into_iter().map(|is_one| Some(is_one.unwrap_or(true))).collect();
    let values = arguments.column(0)?;
    Ok(nullif(&values, &is_sentinel).expect("the mask has a row for each value"))
}

fn parse_date8(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let text = arguments.text(0);
    let days: Date32Array = arguments.rows(|row| date8(text(row).trim()))?;
    Ok(Arc::new(days))
}

/// Days since 1970; `None` for what SAP writes where there is no date.
fn date8(text: &str) -> Result<Option<i32>, Fault> {
    if text.bytes().all(|byte| byte == b'0') {
        return Ok(None);
    }
    if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::NotADate);
    }
    let part = |from: usize, upto: usize| text[from..upto].parse::<u32>().map_err(|_| Fault::NotADate);
    let year = i32::try_from(part(0, 4)?).map_err(|_| Fault::NotADate)?;
    let date = NaiveDate::from_ymd_opt(year, part(4, 6)?, part(6, 8)?).filter(|_| year > 0);
    Ok(Some(date.ok_or(Fault::NotADate)?.to_epoch_days()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sentinels_are_the_dates_that_they_are_named_after() {
        let named = [(1, 1, 1), (1753, 1, 1), (1900, 1, 1), (9999, 12, 31)];
        let days = named.map(|(year, month, day)| NaiveDate::from_ymd_opt(year, month, day).expect("a date"));
        assert_eq!(SENTINELS, days.map(|date| i64::from(date.to_epoch_days())));
    }

    #[test]
    fn what_is_no_date_is_said_to_be_none() {
        for text in
            ["2026013", "202601311", "2026-1-1", "20261301", "20260230", "00000101", "2026013\u{661}", "+2026013"]
        {
            assert_eq!(date8(text), Err(Fault::NotADate), "{text}");
        }
    }

    proptest! {
        #[test]
        fn eight_digits_are_the_date_that_they_spell(day in -719_162_i32..=2_932_896) {
            let date = NaiveDate::from_epoch_days(day).expect("in range");
            prop_assert_eq!(date8(&date.format("%Y%m%d").to_string()), Ok(Some(day)));
        }
    }
}
