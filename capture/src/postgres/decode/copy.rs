//! Rows of `COPY ... TO STDOUT` in text form, as the same cells that the stream has.
//!
//! Tabs separate values, `\N` is NULL, and a backslash hides tabs, line ends and itself. Rows without a backslash, most
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
        if !line.contains(&b'\\') {
            let mut start = 0;
            for value in line.split(|&byte| byte == b'\t') {
                self.cells.push(Cell::Text { start, end: start + value.len() });
                start += value.len() + 1;
            }
            return Ok(RowView { cells: &self.cells, bytes: line });
        }
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

fn unescape(value: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next().ok_or("a copied row ends in a backslash")? {
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            other => *other,
        });
    }
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
