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
