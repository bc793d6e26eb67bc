//! What expressions give, and that what cannot be is refused before a row is seen.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt8Array, new_null_array,
};
use syncline_schemas::delta::UPSERT;
use syncline_schemas::entity::{self, Entity};

use super::*;

fn entity(name: &str) -> &'static Entity {
    entity::get(name).expect("canonical")
}

/// Two rows of supplier_item; the second holds nothing that need not be there.
fn batch() -> RecordBatch {
    let text = |text: &str| Arc::new(StringArray::from(vec![text; 2])) as ArrayRef;
    let instant =
        |micros: i64| Arc::new(TimestampMicrosecondArray::from(vec![micros; 2]).with_timezone("UTC")) as ArrayRef;
    let of = entity("supplier_item");
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(vec![UPSERT; 2])),
        Arc::new(FixedSizeBinaryArray::try_from_iter([[0_u8; 16], [1; 16]].into_iter()).expect("16 bytes")),
        text("erp"),
        text("public.t"),
        text("0/1"),
        // 2026-05-26T10:00:01.120Z
        instant(1_779_789_601_120_000),
        instant(1_779_789_601_121_000),
    ];
    for field in &of.fields {
        columns.push(match field.name.as_str() {
            "item_id" => Arc::new(StringArray::from(vec!["4711", "it's"])),
            "valid_from" => Arc::new(Date32Array::from(vec![20_000, -1])),
            "lead_time_days" => Arc::new(Int32Array::from(vec![5, 0])),
            "moq" => {
                let values = Decimal128Array::from(vec![Some(12_500_000_005), None]);
                Arc::new(values.with_precision_and_scale(28, 9).expect("canonical"))
            }
            "lead_time_source" => Arc::new(StringArray::from(vec![Some("erp"), Some("measured")])),
            name if field.key => text(name),
            _ => new_null_array(&field.field_type.arrow(), 2),
        });
    }
    RecordBatch::try_new(of.delta_schema(), columns).expect("canonical shape")
}

fn compiled(of: &'static Entity, text: &str) -> Result<Expr, String> {
    let entries = [("erp".to_owned(), "E".to_owned())].into();
    let table = Arc::new(TextTable { entries, otherwise: None });
    let tables = [("sources".to_owned(), Arc::clone(&table))].into();
    let schemes = [("PLN".to_owned(), table)].into();
    compile(&parse(text)?, &Scope { entity: of, tables: &tables, schemes: &schemes }).map(|(expr, _)| expr)
}

/// The values of both rows: a text, or the word of a fault.
fn values(text: &str) -> [String; 2] {
    let batch = batch();
    let expr = compiled(entity("supplier_item"), text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
    let column = expr.eval(&batch);
    [0, 1].map(|row| match column.fault(row) {
        Some(fault) => fault.to_owned(),
        None => column.text(row).map_or_else(|| "-".to_owned(), |text| text.into_owned()),
    })
}

#[test]
fn every_function_gives_what_the_manual_says() {
    for (text, first, second) in [
        ("item_id", "4711", "it's"),
        ("'it''s'", "it's", "it's"),
        ("concat(supplier_id, '/', item_id, '/', lead_time_days)", "supplier_id/4711/5", "supplier_id/it's/0"),
        ("concat(item_id, moq)", "471112.500000005", "-"),
        ("coalesce(moq, max_qty, 0)", "12.500000005", "0"),
        ("coalesce(moq, 1.25)", "12.500000005", "1.25"),
        ("dec(moq, 8, 'half_even')", "12.5", "-"),
        ("dec(moq, 8, 'up')", "12.50000001", "-"),
        ("dec(moq, 8, 'exact')", "inexact", "-"),
        ("dec(lead_time_days, 2, 'exact')", "5", "0"),
        ("map(sources, lead_time_source)", "E", "unmapped_value"),
        ("xref('PLN', lead_time_source)", "E", "unknown_xref"),
        ("if(lead_time_source = 'erp', map(sources, lead_time_source), 'other')", "E", "other"),
        ("if(is_null(moq), null, lead_time_days)", "5", "-"),
        ("if(moq > 12.5 and not lead_time_days < 5, 'a', 'b')", "a", "b"),
        // What decides outranks a fault on the other side, whichever that is.
        ("if(map(sources, lead_time_source) = 'X' and item_id = '4711', 'a', 'b')", "b", "b"),
        ("if(item_id = '4711' and map(sources, lead_time_source) = 'X', 'a', 'b')", "b", "b"),
        ("if(map(sources, lead_time_source) = 'E' or item_id <> '4711', 'a', 'b')", "a", "a"),
        ("if(moq = 1 or item_id <> '4711', 'a', 'b')", "b", "a"),
        ("date(valid_from, '%d.%m.%Y')", "04.10.2024", "31.12.1969"),
        (
            "date(_commit_ts, '%Y-%m-%dT%H:%M:%S%:z', 'Europe/Berlin')",
            "2026-05-26T12:00:01+02:00",
            "2026-05-26T12:00:01+02:00",
        ),
        ("valid_from", "2024-10-04", "1969-12-31"),
        ("_captured_ts", "2026-05-26T10:00:01.121000Z", "2026-05-26T10:00:01.121000Z"),
        ("-0.50", "-0.5", "-0.5"),
    ] {
        assert_eq!(values(text), [first, second], "{text}");
    }
}

#[test]
fn what_no_row_could_give_is_refused_with_the_remedy() {
    for (text, part) in [
        ("itm_id", "names itm_id, which supplier_item has not; it has company_id"),
        ("upper(item_id)", "calls upper, which is no function; there are coalesce, map"),
        ("dec(moq, 8)", "calls dec in another way than dec(x, scale, 'rounding')"),
        ("dec(moq, 8, 'bankers')", "rounding 'bankers'; it is one of half_even, half_up"),
        ("dec(moq, 39, 'down')", "scale that is not 0 to 38"),
        ("dec(item_id, 2, 'down')", "calls dec with a text; it takes a number"),
        ("coalesce(moq, item_id)", "has a decimal with 9 places beside a text in coalesce"),
        ("if(moq, 1, 2)", "has a decimal with 9 places where if needs a boolean"),
        ("item_id = 5", "has a text beside a integer in a comparison"),
        ("item_id = null", "write is_null(x)"),
        ("map(colours, item_id)", "looks into [tables.colours], which the profile has not"),
        ("xref('GTIN', item_id)", "looks into [xref.GTIN], which the profile has not"),
        ("map(sources, moq)", "looks for a decimal with 9 places"),
        ("date(valid_from, '%H:%M')", "format '%H:%M', which a date has no value for"),
        ("date(valid_from, '%Y', 'UTC')", "a day, which lies in none"),
        ("date(_commit_ts, '%Y')", "without the zone"),
        ("date(_commit_ts, '%Y', 'Mars/Olympus')", "which IANA does not know"),
        ("concat('a', 'b'", "misses a , or a ), at character 16"),
        ("'open", "a text that does not end"),
        ("item_id item_id", "ends here, and then something follows, at character 9"),
        ("1.2.3", "has a number that is none"),
        ("", "ends too early"),
        ("#", "has a sign that no expression begins with"),
    ] {
        let fault = compiled(entity("supplier_item"), text).expect_err(text);
        assert!(fault.contains(part), "{text}: {fault}");
    }
    let deep = "(".repeat(100) + "1" + &")".repeat(100);
    assert!(parse(&deep).expect_err("too deep").contains("nested too deeply"));
    assert!(parse(&" ".repeat(5_000)).expect_err("too long").contains("longer than"));
}

#[test]
fn a_boolean_of_the_batch_is_a_condition_by_itself() {
    let of = entity("item_location");
    let expr = compiled(of, "if(planned, 'yes', 'no')").expect("sound");
    let mut columns: Vec<ArrayRef> =
        of.delta_schema().fields().iter().map(|field| new_null_array(field.data_type(), 2)).collect();
    let at = of.delta_schema().index_of("planned").expect("there");
    columns[at] = Arc::new(BooleanArray::from(vec![Some(true), None]));
    let fields: Vec<_> =
        of.delta_schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let batch = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).expect("a batch");
    let column = expr.eval(&batch);
    assert_eq!([0, 1].map(|row| column.text(row).expect("a text").into_owned()), ["yes", "no"]);
}
