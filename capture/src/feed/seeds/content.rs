//! The bytes of a CSV file become a table, or everything that is wrong with them. Pure, and safe against any bytes.
//!
//! Strict where a lenient reader would guess: a row of another width, a cell of another type or an open quotation mark is a
//! fault, because what looks like a row may be the half of a file that is still being written.

use std::collections::HashMap;
use std::path::Path;

use arrow::array::ArrayRef;
use syncline_schemas::rowcode;
use syncline_schemas::table::TableSchema;

use super::column::Column;
use super::config::{CellType, TableSpec};
use super::fault::{Faults, FileFault};
use super::header::{self, NOT_UTF8};
use super::lines::Lines;
use super::table::{self, Layout, Table};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// How a content is to be read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read<'a> {
    /// As is declared about the file.
    Declared(&'a TableSpec),
    /// As it was read when it was put into the log.
    AsBefore(&'a Layout),
}

/// Reads a content whole.
pub(super) fn table(file: &Path, name: &str, bytes: &[u8], how: Read<'_>) -> Result<(Table, Layout), Vec<FileFault>> {
    let mut content = Content::open(file, bytes);
    let read = content.header(name, how).and_then(|(names, layout)| {
        let columns = content.rows(&names, &layout);
        content.ensure_unique(&names, &layout, &columns);
        match Table::new(table::schema(name, &names, &layout), columns) {
            Ok(table) => Some((table, layout)),
            Err(error) => {
                content.faults.add(0, "", error.to_string());
                None
            }
        }
    });
    content.faults.or(read)
}

/// Reads the shape of a content that was read before.
pub(super) fn schema(file: &Path, name: &str, bytes: &[u8], layout: &Layout) -> Result<TableSchema, Vec<FileFault>> {
    let mut content = Content::open(file, bytes);
    let header = content.header(name, Read::AsBefore(layout));
    content.faults.or(header.map(|(names, layout)| table::schema(name, &names, &layout)))
}

struct Content<'b> {
    bytes: &'b [u8],
    reader: csv::Reader<&'b [u8]>,
    record: csv::ByteRecord,
    lines: Lines<'b>,
    faults: Faults,
    /// The line of each row that was taken.
    row_lines: Vec<usize>,
    /// Rows without a whole key, which cannot be compared.
    keyless: Vec<bool>,
}

impl<'b> Content<'b> {
    fn open(file: &Path, bytes: &'b [u8]) -> Self {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        Self {
            bytes,
            // Ragged rows are told with their line and the other faults, so the reader lets them through.
            reader: csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes),
            record: csv::ByteRecord::new(),
            lines: Lines::new(bytes),
            faults: Faults::new(file),
            row_lines: Vec::new(),
            keyless: Vec::new(),
        }
    }

    /// The next record's line; `None` at the end.
    fn next(&mut self) -> Option<usize> {
        let place = |position: &csv::Position| usize::try_from(position.byte()).unwrap_or(usize::MAX);
        let start = place(self.reader.position()).min(self.bytes.len());
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                self.faults.add(self.lines.of(start), "", format!("cannot be read as CSV: {error}"));
                return None;
            }
        }
        let end = place(self.reader.position()).clamp(start, self.bytes.len());
        let line = self.lines.of(start);
        let marks = self.bytes[start..end].iter().filter(|&&byte| byte == b'"').count();
        if marks % 2 == 1 {
            let reason = "has an odd number of quotation marks; close the open one, and write one inside a cell twice, \
                          as in \"5\"\" pipe\"";
            self.faults.add(line, "", reason);
        }
        Some(line)
    }

    /// Names and layout. A layout with faults is told and still returned, so that the rows' faults are told with it.
    fn header(&mut self, name: &str, how: Read<'_>) -> Option<(Vec<String>, Layout)> {
        let Some(line) = self.next() else {
            self.faults.add(1, "", "the file is empty; its first line names the columns");
            return None;
        };
        let names = header::names(&self.record, line, &mut self.faults);
        let layout = match how {
            Read::Declared(spec) => header::layout(&names, name, spec, &mut self.faults),
            Read::AsBefore(layout) => layout.clone(),
        };
        if header::fits(&layout, names.len()) {
            return Some((names, layout));
        }
        if matches!(how, Read::AsBefore(_)) {
            self.faults.add(1, "", "the header has fewer columns than when it was read first");
        }
        None
    }

    /// All rows; one with a fault leaves nulls or nothing, since with a fault nothing of the table is used.
    fn rows(&mut self, names: &[String], layout: &Layout) -> Vec<ArrayRef> {
        let types = layout.cell_types(names.len());
        let mut columns: Vec<Column> = types.iter().map(|cell_type| Column::new(*cell_type)).collect();
        let mut is_key = vec![false; names.len()];
        layout.keys.iter().for_each(|key| is_key[usize::from(*key)] = true);
        while let Some(line) = self.next() {
            if self.record.len() != names.len() {
                let reason = format!(
                    "has {} cells where the header has {} columns; quote a cell that holds a comma",
                    self.record.len(),
                    names.len()
                );
                self.faults.add(line, "", reason);
                continue;
            }
            let mut keyless = false;
            for (i, (column, cell)) in columns.iter_mut().zip(self.record.iter()).enumerate() {
                let Some(fault) = cell_fault(column, cell, types[i], is_key[i]) else { continue };
                self.faults.add(line, names[i].as_str(), fault);
                column.append_null();
                keyless |= is_key[i];
            }
            self.row_lines.push(line);
            self.keyless.push(keyless);
        }
        columns.into_iter().map(Column::finish).collect()
    }

    fn ensure_unique(&mut self, names: &[String], layout: &Layout, columns: &[ArrayRef]) {
        let key: Vec<ArrayRef> = layout.keys.iter().map(|i| ArrayRef::clone(&columns[usize::from(*i)])).collect();
        // A type that keys cannot hold is told when the table is made.
        let Ok(keys) = rowcode::encode(&key) else { return };
        let mut first: HashMap<&[u8], usize> = HashMap::with_capacity(keys.len());
        let key_names: Vec<&str> = layout.keys.iter().map(|i| names[usize::from(*i)].as_str()).collect();
        for (row, &line) in self.row_lines.iter().enumerate().filter(|(row, _)| !self.keyless[*row]) {
            let before = *first.entry(keys.row(row)).or_insert(line);
            if before != line {
                let reason =
                    format!("has the key of line {before}; remove one of the two, or name more columns in key");
                self.faults.add(line, key_names.join(", "), reason);
            }
        }
    }
}

/// Appends a cell, or says why it cannot be taken; then nothing is appended.
fn cell_fault(column: &mut Column, cell: &[u8], cell_type: CellType, is_key: bool) -> Option<String> {
    if cell.is_empty() {
        if is_key {
            return Some("is empty; a part of the key needs a value".to_owned());
        }
        column.append_null();
        return None;
    }
    let Ok(text) = std::str::from_utf8(cell) else { return Some(NOT_UTF8.to_owned()) };
    match column.append(text) {
        Ok(()) => None,
        Err(_) => Some(format!("is no {cell_type}; {}", cell_type.form())),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Decimal128Type, Int32Type};
    use proptest::prelude::*;

    use super::*;

    fn spec(key: &[&str], types: &[(&str, &str)]) -> TableSpec {
        TableSpec {
            key: key.iter().map(|&name| name.to_owned()).collect(),
            types: types.iter().map(|(name, text)| ((*name).to_owned(), text.parse().expect("a type"))).collect(),
        }
    }

    fn read(bytes: &[u8], spec: &TableSpec) -> Result<Table, Vec<String>> {
        let read = table(Path::new("seeds/uom.csv"), "uom", bytes, Read::Declared(spec));
        read.map(|(table, _)| table).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_file_as_a_spreadsheet_writes_it_becomes_a_typed_table() {
        let bytes = b"\xef\xbb\xbfcode,num,\"text, quoted\"\r\nKG,1.5,\"a \"\"b\"\"\nc\"\r\nLB,,\r\n\r\n";
        let table = read(bytes, &spec(&[], &[("num", "decimal(28,9)")])).expect("reads");
        assert_eq!(table.len(), 2);
        assert_eq!(table.schema.key_indexes(), [0]);
        let num = table.columns[1].as_primitive::<Decimal128Type>();
        assert!(num.value(0) == 1_500_000_000 && num.is_null(1));
        let text = table.columns[2].as_string::<i32>();
        assert!(text.value(0) == "a \"b\"\nc" && text.is_null(1));
        assert_eq!(table.schema.columns[2].name, "text, quoted");
    }

    #[test]
    fn every_fault_is_told_at_once_with_line_column_and_remedy() {
        let bytes = "code,num,num,,_op,sp \nKG,1,2,3,4,5\nLB,x,2,3,4,5\nKG,1,2,3,4,5\n,1,2,3,4,5\nM,1\nT,\"1,2,3,4,5\n";
        let faults = read(bytes.as_bytes(), &spec(&["code", "kode"], &[("num", "integer"), ("den", "text")]));
        let faults = faults.expect_err("faults");
        let wanted = [
            "seeds/uom.csv:1: column 3: is named num like column 2; rename one of them",
            "seeds/uom.csv:1: column 4: has no name",
            "seeds/uom.csv:1: column 5: is named _op, which Syncline keeps for itself",
            "seeds/uom.csv:1: column 6: has a name with blanks",
            "seeds/uom.csv:1: column kode: is named by key in [seeds.uom] and not there",
            "seeds/uom.csv:1: column den: is named by types in [seeds.uom] and not there",
            "seeds/uom.csv:3: column num: is no integer; write a whole number",
            "seeds/uom.csv:4: column code: has the key of line 2",
            "seeds/uom.csv:5: column code: is empty; a part of the key",
            "seeds/uom.csv:6: has 2 cells where the header has 6 columns",
            "seeds/uom.csv:7: has an odd number of quotation marks",
            "seeds/uom.csv:7: has 2 cells",
        ];
        assert_eq!(faults.len(), wanted.len(), "{faults:#?}");
        for (fault, wanted) in faults.iter().zip(wanted) {
            assert!(fault.starts_with(wanted), "{fault}\nis not {wanted}");
        }
    }

    #[test]
    fn no_message_quotes_a_cell() {
        let bytes = b"code,num\nSECRET,SECRET\nSECRET,1\nB,\xff\xfeSECRET\n";
        let faults = read(bytes, &spec(&[], &[("num", "integer")])).expect_err("faults");
        assert_eq!(faults.len(), 3, "{faults:#?}");
        assert!(faults.iter().all(|fault| !fault.contains("SECRET")), "{faults:#?}");
        assert!(faults[2].starts_with("seeds/uom.csv:4: column num: is not UTF-8"), "{faults:#?}");
    }

    #[test]
    fn a_mistake_of_every_row_is_not_told_for_every_row() {
        let rows: String = (0..100).map(|i| format!("{i},x\n")).collect();
        let faults = read(format!("code,num\n{rows}").as_bytes(), &spec(&[], &[("num", "integer")]));
        let faults = faults.expect_err("faults");
        assert_eq!(faults.len(), 21);
        assert!(faults[20].ends_with("80 more faults; mend these first"), "{}", faults[20]);
    }

    #[test]
    fn what_is_no_comma_separated_file_is_told_what_it_is() {
        for (bytes, wanted) in [
            (&b""[..], "seeds/uom.csv:1: the file is empty"),
            (b"\xef\xbb\xbf", "seeds/uom.csv:1: the file is empty"),
            (b"code;num\nKG;1\n", "seeds/uom.csv:1: separates its columns with something else"),
            (b"\xff\xfec\0o\0", "seeds/uom.csv:1: column 1: is not UTF-8"),
        ] {
            let faults = read(bytes, &TableSpec::default()).expect_err("faults");
            assert!(faults[0].starts_with(wanted), "{faults:?}");
        }
        assert_eq!(read(b"code,num", &TableSpec::default()).expect("a header alone is a table").len(), 0);
    }

    #[test]
    fn a_file_that_is_cut_inside_quotation_marks_is_no_file() {
        let whole = b"code,text\nKG,\"kilo\"\nLB,\"pound\"\n";
        for cut in whole.len() - 7..=whole.len() - 2 {
            let faults = read(&whole[..cut], &TableSpec::default()).expect_err("half a row");
            assert!(faults[0].starts_with("seeds/uom.csv:3: has an odd number"), "{faults:?}");
        }
    }

    #[test]
    fn keys_are_compared_by_value_and_not_by_text() {
        let faults = read(b"code,n\n7,1\n007,2\n", &spec(&[], &[("code", "integer")])).expect_err("the same number");
        assert!(faults[0].starts_with("seeds/uom.csv:3: column code: has the key of line 2"), "{faults:?}");
        let table = read(b"code,n\n7,1\n007,2\n", &TableSpec::default()).expect("two texts");
        assert_eq!(table.len(), 2);
        let table = read(b"n,code\n1,7\n1,8\n", &spec(&["code", "n"], &[("n", "integer")])).expect("reads");
        assert_eq!(table.columns[0].as_primitive::<Int32Type>().value(1), 1);
        assert_eq!(table.schema.key_indexes(), [1, 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b','), Just(b'"'), Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()], 0..80,
            ),
            typed in any::<bool>(),
        ) {
            let spec = if typed { spec(&["a"], &[("a", "decimal(5,2)")]) } else { TableSpec::default() };
            let _ = read(&bytes, &spec);
        }
    }
}
