//! The functions as a mapping meets them: every example of `docs/functions.md`, columns beside constants, types, and an
//! oracle of plain integers.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Decimal128Type, Field, Schema, i256};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion_common::DFSchema;
use datafusion_functions::all_default_functions;
use proptest::prelude::*;
use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::table::{Column, TableSchema};

use super::{Fault, all, definitions};
use crate::mapping::Mapping;
use crate::mapping::compile::{Compiled, FieldSource};
use crate::mapping::expression::Resolved;

const PAGE: &str = include_str!("../../../docs/functions.md");

/// An expression over named columns.
fn evaluate(text: &str, columns: &[(&str, ArrayRef)]) -> Result<ArrayRef, String> {
    let rows = columns.first().map_or(1, |(_, values)| values.len());
    let fields: Vec<Field> =
        columns.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let values = columns.iter().map(|(_, values)| Arc::clone(values)).collect();
    let batch =
        RecordBatch::try_new_with_options(Arc::clone(&schema), values, &options).expect("columns of one length");
    let scope = DFSchema::try_from(schema).expect("distinct names");
    let refused = |refused: crate::mapping::expression::Refused| format!("refused: {}", refused.reason);
    let bound = Resolved::from_text(text, &scope).map_err(refused)?.bind(&scope).map_err(refused)?;
    let promised = bound.data_type(batch.schema_ref()).expect("typed");
    match bound.evaluate(&batch).and_then(|value| value.into_array(rows)) {
        Ok(values) => {
            assert_eq!(*values.data_type(), promised, "{text}");
            Ok(values)
        }
        Err(error) => {
            let fault = Fault::of(&error).unwrap_or_else(|| panic!("{text}: {error}"));
            Err(format!("held, {}: {fault}", fault.rule()))
        }
    }
}

/// The same row by row as text.
fn shown(text: &str, columns: &[(&str, ArrayRef)]) -> Vec<String> {
    let values = evaluate(text, columns).unwrap_or_else(|error| panic!("{text}: {error}"));
    let formatter = ArrayFormatter::try_new(&values, &FormatOptions::new().with_null("NULL")).expect("printable");
    (0..values.len()).map(|row| formatter.value(row).to_string()).collect()
}

fn column<T>(values: T) -> ArrayRef
where
    T: Array + 'static,
{
    Arc::new(values)
}

#[test]
fn every_example_of_the_page_is_true() {
    let blocks = PAGE.split("```sql\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    let lines: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(lines.len() > 70, "the page shows its examples in another way now; look for them anew");
    for line in lines {
        let (expression, wanted) = line.split_once(" -- ").unwrap_or_else(|| panic!("{line}: no result"));
        let wanted = wanted.trim();
        match evaluate(expression.trim(), &[]) {
            Ok(_) => assert_eq!(shown(expression.trim(), &[]), [wanted], "{line}"),
            // A refusal begins with how the function is called.
            Err(reason) => match wanted.strip_prefix("refused: ") {
                Some(wanted) => {
                    assert!(reason.starts_with("refused: ") && reason.ends_with(wanted), "{line}\n{reason}")
                }
                None => assert_eq!(reason, wanted, "{line}"),
            },
        }
    }
}

#[test]
fn every_function_is_on_the_page_and_nothing_else_is() {
    let mut headings: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut usages: Vec<String> = definitions().map(|definition| format!("`{}`", definition.usage())).collect();
    headings.sort_unstable();
    usages.sort_unstable();
    assert_eq!(headings, usages, "docs/functions.md: one heading per function, as it is called");
    let table: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| [")).collect();
    for definition in definitions() {
        let names = table.iter().filter_map(|line| line.split_once('[')?.1.split_once(']').map(|(names, _)| names));
        let listed = names.flat_map(|names| names.split(", ")).filter(|name| *name == definition.name).count();
        assert_eq!(listed, 1, "docs/functions.md: {} in the table", definition.name);
    }
}

#[test]
fn no_function_hides_one_of_datafusion() {
    let theirs = all_default_functions();
    for function in all() {
        let hides = |other: &&Arc<datafusion_expr::ScalarUDF>| {
            other.name() == function.name() || other.aliases().iter().any(|alias| alias == function.name())
        };
        assert!(!theirs.iter().any(|other| hides(&other)), "{}", function.name());
    }
}

#[test]
fn a_call_with_too_few_or_too_many_arguments_is_shown_how() {
    for (text, wanted) in [
        ("convert(1)", "convert(qty, num, den[, mode[, decimals]]) takes more than 1 argument(s)"),
        ("gtin_valid('1', '2')", "gtin_valid(code) takes less than 2 arguments"),
    ] {
        assert_eq!(evaluate(text, &[]).expect_err("must be refused"), format!("refused: {wanted}"));
    }
}

#[test]
fn v3_a_conversion_in_a_mapping_is_a_quantity() {
    let named = |name: &str, data_type: DataType, key_ordinal| Column {
        name: name.to_owned(),
        data_type,
        source_type: String::new(),
        key_ordinal,
        can_be_absent: false,
    };
    let table = TableSchema {
        source: SourceId::new("erp"),
        table: TableId::new("public", "quant"),
        version: 1,
        columns: vec![named("id", DataType::Int64, Some(0)), named("qty", DataType::Decimal128(14, 3), None)],
    };
    let sql =
        "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, convert(q.qty, 3, 5) AS on_hand FROM quant q";
    let mapping = Mapping::parse("erp/inventory_balance.sql", "m", sql).expect("a mapping");
    let compiled = Compiled::new(&mapping, &table).expect("fits the table");
    let (index, _) = mapping.entity.field("on_hand").expect("a field");
    let FieldSource::Mapped(on_hand) = &compiled.fields[index] else { panic!("on_hand is mapped") };
    assert_eq!(on_hand.data_type(&compiled.input_schema).expect("typed"), DataType::Decimal128(28, 9));
    let qty = Decimal128Array::from(vec![5_000]).with_data_type(DataType::Decimal128(14, 3));
    let batch = RecordBatch::try_new(Arc::clone(&compiled.input_schema), vec![Arc::new(qty)]).expect("fits");
    let pieces = on_hand.evaluate(&batch).and_then(|value| value.into_array(1)).expect("computed");
    assert_eq!(pieces.as_primitive::<Decimal128Type>().value(0), 3_000_000_000);
}

#[test]
fn columns_and_constants_mix_and_nulls_stay_null() {
    let qty = column(Int64Array::from(vec![Some(3), None, Some(-10), Some(7)]));
    let num = column(StringArray::from(vec![Some("1"), Some("not asked for"), None, Some("2")]));
    let den = column(Float64Array::from(vec![Some(0.1), Some(0.0), Some(3.0), Some(3.0)]));
    let columns = [("qty", qty), ("num", num), ("den", den)];
    assert_eq!(shown("convert(qty, num, den)", &columns), ["30.000000000", "NULL", "NULL", "4.666666667"]);
    assert_eq!(shown("convert(qty, 1, den)", &columns)[2..], ["-3.333333333", "2.333333333"]);
    assert_eq!(shown("convert(1, 1, 3)", &columns), ["0.333333333"; 4]);
    assert_eq!(shown("convert(qty, NULL, den)", &columns), ["NULL"; 4]);
    let empty: Vec<(&str, ArrayRef)> = columns.iter().map(|(name, values)| (*name, values.slice(0, 0))).collect();
    assert!(shown("convert(qty, num, den)", &empty).is_empty());
}

#[test]
fn v4_and_v5_the_same_dozen_in_both_meanings_of_the_column() {
    let factor = column(Float64Array::from(vec![0.08333333333333333, 12.0, 0.001, 2.2046226218487757]));
    let columns = [("factor", factor)];
    assert_eq!(shown("divide_exact(3, factor)", &columns)[0], "36.000000000");
    assert_eq!(shown("multiply_exact(3, factor)", &columns)[1..3], ["36.000000000", "0.003000000"]);
    assert_eq!(shown("factor_is_fraction(factor)", &columns)[..3], ["true"; 3]);
}

#[test]
fn v14_zones_come_from_columns_too() {
    let local = column(TimestampMicrosecondArray::from(vec![1_792_895_400_000_000; 3]));
    let zone = column(StringArray::from(vec!["Europe/Berlin", "UTC", "Asia/Kolkata"]));
    let columns = [("ts", local), ("zone", zone)];
    let wanted = ["2026-10-25T00:30:00Z", "2026-10-25T02:30:00Z", "2026-10-24T21:00:00Z"];
    assert_eq!(shown("local_to_utc(ts, zone)", &columns), wanted);
    assert_eq!(shown("is_ambiguous_local(ts, zone)", &columns), ["true", "false", "false"]);
    assert_eq!(shown("local_date(local_to_utc(ts, zone), 'Asia/Tokyo')", &columns), ["2026-10-25"; 3]);
    assert_eq!(shown("local_date(local_to_utc(ts, 'UTC'), zone)", &columns), ["2026-10-25"; 3]);
    let far = column(TimestampMicrosecondArray::from(vec![i64::MAX]));
    let held = evaluate("local_to_utc(ts, 'UTC')", &[("ts", far)]).expect_err("no such time");
    assert!(held.starts_with("held, DQ_RANGE: the time is out of the calendar's range"), "{held}");
}

#[test]
fn sentinels_of_columns_keep_their_type() {
    let days = [-719_162_i64, -79_257, -25_567, 2_932_896, 20_000, -719_161];
    let micros: Vec<i64> = days.iter().map(|day| day * 86_400_000_000 + 86_399_999_999).collect();
    for zone in [None, Some("UTC")] {
        let values = TimestampMicrosecondArray::from(micros.clone()).with_timezone_opt(zone);
        let columns = [("ts", column(values))];
        let kept = evaluate("null_if_sentinel(ts)", &columns).expect("computed");
        assert_eq!(kept.data_type(), columns[0].1.data_type());
        assert_eq!((0..6).filter(|&row| kept.is_valid(row)).collect::<Vec<_>>(), [4, 5]);
    }
    let columns = [("d", column(arrow::array::Date32Array::from(vec![Some(0), Some(1), None])))];
    assert_eq!(shown("null_if_sentinel(d, DATE '1970-01-01')", &columns), ["NULL", "1970-01-02", "NULL"]);
    assert_eq!(shown("null_if_sentinel(DATE '1970-01-02', d)", &columns), ["1970-01-02", "NULL", "NULL"]);
}

/// `numerator / denominator`, rounded by the book: candidates on both sides are compared.
fn by_the_book(numerator: i256, denominator: i256, mode: &str) -> i256 {
    let (magnitude, two) = (numerator.wrapping_abs(), i256::from_i128(2));
    let floor = magnitude.wrapping_div(denominator);
    let above = floor.wrapping_add(i256::ONE);
    let below_by = magnitude.wrapping_sub(floor.wrapping_mul(denominator));
    let above_by = above.wrapping_mul(denominator).wrapping_sub(magnitude);
    let is_even = floor.wrapping_rem(two) == i256::ZERO;
    let magnitude = match mode {
        _ if below_by == i256::ZERO => floor,
        "up" => above,
        "down" => floor,
        _ if below_by < above_by => floor,
        _ if below_by > above_by => above,
        "half_even" if is_even => floor,
        _ => above,
    };
    if numerator.is_negative() { magnitude.wrapping_neg() } else { magnitude }
}

proptest! {
    #[test]
    fn convert_is_the_quotient_of_integers(
        qty in -10_i128.pow(27)..10_i128.pow(27), qty_scale in 0_u8..12, num in 1_i64.., den in 1_i64..,
        small in 1_i64..40, decimals in 0_u32..10, mode in prop::sample::select(vec!["half_even", "half_up", "up", "down"]),
    ) {
        let wide = i256::from_i128;
        let power = |exponent: u32| wide(10).checked_pow(exponent).expect("small");
        let values = Decimal128Array::from(vec![qty]).with_data_type(DataType::Decimal128(38, i8::try_from(qty_scale).expect("small")));
        for (num, den) in [(num, den), (small, den % 40 + 1), (num % 1_000 + 1, small)] {
            let columns = [
                ("qty", column(values.clone())),
                ("num", column(Int64Array::from(vec![num]))),
                ("den", column(StringArray::from(vec![den.to_string()]))),
            ];
            let numerator = wide(qty).checked_mul(wide(num.into())).and_then(|units| units.checked_mul(power(decimals)));
            let denominator = wide(den.into()).checked_mul(power(u32::from(qty_scale))).expect("small");
            let wanted = by_the_book(numerator.expect("small"), denominator, mode).wrapping_mul(power(9 - decimals));
            let given = evaluate(&format!("convert(qty, num, den, '{mode}', {decimals})"), &columns);
            if wanted.wrapping_abs() < power(28) {
                let given = given.expect("fits").as_primitive::<Decimal128Type>().value(0);
                prop_assert_eq!(wide(given), wanted);
            } else {
                prop_assert!(given.expect_err("too large").starts_with("held, DQ_OVERFLOW"));
            }
        }
    }

    #[test]
    fn amounts_and_rates_of_sap_are_quotients_of_integers(
        amount in -10_i128.pow(14)..10_i128.pow(14), decimals in 0_i64..7,
        rate in prop_oneof![-10_i64.pow(9)..0, 1..10_i64.pow(9)], from in 0_u32..5, to in 0_u32..5,
    ) {
        let wide = i256::from_i128;
        let power = |exponent: u32| wide(10).checked_pow(exponent).expect("small");
        let (from, to) = (10_i64.pow(from), 10_i64.pow(to));
        let columns = [
            ("amount", column(Decimal128Array::from(vec![amount]).with_data_type(DataType::Decimal128(15, 2)))),
            ("rate", column(Decimal128Array::from(vec![i128::from(rate)]).with_data_type(DataType::Decimal128(9, 5)))),
        ];
        let value = |text: &str| evaluate(text, &columns).map(|values| wide(values.as_primitive::<Decimal128Type>().value(0)));
        // amount / 10^2 * 10^(2 - decimals), in units of 10^-6
        let wanted = wide(amount).wrapping_mul(power(6 - u32::try_from(decimals).expect("small")));
        prop_assert_eq!(value(&format!("sap_amount(amount, {decimals})")), Ok(wanted));
        let (rate_units, from_units, to_units) = (wide(i128::from(rate).abs()), wide(from.into()), wide(to.into()));
        let wanted = if rate > 0 {
            by_the_book(rate_units.wrapping_mul(to_units).wrapping_mul(power(12)), from_units.wrapping_mul(power(5)), "half_even")
        } else {
            by_the_book(to_units.wrapping_mul(power(17)), from_units.wrapping_mul(rate_units), "half_even")
        };
        prop_assert_eq!(value(&format!("sap_rate(rate, {from}, {to})")), Ok(wanted));
    }
}
