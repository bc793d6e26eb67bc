//! Rows of `COPY ... TO STDOUT` as the same cells that the stream has.
//!
//! In the text form tabs separate values, `\N` is NULL, and a backslash hides tabs, line ends and itself. Rows without a hidden
//! byte, most of them, are used where they lie. In the binary form a header goes before the first row, and each value has its
//! length in front (PostgreSQL, "COPY", "File Formats"). The server sends whole rows.

use super::message::Cell;
use super::table::RowView;

/// In which form rows are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyForm {
    Text,
    Binary,
}

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const SHORT: &str = "a copied row is cut short";

/// A reusable reader of what one statement gives.
pub(crate) struct CopyReader {
    form: CopyForm,
    cells: Vec<Cell>,
    unescaped: Vec<u8>,
    /// Where the next row of the data begins; none where there is no more.
    next: Option<usize>,
    has_begun: bool,
}

impl CopyReader {
    pub(crate) const fn new(form: CopyForm) -> Self {
        Self { form, cells: Vec::new(), unescaped: Vec::new(), next: None, has_begun: false }
    }

    /// Turns to the next data, whose rows [`Self::row`] gives.
    pub(crate) fn turn_to(&mut self, data: &[u8]) -> Result<(), &'static str> {
        self.next = Some(0);
        if self.form == CopyForm::Binary && !self.has_begun {
            self.has_begun = true;
            let rest = data.strip_prefix(SIGNATURE).ok_or("a copy does not begin as one in binary form")?;
            let (flags, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
            let (len, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
            let extension = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| SHORT)?;
            if u32::from_be_bytes(*flags) >> 16 != 0 || extension > rest.len() {
                return Err("a copy has a header that is not known");
            }
            self.next = Some(data.len() - rest.len() + extension);
        }
        Ok(())
    }

    /// The next row of the data; a table without columns has one empty line per row and no cell.
    #[inline]
    pub(crate) fn row<'a>(&'a mut self, data: &'a [u8], columns: usize) -> Result<Option<RowView<'a>>, &'static str> {
        let Some(at) = self.next else { return Ok(None) };
        match self.form {
            CopyForm::Text => {
                self.next = None;
                self.line(data.strip_suffix(b"\n").unwrap_or(data), columns).map(Some)
            }
            CopyForm::Binary => self.tuple(data, at),
        }
    }

    fn tuple<'a>(&'a mut self, data: &'a [u8], mut at: usize) -> Result<Option<RowView<'a>>, &'static str> {
        self.cells.clear();
        if at == data.len() {
            self.next = None;
            return Ok(None);
        }
        let values = i16::from_be_bytes(take(data, &mut at)?);
        let Ok(values) = u16::try_from(values) else {
            self.next = None;
            return if values == -1 && at == data.len() { Ok(None) } else { Err("a copy goes on behind its end") };
        };
        for _ in 0..values {
            let len = i32::from_be_bytes(take(data, &mut at)?);
            let Ok(len) = usize::try_from(len) else {
                self.cells.push(Cell::Null);
                continue;
            };
            let end = at.checked_add(len).filter(|end| *end <= data.len()).ok_or(SHORT)?;
            self.cells.push(Cell::Binary { start: at, end });
            at = end;
        }
        self.next = Some(at);
        Ok(Some(RowView { cells: &self.cells, bytes: data }))
    }

    /// Splits a line without its end.
    fn line<'a>(&'a mut self, line: &'a [u8], columns: usize) -> Result<RowView<'a>, &'static str> {
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

fn take<const N: usize>(data: &[u8], at: &mut usize) -> Result<[u8; N], &'static str> {
    let bytes = data.get(*at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
    *at += N;
    Ok(*bytes)
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

    fn binary(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
        let mut data = Vec::new();
        for row in rows {
            data.extend_from_slice(&i16::try_from(row.len()).unwrap().to_be_bytes());
            for value in row {
                let len = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap());
                data.extend_from_slice(&len.to_be_bytes());
                data.extend_from_slice(value.as_deref().unwrap_or_default());
            }
        }
        data
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn copied_rows_read_back(values in proptest::collection::vec(proptest::option::of("[a\\\\\t\n\rN é]{0,6}"), 1..6)) {
            let line = values.iter().map(|value| escape(value.as_deref())).collect::<Vec<_>>().join("\t") + "\n";
            let mut reader = CopyReader::new(CopyForm::Text);
            reader.turn_to(line.as_bytes()).unwrap();
            let row = reader.row(line.as_bytes(), values.len()).unwrap().unwrap();
            prop_assert_eq!(row.cells.len(), values.len());
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(row.value(i), value.as_deref().map(str::as_bytes));
            }
            prop_assert!(reader.row(line.as_bytes(), values.len()).unwrap().is_none());
        }

        #[test]
        fn copied_rows_in_binary_form_read_back(
            pieces in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..5)), 0..4), 0..4), 1..4),
            extension in proptest::collection::vec(any::<u8>(), 0..3),
        ) {
            let mut reader = CopyReader::new(CopyForm::Binary);
            let extension_len = u32::try_from(extension.len()).unwrap().to_be_bytes();
            let header = [SIGNATURE, &[0; 4], &extension_len, &extension].concat();
            for (i, rows) in pieces.iter().enumerate() {
                let head = if i == 0 { header.as_slice() } else { &[] };
                let tail: &[u8] = if i + 1 == pieces.len() { &[0xff, 0xff] } else { &[] };
                let data = [head, &binary(rows), tail].concat();
                reader.turn_to(&data).unwrap();
                for wanted in rows {
                    let row = reader.row(&data, wanted.len()).unwrap().unwrap();
                    let values: Vec<_> = (0..row.cells.len()).map(|i| row.value(i).map(<[u8]>::to_vec)).collect();
                    prop_assert_eq!(&values, wanted);
                }
                prop_assert!(reader.row(&data, 0).unwrap().is_none());
            }
        }

        #[test]
        fn no_bytes_of_a_copy_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..40), is_first in any::<bool>()) {
            let mut reader = CopyReader::new(CopyForm::Binary);
            reader.has_begun = !is_first;
            let data = if is_first { [SIGNATURE, &data].concat() } else { data };
            if reader.turn_to(&data).is_ok() {
                while let Ok(Some(_)) = reader.row(&data, 3) {}
            }
        }
    }
}
