//! What the columns of a table are, as the log says it before its rows.
//!
//! ```text
//! table u48 | flags u16 | length u8, database 0 | length u8, table 0 | columns | their codes | length, their lengths |
//! which may be NULL | (field u8 | length | value)*
//! ```
//! With `binlog_row_metadata = FULL` the fields say all that decoding needs: names, signs, character sets, labels and the
//! key, as they were when the rows were written. So no other knowledge of the table can be out of date.

use crate::mysql::bytes::{Cursor, SHORT};
use crate::mysql::row::Named;

/// Codes of types. Those of columns that hold labels or text of a fixed length hide in `STRING`.
pub(crate) mod code {
    pub(crate) const TINY: u8 = 1;
    pub(crate) const SHORT: u8 = 2;
    pub(crate) const LONG: u8 = 3;
    pub(crate) const FLOAT: u8 = 4;
    pub(crate) const DOUBLE: u8 = 5;
    pub(crate) const LONGLONG: u8 = 8;
    pub(crate) const INT24: u8 = 9;
    pub(crate) const DATE: u8 = 10;
    pub(crate) const YEAR: u8 = 13;
    pub(crate) const VARCHAR: u8 = 15;
    pub(crate) const BIT: u8 = 16;
    pub(crate) const TIMESTAMP2: u8 = 17;
    pub(crate) const DATETIME2: u8 = 18;
    pub(crate) const TIME2: u8 = 19;
    /// MariaDB's two of columns that are `COMPRESSED`.
    pub(crate) const BLOB_COMPRESSED: u8 = 140;
    pub(crate) const VARCHAR_COMPRESSED: u8 = 141;
    pub(crate) const VECTOR: u8 = 242;
    pub(crate) const JSON: u8 = 245;
    pub(crate) const NEWDECIMAL: u8 = 246;
    pub(crate) const ENUM: u8 = 247;
    pub(crate) const SET: u8 = 248;
    pub(crate) const BLOB: u8 = 252;
    pub(crate) const VAR_STRING: u8 = 253;
    pub(crate) const STRING: u8 = 254;
    pub(crate) const GEOMETRY: u8 = 255;
}

/// More columns has no table.
const COLUMNS_MAX: usize = 4096;

/// A table's columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TableMap {
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) columns: Vec<MapColumn>,
    /// Places of the key's columns in the key's order; empty where there is none, or it is not said.
    pub(crate) key: Vec<usize>,
    /// Whether names are said, and so all the rest that a server with full metadata says.
    pub(crate) is_full: bool,
}

/// A column as the log describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MapColumn {
    /// Empty where it is not said.
    pub(crate) name: String,
    /// With that of what hides in `STRING`.
    pub(crate) code: u8,
    /// Two bytes of it, the first one lowest: what they mean depends on the code.
    pub(crate) meta: u16,
    pub(crate) is_unsigned: bool,
    /// Number of the collation, of a column of text.
    pub(crate) collation: Option<u32>,
    /// Labels of an enumeration or a set, in the column's character set.
    pub(crate) labels: Vec<Vec<u8>>,
    /// What the catalog calls its type, where the log has no word for that.
    pub(crate) named: Option<Named>,
    /// The server computes it out of others, as the catalog says.
    pub(crate) is_computed: bool,
}

impl MapColumn {
    const fn is_numeric(&self) -> bool {
        use code::{DOUBLE, FLOAT, INT24, LONG, LONGLONG, NEWDECIMAL, TINY, YEAR};
        matches!(self.code, TINY | code::SHORT | INT24 | LONG | LONGLONG | FLOAT | DOUBLE | NEWDECIMAL | YEAR)
    }

    /// Whether it stands among the columns that have a collation; MySQL counts vectors among them.
    const fn is_text(&self) -> bool {
        matches!(self.code, code::VARCHAR | code::VAR_STRING | code::STRING | code::BLOB | code::VECTOR)
    }

    /// As [`Self::is_text`] on MariaDB, which counts geometries among them.
    const fn is_text_of_mariadb(&self) -> bool {
        self.is_text() || matches!(self.code, code::GEOMETRY | code::BLOB_COMPRESSED | code::VARCHAR_COMPRESSED)
    }

    const fn has_labels(&self) -> bool {
        matches!(self.code, code::ENUM | code::SET)
    }
}

/// Reads the description; which columns have a collation is a matter of the kind of server.
pub(crate) fn table_map(body: &[u8], is_mariadb: bool) -> Result<TableMap, &'static str> {
    let is_text = if is_mariadb { MapColumn::is_text_of_mariadb } else { MapColumn::is_text };
    let mut cursor = Cursor::new(body);
    // Its number, and flags.
    cursor.take(8)?;
    let (database, table) = (name(&mut cursor)?, name(&mut cursor)?);
    let count = cursor.count()?;
    if count > COLUMNS_MAX {
        return Err("a table has more columns than a table can have");
    }
    let codes = cursor.take(count)?;
    let mut meta = Cursor::new(cursor.lenenc_bytes()?);
    let columns = codes.iter().map(|code| column(*code, &mut meta)).collect::<Result<_, _>>()?;
    if !meta.is_at_end() {
        return Err("lengths of columns are left over");
    }
    cursor.take(count.div_ceil(8))?;
    let mut map = TableMap { database, table, columns, key: Vec::new(), is_full: false };
    while !cursor.is_at_end() {
        let field = cursor.u8()?;
        map.take_field(field, Cursor::new(cursor.lenenc_bytes()?), is_text)?;
    }
    Ok(map)
}

fn name(cursor: &mut Cursor<'_>) -> Result<String, &'static str> {
    let name = text(cursor.lenenc_bytes()?)?;
    if cursor.u8()? == 0 { Ok(name) } else { Err("the name of a table goes on") }
}

fn text(bytes: &[u8]) -> Result<String, &'static str> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "a name is no text")
}

/// A column with what its type has in the block of lengths.
fn column(type_code: u8, meta: &mut Cursor<'_>) -> Result<MapColumn, &'static str> {
    let plain = |meta| MapColumn { code: type_code, meta, ..MapColumn::default() };
    Ok(match type_code {
        code::FLOAT | code::DOUBLE | code::BLOB | code::GEOMETRY | code::JSON | code::VECTOR => {
            plain(u16::from(meta.u8()?))
        }
        code::TIME2 | code::DATETIME2 | code::TIMESTAMP2 => plain(u16::from(meta.u8()?)),
        code::VARCHAR | code::BIT | code::NEWDECIMAL => plain(meta.u16()?),
        code::STRING => hidden(meta.u8()?, meta.u8()?),
        code::TINY | code::SHORT | code::INT24 | code::LONG | code::LONGLONG | code::DATE | code::YEAR => plain(0),
        // What it is called is said where it is refused: a table that is not read may have any column. But the lengths
        // behind it have to be found.
        7 | 11 | 12 | 14 | 6 | 0 => plain(0),
        249..=251 | code::BLOB_COMPRESSED => plain(u16::from(meta.u8()?)),
        code::ENUM | code::SET | code::VAR_STRING | code::VARCHAR_COMPRESSED => plain(meta.u16()?),
        _ => return Err("a table has a column of a type that is not known"),
    })
}

/// What hides in `STRING`: its own code, or that of labels, and a length of which two bits stand in the code's place.
fn hidden(high: u8, low: u8) -> MapColumn {
    const BITS: u8 = 0x30;
    let (code, length) = match high {
        _ if high & BITS != BITS => (high | BITS, u16::from(low) | u16::from((high & BITS) ^ BITS) << 4),
        _ => (high, u16::from(low)),
    };
    MapColumn { code, meta: length, ..MapColumn::default() }
}

impl TableMap {
    fn take_field(
        &mut self,
        field: u8,
        mut value: Cursor<'_>,
        is_text: fn(&MapColumn) -> bool,
    ) -> Result<(), &'static str> {
        match field {
            1 => self.set_signs(value.rest()),
            2 => self.set_default_collation(&mut value, is_text)?,
            3 => self.set_collations(&mut value, is_text)?,
            4 => self.set_names(&mut value)?,
            5 => self.set_labels(&mut value, code::SET)?,
            6 => self.set_labels(&mut value, code::ENUM)?,
            8 => {
                while !value.is_at_end() {
                    let column = self.place(value.count()?)?;
                    self.key.push(column);
                }
            }
            9 => {
                // Only the first bytes of a column are in the key: for telling rows apart the whole value is as good.
                while !value.is_at_end() {
                    let column = self.place(value.count()?)?;
                    value.lenenc()?;
                    self.key.push(column);
                }
            }
            10 => self.set_default_collation(&mut value, MapColumn::has_labels)?,
            11 => self.set_collations(&mut value, MapColumn::has_labels)?,
            // Kinds of geometries, what is invisible to `SELECT *`, sizes of vectors: no value is read by them.
            7 | 12 | 13 => {}
            _ => return Err("the description of a table has a part that is not known"),
        }
        Ok(())
    }

    fn place(&self, column: usize) -> Result<usize, &'static str> {
        if column < self.columns.len() { Ok(column) } else { Err("a table says something of a column that it lacks") }
    }

    /// One bit for each number, the highest of a byte first.
    fn set_signs(&mut self, bits: &[u8]) {
        let numbers = self.columns.iter_mut().filter(|column| column.is_numeric());
        for (i, column) in numbers.enumerate() {
            column.is_unsigned = bits.get(i / 8).is_some_and(|byte| byte >> (7 - i % 8) & 1 == 1);
        }
    }

    fn set_default_collation(
        &mut self,
        value: &mut Cursor<'_>,
        has_one: fn(&MapColumn) -> bool,
    ) -> Result<(), &'static str> {
        let common = collation(value)?;
        let mut columns: Vec<&mut MapColumn> = self.columns.iter_mut().filter(|column| has_one(column)).collect();
        columns.iter_mut().for_each(|column| column.collation = Some(common));
        while !value.is_at_end() {
            let place = value.count()?;
            let column = columns.get_mut(place).ok_or("a table says something of a column that it lacks")?;
            column.collation = Some(collation(value)?);
        }
        Ok(())
    }

    fn set_collations(&mut self, value: &mut Cursor<'_>, has_one: fn(&MapColumn) -> bool) -> Result<(), &'static str> {
        for column in self.columns.iter_mut().filter(|column| has_one(column)) {
            column.collation = Some(collation(value)?);
        }
        if value.is_at_end() { Ok(()) } else { Err("collations are left over") }
    }

    fn set_names(&mut self, value: &mut Cursor<'_>) -> Result<(), &'static str> {
        for column in &mut self.columns {
            column.name = text(value.lenenc_bytes()?)?;
        }
        self.is_full = true;
        if value.is_at_end() { Ok(()) } else { Err("names of columns are left over") }
    }

    fn set_labels(&mut self, value: &mut Cursor<'_>, code: u8) -> Result<(), &'static str> {
        for column in self.columns.iter_mut().filter(|column| column.code == code) {
            let count = value.count()?;
            if count > value.rest().len() {
                return Err(SHORT);
            }
            column.labels = (0..count).map(|_| Ok(value.lenenc_bytes()?.to_vec())).collect::<Result<_, &str>>()?;
        }
        if value.is_at_end() { Ok(()) } else { Err("labels are left over") }
    }
}

fn collation(value: &mut Cursor<'_>) -> Result<u32, &'static str> {
    u32::try_from(value.lenenc()?).map_err(|_| "a collation has a number that is none")
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(out: &mut Vec<u8>, bytes: &[u8]) {
        out.push(u8::try_from(bytes.len()).unwrap());
        out.extend_from_slice(bytes);
    }

    /// A description of `shop.stock` with these codes, lengths and fields.
    pub(crate) fn body(codes: &[u8], lengths: &[u8], fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut body = vec![9, 0, 0, 0, 0, 0, 1, 0];
        for name in ["shop", "stock"] {
            put(&mut body, name.as_bytes());
            body.push(0);
        }
        put(&mut body, codes);
        put(&mut body, lengths);
        body.extend(std::iter::repeat_n(0, codes.len().div_ceil(8)));
        for (field, value) in fields {
            body.push(*field);
            put(&mut body, value);
        }
        body
    }

    #[test]
    fn a_table_says_names_signs_labels_collations_and_its_key() {
        let codes = [code::LONGLONG, code::STRING, code::STRING, code::VARCHAR, code::YEAR, code::STRING];
        let lengths = [247, 1, 0xee, 0x90, 40, 0, 248, 2];
        let fields: [(u8, &[u8]); 7] = [
            (1, &[0b1100_0000]),
            (2, &[45, 1, 8]),
            (10, &[45]),
            (4, b"\x02id\x04kind\x04code\x04name\x01y\x05flags"),
            (6, b"\x02\x01a\x02bb"),
            (5, b"\x01\x01x"),
            (8, &[3, 0]),
        ];
        let map = table_map(&body(&codes, &lengths, &fields), false).unwrap();
        assert!(map.is_full && map.columns[0].is_unsigned && map.columns[4].is_unsigned, "{map:?}");
        assert_eq!((map.columns[1].code, map.columns[5].code, map.columns[2].code), (code::ENUM, code::SET, 0xfe));
        assert_eq!(map.columns[2].meta, 0x190, "a length of more than a byte");
        assert_eq!((map.columns[2].collation, map.columns[3].collation), (Some(45), Some(8)));
        assert_eq!((map.columns[1].collation, map.columns[0].collation), (Some(45), None));
        assert_eq!(map.columns[1].labels, [b"a".to_vec(), b"bb".to_vec()]);
        assert_eq!(map.columns[5].labels, [b"x".to_vec()]);
        assert_eq!(map.key, [3, 0]);
    }

    #[test]
    fn a_geometry_has_a_collation_on_mariadb_and_a_vector_on_mysql() {
        let geometry = body(&[code::GEOMETRY, code::BLOB], &[4, 2], &[(3, &[63, 45])]);
        assert_eq!(table_map(&geometry, true).unwrap().columns[1].collation, Some(45));
        assert!(table_map(&geometry, false).is_err());
        let vector = body(&[code::VECTOR, code::BLOB], &[4, 2], &[(3, &[63, 45])]);
        assert_eq!(table_map(&vector, false).unwrap().columns[1].collation, Some(45));
    }

    #[test]
    fn a_part_of_a_description_that_nobody_knows_is_not_passed_over() {
        assert!(table_map(&body(&[code::LONG], &[], &[(4, b"\x02id")]), true).is_ok());
        assert!(table_map(&body(&[code::LONG], &[], &[(99, b"")]), true).is_err());
        assert!(table_map(&body(&[code::LONG], &[], &[(8, &[1])]), true).is_err(), "a key that is no column");
        assert!(table_map(&body(&[99], &[], &[]), true).is_err(), "a type that nobody knows");
        assert!(table_map(&body(&[code::VARCHAR], &[1], &[]), true).is_err(), "a length too short");
        assert!(table_map(&body(&[code::LONG], &[1], &[]), true).is_err(), "a length too much");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(
            codes in proptest::collection::vec(any::<u8>(), 0..5),
            lengths in proptest::collection::vec(any::<u8>(), 0..9),
            fields in proptest::collection::vec((0_u8..15, proptest::collection::vec(any::<u8>(), 0..9)), 0..5),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = table_map(&bytes, false);
            let fields: Vec<_> = fields.iter().map(|(field, value)| (*field, value.as_slice())).collect();
            let _ = table_map(&body(&codes, &lengths, &fields), true);
        }
    }
}
