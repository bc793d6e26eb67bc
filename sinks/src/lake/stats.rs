//! File statistics as Delta wants them, taken from the Parquet footer that was just written.
//!
//! They decide which files readers skip, so a bound may be wide but never wrong. Text bounds may be cut by Parquet, which
//! rounds the upper one up. Delta keeps instants to the millisecond, so they are rounded outwards. Decimals get no
//! bounds: JSON readers take them for doubles, and a rounded double can exclude a value that is there.

use arrow::datatypes::{DataType, SchemaRef};
use arrow::temporal_conversions::date32_to_datetime;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde_json::{Map, Value};

/// The `stats` of an Add action.
pub(super) fn json(footer: &ParquetMetaData, schema: &SchemaRef) -> String {
    let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (column, field) in schema.fields().iter().enumerate() {
        let groups: Option<Vec<&Statistics>> =
            footer.row_groups().iter().map(|group| group.column(column).statistics()).collect();
        let Some(groups) = groups else { continue };
        if let Some(count) = groups.iter().map(|group| group.null_count_opt()).sum::<Option<u64>>() {
            nulls.insert(field.name().clone(), count.into());
        }
        let filled: Vec<&Statistics> = groups
            .into_iter()
            .zip(footer.row_groups())
            .filter(|(group, row_group)| {
                group.null_count_opt().is_none_or(|nulls| i64::try_from(nulls) != Ok(row_group.num_rows()))
            })
            .map(|(group, _)| group)
            .collect();
        if let Some((low, high)) = bounds(&filled, field.data_type()) {
            min.insert(field.name().clone(), low);
            max.insert(field.name().clone(), high);
        }
    }
    let mut stats = Map::new();
    stats.insert("numRecords".into(), footer.file_metadata().num_rows().into());
    stats.insert("minValues".into(), min.into());
    stats.insert("maxValues".into(), max.into());
    stats.insert("nullCount".into(), nulls.into());
    Value::Object(stats).to_string()
}

/// The bounds over row groups that hold values; `None` where one of them has none, or the type gets none.
fn bounds(groups: &[&Statistics], data_type: &DataType) -> Option<(Value, Value)> {
    fn span<T: Ord>(bounds: impl Iterator<Item = Option<(T, T)>>) -> Option<(T, T)> {
        let all = bounds.collect::<Option<Vec<_>>>()?;
        all.into_iter().reduce(|(low, high), (min, max)| (low.min(min), high.max(max)))
    }
    let ints = || {
        span(groups.iter().map(|group| match group {
            Statistics::Int32(values) => Some((*values.min_opt()?, *values.max_opt()?)),
            _ => None,
        }))
    };
    match data_type {
        DataType::Int32 => ints().map(|(low, high)| (low.into(), high.into())),
        DataType::Date32 => {
            let (low, high) = ints()?;
            Some((day(low)?.into(), day(high)?.into()))
        }
        DataType::Timestamp(_, _) => {
            let (low, high) = span(groups.iter().map(|group| match group {
                Statistics::Int64(values) => Some((*values.min_opt()?, *values.max_opt()?)),
                _ => None,
            }))?;
            Some((instant(low.div_euclid(1_000))?, instant(high.checked_add(999)?.div_euclid(1_000))?))
        }
        DataType::Utf8 => {
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
            let (low, high) = span(groups.iter().map(|group| match group {
                Statistics::ByteArray(values) => {
                    Some((text(values.min_opt()?.data())?, text(values.max_opt()?.data())?))
                }
                _ => None,
            }))?;
            Some((low.into(), high.into()))
        }
        _ => None,
    }
}

/// `yyyy-mm-dd`; `None` beyond the years 0 to 9999, which readers cannot parse.
fn day(days: i32) -> Option<String> {
    let text = date32_to_datetime(days)?.date().to_string();
    (text.len() == 10).then_some(text)
}

fn instant(millis: i64) -> Option<Value> {
    let date = day(i32::try_from(millis.div_euclid(86_400_000)).ok()?)?;
    Some(Value::from(format!("{date}T{}Z", millis_of_day(millis))))
}

/// `hh:mm:ss.mmm`.
fn millis_of_day(millis: i64) -> String {
    let of_day = millis.rem_euclid(86_400_000);
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", of_day / 1_000 % 60, of_day % 1_000)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Date32Array, Decimal128Array, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    };
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn stats_of(columns: Vec<(&str, ArrayRef)>) -> Value {
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
                .expect("equal lengths");
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("written");
        let footer = writer.finish().expect("finished");
        serde_json::from_str(&json(&footer, &batch.schema())).expect("JSON")
    }

    #[test]
    fn no_value_lies_outside_the_bounds_that_readers_skip_files_by() {
        let long = "ü".repeat(100);
        let stats = stats_of(vec![
            ("text", Arc::new(StringArray::from(vec![Some("b"), None, Some(long.as_str()), Some("a")]))),
            ("whole", Arc::new(Int32Array::from(vec![None, None, Some(-7), Some(7)]))),
            ("day", Arc::new(Date32Array::from(vec![-1, 0, 1, 20_000]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![-1, 0, 1, 1_999]).with_timezone("UTC"))),
        ]);
        assert_eq!(stats["numRecords"], 4);
        assert_eq!(stats["nullCount"], serde_json::json!({"text": 1, "whole": 2, "day": 0, "at": 0}));
        assert_eq!(stats["minValues"]["text"], "a");
        assert!(stats["maxValues"]["text"].as_str().expect("text") >= long.as_str());
        assert_eq!((&stats["minValues"]["whole"], &stats["maxValues"]["whole"]), (&(-7).into(), &7.into()));
        assert_eq!(
            (&stats["minValues"]["day"], &stats["maxValues"]["day"]),
            (&"1969-12-31".into(), &"2024-10-04".into())
        );
        assert_eq!(stats["minValues"]["at"], "1969-12-31T23:59:59.999Z");
        assert_eq!(stats["maxValues"]["at"], "1970-01-01T00:00:00.002Z");
    }

    #[test]
    fn decimals_and_columns_of_nulls_get_no_bounds() {
        let decimals = Decimal128Array::from(vec![1, 2]).with_precision_and_scale(28, 9).expect("28 digits");
        let stats = stats_of(vec![
            ("quantity", Arc::new(decimals)),
            ("empty", Arc::new(Int32Array::from(vec![None::<i32>, None]))),
        ]);
        assert_eq!((&stats["minValues"], &stats["maxValues"]), (&serde_json::json!({}), &serde_json::json!({})));
        assert_eq!(stats["nullCount"]["empty"], 2);
    }
}
