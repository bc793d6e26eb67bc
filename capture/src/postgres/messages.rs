//! Logical decoding messages as rows of a table.
//!
//! Applications put them into the log with `pg_logical_emit_message(transactional, prefix, content)`, and they are nowhere else: there is
//! nothing to copy, and none is ever updated or deleted. The key is the place in the log, so one that is sent again is the same row.
//! Transactional ones are rows of their transaction; the others stand for themselves, also where the transaction around them is rolled
//! back (PostgreSQL, "Generic WAL Functions" and "Logical Replication Message Formats", `M`).

use std::fmt::Write as _;
use std::sync::Arc;

use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::table::{Column, TableSchema};

use super::decode::{Cell, Kind, RowView, Shape};
use super::lsn::Lsn;
use super::pattern::Prefixes;
use crate::value::put_bytea;

/// No schema of a user can be called so.
const SCHEMA: &str = "pg_logical";
const TABLE: &str = "messages";
const COLUMNS: [(&str, Kind, &str); 4] = [
    ("lsn", Kind::Text, "pg_lsn"),
    ("prefix", Kind::Text, "text"),
    ("content", Kind::Text, "text"),
    ("bytes", Kind::Bytea, "bytea"),
];

/// Its shape, the same for every source.
pub(crate) fn shape(source: &SourceId) -> Arc<Shape> {
    let column = |(i, (name, kind, source_type)): (usize, (&str, Kind, &str))| Column {
        name: name.to_owned(),
        data_type: kind.data_type(),
        source_type: source_type.to_owned(),
        key_ordinal: (i == 0).then_some(0),
        can_be_absent: false,
    };
    let columns = COLUMNS.into_iter().enumerate().map(column).collect();
    let schema = TableSchema { source: source.clone(), table: TableId::new(SCHEMA, TABLE), version: 1, columns };
    Arc::new(Shape::new(schema, COLUMNS.iter().map(|(_, kind, _)| *kind).collect()))
}

/// Which messages are taken, and the row of one.
pub(crate) struct Messages {
    prefixes: Prefixes,
    text: String,
    cells: Vec<Cell>,
}

impl Messages {
    pub(crate) const fn new(prefixes: Prefixes) -> Self {
        Self { prefixes, text: String::new(), cells: Vec::new() }
    }

    pub(crate) fn takes(&self, prefix: &str) -> bool {
        self.prefixes.matches(prefix)
    }

    /// The row of a message, in the text form of its types. Content that is no text stands under `bytes`.
    pub(crate) fn row(&mut self, at: Lsn, prefix: &str, content: &[u8]) -> RowView<'_> {
        self.text.clear();
        self.cells.clear();
        self.put(|text| write!(text, "{at}"));
        self.put(|text| text.write_str(prefix));
        match std::str::from_utf8(content) {
            Ok(content) => {
                self.put(|text| text.write_str(content));
                self.cells.push(Cell::Null);
            }
            Err(_) => {
                self.cells.push(Cell::Null);
                self.put(|text| {
                    put_bytea(content, text);
                    Ok(())
                });
            }
        }
        RowView { cells: &self.cells, bytes: self.text.as_bytes() }
    }

    fn put(&mut self, write: impl FnOnce(&mut String) -> std::fmt::Result) {
        let start = self.text.len();
        write(&mut self.text).expect("a text takes every text");
        self.cells.push(Cell::Text { start, end: self.text.len() });
    }
}
