//! Rows of `COPY ... TO STDOUT` in text form, as the same cells that the stream has.
//!
//! Tabs separate values, `\N` is NULL, and a backslash hides tabs, line ends and itself. Rows without a hidden byte, most
//! of them, are used where they lie.

use super::message::Cell;
use super::table::RowView;

/// A reusable reader of lines.
#[derive(Default)]
pub(crate) struct CopyLine {
    cells: Vec<Cell>,
    unescaped: Vec<u8>,
}

impl CopyLine {
    /// Splits a line without its end; a table without columns has one empty line per row and no cell.
    pub(crate) fn split<'a>(&'a mut self, line: &'a [u8], columns: usize) -> Result<RowView<'a>, &'static str> {
        self.cells.clear();
        if columns == 0 {
            return Ok(RowView { cells: &self.cells, bytes: line });
        }
        let may_hide = line.contains(&b'\\');
        let mut start = 0;
        let is_plain = line.split(|&byte| byte == b'\t').all(|value| {
            let is_null = may_hide && value == b"\\N";
            self.cells.push(if is_null { Cell::Null } else { Cell::Text { start, end: start + value.len() } });
            start += value.len() + 1;
            is_null || !may_hide || !value.contains(&b'\\')
        });
        if is_plain {
            return Ok(RowView { cells: &self.cells, bytes: line });
        }
        self.cells.clear();
        self.unescaped.clear();
        for value in line.split(|&byte| byte == b'\t') {
            if value == b"\\N" {
                self.cells.push(Cell::Null);
                continue;
            }
            let start = self.unescaped.len();
            unescape(value, &mut self.unescaped)?;
            self.cells.push(Cell::Text { start, end: self.unescaped.len() });
        }
        Ok(RowView { cells: &self.cells, bytes: &self.unescaped })
    }
}

fn unescape(mut value: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    while let Some(at) = value.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&value[..at]);
        let (hidden, rest) = value[at + 1..].split_first().ok_or("a copied row ends in a backslash")?;
        out.push(match hidden {
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            other => *other,
        });
        value = rest;
    }
    out.extend_from_slice(value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the server escapes, written independently.
    fn escape(value: Option<&str>) -> String {
        let Some(value) = value else { return "\\N".to_owned() };
        value.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
    }

    proptest! {
        #[test]
        fn copied_rows_read_back(values in proptest::collection::vec(proptest::option::of("[a\\\\\t\n\rN é]{0,6}"), 1..6)) {
            let line = values.iter().map(|value| escape(value.as_deref())).collect::<Vec<_>>().join("\t");
            let mut reader = CopyLine::default();
            let row = reader.split(line.as_bytes(), values.len()).expect("whole");
            prop_assert_eq!(row.cells.len(), values.len());
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(row.text(i), value.as_deref().map(str::as_bytes));
            }
        }
    }
}
