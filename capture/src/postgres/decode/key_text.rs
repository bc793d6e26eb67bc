//! A row's key as the texts by which SQL finds the row, from values in binary form, too.

use arrow::array::{AsArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::array_value_to_string;

use super::column::Column;
use super::kind::Kind;
use super::message::Cell;
use super::table::{RowView, Shape};
use crate::value::put_bytea;

/// The key, each of its values from the first of the rows that has it; none where one cannot be written as SQL reads it.
pub(super) fn key_text(shape: &Shape, rows: [RowView<'_>; 2]) -> Option<Vec<String>> {
    let has = |row: &&RowView<'_>, key: usize| row.value(key).is_some();
    let text = |&key: &usize| {
        let row = rows.iter().find(|row| has(row, key))?;
        let value = row.value(key)?;
        match row.cells[key] {
            Cell::Binary { .. } => of_binary(shape.kinds[key], value),
            _ => Some(String::from_utf8_lossy(value).into_owned()),
        }
    };
    shape.keys.iter().map(text).collect()
}

fn of_binary(kind: Kind, value: &[u8]) -> Option<String> {
    let mut column = Column::new(kind, 1);
    column.append_binary(value).ok()?;
    let array = column.finish();
    let text = match kind {
        Kind::Bytea => {
            let mut text = String::new();
            put_bytea(array.as_binary::<i32>().value(0), &mut text);
            return Some(text);
        }
        Kind::TimestampTz => {
            let instant = array.as_primitive::<TimestampMicrosecondType>().value(0);
            array_value_to_string(&TimestampMicrosecondArray::from(vec![instant]), 0).ok()? + "+00"
        }
        _ => array_value_to_string(&array, 0).ok()?,
    };
    // A year of five digits, which SQL reads otherwise.
    let is_date = matches!(kind, Kind::Date | Kind::Timestamp | Kind::TimestampTz);
    (!is_date || text.starts_with(|char: char| char.is_ascii_digit())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_binary_form_is_written_as_the_server_reads_it() {
        let us = |text: &[u8]| crate::value::timestamp(text).expect("a timestamp") - 946_684_800_000_000;
        for (kind, value, wanted) in [
            (Kind::Int8, (-5_i64).to_be_bytes().to_vec(), Some("-5")),
            (Kind::Bool, vec![1], Some("true")),
            (Kind::Text, b"o'h".to_vec(), Some("o'h")),
            (Kind::Bytea, vec![0, 255], Some("\\x00ff")),
            (Kind::Date, 59_i32.to_be_bytes().to_vec(), Some("2000-02-29")),
            (Kind::Date, 3_000_000_i32.to_be_bytes().to_vec(), None),
            (Kind::Timestamp, us(b"2024-02-29 01:02:03.5").to_be_bytes().to_vec(), Some("2024-02-29T01:02:03.500")),
            (Kind::TimestampTz, us(b"2024-02-29 01:02:03").to_be_bytes().to_vec(), Some("2024-02-29T01:02:03+00")),
            (Kind::Decimal { precision: 9, scale: 2 }, vec![0, 1, 0, 0, 0x40, 0, 0, 2, 0, 7], Some("-7.00")),
        ] {
            assert_eq!(of_binary(kind, &value).as_deref(), wanted, "{kind:?}");
        }
    }
}
