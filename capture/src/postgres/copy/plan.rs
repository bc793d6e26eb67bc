//! Which statements read a table.
//!
//! By blocks, where no value of it lies outside its row: the server reads them in their order, any worker any of them.
//! Rows that move meanwhile come through the stream whole. Where values lie outside (TOAST), the stream leaves out those that
//! did not change (but for REPLICA IDENTITY FULL), so a row must be found wherever it moves: such a table is read in the order
//! of its key. Where the server's statistics say how the first column of the key is spread, several workers share it: whatever
//! they say, each row lies in exactly one of the ranges.
//!
//! A table without a key is read in one statement: its rows are counted, so each has to come once, and all as of one moment.

use std::sync::Arc;

use super::ledger::{Key, Piece};
use crate::CaptureError;
use crate::postgres::decode::{CopyForm, Shape};
use crate::postgres::wire::{Connection, Row, quote_identifier, quote_literal};

pub(super) const DURING: &str = "copying the tables";

/// Rows that one statement reads by key.
pub(super) const KEYS: usize = 100_000;

/// Partitions that are read by blocks; a position has no room for the blocks of more.
const PARTS_MAX: usize = 200;

/// Ranges of keys into which a table is cut at most: a position carries the ends of each.
const RANGES_MAX: u64 = 16;
/// Pages for which a range of keys is worth a statement of its own.
const RANGE_PAGES_MIN: u64 = 64;
/// Values that are no end of a range: a position carries them.
const END_BYTES_MAX: usize = 64;

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
            Piece::Blocks { .. } | Piece::Whole if written * 3 <= kinds.len() => CopyForm::Binary,
            Piece::Blocks { .. } | Piece::Whole | Piece::Keys { .. } | Piece::Row { .. } => CopyForm::Text,
        }
    }

    /// What is to be read of it; none where it is gone.
    pub(super) fn pieces(&self, connection: &mut Connection) -> Result<Option<Vec<Piece>>, CaptureError> {
        if self.is_multiset() {
            return Ok(Some(vec![Piece::Whole]));
        }
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
            return self.ranges(connection).map(Some);
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
                return self.ranges(connection).map(Some);
            }
            if to > 0 {
                pieces.push(Piece::Blocks { relation, file, from: 0, to });
            }
        }
        Ok(Some(pieces))
    }

    /// All of it, by key.
    fn ranges(&self, connection: &mut Connection) -> Result<Vec<Piece>, CaptureError> {
        let wanted = (self.pages / RANGE_PAGES_MIN).min(RANGES_MAX);
        let (Some(first), true) = (self.keys().next(), wanted > 1) else { return Ok(ranges(&[], 1)) };
        let table = &self.shape.schema.table;
        let sql = format!(
            "SELECT h.bound FROM pg_catalog.pg_stats s, \
             pg_catalog.unnest(s.histogram_bounds::text::text[]) WITH ORDINALITY AS h(bound, place) \
             WHERE s.schemaname = {} AND s.tablename = {} AND s.attname = {} AND s.inherited = {} ORDER BY h.place",
            quote_literal(&table.schema),
            quote_literal(&table.name),
            quote_literal(first),
            self.is_partitioned,
        );
        let rows = connection.query(DURING, &sql)?;
        let bounds: Vec<&str> = rows.iter().filter_map(|row| row.get(0)).collect();
        Ok(ranges(&bounds, usize::try_from(wanted).unwrap_or(1)))
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
            Piece::Whole => (format!("ONLY {}", self.quoted), String::new()),
            Piece::Keys { .. } | Piece::Row { .. } => {
                let keys: Vec<String> = self.keys().map(quote_identifier).collect();
                // The end of a range has the first column's value only.
                let compare = |sign: &str, values: &[String]| {
                    let values: Vec<String> = values.iter().map(|value| quote_literal(value)).collect();
                    format!("({}) {sign} ({})", keys[..values.len()].join(", "), values.join(", "))
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

    /// True where it has no key: equal rows of it are counted.
    pub(super) fn is_multiset(&self) -> bool {
        self.shape.keys.is_empty()
    }

    /// The key's columns in their order.
    fn keys(&self) -> impl Iterator<Item = &str> {
        self.shape.keys.iter().map(|&key| self.shape.schema.columns[key].name.as_str())
    }
}

/// The ranges between some of the values of a column that lie in their order, so many at most.
fn ranges(bounds: &[&str], wanted: usize) -> Vec<Piece> {
    let step = bounds.len().div_ceil(wanted).max(1);
    let ends = bounds.iter().skip(step).step_by(step).filter(|end| end.len() <= END_BYTES_MAX);
    let mut pieces = Vec::new();
    let mut after: Option<Key> = None;
    for end in ends {
        let upto = Some(vec![(*end).to_owned()]);
        pieces.push(Piece::Keys { after: std::mem::replace(&mut after, upto.clone()), upto });
    }
    pieces.push(Piece::Keys { after, upto: None });
    pieces
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
        let range = Piece::Keys { after: Some(vec!["1".to_owned()]), upto: Some(vec!["5".to_owned()]) };
        let sql = table().sql(&range, "");
        assert!(sql.contains("AND (\"a\") > ('1') AND (\"a\") <= ('5') ORDER BY"), "{sql}");
    }

    #[test]
    fn every_key_lies_in_one_range_whatever_the_statistics_say() {
        let numbers: Vec<String> = (0..101).map(|number| format!("{number:03}")).collect();
        let long = "9".repeat(END_BYTES_MAX + 1);
        for (bounds, wanted, count) in [
            (Vec::new(), 16, 1),
            (vec!["5"], 16, 1),
            (vec!["5", "6"], 16, 2),
            (numbers.iter().map(String::as_str).collect(), 16, 15),
            (numbers.iter().map(String::as_str).collect(), 2, 2),
            (vec!["1", &long, "a"], 3, 2),
        ] {
            let pieces = ranges(&bounds, wanted);
            assert_eq!(pieces.len(), count, "{pieces:?}");
            for key in ["", "000", "0005", "5", "50", "6", "99", "zz"] {
                let is_in = |piece: &&Piece| match piece {
                    Piece::Keys { after, upto } => {
                        after.as_ref().is_none_or(|after| key > after[0].as_str())
                            && upto.as_ref().is_none_or(|upto| key <= upto[0].as_str())
                    }
                    Piece::Blocks { .. } | Piece::Row { .. } | Piece::Whole => false,
                };
                assert_eq!(pieces.iter().filter(is_in).count(), 1, "{key} in {pieces:?}");
            }
        }
    }
}
