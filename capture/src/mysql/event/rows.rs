//! Rows of a table: which columns came, and the rows as they lie behind each other.
//!
//! ```text
//! table u48 | flags u16 | v2: length of more u16, more | columns | which came (update: before, after) | rows
//! ```
//! MariaDB compresses the rows alone.

use super::code::{Change, RowsForm};
use super::inflate::inflate;
use crate::mysql::bytes::{Cursor, SHORT};

/// Rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows<'a> {
    pub(crate) table_id: u64,
    pub(crate) change: Change,
    pub(crate) columns: usize,
    /// One bit for each column of a row; of an update the row before.
    pub(crate) came: &'a [u8],
    /// Of an update the row after.
    pub(crate) came_after: &'a [u8],
    /// What is to be read: rows, or pairs of them.
    pub(crate) rows: &'a [u8],
    /// Of JSON a row after an update may say what was changed in it.
    pub(crate) is_partial: bool,
}

/// Reads the head; `room` keeps rows that were compressed.
pub(crate) fn rows<'a>(body: &'a [u8], form: RowsForm, room: &'a mut Vec<u8>) -> Result<Rows<'a>, &'static str> {
    let mut cursor = Cursor::new(body);
    let table_id = cursor.number(6)?;
    // Flags, of which one says that it is the last event of its statement.
    cursor.u16()?;
    if form.is_v2 {
        // Numbers of partitions, and what replication adds for itself; the length counts itself.
        let more = usize::from(cursor.u16()?).checked_sub(2).ok_or(SHORT)?;
        cursor.take(more)?;
    }
    let columns = cursor.count()?;
    let map_len = columns.div_ceil(8);
    let came = cursor.take(map_len)?;
    let came_after = if form.change == Change::Update { cursor.take(map_len)? } else { &[] };
    let rows = if form.is_compressed {
        inflate(&mut cursor, room)?;
        &*room
    } else {
        cursor.rest()
    };
    Ok(Rows { table_id, change: form.change, columns, came, came_after, rows, is_partial: form.is_partial })
}

#[cfg(test)]
mod tests {
    use super::super::inflate::tests::deflate;
    use super::*;

    #[test]
    fn compressed_rows_are_the_same_as_rows_that_are_not() {
        let form = |is_v2, is_compressed| RowsForm { change: Change::Update, is_v2, is_compressed, is_partial: false };
        let head = b"\x05\0\0\0\0\0\x01\0\x03\x07\x05";
        let wanted = |rows| Rows {
            table_id: 5,
            change: Change::Update,
            columns: 3,
            came: &[7],
            came_after: &[5],
            rows,
            is_partial: false,
        };
        let plain = [head.as_slice(), b"rows"].concat();
        assert_eq!(rows(&plain, form(false, false), &mut Vec::new()), Ok(wanted(b"rows")));
        let packed = [head.as_slice(), &deflate(b"rows")].concat();
        assert_eq!(rows(&packed, form(false, true), &mut Vec::new()), Ok(wanted(b"rows")));
        let v2 = [&head[..8], b"\x04\0xx", &head[8..], b"rows"].concat();
        assert_eq!(rows(&v2, form(true, false), &mut Vec::new()), Ok(wanted(b"rows")));
        assert!(rows(&plain[..10], form(false, false), &mut Vec::new()).is_err());
    }
}
