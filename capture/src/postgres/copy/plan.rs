//! Which statements read a table.
//!
//! By blocks, where no value of it lies outside its row: the server reads them in their order, any worker any of them.
//! Rows that move meanwhile come through the stream whole. Where values lie outside (TOAST), the stream leaves out those that
//! did not change (but for REPLICA IDENTITY FULL), so a row must be found wherever it moves: such a table is read in the order
//! of its key.

use std::sync::Arc;

use super::ledger::Piece;
use crate::CaptureError;
use crate::postgres::decode::{CopyForm, Shape};
use crate::postgres::wire::{Connection, Row, quote_identifier, quote_literal};

pub(super) const DURING: &str = "copying the tables";

/// Rows that one statement reads by key.
pub(super) const KEYS: usize = 100_000;

/// Partitions that are read by blocks; a position has no room for the blocks of more.
const PARTS_MAX: usize = 200;

/// A table that is read.
pub(super) struct Table {
    pub(super) oid: u32,
    pub(super) shape: Arc<Shape>,
    /// The table as SQL names it.
    pub(super) quoted: String,
    pub(super) is_partitioned: bool,
    /// Condition of the publication.
    pub(super) filter: Option<String>,
    /// The server's estimate.
    pub(super) pages: u64,
    /// What its columns were when the shape was made, as [`SIGNATURE`] gives it.
    pub(super) columns: String,
}

/// Numbers, types and names of a table's columns.
pub(super) const SIGNATURE: &str = "SELECT pg_catalog.string_agg(a.attname || ' ' || a.atttypid || ' ' || a.atttypmod, ', ' \
     ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid =";

/// Blocks of tables without values outside their rows, and so for each partition.
const PARTS: &str = "SELECT c.oid, pg_catalog.pg_relation_filenode(c.oid), \
     pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint, \
     coalesce(pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), 0) \
     FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.oid IN";

impl Table {
    /// In which form rows of a piece come. The binary one costs server and reader less, unless much of it is text in any case. Of
    /// rows by key the key's text is needed, to go on behind it.
    pub(super) fn form(&self, piece: &Piece) -> CopyForm {
        let kinds = &self.shape.kinds;
        let written = kinds.iter().filter(|kind| !kind.has_binary()).count();
        match piece {
            Piece::Blocks { .. } if written * 3 <= kinds.len() => CopyForm::Binary,
            Piece::Blocks { .. } | Piece::Keys { .. } | Piece::Row { .. } => CopyForm::Text,
        }
    }

    /// What is to be read of it; none where it is gone.
    pub(super) fn pieces(&self, connection: &mut Connection) -> Result<Option<Vec<Piece>>, CaptureError> {
        let oids = if self.is_partitioned {
            format!("(SELECT relid FROM pg_catalog.pg_partition_tree({}) WHERE isleaf)", self.oid)
        } else {
            format!("({})", self.oid)
        };
        let rows = connection.query(DURING, &format!("{PARTS} {oids} ORDER BY c.oid"))?;
        let is_there = |row: &&Row| row.get(1).is_some() && row.get(2).is_some();
        if rows.iter().filter(is_there).count() == 0 && !self.is_partitioned {
            return Ok(None);
        }
        if rows.len() > PARTS_MAX {
            return Ok(Some(vec![Piece::Keys { after: None, upto: None }]));
        }
        let mut pieces = Vec::new();
        // One that is being dropped has no file any more.
        for row in rows.iter().filter(is_there) {
            let part = (|| {
                let blocks: u64 = row.parsed(2)?;
                let outside: u64 = row.parsed(3)?;
                Some((row.parsed(0)?, row.parsed(1)?, u32::try_from(blocks).ok()?, outside))
            })();
            let malformed = || connection.protocol(DURING, "pg_class holds a number that is none");
            let (relation, file, to, outside) = part.ok_or_else(malformed)?;
            if outside > 0 && self.shape.schema.columns.iter().any(|column| column.can_be_absent) {
                return Ok(Some(vec![Piece::Keys { after: None, upto: None }]));
            }
            if to > 0 {
                pieces.push(Piece::Blocks { relation, file, from: 0, to });
            }
        }
        Ok(Some(pieces))
    }

    /// The statement that reads a piece; of blocks `part` names the table or the partition that holds them.
    pub(super) fn sql(&self, piece: &Piece, part: &str) -> String {
        let form = self.form(piece);
        let columns = self.shape.schema.columns.iter().zip(&self.shape.kinds);
        let columns: Vec<String> = columns
            .map(|(column, kind)| match quote_identifier(&column.name) {
                // As the server writes it. A composite value in which all is NULL is a value, and IS NOT NULL would deny that.
                name if form == CopyForm::Binary && !kind.has_binary() => {
                    format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN pg_catalog.concat({name}) END")
                }
                name => name,
            })
            .collect();
        let mut conditions: Vec<String> = self.filter.iter().map(|filter| format!("({filter})")).collect();
        let (from, tail) = match piece {
            Piece::Blocks { from, to, .. } => {
                conditions.push(format!("ctid >= '({from},0)' AND ctid < '({to},0)'"));
                (format!("ONLY {part}"), String::new())
            }
            Piece::Keys { .. } | Piece::Row { .. } => {
                let keys: Vec<String> = self.keys().map(quote_identifier).collect();
                let compare = |sign: &str, values: &[String]| {
                    let values: Vec<String> = values.iter().map(|value| quote_literal(value)).collect();
                    format!("({}) {sign} ({})", keys.join(", "), values.join(", "))
                };
                if let Piece::Keys { after, upto } = piece {
                    conditions.extend(after.as_ref().map(|after| compare(">", after)));
                    conditions.extend(upto.as_ref().map(|upto| compare("<=", upto)));
                }
                if let Piece::Row { key } = piece {
                    conditions.push(compare("=", key));
                }
                // A table's children by inheritance are tables of their own; a partitioned table's rows are in its partitions.
                let only = if self.is_partitioned { "" } else { "ONLY " };
                (format!("{only}{}", self.quoted), format!(" ORDER BY {} LIMIT {KEYS}", keys.join(", ")))
            }
        };
        let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let option = if form == CopyForm::Binary { " (FORMAT binary)" } else { "" };
        format!("COPY (SELECT {} FROM {from}{filter}{tail}) TO STDOUT{option}", columns.join(", "))
    }

    /// The key's columns in their order.
    fn keys(&self) -> impl Iterator<Item = &str> {
        self.shape.keys.iter().map(|&key| self.shape.schema.columns[key].name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use syncline_schemas::ident::{SourceId, TableId};
    use syncline_schemas::table::{Column, TableSchema};

    use super::*;
    use crate::postgres::decode::Kind;

    fn table() -> Table {
        let column = |name: &str, key_ordinal: Option<u32>| Column {
            name: name.to_owned(),
            data_type: Kind::Int4.data_type(),
            source_type: "integer".to_owned(),
            key_ordinal,
            can_be_absent: false,
        };
        let columns = vec![column("v", None), column("b", Some(1)), column("a", Some(0))];
        let schema = TableSchema { source: SourceId::new("erp"), table: TableId::new("s", "t"), version: 1, columns };
        Table {
            oid: 7,
            shape: Arc::new(Shape::new(schema, vec![Kind::Int4; 3])),
            quoted: "\"s\".\"t\"".to_owned(),
            is_partitioned: false,
            filter: Some("v > 0 OR v < -1".to_owned()),
            pages: 1,
            columns: String::new(),
        }
    }

    #[test]
    fn a_filter_never_lets_rows_of_other_pieces_in() {
        let blocks = Piece::Blocks { relation: 7, file: 8, from: 4096, to: 5000 };
        assert_eq!(
            table().sql(&blocks, "\"s\".\"t\""),
            "COPY (SELECT \"v\", \"b\", \"a\" FROM ONLY \"s\".\"t\" WHERE (v > 0 OR v < -1) AND ctid >= '(4096,0)' AND \
             ctid < '(5000,0)') TO STDOUT (FORMAT binary)"
        );
        let keys = Piece::Keys { after: Some(vec!["1".to_owned(), "o'h".to_owned()]), upto: None };
        assert_eq!(
            table().sql(&keys, ""),
            "COPY (SELECT \"v\", \"b\", \"a\" FROM ONLY \"s\".\"t\" WHERE (v > 0 OR v < -1) AND (\"a\", \"b\") > ('1', \
             'o''h') ORDER BY \"a\", \"b\" LIMIT 100000) TO STDOUT"
        );
    }
}
